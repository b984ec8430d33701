"""What a book was at any instant of the past, folded from the log alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from itertools import takewhile
from typing import NamedTuple

from engine.audit.narration import market_time
from engine.core.errors import NotFound
from engine.core.events import BookEvent, PositionsMarked, RunRequested
from engine.core.money import div, magnitude, mul
from engine.data.bar_rules import format_instant
from engine.runtime.runs import book_stream
from engine.store import LogEntry, Store
from engine.trading.book import Book, Position, evolve
from engine.trading.risk import daily_loss_limit


class BookSnapshot(NamedTuple):
    """A book as of `at`: an instant of the market or, if `recorded`, of the clock that told when facts were stored.

    opened_at: when the book was opened, on the same clock; last: the latest event that counts; marked: the latest time
    that equity was marked, if any.
    """

    run: RunRequested
    at: datetime
    recorded: bool
    opened_at: datetime
    last: LogEntry
    book: Book
    marked: PositionsMarked | None

    @property
    def daily_loss(self) -> Decimal | None:
        """How much may be lost until the next session roll, in money; None without that limit."""
        return daily_loss_limit(self.book, self.run.config)

    def average_price(self, position: Position) -> Decimal:
        """What one unit of a position cost, before commission."""
        multiplier = self.book.instruments[position.symbol].multiplier
        return div(magnitude(position.cost), mul(magnitude(position.quantity), multiplier))


def book_as_of(store: Store, run: RunRequested, at: datetime, recorded: bool = False) -> BookSnapshot:
    """The book of a run at an instant. Raises `NotFound` for one before the book was opened, with that instant."""
    rows = events_until(store, run, at, recorded)
    first = next(rows, None)
    if first is None:
        raise NotFound(_too_early(store, run, at, recorded))
    book, last, marked = _apply(Book(), first), first, None
    for row in rows:
        book, last = _apply(book, row), row
        if isinstance(row.event, PositionsMarked):
            marked = row.event
    return BookSnapshot(run, at, recorded, event_time(first, recorded), last, book, marked)


def _apply(book: Book, row: LogEntry) -> Book:
    return evolve(book, row.event) if isinstance(row.event, BookEvent) else book


def events_until(store: Store, run: RunRequested, at: datetime | None, recorded: bool) -> Iterator[LogEntry]:
    """The book's events up to and with an instant; all of them without one."""
    rows = store.read(book_stream(run.run_id))
    return iter(rows) if at is None else takewhile(lambda row: event_time(row, recorded) <= at, rows)


def event_time(row: LogEntry, recorded: bool) -> datetime:
    """When an event became true in the market or, if `recorded`, was stored."""
    return row.meta.recorded_at if recorded else market_time(row.event) or row.meta.recorded_at


def _too_early(store: Store, run: RunRequested, at: datetime, recorded: bool) -> str:
    first = next(iter(store.read(book_stream(run.run_id))), None)
    if first is None:
        return f"run {run.run_id[:8]} has decided nothing yet: its book holds no event."
    opened = format_instant(event_time(first, recorded))
    clock = "was stored from" if recorded else "was opened at"
    return (
        f"the book of run {run.run_id[:8]} {clock} {opened}: at {format_instant(at)} there was none, ask for a "
        f"later time."
    )
