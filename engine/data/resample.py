"""Larger bars made of smaller ones, on the grid of their calendar. Nothing that is not closed enters."""

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
    """The bars of `to` that bars of `of` make up, in order: first open, highest high, lowest low, last close, sum of
    volumes.

    frame: opened_at, closed_at (UTC, microseconds), open, high, low, close, volume (floats or decimals), no opened_at
    twice. Rows that open where no bar of the grid of `of` does are left out.

    A bar is there if anything of it is, and if it is closed at `known_at`, which is the last input close unless given:
    nothing that closes later can change the answer. Two more columns tell whether a bar is whole: `bars`, how many it
    is made of, and `expected`, how many that would be without a hole.

    Raises `BadInput` if bars of `of` do not fit into bars of `to`, and as `sessions` does.
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
    """Parts of a session fit into larger ones and into sessions, sessions into weeks and months, weeks into nothing."""
    return of.duration < to.duration and of is not Timeframe.W1


def _check_fit(of: Timeframe, to: Timeframe) -> None:
    if not fits_into(of, to):
        raise BadInput(
            f"bars of {of} do not fit into bars of {to}: make them of smaller ones, weeks and months of 1d for example."
        )
