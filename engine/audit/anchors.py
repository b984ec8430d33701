"""Anchors: the log's head, signed, in a file outside the database, where whoever rewrites the chain cannot reach.

An anchor says: at this time the chain's seal number so-and-so had this hash. It is a line of JSON, signed with Ed25519
by a key whose file only its owner can read. Keep copies of the file and of the public key where the database's
administrators have no reach: what is not protected is said in docs/audit.md.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from engine.errors import BadInput
from engine.market import instant_text

_IS_KEY = re.compile("[0-9a-f]{64}").fullmatch


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`hash` is that of the seal, `position` the last event it covers; `key` and `signature` are Ed25519, all hex."""

    log: UUID
    seal: int
    position: int
    hash: str
    at: str
    key: str
    signature: str = ""

    @property
    def signed_text(self) -> bytes:
        return (
            f"quantagent anchor 1\n{self.log}\n{self.seal}\n{self.position}\n{self.hash}\n{self.at}\n{self.key}\n"
        ).encode()


def anchors_file(home: Path, log_id: UUID) -> Path:
    """Where the anchors of a log are, unless somebody puts them elsewhere."""
    return home / "anchors" / f"{log_id}.jsonl"


def key_file(home: Path) -> Path:
    return home / "keys" / "anchor.pem"


def public_key_file(home: Path) -> Path:
    """The verifying half, in hexadecimal, to be handed out."""
    return home / "keys" / "anchor.pub"


def log_id_of(conn: psycopg.Connection[Any]) -> UUID:
    """Which log a database holds. Raises `BadInput` where it does not say."""
    rows = conn.execute("SELECT log_id FROM quantagent.log_identity").fetchall()
    if len(rows) != 1:
        raise BadInput(
            f"the table quantagent.log_identity has {len(rows)} rows and must have one, so that somebody changed it: "
            "restore the database from a copy."
        )
    return rows[0][0]


def anchors_of(home: Path, log_id: UUID, database: str) -> Path:
    """The file of anchors of the log that a database is known to hold here, else of the one it says it holds.

    Whoever gives a log another name wants its anchors not to be found.
    """
    known = _known(home, database)
    return anchors_file(home, UUID(known.read_text().strip()) if known.exists() else log_id)


def _known(home: Path, database: str) -> Path:
    return home / "anchors" / "databases" / sha256(database.encode()).hexdigest()[:16]


def anchor(conn: psycopg.Connection[Any], home: Path, at: datetime, database: str = "") -> Anchor | None:
    """Signs the head of the log and appends it to the file of anchors, on the disk when this returns.

    Returns the newest anchor, which may be an earlier one of the same head; None for a log without events. Raises
    `BadInput` for a log that no longer holds what its last anchor vouches for: that is never signed over.
    `database`: what the caller calls the database, so that its log is known again under another name.
    """
    with _alone(home):
        return _anchor(conn, home, at, database)


def _anchor(conn: psycopg.Connection[Any], home: Path, at: datetime, database: str) -> Anchor | None:
    head = conn.execute("SELECT seal, last_position, hash FROM quantagent.seals ORDER BY seal DESC LIMIT 1").fetchone()
    if head is None:
        return None
    log_id = log_id_of(conn)
    path = anchors_of(home, log_id, database)
    known = read_anchors(path) if path.exists() else []
    if known:
        _check_holds(conn, known[-1], path)
        if known[-1].seal == head[0]:
            return known[-1]
    key = _signing_key(home, is_new=not known)
    public = key.public_key().public_bytes_raw().hex()
    unsigned = Anchor(log_id, head[0], head[1], head[2].hex(), instant_text(at), public)
    signed = msgspec.structs.replace(unsigned, signature=key.sign(unsigned.signed_text).hex())
    _append(path, msgspec.json.encode(signed) + b"\n")
    if not (remembered := _known(home, database)).exists():
        remembered.parent.mkdir(mode=0o700, exist_ok=True)
        remembered.write_text(f"{log_id}\n")
    return signed


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


def read_anchors(path: Path) -> list[Anchor]:
    """The anchors of a file, in order. Raises `BadInput` for a file that is none, naming the line."""
    try:
        # What has no end is an anchor that was being written when the machine went down.
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise BadInput(
            f"the anchors in {path} cannot be read: {error.strerror}. Give the file that holds them."
        ) from None
    found: list[Anchor] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=Anchor))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"line {number} of {path} is no anchor: {error}. Restore the file from a copy.") from None
    return found


def public_key_of(given: Path | str) -> str:
    """A public key in hexadecimal, given as such or as the file that holds it."""
    try:
        text = str(given) if _IS_KEY(str(given)) else Path(given).read_text().strip()
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except (OSError, ValueError) as error:
        raise BadInput(f"{given} holds no public key: {error}. Give the file anchor.pub that was handed out.") from None
    return text


def is_signed(found: Anchor) -> bool:
    """Whether an anchor's signature is that of the key it names."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.key)).verify(
            bytes.fromhex(found.signature), found.signed_text
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def newest(anchors: Iterable[Anchor]) -> Anchor | None:
    return max(anchors, key=lambda found: found.seal, default=None)


def _check_holds(conn: psycopg.Connection[Any], last: Anchor, path: Path) -> None:
    query = "SELECT encode(hash, 'hex'), last_position FROM quantagent.seals WHERE seal = %s"
    same_log = last.log == log_id_of(conn)
    if not same_log or conn.execute(query, (last.seal,)).fetchone() != (last.hash, last.position):
        raise BadInput(
            f"the log does not hold what the last anchor in {path} vouches for, so that it was "
            "changed, or is an older copy. `quantagent audit verify` says more; a copy that is to live on needs a file "
            "of anchors of its own, so move this one away."
        )


def _signing_key(home: Path, *, is_new: bool) -> Ed25519PrivateKey:
    path = key_file(home)
    if not path.exists():
        if not is_new:
            raise BadInput(
                f"the key {path} that signed this log's anchors is gone: restore it from its copy, or move the file of "
                "anchors away to begin a new one with a new key."
            )
        _make_key(home)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path} is no Ed25519 key: restore it from its copy.")
    return key


def _make_key(home: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    path = key_file(home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    public_key_file(home).write_text(key.public_key().public_bytes_raw().hex() + "\n")
    half = path.with_suffix(".new")
    with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        os.fsync(file.fileno())
    half.replace(path)


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
