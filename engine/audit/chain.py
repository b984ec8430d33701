"""Links of the chain of seals: each seal continues the previous one. `verify` checks the events they cover."""

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
    """A defect and its position in the log; position 0 stands for the log as a whole."""

    position: int
    what: str


class LogIdentity(NamedTuple):
    """Name of a log and of the log it was copied from, if any; after_seal: the last seal both share."""

    log: UUID
    parent: UUID | None
    after_seal: int


def read_lineage(conn: psycopg.Connection[Any]) -> list[LogIdentity]:
    """Return the names of the log in a database: the original name, then the names it was adopted under.

    Raise `BadInput` if the table of names is incomplete.
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
            f"the table quantagent.log_identity was changed: it has {len(rows)} rows and {len(found)} of them name a "
            "log. Restore the database from a copy."
        )
    return found


def read_log_id(conn: psycopg.Connection[Any]) -> UUID:
    """Return the name of the log in a database. Raise `BadInput` if the table of names is incomplete."""
    return read_lineage(conn)[-1].log


def genesis_seal(lineage: list[LogIdentity]) -> Seal:
    """Return the seal 0 that a log's first seal continues."""
    return Seal(0, 0, 0, 0, b"", genesis(lineage[0].log), b"")


def seals_after(conn: psycopg.Connection[Any], number: int, limit: int = SEALS_PER_PAGE) -> list[Seal]:
    """Return the next seals by number, at most `limit`."""
    with conn.cursor(binary=True, row_factory=tuple_row) as curs:
        return [Seal(*row) for row in curs.execute(_SEALS, (number, limit))]


def find_seal(conn: psycopg.Connection[Any], number: int) -> Seal | None:
    """Return the seal of a number, or None."""
    found = seals_after(conn, number - 1, 1)
    return found[0] if found and found[0].seal == number else None


def link_findings(seal: Seal, before: Seal) -> Iterator[AuditFinding]:
    """Check that a seal continues the previous one: number, hash, positions and format."""
    at = before.last_position + 1
    if seal.seal != before.seal + 1:
        yield AuditFinding(at, f"seal {before.seal + 1} is missing")
    elif seal.previous != before.hash:
        yield AuditFinding(at, f"seal {seal.seal} does not continue seal {before.seal}: one of them was replaced")
    elif not before.last_position < seal.first_position <= seal.last_position:
        yield AuditFinding(at, f"seal {seal.seal} claims positions that do not follow those of seal {before.seal}")
    elif before.sealed_at and not seal.sealed_at:
        yield AuditFinding(at, f"seal {seal.seal} has no time, though seal {before.seal} has one: it was replaced")


def walk_links(conn: psycopg.Connection[Any], last: Seal) -> tuple[Seal, AuditFinding | None]:
    """Check the links from a seal to the head. Return the last valid seal and the first defect after it, if any.

    A defect is a seal that does not continue the previous one, or an event that no seal covers.
    """
    # An append's events and its seal become visible together: the seals read below cover all events seen here.
    row = conn.execute("SELECT max(notification_id) FROM quantagent.events").fetchone()
    while page := seals_after(conn, last.seal):
        for seal in page:
            for finding in link_findings(seal, last):
                return last, finding
            last = seal
    if row is not None and row[0] is not None and row[0] > last.last_position:
        return last, AuditFinding(row[0], "the event has no seal: it was not written by an append")
    return last, None
