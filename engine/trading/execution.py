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
from engine.core.money import ONE, ZERO, size
from engine.core.step import Step
from engine.trading.book import Book
from engine.trading.proposal import Proposal, entry_cash, worst_price
from engine.trading.risk import judge


class Plan:
    """How a signal is to become an order: side, quantity, and what goes with it."""

    __slots__ = ("flaw", "holding_bars", "protection", "quantity", "replaces", "side", "terms")

    def __init__(
        self,
        side: Side,
        quantity: Decimal,
        terms: OrderTerms = AT_MARKET,
        protection: Protection | None = None,
        holding_bars: int | None = None,
        flaw: str = "",
        replaces: OrderPlaced | None = None,
    ) -> None:
        self.side, self.quantity, self.terms, self.protection = side, quantity, terms, protection
        self.holding_bars, self.flaw, self.replaces = holding_bars, flaw, replaces


def pursue(book: Book, step: Step, signal: SignalRaised, plan: Plan, config: RunConfig) -> Iterator[BookEvent]:
    """Signal, verdict and, if it may be, the order."""
    yield signal
    proposal = Proposal(
        book, config, step, signal.symbol, plan.side, plan.quantity, plan.terms, plan.flaw, plan.replaces
    )
    ruling = judge(proposal)
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
    agreed = proposal if ruling.quantity == plan.quantity else proposal.of(ruling.quantity)
    exit_only = agreed.reduces_only
    amended = plan.replaces
    # Where only the closing half of a wish's entry is left, it does not wait for the entry's price.
    halved = exit_only and ruling.quantity != plan.quantity and signal.source != "person"
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
        reserved=ZERO if exit_only else entry_cash(agreed),
        closing=agreed.closing,
        holding_bars=None if exit_only else plan.holding_bars,
        role=amended.role if amended is not None and exit_only else "exit" if exit_only else "entry",
        terms=AT_MARKET if halved else plan.terms,
        protection=None if exit_only else plan.protection,
        pair="" if amended is None else amended.pair,
        replaces="" if amended is None else amended.order_id,
        worst_price=None if exit_only else worst_price(agreed),
    )
    if amended is not None:
        yield OrderReplaced(amended.order_id, signal.symbol, signal.at, order.order_id)
    yield order


def give_up(book: Book, step: Step, symbol: Symbol, source: Source, config: RunConfig) -> Iterator[BookEvent]:
    """The way out of a position at the next open, for a reason of the book's own."""
    signal = SignalRaised(
        signal_id=next_signal_id(book, step, symbol),
        symbol=symbol,
        at=step.at,
        direction=Direction.FLAT,
        confidence=ONE,
        reference_price=step.marks[symbol],
        source=source,
    )
    yield from pursue(book, step, signal, Plan(*way_out(book, symbol)), config)


def way_out(book: Book, symbol: Symbol) -> tuple[Side, Decimal]:
    """Side and quantity of the order that closes a position."""
    held = book.held(symbol)
    return (Side.SELL if held > 0 else Side.BUY), size(held)


def next_signal_id(book: Book, step: Step, symbol: Symbol) -> str:
    """The id of a signal, which counts those that the symbol has had at this instant already."""
    at, counts = book.raised
    return signal_id(symbol, step.at, 1 + (counts.get(symbol, 0) if at == step.at else 0))
