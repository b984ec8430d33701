"""State of a book at any past instant, folded from the log alone."""

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
    """A book as of `at`: a market time or, if `recorded`, a recording time.

    opened_at: when the book was opened, on the same clock; last: the latest event included; marked: the latest mark of
    equity, if any.
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
        """The limit of loss until the next session roll, in account currency; None without a limit."""
        return daily_loss_limit(self.book, self.run.config)

    def average_price(self, position: Position) -> Decimal:
        """Return the average cost of one unit of a position, before commission."""
        multiplier = self.book.instruments[position.symbol].multiplier
        return div(magnitude(position.cost), mul(magnitude(position.quantity), multiplier))


def book_as_of(store: Store, run: RunRequested, at: datetime, recorded: bool = False) -> BookSnapshot:
    """Return the book of a run at an instant. Raise `NotFound` for an instant before the book was opened."""
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
    """Return the events of a book up to and including an instant; all events if `at` is None."""
    rows = store.read(book_stream(run.run_id))
    return iter(rows) if at is None else takewhile(lambda row: event_time(row, recorded) <= at, rows)


def event_time(row: LogEntry, recorded: bool) -> datetime:
    """Return the market time of an event or, if `recorded`, its recording time."""
    return row.meta.recorded_at if recorded else market_time(row.event) or row.meta.recorded_at


def _too_early(store: Store, run: RunRequested, at: datetime, recorded: bool) -> str:
    first = next(iter(store.read(book_stream(run.run_id))), None)
    if first is None:
        return f"the book of run {run.run_id[:8]} holds no event yet."
    opened = format_instant(event_time(first, recorded))
    verb = "first recorded" if recorded else "opened"
    return f"the book of run {run.run_id[:8]} was {verb} at {opened}, after {format_instant(at)}: use a later time."
