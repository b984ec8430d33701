"""Signing of the log's head, refused where a signature would conceal a change.

The last anchor is also recorded next to the key (`keys/anchored/`), so that a lost or shortened file of anchors is not
mistaken for a new one. `anchoring_state` finds what prevents a signature; `sign_head`, `rotate_signing_key`,
`audit verify` and the doctor all use it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from engine.audit.anchors import Anchor, anchors_file, key_findings, read_anchors, resolve_keys, signature_findings
from engine.audit.chain import find_seal, genesis_seal, read_lineage, walk_links
from engine.core.errors import BadInput
from engine.core.market import instant_text


class LastAnchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last anchor of a log: the database, the head, and the file of anchors at that time.

    anchors, bytes, sha256: number of anchors in the file, its size and its digest.
    """

    log: UUID
    database: str
    seal: int
    position: int
    hash: str
    anchors: int
    bytes: int
    sha256: str


class AnchoringDefect(StrEnum):
    """The subject of a defect that prevents a signature."""

    COPY = "copy"
    LOG = "log"
    FILE = "file"
    KEY = "key"


class AnchoringState(NamedTuple):
    """The local anchors of a log, and the defect that prevents a signature of its head, if any.

    refusal: the defect as a sentence, empty without a defect.
    """

    log: UUID
    database: str
    file: Path
    anchors: list[Anchor]
    last_anchor: LastAnchor | None
    defect: AnchoringDefect | None = None
    refusal: str = ""

    def with_defect(self, defect: AnchoringDefect, refusal: str) -> AnchoringState:
        return self._replace(defect=defect, refusal=refusal)

    def error(self) -> BadInput:
        """Return the defect as an error with a code; there must be a defect."""
        assert self.defect is not None
        return BadInput(self.refusal, f"ANCHORING_{self.defect.name}")


def key_file(home: Path) -> Path:
    return home / "keys" / "anchor.pem"


def public_key_file(home: Path) -> Path:
    """Return the path of the public key, in hexadecimal, which is meant for distribution."""
    return home / "keys" / "anchor.pub"


def last_anchor_file(home: Path, log_id: UUID) -> Path:
    return home / "keys" / "anchored" / f"{log_id}.json"


def anchoring_state(conn: psycopg.Connection[Any], home: Path) -> AnchoringState:
    """Read the anchors of the log in a database and check that its head may be signed.

    Of several defects the gravest is reported: a copy, then a changed log, then the file, then the key.
    """
    lineage = read_lineage(conn)
    log, here = lineage[-1].log, _one(conn, "SELECT quantagent.this_database()")
    unread = AnchoringState(log, here, anchors_file(home, log), [], None)
    try:
        last_anchor = _read_last_anchor(home, log, here)
        renamed = last_anchor is not None and last_anchor.log not in [each.log for each in lineage]
        file = anchors_file(home, last_anchor.log if last_anchor is not None and renamed else log)
        anchors = read_anchors(file) if file.exists() else []
    except BadInput as error:
        return unread.with_defect(AnchoringDefect.FILE, str(error))
    found = unread._replace(file=file, anchors=anchors, last_anchor=last_anchor)
    original = _original(conn, log, here, last_anchor)
    if original is not None:
        return found.with_defect(AnchoringDefect.COPY, _copy_refusal(log, original))
    if last_anchor is not None and renamed:
        return found.with_defect(
            AnchoringDefect.LOG,
            f"the log in this database was replaced: its name is {log}, and it was anchored as {last_anchor.log}.",
        )
    heads = [(each.seal, each.hash, each.position, str(file)) for each in anchors[-1:]]
    if last_anchor is not None:
        heads.insert(0, (last_anchor.seal, last_anchor.hash, last_anchor.position, str(last_anchor_file(home, log))))
    for seal, hashed, position, place in heads:
        stored = find_seal(conn, seal)
        if stored is None or (stored.hash.hex(), stored.last_position) != (hashed, position):
            return found.with_defect(
                AnchoringDefect.LOG,
                f"the log does not match the last anchor in {place}: it was changed, or is an older copy.",
            )
    if last_anchor is not None and len(anchors) < last_anchor.anchors:
        lost = f"{file} holds {len(anchors)} of the {last_anchor.anchors} anchors of this log"
        return found.with_defect(AnchoringDefect.FILE, f"{lost}, so it was removed or cut.")
    if last_anchor is not None and sha256(file.read_bytes()[: last_anchor.bytes]).hexdigest() != last_anchor.sha256:
        return found.with_defect(AnchoringDefect.FILE, f"an anchor of this log in {file} was changed.")
    finding = next(key_findings(anchors, None), None) or next(
        (finding for each in anchors[-1:] for finding in signature_findings(each, lineage)), None
    )
    if finding is not None:
        return found.with_defect(AnchoringDefect.FILE, f"{finding.what}.")
    refusal = _key_refusal(home, anchors) if anchors else ""
    return found.with_defect(AnchoringDefect.KEY, refusal) if refusal else found


