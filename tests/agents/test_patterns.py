"""Each pattern is found where it is drawn, and its twin where the drawing is upside down."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.charting.indicators import Windows
from analysis.charting.patterns import DIRECTED, NEUTRAL, report_patterns
from analysis.charting.swings import SWING, find_swings, shapes
from analysis.reports import PatternName, PatternReport
from tests.support.frames import MIDDLE, corrupted_after, frame_of, mirrored, scaled, walk_frame

BARS = 61

# Closes by (bar, height); a height of 100 is about one mean true range.
DRAWINGS: dict[PatternName, list[tuple[int, int]]] = {
    PatternName.DOUBLE_BOTTOM: [(0, 900), (20, 0), (30, 450), (44, 20), (60, 330)],
    PatternName.INVERSE_HEAD_AND_SHOULDERS: [(0, 900), (12, 250), (20, 600), (31, 0), (41, 620), (50, 270), (60, 580)],
    PatternName.V_BOTTOM: [(0, 820), (42, 900), (51, 0), (60, 600)],
    PatternName.HIDDEN_BASE: [(0, 0), (30, 0), (57, 60), (58, 180), (60, 260)],
    PatternName.BULLISH_FLAG: [(0, 0), (36, 0), (48, 800), (60, 650)],
    PatternName.ASCENDING_TRIANGLE: [
        (0, 300),
        (8, 0),
        (18, 600),
        (28, 180),
        (38, 610),
        (46, 340),
        (54, 600),
        (60, 480),
    ],
    PatternName.FALLING_WEDGE: [(0, 900), (6, 1300), (16, 500), (27, 800), (36, 330), (44, 520), (52, 180), (60, 350)],
    PatternName.RECTANGLE: [(0, 500), (10, 0), (20, 600), (30, 20), (40, 610), (50, 0), (60, 300)],
    PatternName.SYMMETRICAL_TRIANGLE: [(0, 800), (6, 1000), (17, 100), (28, 850), (38, 250), (48, 700), (60, 480)],
    PatternName.EXPANDING_TRIANGLE: [(0, 500), (8, 350), (16, 600), (26, 200), (38, 750), (50, 50), (60, 400)],
}


def drawn(points: list[tuple[int, int]]) -> pl.DataFrame:
    bars, heights = zip(*points, strict=True)
    close = MIDDLE + np.round(np.interp(np.arange(BARS), bars, heights))
    return frame_of(close, above=28, below=28)


def rounded_bottom() -> pl.DataFrame:
    return frame_of(MIDDLE + np.concatenate((np.full(21, 800.0), (np.arange(40) - 20.0) ** 2 * 2)), above=20, below=20)


def island_bottom() -> pl.DataFrame:
    close = MIDDLE + np.concatenate((np.linspace(900, 300, 54).round(), np.full(5, 0.0), [320.0, 330.0]))
    frame = frame_of(close)
    return frame.with_columns(high=pl.col("close") + 15, low=pl.col("close") - 15, open=pl.col("close"))


ALL_DRAWINGS = {name: drawn(points) for name, points in DRAWINGS.items()} | {
    PatternName.ROUNDED_BOTTOM: rounded_bottom(),
    PatternName.ISLAND_BOTTOM: island_bottom(),
}


def seen(frame: pl.DataFrame) -> PatternReport:
    return report_patterns(Windows.of(frame, [frame.height - 1]))[0]


def turned(found: PatternReport) -> PatternReport:
    """The report that the same bars should give upside down."""
    primary = found.primary_pattern
    return found.model_copy(
        update={
            "patterns_detected": tuple(name.twin for name in found.patterns_detected),
            "primary_pattern": primary.twin if primary else None,
        }
    )


def test_every_name_of_the_catalogue_has_a_detector_and_a_drawing() -> None:
    assert DIRECTED.keys() | {name.twin for name in DIRECTED} | NEUTRAL.keys() == set(PatternName)
    assert ALL_DRAWINGS.keys() == DIRECTED.keys() | NEUTRAL.keys()


@pytest.mark.parametrize("name", ALL_DRAWINGS)
def test_a_drawn_pattern_is_the_primary_one_and_its_twin_is_upside_down(name: PatternName) -> None:
    found = seen(ALL_DRAWINGS[name])
    assert found.primary_pattern is name
    assert found.breakout_probability is not None
    assert seen(mirrored(ALL_DRAWINGS[name])) == turned(found)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60)
def test_prices_upside_down_turn_every_pattern_into_its_twin(seed: int) -> None:
    frame = walk_frame(seed, 300)
    ends = list(range(60, 300, 3))
    upright, inverted = (report_patterns(Windows.of(bars, ends)) for bars in (frame, mirrored(frame)))
    assert inverted == [turned(found) for found in upright]


@given(seed=st.integers(0, 10**6), factor=st.sampled_from([2.0**-10, 0.5, 2.0**20]))
@settings(max_examples=30)
def test_patterns_do_not_care_about_the_unit_of_price(seed: int, factor: float) -> None:
    frame = walk_frame(seed, 300)
    ends = list(range(60, 300, 5))
    assert report_patterns(Windows.of(scaled(frame, factor), ends)) == report_patterns(Windows.of(frame, ends))


@given(seed=st.integers(0, 10**6), end=st.integers(61, 250))
@settings(max_examples=40)
def test_patterns_depend_on_the_last_61_bars_only(seed: int, end: int) -> None:
    frame = walk_frame(seed, 300)
    assert report_patterns(Windows.of(corrupted_after(frame, end), [end])) == [seen(frame.slice(end - 60, 61))]


def test_random_walks_show_many_kinds_of_patterns_but_mostly_none() -> None:
    found = [
        each
        for seed in range(12)
        for each in report_patterns(Windows.of(walk_frame(seed, 500, trend=0.0), range(60, 500)))
    ]
    kinds = {name for each in found for name in each.patterns_detected}
    share = sum(each.primary_pattern is not None for each in found) / len(found)
    assert len(kinds) >= 15
    assert 0.05 < share < 0.4


@pytest.mark.parametrize("bars", [1, 30, 60])
def test_nothing_is_detected_with_fewer_than_61_bars(bars: int) -> None:
    assert seen(walk_frame(1, bars)) == PatternReport.model_validate({"confidence": "0"})


def test_nothing_is_detected_in_a_market_that_stands_still() -> None:
    assert seen(frame_of([100.0] * 80, above=0, below=0)).patterns_detected == ()


def test_the_nearer_the_breakout_the_likelier_it_is() -> None:
    points = DRAWINGS[PatternName.DOUBLE_BOTTOM][:-1]
    near, far = (seen(drawn([*points, (60, height)])) for height in (430, 250))
    assert near.primary_pattern is far.primary_pattern is PatternName.DOUBLE_BOTTOM
    assert near.breakout_probability is not None
    assert far.breakout_probability is not None
    assert near.breakout_probability > far.breakout_probability


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_swings_alternate_and_are_each_confirmed_by_a_move_back(seed: int) -> None:
    for shape in shapes(Windows.of(walk_frame(seed, 200), range(60, 200, 10))):
        assert shape is not None
        assert shape.close[-1] == 0
        turns = shape.swings
        for before, after in pairwise(turns):
            assert after.bar > before.bar
            assert abs(after.height - before.height) >= SWING
        for before, middle, after in zip(turns, turns[1:], turns[2:], strict=False):
            assert (middle.height > before.height) == (middle.height > after.height)


def test_a_zigzag_has_its_turns_where_they_are() -> None:
    assert [swing.bar for swing in find_swings([0.0, 2.0, 4.0, 3.5, 1.0, 1.0, 5.0, 4.9])] == [0, 2, 4]
