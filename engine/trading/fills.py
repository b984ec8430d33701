"""Fill prices, fillable quantities and costs of orders. Pure arithmetic; docs/fills.md explains each rule by example.

Only the four prices of a bar are known, not their order in time. Where the order matters, the worse case is assumed.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import NamedTuple

from engine.core.config import Costs
from engine.core.events import OrderFilled, OrderPlaced, OrderTerms
from engine.core.market import Bar, Instrument, OrderType, Side
from engine.core.money import (
    ONE,
    ZERO,
    add,
    bps_of,
    ceil_to_step,
    div,
    exact,
    floor_to_step,
    magnitude,
    mul,
    percent_of,
    sub,
)

# --- Prices -------------------------------------------------------------------------------------------------------


def is_triggered(side: Side, price: Decimal, stop: Decimal) -> bool:
    """Return true if a price triggers a stop: at or above it for a buy, at or below it for a sale."""
    return price >= stop if side is Side.BUY else price <= stop


def is_marketable(side: Side, price: Decimal, limit: Decimal) -> bool:
    """Return true if a price is at the limit or better: at or below it for a buy, at or above it for a sale."""
    return price <= limit if side is Side.BUY else price >= limit


def exceeds_worst_price(order: OrderPlaced, price: Decimal) -> bool:
    """Return true if a fill price is worse than the worst price of an order."""
    return order.worst_price is not None and not is_marketable(order.side, price, order.worst_price)


def best_price(side: Side, bar: Bar) -> Decimal:
    """Return the bar's best price for a side, which decides whether a limit is filled."""
    return bar.low if side is Side.BUY else bar.high


def worst_price(side: Side, bar: Bar) -> Decimal:
    """Return the bar's worst price for a side, which decides whether a stop is triggered."""
    return bar.high if side is Side.BUY else bar.low


def distance(terms: OrderTerms, price: Decimal) -> Decimal:
    """Return the distance of an order's stop, or else its limit, from a price; 0 for a market order."""
    level = terms.limit_price if terms.stop_price is None else terms.stop_price
    return ZERO if level is None else magnitude(sub(level, price))


def price_at_open(side: Side, terms: OrderTerms, triggered: bool, price: Decimal) -> Decimal | None:
    """Return the market price at which an order is filled at an open; None if it is not.

    If the open is beyond a stop, the stop is filled at the open; a limit is filled at the open if that is better.
    """
    stop, limit = terms.stop_price, terms.limit_price
    if not triggered and stop is not None and not is_triggered(side, price, stop):
        return None
    return price if limit is None or is_marketable(side, price, limit) else None


def price_in_bar(side: Side, terms: OrderTerms, triggered: bool, bar: Bar) -> Decimal | None:
    """Return the market price at which an order is filled inside a bar; None if it is not.

    The order was active and not filled at the bar's open. A stop is filled at its price, a limit at its limit. A
    stop-limit triggered by the bar is filled at its stop if the limit allows that; otherwise it is not filled in this
    bar, because the later prices are unknown. The rest of a partly filled stop waits for the next open, like a market
    order.
    """
    stop, limit = terms.stop_price, terms.limit_price
    if not triggered and stop is not None:
        hit = is_triggered(side, worst_price(side, bar), stop) and (limit is None or is_marketable(side, stop, limit))
        return stop if hit else None
    if limit is None:
        return None
    return limit if is_marketable(side, best_price(side, bar), limit) else None


def triggers_stop(side: Side, terms: OrderTerms, price: Decimal) -> bool:
    """Return true if a price permanently turns a stop into a market order, or a stop-limit into a limit."""
    return terms.stop_price is not None and is_triggered(side, price, terms.stop_price)


def stop_after_entry(side: Side, terms: OrderTerms, entry: Decimal, bar: Bar) -> Decimal | None:
    """Return the price at which a stop is filled in the same bar in which its position was opened, at `entry`.

    The bar's worst price may have come before or after the entry; it is assumed to have come after.
    """
    stop = terms.stop_price
    if stop is None or terms.limit_price is not None or not is_triggered(side, worst_price(side, bar), stop):
        return None
    return max(stop, entry) if side is Side.BUY else min(stop, entry)


def trail_stop(side: Side, terms: OrderTerms, bar: Bar) -> OrderTerms:
    """Return a trailing stop after a bar: it follows the best price for the position and never moves back."""
    if terms.trail is None or terms.stop_price is None:
        return terms
    level = add(bar.low, terms.trail) if side is Side.BUY else sub(bar.high, terms.trail)
    moved = min(level, terms.stop_price) if side is Side.BUY else max(level, terms.stop_price)
    return OrderTerms(terms.order_type, terms.limit_price, moved, terms.trail, terms.time_in_force, terms.expires_at)


def round_to_tick(side: Side, price: Decimal, instrument: Instrument) -> Decimal:
    """Return the nearest tradable price that is not better: up for a buy, down for a sale, at least one tick."""
    if instrument.tick is None:
        return price
    if side is Side.BUY:
        return ceil_to_step(price, instrument.tick)
    return max(instrument.tick, floor_to_step(price, instrument.tick))


# --- Quantities ---------------------------------------------------------------------------------------------------


