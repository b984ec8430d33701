"""The account and its positions as the latest event leaves them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from engine.book import Book
from engine.events import BookEvent, BookOpened, OrderFilled, PositionsMarked
from engine.market import Symbol
from engine.money import ZERO, add, div, mul, sub, total
from projections import tables
from projections.tables import Row, Table


class PortfolioView:
    """Remembers the latest mark, which the book itself does not keep."""

    def __init__(self) -> None:
        self.opened = False
        self._equity = ZERO
        self._unrealised = ZERO
        self._marked_at: datetime | None = None
        self._day_began_with = ZERO
        self._realised_in_all = ZERO
        self._realised: dict[Symbol, Decimal] = {}

    def apply(self, event: BookEvent, book: Book) -> Iterator[tuple[Table, Row]]:
        if isinstance(event, OrderFilled):
            gained = sub(book.realised, self._realised_in_all)
            self._realised_in_all = book.realised
            self._realised[event.symbol] = add(self._realised.get(event.symbol, ZERO), gained)
            yield tables.POSITIONS, self._position(event, book)
        elif isinstance(event, BookOpened):
            self.opened = True
            self._equity = self._day_began_with = event.cash
        elif isinstance(event, PositionsMarked):
            self._equity, self._marked_at = event.equity, event.at
            self._unrealised = _unrealised(event, book)
            if event.occasion != "halt":
                yield tables.DAYS, self._day(event, book)
                self._day_began_with = event.equity

    def row(self, book: Book) -> Row:
        """The account as it stands."""
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
            "pnl": sub(event.equity, self._day_began_with),
            "realised_pnl": book.realised,
            "unrealised_pnl": self._unrealised,
            "fees": book.fees,
            "financing": book.adjusted,
        }


def _unrealised(event: PositionsMarked, book: Book) -> Decimal:
    marks = dict((*event.rates, *event.marks))
    return total(sub(book.value(symbol, marks), book.positions[symbol].cost) for symbol, _ in event.marks)
