"""Bars that are asked for and not there yet: exactly those are fetched, judged and stored.

A closed market, a weekend, a holiday or an early close is nothing that could be missing. What a provider was asked for
and had not is remembered, and it is not asked again unless a person says so. Every answer is stored before the next
question, so that whatever ends a fetch, the next one goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from engine import clock
from engine.errors import BadInput, NotFound
from engine.feed import Asked, Bars, Refused
from engine.feed.checks import time_text
from engine.feed.gaps import Hole, holes, missing, unasked
from engine.feed.providers import Provider, Reach
from engine.feed.quality import NUMBERS, Judged, frame_of, judge
from engine.feed.resample import fits, resampled
from engine.feed.sessions import Span, grid
from engine.market import Instrument, Timeframe

if TYPE_CHECKING:
    import polars as pl

SETTLED = timedelta(days=2)
"""How long after its close a provider may still come to have a bar."""

Progress = Callable[[int, int], None]
"""Told of how many of how many bars a provider was asked for."""


class Fetched(NamedTuple):
    """What a fetch brought. calls: how often the provider was asked."""

    calls: int = 0
    new: int = 0
    corrected: int = 0
    refused: tuple[Refused, ...] = ()

    def and_(self, more: Fetched) -> Fetched:
        refused = (*self.refused, *more.refused)
        return Fetched(self.calls + more.calls, self.new + more.new, self.corrected + more.corrected, refused)


def fetch(
    catalogue: Bars,
    provider: Provider,
    instrument: Instrument,
    timeframe: Timeframe,
    span: Span,
    *,
    actor: str,
    again: bool = False,
    progress: Progress = lambda done, everything: None,
) -> Fetched:
    """Fetches what a span lacks; with `again` all of it, and what is other than stored becomes a revision.

    A timeframe that the provider does not offer is made from the largest that fits into it. Raises `BadInput` for bars
    that it cannot have, and what `Provider.fetch` raises; what came before is stored.
    """
    told, reach = _told(provider, instrument, timeframe)
    brought = Fetched()
    wanted = _wanted(catalogue, provider, instrument, told, _within(reach, span, provider, told), again)
    everything, done = sum(hole.bars for hole in wanted), 0
    for hole in wanted:
        for asked in _calls(hole.span, reach):
            rows = provider.fetch(instrument, told, asked, clock.now())
            brought = brought.and_(_store(catalogue, provider, instrument, told, asked, rows, actor))
        done += hole.bars
        progress(done, everything)
    if told is not timeframe:
        made = _made(catalogue, instrument, told, timeframe, span)
        source, now = f"{provider.name} {told}", clock.now()
        catalogue.add_judged(made, source=source, learned_at=now, actor=actor, correct=True)
    return brought


def _told(provider: Provider, instrument: Instrument, timeframe: Timeframe) -> tuple[Timeframe, Reach]:
    """The timeframe that a provider is asked for: the one that is wanted, or the largest that can be made into it."""
    offered = {each: provider.reach(instrument, each) for each in Timeframe}
    for each in (timeframe, *(smaller for smaller in reversed(Timeframe) if fits(smaller, timeframe))):
        reach = offered[each]
        if reach is not None:
            return each, reach
    kinds = [each for each in Timeframe if offered[each] is not None]
    if not kinds:
        raise NotFound(f"{provider.name} has no bars of {instrument.symbol}: name another provider with --provider.")
    raise BadInput(
        f"{provider.name} has no {timeframe} bars of {instrument.symbol}, and none that they could be made of; it has "
        f"{', '.join(kinds)}: ask for one of these, or another provider with --provider."
    )


def _within(reach: Reach, span: Span, provider: Provider, timeframe: Timeframe) -> Span:
    """The part of a span that a provider can have by now. Raises `BadInput` where that is nothing."""
    now = clock.now()
    first = span.start if reach.back is None else max(span.start, now - reach.back)
    if first >= min(span.end, now):
        since = "" if reach.back is None else f" since {time_text(now - reach.back)}"
        raise BadInput(
            f"{provider.name} has {timeframe} bars{since} up to now, and nothing from {time_text(span.start)} to "
            f"{time_text(span.end)}: ask for a range inside that, or import a file with `quantagent data import`."
        )
    return Span(first, min(span.end, now))


def _wanted(
    catalogue: Bars, provider: Provider, instrument: Instrument, timeframe: Timeframe, span: Span, again: bool
) -> list[Hole]:
    """What the provider is to be asked for."""
    calendar = instrument.calendar
    if again:
        return holes(missing(grid(calendar, timeframe, span).clear(), calendar, timeframe, span))
    lacking = missing(held(catalogue, instrument, timeframe, span), calendar, timeframe, span)
    asked = [each for each in catalogue.asked(instrument.symbol, timeframe) if each.provider == provider.name]
    return holes(unasked(lacking, asked))


def _calls(span: Span, reach: Reach) -> Iterator[Span]:
    """A span in parts that one call may cover."""
    start = span.start
    while start < span.end:
        end = span.end if reach.call is None else min(span.end, start + reach.call)
        yield Span(start, end)
        start = end


def _store(
    catalogue: Bars,
    provider: Provider,
    instrument: Instrument,
    timeframe: Timeframe,
    span: Span,
    rows: pl.DataFrame,
    actor: str,
) -> Fetched:
    """Stores what a call brought, and what it was asked for where nothing more will come."""
    now = clock.now()
    judged = judge(rows, instrument, timeframe, now)
    added = catalogue.add_judged(judged, source=provider.name, learned_at=now, actor=actor, correct=True)
    settled = Span(span.start, min(span.end, now - SETTLED))
    if settled.end > settled.start:
        catalogue.record_asked(instrument.symbol, timeframe, Asked(provider.name, settled, now, rows.height))
    return Fetched(1, added.new, added.corrected, tuple(judged.refused))


def held(catalogue: Bars, instrument: Instrument, timeframe: Timeframe, span: Span) -> pl.DataFrame:
    """The bars of a span that are there: a frame, which may be empty."""
    try:
        return catalogue.frame(instrument.symbol, timeframe, span.start, span.end)
    except BadInput:
        return grid(instrument.calendar, timeframe, span).clear()


def _made(catalogue: Bars, instrument: Instrument, of: Timeframe, to: Timeframe, span: Span) -> Judged:
    """Larger bars made of stored ones, exactly."""
    import polars as pl

    # A larger bar that a span cuts is made of all its parts.
    around = Span(span.start - to.duration, span.end + to.duration)
    bars = catalogue.bars(instrument.symbol, of, around.start, around.end)
    made = resampled(frame_of(bars), instrument.calendar, of, to)
    inside = made.filter(pl.col("opened_at") >= span.start, pl.col("closed_at") <= span.end)
    texts = inside.select("opened_at", pl.col(NUMBERS).cast(pl.String))
    return judge(texts, instrument, to)
