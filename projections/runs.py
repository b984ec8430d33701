"""One run's rows: what each of its events changes in the read tables. Pure folds; no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from engine.book import Book
from engine.events import BookEvent, CashAdjusted, OrderFilled, RunEnded, RunFailed, RunRequested, RunStarted
from engine.store import Recorded
from projections import orders, portfolio, tables
from projections.account import Account
from projections.projection import Change
from projections.tables import Row
from projections.trades import TradesView, trade_row


class RunView:
    """Everything the tables say of one run's book, folded from its events in order."""

    def __init__(self, requested: Recorded) -> None:
        assert isinstance(requested.event, RunRequested)
        self._account = Account(requested.event)
        self._run = _requested_row(requested, requested.event)
        self._orders = orders.OrdersView()
        self._portfolio = portfolio.PortfolioView()

    @property
    def ended(self) -> bool:
        return self._account.ended

    @property
    def book(self) -> Book:
        return self._account.book

    @property
    def moves(self) -> list[OrderFilled | CashAdjusted]:
        return self._account.moves

    @property
    def trades(self) -> TradesView:
        return self._account.trades

    def apply(self, recorded: Recorded) -> Iterator[Change]:
        """The rows that one event of the run changes, complete with run and environment."""
        for table, row in self._rows(recorded):
            yield table, {**row, **self._account.scope}

    def account_row(self) -> Iterator[Change]:
        """The account as it stands, once the book has been opened: asked for once a page, not with each event."""
        if self._portfolio.opened:
            yield tables.PORTFOLIO, {**self._portfolio.row(self._account.book), **self._account.scope}

    def _rows(self, recorded: Recorded) -> Iterator[Change]:
        changed = self._account.apply(recorded)
        event, book = recorded.event, self._account.book
        match event:
            case RunRequested():
                yield tables.RUNS, self._run
            case RunStarted() | RunEnded() | RunFailed():
                self._run = {**self._run, **_progress(event)}
                yield tables.RUNS, self._run
            case _:
                for trade in changed:
                    yield tables.TRADES, trade_row(trade)
                yield from self._orders.apply(recorded, book)
                if isinstance(event, BookEvent):
                    yield from self._portfolio.apply(event, book)


def _requested_row(recorded: Recorded, request: RunRequested) -> Row:
    return {
        **dict.fromkeys(tables.RUNS.names),
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
                "reason": event.reason or None,
            }
