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

from engine.audit.anchors import Anchor, anchors_file, badly_signed, keys_of, read_anchors, strange_keys
from engine.audit.chain import before_all, lineage_of, seal_numbered, walk_links
from engine.core.errors import BadInput
from engine.core.market import instant_text

_BEGIN_ANEW = "`quantagent audit anchor --begin-anew --reason TEXT` begins a new file and records that it did"


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


class Flaw(StrEnum):
    """What stands in the way of a signature: about which of these it is."""

    COPY = "copy"
    LOG = "log"
    FILE = "file"
    KEY = "key"


class Standing(NamedTuple):
    """The anchors of a log at home, and why its head must not be signed now.

    refusal: a whole sentence with its remedy, empty where there is no flaw.
    """

    log: UUID
    database: str
    file: Path
    anchors: list[Anchor]
    remembered: Remembered | None
    flaw: Flaw | None = None
    refusal: str = ""

    def flawed(self, flaw: Flaw, refusal: str) -> Standing:
        return self._replace(flaw=flaw, refusal=refusal)


def key_file(home: Path) -> Path:
    return home / "keys" / "anchor.pem"


def public_key_file(home: Path) -> Path:
    """The verifying half, in hexadecimal, to be handed out."""
    return home / "keys" / "anchor.pub"


def remembered_file(home: Path, log_id: UUID) -> Path:
    return home / "keys" / "anchored" / f"{log_id}.json"


def standing(conn: psycopg.Connection[Any], home: Path) -> Standing:
    """Reads the anchors of the log in a database and checks whether its head may be signed.

    Of several flaws the gravest is named: a copy, then a log that was changed, then the file, then the key.
    """
    lineage = lineage_of(conn)
    log, here = lineage[-1].log, _one(conn, "SELECT quantagent.this_database()")
    unread = Standing(log, here, anchors_file(home, log), [], None)
    try:
        remembered = _remembered(home, log, here)
        renamed = remembered is not None and remembered.log not in [each.log for each in lineage]
        file = anchors_file(home, remembered.log if remembered is not None and renamed else log)
        anchors = read_anchors(file) if file.exists() else []
    except BadInput as error:
        return unread.flawed(Flaw.FILE, f"{str(error).rstrip('.')}; {_BEGIN_ANEW}.")
    found = unread._replace(file=file, anchors=anchors, remembered=remembered)
    original = _original(conn, log, here, remembered)
    if original is not None:
        return found.flawed(Flaw.COPY, _copied(log, original))
    if remembered is not None and renamed:
        was = f"the log in this database is called {log} and was anchored as {remembered.log}, so that it was replaced"
        return found.flawed(Flaw.LOG, f"{was}: compare it with a backup; {_BEGIN_ANEW}.")
    heads = [(each.seal, each.hash, each.position, str(file)) for each in anchors[-1:]]
    if remembered is not None:
        heads.insert(0, (remembered.seal, remembered.hash, remembered.position, str(remembered_file(home, log))))
    for seal, hashed, position, place in heads:
        stored = seal_numbered(conn, seal)
        if stored is None or (stored.hash.hex(), stored.last_position) != (hashed, position):
            changed = f"the log does not hold what the last anchor in {place} vouches for, so that it was changed"
            remedy = f"or is an older copy: `quantagent audit verify` says more; {_BEGIN_ANEW}"
            return found.flawed(Flaw.LOG, f"{changed}, {remedy}.")
    if remembered is not None and len(anchors) < remembered.anchors:
        lost = f"{len(anchors)} of the {remembered.anchors} anchors that were made of this log are in {file}, so that"
        return found.flawed(Flaw.FILE, f"{lost} the file was removed or cut: restore it from a copy; {_BEGIN_ANEW}.")
    if remembered is not None and sha256(file.read_bytes()[: remembered.bytes]).hexdigest() != remembered.sha256:
        edited = f"the anchors in {file} are not those that were made of this log, so that one of them was changed"
        return found.flawed(Flaw.FILE, f"{edited}: restore the file from a copy; {_BEGIN_ANEW}.")
    flaw = next(strange_keys(anchors, None), None) or next(
        (flaw for each in anchors[-1:] for flaw in badly_signed(each, lineage)), None
    )
    if flaw is not None:
        return found.flawed(Flaw.FILE, f"{flaw.what}: restore {file} from a copy; {_BEGIN_ANEW}.")
    refusal = _key_flaw(home, anchors) if anchors else ""
    return found.flawed(Flaw.KEY, refusal) if refusal else found


def _original(conn: psycopg.Connection[Any], log: UUID, here: str, remembered: Remembered | None) -> str | None:
    """In which other database a log is kept; None where this is the one."""
    rows = conn.execute("SELECT database FROM quantagent.log_databases WHERE log_id = %s ORDER BY n", (log,)).fetchall()
    databases = [str(name) for (name,) in rows]
    if databases and databases[-1] != here:
        return databases[-1]
    known = remembered is not None and remembered.log == log and remembered.database not in (here, *databases)
    return remembered.database if remembered is not None and known else None


def _copied(log: UUID, database: str) -> str:
    return (
        f"this database is a copy of log {log}, which is kept in another database (server/oid {database}), and only "
        "the original is signed: `quantagent db adopt --reason TEXT` makes the copy a log of its own."
    )


