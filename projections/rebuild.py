"""The read tables made anew beside the present ones, compared row for row, and put in their place."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from engine.core.errors import BadInput
from engine.data import BarCatalogue
from engine.store import Store
from projections import schemas
from projections.runner import CountCallback, Runner, ignore_progress
from projections.schemas import CURRENT_SCHEMA, Checkpoint, Connection
from projections.tables import TABLES, Table

NEXT_SCHEMA = f"{CURRENT_SCHEMA}_next"


class RebuildReport(NamedTuple):
    """rows: by table; differing: by table, how many rows were in one of the two schemas only."""

    events: int
    rows: dict[str, int]
    differing: dict[str, int]

    @property
    def same(self) -> bool:
        return not any(self.differing.values())


def rebuild_read_models(
    store: Store, catalogue: BarCatalogue, dsn: str, progress: CountCallback = ignore_progress
) -> RebuildReport:
    """Rebuilds while events may arrive and pages are read; two rebuilds take turns.

    Raises `BadInput` when an event stops the new tables where the present ones got past it: those stay.
    """
    with exclusive_connection(dsn) as conn, psycopg.connect(dsn, autocommit=True) as reader:
        pair = build_beside(conn, store, catalogue, dsn, NEXT_SCHEMA, progress)
        pair.snapshot(conn, reader)
        compared = compare_schemas(reader, CURRENT_SCHEMA, NEXT_SCHEMA)
        reader.execute("COMMIT")
        with pair.hold_level(conn):
            schemas.switch_tables(conn, NEXT_SCHEMA)
        schemas.drop_retired(conn)
        return RebuildReport(pair.events, *compared)


@contextmanager
def exclusive_connection(dsn: str) -> Generator[Connection]:
    """A connection whose holder is the only one that makes tables from the whole log."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtextextended('quantagent rebuild', 0))")
        yield conn


def build_beside(
    conn: Connection, store: Store, catalogue: BarCatalogue, dsn: str, schema: str, progress: CountCallback
) -> SchemaPair:
    """The present tables, and those of another schema, made from the log in the place of what was there."""
    schemas.drop_schema(conn, schema)
    pair = SchemaPair(Runner(store, catalogue, dsn), Runner(store, catalogue, dsn, schema))
    pair.events = pair.candidate.catch_up(progress)
    return pair


class SchemaPair:
    """The present tables and those of another schema, which nobody else writes."""

    def __init__(self, present: Runner, candidate: Runner) -> None:
        self.present, self.candidate = present, candidate
        self.events = 0

    @contextmanager
    def hold_level(self, conn: Connection) -> Generator[None]:
        """A transaction in which the present tables stand still, and those beside them are as far."""
        while True:
            self.events += self.candidate.catch_up()
            self.present.catch_up()
            with conn.transaction():
                schemas.lock_positions(conn, CURRENT_SCHEMA)
                ours = schemas.read_checkpoints(conn, CURRENT_SCHEMA)
                self.events += self.candidate.catch_up(until=max(each.position for each in ours))
                if _are_level(ours, schemas.read_checkpoints(conn, self.candidate.schema)):
                    yield
                    return

    def snapshot(self, conn: Connection, reader: Connection) -> int:
        """Begins a transaction in which `reader` sees both at one position of the log, and returns that."""
        with self.hold_level(conn):
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT")
            return max(each.position for each in schemas.read_checkpoints(conn, self.candidate.schema))


def _are_level(present: Sequence[Checkpoint], candidate: Sequence[Checkpoint]) -> bool:
    """False while another runner has taken one of the present projections further than the next."""
    for ours, theirs in zip(present, candidate, strict=True):
        if theirs.stopped_at is not None and theirs.position < ours.position:
            raise BadInput(f"the new read models stop where the present ones do not, so these stay: {theirs.reason}")
        if ours.position != theirs.position and ours.stopped_at is None:
            return False
    return True


def compare_schemas(conn: Connection, ours: str, theirs: str) -> tuple[dict[str, int], dict[str, int]]:
    """By table: how many rows `theirs` has, and how many rows are in one of the two schemas only."""
    rows: dict[str, int] = {}
    differing: dict[str, int] = {}
    for table in TABLES:
        a, b = (select_rows(schema, table) for schema in (ours, theirs))
        found = conn.execute(
            SQL(
                "SELECT (SELECT count(*) FROM ({b}) t), "
                "(SELECT count(*) FROM (({a} EXCEPT ALL {b}) UNION ALL ({b} EXCEPT ALL {a})) d)"
            ).format(a=a, b=b)
        ).fetchone()
        rows[table.name], differing[table.name] = found or (0, 0)
    return rows, differing


def select_rows(schema: str, table: Table) -> Composed:
    """The query for all rows of a table, in the order of its declared columns."""
    columns = SQL(", ").join(map(Identifier, table.names))
    return SQL("SELECT {} FROM {}").format(columns, Identifier(schema, table.name))
