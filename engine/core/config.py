"""What a run may do: its costs, sizes, limits and exits, resolved and frozen before the first bar.

A `RunConfig` is a complete snapshot. Its digest names the question that a run answers. Profiles (what people
write) are resolved into it at the edge, in `ui`.
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
    """What trading costs and how much of a bar one order may take; `docs/fills.md` has every rule with a worked bar.

    Slippage is adverse, per side, and the sum of its parts: `slippage_bps` of the price; `slippage_volume_bps` x the
    square of the order's share in the bar's volume; and, at random, up to `slippage_random_bps`, drawn from `seed` and
    the order's id. Commission is the sum of `commission_bps` of the notional and `commission_per_unit`, at least
    `commission_min` (account currency) for an order.
    volume_cap_pct: an order takes at most this share of a bar's volume; latency_bars: bars of its symbol that an
    order waits before it works; round_to_tick: fill prices are rounded to the instrument's tick, against the order.
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
    """`confidence`: equity x base_pct x confidence; `fixed_quantity`: `quantity` units whatever the confidence."""

    mode: Literal["confidence", "fixed_quantity"]
    base_pct: Decimal = Decimal(5)
    quantity: Decimal | None = None

    def __post_init__(self) -> None:
        _check_amounts(self, base_pct=self.base_pct, quantity=self.quantity)
        if self.mode == "fixed_quantity" and not self.quantity:
            raise ValueError("sizing mode fixed_quantity needs a quantity above 0")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a wish enters the market, where it does not say so itself.

    offset_bps: how far from the last close the order's price lies: a LIMIT that much better, a STOP that much worse;
    limit_offset_bps: how far beyond its stop a STOP_LIMIT may still be filled. valid_bars: with GTD, after how many
    bar lengths the order expires.
    """

    order_type: OrderType = OrderType.MARKET
    offset_bps: Decimal = ZERO
    limit_offset_bps: Decimal = ZERO
    time_in_force: TimeInForce = TimeInForce.GTC
    valid_bars: int | None = None

    def __post_init__(self) -> None:
        _check_amounts(self, offset_bps=self.offset_bps, limit_offset_bps=self.limit_offset_bps)
        if self.order_type is OrderType.TRAILING_STOP:
            raise ValueError("a trailing stop protects a position: it is no way to enter one")
        if self.offset_bps >= 10_000:
            raise ValueError("offset_bps must be below 10000: the order's price would be at or below zero")
        if (self.time_in_force is TimeInForce.GTD) is (self.valid_bars is None):
            raise ValueError("valid_bars and the time in force GTD belong together: give both or neither")
        if self.valid_bars is not None and self.valid_bars < 1:
            raise ValueError("valid_bars must be at least 1")


class RiskLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the gate allows; `None` switches a limit off. Only entries are held to them: see `engine.trading.risk`.

    Percentages are of equity at the decision; `daily_loss_pct` of equity at the session roll, `drawdown_pct` of the
    highest equity at any close. Values are account currency, quantities units. `position_pct` bounds what one symbol's
    position is worth after the order, working entries included, as `position_quantity_max` bounds its units.
    orders_per_hour: entries placed in the 60 minutes of market time before a decision. collar_pct: how far an order's
    price may lie from the last close. stale_bars: how many bar lengths old the last close may be. trading_from,
    trading_to: minutes of the UTC day between which entries are made, across midnight if `trading_from` is later.
    losses_max losing round trips in a row stop entries for `cool_down_bars` bar lengths. reduce: an order that is too
    large is made to fit; else it is denied.
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
    """When a position is given up without being asked by its symbol's opposite wish.

    holding_bars: existing bars of the symbol, the entry bar being 1. stop_pct: distance of the protective stop from
    the market's price at the fill, in per cent of the price the entry was decided at; stop_ranges: the same in mean
    true ranges of the symbol's latest 14 bars. risk_reward: distance of the target in distances of the stop.
    trail_pct: distance of a trailing stop, like stop_pct. `from_decision` takes the decision's horizon and risk-reward
    instead, where it has them; a stop or target price that a wish names itself always goes first. session_end: give
    up before the calendar closes.
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
            raise ValueError("stop_pct and stop_ranges both say where the stop lies: give one of them")
        if self.risk_reward is not None and self.stop_pct is None and self.stop_ranges is None:
            raise ValueError("risk_reward counts in distances of the stop: give stop_pct or stop_ranges too")


class Shorting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """borrow_pct: cost of borrowing what is sold short, per cent of its value a year, charged at session rolls.

    margin_pct: collateral beside the proceeds, per cent of what the short was sold for; maintenance_pct: shorts are
    bought back when equity falls below this share of their value; None for never.
    """

    borrow_pct: Decimal = ZERO
    margin_pct: Decimal = Decimal(100)
    maintenance_pct: Decimal | None = None

    def __post_init__(self) -> None:
        _check_amounts(
            self, borrow_pct=self.borrow_pct, margin_pct=self.margin_pct, maintenance_pct=self.maintenance_pct
        )


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for one symbol instead of what holds for all; `None` changes nothing."""

    symbol: Symbol
    costs: Costs | None = None
    sizing: Sizing | None = None
    entry: Entry | None = None
    exits: Exits | None = None
    position_pct: Decimal | None = None

    def __post_init__(self) -> None:
        _check_amounts(self, position_pct=self.position_pct)


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a book's decisions depend on besides bars and analyses.

    rates: symbols like EUR-USD whose bars convert amounts into the account's currency; they are not traded as such.
    periods_per_year: how many returns a year are annualised with; None: as many as their spacing shows.
    session_roll_hour: the hour of the day, in UTC, at which a session ends; None: when its markets close.
    Every field added since the first version has a default under which old runs decide as they did.
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
            raise BadInput(f"the symbols {','.join(self.symbols)} name one of them twice: name each once.")
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
        """The symbols whose bars a run sees: those it trades, then those that only convert currencies."""
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
        """The cap of one symbol's position, per cent of equity: its own where it has one."""
        own = self._override(symbol).position_pct
        return self.limits.position_pct if own is None else own

    def rate_symbol(self, currency: str) -> Symbol | None:
        """The symbol whose last close is the account's currency per unit of another; None for the account's own."""
        rate = self._rate_of(currency)
        return None if rate is None else rate.symbol

    def _rate_of(self, currency: str) -> Instrument | None:
        return next((rate for rate in self.rates if rate.symbol == f"{currency}-{self.currency}"), None)

    def _override(self, symbol: Symbol) -> Override:
        """What holds for the symbol alone, of which each part may be None."""
        for override in self.overrides:
            if override.symbol == symbol:
                return override
        return _NO_OVERRIDE


_NO_OVERRIDE = Override("")


def digest_of(value: object) -> str:
    """SHA-256, in hexadecimal, of a value's canonical JSON."""
    return sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
