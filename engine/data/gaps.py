"""Gaps: bars that a fully traded market has, and that are not stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from engine.core.market import Calendar, Timeframe
from engine.data import ProviderRequest
from engine.data.calendars import Span, grid

if TYPE_CHECKING:
    import polars as pl


class Gap(NamedTuple):
    """Adjacent missing bars: from the first open to the last close, their number, and their places in the grid."""

    span: Span
    bars: int
    first: int
    last: int


def find_missing(stored: pl.DataFrame, calendar: Calendar, timeframe: Timeframe, span: Span) -> pl.DataFrame:
    """Return the bars of the grid inside a span that are not stored: opened_at, closed_at and `place` in the grid.

    stored: a frame with opened_at. Adjacent bars of the grid have consecutive places.
    """
    import polars as pl

    whole = grid(calendar, timeframe, span).filter(pl.col("closed_at") <= span.end).with_row_index("place")
    return whole.join(stored.select("opened_at"), on="opened_at", how="anti", maintain_order="left")


def not_requested(bars: pl.DataFrame, requests: Sequence[ProviderRequest]) -> pl.DataFrame:
    """Return the missing bars that are in no request."""
    import polars as pl

    times = pl.Datetime("us", "UTC")
    spans = pl.DataFrame(merge_spans(requests), {"asked_from": times, "asked_to": times}, orient="row")
    known = bars.join_asof(spans, left_on="opened_at", right_on="asked_from")
    return known.filter((pl.col("closed_at") > pl.col("asked_to")).fill_null(True)).select(bars.columns)


def merge_spans(requests: Sequence[ProviderRequest]) -> list[Span]:
    """Return the requested time as the smallest number of spans, in order."""
    spans: list[Span] = []
    for start, end in sorted(each.span for each in requests):
        if spans and start <= spans[-1].end:
            spans[-1] = Span(spans[-1].start, max(spans[-1].end, end))
        else:
            spans.append(Span(start, end))
    return spans


def find_gaps(bars: pl.DataFrame) -> list[Gap]:
    """Group missing bars into gaps, in order. Bars that are adjacent in the grid belong together, even over a night."""
    import polars as pl

    numbered = bars.with_row_index("nth").with_columns(group=pl.col("place").cast(pl.Int64) - pl.col("nth"))
    first, last = pl.col("opened_at").first(), pl.col("closed_at").last()
    places = (pl.col("place").first().alias("first"), pl.col("place").last().alias("last"))
    found = numbered.group_by("group", maintain_order=True).agg(first, last, pl.len(), *places)
    return [
        Gap(Span(start.astimezone(UTC), end.astimezone(UTC)), *counts)
        for start, end, *counts in found.select("opened_at", "closed_at", "len", "first", "last").iter_rows()
    ]
