"""One run's book as rows: what each of its events changes in the read tables. Pure folds; no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from engine.core.events import BookEvent, CashAdjusted, OrderFilled, RunRequested
from engine.store import Recorded
from engine.trading.book import Book
from projections import orders, portfolio, tables
from projections.account import Account
from projections.projection import Change
from projections.trades import TradesView, trade_row


class RunView:
    """Everything the tables say of one run's book, folded from its events in order."""

    def __init__(self, requested: Recorded) -> None:
        assert isinstance(requested.event, RunRequested)
        self._account = Account(requested.event)
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
        if not isinstance(event, BookEvent):
            return
        for trade in changed:
            yield tables.TRADES, trade_row(trade)
        yield from self._orders.apply(recorded, book)
        yield from self._portfolio.apply(event, book)
