"""Paper trading: the session loop of a backtest, driven by the clock, one slot per closed bar.

APScheduler provides the time; the log records what is done. A restarted daemon drives its session from the first bar
through everything stored (compared, not written) and continues where the log ends.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from analysis.analyst import LiveAnalyst
from engine import clock
from engine.broker.blotter import PostgresBlotter
from engine.clock import AcceleratedClock
from engine.core.errors import QuantagentError
from engine.core.events import BookEvent, Environment, OrderFilled, OrderPlaced, RiskDecided, RunEnded, RunRequested
from engine.core.market import Symbol, Timeframe, instant_text
from engine.runtime import lease, runs, slots
from engine.runtime.account_monitor import AccountMonitor
from engine.runtime.lease import Lease
from engine.runtime.session import Journal, Session
from engine.runtime.slots import Slot
from engine.store import Cause
from engine.store.connections import failure_reason
from engine.trading.book import fold
from projections.subscription import SubscriptionObserver, follow_in_thread
from ui.app import App, ProgressCallback, no_progress
from ui.daemon.paper_feed import DueSlot, due_slots, feed_bars
from ui.daemon.slot_timer import Ticker
from ui.environment_lock import lock_digest
from ui.services.analysts import find_analyst
from ui.services.backtest import BacktestRequest, resolve

_LOG = logging.getLogger("quantagent.paper")

HEARTBEAT = timedelta(seconds=1)
PROJECT_EVERY = timedelta(seconds=1)
ANCHOR_EVERY = timedelta(hours=1)


class PaperPlan(NamedTuple):
    """Parameters of a daemon; without profiles, those active for `paper`.

    `speed`: market time per wall time of the recorded feed; 0 means no waiting.
    """

    account: str = "paper"
    symbols: Sequence[Symbol] = ()
    timeframe: Timeframe = Timeframe.H1
    profile: str | None = None
    variant: str = ""
    start: datetime | None = None
    end: datetime | None = None
    speed: float = 0.0
    risk_profile: str | None = None


class PaperDaemon:
    """Driver of one account over the recorded feed. `run` blocks until the feed ends or a stop is requested."""

    def __init__(self, app: App, plan: PaperPlan, on_progress: ProgressCallback = no_progress) -> None:
        self._app, self._plan, self._on_progress = app, plan, on_progress
        self._variant = find_analyst(app, plan.variant, Environment.PAPER)
        request = BacktestRequest(
            symbols=plan.symbols,
            timeframe=plan.timeframe,
            start=plan.start,
            end=plan.end,
            profile=plan.profile,
            variant=plan.variant,
            risk_profile=plan.risk_profile,
        )
        resolved = resolve(app, request, Environment.PAPER)
        self._known_at = resolved.known_at
        self.profile_description = resolved.selected.description
        requested = runs.request(
            Environment.PAPER,
            resolved.config,
            profile=resolved.selected.name,
            # A paper run is named by its account and first bar, because later bars are not known yet.
            dataset_digest=f"{plan.account}@{instant_text(resolved.start)}",
            variant=self._variant.name,
            start=resolved.start,
            end=resolved.end,
            known_at=resolved.known_at,
        )
        self._requested = runs.stored_request(app.store, requested)
        self._instance = f"{socket.gethostname()}:{os.getpid()}:{instant_text(clock.now())}"
        self._cause = Cause(f"daemon {self._instance}", self._requested.run_id)
        self._clock = AcceleratedClock(resolved.start, plan.speed)
        self._stop = threading.Event()
        self._done = threading.Event()
        self._failure: BaseException | None = None
        self._slots: list[DueSlot] = []
        self._next = 0
        self._anchored_at = clock.now()

    @property
    def run_id(self) -> str:
        return self._requested.run_id

    def request_stop(self) -> None:
        """Request an end after the present slot. Safe in a signal handler and from any thread."""
        self._stop.set()

    def run(self) -> RunEnded | None:
        """Return the run's end after the last slot of the feed; None if stopped before. Raise what went wrong."""
        with (
            lease.lease(self._app.dsn, self._plan.account, self.run_id, self._instance) as held,
            closing(self._open()),
        ):
            held.heartbeat(None)
            with follow_in_thread(self._app.runner(), PROJECT_EVERY.total_seconds(), _ProjectionLog()):
                with Ticker(self._tick, self._next_wall_time, self._on_error):
                    self._wait(held)
                if self._failure is not None:
                    raise self._failure
                if self._next:
                    held.heartbeat(self._slots[self._next - 1].slot.due_at)
                is_over = self._next == len(self._slots) or self._session.ended
                ended = self._conclude() if is_over else None
            self._app.runner().catch_up()
            return ended

    def _open(self) -> PostgresBlotter:
        """Find the run and its broker's record, and reconcile them before the first slot."""
        bars = feed_bars(
            self._app.catalogue,
            self._app.store,
            self._requested,
            self._plan.account,
            self._plan.end,
            self._known_at,
            self._cause,
        )
        first = min(series[0].opened_at for series in bars)
        requested = runs.start_run(self._app.store, self._requested, first, self._cause.actor, lock_digest())
        self._requested = requested
        self._journal = Journal(self._app.store, runs.book_stream(requested.run_id), self._cause)
        self._analyst = LiveAnalyst(
            self._app.store,
            self._app.catalogue.as_known_at(requested.known_at),
            requested.config.symbols,
            requested.config.timeframe,
            requested.start,
            self._cause.actor,
            self._variant,
            _LOG.warning,
            slots.completed_slots(self._app.store, requested.run_id).get,
        )
        self._blotter = self._open_blotter(requested)
        self._session = Session(
            requested.config,
            requested.config_digest,
            self._analyst,
            self._journal,
            self._blotter,
            runs.schedule_of(self._app.store, requested),
        )
        self._slots = list(due_slots(self._plan.account, self._plan.timeframe, bars))
        return self._blotter

    def _open_blotter(self, requested: RunRequested) -> PostgresBlotter:
        stored: list[Any] = [row.event for row in self._app.store.read(runs.book_stream(requested.run_id))]
        until = stored[-1].at if stored else None
        blotter = PostgresBlotter(self._app.dsn, requested.run_id, until)
        self._monitor = AccountMonitor(self._app.store, self._plan.account, blotter, self._cause, _LOG.error)
        if until is None:
            blotter.open(requested.config.cash, requested.config.currency)
        else:
            self._monitor.reconcile(fold(stored), until)
        return blotter

    def _next_wall_time(self) -> datetime | None:
        if self._stop.is_set() or self._next >= len(self._slots) or self._session.ended:
            return None
        return self._clock.wall_time(self._slots[self._next].slot.due_at)

    def _tick(self) -> None:
        """Process every slot that is due."""
        while self._next < len(self._slots) and not self._stop.is_set() and not self._session.ended:
            due = self._slots[self._next]
            if due.slot.due_at > self._clock.now():
                return
            self._do(due)
            self._next += 1
            self._on_progress("slots", self._next, len(self._slots))
        self._done.set()

    def _do(self, due: DueSlot) -> None:
        claimed = slots.claim(self._app.store, due.slot, self.run_id, self._instance, self._cause)
        events: list[BookEvent] = []
        try:
            before = self._slots[self._next - 1].slot.due_at if self._next else None
            commands = self._monitor.commands(due.slot.due_at, self._session.book, before)
            for time_slice in due.time_slices:
                if claimed:
                    self._analyst.prepare(time_slice.closed)
                events += self._session.advance(time_slice, commands)
                commands = []
            self._journal.flush()
        except Exception as error:
            if claimed:
                slots.fail(self._app.store, due.slot, _error_text(error), self._cause)
            raise
        if claimed:
            slots.complete(self._app.store, due.slot, _outcomes(due.slot, events), self._cause)

    def _on_error(self, error: BaseException) -> None:
        self._failure = error
        self._done.set()

    def _wait(self, lease: Lease) -> None:
        while not self._done.wait(HEARTBEAT.total_seconds()) and not self._stop.is_set():
            at = self._slots[self._next - 1].slot.due_at if self._next else None
            if lease.heartbeat(at):
                self.request_stop()
            self._anchor_if_due()

    def _anchor_if_due(self) -> None:
        if clock.now() - self._anchored_at < ANCHOR_EVERY:
            return
        self._anchored_at = clock.now()
        try:
            self._app.anchor()
        except (OSError, QuantagentError, psycopg.Error) as error:
            _LOG.warning("the log could not be anchored: %s", _error_text(error))

    def _conclude(self) -> RunEnded:
        return runs.end_run(
            self._app.store,
            self._requested,
            self._session,
            self._journal,
            self._slots[-1].slot.due_at,
            self._cause.actor,
        )


