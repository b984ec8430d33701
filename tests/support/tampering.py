"""Somebody with every right on the database changes a log: what they change, and how well they cover it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from engine.audit.chain import read_log_id
from engine.store.hash_chain import SELECT_SEALS, Seal, SealBuilder, genesis, row_bytes

Connection = psycopg.Connection[Any]
Row = tuple[UUID, int, str, bytes, int]
_INSERT = "INSERT INTO quantagent.events VALUES (%s, %s, %s, %s, %s)"
INSERT_SEAL = (
    "INSERT INTO quantagent.seals VALUES (%s, %s, %s, %s, %s, %s, %s, nullif(%s, '')::timestamptz, nullif(%s, ''))"
)


def all_rows(conn: Connection) -> list[Row]:
    """Every stored row, in order of position."""
    with conn.cursor(binary=True, row_factory=tuple_row) as curs:
        return curs.execute("SELECT * FROM quantagent.events ORDER BY notification_id").fetchall()


class Editor:
    """Edits rows up to a position; every edit returns the position where the change lies."""

    def __init__(self, conn: Connection, random: Random, until: int) -> None:
        self.conn, self.random = conn, random
        self.all_rows = all_rows(conn)
        self.rows = [row for row in self.all_rows if row[4] <= until]

    def any_row(self) -> Row:
        return self.random.choice(self.rows)

    def flip(self, row: Row, column: LiteralString) -> None:
        """One bit of a column."""
        bit = self.random.randrange
        versions, positions = {row[:2] for row in self.all_rows}, {row[4] for row in self.all_rows}
        changed: dict[str, Callable[[], object]] = {
            "originator_id": lambda: UUID(int=row[0].int ^ (1 << bit(128))),
            "originator_version": lambda: self._flipped(row[1], {n for key, n in versions if key == row[0]}),
            # The fifth bit of a letter or digit leaves it printable.
            "topic": lambda: _with_bit(row[2].encode(), bit(len(row[2])), 4).decode(),
            "state": lambda: _with_bit(row[3], bit(len(row[3])), bit(8)),
            "notification_id": lambda: self._flipped(row[4], positions),
        }
        query = SQL("UPDATE quantagent.events SET {} = %s WHERE notification_id = %s").format(Identifier(column))
        self.conn.execute(query, (changed[column](), row[4]))

    def _flipped(self, number: int, taken: set[int]) -> int:
        return self.random.choice([other for n in range(40) if (other := number ^ (1 << n)) not in taken])

    def delete(self) -> int:
        row = self.any_row()
        self.conn.execute("DELETE FROM quantagent.events WHERE notification_id = %s", (row[4],))
        return row[4]

    def insert(self) -> int:
        """A row nobody appended, at a position that is free: in a gap, or below the first."""
        taken = {row[4] for row in self.rows}
        gaps = [position for position in range(-3, self.rows[-1][4]) if position not in taken]
        position = self.random.choice(gaps)
        like = self.any_row()
        self.conn.execute(_INSERT, (UUID(int=self.random.getrandbits(128)), 1, like[2], like[3], position))
        return position

    def swap(self) -> int:
        """Two events change places in the order of the log."""
        one, other = sorted(self.random.sample(self.rows, 2), key=lambda row: row[4])
        for at, position in ((one, -10), (other, one[4])):
            self.conn.execute(_MOVE, (position, at[4]))
        self.conn.execute(_MOVE, (other[4], -10))
        return one[4]

    def copy(self) -> int:
        """An event says what one of another stream says."""
        row = self.any_row()
        source = self.random.choice([other for other in self.rows if other[0] != row[0] and other[3] != row[3]])
        self.conn.execute(
            "UPDATE quantagent.events SET topic = %s, state = %s WHERE notification_id = %s",
            (source[2], source[3], row[4]),
        )
        return row[4]

    def cut(self) -> int:
        """The log ends earlier, seals and all."""
        seals = "SELECT seal, first_position FROM quantagent.seals WHERE last_position <= %s ORDER BY seal"
        seal, first = self.random.choice(self.conn.execute(seals, (self.rows[-1][4],)).fetchall())
        self.conn.execute("DELETE FROM quantagent.events WHERE notification_id >= %s", (first,))
        self.conn.execute("DELETE FROM quantagent.seals WHERE seal >= %s", (seal,))
        return first


_MOVE = "UPDATE quantagent.events SET notification_id = %s WHERE notification_id = %s"


def _with_bit(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def flip_seal(conn: Connection, random: Random, column: LiteralString, until: int) -> int:
    """One bit of a seal; returns its first position."""
    with conn.cursor(binary=True, row_factory=tuple_row) as curs:
        query = SQL(
            "SELECT seal, first_position, {} FROM quantagent.seals WHERE last_position <= %s ORDER BY 1"
        ).format(Identifier(column))
        seal, first, value = random.choice(curs.execute(query, (until,)).fetchall())
    match value:
        case int():
            changed: object = value ^ (1 << random.randrange(8, 30))
        case datetime():
            changed = value + timedelta(microseconds=1 << random.randrange(40))
        case str():
            changed = _with_bit(value.encode(), random.randrange(len(value)), 0).decode()
        case _:
            changed = _with_bit(value, random.randrange(len(value)), random.randrange(8))
    update = SQL("UPDATE quantagent.seals SET {} = %s WHERE seal = %s").format(Identifier(column))
    conn.execute(update, (changed, seal))
    return first


def forge(conn: Connection) -> None:
    """Seals everything anew, as it now is: the appends keep their sizes and times as far as there are rows."""
    with conn.cursor(binary=True, row_factory=tuple_row) as curs:
        before = [Seal(*row) for row in curs.execute(SELECT_SEALS + "ORDER BY seal")]
    conn.execute("DELETE FROM quantagent.seals")
    rows, previous = all_rows(conn), genesis(read_log_id(conn))
    number = 0
    while rows:
        number += 1
        original = before[min(number, len(before)) - 1]
        size = original.events if number <= len(before) else len(rows)
        covered, rows = rows[:size], rows[size:]
        sealing = SealBuilder(
            number, covered[0][4], covered[-1][4], len(covered), previous, original.sealed_at, original.sealed_by
        )
        sealing.add(
            [row_bytes(key.bytes, version, name.encode(), state, at) for key, version, name, state, at in covered]
        )
        seal = sealing.build()
        conn.execute(INSERT_SEAL, seal)
        previous = seal.hash
