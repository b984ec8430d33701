"""Windows of bars, and TA-Lib indicators on many windows at once.

An analysis is a function of its window alone, so indicators restart in every window: values depend neither on earlier
history nor on the other windows of the batch. Sums therefore run bar by bar, because the order of numpy's reduction,
and so its last bits, depends on the shape of the array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_talib

from analysis.reports import IndicatorReport, RsiLevel, TrendDirection, proportion, significant
from engine.core.errors import BadInput
from engine.core.money import ZERO

WINDOW_BARS = 500
COLUMNS = ("closed_at", "high", "low", "close")

RSI_OVERSOLD, RSI_OVERBOUGHT = 30, 70
RANGE_BARS = 14  # Look-back of RSI, stochastic oscillator and Williams' %R.
STOCH_SMOOTHED_BARS = 5  # %D at a bar depends on the raw %K of that bar and the four before it.
SPREAD_HALF = 2.0  # EMA spread, in ATR, at which confidence in the slow trend is one half.
SIDEWAYS_BELOW = proportion(1 / 3)  # An EMA spread of less than 1 ATR.

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """The last `size` bars of one symbol up to and including each of `ends` (fewer if fewer exist).

    `high`, `low` and `close` hold `size` NaNs in place of missing bars, followed by the whole history.
    """

    high: FloatArray
    low: FloatArray
    close: FloatArray
    ends: npt.NDArray[np.int64]
    size: int

    @staticmethod
    def of(frame: pl.DataFrame, ends: Sequence[int], size: int = WINDOW_BARS) -> Windows:
        """Create windows of a frame of bars sorted by time; `ends` are row numbers of each window's last bar.

        Bars after the last end are dropped, so that they cannot influence a result. Raise `BadInput` if columns are
        missing, a row number does not exist, or bars are out of order, repeated or not finite.
        """
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise BadInput(
                f"the bars to analyze lack the columns {', '.join(missing)}: {', '.join(COLUMNS)} are required."
            )
        if len(ends) and not 0 <= min(ends) <= max(ends) < frame.height:
            raise BadInput(
                f"bars {min(ends)} to {max(ends)} cannot be analyzed: there are {frame.height}, numbered from 0."
            )
        known = frame.head(max(ends) + 1 if len(ends) else 0)
        if not known["closed_at"].is_sorted() or known["closed_at"].n_unique() < known.height:
            raise BadInput("the bars to analyze are out of order or repeated: sort them by closed_at, each time once.")
        high, low, close = (_padded(known[name], size) for name in ("high", "low", "close"))
        return Windows(high, low, close, np.asarray(ends, dtype=np.int64), size)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of existing bars of each window."""
        return np.minimum(self.ends + 1, self.size)

    def part(self, start: int, stop: int) -> Windows:
        """Return the windows from `start` up to, not including, `stop`; shares the bars."""
        return replace(self, ends=self.ends[start:stop])

    def tail(self, column: FloatArray, bars: int) -> FloatArray:
        """Return the last `bars` values of a column in each window, one row per window; NaN for missing bars."""
        if bars > self.size:
            raise ValueError(f"windows of {self.size} bars have no last {bars} bars")
        return np.lib.stride_tricks.sliding_window_view(column, bars)[self.ends + self.size - bars + 1]

    def stacked(self) -> pl.DataFrame:
        """Return all windows as one frame, keyed by `window`, without missing bars."""
        bars = self.ends[:, np.newaxis] + np.arange(1, self.size + 1)
        exist = bars >= self.size
        rows = bars[exist]
        key = np.repeat(np.arange(len(self), dtype=np.uint32), self.lengths)
        return pl.DataFrame({"window": key, "high": self.high[rows], "low": self.low[rows], "close": self.close[rows]})


def _padded(prices: pl.Series, size: int) -> FloatArray:
    values = prices.cast(pl.Float64).to_numpy()
    if not np.isfinite(values).all():
        raise BadInput(f"the bars to analyze have a {prices.name} that is not a finite number: repair or drop the bar.")
    return np.concatenate((np.full(size, np.nan), values))


def ordered_sum(matrix: FloatArray) -> FloatArray:
    """Return the sum of each row, added from left to right for any number of rows."""
    total = np.zeros(len(matrix))
    for column in np.ascontiguousarray(matrix.T):
        total += column
    return total


def mean_true_range(windows: Windows, bars: int) -> FloatArray:
    """Return the mean of the last `bars` true ranges, in units of price; NaN for windows below `bars + 1` bars."""
    high, low = windows.tail(windows.high, bars), windows.tail(windows.low, bars)
    before = windows.tail(windows.close, bars + 1)[:, :-1]
    return ordered_sum(np.maximum(high, before) - np.minimum(low, before)) / bars