class _ProjectionLog(SubscriptionObserver):
    """Log of the process for interruptions of the read models; trading continues meanwhile."""

    def interrupted(self, error: Exception, pause_s: float) -> None:
        _LOG.warning("read models wait %.1f s for the database: %s", pause_s, _error_text(error))

    def ended(self, error: Exception) -> None:
        _LOG.error("the read models are no longer updated: %s", _error_text(error))


def _error_text(error: Exception) -> str:
    """Return the text of an error without any part of the DSN."""
    return failure_reason(error) if isinstance(error, psycopg.Error) else str(error)


def _outcomes(slot: Slot, events: Sequence[BookEvent]) -> list[tuple[Symbol, str]]:
    """Return the outcome of each symbol of a slot; of one that only begins a bar at it, if it has any."""
    outcomes: dict[Symbol, list[str]] = {symbol: [] for symbol in slot.symbols}
    for event in events:
        match event:
            case RiskDecided():
                outcomes.setdefault(event.symbol, []).append(event.verdict.value.lower())
            case OrderPlaced():
                outcomes.setdefault(event.symbol, []).append(f"{event.side.value.lower()} ordered")
            case OrderFilled():
                outcomes.setdefault(event.symbol, []).append(f"{event.side.value.lower()} filled")
            case _:
                pass
    return [(symbol, ", ".join(words) or "no change") for symbol, words in outcomes.items()]


