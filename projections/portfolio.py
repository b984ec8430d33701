"""The account and its positions as the latest event leaves them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from engine.book import Book
from engine.events import BookEvent, BookOpened, OrderFilled, PositionsMarked
from engine.money import ZERO, add, div, mul, sub
from projections import tables
from projections.tables import Row, Table


class PortfolioView:
    """Remembers the latest mark, which the book itself does not keep."""

    def __init__(self) -> None:
        self.opened = False
        self._equity = ZERO
        self._unrealised = ZERO
        self._marked_at: datetime | None = None

    def apply(self, event: BookEvent, book: Book) -> Iterator[tuple[Table, Row]]:
        if isinstance(event, OrderFilled):
            yield tables.POSITIONS, _position(event, book)
        elif isinstance(event, BookOpened):
            self.opened = True
            self._equity = event.cash
        elif isinstance(event, PositionsMarked):
            self._equity, self._marked_at = event.equity, event.at
            self._unrealised = _unrealised(event, book)

    def row(self, book: Book) -> Row:
        """The account as it stands."""
        return {
            "cash": book.cash,
            "free_cash": book.free_cash,
            "equity": self._equity,
            "realised_pnl": book.realised,
            "unrealised_pnl": self._unrealised,
            "fees": book.fees,
            "day_equity": book.day_equity,
            "halted": book.halt.reason if book.halt else None,
            "marked_at": self._marked_at,
        }


def _unrealised(event: PositionsMarked, book: Book) -> Decimal:
    profit = ZERO
    for symbol, price in event.marks:
        position = book.positions[symbol]
        worth = mul(mul(position.quantity, price), book.instruments[symbol].multiplier)
        profit = add(profit, sub(worth, position.cost))
    return profit


def _position(event: OrderFilled, book: Book) -> Row:
    position = book.positions.get(event.symbol)
    if position is None:
        return {
            "symbol": event.symbol,
            "quantity": ZERO,
            "cost": ZERO,
            "average_price": None,
            "opened_at": None,
            "updated_at": event.at,
        }
    units = mul(position.quantity, book.instruments[event.symbol].multiplier)
    return {
        "symbol": event.symbol,
        "quantity": position.quantity,
        "cost": position.cost,
        "average_price": div(position.cost, units),
        "opened_at": position.opened_at,
        "updated_at": event.at,
    }
