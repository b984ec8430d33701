"""Snapshot: the bars of one window as JSON, the only market data of the agents.

It is stored in the graph's state and checkpoints; prices keep their exact spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
from typing_extensions import TypedDict

from engine.core.market import Bar, Timeframe

SnapshotRow = list[str]
"""closed_at, open, high, low, close, volume."""


class Snapshot(TypedDict):
    """One window of bars, oldest first, that ends with the bar just closed."""

    symbol: str
    timeframe: str
    rows: list[SnapshotRow]


def snapshot_of(bars: Sequence[Bar], timeframe: Timeframe) -> Snapshot:
    """Return the snapshot of a window's bars, all of one symbol."""
    return Snapshot(symbol=bars[-1].symbol, timeframe=timeframe.value, rows=[_row(bar) for bar in bars])


def frame_from_snapshot(snapshot: Snapshot) -> pl.DataFrame:
    """Return a snapshot as a frame of floats: closed_at, open, high, low, close, volume."""
    names = ("open", "high", "low", "close", "volume")
    rows = snapshot["rows"]
    prices = {name: [float(row[column]) for row in rows] for column, name in enumerate(names, 1)}
    closed_at = pl.Series("closed_at", [close_time(row) for row in rows], pl.Datetime("us", "UTC"))
    return pl.DataFrame({"closed_at": closed_at, **prices})


def close_time(row: SnapshotRow) -> datetime:
    """Return the instant at which the bar of a row closed."""
    return datetime.fromisoformat(row[0]).astimezone(UTC)


def _row(bar: Bar) -> SnapshotRow:
    numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
    return [bar.closed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ"), *(f"{number:f}" for number in numbers)]
