"""The same facts as text: exact, bounded, of the window alone, and agreeing with the reports' own numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.charting import trend
from analysis.charting.chart_text import TEXT_MAX, bars_table, lines_text, swings_text
from analysis.charting.indicators import Windows
from analysis.charting.snapshot import Snapshot
from analysis.charting.snapshot import frame_from_snapshot as frame_of_snapshot
from analysis.charting.swings import shapes
from analysis.reports import significant
from tests.support.chart_snapshots import snapshot_from
from tests.support.frames import MIDDLE, frame_of, mirrored, scaled, walk_frame

seeds = st.integers(0, 10**6)


def told(text: str) -> dict[str, Any]:
    return json.loads(text)


def all_texts(snapshot: Snapshot) -> list[str]:
    frame = frame_of_snapshot(snapshot)
    return [bars_table(snapshot, 60), lines_text(frame), swings_text(frame)]


@given(seed=seeds, end=st.integers(0, 119))
@settings(max_examples=20)
def test_bars_after_the_snapshot_change_no_text(seed: int, end: int) -> None:
    bars = walk_frame(seed, 120)
    later = pl.concat([bars.head(end + 1), scaled(bars.tail(119 - end), 7)])
    assert all_texts(snapshot_from(bars.head(end + 1))) == all_texts(snapshot_from(later.head(end + 1)))


@given(seed=seeds, bars=st.integers(1, 130), factor=st.sampled_from([1e-12, 1.0, 3e9]))
@settings(max_examples=30)
def test_texts_are_bounded_and_name_neither_symbol_nor_date(seed: int, bars: int, factor: float) -> None:
    frame = scaled(walk_frame(seed, bars), factor)
    for text in all_texts(snapshot_from(frame, symbol="SECRET.1")):
        assert len(text) < TEXT_MAX
        assert "SECRET" not in text
        assert "2024" not in text


def test_even_a_saw_with_a_swing_at_every_other_bar_fits() -> None:
    saw = frame_of([100_000.123456 + (0, 1, 2, 1)[n % 4] * 54_321.987654 for n in range(100)])
    made = told(swings_text(saw))
    assert len(made["swings"]) > 25
    assert len(swings_text(saw)) < TEXT_MAX


# --- Bars ---------------------------------------------------------------------------------------------------------


def test_bars_are_spelled_as_they_are_stored_and_numbered_back_from_the_last() -> None:
    numbers = ["0.000000012300", "0.5", "100", "7.10", "1000000000.00"]
    rows = [[f"2024-01-01T0{hour}:00Z", *numbers] for hour in range(4)]
    snapshot = Snapshot(symbol="X", timeframe="1h", rows=rows)
    line = ",".join(numbers)
    assert bars_table(snapshot, 3).splitlines() == [
        "bar,open,high,low,close,volume",
        f"-2,{line}",
        f"-1,{line}",
        f"0,{line}",
    ]
    assert bars_table(snapshot, 9).splitlines()[1] == f"-3,{line}"
    assert bars_table(snapshot, 0) == "bar,open,high,low,close,volume"


@given(digits=st.integers(1, 400))
def test_of_bars_too_long_to_fit_the_oldest_are_left_out(digits: int) -> None:
    rows = [["2024-01-01T00:00Z", *([f"{n}." + "1" * digits] * 5)] for n in range(60)]
    table = bars_table(Snapshot(symbol="X", timeframe="1h", rows=rows), 60)
    header, *lines = table.splitlines()
    assert len(table) < TEXT_MAX
    assert header.startswith("bar,open")
    assert lines[-1].startswith("0,59.1")
    assert len(lines) == 60 or len(table) + len(lines[0]) + 3 >= TEXT_MAX - 10


# --- Lines --------------------------------------------------------------------------------------------------------


@given(seed=seeds, bars=st.integers(51, 300))
@settings(max_examples=30)
def test_lines_are_those_of_the_trend_report(seed: int, bars: int) -> None:
    frame = walk_frame(seed, bars)
    windows = Windows.of(frame, [bars - 1])
    report, made = trend.report_trends(windows)[0], told(lines_text(frame))
    assert made["support"]["level"] == str(report.support_level)
    assert made["resistance"]["level"] == str(report.resistance_level)
    assert Decimal(made["support"]["slope_per_bar"]) == significant(trend.support_lines(windows).slope[0])
    away = (float(made["last_close"]) - float(made["support"]["level"])) / float(made["atr_14"])
    assert float(made["support"]["distance_in_atr"]) == pytest.approx(away, rel=1e-5, abs=1e-5)
    assert Decimal(made["resistance"]["distance_in_atr"]) >= 0


@given(seed=seeds)
@settings(max_examples=30)
def test_prices_upside_down_swap_support_and_resistance(seed: int) -> None:
    frame = walk_frame(seed, 120)
    plain, turned = told(lines_text(frame)), told(lines_text(mirrored(frame)))
    for ours, theirs in (("support", "resistance"), ("resistance", "support")):
        a, b = ({name: float(value) for name, value in made.items()} for made in (plain[ours], turned[theirs]))
        assert b["level"] == pytest.approx(2 * MIDDLE - a["level"], abs=0.01)
        assert b["slope_per_bar"] == pytest.approx(-a["slope_per_bar"], rel=1e-6, abs=1e-6)
        assert b["distance_in_atr"] == pytest.approx(a["distance_in_atr"], rel=1e-4, abs=1e-4)


def test_lines_that_are_unknown_are_null() -> None:
    nothing = {"level": None, "slope_per_bar": None, "distance_in_atr": None}
    short = told(lines_text(walk_frame(1, 49)))
    assert (short["support"], short["resistance"]) == (nothing, nothing)
    assert told(lines_text(walk_frame(1, 5)))["atr_14"] is None
    still = told(lines_text(frame_of([100.0] * 80, above=0, below=0)))
    assert still["support"] == still["resistance"] == {"level": "100", "slope_per_bar": "0", "distance_in_atr": None}


def test_a_support_below_zero_is_no_price() -> None:
    fall = [20_000.0] * 2 + [20_000.0 - 400 * n for n in range(46)] + [2_300.0] * 6
    made = told(lines_text(frame_of(fall)))
    assert (made["support"]["level"], made["support"]["distance_in_atr"]) == (None, None)
    assert made["resistance"]["level"] == "2302"


# --- Swings -------------------------------------------------------------------------------------------------------


@given(seed=seeds)
@settings(max_examples=30)
def test_swings_are_closes_that_take_turns(seed: int) -> None:
    frame = walk_frame(seed, 150, trend=0)
    closes = frame["close"].to_list()
    (shape,) = shapes(Windows.of(frame, [149]))
    assert shape is not None
    made = told(swings_text(frame))["swings"]
    assert [swing["bar"] for swing in made] == [swing.bar - 59 for swing in shape.swings]
    for swing in made:
        assert Decimal(swing["close"]) == significant(closes[149 + swing["bar"]])
    for one, other in pairwise(made):
        assert {one["kind"], other["kind"]} == {"high", "low"}
        assert (one["kind"] == "high") == (float(one["close"]) > float(other["close"]))
    if made:
        assert (made[-1]["kind"] == "low") == (float(made[-1]["close"]) < closes[-1])


def test_the_extremes_are_those_of_the_bars_and_not_of_the_closes() -> None:
    frame = walk_frame(4, 100).tail(60)
    made = told(swings_text(frame))
    top, bottom = made["highest"], made["lowest"]
    assert (top["high"], bottom["low"]) == (f"{frame['high'].max():.0f}", f"{frame['low'].min():.0f}")
    assert frame["high"][59 + top["bar"]] == float(top["high"])
    assert frame["low"][59 + bottom["bar"]] == float(bottom["low"])


@pytest.mark.parametrize("frame", [walk_frame(1, 1), walk_frame(1, 60), frame_of([100.0] * 80, above=0, below=0)])
def test_swings_that_cannot_be_told_are_null(frame: pl.DataFrame) -> None:
    made = told(swings_text(frame))
    assert made["swings"] is None
    assert made["bars"] == min(frame.height, 60)
