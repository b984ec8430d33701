"""Hostile intents, and an independent witness that no limit is broken."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from random import Random

from engine.core.config import RunConfig
from engine.core.events import (
    BookEvent,
    OrderFilled,
    OrderPlaced,
    TradingHalted,
    TradingResumed,
)
from engine.core.market import Bar, Instrument, OrderType, Side, Timeframe
from engine.core.money import exact
from engine.trading.book import Book, evolve
from engine.trading.circuit_breakers import Command
from tests.support.strategies import FIRST, HOUR

BAR = Timeframe.M15.duration


STEPS = 200


DUST = Fraction(1, 10**6)


TRADED = (
    Instrument("AAA", "USD", 2, exact("1"), exact("50"), "CME", exact("0.25")),
    Instrument("BBB", "USD", 5, exact("0.01"), exact("1"), "24/7"),
    Instrument("CCC", "EUR", 5, exact("0.00000001"), exact("0.1"), "FX", exact("0.00001")),
)


RATE = Instrument("EUR-USD", "USD", 5)


PRICES = {"AAA": 40, "BBB": 30_000, "CCC": 7, "EUR-USD": 1.1}


def bars_of(random: Random, instrument: Instrument) -> list[Bar]:
    """Bars of a quarter of an hour, with leaps and holes, on the tick."""
    tick = instrument.tick or exact("0.00001")
    price, at = PRICES[instrument.symbol] / float(tick), FIRST
    bars: list[Bar] = []
    for _ in range(STEPS):
        if instrument is not RATE and random.random() < 0.02:
            at += BAR * random.randrange(1, 6)
        path = [price := max(1.0, price * random.gauss(1, 0.006)) for _ in range(4)]
        prices = [exact(Decimal(round(each)) * tick) for each in (path[0], max(path), min(path), path[3])]
        volume = exact(random.choice(["0", "9", "500", "900000"]))
        bars.append(Bar(instrument.symbol, at, at + BAR, *prices, volume=volume))
        at += BAR
    return bars


def commands_of(random: Random, at: datetime) -> list[Command]:
    """A person halts now and then, and soon resumes whatever was halted."""
    if random.random() < 0.01:
        return [TradingHalted(at, random.choice(["entries", "everything"]), "let me look", "operator")]
    return [TradingResumed(at, "go on", "operator")] if random.random() < 0.05 else []


class Witness:
    """The account as its events tell it, and the last closes: what an auditor would look at."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.book = config, Book()
        self.closes: dict[str, Fraction] = {}
        self.closed_at: dict[str, datetime] = {}
        self.peak = Fraction(config.cash)
        self.placed: list[datetime] = []
        self.orders = self.fills = 0

    def worth(self, symbol: str, units: Fraction, price: Fraction) -> Fraction:
        instrument = next(each for each in TRADED if each.symbol == symbol)
        rate = self.closes["EUR-USD"] if instrument.quote == "EUR" else 1
        return units * price * Fraction(instrument.multiplier) * rate

    def equity(self) -> Fraction:
        held = self.book.positions.values()
        marked = (self.worth(each.symbol, Fraction(each.quantity), self.closes[each.symbol]) for each in held)
        return Fraction(self.book.cash) + sum(marked)

    def take(self, event: BookEvent) -> None:
        before, self.book = self.book, evolve(self.book, event)
        if isinstance(event, OrderPlaced) and event.role == "entry":
            self.orders += 1
            self.judge(event, before)
            self.placed.append(event.at)
        if isinstance(event, OrderFilled):
            self.fills += 1
            self.look(event, before)

    def look(self, filled: OrderFilled, before: Book) -> None:
        """What holds after every fill: whole lots, units inside their limit, nothing short that may not be."""
        limits, instrument = self.config.limits, self.config.instrument(filled.symbol)
        held, was = Fraction(self.book.held(filled.symbol)), Fraction(before.held(filled.symbol))
        assert held % Fraction(instrument.quantity_step) == 0
        assert abs(held) <= max(Fraction(limits.position_quantity_max or 0), abs(was))
        assert held >= 0 or limits.shorts
        assert filled.quantity > 0
        opens = abs(held) > abs(was) or held * was < 0
        assert not opens or self.book.free_cash >= 0
        assert not opens or before.working[filled.order_id].role == "entry"

    def judge(self, order: OrderPlaced, before: Book) -> None:
        """What holds when an entry is placed: every limit, whichever of the working entries are filled."""
        limits, at, side = self.config.limits, order.at, order.side
        equity, last = self.equity(), self.closes[order.symbol]
        pct = equity / 100
        terms = order.terms
        reference = Fraction(terms.stop_price or terms.limit_price or Decimal(0)) or last
        slip = Fraction(0) if terms.order_type is OrderType.LIMIT else reference * Fraction("0.00033") * side.sign
        price = reference + slip
        if terms.limit_price is not None:
            price = (
                min(price, Fraction(terms.limit_price)) if side is Side.BUY else max(price, Fraction(terms.limit_price))
            )
        quantity, held = Fraction(order.quantity), Fraction(before.held(order.symbol))
        assert quantity > 0
        assert not before.halts
        assert self.book.free_cash >= 0
        assert self.worth(order.symbol, quantity, price) <= Fraction(limits.order_value_max or 0) + DUST
        assert quantity <= Fraction(limits.order_quantity_max or 0)
        same = [o for o in self.book.orders_of(order.symbol) if o.role == "entry" and o.side is side]
        resulting = abs(
            held + side.sign * sum(Fraction(o.quantity) - (Fraction(o.closing) if o is not order else 0) for o in same)
        )
        assert resulting <= Fraction(limits.position_quantity_max or 0)
        cap = 12 if order.symbol == "CCC" else Fraction(limits.position_pct or 0)
        assert self.worth(order.symbol, resulting, price) <= cap * pct + DUST
        gross, net = Fraction(limits.gross_exposure_pct or 0) * pct, Fraction(limits.net_exposure_pct or 0) * pct
        exposures = list(self.exposures(order))
        assert sum(max(map(abs, each)) for each in exposures) <= gross + DUST
        assert abs(sum(most for most, _ in exposures)) <= net + DUST
        assert abs(sum(least for _, least in exposures)) <= net + DUST
        start = Fraction(before.day_equity)
        assert start - equity < start / 100 + DUST
        assert self.peak - equity < max(self.peak, equity) / 40 + DUST
        assert self.placed.count(at) < 2
        assert sum(each > at - HOUR for each in self.placed) < 3
        for each in (price, terms.limit_price, terms.stop_price):
            assert each is None or abs(Fraction(each) - last) <= last / 25 + DUST
        assert at - self.closed_at[order.symbol] <= 2 * BAR
        assert order.symbol in (limits.symbols or ())
        assert 60 <= at.hour * 60 + at.minute < 23 * 60
        assert limits.shorts or held + side.sign * quantity >= 0
        assert limits.reversal or held * side.sign >= 0
        assert before.losses < 4 or (before.lost_at is not None and at >= before.lost_at + 3 * BAR)
        assert sum(o.terms == terms or o.at == at for o in same) == 1

    def exposures(self, placed: OrderPlaced) -> Iterator[tuple[Fraction, Fraction]]:
        """The value of each symbol at most and at least, the placed order being filled.

        What an order closes counts at the close, what it opens at the price of its fill.
        """
        for symbol in (instrument.symbol for instrument in TRADED if instrument.symbol in self.closes):
            close = self.closes[symbol]
            most = least = self.worth(symbol, Fraction(self.book.held(symbol)), close)
            for order in self.book.orders_of(symbol):
                if order.role == "entry":
                    closing = Fraction(order.closing)
                    change = self.worth(symbol, closing, close)
                    change += self.worth(symbol, Fraction(order.quantity) - closing, self.price_of(order, close))
                    change *= order.side.sign
                    most += change if change > 0 or order is placed else 0
                    least += change if change < 0 or order is placed else 0
            yield most, least

    def price_of(self, order: OrderPlaced, close: Fraction) -> Fraction:
        """The price of a fill as it can be foreseen, after slippage; of a sale no less than before it."""
        terms, buys = order.terms, order.side is Side.BUY
        own = terms.stop_price if terms.stop_price is not None else terms.limit_price
        price = close if own is None else Fraction(own)
        if own is not None and (terms.stop_price is not None) is buys:
            price = max(price, close)
        if terms.order_type is OrderType.LIMIT or not buys:
            return price
        price += price * Fraction("0.00033")
        return price if terms.limit_price is None else min(price, Fraction(terms.limit_price))
