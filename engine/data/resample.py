"""Resampling of bars to a larger timeframe, on the grid of their calendar and from closed bars only."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, cast

from engine.core.errors import BadInput
from engine.core.market import Calendar, Timeframe
from engine.data.calendars import Span, grid
from engine.data.encoding import NUMBERS

if TYPE_CHECKING:
    import polars as pl


def resample(
    frame: pl.DataFrame, calendar: Calendar, of: Timeframe, to: Timeframe, known_at: datetime | None = None
) -> pl.DataFrame:
    """Resample bars of `of` to bars of `to`, in order: first open, highest high, lowest low, last close, total volume.

    frame: opened_at, closed_at (UTC, microseconds), open, high, low, close, volume (floats or decimals), with distinct
    opened_at. Rows that open at no bar of the grid of `of` are omitted.

    The result contains a bar if at least one of its parts exists and it has closed at `known_at` (default: the last
    close of the input). Later bars cannot change the result. Two more columns show if a bar is complete: `bars`, the
    number of its parts, and `expected`, the number of parts without a gap.

    Raise `BadInput` if bars of `of` do not fit into bars of `to`, and as `sessions` does.
    """
    import polars as pl

    _check_fit(of, to)
    first = cast("datetime | None", frame["opened_at"].min())
    last = cast("datetime | None", frame["closed_at"].max())
    if first is None or last is None:
        none = pl.lit(0, pl.UInt32)
        return frame.select("opened_at", "closed_at", *NUMBERS, bars=none, expected=none)
    around = Span(first - to.duration, last + to.duration)
    larger = grid(calendar, to, around).filter(pl.col("closed_at") <= (known_at or last))
    parts = (
        grid(calendar, of, around)
        .select("opened_at")
        .join_asof(larger.rename({"opened_at": "begins", "closed_at": "ends"}), left_on="opened_at", right_on="begins")
        .filter(pl.col("opened_at") < pl.col("ends"))
        .join(frame, on="opened_at", how="left", maintain_order="left")
    )
    has_bar = pl.col("open").is_not_null()
    bars = parts.group_by("begins", "ends", maintain_order=True).agg(
        pl.col("open").filter(has_bar).first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").filter(has_bar).last(),
        pl.col("volume").sum(),
        bars=has_bar.sum(),
        expected=pl.len(),
    )
    return bars.filter(pl.col("bars") > 0).rename({"begins": "opened_at", "ends": "closed_at"})


def fits_into(of: Timeframe, to: Timeframe) -> bool:
    """Return True if bars of `of` fit into those of `to`: any smaller timeframe does, except weeks into months."""
    return of.duration < to.duration and of is not Timeframe.W1


def _check_fit(of: Timeframe, to: Timeframe) -> None:
    if not fits_into(of, to):
        raise BadInput(f"bars of {of} do not fit into bars of {to}: use smaller ones, such as 1d for weeks and months.")