def fillable_quantity(
    quantity: Decimal, volume: Decimal, taken: Decimal, costs: Costs, instrument: Instrument
) -> Decimal:
    """Return the quantity that may be filled, in whole lots. `taken`: volume already taken by earlier fills."""
    if costs.volume_cap_pct is None:
        return quantity
    left = max(ZERO, sub(percent_of(volume, costs.volume_cap_pct), taken))
    return min(quantity, floor_to_step(left, instrument.quantity_step))


# --- Costs --------------------------------------------------------------------------------------------------------


class Market(NamedTuple):
    """Inputs of costs apart from the price: instrument, bar volume, and account currency per unit of quote currency."""

    instrument: Instrument
    volume: Decimal
    rate: Decimal


class FilledSoFar(NamedTuple):
    """Totals of the earlier fills of an order."""

    units: Decimal = ZERO
    notional: Decimal = ZERO
    commission: Decimal = ZERO
    fills: int = 0


class Cost(NamedTuple):
    """Cost of a fill: price per unit; notional (price x quantity x multiplier x rate), slippage and commission in
    account currency."""

    price: Decimal
    notional: Decimal
    slippage: Decimal
    commission: Decimal


NOT_FILLED = FilledSoFar()


def with_slippage(side: Side, reference: Decimal, bps: Decimal) -> Decimal:
    """Return the price after adverse slippage: above the reference for a buy, below it for a sale."""
    slip = bps_of(reference, bps)
    return add(reference, slip) if side is Side.BUY else sub(reference, slip)


def slippage_bps(quantity: Decimal, volume: Decimal, costs: Costs, chance: Decimal) -> Decimal:
    """Return the total slippage in basis points: the fixed, the volume and the random part.

    The volume part grows with the square of the order's share, as in zipline's `VolumeShareSlippage`; without volume
    the share is 1. `chance`: fraction of the random part, 0 to 1.
    """
    bps = costs.slippage_bps
    if costs.slippage_volume_bps:
        share = min(ONE, div(quantity, volume)) if volume > 0 else ONE
        bps = add(bps, mul(costs.slippage_volume_bps, mul(share, share)))
    if costs.slippage_random_bps:
        bps = add(bps, mul(costs.slippage_random_bps, chance))
    return bps


def chance_of(seed: int | None, order_id: str, fills: int) -> Decimal:
    """Return the fraction of the random slippage, from 0 up to 1; the same for the same seed, order and fill."""
    digest = sha256(f"{seed} {order_id} {fills}".encode()).digest()
    return exact(f"0.{int.from_bytes(digest[:8]) % 10**12:012}")


def commission_of(notional: Decimal, quantity: Decimal, costs: Costs, before: FilledSoFar = NOT_FILLED) -> Decimal:
    """Return the commission of a fill. The minimum applies once per order, regardless of the number of fills."""
    commission = bps_of(add(before.notional, notional), costs.commission_bps)
    if costs.commission_per_unit:
        commission = add(commission, mul(add(before.units, quantity), costs.commission_per_unit))
    return sub(max(commission, costs.commission_min), before.commission)


def cost_of(
    side: Side,
    quantity: Decimal,
    reference: Decimal,
    terms: OrderTerms,
    costs: Costs,
    market: Market,
    chance: Decimal = ONE,
    before: FilledSoFar = NOT_FILLED,
) -> Cost:
    """Return the cost of `quantity` at a reference price. Commission is charged on the notional after slippage.

    A limit order does not slip; a stop-limit slips no further than its limit. The default of `chance` is the largest
    random part, which the risk check assumes.
    """
    price = reference
    if terms.order_type is not OrderType.LIMIT:
        price = with_slippage(side, reference, slippage_bps(quantity, market.volume, costs, chance))
        if costs.round_to_tick:
            price = round_to_tick(side, price, market.instrument)
        if terms.limit_price is not None and not is_marketable(side, price, terms.limit_price):
            price = terms.limit_price
    per_unit = mul(market.instrument.multiplier, market.rate)
    notional = mul(mul(price, quantity), per_unit)
    slippage = mul(mul(magnitude(sub(price, reference)), quantity), per_unit)
    return Cost(price, notional, slippage, commission_of(notional, quantity, costs, before))


def fill(
    order: OrderPlaced,
    quantity: Decimal,
    reference: Decimal,
    at: datetime,
    bar_opened_at: datetime,
    costs: Costs,
    market: Market,
    before: FilledSoFar = NOT_FILLED,
) -> OrderFilled:
    """Return an order's fill at a reference price: at the open of a bar, or inside a bar that closed `at`."""
    chance = chance_of(costs.seed, order.order_id, before.fills)
    cost = cost_of(order.side, quantity, reference, order.terms, costs, market, chance, before)
    return OrderFilled(
        order_id=order.order_id,
        symbol=order.symbol,
        decided_at=order.at,
        at=at,
        side=order.side,
        quantity=quantity,
        price=cost.price,
        reference_price=reference,
        notional=cost.notional,
        slippage=cost.slippage,
        commission=cost.commission,
        bar_opened_at=bar_opened_at,
        rate=market.rate,
    )
