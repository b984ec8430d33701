"""Halts in a book: by its own loss limits, and by commands of operators (see `engine.runtime.halts`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.events import BookEvent, OrderCanceled, TradingEnded, TradingHalted, TradingResumed
from engine.core.market import Bar, Symbol
from engine.core.money import percent_of, sub
from engine.core.step import MarketView
from engine.trading.book import DRAWDOWN, Book, closing_units, evolve, mark_positions, worst_marks
from engine.trading.execution import close_position
from engine.trading.risk import daily_loss_limit

Command = TradingHalted | TradingResumed
"""Command of an operator to an account. Its `at` is set to the instant of effect."""

DAILY_LOSS = "daily_loss"
SESSION_ROLL = "session_roll"
RULE_ACTORS = (DAILY_LOSS, DRAWDOWN, SESSION_ROLL)
"""Actors of halts and resumes by rules of the book; all other actors are external."""


def check_circuit_breakers(book: Book, view: MarketView, config: RunConfig) -> Iterator[BookEvent]:
    """Yield the halts that the closes trigger.

    A daily loss halt ends with the session, a drawdown halt only by an operator's resume.
    """
    limits, is_marked = config.limits, False
    day_limit = daily_loss_limit(book, config)
    if day_limit is not None and DAILY_LOSS not in book.halts:
        loss = sub(book.day_equity, book.equity(view.marks))
        if loss >= day_limit > 0:
            is_marked = True
            reason = f"lost {loss} since the session roll, the limit is {day_limit}"
            yield mark_positions(book, view.at, view.marks, "halt")
            halted = TradingHalted(view.at, "entries", reason, DAILY_LOSS)
            for event in _halt(book, view, halted, config):
                book = evolve(book, event)
                yield event
    if limits.drawdown_pct is not None and DRAWDOWN not in book.halts:
        lost, limit = sub(book.peak, book.equity(view.marks)), percent_of(book.peak, limits.drawdown_pct)
        if lost >= limit > 0:
            reason = f"fell {lost} below the highest equity, {book.peak}, the limit is {limit}"
            if not is_marked:
                yield mark_positions(book, view.at, view.marks, "halt")
            yield from _halt(book, view, TradingHalted(view.at, "entries", reason, DRAWDOWN), config)


def bankruptcy(book: Book, closed: Sequence[Bar], marks: Mapping[Symbol, Decimal], at: datetime) -> TradingEnded | None:
    """Return the end of trading if equity is 0 or less at the worst prices of the bars that close `at`; else None."""
    if not book.positions:
        return None
    equity = book.equity(worst_marks(book, closed, marks))
    return TradingEnded(at, "BANKRUPT", equity) if equity <= 0 else None


def apply_command(book: Book, view: MarketView, command: Command, config: RunConfig) -> Iterator[BookEvent]:
    """Yield the events that apply a command to this book from now on."""
    if isinstance(command, TradingResumed):
        yield TradingResumed(view.at, command.reason, command.actor, command.lifted)
    else:
        halted = TradingHalted(view.at, command.scope, command.reason, command.actor)
        yield from _halt(book, view, halted, config)


def _halt(book: Book, view: MarketView, halted: TradingHalted, config: RunConfig) -> Iterator[BookEvent]:
    """Yield a halt and the cancellation of all working entries. Their closing parts are still executed."""
    entries = [order for order in book.working.values() if not order.is_exit]
    ends = [
        OrderCanceled(order.order_id, order.symbol, halted.at, f"{halted.scope} halted by {halted.actor}")
        for order in entries
    ]
    for event in (halted, *ends):
        book = evolve(book, event)
        yield event
    for order in entries:
        if closing_units(book.held(order.symbol), order.side, order.closing) > 0:
            yield from close_position(book, view, order.symbol, "halt", config)
