"""A run's account folded from its events: what both its rows and its figures are made from. No I/O but `history`."""

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
    """moves: fills and other movements of cash; consulted: the analyses the run has read, each with the version
    it read; both in order.

    latest_at: how far it has come in market time.
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
        """Whether the run's figures must be kept up while it goes on."""
        return self.request.environment is Environment.PAPER

    def apply(self, recorded: LogEntry) -> list[Trade]:
        """Takes one event of the run; the trades it changed."""
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
    """The run an event belongs to; None for the events of no run."""
    kind, _, run_id = recorded.stream.partition(":")
    return run_id if kind in ("run", "book") else None


def load_run_events(store: Store, run_id: str, before: int) -> list[LogEntry]:
    """A run's facts up to a position, in order, the request first.

    Raises `BadInput` for a run that had ended by then, or had not begun: nothing of it can follow.
    """
    entries = [row for stream in (run_stream(run_id), book_stream(run_id)) for row in store.read(stream)]
    entries = sorted((row for row in entries if row.position < before), key=lambda row: row.position)
    begun = bool(entries) and isinstance(entries[0].event, RunRequested)
    if not begun or any(isinstance(row.event, RunEnded | RunFailed) for row in entries):
        raise BadInput(f"it belongs to the run {run_id}, which has ended or never began.")
    return entries