def _original(conn: psycopg.Connection[Any], log: UUID, here: str, last_anchor: LastAnchor | None) -> str | None:
    """Return the other database in which a log is kept; None if it is kept in this one."""
    rows = conn.execute("SELECT database FROM quantagent.log_databases WHERE log_id = %s ORDER BY n", (log,)).fetchall()
    databases = [str(name) for (name,) in rows]
    if databases and databases[-1] != here:
        return databases[-1]
    known = last_anchor is not None and last_anchor.log == log and last_anchor.database not in (here, *databases)
    return last_anchor.database if last_anchor is not None and known else None


def _copy_refusal(log: UUID, database: str) -> str:
    return (
        f"this database is a copy of log {log}, which is kept in another database (server/oid {database}); only the "
        "original is signed."
    )


def _key_refusal(home: Path, anchors: list[Anchor]) -> str:
    """Return a sentence if the local key cannot continue the anchors; else an empty text."""
    path, required = key_file(home), resolve_keys(anchors).in_force
    if not path.exists():
        return f"the key {path} that signed this log's anchors is missing."
    found = _public(_read_key(path))
    if found == required or (_next_key_file(home).exists() and _public(_read_key(_next_key_file(home))) == required):
        return ""
    return f"the key in {path} is {found}, and this log's anchors are signed with {required}."


# --- Signing ------------------------------------------------------------------------------------------------------


def sign_head(conn: psycopg.Connection[Any], home: Path, at: datetime) -> Anchor | None:
    """Sign the head of the log and append the anchor to its file, synced to disk on return.

    Return the newest anchor, which may be an earlier one of the same head; None for a log without events. The links
    since the last anchor are checked first. Raise `BadInput` for a defect in `anchoring_state` or a broken link.
    """
    with _exclusive(home):
        return _sign_head(conn, home, at)


def _sign_head(
    conn: psycopg.Connection[Any], home: Path, at: datetime, successor: Ed25519PrivateKey | None = None
) -> Anchor | None:
    state = anchoring_state(conn, home)
    if state.defect is not None:
        raise state.error()
    last = state.anchors[-1] if state.anchors else None
    signed = find_seal(conn, last.seal) if last else None
    head, broken = walk_links(conn, signed or genesis_seal(read_lineage(conn)))
    if broken is not None:
        raise BadInput(
            f"the log is broken after its last anchor, at position {broken.position:,} ({broken.what}), and was not "
            "signed.",
            "LOG_BROKEN",
            position=broken.position,
        )
    if head.seal == 0:
        return None
    newest = last
    if newest is None or newest.seal != head.seal or successor is not None:
        unsigned = Anchor(state.log, head.seal, head.last_position, head.hash.hex(), instant_text(at), "")
        newest = _sign(home, unsigned, state, successor)
        _append(state.file, msgspec.json.encode(newest) + b"\n")
    count, content = len(state.anchors) + (newest is not last), state.file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    place = (state.log, state.database, newest.seal, newest.position, newest.hash)
    _write_last_anchor(home, LastAnchor(*place, count, len(whole), sha256(whole).hexdigest()))
    return newest


def _sign(home: Path, unsigned: Anchor, state: AnchoringState, successor: Ed25519PrivateKey | None) -> Anchor:
    key = _signing_key(home, resolve_keys(state.anchors).in_force if state.anchors else None)
    named = msgspec.structs.replace(unsigned, key=_public(key), successor=_public(successor) if successor else "")
    countersigned = successor.sign(named.signed_text).hex() if successor else ""
    return msgspec.structs.replace(named, signature=key.sign(named.signed_text).hex(), countersignature=countersigned)


