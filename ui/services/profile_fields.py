"""Fields of a profile with their bounds and defaults; `docs/profiles.md` lists them in one table.

A part has the fields of the engine's struct of that name; a field left out has the struct's default. Single values are
checked here; contradictions between fields are refused by the engine, when a part becomes its
struct (`ui.services.profile_files`).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    field_serializer,
    model_validator,
)

from engine.core.errors import BadInput
from engine.core.events import ProfileKind
from engine.core.market import OrderType, Symbol, TimeInForce, check_symbol
from engine.core.money import ZERO, exact, mul

FieldValues = dict[str, Any]


def _reject_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _symbol(text: str) -> Symbol:
    try:
        return check_symbol(text)
    except BadInput as error:
        raise ValueError(str(error).rstrip(".")) from None


def _reject_repeats(symbols: tuple[Symbol, ...]) -> tuple[Symbol, ...]:
    if len(set(symbols)) < len(symbols):
        raise ValueError("a symbol is named twice")
    return symbols


Amount = Annotated[Decimal, Field(ge=0, le=10**12), AfterValidator(exact)]
Bps = Annotated[Amount, Field(lt=10_000)]
NonNegativeInteger = Annotated[int, BeforeValidator(_reject_bool), Field(ge=0, le=10**9)]
Count = Annotated[NonNegativeInteger, Field(ge=1)]
Minute = Annotated[NonNegativeInteger, Field(lt=24 * 60)]
Flag = Annotated[bool, Strict()]
SymbolName = Annotated[str, AfterValidator(_symbol)]
SymbolList = Annotated[tuple[SymbolName, ...], AfterValidator(_reject_repeats)]


class Part(BaseModel):
    """Base of all parts; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _extract_alias(values: Any, name: str, replaced: tuple[str, ...]) -> tuple[FieldValues, Any] | None:
    """Return the part without an alias field that replaces others, and the value of that field."""
    if not isinstance(values, dict) or name not in values:
        return None
    rest: FieldValues = {**values}
    value = rest.pop(name)
    if twice := [field for field in replaced if field in rest]:
        raise ValueError(f"{name} and {twice[0]} set the same value: give one of them")
    return rest, value


class CostsPart(Part):
    """Slippage and commission. `slippage_fraction` is another way to write `slippage_bps`: 0.02 is 200."""

    slippage_bps: Bps = Decimal(5)
    commission_bps: Bps = Decimal(10)
    slippage_volume_bps: Bps = ZERO
    slippage_random_bps: Bps = ZERO
    seed: NonNegativeInteger | None = None
    commission_per_unit: Amount = ZERO
    commission_min: Amount = ZERO
    volume_cap_pct: Amount | None = None
    latency_bars: NonNegativeInteger = 0
    round_to_tick: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _as_a_fraction(cls, values: Any) -> Any:
        alias = _extract_alias(values, "slippage_fraction", ("slippage_bps",))
        if alias is None:
            return values
        rest, fraction = alias
        if isinstance(fraction, bool) or not isinstance(fraction, Decimal | int | str):
            raise ValueError("slippage_fraction must be a number like 0.02")
        return {**rest, "slippage_bps": mul(exact(fraction), Decimal(10_000))}


class SizingPart(Part):
    """Size of a position."""

    mode: Literal["confidence", "fixed_quantity"] = "confidence"
    base_pct: Amount = Decimal(5)
    quantity: Amount | None = None


class EntryPart(Part):
    """Order type and terms of an entry."""

    order_type: OrderType = OrderType.MARKET
    offset_bps: Bps = ZERO
    limit_offset_bps: Amount = ZERO
    time_in_force: TimeInForce = TimeInForce.GTC
    valid_bars: Count | None = None


