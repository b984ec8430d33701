"""Manual account: the rules of a session, one step at a time, in memory.

For notebooks and custom loops. Backtests and daemons use `engine.runtime.session`, which applies the same functions.
Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from engine.broker.paper import PaperBroker, route_orders
from engine.core.config import RunConfig, digest_of
from engine.core.events import AT_MARKET, BookEvent, OrderCanceled, OrderTerms
from engine.core.intents import Intent
from engine.core.market import Bar, Side, Symbol
from engine.core.session_ends import Schedule
from engine.core.step import MarketView
from engine.runtime.market_state import MarketState
from engine.trading.book import Book, evolve, with_close
from engine.trading.circuit_breakers import Command, bankruptcy
from engine.trading.decide import decide, open_book
from engine.trading.proposal import OrderPlan, propose
from engine.trading.risk import RiskRuling, check
from engine.trading.tickets import OrderTicket, submit_ticket


class ManualAccount:
    """Manual account: a book, its broker, the latest price of each symbol, and all events so far."""

    def __init__(self, config: RunConfig, at: datetime) -> None:
        self.config, self.book = config, Book()
        self.events: list[BookEvent] = []
        opened = open_book(config, digest_of(config), at)
        self.broker = PaperBroker(config, opened)
        self._market = MarketState(config, Schedule.from_config(config))
        self._at: datetime | None = None
        self._apply([opened])

    @property
    def marks(self) -> dict[Symbol, Decimal]:
        """The last price of each symbol."""
        return self._market.marks

    def submit_intent(self, intent: Intent, price: Decimal, at: datetime) -> list[BookEvent]:
        """Apply an intent at a price; return the signal, the verdict and, if approved, the order."""
        return self._route(decide(self.book, self._view(intent.symbol, price, at), [intent], self.config))

    def submit(self, ticket: OrderTicket, price: Decimal, at: datetime) -> list[BookEvent]:
        """Submit or amend an order; return the signal, the verdict and, if approved, the order."""
        return self._route(submit_ticket(self.book, self._view(ticket.symbol, price, at), ticket, self.config))

    def cancel(self, order_id: str, at: datetime) -> bool:
        """Cancel a working order; return false if it is not working."""
        order = self.book.working.get(order_id)
        if order is None:
            return False
        self._route([OrderCanceled(order_id, order.symbol, at, "canceled on request")])
        return True

    def command(self, command: Command) -> list[BookEvent]:
        """Apply a halt or a resume."""
        view = self._market.view(command.at, self._at, (), self.book)
        return self._route(decide(self.book, view, [], self.config, [command]))

    def open(self, symbol: Symbol, price: Decimal, at: datetime) -> list[BookEvent]:
        """Process the open of a bar: fill or reject the symbol's working orders that the price reaches."""
        reports = self.broker.open(symbol, price, at, self.marks, self._market.volume(symbol))
        self.marks[symbol] = price
        return self._apply(reports)

    def close(self, bar: Bar) -> list[BookEvent]:
        """Process a closed bar: fills inside it, expiries at its close, and bankruptcy."""
        self._market.observe([bar])
        applied = self._apply([*self.broker.close(bar, self.marks), *self.broker.expire(bar.closed_at)])
        ended = None if self.book.ended else bankruptcy(self.book, [bar], self.marks, bar.closed_at)
        if ended is not None:
            applied += self._apply([ended, *self.broker.liquidate([bar], self.marks, bar.closed_at)])
        return applied

    def check(
        self,
        symbol: Symbol,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        at: datetime,
        terms: OrderTerms = AT_MARKET,
    ) -> RiskRuling:
        """Run the risk check on an order at a price, without submitting it."""
        view = self._view(symbol, price, at)
        return check(propose(self.book, self.config, view, symbol, OrderPlan(side, quantity, terms)))

    def _view(self, symbol: Symbol, price: Decimal, at: datetime) -> MarketView:
        """Return the market view at a quoted price, which counts as a close with the volume of the previous bar."""
        self._market.quote(symbol, price, at)
        return self._market.view(at, self._at, (), self.book)

    def _route(self, events: Iterable[BookEvent]) -> list[BookEvent]:
        applied = self._apply(events)
        route_orders(self.broker, applied)
        return applied

    def _apply(self, events: Iterable[BookEvent]) -> list[BookEvent]:
        """Fold events into the book and keep them."""
        applied = list(events)
        for event in applied:
            self.book = evolve(self.book, event)
        if self.config.limits.drawdown_pct is not None and all(symbol in self.marks for symbol in self.book.positions):
            self.book = with_close(self.book, self.marks)
        self.events += applied
        return applied
