"""Protocol of projections: folds of events into rows. The runner reads the events and keeps the position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from psycopg import Connection
from psycopg.sql import SQL, Identifier

from engine.core.upcasters import TYPES
from engine.store import LogEntry
from projections.tables import TABLES, Row, Table

RowChange = tuple[Table, Row]


class Projection(Protocol):
    """A fold of events, with state if needed to return complete rows.

    consumes: stored event names that must not be skipped; other events are passed as well. streams: the kinds of a
    run's streams (`run`, `book`) that its rows are made from; a run that cannot be projected is set aside alone.
    """

    @property
    def name(self) -> str: ...

    @property
    def consumes(self) -> frozenset[str]: ...

    @property
    def streams(self) -> frozenset[str]: ...

    def apply(self, recorded: LogEntry) -> Iterable[RowChange]:
        """Return the complete rows that an event changes. Events come in order, each once unless `reset` is called."""
        ...

    def flush(self) -> Iterable[RowChange]:
        """Return the rows that follow from all events since the last call."""
        ...

    def reset(self) -> None:
        """Drop all state; the next event need not follow the last one."""
        ...


class ChangedRows(NamedTuple):
    """The latest state of the changed rows of one table, by key."""

    table: Table
    by_key: dict[Any, Row]


def must_stop_at(projection: Projection, name: str) -> bool:
    """Return True if a projection must not skip an unreadable event of this name; unknown names may concern any."""
    return name in projection.consumes or name not in TYPES


def project(projection: Projection, page: Sequence[LogEntry]) -> list[ChangedRows]:
    """Return the rows that a page of events changes."""
    changed = {table.name: ChangedRows(table, {}) for table in TABLES if table.projection == projection.name}
    keys = {name: cell_getter(rows.table.key) for name, rows in changed.items()}
    for recorded in page:
        for table, row in projection.apply(recorded):
            changed[table.name].by_key[keys[table.name](row)] = row
    for table, row in projection.flush():
        changed[table.name].by_key[keys[table.name](row)] = row
    return [rows for rows in changed.values() if rows.by_key]


def cell_getter(columns: Sequence[str]) -> Callable[[Row], Any]:
    """Return a function that gives the values of some columns of a row; for one column, the value itself."""
    return itemgetter(*columns)


def write_rows(conn: Connection[Any], schema: str, changed: Iterable[ChangedRows]) -> None:
    """Replace rows by their new versions, inside the caller's transaction.

    Rows are deleted and copied, not upserted: COPY is several times faster and needs no temporary table.
    """
    for table, by_key in changed:
        _delete(conn, schema, table, by_key.values())
        columns = SQL(", ").join(map(Identifier, table.names))
        query = SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(Identifier(schema, table.name), columns)
        cells = cell_getter(table.names)
        with conn.cursor().copy(query) as copy:
            copy.set_types([column.kind for column in table.columns])
            for row in by_key.values():
                copy.write_row(cells(row))


def _delete(conn: Connection[Any], schema: str, table: Table, rows: Iterable[Row]) -> None:
    if not table.replaced_by:
        return
    values = zip(*{tuple(str(row[name]) for name in table.replaced_by) for row in rows}, strict=True)
    query = SQL("DELETE FROM {} WHERE ({}) IN (SELECT * FROM unnest({}))").format(
        Identifier(schema, table.name),
        SQL(", ").join(map(Identifier, table.replaced_by)),
        SQL(", ").join([SQL("%s::text[]")] * len(table.replaced_by)),
    )
    conn.execute(query, [list(column) for column in values])
