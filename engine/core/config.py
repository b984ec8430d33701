"""Configuration of a run: costs, sizing, limits and exits, resolved and frozen before the first bar.

A `RunConfig` is a complete snapshot, and its digest is part of the run's identity. `ui` resolves the profiles that
users write into a `RunConfig`.
"""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import Literal

import msgspec

from engine.core.errors import BadInput
from engine.core.market import Instrument, OrderType, Symbol, Timeframe, TimeInForce
from engine.core.money import ZERO, is_exact


def _check_amounts(owner: object, **amounts: Decimal | None) -> None:
    for name, amount in amounts.items():
        if amount is not None and (not is_exact(amount) or amount < 0):
            raise ValueError(f"{type(owner).__name__}.{name} must be an exact amount of at least 0, not {amount}")


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trading costs and volume cap; `docs/fills.md` explains every rule with an example.

    Slippage is adverse, per side, and the sum of its parts: `slippage_bps` of the price; `slippage_volume_bps` x the
    square of the order's share of the bar's volume; and a random part of up to `slippage_random_bps`, computed from
    `seed` and the order's id. Commission is the sum of `commission_bps` of the notional and `commission_per_unit`, and
    at least `commission_min` (account currency) per order.
    volume_cap_pct: largest share of a bar's volume that may be filled; latency_bars: bars of its symbol that an order
    waits before it becomes active; round_to_tick: fill prices are rounded to the instrument's tick, against the order.
    """

    slippage_bps: Decimal
    commission_bps: Decimal
    slippage_volume_bps: Decimal = ZERO
    slippage_random_bps: Decimal = ZERO
    seed: int | None = None
    commission_per_unit: Decimal = ZERO
    commission_min: Decimal = ZERO
    volume_cap_pct: Decimal | None = None
    latency_bars: int = 0
    round_to_tick: bool = False

    def __post_init__(self) -> None:
        _check_amounts(
            self,
            slippage_bps=self.slippage_bps,
            commission_bps=self.commission_bps,
            slippage_volume_bps=self.slippage_volume_bps,
            slippage_random_bps=self.slippage_random_bps,
            commission_per_unit=self.commission_per_unit,
            commission_min=self.commission_min,
            volume_cap_pct=self.volume_cap_pct,
        )
        if self.slippage_bps + self.slippage_volume_bps + self.slippage_random_bps >= 10_000:
            raise ValueError("slippage must stay below 10000 bps: a sale would fill at or below zero")
        if (self.slippage_random_bps > 0) is (self.seed is None):
            raise ValueError("slippage_random_bps and seed belong together: give both or neither")
        if self.volume_cap_pct is not None and not 0 < self.volume_cap_pct <= 100:
            raise ValueError("volume_cap_pct must be above 0 and at most 100")
        if self.latency_bars < 0:
            raise ValueError("latency_bars must be at least 0")


class Sizing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Position sizing.

    Mode `confidence`: equity x base_pct x confidence. Mode `fixed_quantity`: always `quantity` units.
    """

    mode: Literal["confidence", "fixed_quantity"]
    base_pct: Decimal = Decimal(5)
    quantity: Decimal | None = None

    def __post_init__(self) -> None:
        _check_amounts(self, base_pct=self.base_pct, quantity=self.quantity)
        if self.mode == "fixed_quantity" and not self.quantity:
            raise ValueError("sizing mode fixed_quantity needs a quantity above 0")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Default execution terms of entries, for intents that have none.

    offset_bps: distance of the order's price from the last close, better for a LIMIT and worse for a STOP;
    limit_offset_bps: distance of a STOP_LIMIT's limit beyond its stop. valid_bars: with GTD, the number of bar lengths
    after which the order expires.
    """

    order_type: OrderType = OrderType.MARKET
    offset_bps: Decimal = ZERO
    limit_offset_bps: Decimal = ZERO
    time_in_force: TimeInForce = TimeInForce.GTC
    valid_bars: int | None = None

    def __post_init__(self) -> None:
        _check_amounts(self, offset_bps=self.offset_bps, limit_offset_bps=self.limit_offset_bps)
        if self.order_type is OrderType.TRAILING_STOP:
            raise ValueError("a trailing stop cannot be an entry order")
        if self.offset_bps >= 10_000:
            raise ValueError("offset_bps must be below 10000: the order's price would be at or below zero")
        if (self.time_in_force is TimeInForce.GTD) is (self.valid_bars is None):
            raise ValueError("valid_bars and the time in force GTD belong together: give both or neither")
        if self.valid_bars is not None and self.valid_bars < 1:
            raise ValueError("valid_bars must be at least 1")


class RiskLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the risk check; `None` disables a limit. They apply to entries only: see `engine.trading.risk`.

    Percentages refer to equity at the decision; `daily_loss_pct` to equity at the session roll, `drawdown_pct` to the
    highest equity at any close. Values are in account currency, quantities in units. `position_pct` limits the value of
    one symbol's position after the order, including working entries; `position_quantity_max` limits its units.
    orders_per_hour: entries placed in the 60 minutes of market time before a decision. collar_pct: largest distance of
    an order's price from the last close. stale_bars: maximum age of the last close, in bar lengths. trading_from,
    trading_to: minutes of the UTC day between which entries are allowed, across midnight if `trading_from` is later.
    After `losses_max` consecutive losing round trips, entries pause for `cool_down_bars` bar lengths. reduce: reduce an
    order that is too large; otherwise it is denied.
    """

    position_pct: Decimal | None = Decimal(10)
    daily_loss_pct: Decimal | None = Decimal(5)
    reversal: bool = True
    shorts: bool = True
    reduce: bool = True
    position_quantity_max: Decimal | None = None
    order_value_max: Decimal | None = None
    order_quantity_max: Decimal | None = None
    gross_exposure_pct: Decimal | None = None
    net_exposure_pct: Decimal | None = None
    drawdown_pct: Decimal | None = None
    losses_max: int | None = None
    cool_down_bars: int = 24
    orders_per_step: int | None = None
    orders_per_hour: int | None = None
    collar_pct: Decimal | None = None
    stale_bars: int | None = None
    symbols: tuple[Symbol, ...] | None = None
    trading_from: int | None = None
    trading_to: int | None = None

    def __post_init__(self) -> None:
        _check_amounts(
            self,
            position_pct=self.position_pct,
            daily_loss_pct=self.daily_loss_pct,
            position_quantity_max=self.position_quantity_max,
            order_value_max=self.order_value_max,
            order_quantity_max=self.order_quantity_max,
            gross_exposure_pct=self.gross_exposure_pct,
            net_exposure_pct=self.net_exposure_pct,
            drawdown_pct=self.drawdown_pct,
            collar_pct=self.collar_pct,
        )
        counts = {
            "losses_max": self.losses_max,
            "cool_down_bars": self.cool_down_bars,
            "orders_per_step": self.orders_per_step,
            "orders_per_hour": self.orders_per_hour,
            "stale_bars": self.stale_bars,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"RiskLimits.{name} must be at least 1")
        if (self.trading_from is None) is not (self.trading_to is None):
            raise ValueError("trading_from and trading_to belong together: give both or neither")
        for minute in (self.trading_from, self.trading_to):
            if minute is not None and not 0 <= minute < 1440:
                raise ValueError("trading_from and trading_to must be minutes of the day, 0 to 1439")
        if self.trading_from is not None and self.trading_from == self.trading_to:
            raise ValueError("trading_from and trading_to must differ: leave both out to trade at any time")


