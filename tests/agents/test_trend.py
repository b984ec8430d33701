"""The lines are what their definitions say, and the trend is what the lines say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.charting.indicators import Windows
from analysis.charting.trend import FIT_BARS, fitted_lines, report_trends, resistance_lines, support_lines
from analysis.reports import TrendReport
from tests.support.frames import MIDDLE, corrupted_after, frame_of, mirrored, scaled, walk_frame

OPPOSITE = {"up": "down", "down": "up", "sideways": "sideways", "unknown": "unknown"}
POSITIONS = np.arange(FIT_BARS) - (FIT_BARS - 1)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_the_fitted_line_is_the_least_squares_line(seed: int) -> None:
    frame = walk_frame(seed, 120)
    lines, r_squared = fitted_lines(Windows.of(frame, [119]))
    closes = frame["close"].to_numpy()[-FIT_BARS:]
    slope, level = np.polyfit(POSITIONS, closes, 1)
    assert lines.slope[0] == pytest.approx(slope, rel=1e-6, abs=1e-6)
    assert lines.level[0] == pytest.approx(level, rel=1e-9)
    assert r_squared[0] == pytest.approx(np.corrcoef(POSITIONS, closes)[0, 1] ** 2, abs=1e-9)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_no_bar_crosses_the_lines_and_each_line_touches_two_bars(seed: int) -> None:
    frame = walk_frame(seed, 120)
    windows = Windows.of(frame, [119])
    support, resistance = support_lines(windows), resistance_lines(windows)
    over = frame["low"].to_numpy()[-FIT_BARS:] - (support.level[0] + support.slope[0] * POSITIONS)
    under = (resistance.level[0] + resistance.slope[0] * POSITIONS) - frame["high"].to_numpy()[-FIT_BARS:]
    for distance in (over, under):
        assert distance.min() > -1e-6
        assert (distance < 1e-6).sum() >= 2


@given(seed=st.integers(0, 10**6), tilt=st.floats(-50, 50))
@settings(max_examples=60)
def test_no_other_line_below_the_lows_is_closer_to_them(seed: int, tilt: float) -> None:
    frame = walk_frame(seed, 120)
    support = support_lines(Windows.of(frame, [119]))
    lows = frame["low"].to_numpy()[-FIT_BARS:]
    other_slope = support.slope[0] + tilt
    other = (lows - other_slope * POSITIONS).min() + other_slope * POSITIONS
    ours = support.level[0] + support.slope[0] * POSITIONS
    assert (lows - ours).sum() <= (lows - other).sum() + 1e-6


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_trying_every_pair_of_bars_finds_no_closer_line_than_ours(seed: int) -> None:
    frame = walk_frame(seed, 120)
    windows = Windows.of(frame, [119])
    low, high = frame["low"].to_numpy()[-FIT_BARS:], frame["high"].to_numpy()[-FIT_BARS:]
    for line, points, side in ((support_lines(windows), low, 1), (resistance_lines(windows), high, -1)):
        left, right = np.triu_indices(FIT_BARS, 1)
        slopes = (points[right] - points[left]) / (right - left)
        over = side * (
            points - points[right, np.newaxis] - slopes[:, np.newaxis] * (POSITIONS - POSITIONS[right, None])
        )
        totals = np.where((over > -1e-6).all(axis=1), over.sum(axis=1), np.inf)
        ours = side * (points - line.level[0] - line.slope[0] * POSITIONS)
        assert ours.min() > -1e-6
        assert ours.sum() == pytest.approx(totals.min(), rel=1e-9, abs=1e-6)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_prices_upside_down_swap_support_and_resistance_and_turn_the_trend(seed: int) -> None:
    frame = walk_frame(seed, 200)
    ends = range(20, 200, 7)
    for a, b in zip(
        report_trends(Windows.of(frame, ends)), report_trends(Windows.of(mirrored(frame), ends)), strict=True
    ):
        assert b.trend_direction == OPPOSITE[a.trend_direction]
        assert b.trend_strength == a.trend_strength
        if a.support_level is not None and b.resistance_level is not None:
            assert float(b.resistance_level) == pytest.approx(2 * MIDDLE - float(a.support_level), abs=0.01)


@given(seed=st.integers(0, 10**6), factor=st.sampled_from([1e-5, 1e3]))
@settings(max_examples=30)
def test_the_trend_does_not_care_about_the_unit_of_price(seed: int, factor: float) -> None:
    frame = walk_frame(seed, 200)
    ends = range(60, 200, 7)
    for a, b in zip(
        report_trends(Windows.of(frame, ends)), report_trends(Windows.of(scaled(frame, factor), ends)), strict=True
    ):
        assert a.trend_strength is not None
        assert b.trend_strength is not None
        assert float(b.trend_strength) == pytest.approx(float(a.trend_strength), abs=2e-4)


@given(seed=st.integers(0, 10**6), end=st.integers(0, 140))
@settings(max_examples=40)
def test_a_trend_depends_on_the_last_51_bars_only(seed: int, end: int) -> None:
    frame = walk_frame(seed, 150)
    start = max(0, end - 50)
    recent = frame.slice(start, end - start + 1)
    assert report_trends(Windows.of(corrupted_after(frame, end), [end])) == report_trends(
        Windows.of(recent, [end - start])
    )


def test_a_straight_rise_is_an_up_trend_between_lines_that_rise_with_it() -> None:
    frame = frame_of([10_000.0 + 10 * n for n in range(80)], above=5, below=5)
    made = report_trends(Windows.of(frame, [79]))[0]
    assert made.trend_direction == "up"
    # The line rises 490 over 50 bars whose true range is 20; R squared is 1.
    assert float(made.trend_strength or 0) == pytest.approx(24.5 / (24.5 + 5), abs=1e-4)
    # A bar opens at the close before, so its low is 15 below its close and its high 5 above.
    assert (made.support_level, made.resistance_level) == (10_790 - 15, 10_790 + 5)


def test_a_market_that_stands_still_goes_sideways() -> None:
    made = report_trends(Windows.of(frame_of([100.0] * 80, above=0, below=0), [79]))[0]
    assert (made.trend_direction, made.trend_strength) == ("sideways", 0)
    assert (made.support_level, made.resistance_level) == (100, 100)


def test_a_trend_is_unknown_with_fewer_than_51_bars() -> None:
    windows = Windows.of(walk_frame(1, 60), [0, 48, 49, 50])
    *short, enough = report_trends(windows)
    assert short == [TrendReport()] * 3
    assert enough.trend_strength is not None
    assert np.isnan(support_lines(windows).level).tolist() == [True, True, False, False]


def test_a_support_below_zero_is_no_price() -> None:
    # A steep fall that has just ended: the line under it points below zero.
    fall = [20_000.0] * 2 + [20_000.0 - 400 * n for n in range(46)] + [2_300.0] * 6
    made = report_trends(Windows.of(frame_of(fall), [53]))[0]
    assert made.support_level is None
    assert (made.resistance_level, made.trend_direction) == (2_302, "down")
