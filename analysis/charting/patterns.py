"""Detection of chart patterns in the last 60 closes by explicit geometry.

Each detector finds the bullish pattern; its bearish twin is the same detector on inverted prices. Definitions follow
the extrema sequences of Lo, Mamaysky and Wang (2000) where available, on swings instead of smoothed prices. All
lengths are in mean true ranges of the 60 bars. The thresholds are conventions, not fitted to returns. No look-ahead:
only the window's bars are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from math import fsum
from typing import NamedTuple

from analysis.charting.indicators import Windows
from analysis.charting.swings import EQUAL, LOOK_BACK, SWING, Channel, Shape, find_channel, shapes
from analysis.reports import PatternName, PatternReport, proportion
from engine.core.money import ZERO

SLOPED = 1.5  # A boundary that moves at least this much over the pattern rises or falls.
TALL = 3.0  # Minimum height of a reversal pattern.
IMPULSE = 5.0  # Minimum height of a flag's pole and of a V.
SIZE_HALF = 4.0  # Height at which a perfectly fitting pattern has a confidence of one half.


class PatternMatch(NamedTuple):
    """A detected pattern: height, misfit (0 perfect, 1 barely), and upper and lower level."""

    height: float
    misfit: float
    top: float
    bottom: float


def find_double_bottom(shape: Shape) -> PatternMatch | None:
    """Two lows at the same level, at least 8 bars apart, below a high at least 3 above, after a fall as large."""
    if not shape.last_swing_is_low or len(shape.swings) < 4:
        return None
    start, first, middle, second = shape.swings[-4:]
    uneven = abs(first.height - second.height)
    height = middle.height - max(first.height, second.height)
    apart = second.bar - first.bar >= 8
    if uneven > EQUAL or height < TALL or not apart or start.height < middle.height or middle.height < -SWING:
        return None
    return PatternMatch(height, uneven / EQUAL, middle.height, min(first.height, second.height))


def find_inverse_head_and_shoulders(shape: Shape) -> PatternMatch | None:
    """Three lows, the middle one lowest by at least 1, level shoulders and a level neckline, after a fall into it."""
    if not shape.last_swing_is_low or len(shape.swings) < 6:
        return None
    start, left, neck, head, second_neck, right = (swing.height for swing in shape.swings[-6:])
    neckline = (neck + second_neck) / 2
    uneven = max(abs(left - right), abs(neck - second_neck)) / SLOPED
    deep = min(left, right) - head >= EQUAL and neckline - head >= TALL
    if uneven > 1 or not deep or start < max(neck, second_neck) or neckline < -SWING:
        return None
    return PatternMatch(neckline - head, uneven, neckline, head)


def find_v_bottom(shape: Shape) -> PatternMatch | None:
    """A fall of at least 5 within 10 bars, at least half of it recovered within 10 bars."""
    if not shape.last_swing_is_low or len(shape.swings) < 2:
        return None
    start, low = shape.swings[-2:]
    fall, recovery = start.height - low.height, -low.height
    quick = low.bar - start.bar <= 10 and LOOK_BACK - 1 - low.bar <= 10
    if not quick or fall < IMPULSE or recovery < fall / 2:
        return None
    return PatternMatch(fall, max(0.0, 2 - 2 * recovery / fall), start.height, low.height)


def find_rounded_bottom(shape: Shape) -> PatternMatch | None:
    """A parabola that fits the last 40 closes (R squared at least 0.8) with its bottom in the middle third."""
    close = shape.close[-_ARC_BARS:]
    mean = fsum(close) / _ARC_BARS
    spread = fsum((price - mean) ** 2 for price in close)
    if spread == 0:
        return None
    tilt = fsum(map(float.__mul__, _ARC_TILT, close)) / _ARC_TILT_SQUARED
    bend = fsum(map(float.__mul__, _ARC_BEND, close)) / _ARC_BEND_SQUARED
    misfit = (1 - (tilt**2 * _ARC_TILT_SQUARED + bend**2 * _ARC_BEND_SQUARED) / spread) / 0.2
    if misfit > 1 or bend <= 0 or abs(tilt / (2 * bend)) > _ARC_BARS / 6:
        return None
    edge = (_ARC_BARS - 1) / 2
    rim_left, rim_right = (mean + tilt * x + bend * (x**2 - _ARC_MEAN_SQUARE) for x in (-edge, edge))
    bottom = mean - tilt**2 / (4 * bend) - bend * _ARC_MEAN_SQUARE
    height = min(rim_left, rim_right) - bottom
    return PatternMatch(height, misfit, rim_left, bottom) if height >= TALL else None


_ARC_BARS = 40
_ARC_TILT = [bar - (_ARC_BARS - 1) / 2 for bar in range(_ARC_BARS)]
_ARC_MEAN_SQUARE = fsum(x**2 for x in _ARC_TILT) / _ARC_BARS
_ARC_BEND = [x**2 - _ARC_MEAN_SQUARE for x in _ARC_TILT]
_ARC_TILT_SQUARED = fsum(x**2 for x in _ARC_TILT)
_ARC_BEND_SQUARED = fsum(x**2 for x in _ARC_BEND)


def find_hidden_base(shape: Shape) -> PatternMatch | None:
    """24 closes within a range of 3.5, and a breakout upwards by at least 1 in the 3 bars since."""
    base = shape.close[-27:-3]
    top, bottom = max(base), min(base)
    if top - bottom > 3.5 or top > -EQUAL:
        return None
    return PatternMatch(-bottom, (top - bottom) / 3.5, top, bottom)


def find_bullish_flag(shape: Shape) -> PatternMatch | None:
    """A rise of at least 5 in at most 15 bars, then 5 to 20 bars that drift sideways or down and keep half of it."""
    close = shape.close
    top = max(range(LOOK_BACK - 36, LOOK_BACK), key=close.__getitem__)
    flag = close[top + 1 :]
    if not 5 <= len(flag) <= 20:
        return None
    pole = close[top] - min(close[top - 15 : top])
    sag = close[top] - min(flag)
    half = len(flag) // 2
    drifts_down = fsum(flag[-half:]) <= fsum(flag[:half])
    if pole < IMPULSE or sag > pole / 2 or not drifts_down:
        return None
    return PatternMatch(pole, 2 * sag / pole, close[top], min(flag))


def find_island_bottom(shape: Shape) -> PatternMatch | None:
    """After a fall, 1 to 10 bars between a gap down and a gap up that is at most 3 bars old."""
    high, low = shape.high, shape.low
    for after in range(LOOK_BACK - 1, LOOK_BACK - 4, -1):
        if low[after] <= high[after - 1]:
            continue
        for first in range(after - 1, after - 11, -1):
            ceiling, shore = max(high[first:after]), min(low[first - 1], *low[after:])
            if ceiling >= shore:
                continue
            floor = min(low[first:after])
            fell = shape.close[first - 11] - shape.close[first - 1] >= EQUAL
            return PatternMatch(high[first - 1] - floor, 0.0, shore, floor) if fell else None
    return None


def find_ascending_triangle(shape: Shape) -> PatternMatch | None:
    """A horizontal upper and a rising lower boundary."""
    channel = find_channel(shape)
    if channel is None or abs(channel.upper_rise) > EQUAL or channel.lower_rise < SLOPED:
        return None
    return _bounded(channel, max(channel.misfit, abs(channel.upper_rise) / EQUAL))


def find_falling_wedge(shape: Shape) -> PatternMatch | None:
    """Two falling boundaries, the upper one faster: the width shrinks to at most two thirds."""
    channel = find_channel(shape)
    if channel is None or max(channel.upper_rise, channel.lower_rise) > -SLOPED:
        return None
    narrowing = channel.width_after / channel.width_before if channel.width_before > 0 else 1.0
    return _bounded(channel, max(channel.misfit, 1.5 * narrowing)) if narrowing <= 2 / 3 else None


def find_rectangle(shape: Shape) -> PatternMatch | None:
    """Two horizontal boundaries."""
    channel = find_channel(shape)
    if channel is None or max(abs(channel.upper_rise), abs(channel.lower_rise)) > EQUAL:
        return None
    return _bounded(channel, max(channel.misfit, abs(channel.upper_rise) / EQUAL, abs(channel.lower_rise) / EQUAL))


def find_symmetrical_triangle(shape: Shape) -> PatternMatch | None:
    """A falling upper and a rising lower boundary."""
    channel = find_channel(shape)
    if channel is None or channel.upper_rise > -SLOPED or channel.lower_rise < SLOPED:
        return None
    return _bounded(channel, channel.misfit)


def find_expanding_triangle(shape: Shape) -> PatternMatch | None:
    """A rising upper and a falling lower boundary."""
    channel = find_channel(shape)
    if channel is None or channel.upper_rise < SLOPED or channel.lower_rise > -SLOPED:
        return None
    return _bounded(channel, channel.misfit)


def _bounded(channel: Channel, misfit: float) -> PatternMatch:
    return PatternMatch(max(channel.width_before, channel.width_after), misfit, channel.upper, channel.lower)


Detector = Callable[[Shape], PatternMatch | None]

DIRECTED: dict[PatternName, Detector] = {
    PatternName.INVERSE_HEAD_AND_SHOULDERS: find_inverse_head_and_shoulders,
    PatternName.DOUBLE_BOTTOM: find_double_bottom,
    PatternName.ROUNDED_BOTTOM: find_rounded_bottom,
    PatternName.HIDDEN_BASE: find_hidden_base,
    PatternName.FALLING_WEDGE: find_falling_wedge,
    PatternName.ASCENDING_TRIANGLE: find_ascending_triangle,
    PatternName.BULLISH_FLAG: find_bullish_flag,
    PatternName.ISLAND_BOTTOM: find_island_bottom,
    PatternName.V_BOTTOM: find_v_bottom,
}
NEUTRAL: dict[PatternName, Detector] = {
    PatternName.RECTANGLE: find_rectangle,
    PatternName.SYMMETRICAL_TRIANGLE: find_symmetrical_triangle,
    PatternName.EXPANDING_TRIANGLE: find_expanding_triangle,
}


def report_patterns(windows: Windows) -> list[PatternReport]:
    """Return the pattern report of each window; empty with fewer than 61 bars."""
    return [_report(shape) if shape is not None else PatternReport(confidence=ZERO) for shape in shapes(windows)]


class _Detected(NamedTuple):
    name: PatternName
    confidence: Decimal
    breakout_probability: Decimal


def _report(shape: Shape) -> PatternReport:
    # Stable sort: patterns of equal confidence stay in the order of the catalogue.
    detected = sorted(_detect(shape), key=lambda pattern: pattern.confidence, reverse=True)
    if not detected:
        return PatternReport(confidence=ZERO)
    return PatternReport(
        patterns_detected=tuple(pattern.name for pattern in detected),
        primary_pattern=detected[0].name,
        confidence=detected[0].confidence,
        breakout_probability=detected[0].breakout_probability,
    )


def _detect(shape: Shape) -> Iterator[_Detected]:
    mirrored = shape.upside_down()
    for name, find in DIRECTED.items():
        twins = [
            _directed(each, found)
            for each, found in ((name, find(shape)), (name.twin, find(mirrored)))
            if found is not None
        ]
        # Twins exclude each other: the more confident one counts, and neither if they are equal.
        if len({pattern.confidence for pattern in twins}) == len(twins) > 0:
            yield max(twins, key=lambda pattern: pattern.confidence)
    for name, find in NEUTRAL.items():
        if (match := find(shape)) is not None:
            yield _neutral(name, match)


def _directed(name: PatternName, match: PatternMatch) -> _Detected:
    return _score_match(name, match, -match.bottom)


def _neutral(name: PatternName, match: PatternMatch) -> _Detected:
    return _score_match(name, match, max(match.top, -match.bottom))


def _score_match(name: PatternName, match: PatternMatch, distance: float) -> _Detected:
    """Return confidence and breakout probability of a match.

    Confidence is fit x size: `(1 - misfit / 2) x height / (height + 4)`. The breakout probability is an index, not a
    measured frequency: `0.5 + 0.5 x confidence x (2 x progress - 1)`, where progress is the close's position between
    the pattern's far side (0) and its breakout level (1).
    """
    confidence = (1 - match.misfit / 2) * match.height / (match.height + SIZE_HALF)
    progress = min(max(distance / (match.top - match.bottom), 0.0), 1.0)
    return _Detected(name, proportion(confidence), proportion(0.5 + 0.5 * confidence * (2 * progress - 1)))
