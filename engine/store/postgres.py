"""The log in PostgreSQL, through the `eventsourcing` library's recorder. The only module that imports that library.

What the library gives: one table, optimistic concurrency by its primary key, positions in commit order, notifications.
What is ours: names instead of class paths, our own bytes, appends that may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, LiteralString, cast

import psycopg
from eventsourcing.persistence import IntegrityError, InterfaceError, OperationalError, PersistenceError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from eventsourcing.utils import retry
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from engine import clock
from engine.errors import BookMoved, StoreUnavailable
from engine.store import ENGINE_VERSION, PAGE, Batch, Cause, Meta, Recorded
from engine.store.codec import name_of, payload_of, recorded, state_of, stream_id

SCHEMA = "quantagent"
TABLE = "events"

_NO_END = 2**63 - 1


class Recorder(PostgresApplicationRecorder):
    """The library's recorder, its table and its lock, with another way of sending.

    Four plain arrays instead of one array of composites are several times faster. And no pipeline: with megabytes in
    one call the library's never returns, because client and server both wait for the other to read.
    """

    def __init__(self, datastore: PostgresDatastore) -> None:
        super().__init__(datastore, events_table_name=TABLE)
        self.insert_events_statement = SQL(
            "INSERT INTO {}.{} AS t (originator_id, originator_version, topic, state) "
            "SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::text[], %b::bytea[]) RETURNING notification_id"
        ).format(Identifier(SCHEMA), Identifier(TABLE))

    @retry((InterfaceError, OperationalError), max_attempts=10, wait=0.2)
    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        with self.datastore.get_connection() as conn, conn.transaction(), conn.cursor() as curs:
            self._insert_stored_events(curs, stored_events, **kwargs)
            return self._fetch_ids_after_insert_events(curs, stored_events, **kwargs)

    def _insert_stored_events(self, curs: psycopg.Cursor[Any], stored_events: Sequence[StoredEvent], **_: Any) -> None:
        # The lock makes commit order equal position order: without it a reader that follows the log could pass over
        # an event that commits late with a lower position, and miss it for ever.
        self._lock_table(curs)
        self._notify_channel(curs)
        columns = (
            [event.originator_id for event in stored_events],
            [event.originator_version for event in stored_events],
            [event.topic for event in stored_events],
            [event.state for event in stored_events],
        )
        curs.execute(self.insert_events_statement, columns)


class PostgresStore:
    """A store over one database that `engine.store.migrations.migrate` has set up. Close it when done."""

    def __init__(self, dsn: str) -> None:
        self._recorder = Recorder(datastore(dsn))

    def close(self) -> None:
        self._recorder.datastore.close()

    def __enter__(self) -> PostgresStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, batches: Sequence[Batch], cause: Cause) -> None:
        rows = [row for batch in batches for row in _rows(batch, cause)]
        try:
            if rows:
                self._recorder.insert_events(rows)
        except IntegrityError:
            # Somebody was first: perhaps we ourselves, on a connection that died before the reply came.
            self._append_what_is_missing(batches, cause)
        except PersistenceError as error:
            raise StoreUnavailable(
                f"the log could not be written: {error}. Nothing of this step was stored."
            ) from error

    def _append_what_is_missing(self, batches: Sequence[Batch], cause: Cause) -> None:
        missing = [self._missing(batch) for batch in batches]
        if missing == list(batches):
            raise BookMoved(batches[0].stream, batches[0].after, -1)
        missing = [batch for batch in missing if batch.events]
        if missing:
            self.append(missing, cause)

    def _missing(self, batch: Batch) -> Batch:
        """What is left of a batch after the facts that its stream already has at those versions."""
        here = [(row.name, row.payload) for row in self.read(batch.stream, batch.after)]
        there = len(here)
        wanted = [(name_of(event), payload_of(event)) for event in batch.events]
        if here[: len(wanted)] != wanted[:there]:
            raise BookMoved(batch.stream, batch.after, batch.after + there)
        return Batch(batch.stream, batch.after + there, batch.events[there:])

    def read(self, stream: str, after: int = 0) -> Iterator[Recorded]:
        key = stream_id(stream)
        while True:
            page = self._select("originator_id = %s AND originator_version > %s ORDER BY 2 LIMIT %s", key, after, PAGE)
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].version

    def read_many(self, streams: Sequence[str]) -> dict[str, list[Recorded]]:
        found: dict[str, list[Recorded]] = {}
        keys = [stream_id(stream) for stream in streams]
        for row in self._select("originator_id = ANY(%s) ORDER BY 1", keys):
            found.setdefault(row.stream, []).append(row)
        return found

    def read_all(
        self, after: int = 0, limit: int = PAGE, names: Sequence[str] = (), before: int | None = None
    ) -> list[Recorded]:
        last = _NO_END if before is None else before
        between = "notification_id > %s AND notification_id < %s "
        if not names:
            return self._select(between + "ORDER BY 1 LIMIT %s", after, last, limit)
        return self._select(between + "AND topic = ANY(%s) ORDER BY 1 LIMIT %s", after, last, list(names), limit)

    def head(self) -> int:
        return self._recorder.max_notification_id() or 0

    def _select(self, condition: LiteralString, *values: object) -> list[Recorded]:
        query = SQL("SELECT notification_id, originator_version, topic, state FROM {}.{} WHERE ").format(
            Identifier(SCHEMA), Identifier(TABLE)
        ) + SQL(condition)
        try:
            with (
                self._recorder.datastore.get_connection() as conn,
                conn.cursor(binary=True, row_factory=tuple_row) as curs,
            ):
                return [recorded(*row) for row in curs.execute(query, values, prepare=True)]
        except PersistenceError as error:
            raise StoreUnavailable(
                f"the log could not be read: {error}. Check that the database server runs."
            ) from error


def _rows(batch: Batch, cause: Cause) -> list[StoredEvent]:
    meta = Meta(batch.stream, clock.now(), cause.actor, cause.correlation, cause.causation, ENGINE_VERSION)
    key = stream_id(batch.stream)
    return [
        StoredEvent(key, version, name_of(event), state_of(payload_of(event), meta))
        for version, event in enumerate(batch.events, batch.after + 1)
    ]


def datastore(dsn: str) -> PostgresDatastore:
    """The library's pool of connections to a database."""
    given = conninfo_to_dict(dsn)
    datastore = PostgresDatastore(
        dbname=str(given.get("dbname") or ""),
        host=str(given.get("host") or ""),
        port=str(given.get("port") or ""),
        user=str(given.get("user") or ""),
        password=str(given.get("password") or ""),
        schema=SCHEMA,
        pool_size=1,
        max_overflow=4,
        pre_ping=True,
        lock_timeout=30,
        idle_in_transaction_session_timeout=60,
        connect_timeout=10,
    )
    # The library passes on five settings of a DSN; TLS and the like must not be lost on the way.
    pool_kwargs = cast("dict[str, Any]", datastore.pool.kwargs)
    pool_kwargs.update({name: value for name, value in given.items() if value is not None})
    return datastore
