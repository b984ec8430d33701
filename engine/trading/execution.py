"""From a signal to an order: the gate's verdict on it, and the order if it may be."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.events import (
    AT_MARKET,
    BookEvent,
    OrderPlaced,
    OrderReplaced,
    OrderTerms,
    Protection,
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
from engine.trading.proposal import Proposal, collar_price, entry_cash
from engine.trading.risk import check


class OrderPlan:
    """How a signal is to become an order: side, quantity, and what goes with it."""

    __slots__ = ("holding_bars", "invalid_reason", "protection", "quantity", "replaces", "side", "terms")

    def __init__(
        self,
        side: Side,
        quantity: Decimal,
        terms: OrderTerms = AT_MARKET,
        protection: Protection | None = None,
        holding_bars: int | None = None,
        invalid_reason: str = "",
        replaces: OrderPlaced | None = None,
    ) -> None:
        self.side, self.quantity, self.terms, self.protection = side, quantity, terms, protection
        self.holding_bars, self.invalid_reason, self.replaces = holding_bars, invalid_reason, replaces


def submit(
    book: Book, view: MarketView, signal: SignalRaised, plan: OrderPlan, config: RunConfig
) -> Iterator[BookEvent]:
    """Signal, verdict and, if it may be, the order."""
    yield signal
    proposal = Proposal(
        book, config, view, signal.symbol, plan.side, plan.quantity, plan.terms, plan.invalid_reason, plan.replaces
    )
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
    # Where only the closing half of a wish's entry is left, it does not wait for the entry's price.
    is_exit_half = exit_only and ruling.quantity != plan.quantity and signal.source != "person"
    number = int(signal.signal_id.rpartition("-")[2])
    order = OrderPlaced(
        order_id=order_id(signal.symbol, signal.at, number),
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
    """The way out of a position at the next open, for a reason of the book's own."""
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
    """Side and quantity of the order that closes a position."""
    held = book.held(symbol)
    return (Side.SELL if held > 0 else Side.BUY), magnitude(held)


def next_signal_id(book: Book, view: MarketView, symbol: Symbol) -> str:
    """The id of a signal, which counts those that the symbol has had at this instant already."""
    at, counts = book.raised
    return signal_id(symbol, view.at, 1 + (counts.get(symbol, 0) if at == view.at else 0))