def values(windows: Windows) -> pl.DataFrame:
    """Return TA-Lib's indicators at the last bar of each window, one row per window; NaN during warm-up.

    RSI(14), MACD(12, 26, 9), ROC(10), STOCH(14, 3, 3), WILLR(14), ATR(14), EMA(50), EMA(200).
    """
    high, low, close = pl.col("high"), pl.col("low"), pl.col("close")
    macd = _talib("macd", close, fastperiod=12, slowperiod=26, signalperiod=9).last().struct
    stoch = _talib("stoch", high, low, close, fastk_period=RANGE_BARS, slowk_period=3, slowd_period=3).last().struct
    return (
        windows.stacked()
        .group_by("window", maintain_order=True)
        .agg(
            macd.field("macd").alias("macd"),
            macd.field("macdsignal").alias("macd_signal"),
            macd.field("macdhist").alias("macd_histogram"),
            stoch.field("slowk").alias("stoch_k"),
            stoch.field("slowd").alias("stoch_d"),
            _talib("rsi", close, timeperiod=RANGE_BARS).last().alias("rsi"),
            _talib("roc", close, timeperiod=10).last().alias("roc"),
            _talib("willr", high, low, close, timeperiod=RANGE_BARS).last().alias("willr"),
            _talib("atr", high, low, close, timeperiod=14).last().alias("atr"),
            _talib("ema", close, timeperiod=50).last().alias("ema_fast"),
            _talib("ema", close, timeperiod=200).last().alias("ema_slow"),
        )
        .drop("window")
    )


def _talib(name: str, *inputs: pl.Expr, **parameters: int) -> pl.Expr:
    # polars-talib has no usable types.
    return cast(Callable[..., pl.Expr], getattr(polars_talib, name))(*inputs, **parameters)


def defined_values(windows: Windows) -> pl.DataFrame:
    """Return `values` with NaN where TA-Lib returns 0 for a division of zero by zero.

    In a market without movement RSI, stochastic oscillator and Williams' %R are undefined: TA-Lib's 0 would read as
    oversold, oversold and overbought.
    """
    closes = windows.tail(windows.close, RANGE_BARS + 1)
    highs = windows.tail(windows.high, RANGE_BARS + STOCH_SMOOTHED_BARS - 1)
    lows = windows.tail(windows.low, RANGE_BARS + STOCH_SMOOTHED_BARS - 1)
    no_range = _rolling(highs).max(axis=2) == _rolling(lows).min(axis=2)
    undefined = {
        "rsi": closes.max(axis=1) == closes.min(axis=1),
        "stoch_k": no_range.any(axis=1),
        "stoch_d": no_range.any(axis=1),
        "willr": no_range[:, -1],
    }
    return values(windows).with_columns(
        pl.when(pl.Series(where)).then(math.nan).otherwise(pl.col(name)).alias(name)
        for name, where in undefined.items()
    )


def _rolling(matrix: FloatArray) -> FloatArray:
    return np.lib.stride_tricks.sliding_window_view(matrix, RANGE_BARS, axis=1)


def report_indicators(windows: Windows) -> list[IndicatorReport]:
    """Return the indicator report of each window."""
    return [_report(row) for row in defined_values(windows).iter_rows(named=True)]


def _report(row: dict[str, float]) -> IndicatorReport:
    rsi = significant(row["rsi"])
    direction, confidence = _slow_trend(row["ema_fast"] - row["ema_slow"], row["atr"])
    return IndicatorReport(
        macd=significant(row["macd"]),
        macd_signal=significant(row["macd_signal"]),
        macd_histogram=significant(row["macd_histogram"]),
        rsi=rsi,
        rsi_level=_rsi_level(rsi),
        roc=significant(row["roc"]),
        stoch_k=significant(row["stoch_k"]),
        stoch_d=significant(row["stoch_d"]),
        willr=significant(row["willr"]),
        atr=significant(row["atr"]),
        trend_direction=direction,
        confidence=confidence,
    )


def _rsi_level(rsi: Decimal | None) -> RsiLevel:
    if rsi is None:
        return "unknown"
    return "oversold" if rsi <= RSI_OVERSOLD else "overbought" if rsi >= RSI_OVERBOUGHT else "neutral"


def _slow_trend(spread: float, atr: float) -> tuple[TrendDirection, Decimal]:
    """Return the direction of EMA(50) against EMA(200), and `d / (d + 2)` for a distance of d ATR between them."""
    if math.isnan(spread) or not atr > 0:
        return "unknown", ZERO
    distance = abs(spread) / atr
    confidence = proportion(distance / (distance + SPREAD_HALF))
    # Uses the rounded number, so that the direction agrees with the report.
    if confidence < SIDEWAYS_BELOW:
        return "sideways", confidence
    return ("up" if spread > 0 else "down"), confidence
