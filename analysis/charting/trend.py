"""Recent trend of each window: a least-squares line, and support and resistance lines around the bars.

Inverted prices (p -> 2c - p) invert every result. No look-ahead: only the window's last bars are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from analysis.charting.indicators import FloatArray, Windows, mean_true_range, ordered_sum
from analysis.reports import Price, TrendDirection, TrendReport, proportion, significant
from engine.core.money import ZERO

FIT_BARS = 50
MOVE_HALF = 5.0  # Rise of the fitted line, in mean true ranges, with half of the maximum strength.
SIDEWAYS_BELOW = proportion(0.4)

_MIDDLE = (FIT_BARS - 1) / 2
_POSITIONS = np.arange(FIT_BARS) - _MIDDLE


@dataclass(frozen=True, eq=False, slots=True)
class Lines:
    """One straight line per window: price at the last bar and slope in price per bar; NaN if unknown."""

    level: FloatArray
    slope: FloatArray


def support_lines(windows: Windows) -> Lines:
    """Return the line on or below the lows of the last 50 bars that has the least total distance to them."""
    return _line_below(windows.tail(windows.low, FIT_BARS))


def resistance_lines(windows: Windows) -> Lines:
    """Return the line on or above the highs of the last 50 bars that has the least total distance to them."""
    mirrored = _line_below(-windows.tail(windows.high, FIT_BARS))
    return Lines(-mirrored.level, -mirrored.slope)


def _line_below(points: FloatArray) -> Lines:
    # The total distance to the points depends only on the line's height in the middle. So the best line is the edge of
    # the lower convex hull at the middle: of all chords across the middle, the one that is lowest there.
    half = FIT_BARS // 2
    left, right = np.arange(half)[:, np.newaxis], np.arange(half, FIT_BARS)
    before, after = points[:, :half, np.newaxis], points[:, np.newaxis, half:]
    rise = (after - before) / (right - left)
    height = before + rise * (_MIDDLE - left)
    every, chord = np.arange(len(points)), height.reshape(len(points), -1).argmin(axis=1)
    slope, touched = rise.reshape(len(points), -1)[every, chord], half + chord % half
    level = points[every, touched] + slope * (FIT_BARS - 1 - touched)
    unknown = np.isnan(points[:, 0])
    return Lines(np.where(unknown, np.nan, level), np.where(unknown, np.nan, slope))


def fitted_lines(windows: Windows) -> tuple[Lines, FloatArray]:
    """Return the least-squares line through the last 50 closes and its R squared (NaN for constant closes)."""
    closes = windows.tail(windows.close, FIT_BARS)
    last = closes[:, -1]
    # Relative to the last close: squares of absolute prices would lose precision.
    y = closes - last[:, np.newaxis]
    mean = ordered_sum(y) / FIT_BARS
    covered = ordered_sum(y * _POSITIONS)
    spread = ordered_sum((y - mean[:, np.newaxis]) ** 2)
    positions = float(_POSITIONS @ _POSITIONS)
    slope = covered / positions
    r_squared = np.divide(covered * slope, spread, out=np.full(len(windows), np.nan), where=spread > 0)
    return Lines(last + mean + slope * _MIDDLE, slope), r_squared


def report_trends(windows: Windows) -> list[TrendReport]:
    """Return the trend report of each window; unknown with fewer than 51 bars.

    trend_strength is R squared x m / (m + 5), where m is the rise or fall of the fitted line over its 50 bars in
    mean true ranges. Below 0.4 the trend is sideways.
    """
    fitted, r_squared = fitted_lines(windows)
    unit = mean_true_range(windows, FIT_BARS)
    columns = (support_lines(windows).level, resistance_lines(windows).level, fitted.slope, r_squared, unit)
    return [_report(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _report(support: float, resistance: float, slope: float, r_squared: float, unit: float) -> TrendReport:
    if not unit >= 0:
        return TrendReport()
    direction, strength = _direction(slope, r_squared, unit)
    return TrendReport(
        support_level=_price(support),
        resistance_level=_price(resistance),
        trend_direction=direction,
        trend_strength=strength,
    )


def _price(level: float) -> Price | None:
    # A steep line may reach below zero, which is no price.
    price = significant(level)
    return price if price is not None and price > 0 else None


def _direction(slope: float, r_squared: float, unit: float) -> tuple[TrendDirection, Decimal]:
    if not r_squared >= 0 or unit == 0:
        return "sideways", ZERO
    move = abs(slope) * (FIT_BARS - 1) / unit
    strength = proportion(r_squared * move / (move + MOVE_HALF))
    if strength < SIDEWAYS_BELOW:
        return "sideways", strength
    return ("up" if slope > 0 else "down"), strength
