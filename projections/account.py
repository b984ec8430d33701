"""Account of a run folded from its events, the basis of its rows and figures. No I/O except `load_run_events`."""

from __future__ import annotations

from typing import get_args

from engine.core.errors import BadInput
from engine.core.events import (
    AnalysesConsulted,
    BookEvent,
    CashAdjusted,
    Environment,
    OrderFilled,
    RunEnded,
    RunFailed,
    RunRequested,
    RunStarted,
)
from engine.core.upcasters import event_names
from engine.runtime.replay import AnalysisVersion
from engine.runtime.runs import book_stream, run_stream
from engine.store import LogEntry, Store
from engine.trading.book import Book, evolve
from projections.trades import Trade, TradesView

CONSUMED_EVENTS = frozenset(event_names([RunRequested, RunStarted, RunEnded, RunFailed, *get_args(BookEvent)]))


class RunAccount:
    """Account of a run.

    movements: fills and other movements of cash, in order; consulted: the analyses that the run has read and their
    versions, in order; latest_at: market time of the latest event.
    """

    def __init__(self, request: RunRequested) -> None:
        self.request = request
        self.scope = {"environment": request.environment.value, "run_id": request.run_id}
        self.ended = False
        self.book = Book()
        self.latest_at = request.start
        self.movements: list[OrderFilled | CashAdjusted] = []
        self.trades = TradesView()
        self.consulted: list[AnalysisVersion] = []

    @property
    def is_live(self) -> bool:
        """True if the run's figures must be updated while it is running."""
        return self.request.environment is Environment.PAPER

    def apply(self, recorded: LogEntry) -> list[Trade]:
        """Apply one event of the run and return the trades it changed."""
        event = recorded.event
        if isinstance(event, RunEnded | RunFailed):
            self.ended = True
        if not isinstance(event, BookEvent):
            return []
        before, self.book = self.book, evolve(self.book, event)
        self.latest_at = max(self.latest_at, event.at)
        if isinstance(event, OrderFilled):
            self.movements.append(event)
            return self.trades.apply(event, before, self.book)
        if isinstance(event, CashAdjusted):
            self.movements.append(event)
            return self.trades.add_borrow_cost(event)
        if isinstance(event, AnalysesConsulted):
            self.consulted += event.analyses
        self.trades.record_source(event)
        return []


def stream_run_id(recorded: LogEntry) -> str | None:
    """Return the run an event belongs to; None for other events."""
    kind, _, run_id = recorded.stream.partition(":")
    return run_id if kind in ("run", "book") else None


def load_run_events(store: Store, run_id: str, before: int) -> list[LogEntry]:
    """Return a run's events before a position, in order, the request first.

    Raise `BadInput` for a run that had ended by then or had not started, because no event of it can follow.
    """
    entries = [row for stream in (run_stream(run_id), book_stream(run_id)) for row in store.read(stream)]
    entries = sorted((row for row in entries if row.position < before), key=lambda row: row.position)
    begun = bool(entries) and isinstance(entries[0].event, RunRequested)
    if not begun or any(isinstance(row.event, RunEnded | RunFailed) for row in entries):
        raise BadInput(f"it belongs to the run {run_id}, which has ended or never began.")
    return entries