def rotate_signing_key(conn: psycopg.Connection[Any], home: Path, at: datetime) -> Anchor:
    """Create a new key and an anchor signed by both keys; afterwards only the new key signs.

    The old private key is removed. Raise `BadInput` as `sign_head` does, and for an empty log.
    """
    with _exclusive(home):
        if _sign_head(conn, home, at) is None:
            raise BadInput("the log is empty and no key has signed it yet: there is nothing to rotate.")
        successor = _write_key(_next_key_file(home), Ed25519PrivateKey.generate())
        signed = _sign_head(conn, home, at, successor)
        assert signed is not None
        _promote_next_key(home)
        return signed


def archive_anchors(home: Path, state: AnchoringState, at: datetime) -> None:
    """Rename the present file of anchors to make room for a new one, and delete the record of the last anchor."""
    with _exclusive(home):
        if state.file.exists():
            state.file.rename(state.file.with_suffix(f".{instant_text(at)}.jsonl"))
        last_anchor_file(home, state.last_anchor.log if state.last_anchor else state.log).unlink(missing_ok=True)


@contextmanager
def _exclusive(home: Path) -> Generator[None]:
    """Hold the lock under which one process at a time creates a key or adds an anchor."""
    folder = home / "keys"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        flock(handle, LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- Record of the last anchor, and files -------------------------------------------------------------------------


def _read_last_anchor(home: Path, log: UUID, database: str) -> LastAnchor | None:
    """Return the record of a log's last anchor; else that of a log of another name in the same database.

    Raise `BadInput` if the record of this log is damaged.
    """
    file = last_anchor_file(home, log)
    if file.exists():
        try:
            return _decode_last_anchor(file)
        except msgspec.DecodeError as error:
            raise BadInput(f"{file} is damaged: {error}.", "ANCHORS_DAMAGED") from None
    for path in sorted(file.parent.glob("*.json")):
        with suppress(msgspec.DecodeError):
            if (found := _decode_last_anchor(path)).database == database:
                return found
    return None


def _decode_last_anchor(path: Path) -> LastAnchor:
    try:
        return msgspec.json.decode(path.read_bytes(), type=LastAnchor)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None


def _write_last_anchor(home: Path, last_anchor: LastAnchor) -> None:
    path = last_anchor_file(home, last_anchor.log)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    content = msgspec.json.encode(last_anchor) + b"\n"
    if not path.exists() or path.read_bytes() != content:
        _replace(path, content)


def _append(path: Path, line: bytes) -> None:
    """Append a line completely or not at all, because half an anchor would block all later ones."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        whole = os.read(handle, os.fstat(handle).st_size).rfind(b"\n") + 1
        os.ftruncate(handle, whole)
        try:
            if os.pwrite(handle, line, whole) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, whole)
            raise
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, completely or not at all."""
    staging = path.with_suffix(".new")
    with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    staging.replace(path)


# --- Keys ---------------------------------------------------------------------------------------------------------


def _next_key_file(home: Path) -> Path:
    """Return the path of the next key, used until the rotation is complete."""
    return home / "keys" / "anchor-next.pem"


def _signing_key(home: Path, required: str | None) -> Ed25519PrivateKey:
    """Return the local key, created if nothing was signed yet. An interrupted rotation is completed first."""
    path = key_file(home)
    if not path.exists():
        # Written first: if only the public key exists, the next attempt creates both again.
        key = Ed25519PrivateKey.generate()
        public_key_file(home).write_text(_public(key) + "\n")
        return _write_key(path, key)
    if required is not None and _public(_read_key(path)) != required and _next_key_file(home).exists():
        _promote_next_key(home)
    return _read_key(path)


def _promote_next_key(home: Path) -> None:
    successor = _read_key(_next_key_file(home))
    public_key_file(home).write_text(_public(successor) + "\n")
    _next_key_file(home).replace(key_file(home))


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path} is not an Ed25519 key: restore it from its copy.")
    return key


def _write_key(path: Path, key: Ed25519PrivateKey) -> Ed25519PrivateKey:
    _replace(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _one(conn: psycopg.Connection[Any], query: Any) -> str:
    return str((conn.execute(query).fetchone() or ("",))[0])