class Exits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exit rules of a position, in addition to an opposite intent.

    holding_bars: existing bars of the symbol, the entry bar being 1. stop_pct: distance of the protective stop from
    the market price at the fill, as a percentage of the price at which the entry was decided; stop_ranges: the same in
    average true ranges of the symbol's latest 14 bars. risk_reward: distance of the target as a multiple of the stop
    distance. trail_pct: distance of a trailing stop, like stop_pct. from_decision: use the decision's horizon and
    risk-reward if it has them. A stop or target price in the intent takes precedence. session_end: close the position
    before the market closes.
    """

    holding_bars: int | None = 4
    from_decision: bool = False
    stop_pct: Decimal | None = None
    stop_ranges: Decimal | None = None
    risk_reward: Decimal | None = None
    trail_pct: Decimal | None = None
    session_end: bool = False

    def __post_init__(self) -> None:
        _check_amounts(
            self,
            stop_pct=self.stop_pct,
            stop_ranges=self.stop_ranges,
            risk_reward=self.risk_reward,
            trail_pct=self.trail_pct,
        )
        if self.holding_bars is not None and self.holding_bars < 1:
            raise ValueError("holding_bars must be at least 1")
        for name in ("stop_pct", "stop_ranges", "risk_reward", "trail_pct"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be above 0: leave it out to have none")
        if self.stop_pct is not None and self.stop_ranges is not None:
            raise ValueError("stop_pct and stop_ranges both set the stop: give one of them")
        if self.risk_reward is not None and self.stop_pct is None and self.stop_ranges is None:
            raise ValueError("risk_reward is a multiple of the stop distance: give stop_pct or stop_ranges too")


class Shorting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cost and margin of short positions.

    borrow_pct: annual borrowing cost as a percentage of the short's value, charged at session rolls. margin_pct:
    collateral in addition to the sale proceeds, as a percentage of them. maintenance_pct: shorts are bought back when
    equity falls below this percentage of their value; None for never.
    """

    borrow_pct: Decimal = ZERO
    margin_pct: Decimal = Decimal(100)
    maintenance_pct: Decimal | None = None

    def __post_init__(self) -> None:
        _check_amounts(
            self, borrow_pct=self.borrow_pct, margin_pct=self.margin_pct, maintenance_pct=self.maintenance_pct
        )


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one symbol that replace the general ones; `None` keeps the general setting."""

    symbol: Symbol
    costs: Costs | None = None
    sizing: Sizing | None = None
    entry: Entry | None = None
    exits: Exits | None = None
    position_pct: Decimal | None = None

    def __post_init__(self) -> None:
        _check_amounts(self, position_pct=self.position_pct)


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All inputs of a book's decisions except bars and analyses.

    rates: symbols like EUR-USD whose bars convert amounts into the account's currency; they are not traded.
    periods_per_year: returns per year for annualization; None: derived from their spacing.
    session_roll_hour: the hour of the day, in UTC, at which a session ends; None: at the close of its markets.
    Every field added since the first version has a default that keeps the decisions of old runs.
    """

    cash: Decimal
    currency: str
    timeframe: Timeframe
    instruments: tuple[Instrument, ...]
    costs: Costs
    sizing: Sizing
    limits: RiskLimits
    exits: Exits
    periods_per_year: int | None
    session_roll_hour: int | None = None
    pyramid: bool = False
    entry: Entry = Entry()
    shorting: Shorting = Shorting()
    overrides: tuple[Override, ...] = ()
    rates: tuple[Instrument, ...] = ()

    def __post_init__(self) -> None:
        _check_amounts(self, cash=self.cash)
        if not self.instruments:
            raise BadInput("a run needs at least one symbol.", "SYMBOLS_MISSING")
        if len(set(self.symbols)) < len(self.symbols):
            raise BadInput(f"the symbols {','.join(self.symbols)} contain a duplicate: name each once.")
        if self.periods_per_year is not None and self.periods_per_year < 1:
            raise ValueError("periods_per_year must be at least 1")
        if self.session_roll_hour is not None and not 0 <= self.session_roll_hour <= 23:
            raise ValueError("session_roll_hour must be an hour of the day in UTC, 0 to 23")
        for instrument in self.instruments:
            if instrument.quote != self.currency and self._rate_of(instrument.quote) is None:
                raise BadInput(
                    f"{instrument.symbol} is quoted in {instrument.quote}, the account in {self.currency}: "
                    f"name the symbol whose bars convert it in the profile's rates, {instrument.quote}-{self.currency}."
                )
        overridden = [override.symbol for override in self.overrides]
        if len(set(overridden)) < len(overridden) or not set(overridden) <= set(self.symbols):
            raise BadInput(
                f"overrides are for {','.join(overridden)}: give one at most for each of {','.join(self.symbols)}."
            )

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        return tuple(i.symbol for i in self.instruments)

    @property
    def data_symbols(self) -> tuple[Symbol, ...]:
        """The symbols whose bars a run uses: traded symbols, then those that only convert currencies."""
        return tuple(dict.fromkeys((*self.symbols, *(rate.symbol for rate in self.rates))))

    def instrument(self, symbol: Symbol) -> Instrument:
        return next(i for i in self.instruments if i.symbol == symbol)

    def costs_of(self, symbol: Symbol) -> Costs:
        return self._override(symbol).costs or self.costs

    def sizing_of(self, symbol: Symbol) -> Sizing:
        return self._override(symbol).sizing or self.sizing

    def entry_of(self, symbol: Symbol) -> Entry:
        return self._override(symbol).entry or self.entry

    def exits_of(self, symbol: Symbol) -> Exits:
        return self._override(symbol).exits or self.exits

    def position_pct_of(self, symbol: Symbol) -> Decimal | None:
        """Return the position cap of a symbol as a percentage of equity: its override, or the general one."""
        own = self._override(symbol).position_pct
        return self.limits.position_pct if own is None else own

    def rate_symbol(self, currency: str) -> Symbol | None:
        """Return the symbol whose close converts a currency into the account's; None for the account's own."""
        rate = self._rate_of(currency)
        return None if rate is None else rate.symbol

    def _rate_of(self, currency: str) -> Instrument | None:
        return next((rate for rate in self.rates if rate.symbol == f"{currency}-{self.currency}"), None)

    def _override(self, symbol: Symbol) -> Override:
        """Return the symbol's override, in which each part may be None."""
        for override in self.overrides:
            if override.symbol == symbol:
                return override
        return _NO_OVERRIDE


_NO_OVERRIDE = Override("")


def digest_of(value: object) -> str:
    """Return the SHA-256, in hexadecimal, of a value's canonical JSON."""
    return sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
