"""How an order is executed: what a profile asks for, and which terms can be meant at all."""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.config import RunConfig
from engine.core.events import AT_MARKET, OrderTerms
from engine.core.intents import Wish
from engine.core.market import Direction, OrderType, Side, Symbol, TimeInForce
from engine.core.money import add, bps_of, sub
from engine.core.step import Step
from engine.trading.fills import on_tick

_NEEDED: dict[OrderType, tuple[str, ...]] = {
    OrderType.MARKET: (),
    OrderType.LIMIT: ("limit_price",),
    OrderType.STOP: ("stop_price",),
    OrderType.STOP_LIMIT: ("limit_price", "stop_price"),
    OrderType.TRAILING_STOP: ("stop_price", "trail"),
}
_ENTERS = (OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT)


def flaw_of_terms(terms: OrderTerms, allowed: Sequence[OrderType] = _ENTERS) -> str:
    """What is wrong with the terms of an order; empty when nothing is."""
    needed = _NEEDED[terms.order_type]
    if terms.order_type not in allowed:
        return f"{terms.order_type} is no order to enter with"
    for name in ("limit_price", "stop_price", "trail"):
        price = getattr(terms, name)
        if (price is not None) is not (name in needed):
            return f"{terms.order_type} order {'without' if price is None else 'with'} a {name.replace('_', ' ')}"
        if price is not None and price <= 0:
            return f"{name.replace('_', ' ')} {price} is not above 0"
    if (terms.time_in_force is TimeInForce.GTD) is (terms.expires_at is None):
        return f"{terms.time_in_force} order {'without' if terms.expires_at is None else 'with'} an end"
    return ""


def until_session_end(step: Step, symbol: Symbol, given: OrderTerms, config: RunConfig) -> OrderTerms:
    """The same terms; those of an order for the day with the end of its session."""
    if given.time_in_force is not TimeInForce.DAY or given.expires_at is not None:
        return given
    calendar = config.instrument(symbol).calendar
    ends = step.schedule.end_after(calendar, step.at)
    return OrderTerms(given.order_type, given.limit_price, given.stop_price, given.trail, given.time_in_force, ends)


def terms_of_profile(step: Step, wish: Wish, config: RunConfig) -> OrderTerms:
    """How a wish that says nothing of it is executed: prices at the profile's distance from the last close."""
    entry = config.entry_of(wish.symbol)
    if entry.order_type is OrderType.MARKET and entry.time_in_force is TimeInForce.GTC:
        return AT_MARKET
    expires_at = None if entry.valid_bars is None else step.at + entry.valid_bars * config.timeframe.duration
    last, instrument = step.marks[wish.symbol], config.instrument(wish.symbol)
    side = Side.SELL if wish.direction is Direction.SHORT else Side.BUY
    other = Side.BUY if side is Side.SELL else Side.SELL
    offset = bps_of(last, entry.offset_bps)
    limit = stop = None
    if entry.order_type is OrderType.LIMIT:
        # A limit waits for a better price, and is rounded to an even better one: so a buy's like a sale's price.
        limit = on_tick(other, sub(last, offset) if side is Side.BUY else add(last, offset), instrument)
    elif entry.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        stop = on_tick(side, add(last, offset) if side is Side.BUY else sub(last, offset), instrument)
        if entry.order_type is OrderType.STOP_LIMIT:
            beyond = bps_of(last, entry.limit_offset_bps)
            limit = on_tick(side, add(stop, beyond) if side is Side.BUY else sub(stop, beyond), instrument)
    return OrderTerms(entry.order_type, limit, stop, None, entry.time_in_force, expires_at)
