"""Data quality report of a series: missing bars with their reasons, and bars that need a review."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, NamedTuple

from engine.core.market import Instrument, Timeframe
from engine.data import BarCatalogue, ProviderRequest, RefusedRow, Revision
from engine.data.bar_rules import format_instant, no_bars_error
from engine.data.calendars import Span, grid, sessions
from engine.data.gaps import Gap, find_gaps, find_missing, merge_spans
from engine.data.resample import fits_into
from engine.data.validation import exact_frame, flags

if TYPE_CHECKING:
    import polars as pl


class ExplainedGap(NamedTuple):
    """Gap in a series, and the known reason for it."""

    gap: Gap
    reason: str


class FlaggedBar(NamedTuple):
    """Stored bar that needs a review, and the reason."""

    opened_at: datetime
    reason: str


class DataQualityReport(NamedTuple):
    """Data quality of a series in a span.

    bars: number of stored bars; expected: number of bars in the grid of the calendar; corrected: number of bars with
    more than one revision; refused: rows that imports of the series refused; days: (stored, expected) bars of each
    session, by its label.
    """

    instrument: Instrument
    timeframe: Timeframe
    span: Span
    bars: int
    expected: int
    corrected: int
    missing: list[ExplainedGap]
    flagged: list[FlaggedBar]
    refused: list[RefusedRow]
    days: dict[date, tuple[int, int]]


def data_quality_report(
    catalogue: BarCatalogue,
    instrument: Instrument,
    timeframe: Timeframe,
    start: datetime | None = None,
    end: datetime | None = None,
) -> DataQualityReport:
    """Return the report on a series, or on a range of it. Raise `BadInput` if it has no bars."""
    import polars as pl

    symbol, calendar = instrument.symbol, instrument.calendar
    latest = {each.bar.opened_at: each for each in catalogue.history(symbol, timeframe, start, end)}
    if not latest:
        raise no_bars_error(symbol, timeframe, start, end, catalogue.list_series())
    stored = list(latest.values())
    span = Span(start or stored[0].bar.opened_at, end or stored[-1].bar.closed_at)
    frame = exact_frame([each.bar for each in stored])
    whole = grid(calendar, timeframe, span).filter(pl.col("closed_at") <= span.end)
    missing_bars = find_missing(frame, calendar, timeframe, span)
    marks = frame.select("opened_at", flags(frame, instrument)).filter(pl.col("flags") != "")
    requests = [
        row
        for each in Timeframe
        if each is timeframe or fits_into(each, timeframe)
        for row in catalogue.provider_requests(symbol, each)
    ]
    imports = (each for each in catalogue.imports() if (each.symbol, each.timeframe) == (symbol, timeframe))
    return DataQualityReport(
        instrument,
        timeframe,
        span,
        len(stored),
        whole.height,
        sum(1 for each in stored if each.revision > 1),
        [ExplainedGap(gap, _gap_reason(gap, requests, stored)) for gap in find_gaps(missing_bars)],
        [FlaggedBar(at.astimezone(UTC), words) for at, words in marks.iter_rows()],
        [row for each in imports for row in each.refused],
        _by_day(whole, missing_bars, instrument, span),
    )


def _gap_reason(gap: Gap, requests: Sequence[ProviderRequest], stored: Sequence[Revision]) -> str:
    """Return the reason for a gap: the provider that does not have the bars, or the sources of the adjacent bars."""
    for provider in dict.fromkeys(each.provider for each in requests):
        answers = [each for each in requests if each.provider == provider and each.span.end > gap.span.start]
        if any(span.start <= gap.span.start and gap.span.end <= span.end for span in merge_spans(answers)):
            return f"{provider} has none, as of {format_instant(answers[-1].requested_at)}"
    after = bisect(stored, gap.span.start, key=lambda each: each.bar.opened_at)
    sources = dict.fromkeys(each.source for each in stored[max(0, after - 1) : after + 1])
    origins = " and ".join(sources)
    return f"{origins}, where the bars around it come from, has none; no request to another provider is known"


def _by_day(
    whole: pl.DataFrame, missing_bars: pl.DataFrame, instrument: Instrument, span: Span
) -> dict[date, tuple[int, int]]:
    import polars as pl

    days = pl.DataFrame(
        [(each.label, each.opened_at) for each in sessions(instrument.calendar, span)],
        schema={"label": pl.Date(), "begins": pl.Datetime("us", "UTC")},
        orient="row",
    )
    bars = whole.join_asof(days, left_on="opened_at", right_on="begins").with_columns(
        there=~pl.col("opened_at").is_in(missing_bars["opened_at"].implode())
    )
    counts = bars.group_by("label", maintain_order=True).agg(pl.col("there").sum(), pl.len())
    return {label: (there, expected) for label, there, expected in counts.iter_rows()}
