"""The paper broker once more, from docs/fills.md alone: slow and obvious, with lists and loops.

Amounts are fractions, and nothing is ever rounded but to ticks and lots. Of the engine only values are used: what an
account is set up with, a bar, and the orders that were decided. Sides are signs here: 1 buys, -1 sells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from engine.core.config import RunConfig
from engine.core.events import OrderPlaced, Protection
from engine.core.market import Bar, OrderType, Symbol

NONE = Fraction(0)


class OrderReport(NamedTuple):
    """What became of an order: filled, placed, canceled, outpaired (canceled by its pair), beyond (canceled as its
    fill would have been worse than its worst price), expired or rejected.

    numbers: of a fill its signed quantity, price, commission and slippage; of an order placed its signed quantity,
    stop and limit, 0 where there is none; else nothing.
    """

    status: str
    order_id: str
    at: datetime
    numbers: tuple[Fraction, ...] = ()


@dataclass(eq=False)
class Order:
    """An order that works. quantity, closing, reserved: what is left of each.

    waits: bars it lets pass; works: since an open; triggered: its stop was reached; entered: the price at which its
    position was opened inside the bar under way. The last three are what its fills came to.
    """

    order_id: str
    symbol: Symbol
    sign: int
    quantity: Fraction
    closing: Fraction
    reserved: Fraction
    kind: OrderType
    limit: Fraction | None = None
    stop: Fraction | None = None
    trail: Fraction | None = None
    expires_at: datetime | None = None
    protection: Protection | None = None
    pair: str = ""
    worst: Fraction | None = None
    bars_to_wait: int = 0
    is_active: bool = False
    triggered: bool = False
    entry_price: Fraction | None = None
    units: Fraction = NONE
    notional: Fraction = NONE
    commission: Fraction = NONE

    @property
    def only_closes(self) -> bool:
        return self.quantity == self.closing

    def is_triggered_by(self, price: Fraction) -> bool:
        """Whether a price sets its stop off."""
        return self.stop is not None and (price - self.stop) * self.sign >= 0

    def accepts(self, price: Fraction) -> bool:
        """Whether its limit, if it has one, allows a price."""
        return self.limit is None or (self.limit - price) * self.sign >= 0

    def shrink(self, quantity: Fraction, closed: Fraction, used: Fraction = NONE) -> None:
        """Less by a quantity, of which so much closed, and that used so much free cash; it opens no more than before.

        What it reserves for the rest is the rest's share, and no more than the fill has left of it.
        """
        left = max(NONE, self.quantity - quantity)
        if self.quantity:
            self.reserved = min(self.reserved * left / self.quantity, max(NONE, self.reserved - used))
        self.quantity, self.closing = left, min(left, max(NONE, self.closing - closed))


@dataclass
class Account:
    """Money and positions. cost: what a position was bought for, negative when it is short."""

    cash: Fraction
    fees: Fraction = NONE
    realised: Fraction = NONE
    held: dict[Symbol, Fraction] = field(default_factory=dict[Symbol, Fraction])
    cost: dict[Symbol, Fraction] = field(default_factory=dict[Symbol, Fraction])

    def trade(self, symbol: Symbol, signed: Fraction, notional: Fraction, commission: Fraction) -> None:
        """A fill: first what it closes of the position, at its average cost, then what it opens."""
        before = self.held.pop(symbol, NONE)
        cost = self.cost.pop(symbol, NONE)
        paid = notional if signed > 0 else -notional
        self.cash -= paid + commission
        self.fees += commission
        if before * signed < 0:
            closed = min(abs(before), abs(signed))
            cost_out, paid_out = cost * closed / abs(before), paid * closed / abs(signed)
            self.realised += -paid_out - cost_out
            cost, paid = cost - cost_out, paid - paid_out
        if before + signed:
            self.held[symbol], self.cost[symbol] = before + signed, cost + paid

    def copy(self) -> Account:
        return replace(self, held=dict(self.held), cost=dict(self.cost))


class ReferenceBroker:
    """An account and its orders. What becomes of them is in `told`, in order."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.account = Account(Fraction(config.cash))
        self.orders: list[Order] = []
        self.reports: list[OrderReport] = []
        self.closes: dict[Symbol, Fraction] = {}
        self._volumes: dict[Symbol, Fraction] = {}
        self._volume_taken: dict[Symbol, Fraction] = {}

    # --- What it is told ---

    def place(self, placed: OrderPlaced) -> None:
        terms = placed.terms
        self.orders.append(
            Order(
                placed.order_id,
                placed.symbol,
                placed.side.sign,
                Fraction(placed.quantity),
                Fraction(placed.closing),
                Fraction(placed.reserved),
                terms.order_type,
                _fraction(terms.limit_price),
                _fraction(terms.stop_price),
                _fraction(terms.trail),
                terms.expires_at,
                placed.protection,
                placed.pair,
                _fraction(placed.worst_price),
                bars_to_wait=self.config.costs_of(placed.symbol).latency_bars,
            )
        )

    def cancel(self, order_id: str) -> None:
        self.orders = [order for order in self.orders if order.order_id != order_id]

    def open(self, symbol: Symbol, price: Fraction, at: datetime) -> None:
        self._volume_taken[symbol] = NONE
        ready: list[Order] = []
        for order in self._orders_of(symbol):
            if order.bars_to_wait > 0:
                order.bars_to_wait -= 1
            else:
                order.is_active = True
                ready.append(order)
        before = self.closes.get(symbol, price)
        market = [order for order in ready if order.kind is OrderType.MARKET or order.triggered]
        queue = market + _by_priority([order for order in ready if order not in market], before)
        while queue:
            order = queue.pop(0)
            if order not in self.orders or (order.expires_at is not None and order.expires_at <= at):
                continue
            self._trigger(order, price, at)
            if (order.stop is None or order.triggered) and order.accepts(price):
                queue += self._execute(order, price, at, self._volumes.get(symbol, NONE))

    def close(self, bar: Bar) -> None:
        working = [order for order in self._orders_of(bar.symbol) if order.is_active]
        queue = _by_priority(working, Fraction(bar.open))
        while queue:
            order = queue.pop(0)
            if order not in self.orders or (order.expires_at is not None and order.expires_at < bar.closed_at):
                continue
            price = _inside(order, bar)
            self._trigger(order, _worst(order, bar), bar.closed_at)
            if price is not None:
                placed = self._execute(order, price, bar.closed_at, Fraction(bar.volume))
                for protector in placed:
                    protector.entry_price = price
                queue = _by_priority(placed, price) + queue
        for order in self._orders_of(bar.symbol):
            _trail_stop(order, bar)
        self._volumes[bar.symbol] = Fraction(bar.volume)
        self.closes[bar.symbol] = Fraction(bar.close)

    def expire(self, at: datetime) -> None:
        for order in list(self.orders):
            if order.expires_at is not None and order.expires_at <= at:
                self._end(order, "expired", at)

    @property
    def free_cash(self) -> Fraction:
        return self._free(self.account) - sum(order.reserved for order in self.orders)

    # --- What comes of it ---

    def _execute(self, order: Order, price: Fraction, at: datetime, volume: Fraction) -> list[Order]:
        """Fills an order at a price of the market, as far as it can be; returns the exits placed with that."""
        held = self.account.held.get(order.symbol, NONE)
        against = abs(held) if held * order.sign < 0 else NONE
        wanted = order.quantity - order.closing + min(order.closing, against)
        if wanted == 0:
            self._end(order, "canceled", at)
            return []
        quantity = self._tradable(order.symbol, wanted, volume)
        if quantity == 0:
            return []
        closed = min(quantity, against)
        beyond = closed < quantity and self._is_beyond(order, quantity, price, volume)
        if beyond or (closed < quantity and self._overdraws(order, quantity, price, volume)):
            if closed > 0:
                self._trade(order, closed, price, at, volume)
            self._end(order, "beyond" if beyond else "rejected", at)
            self._tidy(order, at)
            return []
        left = order.quantity - quantity
        self._trade(order, quantity, price, at, volume)
        if quantity == wanted and left > 0:
            self._end(order, "canceled", at)
        if order.pair:
            # The position is being given up: what its entry still waits for would only open it again.
            for other in self._orders_of(order.symbol):
                if not other.pair and order.pair.split(".")[0] == other.order_id:
                    self._end(other, "canceled", at)
        self._tidy(order, at)
        return self._protect(order, quantity - closed, left, price, at)

    def _tradable(self, symbol: Symbol, wanted: Fraction, volume: Fraction) -> Fraction:
        cap = self.config.costs_of(symbol).volume_cap_pct
        if cap is None:
            return wanted
        left = max(NONE, volume * Fraction(cap) / 100 - self._volume_taken[symbol])
        lot = Fraction(self.config.instrument(symbol).quantity_step)
        return min(wanted, left // lot * lot)

    def _is_beyond(self, order: Order, quantity: Fraction, price: Fraction, volume: Fraction) -> bool:
        paid = self._cost(order, quantity, price, volume)[0]
        return order.worst is not None and (paid - order.worst) * order.sign > 0

    def _overdraws(self, order: Order, quantity: Fraction, price: Fraction, volume: Fraction) -> bool:
        _, notional, commission, _ = self._cost(order, quantity, price, volume)
        after = self.account.copy()
        after.trade(order.symbol, quantity * order.sign, notional, commission)
        return self._free(after) < sum(other.reserved for other in self.orders if other is not order)

    def _trade(self, order: Order, quantity: Fraction, price: Fraction, at: datetime, volume: Fraction) -> None:
        """One fill, told."""
        held = self.account.held.get(order.symbol, NONE)
        closed = min(quantity, abs(held)) if held * order.sign < 0 else NONE
        paid, notional, commission, slippage = self._cost(order, quantity, price, volume)
        free = self._free(self.account)
        self.account.trade(order.symbol, quantity * order.sign, notional, commission)
        used = free - self._free(self.account)
        self._volume_taken[order.symbol] += quantity
        order.units, order.notional = order.units + quantity, order.notional + notional
        order.commission += commission
        self.reports.append(
            OrderReport("filled", order.order_id, at, (quantity * order.sign, paid, commission, slippage))
        )
        order.shrink(quantity, closed, used)
        for other in self._partners(order):
            other.shrink(quantity, quantity)
        if order.quantity == 0:
            self.cancel(order.order_id)

    def _cost(
        self, order: Order, quantity: Fraction, price: Fraction, volume: Fraction
    ) -> tuple[Fraction, Fraction, Fraction, Fraction]:
        """(price paid, notional, commission, slippage)"""
        costs, instrument = self.config.costs_of(order.symbol), self.config.instrument(order.symbol)
        paid = price
        if order.kind is not OrderType.LIMIT:
            share = min(Fraction(1), quantity / volume) if volume > 0 else Fraction(1)
            bps = Fraction(costs.slippage_bps) + Fraction(costs.slippage_volume_bps) * share * share
            paid = price + order.sign * price * bps / 10_000
            if costs.round_to_tick:
                paid = _on_tick(paid, order.sign, instrument.tick)
            if not order.accepts(paid) and order.limit is not None:
                paid = order.limit
        rate = NONE + 1
        if instrument.quote != self.config.currency:
            rate = self.closes[f"{instrument.quote}-{self.config.currency}"]
        unit_value = Fraction(instrument.multiplier) * rate
        notional = paid * quantity * unit_value
        total_commission = (order.notional + notional) * Fraction(costs.commission_bps) / 10_000
        total_commission += (order.units + quantity) * Fraction(costs.commission_per_unit)
        commission = max(total_commission, Fraction(costs.commission_min)) - order.commission
        return paid, notional, commission, abs(paid - price) * quantity * unit_value

    def _protect(self, entry: Order, opened: Fraction, left: Fraction, price: Fraction, at: datetime) -> list[Order]:
        """The exits beside the units that a fill opened at a price of the market: the first cancels the others."""
        wanted = entry.protection
        if wanted is None or opened == 0:
            return []
        tick, mark = self.config.instrument(entry.symbol).tick, f".{_text(left)}" if left else ""
        stop = _fraction(wanted.stop) if wanted.stop is not None else _away(price, wanted.stop_distance, -entry.sign)
        target = (
            _fraction(wanted.target) if wanted.target is not None else _away(price, wanted.target_distance, entry.sign)
        )
        trailing = _away(price, wanted.trail, -entry.sign)
        plain = Order("", entry.symbol, -entry.sign, opened, opened, NONE, OrderType.STOP, is_active=True)
        plain.pair = entry.order_id + mark
        exits: list[Order] = []
        if stop is not None and stop > 0:
            level = _on_tick(stop, -entry.sign, tick)
            exits.append(replace(plain, order_id=f"{entry.order_id}.stop{mark}", stop=level))
        if trailing is not None and trailing > 0:
            level, trail = _on_tick(trailing, -entry.sign, tick), _fraction(wanted.trail)
            name = f"{entry.order_id}.trailing_stop{mark}"
            exits.append(replace(plain, order_id=name, kind=OrderType.TRAILING_STOP, stop=level, trail=trail))
        if target is not None and target > 0:
            level = _on_tick(target, entry.sign, tick)
            exits.append(replace(plain, order_id=f"{entry.order_id}.target{mark}", kind=OrderType.LIMIT, limit=level))
        for order in exits:
            self.orders.append(order)
            numbers = (order.quantity * order.sign, order.stop or NONE, order.limit or NONE)
            self.reports.append(OrderReport("placed", order.order_id, at, numbers))
        return exits

    def _trigger(self, order: Order, price: Fraction, at: datetime) -> None:
        """A stop that is set off is a market order from then on, and has canceled its partners."""
        if order.triggered or not order.is_triggered_by(price):
            return
        order.triggered = True
        if order.limit is None:
            for other in self._partners(order):
                self._end(other, "outpaired", at)

    def _tidy(self, order: Order, at: datetime) -> None:
        """Ends what a fill has left without a purpose: its partners, and exits of a position that has gone."""
        for other in self._partners(order):
            if other.quantity == 0:
                self._end(other, "outpaired", at)
        held = self.account.held.get(order.symbol, NONE)
        for other in self._orders_of(order.symbol):
            if other.only_closes and held * other.sign >= 0:
                self._end(other, "canceled", at)

    def _end(self, order: Order, status: str, at: datetime) -> None:
        self.cancel(order.order_id)
        self.reports.append(OrderReport(status, order.order_id, at))

    def _orders_of(self, symbol: Symbol) -> list[Order]:
        return [order for order in self.orders if order.symbol == symbol]

    def _partners(self, order: Order) -> list[Order]:
        return [other for other in self.orders if order.pair and other.pair == order.pair and other is not order]

    def _free(self, account: Account) -> Fraction:
        """Cash less the proceeds of shorts and the collateral for them; what orders have reserved is still in it."""
        proceeds = -sum(cost for cost in account.cost.values() if cost < 0)
        return account.cash - proceeds - proceeds * Fraction(self.config.shorting.margin_pct) / 100


# --- Prices -------------------------------------------------------------------------------------------------------


def _inside(order: Order, bar: Bar) -> Fraction | None:
    """The market's price at which an order is filled inside a bar; None when it is not."""
    if order.entry_price is not None:
        # Its position was opened inside this very bar: the stop may be met, at no better price than the entry's.
        if order.stop is None or not order.is_triggered_by(_worst(order, bar)):
            return None
        return max(order.stop, order.entry_price) if order.sign > 0 else min(order.stop, order.entry_price)
    if order.stop is not None and not order.triggered:
        return order.stop if order.is_triggered_by(_worst(order, bar)) and order.accepts(order.stop) else None
    if order.limit is None:
        return None
    best = Fraction(bar.low if order.sign > 0 else bar.high)
    return order.limit if order.accepts(best) else None


def _by_priority(orders: Sequence[Order], price: Fraction) -> list[Order]:
    """Stops of a position, then entries, then its targets; of each the one nearest to a price first."""
    stops = [order for order in orders if order.only_closes and order.stop is not None]
    entries = [order for order in orders if not order.only_closes]
    targets = [order for order in orders if order.only_closes and order.stop is None]
    return [order for part in (stops, entries, targets) for order in sorted(part, key=lambda o: _away_from(o, price))]


def _away_from(order: Order, price: Fraction) -> Fraction:
    level = order.limit if order.stop is None else order.stop
    return NONE if level is None else abs(level - price)


def _worst(order: Order, bar: Bar) -> Fraction:
    return Fraction(bar.high if order.sign > 0 else bar.low)


def _trail_stop(order: Order, bar: Bar) -> None:
    """A trailing stop after a bar, unless its position was opened somewhere inside it."""
    follows = order.is_active and order.entry_price is None and not order.triggered
    if order.trail is not None and order.stop is not None and follows:
        if order.sign > 0:
            order.stop = min(order.stop, Fraction(bar.low) + order.trail)
        else:
            order.stop = max(order.stop, Fraction(bar.high) - order.trail)
    order.entry_price = None


def _away(price: Fraction, distance: Decimal | None, sign: int) -> Fraction | None:
    return None if distance is None else price + sign * Fraction(distance)


def _on_tick(price: Fraction, sign: int, tick: Decimal | None) -> Fraction:
    """The nearest tick that is not better for who trades: above for a buy, below for a sale, but never at 0."""
    if tick is None:
        return price
    step = Fraction(tick)
    if sign > 0:
        return -(-price // step) * step
    return max(step, price // step * step)


def _fraction(value: Decimal | None) -> Fraction | None:
    return None if value is None else Fraction(value)


def _text(value: Fraction) -> str:
    return str(Decimal(value.numerator) / Decimal(value.denominator))


def find_differences(
    ours: Sequence[OrderReport], theirs: Sequence[OrderReport], most: Fraction
) -> list[tuple[OrderReport | None, OrderReport | None]]:
    """Where two accounts of the same steps part: fills in their order, whatever else in any."""
    apart: list[tuple[OrderReport | None, OrderReport | None]] = []
    for filled in (True, False):
        one, other = (
            sorted((t for t in reports if (t.status == "filled") is filled), key=lambda t: () if filled else t[:2])
            for reports in (ours, theirs)
        )
        for n in range(max(len(one), len(other))):
            a, b = one[n] if n < len(one) else None, other[n] if n < len(other) else None
            if a is None or b is None or a[:3] != b[:3] or not is_close(a.numbers, b.numbers, most):
                apart.append((a, b))
    return apart


def is_close(one: Sequence[Fraction], other: Sequence[Fraction], most: Fraction) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= most for a, b in zip(one, other, strict=True))
