"""Append-only event store on PostgreSQL, using the recorder of the `eventsourcing` library.

No other module imports that library. It provides the table, optimistic concurrency through the primary key,
notifications and the connection pool. This module replaces class paths by event names, uses the project's own encoding,
and appends in its own way: serialized, by COPY, sealed and idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from time import sleep
from typing import Any, LiteralString, TypeVar, cast
from uuid import UUID

import psycopg
from eventsourcing.persistence import IntegrityError, PersistenceError, ProgrammingError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg_pool import PoolTimeout

from engine import clock
from engine.core.errors import EventMissing, RowsDropped, StoreUnavailable, VersionConflict
from engine.store import ENGINE_VERSION, NO_BYTES, PAGE, Batch, Cause, LogEntry, Meta
from engine.store.codec import decode_entry, encode_payload, encode_state, stored_name, stream_id
from engine.store.connections import RECOVERY, RETRY_PAUSE_S, check_dsn, failure_reason
from engine.store.hash_chain import COPY_BEGIN, COPY_END, Seal, SealBuilder, format_sealed_at, row_bytes

SCHEMA = "quantagent"
TABLE = "events"

# Longest wait of an append for other writers.
LOCK_TIMEOUT = "30s"

_NO_END = 2**63 - 1

_BEGIN = "SELECT first_position, seal, previous, sealed_at, sealed_by FROM quantagent.begin_append(%s)"
_COPY = (
    "COPY quantagent.events (originator_id, originator_version, topic, state, notification_id) "
    "FROM STDIN (FORMAT binary)"
)
_SELECT = "SELECT notification_id, originator_version, topic, state FROM quantagent.events WHERE "
_NEWEST = _SELECT + "notification_id < %s ORDER BY notification_id DESC LIMIT %s"
NEWEST_BY_NAME = (
    "SELECT e.* FROM unnest(%s::text[], %s::bytea[]) AS wanted (name, bytes), LATERAL ("
    "SELECT notification_id, originator_version, topic, state FROM quantagent.events "
    "WHERE topic = name AND -notification_id > -(%s::bigint) AND position(bytes in state) > 0 "
    "ORDER BY -notification_id LIMIT %s) e ORDER BY notification_id DESC LIMIT %s"
)
_SEAL = "INSERT INTO quantagent.seals VALUES (%s, %s, %s, %s, %s, %s, %s, %s::timestamptz, %s)"

# Rows are sent in chunks, so that the server stores one while the next is encoded.
_PIECE = 500

T = TypeVar("T")


class Recorder(PostgresApplicationRecorder):
    """Recorder of the library that writes by binary COPY, with one seal per append.

    Writers are serialized by `begin_append` instead of the library's table lock, which requires rights that allow
    changing events. So the library's own recorder can read this table, but not write to it.
    """

    def __init__(self, datastore: PostgresDatastore) -> None:
        if datastore.enable_db_functions:
            raise ProgrammingError("database functions commit positions out of order: a reader would miss events")
        super().__init__(datastore, events_table_name=TABLE)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        """Append all events or none and return their positions. Never retry: only the caller can compare."""
        count = len(stored_events)
        if not count:
            return []
        with (
            self.datastore.get_connection() as conn,
            conn.transaction(),
            conn.cursor(binary=True, row_factory=tuple_row) as curs,
        ):
            turn = curs.execute(_BEGIN, (count,)).fetchone()
            first, seal, previous, at, by = cast("tuple[int, int, bytes, datetime, str]", turn)
            sealing = SealBuilder(seal + 1, first, first + count - 1, count, previous, format_sealed_at(at), by)
            with curs.copy(_COPY) as copy:
                copy.write(COPY_BEGIN)
                for start in range(0, count, _PIECE):
                    copy.write(sealing.add(_encode_rows(stored_events[start : start + _PIECE], first + start)))
                copy.write(COPY_END)
            if curs.rowcount != count:
                raise RowsDropped("events", count, curs.rowcount)
            self._seal(curs, sealing.build())
        return list(range(first, first + count))

    def _seal(self, curs: psycopg.Cursor[Any], seal: Seal) -> None:
        if curs.execute(_SEAL, seal).rowcount != 1:
            raise RowsDropped("seals", 1, 0)


def _encode_rows(stored_events: Sequence[StoredEvent], first: int) -> list[bytes]:
    topics = {topic: topic.encode() for topic in {event.topic for event in stored_events}}
    return [
        row_bytes(_bytes_of(event.originator_id), event.originator_version, topics[event.topic], event.state, position)
        for position, event in enumerate(stored_events, first)
    ]


def _bytes_of(originator_id: UUID | str) -> bytes:
    return originator_id.bytes if isinstance(originator_id, UUID) else UUID(originator_id).bytes


class PostgresStore:
    """Event store in a database that `engine.store.migrations.migrate` has set up. Close it after use."""

    def __init__(self, dsn: str) -> None:
        try:
            self._recorder = Recorder(datastore(dsn))
        except PersistenceError as error:
            raise StoreUnavailable(
                f"the log cannot be opened: {_reason(error)}. Check that the database server runs."
            ) from None
        self.appended = 0

    def close(self) -> None:
        self._recorder.datastore.close()

    def __enter__(self) -> PostgresStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, batches: Sequence[Batch], cause: Cause) -> None:
        rows = [row for batch in batches for row in _rows(batch, cause)]
        try:
            # Retrying is safe even if the reply to a commit was lost: the stored events then conflict and are equal.
            self.appended += len(with_retry(lambda: self._recorder.insert_events(rows)))
        except IntegrityError:
            # The versions exist: from another writer, or from this one if the reply to its commit was lost.
            self._append_missing(batches, cause)
            self.appended += len(rows)
        except PersistenceError as error:
            raise StoreUnavailable(
                f"the log could not be written: {_reason(error)}. Nothing of this step was stored."
            ) from None

    def _append_missing(self, batches: Sequence[Batch], cause: Cause) -> None:
        missing = [self._missing(batch) for batch in batches]
        if missing == list(batches):
            raise VersionConflict(batches[0].stream, batches[0].after, -1)
        missing = [batch for batch in missing if batch.events]
        if missing:
            self.append(missing, cause)

    def _missing(self, batch: Batch) -> Batch:
        """Return the rest of a batch, without the events that its stream already has at those versions."""
        stored = [(row.name, row.payload) for row in self.read(batch.stream, batch.after)]
        count = len(stored)
        wanted = [(stored_name(event), encode_payload(event)) for event in batch.events]
        if stored[: len(wanted)] != wanted[:count]:
            raise VersionConflict(batch.stream, batch.after, batch.after + count)
        return Batch(batch.stream, batch.after + count, batch.events[count:])

    def read(self, stream: str, after: int = 0) -> Iterator[LogEntry]:
        key = stream_id(stream)
        while True:
            page = self._select("originator_id = %s AND originator_version > %s ORDER BY 2 LIMIT %s", key, after, PAGE)
            for row in page:
                if row.version != after + 1:
                    raise EventMissing(stream, after + 1)
                yield row
                after = row.version
            if len(page) < PAGE:
                return

    def read_many(self, streams: Sequence[str]) -> dict[str, list[LogEntry]]:
        found: dict[str, list[LogEntry]] = {}
        keys = [stream_id(stream) for stream in streams]
        for row in self._select("originator_id = ANY(%s) ORDER BY 1", keys):
            found.setdefault(row.stream, []).append(row)
        return found

    def read_all(
        self, after: int = 0, limit: int = PAGE, names: Sequence[str] = (), before: int | None = None
    ) -> list[LogEntry]:
        last = _NO_END if before is None else before
        between = "notification_id > %s AND notification_id < %s "
        if not names:
            return self._select(between + "ORDER BY 1 LIMIT %s", after, last, limit)
        return self._select(between + "AND topic = ANY(%s) ORDER BY 1 LIMIT %s", after, last, list(names), limit)

    def read_newest(
        self, limit: int, names: Sequence[str] = (), before: int | None = None, having: Mapping[str, bytes] = NO_BYTES
    ) -> list[LogEntry]:
        last = _NO_END if before is None else before
        if not names:
            return self._query(_NEWEST, last, limit)
        # One index scan per name: sorting the events of several names would read all of them.
        return self._query(NEWEST_BY_NAME, list(names), [having.get(name, b"") for name in names], last, limit, limit)

    def last_position(self) -> int:
        return self._read(self._recorder.max_notification_id) or 0

    def _select(self, condition: LiteralString, *values: object) -> list[LogEntry]:
        return self._query(_SELECT + condition, *values)

    def _query(self, query: LiteralString, *values: object) -> list[LogEntry]:
        def select() -> list[LogEntry]:
            with (
                self._recorder.datastore.get_connection() as conn,
                conn.cursor(binary=True, row_factory=tuple_row) as c,
            ):
                return [decode_entry(*row) for row in c.execute(query, values, prepare=True)]

        return self._read(select)

    def _read(self, work: Callable[[], T]) -> T:
        try:
            return with_retry(work)
        except PersistenceError as error:
            raise StoreUnavailable(
                f"the log could not be read: {_reason(error)}. Check that the database server runs."
            ) from None


def with_retry(work: Callable[[], T], recovery: timedelta = RECOVERY) -> T:
    """Return the result of `work`, retried after a lost connection until `recovery` has passed."""
    until = clock.now() + recovery
    while True:
        try:
            return work()
        except PersistenceError as error:
            if not _connection_was_lost(error) or clock.now() > until:
                raise
            sleep(RETRY_PAUSE_S)


def _connection_was_lost(error: PersistenceError) -> bool:
    """Return True if the server stops, starts or is away; False for its errors: disk, timeout, rights, conflict."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) or isinstance(cause, PoolTimeout):
        return False
    return cause.sqlstate is None or cause.sqlstate.startswith(("08", "57P"))


