"""Fetching of missing bars from providers: exactly the bars that are not stored are requested, validated and stored.

Only bars of the calendar can be missing, so weekends, holidays and early closes cause no requests. Requests are stored,
and bars that a provider did not have are not requested again unless the user wants it. Every response is stored before
the next request, so that an interrupted fetch continues where it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from engine import clock, plugins
from engine.core.errors import BadInput, NotFound, ProviderUnavailable, QuantagentError
from engine.core.market import Instrument, Timeframe
from engine.data import BarCatalogue, ProviderRequest, RefusedRow
from engine.data.bar_rules import format_instant
from engine.data.calendars import Span, grid
from engine.data.encoding import NUMBERS
from engine.data.gaps import Gap, find_gaps, find_missing, not_requested
from engine.data.providers import Provider, Reach
from engine.data.resample import fits_into, resample
from engine.data.validation import ValidatedBars, exact_frame, validate_bars

if TYPE_CHECKING:
    import polars as pl

LATE_BAR_WINDOW = timedelta(days=2)
"""Time after its close in which a provider may still add a bar."""
MERGE_DISTANCE_BARS = 100
"""Gaps with at most this number of bars between them share one call; bars that are stored already do not change."""

CountCallback = Callable[[int, int], None]
"""Progress callback: (bars requested so far, bars to request)."""


class FetchResult(NamedTuple):
    """Result of a fetch.

    calls: number of calls to the provider; beyond: number of missing bars before the provider's reach; made_of: the
    timeframe of the bars that were resampled, None if the provider offers the timeframe itself.
    """

    calls: int = 0
    new: int = 0
    corrected: int = 0
    beyond: int = 0
    refused: tuple[RefusedRow, ...] = ()
    made_of: Timeframe | None = None


class _FetchContext(NamedTuple):
    """Source, target and options of a fetch."""

    catalogue: BarCatalogue
    provider: Provider
    instrument: Instrument
    actor: str
    refetch: bool


def fetch_bars(
    catalogue: BarCatalogue,
    provider: Provider,
    instrument: Instrument,
    timeframe: Timeframe,
    span: Span,
    *,
    actor: str,
    refetch: bool = False,
    progress: CountCallback = lambda done, everything: None,
) -> FetchResult:
    """Fetch the bars that are missing in a span and store them.

    refetch: fetch all bars of the span, and store changed ones as revisions. A timeframe that the provider does not
    offer is resampled from the largest one that fits into it. Raise `BadInput` for bars that the provider cannot have,
    and the errors of `Provider.fetch`; responses received before are stored.
    """
    series, now = _FetchContext(catalogue, provider, instrument, actor, refetch), clock.now()
    span = Span(span.start, min(span.end, now))
    if span.start >= span.end:
        raise BadInput(f"the range begins in the future, at {format_instant(span.start)}: choose an earlier start.")
    missing_bars = _find_missing(series, timeframe, [span])
    if missing_bars.is_empty():
        return FetchResult()
    source_timeframe, reach = _source_timeframe(provider, instrument, timeframe)
    wanted = (
        missing_bars
        if source_timeframe is timeframe
        else _find_missing(series, source_timeframe, [gap.span for gap in find_gaps(missing_bars)])
    )
    wanted = wanted if refetch else not_requested(wanted, _past_requests(series, source_timeframe))
    available = wanted if reach.back is None else wanted.filter(wanted["opened_at"] >= now - reach.back)
    beyond = wanted.height - available.height
    if beyond and available.is_empty() and reach.back is not None:
        raise BadInput(
            f"{provider.name} has {source_timeframe} bars since {format_instant(now - reach.back)}, and the "
            f"{beyond:,} missing bars are older.",
            "BARS_BEFORE_REACH",
        )
    result, requests = _fetch_gaps(series, source_timeframe, find_gaps(available), reach, progress)
    if source_timeframe is not timeframe:
        larger = _resample_stored(series, source_timeframe, timeframe, missing_bars, requests)
        added = catalogue.add_validated(
            larger, source=f"{provider.name} {source_timeframe}", learned_at=clock.now(), actor=actor, correct=refetch
        )
        result = result._replace(new=added.new, corrected=added.corrected, made_of=source_timeframe)
    return result._replace(beyond=beyond)


def _source_timeframe(provider: Provider, instrument: Instrument, timeframe: Timeframe) -> tuple[Timeframe, Reach]:
    """Return the timeframe to request from a provider: the given one, or the largest that can be resampled to it."""
    offered = {each: provider.reach(instrument, each) for each in Timeframe}
    for each in (timeframe, *(smaller for smaller in reversed(Timeframe) if fits_into(smaller, timeframe))):
        reach = offered[each]
        if reach is not None:
            return each, reach
    kinds = [each for each in Timeframe if offered[each] is not None]
    if not kinds:
        raise NotFound(f"{provider.name} has no bars of {instrument.symbol}.", "PROVIDER_LACKS_SYMBOL")
    raise BadInput(
        f"{provider.name} has no {timeframe} bars of {instrument.symbol}, and none to make them of; it has "
        f"{', '.join(kinds)}.",
        "PROVIDER_LACKS_TIMEFRAME",
    )


def _find_missing(series: _FetchContext, timeframe: Timeframe, spans: Sequence[Span]) -> pl.DataFrame:
    """Return the bars that are missing in spans; all bars of the spans for a refetch."""
    import polars as pl

    calendar = series.instrument.calendar
    found = [find_missing(_stored_bars(series, timeframe, span), calendar, timeframe, span) for span in spans]
    # Places of different spans are not comparable; the offset keeps them apart.
    return pl.concat(
        frame.with_columns(pl.col("place").cast(pl.Int64) + nth * _PLACE_OFFSET) for nth, frame in enumerate(found)
    )


_PLACE_OFFSET = 1 << 40


def _stored_bars(series: _FetchContext, timeframe: Timeframe, span: Span) -> pl.DataFrame:
    """Return the stored bars of a span, as a frame that may be empty; none for a refetch."""
    try:
        if not series.refetch:
            return series.catalogue.frame(series.instrument.symbol, timeframe, span.start, span.end)
    except BadInput:
        pass
    return grid(series.instrument.calendar, timeframe, span).clear()


def _past_requests(series: _FetchContext, timeframe: Timeframe) -> list[ProviderRequest]:
    """Return the stored requests to the provider; none if repeating them costs nothing (`Provider.remembers`)."""
    known = series.catalogue.provider_requests(series.instrument.symbol, timeframe) if series.provider.remembers else []
    return [each for each in known if each.provider == series.provider.name]


# --- Requests -----------------------------------------------------------------------------------------------------


def _fetch_gaps(
    series: _FetchContext, timeframe: Timeframe, wanted: Sequence[Gap], reach: Reach, progress: CountCallback
) -> tuple[FetchResult, list[ProviderRequest]]:
    """Fetch gaps and store each response before the next request. Also return the requests."""
    result, requests, done = FetchResult(), list[ProviderRequest](), 0
    total = sum(gap.bars for gap in wanted)
    for gap in _merge_gaps(wanted, reach):
        for span in _split_span(gap.span, reach):
            now = clock.now()
            rows = _request_rows(series, timeframe, span, now)
            validated = validate_bars(rows, series.instrument, timeframe, now)
            added = series.catalogue.add_validated(
                _without_stored(series, validated, span), source=series.provider.name, learned_at=now,
                actor=series.actor, correct=series.refetch,
            )  # fmt: skip
            request = ProviderRequest(
                series.provider.name, Span(span.start, min(span.end, now - LATE_BAR_WINDOW)), now, rows.height
            )
            if request.span.end > request.span.start:
                requests.append(request)
                if series.provider.remembers:
                    series.catalogue.record_request(series.instrument.symbol, timeframe, request)
            result = FetchResult(
                result.calls + 1,
                result.new + added.new,
                result.corrected + added.corrected,
                refused=(*result.refused, *validated.refused),
            )
        done += gap.bars
        progress(done, total)
    return result, requests


def _merge_gaps(wanted: Sequence[Gap], reach: Reach) -> list[Gap]:
    """Merge gaps that are near each other, where one call can cover them."""
    merged: list[Gap] = []
    for gap in wanted:
        if merged:
            last = merged[-1]
            span = Span(last.span.start, gap.span.end)
            near = gap.first - last.last <= MERGE_DISTANCE_BARS
            if near and (reach.call is None or span.end - span.start <= reach.call):
                merged[-1] = Gap(span, last.bars + gap.bars, last.first, gap.last)
                continue
        merged.append(gap)
    return merged


def _split_span(span: Span, reach: Reach) -> Iterator[Span]:
    """Split a span into parts that one call can cover."""
    start = span.start
    while start < span.end:
        end = span.end if reach.call is None else min(span.end, start + reach.call)
        yield Span(start, end)
        start = end


def _request_rows(series: _FetchContext, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
    """Return the rows of a provider that open in a span. Raise `ProviderUnavailable` for any defect of the provider."""
    # Imported late, because it loads polars.
    from engine.data.providers.rows import invalid_shape

    provider, what = series.provider, f"{timeframe} bars of {series.instrument.symbol}"
    try:
        rows = provider.fetch(series.instrument, timeframe, span, now)
        reason = invalid_shape(rows)
    except QuantagentError:
        raise
    except Exception as error:
        reason = plugins.describe_error(error)
    else:
        if not reason:
            return rows.filter((rows["opened_at"] >= span.start) & (rows["opened_at"] < span.end))
    raise ProviderUnavailable(
        f"provider {provider.name} failed on {what}: {reason}. Retry, or report it to the author of the provider."
    )


def _without_stored(series: _FetchContext, validated: ValidatedBars, span: Span) -> ValidatedBars:
    """Return a response without the bars that are stored already; all of it for a refetch."""
    stored = _stored_bars(series, validated.timeframe, span)
    return validated._replace(frame=validated.frame.join(stored.select("opened_at"), on="opened_at", how="anti"))


# --- Resampling ---------------------------------------------------------------------------------------------------


def _resample_stored(
    series: _FetchContext,
    of: Timeframe,
    to: Timeframe,
    missing_bars: pl.DataFrame,
    new_requests: Sequence[ProviderRequest],
) -> ValidatedBars:
    """Resample stored bars, exactly, to the missing larger bars that are complete.

    A bar is complete if its first and last parts are stored, and every other part is stored or was requested.
    """
    import polars as pl

    catalogue, instrument = series.catalogue, series.instrument
    around = Span(*(missing_bars.select(pl.min("opened_at"), pl.max("closed_at")).row(0)))
    try:
        bars = catalogue.bars(instrument.symbol, of, around.start.astimezone(UTC), around.end.astimezone(UTC))
    except BadInput:
        bars = []
    parts = exact_frame(bars)
    larger = missing_bars.select(begins="opened_at", ends="closed_at")
    whole = find_missing(parts.clear(), instrument.calendar, of, around).join_asof(
        larger, left_on="opened_at", right_on="begins"
    )
    absent = find_missing(parts, instrument.calendar, of, around)
    unrequested = not_requested(absent, [*_past_requests(series, of), *new_requests])["opened_at"].implode()
    is_stored = ~pl.col("opened_at").is_in(absent["opened_at"].implode())
    known = (
        whole.filter(pl.col("opened_at") < pl.col("ends"))
        .group_by("begins", maintain_order=True)
        .agg(first=is_stored.first(), last=is_stored.last(), waits=pl.col("opened_at").is_in(unrequested).any())
        .filter(pl.col("first") & pl.col("last") & ~pl.col("waits"))
    )
    resampled_bars = resample(parts, instrument.calendar, of, to, clock.now()).filter(
        pl.col("opened_at").is_in(known["begins"].implode())
    )
    return validate_bars(resampled_bars.select("opened_at", pl.col(NUMBERS).cast(pl.String)), instrument, to)
