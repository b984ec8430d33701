"""Indicators are TA-Lib's, of one window and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import talib as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.charting.indicators import (
    Windows,
    defined_values,
    mean_true_range,
    ordered_sum,
    report_indicators,
    values,
)
from analysis.reports import IndicatorReport
from engine.core.errors import BadInput
from tests.support.frames import corrupted_after, frame_of, scaled, walk_frame

talib: Any = oracle  # It has no types.


def expected(frame: pl.DataFrame) -> dict[str, float]:
    """What TA-Lib itself says at the last of these bars."""
    high, low, close = (frame[name].to_numpy() for name in ("high", "low", "close"))
    macd, signal, histogram = talib.MACD(close, 12, 26, 9)
    k, d = talib.STOCH(high, low, close, 14, 3, 0, 3, 0)
    series = {
        "macd": macd,
        "macd_signal": signal,
        "macd_histogram": histogram,
        "stoch_k": k,
        "stoch_d": d,
        "rsi": talib.RSI(close, 14),
        "roc": talib.ROC(close, 10),
        "willr": talib.WILLR(high, low, close, 14),
        "atr": talib.ATR(high, low, close, 14),
        "ema_fast": talib.EMA(close, 50),
        "ema_slow": talib.EMA(close, 200),
    }
    return {name: float(column[-1]) for name, column in series.items()}


@given(seed=st.integers(0, 10**6), end=st.integers(0, 900), factor=st.sampled_from([1e-5, 1.0, 0.73]))
@settings(max_examples=60)
def test_indicators_equal_talibs_on_the_same_window_to_the_last_bit(seed: int, end: int, factor: float) -> None:
    frame = scaled(walk_frame(seed, 901), factor)
    ours = values(Windows.of(frame, [end])).row(0, named=True)
    theirs = expected(frame.slice(max(0, end - 499), min(end + 1, 500)))
    assert ours.keys() == theirs.keys()
    np.testing.assert_array_equal(list(ours.values()), list(theirs.values()))


@given(seed=st.integers(0, 10**6), ends=st.lists(st.integers(0, 700), min_size=1, max_size=40))
@settings(max_examples=30)
def test_many_windows_at_once_give_what_each_gives_alone(seed: int, ends: list[int]) -> None:
    frame = scaled(walk_frame(seed, 701), 0.0137)
    many = Windows.of(frame, ends)
    alone = [Windows.of(frame.slice(max(0, end - 499), min(end + 1, 500)), [min(end, 499)]) for end in ends]
    together = defined_values(many).to_numpy()
    np.testing.assert_array_equal(together, np.vstack([defined_values(window).to_numpy() for window in alone]))
    ranges = np.concatenate([mean_true_range(window, 60) for window in alone])
    np.testing.assert_array_equal(mean_true_range(many, 60), ranges)


def test_a_sum_does_not_depend_on_how_many_rows_are_summed() -> None:
    matrix = np.random.Generator(np.random.PCG64(7)).normal(size=(300, 61)) * 1e6
    np.testing.assert_array_equal(ordered_sum(matrix), np.concatenate([ordered_sum(row[np.newaxis]) for row in matrix]))


@pytest.mark.parametrize(
    ("bars", "ready"),
    [
        (1, set[str]()),
        (11, {"roc"}),
        (14, {"roc", "willr"}),
        (15, {"roc", "willr", "rsi", "atr"}),
        (18, {"roc", "willr", "rsi", "atr", "stoch_k", "stoch_d"}),
        (34, {"roc", "willr", "rsi", "atr", "stoch_k", "stoch_d", "macd", "macd_signal", "macd_histogram"}),
    ],
)
def test_what_is_still_warming_up_is_none_and_never_zero(bars: int, ready: set[str]) -> None:
    made = report_indicators(Windows.of(walk_frame(3, 40), [bars - 1]))[0]
    names = set(IndicatorReport.model_fields) - {"rsi_level", "trend_direction", "confidence"}
    assert {name for name in names if getattr(made, name) is not None} == ready
    assert (made.rsi_level == "unknown") == ("rsi" not in ready)
    assert made.trend_direction == "unknown"


def test_a_market_that_stands_still_is_neither_oversold_nor_overbought() -> None:
    moved_once = [100.0] * 5 + [120.0] * 445
    for close in ([100.0] * 450, moved_once):
        made = report_indicators(Windows.of(frame_of(close, above=0, below=0), [449]))[0]
        assert (made.rsi, made.stoch_k, made.stoch_d, made.willr) == (None, None, None, None)
        assert (made.rsi_level, made.roc) == ("unknown", 0)


@given(seed=st.integers(0, 10**6), factor=st.sampled_from([1e-4, 1.0, 1e4]))
@settings(max_examples=25)
def test_oscillators_do_not_care_about_the_unit_of_price(seed: int, factor: float) -> None:
    frame = walk_frame(seed, 320)
    ends = list(range(240, 320, 8))
    plain, other = (report_indicators(Windows.of(bars, ends)) for bars in (frame, scaled(frame, factor)))
    for a, b in zip(plain, other, strict=True):
        assert (a.rsi_level, a.trend_direction) == (b.rsi_level, b.trend_direction)
        for name in ("rsi", "stoch_k", "stoch_d", "willr", "roc", "confidence"):
            assert float(getattr(a, name)) == pytest.approx(float(getattr(b, name)), rel=1e-6, abs=1e-4), name


def test_the_slow_trend_follows_the_moving_averages() -> None:
    rising = frame_of([10_000.0 + 10 * n for n in range(300)])
    falling = frame_of([20_000.0 - 10 * n for n in range(300)])
    up, down = (report_indicators(Windows.of(frame, [299]))[0] for frame in (rising, falling))
    assert (up.trend_direction, down.trend_direction) == ("up", "down")
    # EMAs of a straight line lag by (n - 1) / 2 bars: a spread of 750, and a true range of 14.
    assert float(up.confidence) == pytest.approx(750 / 14 / (750 / 14 + 2), abs=0.01)


def test_bars_after_the_last_window_are_never_looked_at() -> None:
    frame = walk_frame(5, 400)
    assert report_indicators(Windows.of(corrupted_after(frame, 350), [300, 350])) == report_indicators(
        Windows.of(frame, [300, 350])
    )


def test_no_windows_give_no_reports() -> None:
    assert report_indicators(Windows.of(walk_frame(1, 30), [])) == []


@pytest.mark.parametrize(
    ("frame", "ends", "message"),
    [
        (walk_frame(1, 10).drop("high", "close"), [5], "lack the columns high, close"),
        (walk_frame(1, 10), [10], "cannot be analyzed: there are 10"),
        (walk_frame(1, 10), [-1], "cannot be analyzed: there are 10"),
        (walk_frame(1, 10).reverse(), [9], "out of order"),
        (pl.concat([walk_frame(1, 10), walk_frame(1, 10)]).sort("closed_at"), [9], "repeat"),
        (corrupted_after(walk_frame(1, 10), 4), [5], "not a finite number"),
    ],
)
def test_bars_that_cannot_be_used_are_refused_with_the_reason(
    frame: pl.DataFrame, ends: list[int], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        Windows.of(frame, ends)


def test_a_window_never_reaches_further_back_than_its_size() -> None:
    windows = Windows.of(walk_frame(1, 100), [99], size=40)
    assert windows.lengths.tolist() == [40]
    with pytest.raises(ValueError, match="no last 41 bars"):
        windows.tail(windows.close, 41)
