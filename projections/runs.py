"""Rows of one run's book: the changes of the read tables by each of its events. Pure folds without I/O."""

from __future__ import annotations

from collections.abc import Iterator

from engine.core.events import BookEvent, CashAdjusted, OrderFilled, RunRequested
from engine.store import LogEntry
from engine.trading.book import Book
from projections import orders, portfolio, tables
from projections.account import RunAccount
from projections.projection import RowChange
from projections.trades import TradesView, trade_row


class RunView:
    """All rows of one run's book, folded from its events in order."""

    def __init__(self, requested: LogEntry) -> None:
        assert isinstance(requested.event, RunRequested)
        self._account = RunAccount(requested.event)
        self._orders = orders.OrdersView()
        self._portfolio = portfolio.PortfolioView()

    @property
    def ended(self) -> bool:
        return self._account.ended

    @property
    def book(self) -> Book:
        return self._account.book

    @property
    def movements(self) -> list[OrderFilled | CashAdjusted]:
        return self._account.movements

    @property
    def trades(self) -> TradesView:
        return self._account.trades

    def apply(self, recorded: LogEntry) -> Iterator[RowChange]:
        """Yield the rows that one event of the run changes, with run and environment."""
        for table, row in self._rows(recorded):
            yield table, {**row, **self._account.scope}

    def account_row(self) -> Iterator[RowChange]:
        """Yield the row of the account, once the book has been opened. Called once per page, not for each event."""
        if self._portfolio.opened:
            yield tables.PORTFOLIO, {**self._portfolio.row(self._account.book), **self._account.scope}

    def _rows(self, recorded: LogEntry) -> Iterator[RowChange]:
        changed = self._account.apply(recorded)
        event, book = recorded.event, self._account.book
        if not isinstance(event, BookEvent):
            return
        for trade in changed:
            yield tables.TRADES, trade_row(trade)
        yield from self._orders.apply(recorded, book)
        yield from self._portfolio.apply(event, book)
