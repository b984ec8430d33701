"""The read tables made anew beside the present ones, compared row for row, and put in their place."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from engine.core.errors import BadInput
from engine.data import Bars
from engine.store import Store
from projections import schemas
from projections.runner import Progress, Runner, unheard
from projections.schemas import PRESENT, Connection, Standing
from projections.tables import TABLES, Table

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
    with one_at_a_time(dsn) as conn, psycopg.connect(dsn, autocommit=True) as reader:
        pair = made_beside(conn, store, catalogue, dsn, BESIDE, progress)
        pair.snapshot(conn, reader)
        compared = compare(reader, PRESENT, BESIDE)
        reader.execute("COMMIT")
        with pair.level(conn):
            schemas.switch(conn, BESIDE)
        schemas.sweep(conn)
        return Rebuilt(pair.events, *compared)


@contextmanager
def one_at_a_time(dsn: str) -> Generator[Connection]:
    """A connection whose holder is the only one that makes tables from the whole log."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtextextended('quantagent rebuild', 0))")
        yield conn


def made_beside(conn: Connection, store: Store, catalogue: Bars, dsn: str, schema: str, progress: Progress) -> Pair:
    """The present tables, and those of another schema, made from the log in the place of what was there."""
    schemas.drop(conn, schema)
    pair = Pair(Runner(store, catalogue, dsn), Runner(store, catalogue, dsn, schema))
    pair.events = pair.beside.catch_up(progress)
    return pair


class Pair:
    """The present tables and those of another schema, which nobody else writes."""

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
                if _are_level(ours, schemas.standings(conn, self.beside.schema)):
                    yield
                    return

    def snapshot(self, conn: Connection, reader: Connection) -> int:
        """Begins a transaction in which `reader` sees both at one position of the log, and returns that."""
        with self.level(conn):
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT")
            return max(each.position for each in schemas.standings(conn, self.beside.schema))


def _are_level(present: Sequence[Standing], beside: Sequence[Standing]) -> bool:
    """False while another runner has taken one of the present projections further than the next."""
    for ours, theirs in zip(present, beside, strict=True):
        if theirs.stopped_at is not None and theirs.position < ours.position:
            raise BadInput(f"the new read models stop where the present ones do not, so these stay: {theirs.reason}")
        if ours.position != theirs.position and ours.stopped_at is None:
            return False
    return True


def compare(conn: Connection, ours: str, theirs: str) -> tuple[dict[str, int], dict[str, int]]:
    """By table: how many rows `theirs` has, and how many rows are in one of the two schemas only."""
    rows: dict[str, int] = {}
    differing: dict[str, int] = {}
    for table in TABLES:
        a, b = (rows_of(schema, table) for schema in (ours, theirs))
        found = conn.execute(
            SQL(
                "SELECT (SELECT count(*) FROM ({b}) t), "
                "(SELECT count(*) FROM (({a} EXCEPT ALL {b}) UNION ALL ({b} EXCEPT ALL {a})) d)"
            ).format(a=a, b=b)
        ).fetchone()
        rows[table.name], differing[table.name] = found or (0, 0)
    return rows, differing


def rows_of(schema: str, table: Table) -> Composed:
    """The query for all rows of a table, in the order of its declared columns."""
    columns = SQL(", ").join(map(Identifier, table.names))
    return SQL("SELECT {} FROM {}").format(columns, Identifier(schema, table.name))
