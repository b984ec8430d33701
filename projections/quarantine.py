"""Runs that a projection has set aside: the failing event, the reason, and the condition for another attempt.

A run that cannot be projected has no rows in the tables of that projection, and no other run is affected. It is retried
when one of its inputs has changed: the program, the bars, or the event it failed at.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

import msgspec
from psycopg.sql import SQL, Composed, Identifier

from engine.core.events import Environment
from engine.runtime.runs import book_stream, run_stream
from engine.store import ENGINE_VERSION, LogEntry, Store
from engine.store.codec import stream_id
from projections import tables
from projections.account import stream_run_id
from projections.schemas import Connection
from projections.tables import VERSION

# A stream's name in the metadata of its events; it is trusted only if its identifier is that of the row.
_NAME = re.compile(rb',{"stream":"((?:run|book):[^"\\]{1,200})"')
_ROWS_SCANNED = 100


class SetAside(NamedTuple):
    """A run without rows in the tables of one projection, since the event at `position`."""

    projection: str
    run_id: str
    position: int
    reason: str


class EventOwner(NamedTuple):
    """The run that an event belongs to, and the kind of its stream: `run` or `book`."""

    kind: str
    run_id: str


def event_owner(recorded: LogEntry) -> EventOwner | None:
    run_id = stream_run_id(recorded)
    return None if run_id is None else EventOwner(recorded.stream.partition(":")[0], run_id)


def find_owner_at(conn: Connection, position: int) -> EventOwner | None:
    """Return the owner of an event that cannot be read, from the rows of its stream; None if no row names one."""
    rows = conn.execute(
        "SELECT originator_id, state FROM quantagent.events WHERE originator_id = "
        "(SELECT originator_id FROM quantagent.events WHERE notification_id = %s) ORDER BY originator_version LIMIT %s",
        (position, _ROWS_SCANNED),
    )
    for originator, state in rows:
        names = _NAME.findall(bytes(state))
        if names and stream_id(stream := names[-1].decode(errors="replace")) == originator:
            kind, _, run_id = stream.partition(":")
            return EventOwner(kind, run_id)
    return None


def run_events(store: Store, run_id: str, until: int) -> list[LogEntry]:
    """Return every event of a run up to a position, in log order. Errors of reading are passed on."""
    rows = [row for stream in (run_stream(run_id), book_stream(run_id)) for row in store.read(stream)]
    return sorted((row for row in rows if row.position <= until), key=lambda row: row.position)


def list_set_aside(conn: Connection, schema: str) -> list[SetAside]:
    query = SQL("SELECT projection, run_id, position, reason FROM {} ORDER BY projection, position, run_id")
    return [SetAside(*row) for row in conn.execute(query.format(_table(schema)))]


def set_aside_run_ids(conn: Connection, schema: str, projection: str) -> set[str]:
    """Return the runs whose events a projection skips."""
    query = SQL("SELECT run_id FROM {} WHERE projection = %s").format(_table(schema))
    return {run_id for (run_id,) in conn.execute(query, (projection,))}


def set_run_aside(conn: Connection, schema: str, run: SetAside, known_at: object) -> None:
    """Delete a run's rows from the projection's tables and record the reason, in the caller's transaction."""
    for table in tables.TABLES:
        if table.projection == run.projection and "run_id" in table.names:
            delete = SQL("DELETE FROM {} WHERE run_id = %s").format(Identifier(schema, table.name))
            conn.execute(delete, (run.run_id,))
    if run.projection == tables.RUNS.projection:
        _insert_run_row(conn, schema, run.run_id)
    query = SQL(
        "INSERT INTO {} (projection, run_id, position, reason, tried_with) SELECT %s, %s, %s, %s, {} "
        "ON CONFLICT (projection, run_id) DO UPDATE SET (position, reason, tried_with) = "
        "(excluded.position, excluded.reason, excluded.tried_with)"
    ).format(_table(schema), _input_fingerprint(SQL("%s")))
    conn.execute(query, (*run, _inputs(known_at), run.position))


def _insert_run_row(conn: Connection, schema: str, run_id: str) -> None:
    """Insert a row into the list of runs for a run whose stream cannot be read, with the readable request fields."""
    query = "SELECT state FROM quantagent.events WHERE originator_id = %s ORDER BY originator_version LIMIT 1"
    (state,) = conn.execute(query, (stream_id(run_stream(run_id)),)).fetchone() or (b"",)
    try:
        first = msgspec.json.decode(bytes(state), type=tuple[_RequestFields, _MetaFields])
    except (msgspec.DecodeError, UnicodeDecodeError):
        first = (_RequestFields(), _MetaFields())
    insert = SQL("INSERT INTO {} (run_id, environment, profile, variant, status, requested_at) VALUES ({})").format(
        Identifier(schema, tables.RUNS.name), SQL(", ").join([SQL("%s")] * 6)
    )
    line = (run_id, first[0].environment, first[0].profile, first[0].variant, "unreadable", first[1].recorded_at)
    conn.execute(insert, line)


class _RequestFields(msgspec.Struct):
    environment: Environment | None = None
    profile: str | None = None
    variant: str | None = None


class _MetaFields(msgspec.Struct):
    recorded_at: datetime | None = None


def delete_set_aside(conn: Connection, schema: str, run: SetAside) -> None:
    query = SQL("DELETE FROM {} WHERE projection = %s AND run_id = %s").format(_table(schema))
    conn.execute(query, (run.projection, run.run_id))


def list_retryable(conn: Connection, schema: str, known_at: object) -> list[SetAside]:
    """Return the runs set aside of which an input has changed since the last attempt."""
    query = SQL(
        "SELECT projection, run_id, position, reason FROM {} s WHERE tried_with IS DISTINCT FROM {} "
        "ORDER BY projection, s.position, run_id"
    ).format(_table(schema), _input_fingerprint(SQL("s.position")))
    return [SetAside(*row) for row in conn.execute(query, (_inputs(known_at),))]


def _inputs(known_at: object) -> str:
    return f"{ENGINE_VERSION} {VERSION} {known_at}"


def _input_fingerprint(position: SQL) -> Composed:
    """Return the expression for a text that changes with the program, the bars and the event at a position."""
    return SQL(
        "concat_ws(' ', %s::text, (SELECT e.topic || ' ' || md5(e.state) FROM quantagent.events e "
        "WHERE e.notification_id = {}))"
    ).format(position)


def _table(schema: str) -> Identifier:
    return Identifier(schema, "set_aside")
