"""An account by hand, and the paper broker over it: the session's rules, one step at a time, in memory.

For notebooks and for those who bring a loop of their own. Backtests and daemons use `engine.session`, which decides by
the same functions; nothing here is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from engine.book import Book, evolve
from engine.config import RunConfig, digest_of
from engine.decide import Step, decide, fills_at_open, open_book
from engine.events import BookEvent, OrderCanceled, OrderPlaced
from engine.market import Side, Symbol
from engine.orders import Wish
from engine.risk import Ruling, judge, propose


class Broker(Protocol):
    """What an order manager needs of a broker."""

    def place_order(self, order: OrderPlaced) -> str:
        """Takes an order and returns its id; the same id twice is one order."""
        ...

    def cancel_order(self, order_id: str, at: datetime) -> bool:
        """Ends a working order; false when it does not work (any more)."""
        ...

    def get_balance(self) -> Decimal: ...

    def get_positions(self) -> dict[Symbol, Decimal]:
        """Signed quantities of what is held."""
        ...


class Desk:
    """One account: a book, the latest price of each symbol, and every event so far."""

    def __init__(self, config: RunConfig, at: datetime) -> None:
        self.config, self.book = config, Book()
        self.marks: dict[Symbol, Decimal] = {}
        self.events: list[BookEvent] = []
        self._at: datetime | None = None
        self.take([open_book(config, digest_of(config), at)])

    def take(self, events: Iterable[BookEvent]) -> list[BookEvent]:
        """Folds events into the book and keeps them."""
        taken = list(events)
        for event in taken:
            self.book = evolve(self.book, event)
        self.events += taken
        return taken

    def act(self, wish: Wish, price: Decimal, at: datetime) -> list[BookEvent]:
        """What follows from a wish at a price: signal, verdict and perhaps an order, as in a session's step."""
        before, self.marks = self.marks, {**self.marks, wish.symbol: price}
        step = Step(at, self._at, (), (), self.marks, before or self.marks, {})
        self._at = at
        return self.take(decide(self.book, step, [wish], self.config))

    def open(self, symbol: Symbol, price: Decimal, at: datetime) -> list[BookEvent]:
        """A bar of the symbol opens: its working order is filled or refused."""
        self.marks = {**self.marks, symbol: price}
        return self.take(fills_at_open(self.book, symbol, price, at, self.config))

    def judge(self, symbol: Symbol, side: Side, quantity: Decimal, price: Decimal) -> Ruling:
        """What the gate would say to an order at a price."""
        marks = {**self.marks, symbol: price}
        instrument = self.book.instruments[symbol]
        return judge(propose(self.book, self.config, instrument, side, quantity, price, self.book.equity(marks)))


class PaperBroker:
    """Fills at the next open that `Desk.open` is told. Knows no risk rule: that gate stands before it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def place_order(self, order: OrderPlaced) -> str:
        known = {event.order_id for event in self.desk.events if isinstance(event, OrderPlaced)}
        if order.order_id not in known:
            self.desk.take([order])
        return order.order_id

    def cancel_order(self, order_id: str, at: datetime) -> bool:
        order = self.desk.book.working.get(order_id)
        if order is None:
            return False
        self.desk.take([OrderCanceled(order_id, order.symbol, at, "canceled on request")])
        return True

    def get_balance(self) -> Decimal:
        return self.desk.book.cash

    def get_positions(self) -> dict[Symbol, Decimal]:
        return {symbol: position.quantity for symbol, position in self.desk.book.positions.items()}
