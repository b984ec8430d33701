"""Execution terms of orders: validation, session expiry, and the defaults of the profile."""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.config import RunConfig
from engine.core.events import AT_MARKET, OrderTerms
from engine.core.intents import Intent
from engine.core.market import Direction, OrderType, Side, Symbol, TimeInForce
from engine.core.money import add, bps_of, sub
from engine.core.step import MarketView
from engine.trading.fills import round_to_tick

_REQUIRED_PRICES: dict[OrderType, tuple[str, ...]] = {
    OrderType.MARKET: (),
    OrderType.LIMIT: ("limit_price",),
    OrderType.STOP: ("stop_price",),
    OrderType.STOP_LIMIT: ("limit_price", "stop_price"),
    OrderType.TRAILING_STOP: ("stop_price", "trail"),
}
_ENTRY_TYPES = (OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT)


def invalid_terms(terms: OrderTerms, allowed: Sequence[OrderType] = _ENTRY_TYPES) -> str:
    """Return the reason that the terms of an order are invalid; empty if they are valid."""
    required = _REQUIRED_PRICES[terms.order_type]
    if terms.order_type not in allowed:
        return f"{terms.order_type} is no order to enter with"
    for name in ("limit_price", "stop_price", "trail"):
        price = getattr(terms, name)
        if (price is not None) is not (name in required):
            return f"{terms.order_type} order {'without' if price is None else 'with'} a {name.replace('_', ' ')}"
        if price is not None and price <= 0:
            return f"{name.replace('_', ' ')} {price} is not above 0"
    if (terms.time_in_force is TimeInForce.GTD) is (terms.expires_at is None):
        return f"{terms.time_in_force} order {'without' if terms.expires_at is None else 'with'} an end"
    return ""


def with_session_expiry(view: MarketView, symbol: Symbol, terms: OrderTerms, config: RunConfig) -> OrderTerms:
    """Return the terms, with the end of the session as the expiry of a DAY order."""
    if terms.time_in_force is not TimeInForce.DAY or terms.expires_at is not None:
        return terms
    calendar = config.instrument(symbol).calendar
    ends = view.schedule.end_after(calendar, view.at)
    return OrderTerms(terms.order_type, terms.limit_price, terms.stop_price, terms.trail, terms.time_in_force, ends)


def default_terms(view: MarketView, intent: Intent, config: RunConfig) -> OrderTerms:
    """Return the profile's execution terms for an intent without terms, with prices relative to the last close."""
    entry = config.entry_of(intent.symbol)
    if entry.order_type is OrderType.MARKET and entry.time_in_force is TimeInForce.GTC:
        return AT_MARKET
    expires_at = None if entry.valid_bars is None else view.at + entry.valid_bars * config.timeframe.duration
    last, instrument = view.marks[intent.symbol], config.instrument(intent.symbol)
    side = Side.SELL if intent.direction is Direction.SHORT else Side.BUY
    other = Side.BUY if side is Side.SELL else Side.SELL
    offset = bps_of(last, entry.offset_bps)
    limit = stop = None
    if entry.order_type is OrderType.LIMIT:
        # A limit is rounded to an even better price, hence with the opposite side.
        limit = round_to_tick(other, sub(last, offset) if side is Side.BUY else add(last, offset), instrument)
    elif entry.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        stop = round_to_tick(side, add(last, offset) if side is Side.BUY else sub(last, offset), instrument)
        if entry.order_type is OrderType.STOP_LIMIT:
            beyond = bps_of(last, entry.limit_offset_bps)
            limit = round_to_tick(side, add(stop, beyond) if side is Side.BUY else sub(stop, beyond), instrument)
    return OrderTerms(entry.order_type, limit, stop, None, entry.time_in_force, expires_at)