def _reason(error: PersistenceError) -> str:
    return failure_reason(error.__cause__ or error)


def _rows(batch: Batch, cause: Cause) -> list[StoredEvent]:
    meta = Meta(batch.stream, clock.now(), cause.actor, cause.correlation, cause.causation, ENGINE_VERSION)
    key = stream_id(batch.stream)
    return [
        StoredEvent(key, version, stored_name(event), encode_state(encode_payload(event), meta))
        for version, event in enumerate(batch.events, batch.after + 1)
    ]


def datastore(dsn: str) -> PostgresDatastore:
    """Return the library's connection pool for a database. Raise `BadInput` for an invalid connection string."""
    check_dsn(dsn)
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
        idle_in_transaction_session_timeout=60,
        connect_timeout=20,
    )
    # The library uses only five settings of a DSN; the others, such as TLS, are added here.
    pool_kwargs = cast("dict[str, Any]", datastore.pool.kwargs)
    pool_kwargs.update({name: value for name, value in given.items() if value is not None})
    # An append must see what others committed while it waited, whatever the server's default isolation is.
    ours = rf"-c lock_timeout={LOCK_TIMEOUT} -c default_transaction_isolation=read\ committed"
    pool_kwargs["options"] = f"{given.get('options') or ''} {ours}".strip()
    return datastore
