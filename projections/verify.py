"""Verification of the read models: they are projected again in a separate schema and compared row by row.

The comparison reads the views, as readers do. The present tables are neither changed nor dropped, so that a wrong row
can be inspected next to the right one.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from engine.data import BarCatalogue
from engine.store import Store
from projections import schemas
from projections.rebuild import build_beside, compare_schemas, exclusive_connection, select_rows
from projections.runner import CountCallback, ignore_progress
from projections.schemas import CURRENT_SCHEMA, VIEWS_SCHEMA, Connection
from projections.tables import TABLES, Table

REBUILT_SCHEMA = f"{CURRENT_SCHEMA}_from_the_log"

EXAMPLES_MAX = 20
"""Number of differing rows listed per table; all are counted."""


class CellDifference(NamedTuple):
    """The value that readers see and the one that follows from the log, as text; None is null."""

    column: str
    shown: str | None
    from_the_log: str | None


class RowDifference(NamedTuple):
    """A row that differs: table, key and cells.

    kind: `changed`, `missing` (not in the views) or `added` (does not follow from the log).
    """

    table: str
    kind: str
    run_id: str | None
    key: dict[str, str]
    cells: tuple[CellDifference, ...]


class ReadModelVerification(NamedTuple):
    """Result of a verification at a position of the log.

    rows, differing: counts by table; evidence: the schemas that hold both sides, if they differ.
    """

    position: int
    rows: dict[str, int]
    differing: dict[str, int]
    examples: tuple[RowDifference, ...]
    evidence: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not any(self.differing.values())


def verify_read_models(
    store: Store, catalogue: BarCatalogue, dsn: str, progress: CountCallback = ignore_progress
) -> ReadModelVerification:
    """Verify the read models and record the result for `status`; appends and reads may continue meanwhile.

    The rebuilt schema is kept until the next call if it differs, and dropped otherwise. Raise `BadInput` if an event
    stops the rebuilt tables that did not stop the present ones.
    """
    with exclusive_connection(dsn) as conn, psycopg.connect(dsn, autocommit=True) as reader:
        pair = build_beside(conn, store, catalogue, dsn, REBUILT_SCHEMA, progress)
        position = pair.snapshot(conn, reader)
        rows, differing = compare_schemas(reader, VIEWS_SCHEMA, REBUILT_SCHEMA)
        changed = [table for table in TABLES if differing[table.name]]
        examples = [each for table in changed for each in _row_differences(reader, table)]
        reader.execute("COMMIT")
        schemas.record_verification(conn, position, sum(differing.values()))
        if not changed:
            schemas.drop_schema(conn, REBUILT_SCHEMA)
        evidence = (CURRENT_SCHEMA, REBUILT_SCHEMA) if changed else ()
        return ReadModelVerification(position, rows, differing, tuple(examples), evidence)


def _row_differences(conn: Connection, table: Table) -> list[RowDifference]:
    """Return the first rows of a table that are on one side only, paired by key."""
    # The names differ from the key's columns, which order the rows.
    cells = [
        SQL("{}::text AS cell").format(Identifier(side, name)) for name in table.names for side in ("shown", "right")
    ]
    query = SQL(
        'SELECT shown.here, "right".here, {cells} FROM (SELECT true AS here, x.* FROM ({ours} EXCEPT ALL {theirs}) x) '
        'shown FULL JOIN (SELECT true AS here, y.* FROM ({theirs} EXCEPT ALL {ours}) y) "right" USING ({key}) '
        "ORDER BY {key} LIMIT %s"
    ).format(
        cells=SQL(", ").join(cells),
        ours=select_rows(VIEWS_SCHEMA, table),
        theirs=select_rows(REBUILT_SCHEMA, table),
        key=SQL(", ").join(map(Identifier, table.key)),
    )
    return [_differing_row(table, *row) for row in conn.execute(query, (EXAMPLES_MAX,))]


def _differing_row(table: Table, is_shown: bool | None, is_right: bool | None, *values: str | None) -> RowDifference:
    both = [CellDifference(name, *values[2 * n : 2 * n + 2]) for n, name in enumerate(table.names)]
    kind = "changed" if is_shown and is_right else "added" if is_shown else "missing"
    own = {cell.column: cell.shown if is_shown else cell.from_the_log for cell in both}
    key = {name: own[name] or "" for name in table.key}
    changed = tuple(cell for cell in both if cell.shown != cell.from_the_log) if kind == "changed" else ()
    return RowDifference(table.name, kind, own.get("run_id"), key, changed)
