"""Orders that persons ask for, by hand."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from engine.core.config import RunConfig
from engine.core.events import AT_MARKET, BookEvent, OrderPlaced, OrderTerms, Protection, SignalRaised
from engine.core.intents import Wish
from engine.core.market import Direction, OrderType, Side, Symbol
from engine.core.money import ONE, ZERO, add, is_exact, neg
from engine.core.step import Step
from engine.trading import exits
from engine.trading.book import Book, closing_units
from engine.trading.execution import Plan, next_signal_id, pursue
from engine.trading.order_terms import flaw_of_terms, until_session_end
from engine.trading.proposal import reference_of


class Ticket(msgspec.Struct, frozen=True):
    """An order as a person asks for it. `replaces`: the id of the working order that it amends."""

    symbol: Symbol
    side: Side
    quantity: Decimal
    terms: OrderTerms = AT_MARKET
    protection: Protection | None = None
    replaces: str = ""


def submit(book: Book, step: Step, ticket: Ticket, config: RunConfig) -> tuple[BookEvent, ...]:
    """What follows from a person's order: the same signal, verdict and order as from a wish, through the same gate."""
    working = book.working.get(ticket.replaces)
    quantity = ticket.quantity if is_exact(ticket.quantity) else ZERO
    flaw = _flaw_of_ticket(book, step, ticket, working)
    resulting = add(book.held(ticket.symbol), quantity if ticket.side is Side.BUY else neg(quantity))
    sides = {1: Direction.LONG, 0: Direction.FLAT, -1: Direction.SHORT}
    signal = SignalRaised(
        signal_id=next_signal_id(book, step, ticket.symbol),
        symbol=ticket.symbol,
        at=step.at,
        direction=sides[(resulting > 0) - (resulting < 0)],
        confidence=ONE,
        reference_price=step.marks[ticket.symbol],
        source="person",
    )
    plan = Plan(
        ticket.side,
        ticket.quantity,
        until_session_end(step, ticket.symbol, ticket.terms, config),
        ticket.protection or (None if working is None else working.protection),
        config.exits_of(ticket.symbol).holding_bars,
        flaw,
        None if flaw else working,
    )
    return tuple(pursue(book, step, signal, plan, config))


def _flaw_of_ticket(book: Book, step: Step, ticket: Ticket, working: OrderPlaced | None) -> str:
    """What is wrong with a person's order; empty when nothing is."""
    if not is_exact(ticket.quantity):
        return f"quantity {ticket.quantity} is no amount"
    reduces = closing_units(book.held(ticket.symbol), ticket.side, ticket.quantity) == ticket.quantity
    if ticket.replaces:
        if working is None or (working.symbol, working.side) != (ticket.symbol, ticket.side):
            return f"there is no working order {ticket.replaces} to {ticket.side} {ticket.symbol}"
        if working.is_exit is not reduces:
            return f"{ticket.replaces} is {'an exit' if working.is_exit else 'an entry'}, and this order is none"
    flaw = flaw_of_terms(ticket.terms, tuple(OrderType))
    reference = reference_of(ticket.side, ticket.terms, step.marks.get(ticket.symbol))
    if flaw or ticket.protection is None or reference is None or reduces:
        # What only reduces is protected by nothing: its stop and target are left out.
        return flaw
    direction = Direction.LONG if ticket.side is Side.BUY else Direction.SHORT
    wish = Wish(ticket.symbol, direction, ONE, "", stop=ticket.protection.stop, target=ticket.protection.target)
    return exits.unprotectable(wish, reference)
