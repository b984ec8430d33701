"""Targeting: orders that lead from the current position and working orders to the target of an intent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.events import BookEvent, OrderCanceled, OrderPlaced, OrderTerms, SignalRaised
from engine.core.intents import Intent
from engine.core.market import Direction, OrderType, Side
from engine.core.money import ONE, ZERO, add, is_exact, magnitude, neg, sub
from engine.core.step import MarketView
from engine.trading import exits
from engine.trading.book import Book, evolve
from engine.trading.execution import closing_order, next_signal_id, submit
from engine.trading.order_terms import default_terms, invalid_terms, with_session_expiry
from engine.trading.proposal import OrderPlan, propose, reference_of
from engine.trading.risk import pending_exit
from engine.trading.sizing import target_quantity


def target_orders(book: Book, view: MarketView, intent: Intent, config: RunConfig) -> Iterator[BookEvent]:
    if intent.direction is Direction.HOLD:
        return
    orders = book.orders_of(intent.symbol) if book.working else []
    if not orders and _is_satisfied(book, intent, config):
        return
    reason = invalid_reason(intent, view.marks[intent.symbol])
    if reason:
        signal = _signal(book, view, intent, confidence=ZERO)
        side = Side.SELL if intent.direction is Direction.SHORT else Side.BUY
        yield from submit(book, view, signal, OrderPlan(side, ZERO, invalid_reason=reason), config)
        return
    for order in _opposing_entries(orders, intent):
        canceled = OrderCanceled(order.order_id, order.symbol, view.at, f"{intent.direction} is wished instead")
        book = evolve(book, canceled)
        yield canceled
    working = next((order for order in book.orders_of(intent.symbol) if order.role == "entry"), None)
    terms = _terms(view, intent, config)
    if working is not None and (intent.entry is None or working.terms == terms):
        return
    if working is None and _is_satisfied(book, intent, config):
        return
    confidence = ONE if intent.direction is Direction.FLAT else intent.confidence
    signal = _signal(book, view, intent, confidence=confidence)
    yield from submit(book, view, signal, _plan(book, view, intent, terms, config, working), config)


def _opposing_entries(orders: Sequence[OrderPlaced], intent: Intent) -> list[OrderPlaced]:
    """Return the working entries of the intent's symbol in another direction."""
    side = {Direction.LONG: Side.BUY, Direction.SHORT: Side.SELL}.get(intent.direction)
    return [order for order in orders if order.role == "entry" and order.side is not side]


def _is_satisfied(book: Book, intent: Intent, config: RunConfig) -> bool:
    """Return true if the position has reached the intent's target, or is about to.

    False for LONG or SHORT while an exit is pending: the risk check then denies the entry and records the reason.
    """
    if intent.direction is Direction.FLAT:
        return intent.symbol not in book.positions or pending_exit(book, intent.symbol) is not None
    held = intent.direction is book.direction(intent.symbol)
    return held and not config.pyramid and pending_exit(book, intent.symbol) is None


def _signal(book: Book, view: MarketView, intent: Intent, confidence: Decimal) -> SignalRaised:
    usable = confidence is intent.confidence and intent.direction is not Direction.FLAT
    return SignalRaised(
        signal_id=next_signal_id(book, view, intent.symbol),
        symbol=intent.symbol,
        at=view.at,
        direction=intent.direction,
        confidence=confidence,
        reference_price=view.marks[intent.symbol],
        source="analysis",
        analysis_id=intent.analysis_id,
        analysis_version=intent.analysis_version,
        horizon_bars=intent.horizon_bars,
        stop=intent.stop if usable else None,
        target=intent.target if usable else None,
    )


def invalid_reason(intent: Intent, last: Decimal) -> str:
    """Return the reason that an intent's numbers are invalid; empty if they are valid. `last`: the last close.

    Analyses come from operators, programs and models; invalid numbers are denied, never corrected.
    """
    if intent.direction is Direction.FLAT:
        # FLAT only closes the position; its other numbers are ignored.
        return ""
    if not is_exact(intent.confidence) or not 0 <= intent.confidence <= 1:
        return f"confidence {intent.confidence} is not from 0 to 1"
    for name, number in (("stop", intent.stop), ("target", intent.target), ("risk-reward", intent.risk_reward)):
        if number is not None and (not is_exact(number) or number <= 0):
            return f"{name} {number} is not above 0"
    if intent.horizon_bars is not None and intent.horizon_bars < 1:
        return f"horizon {intent.horizon_bars} is not a number of bars"
    entry = intent.entry
    if entry is not None and (reason := invalid_terms(entry)):
        return reason
    side = Side.BUY if intent.direction is Direction.LONG else Side.SELL
    reference = last if entry is None else reference_of(side, entry, last)
    return "" if reference is None else exits.invalid_protection(intent, reference)


def closes_position(book: Book, view: MarketView, intent: Intent, config: RunConfig) -> bool:
    """Return true if an intent closes the position at the next open.

    False for a reversal that is denied or that waits for a price.
    """
    held = book.direction(intent.symbol)
    if held is Direction.FLAT or intent.direction in (Direction.HOLD, held):
        return False
    if intent.direction is Direction.FLAT:
        return True
    order_type = config.entry_of(intent.symbol).order_type if intent.entry is None else intent.entry.order_type
    reason = invalid_reason(intent, view.marks[intent.symbol])
    return config.limits.reversal and order_type is OrderType.MARKET and not reason


def _terms(view: MarketView, intent: Intent, config: RunConfig) -> OrderTerms:
    """Return the execution terms of an intent's order: its own, or the profile's."""
    return with_session_expiry(view, intent.symbol, intent.entry or default_terms(view, intent, config), config)


def _plan(
    book: Book, view: MarketView, intent: Intent, terms: OrderTerms, config: RunConfig, working: OrderPlaced | None
) -> OrderPlan:
    """Return the plan of the order that leads from the current position to the intent's target."""
    symbol = intent.symbol
    if intent.direction is Direction.FLAT:
        return OrderPlan(*closing_order(book, symbol))
    side = Side.BUY if intent.direction is Direction.LONG else Side.SELL
    reference = reference_of(side, terms, view.marks[symbol])
    probe = propose(book, config, view, symbol, OrderPlan(side, ONE, terms))
    if reference is None or probe.cost is None or probe.rate is None or probe.equity is None:
        return OrderPlan(side, ZERO, terms)
    # A short is valued at its price before slippage, as in the position cap.
    price = max(probe.cost.price, reference)
    wanted = target_quantity(probe.equity, price, intent.confidence, book.instruments[symbol], config, probe.rate)
    exit_config = config.exits_of(symbol)
    opposite = max(ZERO, book.held(symbol) if side is Side.SELL else neg(book.held(symbol)))
    if working is not None:
        # An amendment covers the remaining quantity, because a part may have been filled.
        missing = sub(working.quantity, working.closing)
        wanted = (
            missing
            if config.pyramid
            else max(ZERO, sub(wanted, magnitude(book.held(symbol)) if not opposite else ZERO))
        )
    protection = exits.protection(intent, reference, view.ranges.get(symbol, ()), exit_config)
    reason = exits.invalid_stop_distance(protection, side, reference)
    return OrderPlan(
        side, add(wanted, opposite), terms, protection, exits.holding_bars(exit_config, intent), reason, working
    )
