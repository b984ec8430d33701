"""Execution: from a signal to the risk verdict and, if approved, to an order."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.events import (
    AT_MARKET,
    BookEvent,
    OrderPlaced,
    OrderReplaced,
    RiskDecided,
    SignalRaised,
    Source,
    Verdict,
)
from engine.core.ids import order_id, signal_id
from engine.core.market import Direction, Side, Symbol
from engine.core.money import ONE, ZERO, magnitude
from engine.core.step import MarketView
from engine.trading.book import Book
from engine.trading.proposal import OrderPlan, collar_price, entry_cash, propose
from engine.trading.risk import check


def submit(
    book: Book, view: MarketView, signal: SignalRaised, plan: OrderPlan, config: RunConfig
) -> Iterator[BookEvent]:
    """Yield the signal, the verdict and, if approved, the order."""
    yield signal
    proposal = propose(book, config, view, signal.symbol, plan)
    ruling = check(proposal)
    yield RiskDecided(
        signal_id=signal.signal_id,
        symbol=signal.symbol,
        at=signal.at,
        verdict=ruling.verdict,
        side=plan.side,
        requested=proposal.quantity,
        quantity=ruling.quantity,
        reason=ruling.reason,
        checks=ruling.checks,
    )
    if ruling.verdict is Verdict.DENIED:
        return
    approved = proposal if ruling.quantity == plan.quantity else proposal.with_quantity(ruling.quantity)
    exit_only = approved.reduces_only
    amended = plan.replaces
    # If only the closing part of an entry is approved, it is executed at the market, not at the entry's price.
    is_exit_half = exit_only and ruling.quantity != plan.quantity and signal.source != "person"
    order = OrderPlaced(
        order_id=order_id(signal.symbol, signal.at, next_number(book, view, signal.symbol)),
        signal_id=signal.signal_id,
        analysis_id=signal.analysis_id,
        symbol=signal.symbol,
        at=signal.at,
        side=plan.side,
        quantity=ruling.quantity,
        reference_price=signal.reference_price,
        reserved=ZERO if exit_only else entry_cash(approved),
        closing=approved.closing,
        holding_bars=None if exit_only else plan.holding_bars,
        role=amended.role if amended is not None and exit_only else "exit" if exit_only else "entry",
        terms=AT_MARKET if is_exit_half else plan.terms,
        protection=None if exit_only else plan.protection,
        pair="" if amended is None else amended.pair,
        replaces="" if amended is None else amended.order_id,
        worst_price=None if exit_only else collar_price(approved),
    )
    if amended is not None:
        yield OrderReplaced(amended.order_id, signal.symbol, signal.at, order.order_id)
    yield order


def close_position(
    book: Book, view: MarketView, symbol: Symbol, source: Source, config: RunConfig
) -> Iterator[BookEvent]:
    """Close a position at the next open, on behalf of a rule of the book."""
    signal = SignalRaised(
        signal_id=next_signal_id(book, view, symbol),
        symbol=symbol,
        at=view.at,
        direction=Direction.FLAT,
        confidence=ONE,
        reference_price=view.marks[symbol],
        source=source,
    )
    yield from submit(book, view, signal, OrderPlan(*closing_order(book, symbol)), config)


def closing_order(book: Book, symbol: Symbol) -> tuple[Side, Decimal]:
    """Return side and quantity of the order that closes a position."""
    held = book.held(symbol)
    return (Side.SELL if held > 0 else Side.BUY), magnitude(held)


def next_signal_id(book: Book, view: MarketView, symbol: Symbol) -> str:
    """Return the id of the symbol's next signal at this instant."""
    return signal_id(symbol, view.at, next_number(book, view, symbol))


def next_number(book: Book, view: MarketView, symbol: Symbol) -> int:
    """Return the number of the symbol's next signal at this instant, from 1; the order that follows it shares it."""
    at, counts = book.raised
    return 1 + (counts.get(symbol, 0) if at == view.at else 0)