class TradingScheduler:
    """Python interface of the daemon: start, analyze one symbol now, stop."""

    def __init__(self, app: App, plan: PaperPlan) -> None:
        self._app, self._plan = app, plan
        self._daemon: PaperDaemon | None = None
        self._thread: threading.Thread | None = None
        self.result: RunEnded | None = None
        self._error: BaseException | None = None

    def start(self) -> str:
        """Start in a separate thread and return the run's id. A second call has no effect."""
        if self._daemon is None:
            self._daemon = PaperDaemon(self._app, self._plan)
            self._thread = threading.Thread(target=self._run, args=(self._daemon,), name="paper", daemon=True)
            self._thread.start()
        return self._daemon.run_id

    def _run(self, daemon: PaperDaemon) -> None:
        try:
            self.result = daemon.run()
        except BaseException as error:
            self._error = error

    def wait(self, timeout_s: float | None = None) -> RunEnded | None:
        """Wait for the feed's end; raise what went wrong in the thread."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        return self.result

    def analyze_asset(self, symbol: Symbol) -> dict[str, Any]:
        """Return decision, confidence and id of the analysis of a symbol's latest closed bar, made unless stored."""
        from ui.services.analyses import analyse_latest_bar

        plan = self._plan
        return analyse_latest_bar(
            self._app, symbol, plan.timeframe, plan.end, plan.variant, environment=Environment.PAPER
        )

    def stop(self) -> None:
        """End after the present slot; raise what went wrong before."""
        if self._daemon is not None:
            self._daemon.request_stop()
        self.wait()
