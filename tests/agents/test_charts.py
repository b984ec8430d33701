"""A chart shows the prices where they are, and its bytes follow from the bars in it and from nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from analysis.charting.charts import (
    DOWN,
    HEIGHT,
    PALE,
    RESISTANCE,
    SUPPORT,
    UP,
    WIDTH,
    pattern_chart,
    thumbnail,
    trend_chart,
)
from analysis.charting.indicators import Windows
from analysis.charting.snapshot import frame_from_snapshot as frame_of_snapshot
from analysis.charting.trend import resistance_lines, support_lines
from tests.support.chart_snapshots import snapshot_from
from tests.support.frames import frame_of, scaled, walk_frame
from tests.support.paths import ROOT

CHARTS = (pattern_chart, trend_chart)
BYTES_MAX = 30 * 1024

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def pixels(png: bytes) -> Pixels:
    with Image.open(BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def where(picture: Pixels, colour: str) -> Mask:
    """Which pixels have exactly this colour; the price axis with its tags, right of the plot, is left out."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    found = (picture == rgb).all(axis=2)
    found[:, right_edge(picture) :] = False
    found[:24] = False  # The names of the lines stand above the plot.
    return found


def right_edge(picture: Pixels) -> int:
    """The column of the price axis: the darkest one in the middle of the picture's height."""
    return int(np.argmin(picture[40:400].astype(int).sum(axis=(0, 2))))


class Seen(NamedTuple):
    """A candle as it is seen: its middle column, the rows of its top and bottom, and whether it is green."""

    column: float
    top: int
    bottom: int
    rises: bool


def candles_seen(picture: Pixels) -> list[Seen]:
    up, down = where(picture, UP), where(picture, DOWN)
    columns = np.flatnonzero((up | down).any(axis=0))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    seen: list[Seen] = []
    for group in groups:
        rows = np.flatnonzero((up | down)[:, group].any(axis=1))
        green = bool(up[:, group].sum() > down[:, group].sum())
        seen.append(Seen(float(group.mean()), int(rows[0]), int(rows[-1]), green))
    return seen


