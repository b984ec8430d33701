"""Decisions of one step of market time. Pure: all inputs are arguments.

At instant T the session first applies the broker's reports from inside the bars that close at T. This module then
decides, in this order: commands of operators; circuit breakers (daily loss, drawdown); a session roll at T; due exits,
including margin calls; intents in symbol order, each approved order reserving cash before the next. Finally the broker
processes the opens of the bars that begin at T. An intent from the close at T can therefore be filled at the next open,
never at the close that it is based on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.events import BookEvent, BookOpened, OrderCanceled, PositionsMarked, Source, TradingResumed
from engine.core.intents import Intent
from engine.core.market import Direction, Symbol
from engine.core.session_ends import Schedule
from engine.core.step import MarketView
from engine.trading import exits
from engine.trading.book import Book, evolve, fold, mark_positions
from engine.trading.circuit_breakers import DAILY_LOSS, SESSION_ROLL, Command, apply_command, check_circuit_breakers
from engine.trading.execution import close_position
from engine.trading.risk import pending_exit
from engine.trading.targeting import closes_position, target_orders


def open_book(config: RunConfig, config_digest: str, at: datetime) -> BookOpened:
    return BookOpened(at, config.cash, config.currency, config.instruments, config_digest, config.shorting.margin_pct)


def close_book(book: Book, at: datetime, marks: Mapping[Symbol, Decimal]) -> PositionsMarked:
    """Return the last event of a run's book, which marks its positions. They stay open."""
    return mark_positions(book, at, marks, "end")


def decide(
    book: Book, view: MarketView, intents: Sequence[Intent], config: RunConfig, commands: Sequence[Command] = ()
) -> tuple[BookEvent, ...]:
    """Return the events that follow from the closes at one instant at which no session ends."""
    halt_events = apply_halts(book, view, config, commands)
    return *halt_events, *decide_orders(fold(halt_events, book), view, intents, config)


def apply_halts(
    book: Book, view: MarketView, config: RunConfig, commands: Sequence[Command] = ()
) -> tuple[BookEvent, ...]:
    """Return the events of operator commands since the last instant, and of halts that the closes trigger.

    A close at the end of a session counts for that session, because the roll comes later.
    """
    events: list[BookEvent] = []
    # Commands come first: a resume lifts halts that its author knew of, not one that this close triggers.
    for command in commands:
        book = _append(book, apply_command(book, view, command, config), events)
    if config.limits.daily_loss_pct is not None or config.limits.drawdown_pct is not None:
        book = _append(book, check_circuit_breakers(book, view, config), events)
    return tuple(events)


def decide_orders(book: Book, view: MarketView, intents: Sequence[Intent], config: RunConfig) -> tuple[BookEvent, ...]:
    """Return the events of due exits, then of intents in symbol order, each order reserving cash before the next."""
    events: list[BookEvent] = []
    if book.positions:
        book = _append(book, _exits(book, view, intents, config), events)
    for intent in intents:
        book = _append(book, target_orders(book, view, intent, config), events)
    return tuple(events)


def _append(book: Book, events: Iterable[BookEvent], appended: list[BookEvent]) -> Book:
    for event in events:
        appended.append(event)
        book = evolve(book, event)
    return book


# --- Session roll -------------------------------------------------------------------------------------------------


def roll_due(at: datetime, previous_at: datetime | None, schedule: Schedule) -> datetime | None:
    """Return the latest session roll after the previous step, up to this one."""
    if previous_at is None:
        return None
    roll = schedule.roll_by(at)
    return roll if roll is not None and roll > previous_at else None


def roll_session(book: Book, at: datetime, marks: Mapping[Symbol, Decimal]) -> Iterator[BookEvent]:
    """Begin a new session: mark all positions and reset the daily loss."""
    yield mark_positions(book, at, marks, "roll")
    if DAILY_LOSS in book.halts:
        yield TradingResumed(at, "a new session began", SESSION_ROLL, (DAILY_LOSS,))


# --- Exits --------------------------------------------------------------------------------------------------------


def _exits(book: Book, view: MarketView, intents: Sequence[Intent], config: RunConfig) -> Iterator[BookEvent]:
    sources: dict[Symbol, Source] = {}
    if exits.is_margin_called(book, view, config):
        sources = {s: "margin_call" for s, held in book.positions.items() if held.direction is Direction.SHORT}
    for bar in view.closed:
        source = exits.exit_due(book, bar.symbol, view, config)
        # If the symbol's intent closes the position at this same close, its order is sufficient.
        if source is not None and not any(
            w.symbol == bar.symbol and closes_position(book, view, w, config) for w in intents
        ):
            sources.setdefault(bar.symbol, source)
    for symbol, source in sources.items():
        if pending_exit(book, symbol) is not None:
            continue
        for order in book.orders_of(symbol):
            if order.role == "entry":
                canceled = OrderCanceled(order.order_id, symbol, view.at, f"the position is given up: {source}")
                book = evolve(book, canceled)
                yield canceled
        for event in close_position(book, view, symbol, source, config):
            book = evolve(book, event)
            yield event
