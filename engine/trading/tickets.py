"""Manual orders of operators."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from engine.core.config import RunConfig
from engine.core.events import AT_MARKET, BookEvent, OrderPlaced, OrderTerms, Protection, SignalRaised
from engine.core.intents import Intent
from engine.core.market import Direction, OrderType, Side, Symbol
from engine.core.money import ONE, ZERO, add, is_exact, neg
from engine.core.step import MarketView
from engine.trading import exits
from engine.trading.book import Book, closing_units
from engine.trading.execution import next_signal_id, submit
from engine.trading.order_terms import invalid_terms, with_session_expiry
from engine.trading.proposal import OrderPlan, reference_of


class OrderTicket(msgspec.Struct, frozen=True):
    """Manual order. `replaces`: the id of the working order that it amends."""

    symbol: Symbol
    side: Side
    quantity: Decimal
    terms: OrderTerms = AT_MARKET
    protection: Protection | None = None
    replaces: str = ""


def submit_ticket(book: Book, view: MarketView, ticket: OrderTicket, config: RunConfig) -> tuple[BookEvent, ...]:
    """Return the events of a manual order: signal, verdict and, if approved, the order, as for an intent."""
    working = book.working.get(ticket.replaces)
    quantity = ticket.quantity if is_exact(ticket.quantity) else ZERO
    reason = _invalid_ticket_reason(book, view, ticket, working)
    resulting = add(book.held(ticket.symbol), quantity if ticket.side is Side.BUY else neg(quantity))
    sides = {1: Direction.LONG, 0: Direction.FLAT, -1: Direction.SHORT}
    signal = SignalRaised(
        signal_id=next_signal_id(book, view, ticket.symbol),
        symbol=ticket.symbol,
        at=view.at,
        direction=sides[(resulting > 0) - (resulting < 0)],
        confidence=ONE,
        reference_price=view.marks[ticket.symbol],
        source="person",
    )
    plan = OrderPlan(
        ticket.side,
        ticket.quantity,
        with_session_expiry(view, ticket.symbol, ticket.terms, config),
        ticket.protection or (None if working is None else working.protection),
        config.exits_of(ticket.symbol).holding_bars,
        reason,
        None if reason else working,
    )
    return tuple(submit(book, view, signal, plan, config))


def _invalid_ticket_reason(book: Book, view: MarketView, ticket: OrderTicket, working: OrderPlaced | None) -> str:
    """Return the reason that a manual order is invalid; empty if it is valid."""
    if not is_exact(ticket.quantity):
        return f"quantity {ticket.quantity} is no amount"
    reduces = closing_units(book.held(ticket.symbol), ticket.side, ticket.quantity) == ticket.quantity
    if ticket.replaces:
        if working is None or (working.symbol, working.side) != (ticket.symbol, ticket.side):
            return f"there is no working order {ticket.replaces} to {ticket.side} {ticket.symbol}"
        if working.is_exit is not reduces:
            return f"{ticket.replaces} is {'an exit' if working.is_exit else 'an entry'}, and this order is none"
    reason = invalid_terms(ticket.terms, tuple(OrderType))
    reference = reference_of(ticket.side, ticket.terms, view.marks.get(ticket.symbol))
    if reason or ticket.protection is None or reference is None or reduces:
        # An order that only reduces a position has no protection; its stop and target are ignored.
        return reason
    direction = Direction.LONG if ticket.side is Side.BUY else Direction.SHORT
    intent = Intent(ticket.symbol, direction, ONE, "", stop=ticket.protection.stop, target=ticket.protection.target)
    return exits.invalid_protection(intent, reference)
