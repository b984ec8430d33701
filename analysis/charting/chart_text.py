"""Charts as text: for models without vision, and in addition to images for models with it.

Bars are numbered from the last one: 0 is the last, -1 the one before. Symbol and dates are omitted, because a model
may remember what happened then. Every text is a function of the window and shorter than `TEXT_MAX` characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import polars as pl

from analysis.charting.indicators import Windows, defined_values
from analysis.charting.snapshot import Snapshot
from analysis.charting.swings import LOOK_BACK, Shape, shapes
from analysis.charting.trend import FIT_BARS, Lines, resistance_lines, support_lines
from analysis.reports import significant

TEXT_MAX = 6_000

_HEADER = "bar,open,high,low,close,volume"


def bars_table(snapshot: Snapshot, bars: int) -> str:
    """Return the last bars as CSV with a header, oldest first, with numbers as stored.

    If the text would exceed `TEXT_MAX`, the oldest bars are omitted.
    """
    rows = snapshot["rows"][-bars:] if bars > 0 else []
    lines = [",".join((str(bar), *row[1:])) for bar, row in enumerate(rows, 1 - len(rows))]
    while sum(map(len, (_HEADER, *lines))) + len(lines) >= TEXT_MAX:
        del lines[0]
    return "\n".join((_HEADER, *lines))


def lines_text(frame: pl.DataFrame) -> str:
    """Return support and resistance of the last 50 bars as JSON: the numbers of the lines in the trend chart.

    A line has its level at the last bar, its slope in price per bar, and the distance of the last close in ATR, above
    the support or below the resistance. Unknown values are null: all of them with fewer than 50 bars, levels below
    zero, and distances in a market without movement.
    """
    windows = Windows.of(frame, [frame.height - 1])
    close, atr = frame["close"][-1], defined_values(windows)["atr"][0]
    values = {
        "bars": FIT_BARS,
        "last_close": _number(close),
        "atr_14": _number(atr),
        "support": _line(support_lines(windows), close, atr, 1),
        "resistance": _line(resistance_lines(windows), close, atr, -1),
    }
    return _json(values)


def _line(line: Lines, close: float, atr: float, side: int) -> dict[str, str | None]:
    level, slope = float(line.level[0]), float(line.slope[0])
    is_price = level > 0
    return {
        "level": _number(level) if is_price else None,
        "slope_per_bar": _number(slope),
        "distance_in_atr": _number(side * (close - level) / atr) if is_price and atr > 0 else None,
    }


def swings_text(frame: pl.DataFrame) -> str:
    """Return the swing highs and lows of the last 60 closes as JSON, oldest first, and the extremes of those bars.

    `swings` is null with fewer than 61 bars and in a market without movement.
    """
    (shape,) = shapes(Windows.of(frame, [frame.height - 1]))
    recent = frame.tail(LOOK_BACK)
    first, closes = 1 - recent.height, recent["close"]
    highest, lowest = int(recent["high"].to_numpy().argmax()), int(recent["low"].to_numpy().argmin())
    values = {
        "bars": recent.height,
        "last_close": _number(closes[-1]),
        "highest": {"bar": first + highest, "high": _number(recent["high"][highest])},
        "lowest": {"bar": first + lowest, "low": _number(recent["low"][lowest])},
        "swings": None
        if shape is None
        else [
            {"bar": first + bar, "kind": kind, "close": _number(closes[bar])}
            for kind, bar in zip(_kinds(shape), (swing.bar for swing in shape.swings), strict=True)
        ],
    }
    return _json(values)


def _kinds(shape: Shape) -> list[str]:
    """Return "high" or "low" for each swing; they alternate."""
    last, other = ("low", "high") if shape.last_swing_is_low else ("high", "low")
    return [last if left % 2 == 0 else other for left in reversed(range(len(shape.swings)))]


def _number(value: float) -> str | None:
    number = significant(value)
    return None if number is None else f"{number:f}"


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, separators=(",", ":"))
