"""An account by hand: the session's rules, one step at a time, in memory.

For notebooks and for those who bring a loop of their own. Backtests and daemons use `engine.runtime.session`, which
decides by the same functions; nothing here is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from engine.broker.paper import PaperBroker, hand_over
from engine.core.config import RunConfig, digest_of
from engine.core.events import AT_MARKET, BookEvent, OrderCanceled, OrderTerms
from engine.core.intents import Wish
from engine.core.market import Bar, Side, Symbol
from engine.core.money import ZERO
from engine.core.session_ends import Schedule
from engine.core.step import Step
from engine.trading.book import Book, evolve, with_close
from engine.trading.circuit_breakers import Command, bankruptcy
from engine.trading.decide import decide, open_book
from engine.trading.proposal import Proposal
from engine.trading.risk import Ruling, judge
from engine.trading.tickets import Ticket, submit


class Desk:
    """One account: a book, its broker, the latest price of each symbol, and every event so far."""

    def __init__(self, config: RunConfig, at: datetime) -> None:
        self.config, self.book = config, Book()
        self.marks: dict[Symbol, Decimal] = {}
        self.events: list[BookEvent] = []
        opened = open_book(config, digest_of(config), at)
        self.broker = PaperBroker(config, opened)
        self._schedule = Schedule.of(config)
        self._latest: dict[Symbol, Bar] = {}
        self._at: datetime | None = None
        self._take([opened])

    def act(self, wish: Wish, price: Decimal, at: datetime) -> list[BookEvent]:
        """What follows from a wish at a price: signal, verdict and perhaps an order, as in a session's step."""
        return self._decided(decide(self.book, self._step(wish.symbol, price, at), [wish], self.config))

    def submit(self, ticket: Ticket, price: Decimal, at: datetime) -> list[BookEvent]:
        """What follows from an order by hand, or from its amendment: signal, verdict and perhaps the order."""
        return self._decided(submit(self.book, self._step(ticket.symbol, price, at), ticket, self.config))

    def cancel(self, order_id: str, at: datetime) -> bool:
        """Ends a working order; false when it does not work (any more)."""
        order = self.book.working.get(order_id)
        if order is None:
            return False
        self._decided([OrderCanceled(order_id, order.symbol, at, "canceled on request")])
        return True

    def command(self, command: Command) -> list[BookEvent]:
        """Halts or resumes."""
        step = Step(command.at, self._at, (), self._latest, self.marks, schedule=self._schedule)
        return self._decided(decide(self.book, step, [], self.config, [command]))

    def open(self, symbol: Symbol, price: Decimal, at: datetime) -> list[BookEvent]:
        """A bar of the symbol opens: its working orders are filled or refused where the price lets them."""
        before = self._latest.get(symbol)
        volume = ZERO if before is None else before.volume
        reports = self.broker.open(symbol, price, at, self.marks, volume)
        self.marks[symbol] = price
        return self._take(reports)

    def close(self, bar: Bar) -> list[BookEvent]:
        """A bar has closed: what happened inside it, and what expires with it."""
        self.marks[bar.symbol], self._latest[bar.symbol] = bar.close, bar
        taken = self._take([*self.broker.close(bar, self.marks), *self.broker.expire(bar.closed_at)])
        ended = None if self.book.ended else bankruptcy(self.book, [bar], self.marks, bar.closed_at)
        if ended is not None:
            taken += self._take([ended, *self.broker.liquidate([bar], self.marks, bar.closed_at)])
        return taken

    def judge(
        self,
        symbol: Symbol,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        at: datetime,
        terms: OrderTerms = AT_MARKET,
    ) -> Ruling:
        """What the gate would say to an order at a price."""
        return judge(Proposal(self.book, self.config, self._step(symbol, price, at), symbol, side, quantity, terms))

    def _step(self, symbol: Symbol, price: Decimal, at: datetime) -> Step:
        """The instant at which somebody names a price: it counts as a close, with the volume of the bar before."""
        before = self._latest.get(symbol)
        if before is None or before.closed_at < at:
            volume = ZERO if before is None else before.volume
            self._latest[symbol] = Bar(symbol, at, at, price, price, price, price, volume)
        self.marks[symbol] = price
        return Step(at, self._at, (), self._latest, self.marks, schedule=self._schedule)

    def _decided(self, events: Iterable[BookEvent]) -> list[BookEvent]:
        taken = self._take(events)
        hand_over(self.broker, taken)
        return taken

    def _take(self, events: Iterable[BookEvent]) -> list[BookEvent]:
        """Folds events into the book and keeps them."""
        taken = list(events)
        for event in taken:
            self.book = evolve(self.book, event)
        if self.config.limits.drawdown_pct is not None and all(symbol in self.marks for symbol in self.book.positions):
            self.book = with_close(self.book, self.marks)
        self.events += taken
        return taken
