"""Bars that are asked for and not there yet: exactly those are fetched, judged and stored.

A closed market, a weekend, a holiday or an early close is nothing that could be missing. What a provider was asked for
and had not is remembered, and it is not asked again unless a person says so. Every answer is stored before the next
question, so that whatever ends a fetch, the next one goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from engine import clock, plugins
from engine.core.errors import BadInput, NotFound, ProviderUnavailable, QuantagentError
from engine.core.market import Instrument, Timeframe
from engine.data import Asked, Bars, Refused
from engine.data.bar_rules import time_text
from engine.data.calendars import Span, grid
from engine.data.encoding import NUMBERS
from engine.data.gaps import Hole, holes, missing, unasked
from engine.data.providers import Provider, Reach
from engine.data.resample import fits, resampled
from engine.data.validation import Judged, frame_of, judge

if TYPE_CHECKING:
    import polars as pl

SETTLED = timedelta(days=2)
"""How long after its close a provider may still come to have a bar."""
NEAR = 100
"""Holes that no more bars than these lie between are asked for in one call; what is there already stays as it is."""

Progress = Callable[[int, int], None]
"""Told of how many of how many bars a provider was asked for."""


class Fetched(NamedTuple):
    """What a fetch brought. calls: how often the provider was asked; beyond: how many bars are missing that lie before
    what it has; made_of: the timeframe of the bars that those were made of which the provider does not offer itself."""

    calls: int = 0
    new: int = 0
    corrected: int = 0
    beyond: int = 0
    refused: tuple[Refused, ...] = ()
    made_of: Timeframe | None = None


class _Series(NamedTuple):
    """Whose bars are fetched, by whom and from where."""

    catalogue: Bars
    provider: Provider
    instrument: Instrument
    actor: str
    again: bool


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
    series, now = _Series(catalogue, provider, instrument, actor, again), clock.now()
    span = Span(span.start, min(span.end, now))
    if span.start >= span.end:
        raise BadInput(f"the range begins in the future, at {time_text(span.start)}: ask for one that has been.")
    lacking = _lacking(series, timeframe, [span])
    if lacking.is_empty():
        return Fetched()
    told, reach = _told(provider, instrument, timeframe)
    wanted = lacking if told is timeframe else _lacking(series, told, [hole.span for hole in holes(lacking)])
    wanted = wanted if again else unasked(wanted, _asked(series, told))
    reached = wanted if reach.back is None else wanted.filter(wanted["opened_at"] >= now - reach.back)
    beyond = wanted.height - reached.height
    if beyond and reached.is_empty() and reach.back is not None:
        raise BadInput(
            f"{provider.name} has {told} bars since {time_text(now - reach.back)}, and the {beyond:,} that are missing "
            "lie before: import them from a file with `quantagent data import`."
        )
    brought, asked = _ask_for(series, told, holes(reached), reach, progress)
    if told is not timeframe:
        made = _made(series, told, timeframe, lacking, asked)
        added = catalogue.add_judged(
            made, source=f"{provider.name} {told}", learned_at=clock.now(), actor=actor, correct=again
        )
        brought = brought._replace(new=added.new, corrected=added.corrected, made_of=told)
    return brought._replace(beyond=beyond)


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


def _lacking(series: _Series, timeframe: Timeframe, spans: Sequence[Span]) -> pl.DataFrame:
    """The bars that are missing in spans; all of them where they are asked for again."""
    import polars as pl

    calendar = series.instrument.calendar
    found = [missing(_held(series, timeframe, span), calendar, timeframe, span) for span in spans]
    # Places of one span say nothing of those of another.
    return pl.concat(
        frame.with_columns(pl.col("place").cast(pl.Int64) + nth * _APART) for nth, frame in enumerate(found)
    )


_APART = 1 << 40


def _held(series: _Series, timeframe: Timeframe, span: Span) -> pl.DataFrame:
    """The bars of a span that are there: a frame, which may be empty."""
    try:
        if not series.again:
            return series.catalogue.frame(series.instrument.symbol, timeframe, span.start, span.end)
    except BadInput:
        pass
    return grid(series.instrument.calendar, timeframe, span).clear()


def _asked(series: _Series, timeframe: Timeframe) -> list[Asked]:
    """What the provider was asked for before, as far as that says anything of what it has."""
    known = series.catalogue.asked(series.instrument.symbol, timeframe) if series.provider.remembers else []
    return [each for each in known if each.provider == series.provider.name]


# --- Asking -------------------------------------------------------------------------------------------------------


def _ask_for(
    series: _Series, timeframe: Timeframe, wanted: Sequence[Hole], reach: Reach, progress: Progress
) -> tuple[Fetched, list[Asked]]:
    """Asks for holes, and stores each answer before the next question. Also returns what was asked."""
    brought, asked, done = Fetched(), list[Asked](), 0
    everything = sum(hole.bars for hole in wanted)
    for hole in _together(wanted, reach):
        for span in _calls(hole.span, reach):
            now = clock.now()
            rows = _answer(series, timeframe, span, now)
            judged = judge(rows, series.instrument, timeframe, now)
            added = series.catalogue.add_judged(
                _absent(series, judged, span), source=series.provider.name, learned_at=now, actor=series.actor,
                correct=series.again,
            )  # fmt: skip
            settled = Asked(series.provider.name, Span(span.start, min(span.end, now - SETTLED)), now, rows.height)
            if settled.span.end > settled.span.start:
                asked.append(settled)
                if series.provider.remembers:
                    series.catalogue.record_asked(series.instrument.symbol, timeframe, settled)
            brought = Fetched(
                brought.calls + 1,
                brought.new + added.new,
                brought.corrected + added.corrected,
                refused=(*brought.refused, *judged.refused),
            )
        done += hole.bars
        progress(done, everything)
    return brought, asked


def _together(wanted: Sequence[Hole], reach: Reach) -> list[Hole]:
    """Holes that lie near each other as one, where one call can cover them."""
    joined: list[Hole] = []
    for hole in wanted:
        if joined:
            last = joined[-1]
            span = Span(last.span.start, hole.span.end)
            near = hole.first - last.last <= NEAR
            if near and (reach.call is None or span.end - span.start <= reach.call):
                joined[-1] = Hole(span, last.bars + hole.bars, last.first, hole.last)
                continue
        joined.append(hole)
    return joined


def _calls(span: Span, reach: Reach) -> Iterator[Span]:
    """A span in parts that one call may cover."""
    start = span.start
    while start < span.end:
        end = span.end if reach.call is None else min(span.end, start + reach.call)
        yield Span(start, end)
        start = end


def _answer(series: _Series, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
    """The rows that a provider tells of a span. Whatever it does otherwise is an error in a sentence."""
    # Not before it is needed: providers load polars.
    from engine.data.providers.rows import fault_in_shape

    provider, what = series.provider, f"{timeframe} bars of {series.instrument.symbol}"
    try:
        rows = provider.fetch(series.instrument, timeframe, span, now)
        fault = fault_in_shape(rows)
    except QuantagentError:
        raise
    except Exception as error:
        fault = plugins.describe_error(error)
    else:
        if not fault:
            return rows.filter((rows["opened_at"] >= span.start) & (rows["opened_at"] < span.end))
    raise ProviderUnavailable(
        f"provider {provider.name} failed on {what}: {fault}. Ask again, or report it to whoever wrote it."
    )


def _absent(series: _Series, judged: Judged, span: Span) -> Judged:
    """What is to be stored of an answer: what is not there, or all of it where it was asked for again."""
    there = _held(series, judged.timeframe, span)
    return judged._replace(frame=judged.frame.join(there.select("opened_at"), on="opened_at", how="anti"))


# --- Making larger bars -------------------------------------------------------------------------------------------


def _made(series: _Series, of: Timeframe, to: Timeframe, lacking: pl.DataFrame, asked_now: Sequence[Asked]) -> Judged:
    """Larger bars made of stored ones, exactly: those that were lacking and of which all is known.

    All is known of a bar when its first and last parts are there, and of the others those that the provider had.
    """
    import polars as pl

    catalogue, instrument = series.catalogue, series.instrument
    around = Span(*(lacking.select(pl.min("opened_at"), pl.max("closed_at")).row(0)))
    try:
        bars = catalogue.bars(instrument.symbol, of, around.start.astimezone(UTC), around.end.astimezone(UTC))
    except BadInput:
        bars = []
    parts = frame_of(bars)
    larger = lacking.select(begins="opened_at", ends="closed_at")
    whole = missing(parts.clear(), instrument.calendar, of, around).join_asof(
        larger, left_on="opened_at", right_on="begins"
    )
    absent = missing(parts, instrument.calendar, of, around)
    open_questions = unasked(absent, [*_asked(series, of), *asked_now])["opened_at"].implode()
    there = ~pl.col("opened_at").is_in(absent["opened_at"].implode())
    known = (
        whole.filter(pl.col("opened_at") < pl.col("ends"))
        .group_by("begins", maintain_order=True)
        .agg(first=there.first(), last=there.last(), waits=pl.col("opened_at").is_in(open_questions).any())
        .filter(pl.col("first") & pl.col("last") & ~pl.col("waits"))
    )
    made = resampled(parts, instrument.calendar, of, to, clock.now()).filter(
        pl.col("opened_at").is_in(known["begins"].implode())
    )
    return judge(made.select("opened_at", pl.col(NUMBERS).cast(pl.String)), instrument, to)
