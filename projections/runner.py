"""Runner of the projections: brings the read tables up to date with the log.

The runner reads pages of events, lets each projection fold them into rows, and writes the rows and the projection's
position in one transaction. A run that cannot be projected is set aside, and all others continue. An event of no run
that cannot be projected stops the projection that needs it, and the other projections continue. Any number of runners
may work at once: the holder of the lock on a projection's position writes its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from engine.core.errors import QuantagentError, StoreUnavailable, UnreadableEvent
from engine.data import BarCatalogue
from engine.store import LogEntry, Store
from projections import quarantine, schemas
from projections.account import stream_run_id
from projections.accounts import Books
from projections.analyses import Analyses
from projections.models import Models
from projections.performance import Performance
from projections.profiles import Profiles
from projections.projection import Projection, must_stop_at, project, write_rows
from projections.quarantine import EventOwner, SetAside
from projections.run_list import Runs
from projections.schemas import CURRENT_SCHEMA, Checkpoint, Connection, VerificationRecord
from projections.tables import VERSION

PAGE = 5_000

CountCallback = Callable[[int, int], None]


def ignore_progress(done: int, total: int) -> None:
    del done, total


class ProjectionStatus(NamedTuple):
    """Position of one projection. `lag` counts the events still to project of the names it consumes."""

    projection: str
    position: int
    lag: int
    stopped_at: int | None
    reason: str | None
    updated_at: datetime


class ReadModelStatus(NamedTuple):
    """State of the read models and of each projection; `published`: True if readers see this version."""

    schema: str
    version: int
    published: bool
    head: int
    projections: tuple[ProjectionStatus, ...]
    set_aside: tuple[SetAside, ...] = ()
    verified: VerificationRecord | None = None

    @property
    def position(self) -> int:
        return min(each.position for each in self.projections)

    @property
    def lag(self) -> int:
        return max(each.lag for each in self.projections)

    @property
    def stopped(self) -> tuple[ProjectionStatus, ...]:
        return tuple(each for each in self.projections if each.stopped_at is not None)


class Runner:
    """A writer of the read tables. Not thread-safe; several runners, in any number of processes, are safe."""

    def __init__(
        self,
        store: Store,
        catalogue: BarCatalogue,
        dsn: str,
        schema: str = CURRENT_SCHEMA,
        projections: Sequence[Projection] | None = None,
    ) -> None:
        self._store, self._catalogue, self.dsn, self.schema = store, catalogue, dsn, schema
        self._projections = projections or (
            Analyses(store),
            Books(store),
            Models(store),
            Performance(store, catalogue, dsn),
            Profiles(store),
            Runs(store),
        )
        self._positions: dict[str, int] = {}

    def catch_up(self, progress: CountCallback = ignore_progress, until: int | None = None) -> int:
        """Project the events now in the log, or up to `until`; return their number.

        A run that cannot be projected is set aside, and retried by a later call when its inputs have changed. An event
        of no run that cannot be projected stops the projection that needs it, and is retried by the next call. `status`
        reports both. progress: called with the number of positions done and in total. Raise `BadInput` if a newer
        program has published its version.
        """
        done = 0
        with self._connection() as conn:
            # Events appended meanwhile are left to the next call; otherwise a busy writer could keep this one running.
            until = self._store.last_position() if until is None else until
            start = min(checkpoint.position for checkpoint in schemas.read_checkpoints(conn, self.schema))
            self._retry_set_aside(conn)
            active = {projection.name: projection for projection in self._projections}
            try:
                while active:
                    count, position = self._advance(conn, active, until)
                    done += count
                    if count:
                        progress(position - start, until - start)
            except psycopg.errors.UndefinedTable:
                # Most likely a newer program has just published its version and retired these tables.
                schemas.check_version(conn)
                raise
            if self.schema == CURRENT_SCHEMA:
                schemas.publish_version(conn)
        return done

    def status(self) -> ReadModelStatus:
        with self._connection() as conn:
            version = schemas.published_version(conn)
            found = [
                self._projection_status(conn, checkpoint) for checkpoint in schemas.read_checkpoints(conn, self.schema)
            ]
            set_aside = tuple(quarantine.list_set_aside(conn, self.schema))
            verified = schemas.last_verification(conn, self.schema)
        head = self._store.last_position()
        return ReadModelStatus(self.schema, VERSION, version == VERSION, head, tuple(found), set_aside, verified)

    def describe_incomplete(self) -> str | None:
        """Return a sentence naming the projections that have stopped; None if there are none.

        Runs that were set aside are not included: their own rows in the table of runs have the reason.
        """
        with self._connection() as conn:
            stopped = [each for each in schemas.read_checkpoints(conn, self.schema) if each.stopped_at is not None]
        if not stopped:
            return None
        described = " and ".join(f"{each.projection} at event {each.stopped_at}" for each in stopped)
        return f"the read models are incomplete: stopped {described}."

    def _connection(self) -> psycopg.Connection[Any]:
        conn = psycopg.connect(self.dsn, autocommit=True)
        try:
            # A crash of the server may lose the latest rows together with their position; the log still has the events.
            conn.execute("SET synchronous_commit = off")
            schemas.prepare_tables(conn, self.schema, self._store.last_position)
        except BaseException:
            conn.close()
            raise
        return conn

    def _projection_status(self, conn: Connection, checkpoint: Checkpoint) -> ProjectionStatus:
        (consumes,) = (each.consumes for each in self._projections if each.name == checkpoint.projection)
        row = conn.execute(
            "SELECT count(*) FROM quantagent.events WHERE notification_id > %s AND topic = ANY(%s)",
            (checkpoint.position, sorted(consumes)),
        ).fetchone()
        return ProjectionStatus(
            checkpoint.projection,
            checkpoint.position,
            0 if row is None else int(row[0]),
            checkpoint.stopped_at,
            checkpoint.reason,
            checkpoint.updated_at,
        )

    def _advance(self, conn: Connection, active: dict[str, Projection], until: int) -> tuple[int, int]:
        """Advance the projections that are furthest behind by one page; return the number of events and the position.

        Projections that cannot continue, or are at the end, are removed from `active`. Usually all have the same
        position, so that each page is read once.
        """
        checkpoints = [each for each in schemas.read_checkpoints(conn, self.schema) if each.projection in active]
        after = min(each.position for each in checkpoints)
        furthest_behind = [each for each in checkpoints if each.position == after]
        # An event at which a projection stopped is retried alone before anything after it is read.
        stops = [each.stopped_at for each in furthest_behind if each.stopped_at is not None]
        page, unreadable = self._read(after, min([*stops, until]))
        for each in furthest_behind:
            projection = active[each.projection]
            if page:
                continues = self._project(conn, projection, after, page)
            elif unreadable:
                continues = self._skip_unreadable(conn, projection, after, unreadable)
            else:
                continues = False
            if not continues:
                del active[projection.name]
        return len(page), page[-1].position if page else after

    def _read(self, after: int, until: int) -> tuple[Sequence[LogEntry], UnreadableEvent | None]:
        """Return the readable events after a position; if there are none, the error of the first one."""
        try:
            return self._store.read_all(after, PAGE, before=until + 1), None
        except UnreadableEvent as error:
            page = self._store.read_all(after, PAGE, before=error.position)
            return page, None if page else error

    def _project(self, conn: Connection, projection: Projection, after: int, page: Sequence[LogEntry]) -> bool:
        """Project a page, or as much of its beginning as possible; return False if it stops before its first event.

        The event that fails, in reading, folding or writing, is found by halving the page.
        """
        while True:
            try:
                self._commit(conn, projection, after, page)
            except Exception as error:
                projection.reset()
                if not _is_caused_by_event(error):
                    raise
                if len(page) == 1:
                    reason = _describe_failure(page[0].position, error)
                    owner = quarantine.event_owner(page[0])
                    return self._set_aside_or_stop(conn, projection, after, page[0].position, owner, reason)
                page = page[: len(page) // 2]
            else:
                return True

    def _commit(self, conn: Connection, projection: Projection, after: int, page: Sequence[LogEntry]) -> None:
        """Write rows and position of a page in one transaction; do nothing if another runner was first."""
        name = projection.name
        with conn.transaction():
            if schemas.lock_position(conn, self.schema, name) != after:
                return
            # Folding changes the projection's state, which is only valid if this page is committed.
            if self._positions.pop(name, None) != after:
                projection.reset()
            passed_over = quarantine.set_aside_run_ids(conn, self.schema, name)
            if passed_over:
                kept = [each for each in page if stream_run_id(each) not in passed_over]
                write_rows(conn, self.schema, project(projection, kept))
            else:
                write_rows(conn, self.schema, project(projection, page))
            schemas.advance_checkpoint(conn, self.schema, name, page[-1].position)
        self._positions[name] = page[-1].position

    def _skip_unreadable(
        self, conn: Connection, projection: Projection, after: int, unreadable: UnreadableEvent
    ) -> bool:
        """Skip an event that cannot be read, if the projection does not need it or only one run does."""
        owner = quarantine.find_owner_at(conn, unreadable.position)
        concerned = must_stop_at(projection, unreadable.name)
        if concerned and owner is None:
            self._stop(conn, projection, after, unreadable.position, str(unreadable))
            return False
        if concerned and owner is not None and owner.kind in projection.streams:
            return self._set_aside_or_stop(conn, projection, after, unreadable.position, owner, str(unreadable))
        with conn.transaction():
            if schemas.lock_position(conn, self.schema, projection.name) == after:
                schemas.advance_checkpoint(conn, self.schema, projection.name, unreadable.position)
                if self._positions.get(projection.name) == after:
                    self._positions[projection.name] = unreadable.position
        return True

    def _set_aside_or_stop(
        self, conn: Connection, projection: Projection, after: int, at: int, owner: EventOwner | None, reason: str
    ) -> bool:
        """Set the run of an event aside and continue after it, or stop before an event of no run."""
        if owner is None or owner.kind not in projection.streams:
            self._stop(conn, projection, after, at, reason)
            return False
        projection.reset()
        self._positions.pop(projection.name, None)
        with conn.transaction():
            if schemas.lock_position(conn, self.schema, projection.name) == after:
                run = SetAside(projection.name, owner.run_id, at, reason)
                quarantine.set_run_aside(conn, self.schema, run, self._catalogue.known_at())
                schemas.advance_checkpoint(conn, self.schema, projection.name, at)
        return True

    def _retry_set_aside(self, conn: Connection) -> None:
        """Project the runs that were set aside and whose inputs have changed since."""
        known_at = self._catalogue.known_at()
        by_name = {projection.name: projection for projection in self._projections}
        for run in quarantine.list_retryable(conn, self.schema, known_at):
            projection = by_name[run.projection]
            projection.reset()
            self._positions.pop(projection.name, None)
            try:
                self._restore_run(conn, projection, run)
            except Exception as error:
                if not _is_caused_by_event(error):
                    raise
                with conn.transaction():
                    if schemas.lock_position(conn, self.schema, run.projection) >= run.position:
                        retried = run._replace(reason=_describe_failure(run.position, error))
                        quarantine.set_run_aside(conn, self.schema, retried, known_at)
            finally:
                projection.reset()

    def _restore_run(self, conn: Connection, projection: Projection, run: SetAside) -> None:
        """Project a run that was set aside, from its beginning to the position of the projection."""
        with conn.transaction():
            position = schemas.lock_position(conn, self.schema, run.projection)
            if (
                run.run_id in quarantine.set_aside_run_ids(conn, self.schema, run.projection)
                and position >= run.position
            ):
                write_rows(
                    conn, self.schema, project(projection, quarantine.run_events(self._store, run.run_id, position))
                )
                quarantine.delete_set_aside(conn, self.schema, run)

    def _stop(self, conn: Connection, projection: Projection, after: int, at: int, reason: str) -> None:
        with conn.transaction():
            if schemas.lock_position(conn, self.schema, projection.name) == after:
                schemas.stop_checkpoint(conn, self.schema, projection.name, at, reason)


def _is_caused_by_event(error: Exception) -> bool:
    """Return True if the error is due to the event; an unavailable database or disk fails with every event."""
    if isinstance(error, psycopg.Error):
        return isinstance(error, psycopg.DataError | psycopg.IntegrityError)
    return not isinstance(error, StoreUnavailable | OSError | MemoryError)


def _describe_failure(position: int, error: Exception) -> str:
    message = str(error).strip().splitlines() or ["no reason given"]
    reason = message[0] if isinstance(error, QuantagentError) else f"{type(error).__name__}: {message[0]}"
    return f"event {position} cannot be projected: {reason}"
