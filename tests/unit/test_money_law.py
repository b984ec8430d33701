"""A million things done to one account at random, from one seed: no money is made or lost by any of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import msgspec
import pytest

from engine.broker.paper import BrokerReport, PaperBroker
from engine.core.config import Costs, RunConfig, Shorting
from engine.core.events import (
    CashAdjusted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderTerms,
    Protection,
)
from engine.core.market import Bar, Instrument, OrderType, Side
from engine.core.money import PLACES, ZERO, exact
from engine.trading.book import Book, closing_units
from engine.trading.decide import open_book
from tests.support.strategies import FIRST, HOUR, config_of

OPERATIONS = 1_000_000
SEED = 20240105
RATE = "EUR-USD"
CONFIG: RunConfig = msgspec.structs.replace(
    config_of(("AAA", "BBB"), cash="1000000000000"),
    instruments=(
        Instrument("AAA", "USD", 2, exact("0.01"), exact("0.1")),
        Instrument("BBB", "EUR", 2, exact("1"), exact("50"), tick=exact("0.25")),
    ),
    rates=(Instrument(RATE),),
    costs=Costs(
        exact("3.3"),
        exact("1.7"),
        slippage_volume_bps=exact("90"),
        commission_per_unit=exact("0.013"),
        commission_min=exact("1.5"),
        volume_cap_pct=exact("33.3"),
    ),
    shorting=Shorting(borrow_pct=exact("3.7"), margin_pct=exact("50")),
)


def units(amount: Decimal) -> int:
    """An amount in the smallest that the engine knows."""
    scaled = amount.scaleb(PLACES)
    assert scaled == int(scaled)
    return int(scaled)


class Till:
    """Cash, counted from the numbers on what the broker tells."""

    def __init__(self) -> None:
        self.cash = units(CONFIG.cash)
        self.seen: Counter[str] = Counter()

    def take(self, before: Book, told: Sequence[BrokerReport], after: Book) -> None:
        for event in told:
            self.seen[type(event).__name__] += 1
            if isinstance(event, OrderFilled):
                self.cash -= event.side.sign * units(event.notional) + units(event.commission)
                was, now = before.held(event.symbol), after.held(event.symbol)
                self.seen["reversal" if was * now < 0 else "short" if now < 0 else "long"] += 1
                self.seen["in part"] += event.order_id in after.working
            elif isinstance(event, CashAdjusted):
                self.cash += units(event.amount)
        assert self.cash == units(after.cash)
        costs = sum(units(position.cost) for position in after.positions.values())
        made = units(after.realised) + units(after.adjusted)
        assert self.cash + costs + units(after.fees) - made == units(CONFIG.cash)


class Market:
    """Prices that wander between bounds, one bar at a time, and the orders of somebody without a plan."""

    def __init__(self) -> None:
        self.random = Random(SEED)
        self.at = FIRST
        self.broker = PaperBroker(CONFIG, open_book(CONFIG, "", FIRST))
        self.marks = {"AAA": exact("100"), "BBB": exact("100"), RATE: exact("1.1")}
        self.placed = 0

    def step(self) -> list[BrokerReport]:
        """One operation, and what the broker told of it."""
        kind = self.random.random()
        if kind < 0.4:
            return self._place()
        if kind < 0.45:
            working = list(self.broker.account.working)
            if working:
                self.broker.cancel_order(self.random.choice(working), self.at)
            return []
        if kind < 0.47:
            self.at = datetime(self.at.year, self.at.month, self.at.day, tzinfo=UTC) + timedelta(days=1)
            return self.broker.roll(self.at, self.marks)
        return self._bar()

    def _place(self) -> list[BrokerReport]:
        symbol = self.random.choice(("AAA", "BBB"))
        if len(self.broker.account.orders_of(symbol)) > 6:
            return []
        self.placed += 1
        side = self.random.choice((Side.BUY, Side.SELL))
        quantity = exact(Decimal(self.random.randint(1, 400)) * (CONFIG.instrument(symbol).quantity_step))
        kind = self.random.choice((OrderType.MARKET, OrderType.MARKET, OrderType.LIMIT, OrderType.STOP))
        near = exact(self.marks[symbol] + Decimal(self.random.randint(-300, 300)) / 100)
        terms = OrderTerms(
            kind,
            limit_price=near if kind is OrderType.LIMIT else None,
            stop_price=near if kind is OrderType.STOP else None,
            expires_at=self.at + 3 * HOUR if kind is not OrderType.MARKET else None,
        )
        protection = Protection(stop_distance=exact("2"), target_distance=exact("1.3"), trail=exact("1.7"))
        held = self.broker.account.held(symbol)
        # Now and then an order holds all the cash there is, so that others are rejected for want of it.
        reserved = self.broker.account.cash if kind is OrderType.LIMIT and self.random.random() < 0.01 else ZERO
        order = OrderPlaced(
            f"order-{self.placed}", "", "", symbol, self.at, side, quantity, self.marks[symbol], reserved,
            closing=closing_units(held, side, quantity), terms=terms,
            protection=protection if self.random.random() < 0.5 else None,
        )  # fmt: skip
        return [self.broker.place_order(order)]

    def _bar(self) -> list[BrokerReport]:
        symbol = self.random.choice(("AAA", "AAA", "BBB", "BBB", RATE))
        if symbol == RATE:
            self.marks[RATE] = exact(Decimal(self.random.randint(8000, 13000)) / 10000)
            return []
        open_ = self._moved(self.marks[symbol])
        close = self._moved(open_)
        high, low = exact(max(open_, close) + 1), exact(min(open_, close) - 1)
        bar = Bar(symbol, self.at, self.at + HOUR, open_, high, low, close, Decimal(self.random.randint(0, 9000)))
        before = Decimal(self.random.randint(0, 9000))
        told = self.broker.open(symbol, open_, self.at, self.marks, before)
        self.at += HOUR
        self.marks[symbol] = close
        return [*told, *self.broker.close(bar, self.marks), *self.broker.expire(self.at)]

    def _moved(self, price: Decimal) -> Decimal:
        return exact(min(Decimal(500), max(Decimal(5), price + Decimal(self.random.randint(-200, 200)) / 100)))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_million_operations_neither_make_nor_lose_money(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    seen = wander(OPERATIONS)
    with capsys.disabled():
        print(f"\n{OPERATIONS:,} operations in {time.monotonic() - began:.0f} s: {dict(seen)}")


def test_some_operations_neither_make_nor_lose_money() -> None:
    wander(4_000)


def wander(operations: int) -> Counter[str]:
    market, till = Market(), Till()
    for _ in range(operations):
        before = market.broker.account
        till.take(before, market.step(), market.broker.account)
    kinds = (OrderFilled, OrderPlaced, OrderCanceled, OrderExpired, OrderRejected, CashAdjusted)
    for each in (*(kind.__name__ for kind in kinds), "reversal", "short", "long", "in part"):
        assert till.seen[each] > 0, (each, till.seen)
    return till.seen
