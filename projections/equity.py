"""The curve of a run: its equity at every instant a bar closed, from fills and bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from engine.core.config import RunConfig
from engine.core.events import CashAdjusted, OrderFilled
from engine.core.market import Bar, Symbol
from engine.core.money import ZERO, add, mul, neg, sub
from engine.data.timeline import moments


class EquityPoint(NamedTuple):
    at: datetime
    equity: Decimal
    cash: Decimal
    drawdown: float


def equity_curve(
    config: RunConfig, moves: Sequence[OrderFilled | CashAdjusted], bars_by_symbol: Sequence[Sequence[Bar]]
) -> list[EquityPoint]:
    """Equity with every position at the last known close of its symbol.

    A fill at the open of a bar that begins as another one closes is not part of the closing one's equity. `moves`:
    fills and other movements of cash, in order; the bars of converting symbols belong to those given.
    """
    cash, highest = config.cash, config.cash
    held: dict[Symbol, Decimal] = {}
    marks: dict[Symbol, Decimal] = {}
    worth = {i.symbol: (i.multiplier, config.rate_symbol(i.quote)) for i in config.instruments}
    curve: list[EquityPoint] = []
    due = 0
    for moment in moments(bars_by_symbol):
        if not moment.closed:
            continue
        while due < len(moves) and _is_past(moves[due], moment.at):
            cash = _pay(cash, held, moves[due])
            due += 1
        for bar in moment.closed:
            marks[bar.symbol] = bar.close
        equity = cash
        for symbol, quantity in held.items():
            multiplier, rate = worth[symbol]
            value = mul(mul(quantity, marks[symbol]), multiplier)
            equity = add(equity, value if rate is None else mul(value, marks[rate]))
        highest = max(highest, equity)
        curve.append(EquityPoint(moment.at, equity, cash, float(equity) / float(highest) - 1.0 if highest else 0.0))
    return curve


def _is_past(move: OrderFilled | CashAdjusted, at: datetime) -> bool:
    """Whether a movement belongs to what was before an instant, or happened inside a bar that closes at it."""
    if isinstance(move, CashAdjusted):
        return move.at <= at
    return move.at < at or (move.at == at and move.bar_opened_at < at)


def _pay(cash: Decimal, held: dict[Symbol, Decimal], fill: OrderFilled | CashAdjusted) -> Decimal:
    if isinstance(fill, CashAdjusted):
        return add(cash, fill.amount)
    bought = fill.side.sign > 0
    quantity = add(held.get(fill.symbol, ZERO), fill.quantity if bought else neg(fill.quantity))
    if quantity:
        held[fill.symbol] = quantity
    else:
        held.pop(fill.symbol, None)
    return sub(sub(cash, fill.notional if bought else neg(fill.notional)), fill.commission)
