"""Short histories written by hand: accounts, bars as text, wishes by the hour, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from engine.core.config import Costs, Exits, RunConfig
from engine.core.events import BookEvent, OrderFilled, OrderPlaced, OrderTerms, SignalRaised
from engine.core.intents import Intent
from engine.core.market import Bar, Calendar, Direction, Instrument, OrderType, Side
from engine.core.money import ONE, ZERO, exact
from tests.support.strategies import HOUR, History, config_of, run_history

E = TypeVar("E")
LONG, SHORT, FLAT = Direction.LONG, Direction.SHORT, Direction.FLAT
BUY, SELL = Side.BUY, Side.SELL
START = datetime(2024, 1, 8, 2, tzinfo=UTC)
STILL = "100 100 100 100"
BRACKET = Exits(None, stop_pct=exact("5"), risk_reward=exact("2"))
TENTH_OF_VOLUME = Costs(ZERO, ZERO, volume_cap_pct=exact("10"))


def account(
    symbols: Sequence[str] = ("AAA",), quantity: str | None = "10", calendar: Calendar = "24/7", **changes: Any
) -> RunConfig:
    """A plain account in whole lots; `changes` are to the rest of it."""
    lots = tuple(Instrument(symbol, "USD", 2, ONE, calendar=calendar) for symbol in symbols)
    return msgspec.structs.replace(config_of(symbols, quantity=quantity), instruments=lots, **changes)


def bars(*rows: str, symbol: str = "AAA", start: datetime = START) -> list[Bar]:
    """Hourly bars of open, high, low, close and perhaps volume; a row without anything is a hole."""
    result: list[Bar] = []
    for n, row in enumerate(rows):
        if row:
            open_, high, low, close, *volume = (exact(each) for each in row.split())
            at = start + n * HOUR
            result.append(Bar(symbol, at, at + HOUR, open_, high, low, close, volume[0] if volume else Decimal(1000)))
    return result


def intent(direction: Direction, entry: OrderTerms | None = None, symbol: str = "AAA") -> Intent:
    return Intent(symbol, direction, ONE, "analysis", entry=entry)


def limit(price: str) -> OrderTerms:
    return OrderTerms(OrderType.LIMIT, limit_price=exact(price))


def stop(price: str) -> OrderTerms:
    return OrderTerms(OrderType.STOP, stop_price=exact(price))


def book_events(
    config: RunConfig, series: Sequence[Sequence[Bar]], intents: Mapping[int, Intent | Sequence[Intent]]
) -> list[BookEvent]:
    """What follows from wishes at the close of the n-th hour."""
    each = {n: [given] if isinstance(given, Intent) else given for n, given in intents.items()}
    start = series[0][0].opened_at
    script = {(one.symbol, start + (n + 1) * HOUR): one for n, given in each.items() for one in given}
    return run_history(History(config, [list(each) for each in series], script)).events


def events_of_type(kind: type[E], events: Sequence[BookEvent]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def fills(events: Sequence[BookEvent]) -> list[tuple[Side, int, str]]:
    return [(made.side, int(made.quantity), str(made.price)) for made in events_of_type(OrderFilled, events)]


def sources(events: Sequence[BookEvent]) -> list[str]:
    return [signal.source for signal in events_of_type(SignalRaised, events)]


def placed_order(events: Sequence[BookEvent]) -> OrderPlaced:
    (order,) = events_of_type(OrderPlaced, events)
    return order
