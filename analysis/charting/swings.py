"""Shape of the last 60 bars: swings and channel, independent of scale and volatility.

Distances are in mean true ranges of those bars; heights are relative to the last close.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.charting.indicators import FloatArray, Windows, mean_true_range

LOOK_BACK = 60
SWING = 1.5  # Minimum retracement of the close that confirms a swing.
EQUAL = 1.0  # Levels within this distance count as equal.


class Swing(NamedTuple):
    """A turning point of the closes: bar, and height above the last close in mean true ranges."""

    bar: int
    height: float


@dataclass(frozen=True, slots=True)
class Shape:
    """The last 60 bars in mean true ranges above the last close (which is 0), and their swings."""

    high: list[float]
    low: list[float]
    close: list[float]
    swings: list[Swing]

    @property
    def last_swing_is_low(self) -> bool:
        return bool(self.swings) and self.swings[-1].height < 0

    def upside_down(self) -> Shape:
        return Shape(
            high=[-low for low in self.low],
            low=[-high for high in self.high],
            close=[-close for close in self.close],
            swings=[Swing(bar, -height) for bar, height in self.swings],
        )


def find_swings(close: list[float]) -> list[Swing]:
    """Return alternating highs and lows, each confirmed by a close `SWING` away; of equal closes the first counts."""
    swings: list[Swing] = []
    high = low = leg = 0
    for bar, price in enumerate(close):
        if price > close[high]:
            high = bar
        if price < close[low]:
            low = bar
        if leg <= 0 and price - close[low] >= SWING:
            swings.append(Swing(low, close[low]))
            leg, high = 1, bar
        elif leg >= 0 and close[high] - price >= SWING:
            swings.append(Swing(high, close[high]))
            leg, low = -1, bar
    return swings


def shapes(windows: Windows) -> Iterator[Shape | None]:
    """Yield the shape of each window; `None` with fewer than 61 bars or without price movement."""
    unit = mean_true_range(windows, LOOK_BACK)
    unit[unit == 0] = np.nan
    last = windows.tail(windows.close, 1)

    def heights(column: FloatArray) -> list[list[float]]:
        return ((windows.tail(column, LOOK_BACK) - last) / unit[:, np.newaxis]).tolist()

    rows = zip(unit.tolist(), heights(windows.high), heights(windows.low), heights(windows.close), strict=True)
    for size, high, low, close in rows:
        yield Shape(high, low, close, find_swings(close)) if size > 0 else None


class Channel(NamedTuple):
    """Two boundaries through the last five swings; rises are in mean true ranges over the span of the swings."""

    upper_rise: float
    lower_rise: float
    upper: float
    lower: float
    width_before: float
    width_after: float
    misfit: float


def find_channel(shape: Shape) -> Channel | None:
    """Return the boundaries of the last five swings, or None if they do not fit.

    The first and last of the three outer swings define a line that the middle one must fit; the close must be inside.
    """
    if len(shape.swings) < 5:
        return None
    swings = shape.swings[-5:]
    outer, inner = _line(swings[0], swings[4]), _line(swings[1], swings[3])
    off = abs(swings[2].height - outer(swings[2].bar))
    first, last = swings[0].bar, swings[4].bar
    upper, lower = (inner, outer) if shape.last_swing_is_low else (outer, inner)
    now = LOOK_BACK - 1
    inside = lower(now) - EQUAL <= 0 <= upper(now) + EQUAL and upper(now) > lower(now)
    if off > EQUAL or not inside:
        return None
    return Channel(
        upper_rise=upper(last) - upper(first),
        lower_rise=lower(last) - lower(first),
        upper=upper(now),
        lower=lower(now),
        width_before=upper(first) - lower(first),
        width_after=upper(last) - lower(last),
        misfit=off / EQUAL,
    )


def _line(a: Swing, b: Swing) -> Callable[[int], float]:
    slope = (b.height - a.height) / (b.bar - a.bar)
    return lambda bar: a.height + slope * (bar - a.bar)