class LimitsPart(Part):
    """Limits of the risk checks. `trading_hours` = 08:00-20:00 is short for `trading_from` and `trading_to`."""

    position_pct: Amount | None = Decimal(10)
    daily_loss_pct: Amount | None = Decimal(5)
    reversal: Flag = True
    shorts: Flag = True
    reduce: Flag = True
    position_quantity_max: Amount | None = None
    order_value_max: Amount | None = None
    order_quantity_max: Amount | None = None
    gross_exposure_pct: Amount | None = None
    net_exposure_pct: Amount | None = None
    drawdown_pct: Amount | None = None
    losses_max: Count | None = None
    cool_down_bars: Count = 24
    orders_per_step: Count | None = None
    orders_per_hour: Count | None = None
    collar_pct: Amount | None = None
    stale_bars: Count | None = None
    symbols: SymbolList | None = None
    trading_from: Minute | None = None
    trading_to: Minute | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_hours(cls, values: Any) -> Any:
        alias = _extract_alias(values, "trading_hours", ("trading_from", "trading_to"))
        if alias is None:
            return values
        rest, hours = alias
        clock = r"(?:[01]\d|2[0-3]):[0-5]\d"
        times = re.fullmatch(f"({clock})-({clock}|24:00)", hours) if isinstance(hours, str) else None
        if times is None:
            raise ValueError("trading_hours have the form 08:00-20:00, in UTC")
        first, last = (60 * int(at[:2]) + int(at[3:]) for at in times.groups())
        return {**rest, "trading_from": first, "trading_to": last % (24 * 60)}


class ExitsPart(Part):
    """Conditions for closing a position."""

    holding_bars: Count | None = 4
    from_decision: Flag = False
    stop_pct: Amount | None = None
    stop_ranges: Amount | None = None
    risk_reward: Amount | None = None
    trail_pct: Amount | None = None
    session_end: Flag = False


class ShortingPart(Part):
    """Costs and margin of short positions."""

    borrow_pct: Amount = ZERO
    margin_pct: Amount = Decimal(100)
    maintenance_pct: Amount | None = None


class OverridePart(Part):
    """Values of one symbol: the named fields of a part; the others are the profile's own."""

    costs: CostsPart | None = None
    sizing: SizingPart | None = None
    entry: EntryPart | None = None
    exits: ExitsPart | None = None
    position_pct: Amount | None = None

    @field_serializer("costs", "sizing", "entry", "exits")
    def _as_named(self, part: Part | None) -> FieldValues | None:
        return None if part is None else part.model_dump(mode="json", exclude_unset=True)


def _in_order(overrides: dict[Symbol, OverridePart]) -> dict[Symbol, OverridePart]:
    return dict(sorted(overrides.items()))


class _PortfolioFields(Part):
    cash: Amount = Decimal(100_000)
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3,5}$")] = "USD"
    universe: SymbolList = ()
    rates: SymbolList = ()
    sizing: SizingPart = SizingPart()
    pyramid: Flag = False
    session_roll_hour: Annotated[NonNegativeInteger, Field(le=23)] | None = None
    periods_per_year: Annotated[Count, Field(le=366)] | None = None
    overrides: Annotated[dict[SymbolName, OverridePart], AfterValidator(_in_order)] = {}

    @model_validator(mode="after")
    def _names_that_fit(self) -> Self:
        for rate in self.rates:
            if not rate.endswith(f"-{self.currency}"):
                raise ValueError(f"rates: {rate} does not convert into {self.currency}, as EUR-{self.currency} would")
        for symbol in self.overrides:
            if self.universe and symbol not in self.universe:
                raise ValueError(f"overrides: {symbol} is not in the universe")
        return self


class _RiskFields(Part):
    costs: CostsPart = CostsPart()
    limits: LimitsPart = LimitsPart()
    exits: ExitsPart = ExitsPart()
    entry: EntryPart = EntryPart()
    shorting: ShortingPart = ShortingPart()


class Portfolio(_PortfolioFields):
    """Symbols to trade and the capital."""

    kind: ClassVar[ProfileKind] = "portfolio"


class Risk(_RiskFields):
    """Costs, limits, entries and exits."""

    kind: ClassVar[ProfileKind] = "risk"


class Profile(_RiskFields, _PortfolioFields):
    """Portfolio and risk combined: the profile of a run."""

    kind: ClassVar[ProfileKind] = "combined"


Document = Profile | Portfolio | Risk

KINDS: dict[str, type[Profile] | type[Portfolio] | type[Risk]] = {
    kind.kind: kind for kind in (Profile, Portfolio, Risk)
}
