"""Seals: what makes a change to the log show. The bytes of a stored row, and the chain of hashes over all rows.

Every append is one transaction and leaves one seal: a SHA-256 over the seal before it, its own numbers, the server's
time and login, and the SHA-256 of every row of the append. A row is spelled as PostgreSQL's binary COPY spells it, each
field behind its length, so that what is hashed is what is sent and what is read. The seals' numbers have no gaps;
positions may. Seals of the first format have neither time nor login, and hash the rows in one piece. The database
computes the same hash and refuses another one (engine/store/guards.sql). Pure: no database here.
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

# Stored seals, in the order of `Seal`; a condition may follow.
SELECT_SEALS: LiteralString = """
SELECT seal, first_position, last_position, events, previous, hash, checks,
    coalesce(to_char(sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), ''), coalesce(sealed_by, '')
FROM quantagent.seals """

# What stands around the rows in binary COPY.
COPY_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = struct.pack(">h", -1)

_BEFORE_NAME = struct.Struct(">hi16siqi").pack
_LENGTH = struct.Struct(">i").pack
_POSITION = struct.Struct(">iq").pack
_NUMBERS = struct.Struct(">qqqq").pack
_CHECK = struct.Struct(">I").pack


class Seal(NamedTuple):
    """One append: which rows, the hash of the seal before it, and the hash over everything.

    `checks` holds 4 bytes per row, which tell which row of an append was changed: the beginning of its SHA-256, in the
    first format its CRC-32. `sealed_at` is the server's time (`sealed_text`) and `sealed_by` the login it knew the
    connection by; both are empty in the first format.
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
    """What the first seal of a log continues."""
    return sha256(b"quantagent log %s\n" % str(log_id).encode()).digest()


def row_bytes(originator_id: bytes, version: int, topic: bytes, state: bytes, position: int) -> bytes:
    """A stored row as a tuple of binary COPY: the number of fields, then every field behind its length."""
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
    """A server's time as seals spell it: 2024-01-31T09:00:00.123456Z."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class SealBuilder:
    """A seal in the making: given its place in the chain, then the rows of `row_bytes` in order of position.

    Without a time it is one of the first format.
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
        """Takes rows in and returns their bytes in one piece."""
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
