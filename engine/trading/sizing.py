"""Position sizing: the target quantity of an intent."""

from __future__ import annotations

from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.market import Instrument
from engine.core.money import ZERO, affordable, floor_to_step, mul, percent_of


def target_quantity(
    equity: Decimal, price: Decimal, confidence: Decimal, instrument: Instrument, config: RunConfig, rate: Decimal
) -> Decimal:
    """Return the target quantity in units, at least 0, a multiple of the instrument's step.

    Mode `confidence`: equity x base fraction x confidence, at most the position cap, at the expected fill price;
    `rate` converts that price into account currency. 0 if the value of a unit rounds to 0.
    """
    sizing = config.sizing_of(instrument.symbol)
    if sizing.mode == "fixed_quantity":
        return floor_to_step(sizing.quantity or ZERO, instrument.quantity_step)
    value = mul(percent_of(equity, sizing.base_pct), confidence)
    cap = position_cap(equity, instrument.symbol, config)
    if cap is not None:
        value = min(value, cap)
    unit_value = mul(mul(price, instrument.multiplier), rate)
    return affordable(max(ZERO, value), unit_value, instrument.quantity_step) if unit_value > 0 else ZERO


def position_cap(equity: Decimal, symbol: str, config: RunConfig) -> Decimal | None:
    """Return the largest value of a symbol's position, in account currency; None without a cap."""
    pct = config.position_pct_of(symbol)
    return None if pct is None else percent_of(equity, pct)