def line_through(x: npt.NDArray[np.floating[Any]], y: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Slope and height at 0 of the least-squares line."""
    slope, level = cast(list[float], np.polyfit(x, y, 1).tolist())
    return slope, level


def row_of(frame: pl.DataFrame, seen: list[Seen]) -> Callable[[float], float]:
    """Where a price is on the picture, told by the tops and bottoms of the candles."""
    shown = frame.tail(len(seen))
    prices = np.concatenate((shown["high"].to_numpy(), shown["low"].to_numpy()))
    rows = np.array([candle.top for candle in seen] + [candle.bottom for candle in seen], dtype=np.float64)
    unit = np.ptp(prices)
    slope, level = line_through((prices - prices[0]) / unit, rows)
    return lambda price: float(level + slope * (price - prices[0]) / unit)


# --- The same bars, the same bytes --------------------------------------------------------------------------------

DRAW = """
import sys
from hashlib import sha256
from analysis.charting.charts import pattern_chart, thumbnail, trend_chart
from tests.support.frames import walk_frame
frame = walk_frame(7, 120)
for png in (pattern_chart(frame), trend_chart(frame), thumbnail(trend_chart(frame))):
    print(sha256(png).hexdigest())
"""


def digests(frame: pl.DataFrame) -> list[str]:
    pictures = (pattern_chart(frame), trend_chart(frame), thumbnail(trend_chart(frame)))
    return [sha256(png).hexdigest() for png in pictures]


@pytest.mark.parametrize(
    "surroundings",
    [
        {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": "/dev/null/nowhere"},
        {"PYTHONHASHSEED": "77", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "MPLCONFIGDIR": "{settings}"},
    ],
    ids=["a home that cannot be written", "settings of somebody else's"],
)
def test_another_process_draws_the_same_bytes_and_says_nothing(surroundings: dict[str, str], tmp_path: Path) -> None:
    hostile = "font.size: 30\npath.sketch: 1, 100, 2\ntext.hinting: none\nfigure.autolayout: True\nsavefig.dpi: 10\n"
    (tmp_path / "matplotlibrc").write_text(hostile)
    given = {name: value.format(settings=tmp_path) for name, value in surroundings.items()}
    hidden = {"HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LANG"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-W", "error", "-c", DRAW]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=kept | given)
    assert told.stderr == ""
    assert told.stdout.split() == digests(walk_frame(7, 120))


def settings_of_somebody_elses() -> AbstractContextManager[None]:
    other = {"font.size": 40, "path.snap": False, "path.sketch": (2, 50, 2), "text.usetex": True}
    return cast(Any, matplotlib).rc_context(other)


def test_threads_at_once_draw_what_one_draws_alone() -> None:
    frames = [walk_frame(seed, 80) for seed in range(6)]
    alone = [draw(frame) for frame in frames for draw in CHARTS]
    with settings_of_somebody_elses(), ThreadPoolExecutor(4) as pool:
        before = dict(matplotlib.rcParams)
        together = [pool.submit(draw, frame) for frame in frames for draw in CHARTS]
        assert [each.result() for each in together] == alone
        assert dict(matplotlib.rcParams) == before
    assert len(set(alone)) == len(alone)


def test_settings_made_elsewhere_are_neither_obeyed_nor_changed() -> None:
    frame = walk_frame(3, 80)
    plain = digests(frame)
    with settings_of_somebody_elses():
        before = dict(matplotlib.rcParams)
        assert digests(frame) == plain
        assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), end=st.integers(1, 119))
@settings(max_examples=8)
def test_only_the_bars_shown_and_no_later_ones_make_the_picture(seed: int, end: int) -> None:
    bars = walk_frame(seed, 120)
    later = bars.with_columns(
        pl.when(pl.int_range(pl.len()) > end).then(pl.col(name) * 9).otherwise(pl.col(name)).alias(name)
        for name in ("open", "high", "low", "close")
    )
    ours, poisoned = (frame_of_snapshot(snapshot_from(frame.head(end + 1))) for frame in (bars, later))
    assert digests(ours) == digests(poisoned)
    assert pattern_chart(ours) == pattern_chart(ours.tail(40))
    assert trend_chart(ours) == trend_chart(ours.tail(50))


@pytest.mark.parametrize("draw", CHARTS)
@given(bar=st.integers(-39, 0), name=st.sampled_from(["high", "low", "close"]))
@settings(max_examples=8)
def test_one_price_that_moves_is_seen(draw: Callable[[pl.DataFrame], bytes], bar: int, name: str) -> None:
    frame = walk_frame(5, 60)
    last = frame.row(bar - 1, named=True)
    room = float(np.ptp(frame["close"].to_numpy())) / 20
    far_end = max(last["low"], last["high"], key=lambda price: abs(price - last["close"]))
    price = {"high": last["high"] + room, "low": last["low"] - room, "close": far_end}[name]
    here = pl.int_range(pl.len()) == frame.height - 1 + bar
    changed = frame.with_columns(pl.when(here).then(price).otherwise(pl.col(name)).alias(name))
    assert draw(changed) != draw(frame)


def test_a_picture_carries_nothing_but_itself() -> None:
    png = trend_chart(walk_frame(1, 60))
    chunks: list[bytes] = []
    at = 8
    while at < len(png):
        chunks.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4])
    assert set(chunks) == {b"IHDR", b"PLTE", b"IDAT", b"IEND"}


# --- Prices are where they are shown ------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), factor=st.sampled_from([1e-12, 1e-5, 1.0, 2e4]))
@settings(max_examples=12)
def test_candles_reach_from_low_to_high_in_their_colours(seed: int, factor: float) -> None:
    frame = scaled(walk_frame(seed, 90), factor)
    for draw, bars in ((pattern_chart, 40), (trend_chart, 50)):
        # Lines may hide a candle's end, so that of the trend chart only the colours are looked at.
        shown, seen = frame.tail(bars), candles_seen(pixels(draw(frame)))
        assert [candle.rises for candle in seen] == (shown["close"] >= shown["open"]).to_list()
    shown, seen = frame.tail(40), candles_seen(pixels(pattern_chart(frame)))
    row = row_of(frame, seen)
    for candle, high, low in zip(seen, shown["high"], shown["low"], strict=True):
        assert abs(candle.top - row(high)) <= 1.6
        assert abs(candle.bottom - row(low)) <= 1.6
    assert min(range(40), key=lambda bar: seen[bar].top) == shown["high"].arg_max()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_the_lines_run_under_the_lows_and_over_the_highs_to_their_levels(seed: int) -> None:
    frame = walk_frame(seed, 90)
    picture = pixels(trend_chart(frame))
    seen, windows = candles_seen(picture), Windows.of(frame, [89])
    row = row_of(frame, seen)
    candles = where(picture, UP) | where(picture, DOWN)
    for colour, lines, under in (
        (SUPPORT, support_lines(windows), True),
        (RESISTANCE, resistance_lines(windows), False),
    ):
        columns, middles = line_seen(picture, colour)
        for column, middle in zip(columns, middles, strict=True):
            rows = np.flatnonzero(candles[:, column])
            assert not rows.size or (middle >= rows.max() - 2 if under else middle <= rows.min() + 2)
        slope, level = line_through(columns - seen[-1].column, middles)
        first = slope * (seen[0].column - seen[-1].column) + level
        assert abs(level - row(lines.level[0])) <= 2.5
        assert abs(first - row(lines.level[0] - 49 * lines.slope[0])) <= 2.5


def line_seen(picture: Pixels, colour: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The columns of a line, without those in which it runs out of the plot, and its middle row in each."""
    drawn = where(picture, colour)
    columns = np.flatnonzero(drawn.any(axis=0) & ~drawn[:28].any(axis=0) & ~drawn[-32:].any(axis=0))
    return columns, np.array([np.flatnonzero(drawn[:, column]).mean() for column in columns])


@given(seed=st.integers(0, 10**6), factor=st.sampled_from([1.7e-12, 0.9e-5, 1.0, 3e4]))
@settings(max_examples=12)
def test_the_grid_stands_at_round_prices(seed: int, factor: float) -> None:
    frame = scaled(walk_frame(seed, 60), factor)
    picture = pixels(pattern_chart(frame))
    grid = where(picture, PALE)[:, : right_edge(picture)]
    heights = np.flatnonzero(grid.mean(axis=1) > 0.5)
    row = row_of(frame, candles_seen(picture))
    pixel = factor / (row(0.0) - row(factor))
    step = float(np.diff(heights).mean()) * pixel
    assert any(step == pytest.approx(unit, rel=0.02) for unit in ROUND)
    round_step = min(ROUND, key=lambda unit: abs(unit / step - 1))
    for height in heights:
        price = (row(0.0) - float(height)) * pixel
        assert abs(price - round(price / round_step) * round_step) <= 2 * pixel
    assert 3 <= len(heights) <= 12
    assert 20 <= heights.min() <= heights.max() <= HEIGHT - 26


ROUND = [unit * 10.0**power for unit in (1, 2, 5) for power in range(-15, 12)]


def test_a_chart_of_fewer_than_50_bars_has_no_lines() -> None:
    for bars, drawn in ((49, False), (50, True)):
        picture = pixels(trend_chart(walk_frame(1, bars)))
        assert where(picture, SUPPORT).any() == where(picture, RESISTANCE).any() == drawn
        assert (picture[:20] == 255).all() != drawn, "the names of the lines"


FLAT = frame_of([100.0] * 80, above=0, below=0)
FALL = frame_of([20_000.0] * 2 + [20_000.0 - 400 * n for n in range(46)] + [2_300.0] * 6)


@pytest.mark.parametrize("draw", CHARTS)
@pytest.mark.parametrize(
    "frame",
    [
        walk_frame(2, 1),
        walk_frame(2, 2),
        walk_frame(2, 45),
        FALL,
        scaled(walk_frame(2, 80), 2e-13),
        scaled(walk_frame(2, 80), 2e4),
        FLAT.head(1),
    ],
    ids=["1 bar", "2 bars", "45 bars", "a line below zero", "1e-8", "1e9", "1 price"],
)
def test_every_bar_of_any_window_is_on_a_picture_of_the_same_size(
    draw: Callable[[pl.DataFrame], bytes], frame: pl.DataFrame
) -> None:
    png = draw(frame)
    picture = pixels(png)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert len(png) <= BYTES_MAX
    assert len(candles_seen(picture)) == min(frame.height, 40 if draw is pattern_chart else 50)


def test_a_market_that_stands_still_is_a_row_of_dashes() -> None:
    seen = candles_seen(pixels(pattern_chart(FLAT)))
    assert len(seen) == 40
    assert {(candle.top, candle.bottom) for candle in seen} == {(seen[0].top, seen[0].top + 1)}


# --- Around the picture -------------------------------------------------------------------------------------------


def test_a_thumbnail_is_the_picture_at_a_quarter_of_its_size() -> None:
    png = trend_chart(walk_frame(1, 60))
    small = pixels(thumbnail(png))
    assert small.shape == (113, 200, 3)
    assert thumbnail(png) == thumbnail(png)
    whole = pixels(png)[:448].astype(float).reshape(112, 4, 200, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small[:112], whole, atol=1)


def test_the_plotting_library_is_loaded_by_the_first_picture_and_not_before() -> None:
    modules = "analysis.charting.charts, analysis.charting.chart_text, ui.cli"
    code = f"import sys, {modules}; print({{'matplotlib', 'PIL'}} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.strip() == "set()"
