"""Frames of bars for the tests of `analysis`: prices are whole numbers, so that turning them upside down is exact."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MIDDLE = 50_000.0


def frame_of(
    close: Sequence[float] | npt.NDArray[np.float64], above: Sequence[int] | int = 2, below: Sequence[int] | int = 2
) -> pl.DataFrame:
    """Hourly bars that open at the close before; wicks reach `above` and `below` the body."""
    closes = np.asarray(close, dtype=np.float64)
    opens = np.concatenate((closes[:1], closes[:-1]))
    opened = pl.Series([FIRST + n * HOUR for n in range(len(closes))], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {
            "opened_at": opened,
            "closed_at": opened + HOUR,
            "open": opens,
            "high": np.maximum(opens, closes) + np.asarray(above),
            "low": np.minimum(opens, closes) - np.asarray(below),
            "close": closes,
            "volume": np.ones(len(closes)),
        }
    )


def walk_frame(seed: int, count: int, trend: float = 12.0) -> pl.DataFrame:
    """A random walk around 50,000 whose drift changes every 150 bars; `trend` 0 switches the drift off."""
    random = np.random.Generator(np.random.PCG64(seed))
    drift = np.repeat(random.choice([-1.0, 0.0, 1.0], count // 150 + 1), 150)[:count] * trend
    close = MIDDLE + np.round(np.cumsum(random.normal(drift, 30.0)))
    above, below = random.integers(0, 25, (2, count)).tolist()
    return frame_of(close, above, below)


def mirrored(frame: pl.DataFrame) -> pl.DataFrame:
    """The same bars with every price p at 2 x 50,000 - p."""
    mirrored_columns = {"open": "open", "high": "low", "low": "high", "close": "close"}
    return frame.with_columns((2 * MIDDLE - frame[source]).alias(name) for name, source in mirrored_columns.items())


def scaled(frame: pl.DataFrame, factor: float) -> pl.DataFrame:
    return frame.with_columns(pl.col("open", "high", "low", "close") * factor)


def corrupted_after(frame: pl.DataFrame, after: int) -> pl.DataFrame:
    """The same bars up to row `after`, and nonsense from there on."""
    later = pl.int_range(pl.len()) > after
    return frame.with_columns(
        pl.when(later).then(float("nan")).otherwise(pl.col(name)).alias(name)
        for name in ("open", "high", "low", "close")
    )
