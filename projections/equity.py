"""The curve of a run: its equity at every instant a bar closed, from fills and bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from engine.config import RunConfig
from engine.events import OrderFilled
from engine.feed.recorded import moments
from engine.market import Bar, Symbol
from engine.money import ZERO, add, mul, neg, sub


class EquityPoint(NamedTuple):
    at: datetime
    equity: Decimal
    cash: Decimal
    drawdown: float


def equity_curve(
    config: RunConfig, fills: Sequence[OrderFilled], bars_by_symbol: Sequence[Sequence[Bar]]
) -> list[EquityPoint]:
    """Equity with every position at the last known close of its symbol.

    A fill at the open of a bar that begins as another one closes is not part of the closing one's equity.
    """
    cash, highest = config.cash, config.cash
    held: dict[Symbol, Decimal] = {}
    marks: dict[Symbol, Decimal] = {}
    multipliers = {i.symbol: i.multiplier for i in config.instruments}
    curve: list[EquityPoint] = []
    due = 0
    for moment in moments(bars_by_symbol):
        if not moment.closed:
            continue
        while due < len(fills) and fills[due].at < moment.at:
            cash = _pay(cash, held, fills[due])
            due += 1
        for bar in moment.closed:
            marks[bar.symbol] = bar.close
        equity = cash
        for symbol, quantity in held.items():
            equity = add(equity, mul(mul(quantity, marks[symbol]), multipliers[symbol]))
        highest = max(highest, equity)
        curve.append(EquityPoint(moment.at, equity, cash, float(equity) / float(highest) - 1.0 if highest else 0.0))
    return curve


def _pay(cash: Decimal, held: dict[Symbol, Decimal], fill: OrderFilled) -> Decimal:
    bought = fill.side.sign > 0
    quantity = add(held.get(fill.symbol, ZERO), fill.quantity if bought else neg(fill.quantity))
    if quantity:
        held[fill.symbol] = quantity
    else:
        held.pop(fill.symbol, None)
    return sub(sub(cash, fill.notional if bought else neg(fill.notional)), fill.commission)
