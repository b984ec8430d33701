"""Notes on the bars of a run: gaps, refused rows and flagged bars inside its range, by symbol and time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from engine.core.events import Environment, RunRequested
from engine.core.market import Instrument
from engine.data.calendars import Span
from engine.data.gaps import find_gaps, find_missing
from engine.data.validation import exact_frame, flags
from ui.app import App

if TYPE_CHECKING:
    import polars as pl

    from engine.data import BarCatalogue, ImportRecord

Kind = Literal["gap", "refused row", "flagged bar"]

_TIME = re.compile(r"(?:19|20|21)\d\d-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)


class DataNote(NamedTuple):
    """A note on a run's bars: its start and end in UTC, the number of bars concerned, and the reason.

    A refused row without a readable time has neither start nor end.
    """

    symbol: str
    kind: Kind
    start: datetime | None
    end: datetime | None
    bars: int
    reason: str


def data_notes(app: App, run: RunRequested, until: datetime | None = None) -> list[DataNote]:
    """Return the notes on all symbols of a run, ordered by symbol and time; until: present time of a paper run."""
    # A paper run sees more bars than were known at its start.
    known = app.catalogue if run.environment is Environment.PAPER else app.catalogue.as_known_at(run.known_at)
    span = Span(run.start, until or run.end)
    imports = app.catalogue.imports()
    return [
        note
        for instrument in dict.fromkeys((*run.config.instruments, *run.config.rates))
        for note in sorted(
            _symbol_notes(known, imports, run, instrument, span), key=lambda note: note.start or span.start
        )
    ]


def _symbol_notes(
    known: BarCatalogue, imports: list[ImportRecord], run: RunRequested, instrument: Instrument, span: Span
) -> Iterator[DataNote]:
    import polars as pl

    symbol, timeframe = instrument.symbol, run.config.timeframe
    frame = _frame(known, run, instrument, span)
    for gap in find_gaps(find_missing(frame, instrument.calendar, timeframe, span)):
        yield DataNote(symbol, "gap", gap.span.start, gap.span.end, gap.bars, "no bars are stored")
    marks = frame.select("opened_at", "closed_at", flags(frame, instrument)).filter(pl.col("flags") != "")
    for opened, closed, words in marks.iter_rows():
        yield DataNote(symbol, "flagged bar", opened.astimezone(UTC), closed.astimezone(UTC), 1, words)
    for each in imports:
        if (each.symbol, each.timeframe) != (symbol, timeframe) or (run.known_at and each.learned_at > run.known_at):
            continue
        for row in each.refused:
            at = _instant_in(row.line)
            if at is None or span.start <= at < span.end:
                yield DataNote(symbol, "refused row", at, at, 1, f"row {row.row} of {each.source}: {row.reason}")


def _frame(known: BarCatalogue, run: RunRequested, instrument: Instrument, span: Span) -> pl.DataFrame:
    """Return the bars of a range: as floats for speed, or exactly where prices must be multiples of a tick."""
    wanted = (instrument.symbol, run.config.timeframe, span.start, span.end)
    return known.frame(*wanted) if instrument.tick is None else exact_frame(known.bars(*wanted))


def _instant_in(line: str) -> datetime | None:
    """Return the first time in a row's text; one without an offset is UTC."""
    match = _TIME.search(line)
    if match is None:
        return None
    try:
        at = datetime.fromisoformat(match[0])
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
