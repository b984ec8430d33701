"""Signs the head of the log, and refuses to where a signature would cover up what was changed.

What was anchored last is remembered in a second place, beside the key (`keys/anchored/`): a file of anchors that is
gone or shorter than it was does not look like the beginning of one. `standing` says what stands in the way of a
signature; `anchor`, `rotate_key`, `audit verify` and the doctor all go by it.
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

_RESTART_REMEDY = "`quantagent audit anchor --begin-anew --reason TEXT` begins a new file and records that it did"


class LastAnchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was anchored last: of which log, in which database, which head.

    By then the file of anchors had so many of them, in so many bytes with that SHA-256.
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
    """What stands in the way of a signature: about which of these it is."""

    COPY = "copy"
    LOG = "log"
    FILE = "file"
    KEY = "key"


class AnchoringState(NamedTuple):
    """The anchors of a log at home, and why its head must not be signed now.

    refusal: a whole sentence with its remedy, empty where there is no flaw.
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


def key_file(home: Path) -> Path:
    return home / "keys" / "anchor.pem"


def public_key_file(home: Path) -> Path:
    """The verifying half, in hexadecimal, to be handed out."""
    return home / "keys" / "anchor.pub"


def last_anchor_file(home: Path, log_id: UUID) -> Path:
    return home / "keys" / "anchored" / f"{log_id}.json"


