"""What follows from an analyst's wish: from what is held and what works to what it wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.events import BookEvent, OrderCanceled, OrderPlaced, OrderTerms, SignalRaised
from engine.core.intents import Wish
from engine.core.market import Direction, OrderType, Side
from engine.core.money import ONE, ZERO, add, is_exact, neg, size, sub
from engine.core.step import Step
from engine.trading import exits
from engine.trading.book import Book, evolve
from engine.trading.execution import Plan, next_signal_id, pursue, way_out
from engine.trading.order_terms import flaw_of_terms, terms_of_profile, until_session_end
from engine.trading.proposal import Proposal, reference_of
from engine.trading.risk import leaving_by
from engine.trading.sizing import target_quantity


def act(book: Book, step: Step, wish: Wish, config: RunConfig) -> Iterator[BookEvent]:
    if wish.direction is Direction.HOLD:
        return
    orders = book.orders_of(wish.symbol) if book.working else []
    if not orders and _is_there(book, wish, config):
        return
    flaw = flaw_of(wish, step.marks[wish.symbol])
    if flaw:
        signal = _signal(book, step, wish, confidence=ZERO)
        side = Side.SELL if wish.direction is Direction.SHORT else Side.BUY
        yield from pursue(book, step, signal, Plan(side, ZERO, flaw=flaw), config)
        return
    for order in _contrary(orders, wish):
        canceled = OrderCanceled(order.order_id, order.symbol, step.at, f"{wish.direction} is wished instead")
        book = evolve(book, canceled)
        yield canceled
    working = next((order for order in book.orders_of(wish.symbol) if order.role == "entry"), None)
    terms = _terms(step, wish, config)
    if working is not None and (wish.entry is None or working.terms == terms):
        return
    if working is None and _is_there(book, wish, config):
        return
    sure = ONE if wish.direction is Direction.FLAT else wish.confidence
    signal = _signal(book, step, wish, confidence=sure)
    yield from pursue(book, step, signal, _plan(book, step, wish, terms, config, working), config)


def _contrary(orders: Sequence[OrderPlaced], wish: Wish) -> list[OrderPlaced]:
    """The working entries of a wish's symbol that lead elsewhere."""
    side = {Direction.LONG: Side.BUY, Direction.SHORT: Side.SELL}.get(wish.direction)
    return [order for order in orders if order.role == "entry" and order.side is not side]


def _is_there(book: Book, wish: Wish, config: RunConfig) -> bool:
    """Whether the position is, or is about to be, where the wish wants it.

    A position that is being closed is not: the gate denies the entry until the exit is filled, and says so.
    """
    if wish.direction is Direction.FLAT:
        return wish.symbol not in book.positions or leaving_by(book, wish.symbol) is not None
    held = wish.direction is book.direction(wish.symbol)
    return held and not config.pyramid and leaving_by(book, wish.symbol) is None


def _signal(book: Book, step: Step, wish: Wish, confidence: Decimal) -> SignalRaised:
    usable = confidence is wish.confidence and wish.direction is not Direction.FLAT
    return SignalRaised(
        signal_id=next_signal_id(book, step, wish.symbol),
        symbol=wish.symbol,
        at=step.at,
        direction=wish.direction,
        confidence=confidence,
        reference_price=step.marks[wish.symbol],
        source="analysis",
        analysis_id=wish.analysis_id,
        analysis_version=wish.analysis_version,
        horizon_bars=wish.horizon_bars,
        stop=wish.stop if usable else None,
        target=wish.target if usable else None,
    )


def flaw_of(wish: Wish, last: Decimal) -> str:
    """What is wrong with a wish's numbers; empty when nothing is. `last`: the last close.

    An analysis is made by people, programs and models: what cannot be meant is denied, and never guessed at.
    """
    if wish.direction is Direction.FLAT:
        # It asks for nothing but to leave: whatever numbers come with it mean nothing.
        return ""
    if not is_exact(wish.confidence) or not 0 <= wish.confidence <= 1:
        return f"confidence {wish.confidence} is not from 0 to 1"
    for name, number in (("stop", wish.stop), ("target", wish.target), ("risk-reward", wish.risk_reward)):
        if number is not None and (not is_exact(number) or number <= 0):
            return f"{name} {number} is not above 0"
    if wish.horizon_bars is not None and wish.horizon_bars < 1:
        return f"horizon {wish.horizon_bars} is not a number of bars"
    entry = wish.entry
    if entry is not None and (flaw := flaw_of_terms(entry)):
        return flaw
    side = Side.BUY if wish.direction is Direction.LONG else Side.SELL
    reference = last if entry is None else reference_of(side, entry, last)
    return "" if reference is None else exits.unprotectable(wish, reference)


def leaves(book: Book, step: Step, wish: Wish, config: RunConfig) -> bool:
    """Whether a wish ends the position at the next open. A reversal that is denied, or waits for a price, does not."""
    held = book.direction(wish.symbol)
    if held is Direction.FLAT or wish.direction in (Direction.HOLD, held):
        return False
    if wish.direction is Direction.FLAT:
        return True
    order_type = config.entry_of(wish.symbol).order_type if wish.entry is None else wish.entry.order_type
    flaw = flaw_of(wish, step.marks[wish.symbol])
    return config.limits.reversal and order_type is OrderType.MARKET and not flaw


def _terms(step: Step, wish: Wish, config: RunConfig) -> OrderTerms:
    """How the order of a wish is executed: as the wish says, else as the profile does."""
    return until_session_end(step, wish.symbol, wish.entry or terms_of_profile(step, wish, config), config)


def _plan(
    book: Book, step: Step, wish: Wish, terms: OrderTerms, config: RunConfig, working: OrderPlaced | None
) -> Plan:
    """Side and quantity that lead from what is held to what the wish wants, and what goes with the order."""
    symbol = wish.symbol
    if wish.direction is Direction.FLAT:
        return Plan(*way_out(book, symbol))
    side = Side.BUY if wish.direction is Direction.LONG else Side.SELL
    reference = reference_of(side, terms, step.marks[symbol])
    probe = Proposal(book, config, step, symbol, side, ONE, terms)
    if reference is None or probe.cost is None or probe.rate is None or probe.equity is None:
        return Plan(side, ZERO, terms)
    # A short is worth its price before slippage: see the position cap.
    price = max(probe.cost.price, reference)
    wanted = target_quantity(probe.equity, price, wish.confidence, book.instruments[symbol], config, probe.rate)
    own = config.exits_of(symbol)
    opposite = max(ZERO, book.held(symbol) if side is Side.SELL else neg(book.held(symbol)))
    if working is not None:
        # An amended order asks for what is still missing: a part of it may have been filled before.
        missing = sub(working.quantity, working.closing)
        wanted = (
            missing if config.pyramid else max(ZERO, sub(wanted, size(book.held(symbol)) if not opposite else ZERO))
        )
    protection = exits.protection(wish, reference, step.ranges.get(symbol, ()), own)
    flaw = exits.unplaceable(protection, side, reference)
    return Plan(side, add(wanted, opposite), terms, protection, exits.holding_bars(own, wish), flaw, working)
