"""Exact decimal arithmetic: the only module that creates, multiplies, divides and rounds Decimals.

Every amount, price and quantity is exact up to `PLACES` decimals and has one canonical form: no positive exponent, no
trailing zeros, no negative zero. Equal amounts therefore have equal bytes and digests. Floats are not accepted. The
arithmetic uses its own decimal context and is independent of the thread's context.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import (
    ROUND_HALF_EVEN,
    ROUND_UP,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from functools import reduce

PLACES = 12
MAGNITUDE_MAX = 29
ZERO = Decimal(0)
ONE = Decimal(1)

_CONTEXT = Context(
    prec=60,
    rounding=ROUND_HALF_EVEN,
    Emin=-999_999,
    Emax=999_999,
    capitals=1,
    clamp=0,
    flags=[],
    traps=[InvalidOperation, DivisionByZero, Overflow],
)
_QUANTUM = Decimal(1).scaleb(-PLACES)
_BPS = Decimal(10_000)
_PERCENT = Decimal(100)


def exact(value: Decimal | int | str) -> Decimal:
    """Return the canonical Decimal of a value, rounded half-even to 12 decimals.

    Raise `ValueError` for text that is no number, for NaN and infinities, and for amounts that are too large.
    """
    if not isinstance(value, Decimal):
        try:
            value = _CONTEXT.create_decimal(value)
        except (InvalidOperation, Overflow):
            raise ValueError(f"{value!r} is not a decimal number") from None
    if is_exact(value):
        return value
    if not value.is_finite():
        raise ValueError(f"{value} is not a finite number")
    if value.adjusted() > MAGNITUDE_MAX:
        raise ValueError(f"{value} is too large: amounts have at most {MAGNITUDE_MAX + 1} digits before the point")
    rounded = _CONTEXT.quantize(value, _QUANTUM).normalize(_CONTEXT)
    if rounded == 0:
        return ZERO
    exponent = rounded.as_tuple().exponent
    return _CONTEXT.quantize(rounded, ONE) if isinstance(exponent, int) and exponent > 0 else rounded


def is_exact(value: Decimal) -> bool:
    """Return true if a Decimal is in canonical form."""
    whole, _, decimals = str(value).partition(".")
    # Fast path: the text decides for nearly all amounts. The rest are forms like 1E-8 and -5, and noncanonical zeros.
    if len(whole) <= MAGNITUDE_MAX:
        if decimals.isdigit():
            return len(decimals) <= PLACES and decimals[-1] != "0"
        if whole.isdigit() and not decimals:
            return True
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or not -PLACES <= exponent <= 0:
        return False
    if value == 0:
        return False
    return value.adjusted() <= MAGNITUDE_MAX and (digits[-1] != 0 or exponent == 0)


def add(a: Decimal, b: Decimal) -> Decimal:
    return exact(_CONTEXT.add(a, b))


def sub(a: Decimal, b: Decimal) -> Decimal:
    return exact(_CONTEXT.subtract(a, b))


def mul(a: Decimal, b: Decimal) -> Decimal:
    return exact(_CONTEXT.multiply(a, b))


def div(a: Decimal, b: Decimal) -> Decimal:
    return exact(_CONTEXT.divide(a, b))


def neg(a: Decimal) -> Decimal:
    return exact(_CONTEXT.minus(a))


def magnitude(a: Decimal) -> Decimal:
    """Return the absolute value of an amount."""
    return a.copy_abs()


def total(amounts: Iterable[Decimal]) -> Decimal:
    return reduce(add, amounts, ZERO)


def percent_of(amount: Decimal, pct: Decimal) -> Decimal:
    """Return `pct` percent of an amount."""
    return div(_CONTEXT.multiply(amount, pct), _PERCENT)


def bps_of(amount: Decimal, bps: Decimal) -> Decimal:
    """Return `bps` basis points (hundredths of a percent) of an amount."""
    return div(_CONTEXT.multiply(amount, bps), _BPS)


def prorate(amount: Decimal, share: Decimal, whole: Decimal) -> Decimal:
    """Return `amount * share / whole`, rounded once."""
    return div(_CONTEXT.multiply(amount, share), whole)


def steps_in(quantity: Decimal, step: Decimal) -> int:
    """Return the number of whole steps in a quantity; both are positive or zero."""
    return int(_CONTEXT.divide(quantity, step))


def floor_to_step(quantity: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of `step` not above `quantity`; both are positive or zero."""
    return exact(_CONTEXT.multiply(Decimal(steps_in(quantity, step)), step))


def ceil_to_step(quantity: Decimal, step: Decimal) -> Decimal:
    """Return the smallest multiple of `step` not below `quantity`; both are positive or zero."""
    steps = _CONTEXT.divide(quantity, step).to_integral_value(ROUND_UP)
    return exact(_CONTEXT.multiply(steps, step))


def affordable(amount: Decimal, price: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of `step` whose cost at `price` does not exceed an amount, without prior rounding."""
    return exact(_CONTEXT.multiply(Decimal(steps_in(amount, _CONTEXT.multiply(price, step))), step))
