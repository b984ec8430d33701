"""The read models checked against the log: made from it in a schema of their own, compared row for row, both kept.

What is compared is what readers see: the views. Nothing of the present tables is changed or dropped, so that a row
that is not what the log says can be looked at beside the right one.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from engine.data import Bars
from engine.store import Store
from projections import schemas
from projections.rebuild import compare, made_beside, one_at_a_time, rows_of
from projections.runner import Progress, unheard
from projections.schemas import PRESENT, VIEWS, Connection
from projections.tables import TABLES, Table

FROM_THE_LOG = f"{PRESENT}_from_the_log"

NAMED = 20
"""So many differing rows are named of each table; all are counted."""


class Cell(NamedTuple):
    """A value that readers see and the one that follows from the log, as text; None is null."""

    column: str
    shown: str | None
    from_the_log: str | None


class Differing(NamedTuple):
    """A row that differs: its table, key and cells; `missing` is not shown, `added` does not follow from the log."""

    table: str
    kind: str
    run_id: str | None
    key: dict[str, str]
    cells: tuple[Cell, ...]


class Verified(NamedTuple):
    """rows, differing: counts by table, at a position of the log; evidence: the schemas that hold both sides."""

    position: int
    rows: dict[str, int]
    differing: dict[str, int]
    examples: tuple[Differing, ...]
    evidence: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not any(self.differing.values())


def verify(store: Store, catalogue: Bars, dsn: str, progress: Progress = unheard) -> Verified:
    """Verifies while events may arrive and pages are read, and notes the result for `status`.

    The schema made from the log is kept where they differ, until the next call, and dropped where they do not. Raises
    `BadInput` when an event stops the tables made from the log where the present ones got past it.
    """
    with one_at_a_time(dsn) as conn, psycopg.connect(dsn, autocommit=True) as reader:
        pair = made_beside(conn, store, catalogue, dsn, FROM_THE_LOG, progress)
        position = pair.snapshot(conn, reader)
        rows, differing = compare(reader, VIEWS, FROM_THE_LOG)
        changed = [table for table in TABLES if differing[table.name]]
        examples = [each for table in changed for each in _differing(reader, table)]
        reader.execute("COMMIT")
        schemas.note_verified(conn, position, sum(differing.values()))
        if not changed:
            schemas.drop(conn, FROM_THE_LOG)
        evidence = (PRESENT, FROM_THE_LOG) if changed else ()
        return Verified(position, rows, differing, tuple(examples), evidence)


def _differing(conn: Connection, table: Table) -> list[Differing]:
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
        ours=rows_of(VIEWS, table),
        theirs=rows_of(FROM_THE_LOG, table),
        key=SQL(", ").join(map(Identifier, table.key)),
    )
    return [_differing_row(table, *row) for row in conn.execute(query, (NAMED,))]


def _differing_row(table: Table, is_shown: bool | None, is_right: bool | None, *values: str | None) -> Differing:
    both = [Cell(name, *values[2 * n : 2 * n + 2]) for n, name in enumerate(table.names)]
    kind = "changed" if is_shown and is_right else "added" if is_shown else "missing"
    own = {cell.column: cell.shown if is_shown else cell.from_the_log for cell in both}
    key = {name: own[name] or "" for name in table.key}
    changed = tuple(cell for cell in both if cell.shown != cell.from_the_log) if kind == "changed" else ()
    return Differing(table.name, kind, own.get("run_id"), key, changed)