def anchoring_state(conn: psycopg.Connection[Any], home: Path) -> AnchoringState:
    """Reads the anchors of the log in a database and checks whether its head may be signed.

    Of several flaws the gravest is named: a copy, then a log that was changed, then the file, then the key.
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
        return unread.with_defect(AnchoringDefect.FILE, f"{str(error).rstrip('.')}; {_RESTART_REMEDY}.")
    found = unread._replace(file=file, anchors=anchors, last_anchor=last_anchor)
    original = _original(conn, log, here, last_anchor)
    if original is not None:
        return found.with_defect(AnchoringDefect.COPY, _copy_refusal(log, original))
    if last_anchor is not None and renamed:
        was = f"the log in this database is called {log} and was anchored as {last_anchor.log}, so that it was replaced"
        return found.with_defect(AnchoringDefect.LOG, f"{was}: compare it with a backup; {_RESTART_REMEDY}.")
    heads = [(each.seal, each.hash, each.position, str(file)) for each in anchors[-1:]]
    if last_anchor is not None:
        heads.insert(0, (last_anchor.seal, last_anchor.hash, last_anchor.position, str(last_anchor_file(home, log))))
    for seal, hashed, position, place in heads:
        stored = find_seal(conn, seal)
        if stored is None or (stored.hash.hex(), stored.last_position) != (hashed, position):
            changed = f"the log does not hold what the last anchor in {place} vouches for, so that it was changed"
            remedy = f"or is an older copy: `quantagent audit verify` says more; {_RESTART_REMEDY}"
            return found.with_defect(AnchoringDefect.LOG, f"{changed}, {remedy}.")
    if last_anchor is not None and len(anchors) < last_anchor.anchors:
        lost = f"{len(anchors)} of the {last_anchor.anchors} anchors that were made of this log are in {file}, so that"
        return found.with_defect(
            AnchoringDefect.FILE, f"{lost} the file was removed or cut: restore it from a copy; {_RESTART_REMEDY}."
        )
    if last_anchor is not None and sha256(file.read_bytes()[: last_anchor.bytes]).hexdigest() != last_anchor.sha256:
        edited = f"the anchors in {file} are not those that were made of this log, so that one of them was changed"
        return found.with_defect(AnchoringDefect.FILE, f"{edited}: restore the file from a copy; {_RESTART_REMEDY}.")
    finding = next(key_findings(anchors, None), None) or next(
        (flaw for each in anchors[-1:] for flaw in signature_findings(each, lineage)), None
    )
    if finding is not None:
        return found.with_defect(
            AnchoringDefect.FILE, f"{finding.what}: restore {file} from a copy; {_RESTART_REMEDY}."
        )
    refusal = _key_refusal(home, anchors) if anchors else ""
    return found.with_defect(AnchoringDefect.KEY, refusal) if refusal else found


def _original(conn: psycopg.Connection[Any], log: UUID, here: str, last_anchor: LastAnchor | None) -> str | None:
    """In which other database a log is kept; None where this is the one."""
    rows = conn.execute("SELECT database FROM quantagent.log_databases WHERE log_id = %s ORDER BY n", (log,)).fetchall()
    databases = [str(name) for (name,) in rows]
    if databases and databases[-1] != here:
        return databases[-1]
    known = last_anchor is not None and last_anchor.log == log and last_anchor.database not in (here, *databases)
    return last_anchor.database if last_anchor is not None and known else None


def _copy_refusal(log: UUID, database: str) -> str:
    return (
        f"this database is a copy of log {log}, which is kept in another database (server/oid {database}), and only "
        "the original is signed: `quantagent db adopt --reason TEXT` makes the copy a log of its own."
    )


def _key_refusal(home: Path, anchors: list[Anchor]) -> str:
    """What is wrong with the key at home, if it cannot go on where the anchors end; else empty."""
    path, wanted = key_file(home), resolve_keys(anchors).in_force
    if not path.exists():
        return f"the key {path} that signed this log's anchors is gone: restore it from its copy; {_RESTART_REMEDY}."
    found = _public(_read_key(path))
    if found == wanted or (_next_key_file(home).exists() and _public(_read_key(_next_key_file(home))) == wanted):
        return ""
    return (
        f"the key in {path} is {found}, and this log's anchors are signed with {wanted}: restore that key from its "
        f"copy; {_RESTART_REMEDY}. A key is replaced with `quantagent audit rotate-key`."
    )


# --- Signing ------------------------------------------------------------------------------------------------------


def sign_head(conn: psycopg.Connection[Any], home: Path, at: datetime) -> Anchor | None:
    """Signs the head of the log and appends it to the file of anchors, on the disk when this returns.

    Returns the newest anchor, which may be an earlier one of the same head; None for a log without events. The links
    since the last anchor are walked first. Raises `BadInput` where `standing` refuses, or where a link is broken.
    """
    with _exclusive(home):
        return _sign_head(conn, home, at)


def _sign_head(
    conn: psycopg.Connection[Any], home: Path, at: datetime, successor: Ed25519PrivateKey | None = None
) -> Anchor | None:
    state = anchoring_state(conn, home)
    if state.defect is not None:
        raise BadInput(state.refusal)
    last = state.anchors[-1] if state.anchors else None
    signed = find_seal(conn, last.seal) if last else None
    head, broken = walk_links(conn, signed or genesis_seal(read_lineage(conn)))
    if broken is not None:
        raise BadInput(
            f"the log is broken after its last anchor, at position {broken.position:,}: {broken.what}; it is not "
            "signed. `quantagent audit verify` says more."
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
    """Makes a new key and an anchor that the old and the new one sign; from then on only the new one signs.

    The old private key is removed. Raises `BadInput` as `anchor` does, and for a log that was never anchored.
    """
    with _exclusive(home):
        if _sign_head(conn, home, at) is None:
            raise BadInput("the log is empty, so that no key has signed it yet: there is nothing to rotate.")
        successor = _write_key(_next_key_file(home), Ed25519PrivateKey.generate())
        signed = _sign_head(conn, home, at, successor)
        assert signed is not None
        _promote_next_key(home)
        return signed


def archive_anchors(home: Path, state: AnchoringState, at: datetime) -> None:
    """Makes room for a new file of anchors: the present one is kept under another name, what was remembered is not."""
    with _exclusive(home):
        if state.file.exists():
            state.file.rename(state.file.with_suffix(f".{instant_text(at)}.jsonl"))
        last_anchor_file(home, state.last_anchor.log if state.last_anchor else state.log).unlink(missing_ok=True)


@contextmanager
def _exclusive(home: Path) -> Generator[None]:
    """One process at a time makes the key and adds an anchor."""
    folder = home / "keys"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        flock(handle, LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- What is remembered -------------------------------------------------------------------------------------------


def _read_last_anchor(home: Path, log: UUID, database: str) -> LastAnchor | None:
    """What was anchored last of a log; else of a log of another name in the same database.

    Raises `BadInput` for a file of the log's own that cannot be read.
    """
    file = last_anchor_file(home, log)
    if file.exists():
        try:
            return _decode_last_anchor(file)
        except msgspec.DecodeError as error:
            raise BadInput(f"{file} is damaged: {error}. Restore the file from a copy.") from None
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
    """Adds a line, or nothing: half an anchor would stand in the way of all that come after it."""
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
    """Writes a file that only its owner can read, whole or not at all."""
    staging = path.with_suffix(".new")
    with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    staging.replace(path)


# --- Keys ---------------------------------------------------------------------------------------------------------


def _next_key_file(home: Path) -> Path:
    """The successor of the key, until it has taken over."""
    return home / "keys" / "anchor-next.pem"


def _signing_key(home: Path, wanted: str | None) -> Ed25519PrivateKey:
    """The key at home, made if nothing was signed yet. A rotation that was cut off is completed first."""
    path = key_file(home)
    if not path.exists():
        # The public half first: with it alone, the next attempt makes both again.
        key = Ed25519PrivateKey.generate()
        public_key_file(home).write_text(_public(key) + "\n")
        return _write_key(path, key)
    if wanted is not None and _public(_read_key(path)) != wanted and _next_key_file(home).exists():
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
        raise BadInput(f"{path} is no Ed25519 key: restore it from its copy.")
    return key


def _write_key(path: Path, key: Ed25519PrivateKey) -> Ed25519PrivateKey:
    _replace(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _one(conn: psycopg.Connection[Any], query: Any) -> str:
    return str((conn.execute(query).fetchone() or ("",))[0])
