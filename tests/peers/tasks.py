"""What is asked of an engine and what it answers. Read by both environments: the standard library only, floats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Row = tuple[float, float, float, float, float]


class Order(NamedTuple):
    """An order given when bar `at` (from 0) of the series `symbol` has closed.

    stop, target: prices of protective orders that begin to work once this one is filled; trail: the distance of a
    trailing stop, in price. limit and trigger are the order's own prices.
    """

    at: int
    side: str
    quantity: float
    type: str = "MARKET"
    symbol: int = 0
    limit: float | None = None
    trigger: float | None = None
    stop: float | None = None
    target: float | None = None
    trail: float | None = None

    @property
    def signed(self) -> float:
        return self.quantity if self.side == "BUY" else -self.quantity


class Task(NamedTuple):
    """Bars as (open, high, low, close, volume), one series a symbol; commission and slippage as shares of the price.

    volume_cap: the share of a bar's volume that an order may take, None for all of it.
    """

    cash: float
    commission: float
    slippage: float
    series: Sequence[Sequence[Row]]
    orders: Sequence[Order]
    volume_cap: float | None = None


class Fill(NamedTuple):
    """What was filled inside bar `bar` of the series `symbol`."""

    bar: int
    side: str
    quantity: float
    price: float
    symbol: int = 0


class Answer(NamedTuple):
    """All fills in the order of their bars, and the account's worth at the last close."""

    fills: list[Fill]
    equity: float


class Unsupported(Exception):
    """The engine has no such order. The message is a sentence that says so."""


# Prepares a task, so that what follows can be measured: each call runs the engine anew.
Engine = Callable[[Task], Callable[[], Answer]]


def fill_of(bar: int, signed: float, price: float, symbol: int = 0) -> Fill:
    return Fill(int(bar), "BUY" if signed > 0 else "SELL", abs(float(signed)), float(price), int(symbol))


def by_bar(orders: Sequence[Order]) -> dict[int, list[Order]]:
    """The orders to be given after each bar."""
    due: dict[int, list[Order]] = defaultdict(list)
    for order in orders:
        due[order.at].append(order)
    return dict(due)


def task_of(data: dict[str, Any]) -> Task:
    """A task from its JSON object."""
    return Task(**data)._replace(orders=[Order(*order) for order in data["orders"]])
