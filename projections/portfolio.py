"""Rows of the account and its positions after the latest event."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from engine.core.events import BookEvent, BookOpened, OrderFilled, PositionsMarked
from engine.core.market import Symbol
from engine.core.money import ONE, ZERO, add, div, mul, sub, total
from engine.trading.book import Book
from projections import tables
from projections.tables import Row, Table


class PortfolioView:
    """Fold of a run's account. Keeps the latest price of each symbol from marks and fills, which the book does not."""

    def __init__(self) -> None:
        self.opened = False
        self._equity = ZERO
        self._unrealised = ZERO
        self._marked_at: datetime | None = None
        self._day_start_equity = ZERO
        self._rolled_at: datetime | None = None
        self._marks: dict[Symbol, Decimal] = {}
        self._realised_total = ZERO
        self._realised: dict[Symbol, Decimal] = {}

    def apply(self, event: BookEvent, book: Book) -> Iterator[tuple[Table, Row]]:
        if isinstance(event, OrderFilled):
            gained = sub(book.realised, self._realised_total)
            self._realised_total = book.realised
            self._realised[event.symbol] = add(self._realised.get(event.symbol, ZERO), gained)
            self._marks[event.symbol] = event.reference_price
            if event.rate != ONE:
                self._marks[f"{book.instruments[event.symbol].quote}-{book.currency}"] = event.rate
            self._mark(event.at, book)
            yield tables.POSITIONS, self._position(event, book)
        elif isinstance(event, BookOpened):
            self.opened = True
            self._equity = self._day_start_equity = event.cash
        elif isinstance(event, PositionsMarked):
            self._marks |= dict((*event.rates, *event.marks))
            self._mark(event.at, book)
            if event.occasion == "roll" or (event.occasion == "end" and event.at != self._rolled_at):
                yield tables.DAYS, self._day(event, book)
                self._day_start_equity, self._rolled_at = event.equity, event.at

    def _mark(self, at: datetime, book: Book) -> None:
        """Value every position at the latest known price."""
        self._marked_at, self._equity = at, book.equity(self._marks)
        costs = total(position.cost for position in book.positions.values())
        self._unrealised = sub(sub(self._equity, book.cash), costs)

    def row(self, book: Book) -> Row:
        """Return the row of the account."""
        return {
            "cash": book.cash,
            "free_cash": book.free_cash,
            "equity": self._equity,
            "realised_pnl": book.realised,
            "unrealised_pnl": self._unrealised,
            "fees": book.fees,
            "financing": book.adjusted,
            "day_equity": book.day_equity,
            "daily_pnl": sub(self._equity, book.day_equity),
            "halted": "; ".join(f"{halt.scope}: {halt.reason}" for halt in book.halts.values()) or None,
            "marked_at": self._marked_at,
        }

    def _position(self, event: OrderFilled, book: Book) -> Row:
        position = book.positions.get(event.symbol)
        row: Row = {
            "symbol": event.symbol,
            "quantity": ZERO,
            "cost": ZERO,
            "average_price": None,
            "opened_at": None,
            "updated_at": event.at,
            "realised_pnl": self._realised[event.symbol],
        }
        if position is None:
            return row
        units = mul(position.quantity, book.instruments[event.symbol].multiplier)
        return {
            **row,
            "quantity": position.quantity,
            "cost": position.cost,
            "average_price": div(position.cost, units),
            "opened_at": position.opened_at,
        }

    def _day(self, event: PositionsMarked, book: Book) -> Row:
        return {
            "at": event.at,
            "occasion": event.occasion,
            "equity": event.equity,
            "cash": event.cash,
            "pnl": sub(event.equity, self._day_start_equity),
            "realised_pnl": book.realised,
            "unrealised_pnl": self._unrealised,
            "fees": book.fees,
            "financing": book.adjusted,
        }
