"""The read models checked against the log: made from it in a schema of their own, compared row for row, both kept.

What is compared is what readers see: the views. Nothing of the present tables is changed or dropped, so that a row
that is not what the log says can be looked at beside the right one.
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
"""So many differing rows are named of each table; all are counted."""


class CellDifference(NamedTuple):
    """A value that readers see and the one that follows from the log, as text; None is null."""

    column: str
    shown: str | None
    from_the_log: str | None


class RowDifference(NamedTuple):
    """A row that differs: its table, key and cells; `missing` is not shown, `added` does not follow from the log."""

    table: str
    kind: str
    run_id: str | None
    key: dict[str, str]
    cells: tuple[CellDifference, ...]


class ReadModelVerification(NamedTuple):
    """rows, differing: counts by table, at a position of the log; evidence: the schemas that hold both sides."""

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
    """Verifies while events may arrive and pages are read, and notes the result for `status`.

    The schema made from the log is kept where they differ, until the next call, and dropped where they do not. Raises
    `BadInput` when an event stops the tables made from the log where the present ones got past it.
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
    """The first rows of a table that are on one side only, those of one key together."""
    # Named otherwise than the key's columns, by which the rows are ordered.
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
