"""One step of market time through the book. Pure: everything it looks at is an argument.

At instant T the session first takes what the broker did inside the bars that close at T. Then, here, in this order:
halts by persons; what the closes mean (loss and drawdown breakers); a session roll at T; exits that are due, margin
calls among them; the wishes in symbol order, each approved order reserving cash for the next. Last come the opens of
the bars that begin at T, at the broker again. A wish made from the close at T can so be filled at T's next open, never
at the price it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.events import BookEvent, BookOpened, OrderCanceled, PositionsMarked, Source, TradingResumed
from engine.core.intents import Wish
from engine.core.market import Direction, Symbol
from engine.core.session_ends import Schedule
from engine.core.step import Step
from engine.trading import exits
from engine.trading.book import Book, evolve, fold, marked
from engine.trading.circuit_breakers import DAILY_LOSS, SESSION_ROLL, Command, breakers, obey
from engine.trading.execution import give_up
from engine.trading.risk import leaving_by
from engine.trading.targeting import act, leaves


def open_book(config: RunConfig, config_digest: str, at: datetime) -> BookOpened:
    return BookOpened(at, config.cash, config.currency, config.instruments, config_digest, config.shorting.margin_pct)


def close_book(book: Book, at: datetime, marks: Mapping[Symbol, Decimal]) -> PositionsMarked:
    """The last fact of a run: what everything is worth at its end. Positions stay open."""
    return marked(book, at, marks, "end")


def decide(
    book: Book, step: Step, wishes: Sequence[Wish], config: RunConfig, commands: Sequence[Command] = ()
) -> tuple[BookEvent, ...]:
    """The events that follow from the closes at one instant, where no session ends there. `commands`: of persons."""
    measured = measure(book, step, config, commands)
    return *measured, *act_on(fold(measured, book), step, wishes, config)


def measure(book: Book, step: Step, config: RunConfig, commands: Sequence[Command] = ()) -> tuple[BookEvent, ...]:
    """What persons have commanded since the last instant, and the halts that the closes set.

    A close at the end of a session counts for that session: the roll comes after this.
    """
    made: list[BookEvent] = []
    # Persons first: a resume lifts what its author could have seen, not what this very close sets off.
    for command in commands:
        book = _record(book, obey(book, step, command, config), made)
    if config.limits.daily_loss_pct is not None or config.limits.drawdown_pct is not None:
        book = _record(book, breakers(book, step, config), made)
    return tuple(made)


def act_on(book: Book, step: Step, wishes: Sequence[Wish], config: RunConfig) -> tuple[BookEvent, ...]:
    """Exits that are due, then the wishes in symbol order, each approved order reserving cash for the next."""
    made: list[BookEvent] = []
    if book.positions:
        book = _record(book, _exits(book, step, wishes, config), made)
    for wish in wishes:
        book = _record(book, act(book, step, wish, config), made)
    return tuple(made)


def _record(book: Book, events: Iterable[BookEvent], made: list[BookEvent]) -> Book:
    for event in events:
        made.append(event)
        book = evolve(book, event)
    return book


# --- Session roll -------------------------------------------------------------------------------------------------


def roll_due(at: datetime, previous_at: datetime | None, schedule: Schedule) -> datetime | None:
    """The latest session roll after the previous step, up to this one."""
    if previous_at is None:
        return None
    roll = schedule.roll_by(at)
    return roll if roll is not None and roll > previous_at else None


def roll(book: Book, at: datetime, marks: Mapping[Symbol, Decimal]) -> Iterator[BookEvent]:
    """A new session begins: everything is marked, and the day's loss counts from here."""
    yield marked(book, at, marks, "roll")
    if DAILY_LOSS in book.halts:
        yield TradingResumed(at, "a new session began", SESSION_ROLL, (DAILY_LOSS,))


# --- Exits --------------------------------------------------------------------------------------------------------


def _exits(book: Book, step: Step, wishes: Sequence[Wish], config: RunConfig) -> Iterator[BookEvent]:
    sources: dict[Symbol, Source] = {}
    if exits.margin_called(book, step, config):
        sources = {s: "margin_call" for s, held in book.positions.items() if held.direction is Direction.SHORT}
    for bar in step.closed:
        source = exits.due(book, bar.symbol, step, config)
        # Where the symbol's own wish leaves the position at this very close, one order does both.
        if source is not None and not any(w.symbol == bar.symbol and leaves(book, step, w, config) for w in wishes):
            sources.setdefault(bar.symbol, source)
    for symbol, source in sources.items():
        if leaving_by(book, symbol) is not None:
            continue
        for order in book.orders_of(symbol):
            if order.role == "entry":
                canceled = OrderCanceled(order.order_id, symbol, step.at, f"the position is given up: {source}")
                book = evolve(book, canceled)
                yield canceled
        for event in give_up(book, step, symbol, source, config):
            book = evolve(book, event)
            yield event
