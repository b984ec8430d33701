"""What a run may do: its costs, sizes, limits and exits, resolved and frozen before the first bar.

A `RunConfig` is a complete snapshot. Its digest names the question that a run answers. Profiles (what people
write) are resolved into it at the edge, in `ui`.
"""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import Literal

import msgspec

from engine.errors import BadInput
from engine.market import Instrument, Timeframe
from engine.money import is_exact


def _check(owner: object, **amounts: Decimal | None) -> None:
    for name, amount in amounts.items():
        if amount is not None and (not is_exact(amount) or amount < 0):
            raise ValueError(f"{type(owner).__name__}.{name} must be an exact amount of at least 0, not {amount}")


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per side and fill, in basis points of the price or of the filled notional; slippage is always adverse."""

    slippage_bps: Decimal
    commission_bps: Decimal

    def __post_init__(self) -> None:
        _check(self, slippage_bps=self.slippage_bps, commission_bps=self.commission_bps)
        if self.slippage_bps >= 10_000:
            raise ValueError("slippage_bps must be below 10000: a sale would fill at or below zero")


class Sizing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`confidence`: equity x base_pct x confidence; `fixed_quantity`: `quantity` units whatever the confidence."""

    mode: Literal["confidence", "fixed_quantity"]
    base_pct: Decimal = Decimal(5)
    quantity: Decimal | None = None

    def __post_init__(self) -> None:
        _check(self, base_pct=self.base_pct, quantity=self.quantity)
        if self.mode == "fixed_quantity" and not self.quantity:
            raise ValueError("sizing mode fixed_quantity needs a quantity above 0")


class RiskLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`None` switches a limit off. Percentages are of equity, `daily_loss_pct` of equity at the session roll."""

    position_pct: Decimal | None = Decimal(10)
    daily_loss_pct: Decimal | None = Decimal(5)
    reversal: bool = True

    def __post_init__(self) -> None:
        _check(self, position_pct=self.position_pct, daily_loss_pct=self.daily_loss_pct)


class Exits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a position is given up without being asked by its symbol's opposite wish.

    holding_bars: existing bars of the symbol, the entry bar being 1; `from_decision` takes the decision's horizon
    instead, where it has one.
    """

    holding_bars: int | None = 4
    from_decision: bool = False

    def __post_init__(self) -> None:
        if self.holding_bars is not None and self.holding_bars < 1:
            raise ValueError("holding_bars must be at least 1")


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a book's decisions depend on besides bars and analyses."""

    cash: Decimal
    currency: str
    timeframe: Timeframe
    instruments: tuple[Instrument, ...]
    costs: Costs
    sizing: Sizing
    limits: RiskLimits
    exits: Exits
    periods_per_year: int
    session_roll_hour: int = 0
    pyramid: bool = False

    def __post_init__(self) -> None:
        _check(self, cash=self.cash)
        if not self.instruments:
            raise BadInput("a run needs at least one symbol: name them with --symbols A,B.")
        if len(set(self.symbols)) < len(self.symbols):
            raise BadInput(f"the symbols {','.join(self.symbols)} name one of them twice: name each once.")
        if self.periods_per_year < 1:
            raise ValueError("periods_per_year must be at least 1")
        if not 0 <= self.session_roll_hour <= 23:
            raise ValueError("session_roll_hour must be an hour of the day in UTC, 0 to 23")
        for instrument in self.instruments:
            if instrument.quote != self.currency:
                raise BadInput(
                    f"{instrument.symbol} is quoted in {instrument.quote}, the account in {self.currency}: "
                    "all symbols of a run must be quoted in the currency of its account. Run them apart."
                )

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(i.symbol for i in self.instruments)

    def instrument(self, symbol: str) -> Instrument:
        return next(i for i in self.instruments if i.symbol == symbol)


def digest_of(value: object) -> str:
    """SHA-256, in hexadecimal, of a value's canonical JSON."""
    return sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
