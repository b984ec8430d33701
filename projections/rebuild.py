"""The read tables made anew beside the present ones, compared row for row, and put in their place."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from engine.errors import BadInput
from engine.feed import Bars
from engine.store import Store
from projections import schemas
from projections.runner import Progress, Runner, unheard
from projections.schemas import PRESENT, Connection, Standing
from projections.tables import TABLES

BESIDE = f"{PRESENT}_next"


class Rebuilt(NamedTuple):
    """rows: by table; differing: by table, how many rows were in one of the two schemas only."""

    events: int
    rows: dict[str, int]
    differing: dict[str, int]

    @property
    def same(self) -> bool:
        return not any(self.differing.values())


def rebuild(store: Store, catalogue: Bars, dsn: str, progress: Progress = unheard) -> Rebuilt:
    """Rebuilds while events may arrive and pages are read; two rebuilds take turns.

    Raises `BadInput` when an event stops the new tables where the present ones got past it: those stay.
    """
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as reader:
        conn.execute("SELECT pg_advisory_lock(hashtextextended('quantagent rebuild', 0))")
        schemas.drop(conn, BESIDE)
        pair = _Pair(Runner(store, catalogue, dsn), Runner(store, catalogue, dsn, BESIDE))
        pair.events = pair.beside.catch_up(progress)
        with pair.level(conn):
            # What this transaction sees from now on is how both stood at this moment.
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT")
        compared = _compare(reader, PRESENT, BESIDE)
        reader.execute("COMMIT")
        with pair.level(conn):
            schemas.switch(conn, BESIDE)
        schemas.sweep(conn)
        return Rebuilt(pair.events, *compared)


class _Pair:
    """The present tables and those beside them, which nobody else writes."""

    def __init__(self, present: Runner, beside: Runner) -> None:
        self.present, self.beside = present, beside
        self.events = 0

    @contextmanager
    def level(self, conn: Connection) -> Generator[None]:
        """A transaction in which the present tables stand still, and those beside them are as far."""
        while True:
            self.events += self.beside.catch_up()
            self.present.catch_up()
            with conn.transaction():
                schemas.lock_positions(conn, PRESENT)
                ours = schemas.standings(conn, PRESENT)
                self.events += self.beside.catch_up(until=max(each.position for each in ours))
                if _are_level(ours, schemas.standings(conn, BESIDE)):
                    yield
                    return


def _are_level(present: Sequence[Standing], beside: Sequence[Standing]) -> bool:
    """False while another runner has taken one of the present projections further than the next."""
    for ours, theirs in zip(present, beside, strict=True):
        if theirs.stopped_at is not None and theirs.position < ours.position:
            raise BadInput(f"the new read models stop where the present ones do not, so these stay: {theirs.reason}")
        if ours.position != theirs.position and ours.stopped_at is None:
            return False
    return True


def _compare(conn: Connection, ours: str, theirs: str) -> tuple[dict[str, int], dict[str, int]]:
    rows: dict[str, int] = {}
    differing: dict[str, int] = {}
    for table in TABLES:
        a, b = Identifier(ours, table.name), Identifier(theirs, table.name)
        found = conn.execute(
            SQL(
                "SELECT (SELECT count(*) FROM {b}), "
                "(SELECT count(*) FROM ((TABLE {a} EXCEPT ALL TABLE {b}) UNION ALL (TABLE {b} EXCEPT ALL TABLE {a})) d)"
            ).format(a=a, b=b)
        ).fetchone()
        rows[table.name], differing[table.name] = found or (0, 0)
    return rows, differing
