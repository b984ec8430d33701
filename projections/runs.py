"""One run's rows: what each of its events changes in the read tables. Pure folds; no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from engine.book import Book, evolve
from engine.events import (
    AnalysisMade,
    BookEvent,
    Environment,
    OrderFilled,
    RunEnded,
    RunFailed,
    RunRequested,
    RunStarted,
)
from engine.store import Recorded
from projections import orders, portfolio, tables, trades
from projections.tables import Row, Table


class RunView:
    """Everything the tables say of one run, folded from its events in order."""

    def __init__(self, requested: Recorded) -> None:
        assert isinstance(requested.event, RunRequested)
        self.request = requested.event
        self.ended = False
        self.book = Book()
        self.latest_at = requested.event.start
        self.fills: list[OrderFilled] = []
        self.trades = trades.TradesView()
        self._run = _requested_row(requested, self.request)
        self._orders = orders.OrdersView()
        self._portfolio = portfolio.PortfolioView()

    @property
    def scope(self) -> dict[str, object]:
        return {"environment": self.request.environment.value, "run_id": self.request.run_id}

    def apply(self, recorded: Recorded) -> Iterator[tuple[Table, Row]]:
        """The rows that one event of the run changes, complete with run and environment."""
        for table, row in self._rows(recorded):
            yield table, {**self.scope, **row}

    def _rows(self, recorded: Recorded) -> Iterator[tuple[Table, Row]]:
        event = recorded.event
        match event:
            case RunRequested():
                yield tables.RUNS, self._run
            case RunStarted() | RunEnded() | RunFailed():
                self.ended = not isinstance(event, RunStarted)
                self._run = {**self._run, **_progress(event)}
                yield tables.RUNS, self._run
            case _:
                yield from self._book_rows(recorded)

    def _book_rows(self, recorded: Recorded) -> Iterator[tuple[Table, Row]]:
        event = recorded.event
        if not isinstance(event, BookEvent):
            return
        before, self.book = self.book, evolve(self.book, event)
        self.latest_at = max(self.latest_at, event.at)
        if isinstance(event, OrderFilled):
            self.fills.append(event)
            yield from self.trades.apply(event, before, self.book)
        else:
            self.trades.note(event)
        yield from self._orders.apply(recorded, self.book)
        yield from self._portfolio.apply(event, self.book)


def analysis_row(recorded: Recorded) -> Row:
    """The row of one stored analysis."""
    made = recorded.event
    assert isinstance(made, AnalysisMade)
    return {
        "analysis_id": made.analysis_id,
        "symbol": made.symbol,
        "timeframe": made.timeframe,
        "at": made.as_of,
        "variant": made.variant,
        "decision": made.decision.value,
        "confidence": made.confidence,
        "horizon_bars": made.horizon_bars,
        "risk_reward": made.risk_reward,
        "model_provider": made.model_provider,
        "model_name": made.model_name,
        "temperature": made.temperature,
        "agent_version": made.agent_version,
        "graph_version": made.graph_version,
        "thread_id": made.thread_id,
        "checkpoint_id": made.checkpoint_id,
        "state_snapshot": made.state_snapshot,
        "window_digest": made.window_digest,
        "position": recorded.position,
    }


def _requested_row(recorded: Recorded, request: RunRequested) -> Row:
    return {
        "profile": request.profile,
        "variant": request.variant,
        "symbols": ",".join(request.config.symbols),
        "timeframe": request.config.timeframe.value,
        "start_at": request.start,
        "end_at": request.end,
        "label": request.label,
        "of_run": request.of_run or None,
        "currency": request.config.currency,
        "starting_cash": request.config.cash,
        "status": "requested",
        "config_digest": request.config_digest,
        "dataset_digest": request.dataset_digest,
        "requested_at": recorded.meta.recorded_at,
    }


def _progress(event: RunStarted | RunEnded | RunFailed) -> Row:
    match event:
        case RunStarted():
            return {"status": "running", "engine_version": event.engine_version}
        case RunFailed():
            return {"status": "failed", "reason": event.reason}
        case RunEnded():
            return {
                "status": "ended",
                "bars": event.bars,
                "signals": event.signals,
                "orders": event.orders,
                "fills": event.fills,
                "book_events": event.book_events,
                "book_digest": event.book_digest,
                "analyses_digest": event.analyses_digest,
            }


def is_live(request: RunRequested) -> bool:
    """Whether a run's curve must be kept up while it goes on."""
    return request.environment is Environment.PAPER
