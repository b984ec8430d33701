"""Seals: what makes a change to the log show. The bytes of a stored row, and the chain of hashes over all rows.

Every append is one transaction and leaves one seal: a SHA-256 over the seal before it, its own numbers, and every row
of the append, whole. A row is spelled as PostgreSQL's binary COPY spells it, each field behind its length, so that what
is hashed is what is sent and what is read. The seals' numbers have no gaps; positions may. Pure: no database here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

FORMAT = b"quantagent seal 1\n"

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

    `checks` holds a CRC-32 per row, 4 bytes each: it tells which row of an append was changed, the hash that one was.
    """

    seal: int
    first_position: int
    last_position: int
    events: int
    previous: bytes
    hash: bytes
    checks: bytes


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


class Sealing:
    """A seal in the making: told its place in the chain, then fed the rows of `row_bytes` in order of position."""

    def __init__(self, seal: int, first_position: int, last_position: int, events: int, previous: bytes) -> None:
        self._place = (seal, first_position, last_position, events)
        self._previous = previous
        self._hash = sha256(FORMAT + previous + _NUMBERS(*self._place))
        self._checks: list[bytes] = []

    def add(self, rows: Sequence[bytes]) -> bytes:
        """Takes rows in and returns their bytes in one piece."""
        piece = b"".join(rows)
        self._hash.update(piece)
        self._checks += [_CHECK(crc32(row)) for row in rows]
        return piece

    def done(self) -> Seal:
        return Seal(*self._place, self._previous, self._hash.digest(), b"".join(self._checks))
