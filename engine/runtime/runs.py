"""Lifecycle of a run: request, start, session over its bars, end. Also the bars that a run used.

The id of a run is derived from its inputs: the same inputs are the same run. Executing it again appends nothing and
returns the same digest; after a crash it continues where the log ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid5

import msgspec

from engine.core.config import RunConfig, digest_of
from engine.core.config_checks import check_cash
from engine.core.errors import NotFound, VersionConflict
from engine.core.events import Environment, Event, FeedResumed, RunEnded, RunRequested, RunStarted
from engine.core.market import Bar, Calendar, SessionHours, Symbol
from engine.core.session_ends import Schedule
from engine.core.upcasters import event_names
from engine.data import BarCatalogue
from engine.data.calendars import session_hours
from engine.data.timeline import time_slices
from engine.runtime.session import Analyst, Journal, Session
from engine.store import ENGINE_VERSION, Batch, Cause, Store, readable_from
from engine.trading.circuit_breakers import Command

RUN_NAMESPACE = UUID("0d7f5a0e-8f1b-5d53-b3c5-0b6a8f6e1c27")


class RunResult(NamedTuple):
    """Request and end of a finished run."""

    request: RunRequested
    ended: RunEnded


def run_id_of(
    environment: Environment,
    config_digest: str,
    dataset_digest: str,
    variant: str,
    label: str,
    of_run: str = "",
    sessions_digest: str = "",
) -> str:
    """Return the id of a run. A paper run uses its account and first bar in place of the dataset digest."""
    parts = (environment, config_digest, dataset_digest, variant, ENGINE_VERSION, label, of_run, sessions_digest)
    return str(uuid5(RUN_NAMESPACE, "\n".join(parts)))


def request(
    environment: Environment,
    config: RunConfig,
    *,
    profile: str,
    dataset_digest: str,
    variant: str,
    start: datetime,
    end: datetime,
    label: str = "",
    of_run: str = "",
    known_at: datetime | None = None,
    sessions: tuple[SessionHours, ...] | None = None,
) -> RunRequested:
    """Return the first event of a run, with its id. `sessions`: those of the replayed run; None: as known now.

    Raise `BadInput` for an account without cash, because its returns are undefined.
    """
    check_cash(config.cash)
    config_digest = digest_of(config)
    if sessions is None:
        # A paper run continues: its sessions are frozen for a year, and each resumption adds more.
        ahead = _YEAR if environment is Environment.PAPER else timedelta(0)
        sessions = session_hours(_calendars(config), start, end + ahead)
    # The id of a paper run excludes the sessions known at its start, as it excludes the bars.
    frozen = digest_of(sessions) if sessions and environment is not Environment.PAPER else ""
    run_id = run_id_of(environment, config_digest, dataset_digest, variant, label, of_run, frozen)
    return RunRequested(
        run_id,
        environment,
        profile,
        config,
        config_digest,
        dataset_digest,
        variant,
        start,
        end,
        label,
        of_run,
        known_at,
        sessions,
    )


_YEAR = timedelta(days=366)


def _calendars(config: RunConfig) -> set[Calendar]:
    return {instrument.calendar for instrument in config.instruments}


def run_stream(run_id: str) -> str:
    return f"run:{run_id}"


def book_stream(run_id: str) -> str:
    return f"book:{run_id}"


def feed_stream(run_id: str) -> str:
    return f"feed:{run_id}"


def stored_request(store: Store, requested: RunRequested) -> RunRequested:
    """Return the stored request with the same id, if any; profile name and `known_at` are not part of the id."""
    first = next(iter(store.read(run_stream(requested.run_id))), None)
    return first.event if first is not None and isinstance(first.event, RunRequested) else requested


def start_run(
    store: Store, requested: RunRequested, first: datetime, actor: str, lock_digest: str = ""
) -> RunRequested:
    """Record the request and the start, or keep the stored ones.

    Stored values take precedence: profile name and `known_at` of the request, `lock_digest` of the start.
    Raise `VersionConflict` if the run started with another bar.
    """
    stream = run_stream(requested.run_id)
    known = [row.event for row in store.read(stream)]
    if known and isinstance(known[0], RunRequested):
        requested = known[0]
    started = RunStarted(
        requested.run_id, requested.environment, book_stream(requested.run_id), ENGINE_VERSION, first, lock_digest
    )
    if len(known) > 1 and isinstance(known[1], RunStarted):
        if msgspec.structs.replace(known[1], lock_digest=lock_digest) != started:
            raise VersionConflict(stream, 1, len(known))
        return requested
    # A request stored by an older engine keeps its former shape.
    events = [started] if known else [requested, started]
    store.append([Batch(stream, len(known[:1]), events)], Cause(actor, requested.run_id))
    return requested


def end_run(
    store: Store, requested: RunRequested, session: Session, journal: Journal, at: datetime, actor: str
) -> RunEnded:
    """End the session and record its counts and digests as the run's last event.

    `at` is the close of the last bar; a session that ended earlier uses its own last instant.
    """
    session.end()
    ended = RunEnded(
        run_id=requested.run_id,
        bars=session.bars,
        signals=session.signals,
        orders=session.orders,
        fills=session.fills,
        book_events=journal.version,
        book_digest=journal.digest,
        analyses_digest=session.analyses_digest,
        ended_at=at if not session.ended or session.at is None else session.at,
        reason=session.ended,
    )
    store.append([Batch(run_stream(requested.run_id), 2, [ended])], Cause(actor, requested.run_id))
    return ended


def execute_run(
    store: Store,
    requested: RunRequested,
    bars_by_symbol: Sequence[Sequence[Bar]],
    analyst: Analyst,
    *,
    actor: str,
    lock_digest: str = "",
    on_progress: Callable[[int], None] = lambda bars: None,
    commands: Iterable[Command] = (),
) -> RunResult:
    """Execute a run over its bars to its end. `on_progress` receives the number of bars processed so far.

    `lock_digest` identifies the installed packages; see `RunStarted`. `commands` are the operator commands of the
    replayed run, each at its instant of effect.
    """
    first = min(bars[0].opened_at for bars in bars_by_symbol)
    last = max(bars[-1].closed_at for bars in bars_by_symbol)
    requested = start_run(store, requested, first, actor, lock_digest)
    journal = Journal(store, book_stream(requested.run_id), Cause(actor, requested.run_id))
    schedule = schedule_of(store, requested)
    session = Session(requested.config, requested.config_digest, analyst, journal, schedule=schedule)
    commands_at = commands_by_instant(commands)
    for time_slice in time_slices(bars_by_symbol):
        session.advance(time_slice, commands_at.get(time_slice.at, ()))
        on_progress(session.bars)
        if session.ended:
            break
    return RunResult(requested, end_run(store, requested, session, journal, last, actor))


def commands_by_instant(commands: Iterable[Command]) -> Mapping[datetime, Sequence[Command]]:
    """Group commands by their instant of effect, keeping their order."""
    grouped: dict[datetime, list[Command]] = {}
    for command in commands:
        grouped.setdefault(command.at, []).append(command)
    return grouped


# --- The sessions of a run ---------------------------------------------------------------------------------------


def hours_of(store: Store, run: RunRequested) -> tuple[SessionHours, ...]:
    """Return the sessions frozen into a run, followed by those added on resumption."""
    return (*run.sessions, *(hours for resumption in feed_resumptions(store, run) for hours in resumption.sessions))


def schedule_of(store: Store, run: RunRequested) -> Schedule:
    """Return the schedule of a run."""
    return Schedule.from_config(run.config, hours_of(store, run))


def _sessions_after(hours: SessionHours, day: date) -> SessionHours:
    """Return the sessions that end after a day."""
    later = tuple(each for each in hours.sessions if each[1].date() > day)
    return SessionHours(hours.calendar, day + timedelta(days=1), hours.last, later)


# --- The bars of a run --------------------------------------------------------------------------------------------


def feed_resumptions(store: Store, run: RunRequested) -> list[FeedResumed]:
    """Return the resumptions of a paper run, in order."""
    rows = store.read(feed_stream(run.run_id))
    return [row.event for row in rows if isinstance(row.event, FeedResumed)]


def lacks_data_known_at(store: Store, run: RunRequested, known_at: datetime) -> bool:
    """Return true if a paper run lacks the data known at an instant. A run without `known_at` uses all data."""
    latest = [run.known_at, *(resumption.known_at for resumption in feed_resumptions(store, run))][-1]
    return latest is not None and latest < known_at


def resume_feed(
    store: Store, run: RunRequested, after: datetime, known_at: datetime, cause: Cause, until: datetime | None = None
) -> None:
    """Continue a paper run that has reached `after` with the data known at `known_at`.

    `until`: close of the last bar available now; sessions are frozen for a year beyond it.
    """
    known = hours_of(store, run)
    fresh = session_hours(_calendars(run.config), run.start, (until or after) + _YEAR) if known else ()
    last = {hours.calendar: max(each.last for each in known if each.calendar == hours.calendar) for hours in known}
    further = tuple(
        _sessions_after(hours, last[hours.calendar]) for hours in fresh if hours.last > last[hours.calendar]
    )
    event = FeedResumed(run.run_id, after, known_at, further)
    store.append([Batch(feed_stream(run.run_id), len(feed_resumptions(store, run)), [event])], cause)


def bars_seen(
    catalogue: BarCatalogue, store: Store, run: RunRequested, symbols: Sequence[Symbol], end: datetime | None
) -> list[list[Bar]]:
    """Return the bars of a run as it used them, without later corrections, up to `end`.

    A replay uses the bars of its source. Raise `BadInput` if a symbol has none.
    """
    source = _source_run(store, run)
    timeframe = run.config.timeframe
    known = catalogue.as_known_at(source.known_at)
    seen = [known.bars(symbol, timeframe, run.start, end) for symbol in symbols]
    for resumption in feed_resumptions(store, source):
        known = catalogue.as_known_at(resumption.known_at)
        seen = [
            _extend_bars(bars, known.bars(symbol, timeframe, run.start, end), resumption.after)
            for symbol, bars in zip(symbols, seen, strict=True)
        ]
    return seen


def _source_run(store: Store, run: RunRequested) -> RunRequested:
    """Return the original run of a replay, following chains of replays; the run itself if the source is not stored."""
    while run.of_run:
        first = next(iter(store.read(run_stream(run.of_run))), None)
        if first is None or not isinstance(first.event, RunRequested):
            break
        run = first.event
    return run


def _extend_bars(seen: Sequence[Bar], known: Sequence[Bar], after: datetime) -> list[Bar]:
    """Append newly known bars to those already used; bars that fill earlier gaps are ignored."""
    kept = [bar for bar in seen if bar.opened_at <= after]
    since = max(after, kept[-1].closed_at) if kept else after
    return kept + [bar for bar in known if bar.opened_at >= since]


# --- Finding runs -------------------------------------------------------------------------------------------------


def find_run_by_prefix(store: Store, prefix: str) -> RunRequested:
    """Return the run whose id begins with `prefix`. Raise `NotFound` if there is none or more than one."""
    known = _run_requests(store)
    matching = [event for event in known if event.run_id.startswith(prefix)] if prefix else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        ids = ", ".join(event.run_id for event in matching[:5])
        raise NotFound(f"run {prefix!r} matches {len(matching)} runs ({ids}): give more of its id.")
    raise NotFound(f"there is no run {prefix!r}.", "RUN_UNKNOWN", count=len(known))


def latest_run(store: Store) -> RunRequested:
    """Return the run requested last. Raise `NotFound` if there is none."""
    known = _run_requests(store)
    if not known:
        raise NotFound("there is no run yet.", "RUNS_MISSING")
    return known[-1]


def _run_requests(store: Store) -> list[RunRequested]:
    """Return every run's request, in order, without unreadable ones."""
    rows = readable_from(store, event_names([RunRequested]))
    return [row.event for row in rows if isinstance(row.event, RunRequested)]


def result_of(store: Store, run_id: str) -> RunResult | None:
    """Return request and end of a run; None if it has not ended."""
    events: dict[type[Event], Event] = {type(row.event): row.event for row in store.read(run_stream(run_id))}
    requested, ended = events.get(RunRequested), events.get(RunEnded)
    if isinstance(requested, RunRequested) and isinstance(ended, RunEnded):
        return RunResult(requested, ended)
    return None
