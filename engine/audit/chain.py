"""The links of the chain: seals in order, each continuing the one before it. The events under them are `verify`'s."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from engine.core.errors import BadInput
from engine.store.hash_chain import SELECT_SEALS, Seal, genesis

SEALS_PER_PAGE = 1_000

_SEALS: LiteralString = SELECT_SEALS + "WHERE seal > %s ORDER BY seal LIMIT %s"


class AuditFinding(NamedTuple):
    """The first thing that is wrong: where, and what."""

    position: int
    what: str


class LogIdentity(NamedTuple):
    """A log's name, and which log it was copied from, if any: `after_seal` is the last seal both have."""

    log: UUID
    parent: UUID | None
    after_seal: int


def read_lineage(conn: psycopg.Connection[Any]) -> list[LogIdentity]:
    """The names of the log in a database: the one its first seal continues, then those it was adopted under.

    Raises `BadInput` where the table does not say.
    """
    rows = conn.execute("SELECT log_id, parent, after_seal FROM quantagent.log_identity").fetchall()
    by_parent = {row[1]: LogIdentity(*row) for row in rows}
    found: list[LogIdentity] = []
    parent: UUID | None = None
    while parent in by_parent and len(found) < len(rows):
        found.append(by_parent[parent])
        parent = found[-1].log
    if not rows or len(found) != len(rows):
        raise BadInput(
            f"the table quantagent.log_identity has {len(rows)} rows and {len(found)} of them name a log, so that it "
            "was changed: restore the database from a copy."
        )
    return found


def read_log_id(conn: psycopg.Connection[Any]) -> UUID:
    """Which log a database holds. Raises `BadInput` where it does not say."""
    return read_lineage(conn)[-1].log


def genesis_seal(lineage: list[LogIdentity]) -> Seal:
    """What stands in front of a log's first seal."""
    return Seal(0, 0, 0, 0, b"", genesis(lineage[0].log), b"")


def seals_after(conn: psycopg.Connection[Any], number: int, limit: int = SEALS_PER_PAGE) -> list[Seal]:
    """The next seals in order of number, up to `limit` of them."""
    with conn.cursor(binary=True, row_factory=tuple_row) as curs:
        return [Seal(*row) for row in curs.execute(_SEALS, (number, limit))]


def find_seal(conn: psycopg.Connection[Any], number: int) -> Seal | None:
    """The seal of a number, if there is one."""
    found = seals_after(conn, number - 1, 1)
    return found[0] if found and found[0].seal == number else None


def link_findings(seal: Seal, before: Seal) -> Iterator[AuditFinding]:
    """The link: numbers without gaps, the hash of the seal before, positions and formats that go on."""
    at = before.last_position + 1
    if seal.seal != before.seal + 1:
        yield AuditFinding(at, f"seal {before.seal + 1} is missing")
    elif seal.previous != before.hash:
        yield AuditFinding(at, f"seal {seal.seal} does not continue seal {before.seal}: one of them was replaced")
    elif not before.last_position < seal.first_position <= seal.last_position:
        yield AuditFinding(at, f"seal {seal.seal} claims positions that do not follow those of seal {before.seal}")
    elif before.sealed_at and not seal.sealed_at:
        yield AuditFinding(at, f"seal {seal.seal} has no time, though seal {before.seal} has: it was replaced")


def walk_links(conn: psycopg.Connection[Any], last: Seal) -> tuple[Seal, AuditFinding | None]:
    """Walks from a seal to the head. Returns the last seal that is in its place, and what is wrong after it, if
    something is: a seal that does not continue it, or an event that no seal covers."""
    # An append's events and its seal become visible together: of those seen now, the seal is seen below.
    row = conn.execute("SELECT max(notification_id) FROM quantagent.events").fetchone()
    while page := seals_after(conn, last.seal):
        for seal in page:
            for finding in link_findings(seal, last):
                return last, finding
            last = seal
    if row is not None and row[0] is not None and row[0] > last.last_position:
        return last, AuditFinding(row[0], "the event has no seal: it did not come through an append")
    return last, None
