"""Holes: the bars that a market has when it trades all its hours, and that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from engine.feed import Asked
from engine.feed.sessions import Span, grid
from engine.market import Calendar, Timeframe

if TYPE_CHECKING:
    import polars as pl


class Hole(NamedTuple):
    """Neighbouring bars that are missing: from the first one's open to the last one's close, and how many they are."""

    span: Span
    bars: int


def missing(held: pl.DataFrame, calendar: Calendar, timeframe: Timeframe, span: Span) -> pl.DataFrame:
    """The bars of the grid that lie inside a span and are not among those held: opened_at, closed_at, and `place`, by
    which neighbours in the grid are known. held: a frame with opened_at."""
    import polars as pl

    whole = grid(calendar, timeframe, span).filter(pl.col("closed_at") <= span.end).with_row_index("place")
    return whole.join(held.select("opened_at"), on="opened_at", how="anti", maintain_order="left")


def unasked(bars: pl.DataFrame, asked: Sequence[Asked]) -> pl.DataFrame:
    """Of missing bars those that nobody was asked for."""
    import polars as pl

    inside = [(pl.col("opened_at") >= each.span.start) & (pl.col("closed_at") <= each.span.end) for each in asked]
    return bars.filter(~pl.any_horizontal(inside)) if inside else bars


def holes(bars: pl.DataFrame) -> list[Hole]:
    """Missing bars as holes, in order: what is neighbours in the grid is one, whatever nights lie between."""
    import polars as pl

    numbered = bars.with_row_index("nth").with_columns(hole=pl.col("place").cast(pl.Int64) - pl.col("nth"))
    first, last = pl.col("opened_at").first(), pl.col("closed_at").last()
    found = numbered.group_by("hole", maintain_order=True).agg(first, last, pl.len())
    return [
        Hole(Span(start.astimezone(UTC), end.astimezone(UTC)), count)
        for start, end, count in found.select("opened_at", "closed_at", "len").iter_rows()
    ]
