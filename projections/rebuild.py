"""Rebuild of the read tables: projected again in a second schema, compared row by row, and switched."""

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
    """Result of a rebuild. rows, differing: counts by table; a differing row is in one of the two schemas only."""

    events: int
    rows: dict[str, int]
    differing: dict[str, int]

    @property
    def same(self) -> bool:
        return not any(self.differing.values())


def rebuild_read_models(
    store: Store, catalogue: BarCatalogue, dsn: str, progress: CountCallback = ignore_progress
) -> RebuildReport:
    """Rebuild the read tables; appends and reads may continue meanwhile, and other rebuilds wait.

    Raise `BadInput`, keeping the present tables, if an event stops the new tables that did not stop the present ones.
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
    """Open a connection that holds the lock on rebuilding and verifying."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtextextended('quantagent rebuild', 0))")
        yield conn


def build_beside(
    conn: Connection, store: Store, catalogue: BarCatalogue, dsn: str, schema: str, progress: CountCallback
) -> SchemaPair:
    """Project the log into another schema, replacing its content, and return it with the present tables."""
    schemas.drop_schema(conn, schema)
    pair = SchemaPair(Runner(store, catalogue, dsn), Runner(store, catalogue, dsn, schema))
    pair.events = pair.candidate.catch_up(progress)
    return pair


class SchemaPair:
    """The present tables and those of another schema, which has no other writer."""

    def __init__(self, present: Runner, candidate: Runner) -> None:
        self.present, self.candidate = present, candidate
        self.events = 0

    @contextmanager
    def hold_level(self, conn: Connection) -> Generator[None]:
        """Open a transaction that locks the present tables, with both schemas at the same position."""
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
        """Begin a transaction in which `reader` sees both schemas at one position of the log; return the position."""
        with self.hold_level(conn):
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT")
            return max(each.position for each in schemas.read_checkpoints(conn, self.candidate.schema))


def _are_level(present: Sequence[Checkpoint], candidate: Sequence[Checkpoint]) -> bool:
    """Return False while another runner has advanced a present projection beyond the candidate."""
    for ours, theirs in zip(present, candidate, strict=True):
        if theirs.stopped_at is not None and theirs.position < ours.position:
            raise BadInput(
                f"the new read models stopped where the present ones did not, and were not put in place: "
                f"{theirs.reason}"
            )
        if ours.position != theirs.position and ours.stopped_at is None:
            return False
    return True


def compare_schemas(conn: Connection, ours: str, theirs: str) -> tuple[dict[str, int], dict[str, int]]:
    """Count by table the rows of `theirs`, and the rows that are in one of the two schemas only."""
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
    """Return the query for all rows of a table, with its declared columns in order."""
    columns = SQL(", ").join(map(Identifier, table.names))
    return SQL("SELECT {} FROM {}").format(columns, Identifier(schema, table.name))