def _key_flaw(home: Path, anchors: list[Anchor]) -> str:
    """What is wrong with the key at home, if it cannot go on where the anchors end; else empty."""
    path, wanted = key_file(home), keys_of(anchors).in_force
    if not path.exists():
        return f"the key {path} that signed this log's anchors is gone: restore it from its copy; {_BEGIN_ANEW}."
    found = _public(_read_key(path))
    if found == wanted or (_next_key_file(home).exists() and _public(_read_key(_next_key_file(home))) == wanted):
        return ""
    return (
        f"the key in {path} is {found}, and this log's anchors are signed with {wanted}: restore that key from its "
        f"copy; {_BEGIN_ANEW}. A key is replaced with `quantagent audit rotate-key`."
    )


# --- Signing ------------------------------------------------------------------------------------------------------


def anchor(conn: psycopg.Connection[Any], home: Path, at: datetime) -> Anchor | None:
    """Signs the head of the log and appends it to the file of anchors, on the disk when this returns.

    Returns the newest anchor, which may be an earlier one of the same head; None for a log without events. The links
    since the last anchor are walked first. Raises `BadInput` where `standing` refuses, or where a link is broken.
    """
    with _alone(home):
        return _anchor(conn, home, at)


def _anchor(
    conn: psycopg.Connection[Any], home: Path, at: datetime, successor: Ed25519PrivateKey | None = None
) -> Anchor | None:
    found = standing(conn, home)
    if found.flaw is not None:
        raise BadInput(found.refusal)
    last = found.anchors[-1] if found.anchors else None
    signed = seal_numbered(conn, last.seal) if last else None
    head, broken = walk_links(conn, signed or before_all(lineage_of(conn)))
    if broken is not None:
        raise BadInput(
            f"the log is broken after its last anchor, at position {broken.position:,}: {broken.what}; it is not "
            "signed. `quantagent audit verify` says more."
        )
    if head.seal == 0:
        return None
    made = last
    if made is None or made.seal != head.seal or successor is not None:
        unsigned = Anchor(found.log, head.seal, head.last_position, head.hash.hex(), instant_text(at), "")
        made = _sign(home, unsigned, found, successor)
        _append(found.file, msgspec.json.encode(made) + b"\n")
    count, content = len(found.anchors) + (made is not last), found.file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    place = (found.log, found.database, made.seal, made.position, made.hash)
    _remember(home, Remembered(*place, count, len(whole), sha256(whole).hexdigest()))
    return made


def _sign(home: Path, unsigned: Anchor, found: Standing, successor: Ed25519PrivateKey | None) -> Anchor:
    key = _signing_key(home, keys_of(found.anchors).in_force if found.anchors else None)
    named = msgspec.structs.replace(unsigned, key=_public(key), successor=_public(successor) if successor else "")
    countersigned = successor.sign(named.signed_text).hex() if successor else ""
    return msgspec.structs.replace(named, signature=key.sign(named.signed_text).hex(), countersignature=countersigned)


def rotate_key(conn: psycopg.Connection[Any], home: Path, at: datetime) -> Anchor:
    """Makes a new key and an anchor that the old and the new one sign; from then on only the new one signs.

    The old private key is removed. Raises `BadInput` as `anchor` does, and for a log that was never anchored.
    """
    with _alone(home):
        if _anchor(conn, home, at) is None:
            raise BadInput("the log is empty, so that no key has signed it yet: there is nothing to rotate.")
        successor = _write_key(_next_key_file(home), Ed25519PrivateKey.generate())
        made = _anchor(conn, home, at, successor)
        assert made is not None
        _take_over(home)
        return made


def set_aside(home: Path, found: Standing, at: datetime) -> None:
    """Makes room for a new file of anchors: the present one is kept under another name, what was remembered is not."""
    with _alone(home):
        if found.file.exists():
            found.file.rename(found.file.with_suffix(f".{instant_text(at)}.jsonl"))
        remembered_file(home, found.remembered.log if found.remembered else found.log).unlink(missing_ok=True)


@contextmanager
def _alone(home: Path) -> Generator[None]:
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


def _remembered(home: Path, log: UUID, database: str) -> Remembered | None:
    """What was anchored last of a log; else of a log of another name in the same database.

    Raises `BadInput` for a file of the log's own that cannot be read.
    """
    file = remembered_file(home, log)
    if file.exists():
        try:
            return _decoded(file)
        except msgspec.DecodeError as error:
            raise BadInput(f"{file} is damaged: {error}. Restore the file from a copy.") from None
    for path in sorted(file.parent.glob("*.json")):
        with suppress(msgspec.DecodeError):
            if (found := _decoded(path)).database == database:
                return found
    return None


def _decoded(path: Path) -> Remembered:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Remembered)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None


def _remember(home: Path, what: Remembered) -> None:
    path = remembered_file(home, what.log)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    content = msgspec.json.encode(what) + b"\n"
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
    half = path.with_suffix(".new")
    with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    half.replace(path)


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
        _take_over(home)
    return _read_key(path)


def _take_over(home: Path) -> None:
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
