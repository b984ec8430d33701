"""Given, when, then for decisions: past events, one instant of the market with intents, and the events that follow.

given(config).when(intent("AAA", LONG), close="100").then(SignalRaised, RiskDecided, OrderPlaced)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, TypeVar

from engine.core.config import RunConfig, digest_of
from engine.core.events import BookEvent
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Symbol
from engine.core.money import exact
from engine.core.step import MarketView
from engine.trading.book import Book, fold
from engine.trading.circuit_breakers import Command
from engine.trading.decide import decide, open_book

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
VOLUME = Decimal(1000)
E = TypeVar("E", bound=BookEvent)


class Decided(NamedTuple):
    """The events that a decision led to, and the book after them."""

    events: Sequence[BookEvent]
    book: Book

    def then(self, *kinds: type[BookEvent]) -> Decided:
        """Assert the kinds of all events, in order."""
        assert [type(event).__name__ for event in self.events] == [kind.__name__ for kind in kinds]
        return self

    def the(self, kind: type[E]) -> E:
        """Return the only event of a kind."""
        (event,) = (event for event in self.events if isinstance(event, kind))
        return event


class Given(NamedTuple):
    """A book folded from past events, under a configuration."""

    config: RunConfig
    events: Sequence[BookEvent]

    def when(
        self,
        *intents: Intent,
        closes: Mapping[Symbol, str],
        at: datetime = START + HOUR,
        commands: Sequence[Command] = (),
    ) -> Decided:
        """Decide at an instant at which a bar of each symbol closes, with volume 1,000 and all four prices equal."""
        prices = {symbol: exact(close) for symbol, close in sorted(closes.items())}
        bars = tuple(Bar(name, at - HOUR, at, price, price, price, price, VOLUME) for name, price in prices.items())
        view = MarketView(at, at - HOUR, bars, {bar.symbol: bar for bar in bars}, prices)
        events = tuple(decide(fold(self.events), view, list(intents), self.config, commands))
        return Decided(events, fold([*self.events, *events]))


def given(config: RunConfig, *events: BookEvent) -> Given:
    """Start from a book that was opened at `START` and has seen these events."""
    return Given(config, [open_book(config, digest_of(config), START), *events])


def intent(symbol: Symbol, direction: Direction, confidence: str = "1") -> Intent:
    """An intent of a symbol, named after it."""
    return Intent(symbol, direction, exact(confidence), f"analysis-{symbol}")
