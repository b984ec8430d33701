"""Equity curve of a run: its equity at every close of a bar, from fills and bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from engine.core.config import RunConfig
from engine.core.events import CashAdjusted, OrderFilled
from engine.core.market import Bar, Symbol
from engine.core.money import ZERO, add, mul, neg, sub
from engine.data.timeline import time_slices


class EquityPoint(NamedTuple):
    at: datetime
    equity: Decimal
    cash: Decimal
    drawdown: float


def equity_curve(
    config: RunConfig, movements: Sequence[OrderFilled | CashAdjusted], bars_by_symbol: Sequence[Sequence[Bar]]
) -> list[EquityPoint]:
    """Return the equity at each close, with every position at the last known close of its symbol.

    A fill at the open of a bar that begins as another one closes is not part of the closing one's equity. movements:
    fills and other movements of cash, in order; bars_by_symbol: includes the bars of currency rates.
    """
    cash, highest = config.cash, config.cash
    quantities: dict[Symbol, Decimal] = {}
    marks: dict[Symbol, Decimal] = {}
    valuation = {i.symbol: (i.multiplier, config.rate_symbol(i.quote)) for i in config.instruments}
    curve: list[EquityPoint] = []
    next_movement = 0
    for time_slice in time_slices(bars_by_symbol):
        if not time_slice.closed:
            continue
        while next_movement < len(movements) and _is_past(movements[next_movement], time_slice.at):
            cash = _apply_movement(cash, quantities, movements[next_movement])
            next_movement += 1
        for bar in time_slice.closed:
            marks[bar.symbol] = bar.close
        equity = cash
        for symbol, quantity in quantities.items():
            multiplier, rate = valuation[symbol]
            value = mul(mul(quantity, marks[symbol]), multiplier)
            equity = add(equity, value if rate is None else mul(value, marks[rate]))
        highest = max(highest, equity)
        curve.append(EquityPoint(time_slice.at, equity, cash, float(equity) / float(highest) - 1.0 if highest else 0.0))
    return curve


def _is_past(movement: OrderFilled | CashAdjusted, at: datetime) -> bool:
    """Return True if a movement happened before an instant, or inside a bar that closes at it."""
    if isinstance(movement, CashAdjusted):
        return movement.at <= at
    return movement.at < at or (movement.at == at and movement.bar_opened_at < at)


def _apply_movement(cash: Decimal, quantities: dict[Symbol, Decimal], movement: OrderFilled | CashAdjusted) -> Decimal:
    if isinstance(movement, CashAdjusted):
        return add(cash, movement.amount)
    bought = movement.side.sign > 0
    quantity = add(quantities.get(movement.symbol, ZERO), movement.quantity if bought else neg(movement.quantity))
    if quantity:
        quantities[movement.symbol] = quantity
    else:
        quantities.pop(movement.symbol, None)
    return sub(sub(cash, movement.notional if bought else neg(movement.notional)), movement.commission)
