"""Hash chain over all rows of the log, which makes changes to stored events detectable.

Every append is one transaction and adds one seal: a SHA-256 over the previous seal, its own numbers, the server's time
and login, and the SHA-256 of every row of the append. Rows are hashed in the format of PostgreSQL's binary COPY, each
field preceded by its length, so that the hashed bytes are the bytes sent and read. The numbers of seals have no gaps;
positions may have some. Seals of format 1 have neither time nor login, and hash all rows as one block. The database
computes the same hash and rejects a different one (engine/store/guards.sql). This module is pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import LiteralString, NamedTuple
from uuid import UUID
from zlib import crc32

FORMAT_1 = b"quantagent seal 1\n"
FORMAT_2 = b"quantagent seal 2\n"

# Stored seals, with the columns in the order of `Seal`; a condition may follow.
SELECT_SEALS: LiteralString = """
SELECT seal, first_position, last_position, events, previous, hash, checks,
    coalesce(to_char(sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), ''), coalesce(sealed_by, '')
FROM quantagent.seals """

# Header and trailer of binary COPY.
COPY_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = struct.pack(">h", -1)

_BEFORE_NAME = struct.Struct(">hi16siqi").pack
_LENGTH = struct.Struct(">i").pack
_POSITION = struct.Struct(">iq").pack
_NUMBERS = struct.Struct(">qqqq").pack
_CHECK = struct.Struct(">I").pack


class Seal(NamedTuple):
    """Seal of one append: the range of its rows, the hash of the previous seal, and the hash over everything.

    checks: 4 bytes per row, which identify a changed row: the first bytes of its SHA-256, in format 1 its CRC-32.
    sealed_at: the server's time as text (`format_sealed_at`); sealed_by: the login of the connection. Both are empty
    in format 1.
    """

    seal: int
    first_position: int
    last_position: int
    events: int
    previous: bytes
    hash: bytes
    checks: bytes
    sealed_at: str = ""
    sealed_by: str = ""


def genesis(log_id: UUID) -> bytes:
    """Return the hash that precedes the first seal of a log."""
    return sha256(b"quantagent log %s\n" % str(log_id).encode()).digest()


def row_bytes(originator_id: bytes, version: int, topic: bytes, state: bytes, position: int) -> bytes:
    """Return a stored row as a tuple of binary COPY: the number of fields, then each field preceded by its length."""
    return b"".join(
        (
            _BEFORE_NAME(5, 16, originator_id, 8, version, len(topic)),
            topic,
            _LENGTH(len(state)),
            state,
            _POSITION(8, position),
        )
    )


def format_sealed_at(at: datetime) -> str:
    """Format a server's time as in seals: 2024-01-31T09:00:00.123456Z."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class SealBuilder:
    """Builder of a seal, from its place in the chain and the rows (`row_bytes`) in order of position.

    Without `sealed_at` it builds a seal of format 1.
    """

    def __init__(
        self,
        seal: int,
        first_position: int,
        last_position: int,
        events: int,
        previous: bytes,
        sealed_at: str = "",
        sealed_by: str = "",
    ) -> None:
        self._place = (seal, first_position, last_position, events)
        self._previous, self._sealed_at, self._sealed_by = previous, sealed_at, sealed_by
        self._hash = sha256(FORMAT_2 if sealed_at else FORMAT_1)
        self._hash.update(previous + _NUMBERS(*self._place))
        if sealed_at:
            self._hash.update(_length_prefixed(sealed_at) + _length_prefixed(sealed_by))
        self._checks: list[bytes] = []

    def add(self, rows: Sequence[bytes]) -> bytes:
        """Add rows and return their concatenated bytes."""
        piece = b"".join(rows)
        if self._sealed_at:
            digests = [sha256(row).digest() for row in rows]
            self._hash.update(b"".join(digests))
            self._checks += [digest[:4] for digest in digests]
        else:
            self._hash.update(piece)
            self._checks += [_CHECK(crc32(row)) for row in rows]
        return piece

    def build(self) -> Seal:
        sealed, checks = self._hash.digest(), b"".join(self._checks)
        return Seal(*self._place, self._previous, sealed, checks, self._sealed_at, self._sealed_by)


def _length_prefixed(text: str) -> bytes:
    encoded = text.encode()
    return _LENGTH(len(encoded)) + encoded
