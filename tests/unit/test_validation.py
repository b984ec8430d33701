"""The judge of bars: whatever is told, only bars that can be meant get in, and every other row is refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.market import Bar, Calendar, Instrument, Timeframe, instrument_for
from engine.core.money import exact
from engine.data.bar_rules import invalid_bar_reason
from engine.data.calendars import Span, bar_at, grid
from engine.data.encoding import NUMBERS, PRICES
from engine.data.files import read_bars
from engine.data.validation import JUMP, RANGE_BARS, ValidatedBars, exact_frame, flags, validate_bars

H1 = Timeframe.H1
CALENDARS: tuple[Calendar, ...] = ("24/7", "FX", "XNYS", "CME", "NYMEX")
# Weeks with a change of clocks, a holiday, a half day, and an ordinary one.
WEEKS = tuple(datetime(*day, tzinfo=UTC) for day in ((2024, 3, 8), (2024, 11, 1), (2024, 11, 27), (2024, 7, 1)))
LATER = datetime(2030, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


def instrument(calendar: Calendar = "24/7", tick: str | None = None) -> Instrument:
    return Instrument("AAA", calendar=calendar, tick=None if tick is None else exact(tick))


def frame(rows: list[Row], kind: type[pl.DataType] = pl.String) -> pl.DataFrame:
    """Rows as a provider or a file tells them: numbers as text or as floats."""
    schema = {"opened_at": pl.Datetime("us", "UTC")} | dict.fromkeys(NUMBERS, kind)
    if kind is pl.String:
        rows = [row | {name: None if row[name] is None else str(row[name]) for name in NUMBERS} for row in rows]
    return pl.DataFrame([[row[name] for name in schema] for row in rows], schema=schema, orient="row")


def sound(at: datetime, close: float = 10.5) -> Row:
    return {"opened_at": at, "open": 10.0, "high": 12.0, "low": 9.0, "close": close, "volume": 5.0}


# --- Any frame whatever -------------------------------------------------------------------------------------------


def _swapped(row: Row, rows: list[Row]) -> None:
    row["high"], row["low"] = row["low"], row["high"]


def _again(row: Row, rows: list[Row]) -> None:
    rows.append(dict(row))


def _earlier(row: Row, rows: list[Row]) -> None:
    rows.remove(row)
    rows.insert(0, row)


def _moved(minutes: int) -> Callable[[Row, list[Row]], None]:
    def move(row: Row, rows: list[Row]) -> None:
        if row["opened_at"] is not None:
            row["opened_at"] += timedelta(minutes=minutes)

    return move


def _with(column: str, value: object) -> Callable[[Row, list[Row]], None]:
    def put(row: Row, rows: list[Row]) -> None:
        row[column] = value

    return put


HARM = (
    *(_with(name, value) for name in NUMBERS for value in (math.nan, math.inf, -1.0, 1e300, 1e27, 1e-9, 1 / 3)),
    *(_with(name, value) for name in ("open", "volume") for value in (-math.inf, None, 1e26, 1e29)),
    *(_with(name, 0.0) for name in PRICES),
    _with("high", 1.0),
    _with("low", 100.0),
    _with("volume", 0.0),
    _with("opened_at", None),
    _with("opened_at", datetime(1900, 1, 1, tzinfo=UTC)),
    _with("opened_at", datetime(2199, 12, 31, 23, tzinfo=UTC)),
    _swapped,
    _again,
    _earlier,
    *(_moved(minutes) for minutes in (1, 17, 30, 60, 24 * 60, -60, 3 * 24 * 60)),
)


@cache
def opens_of(calendar: Calendar, timeframe: Timeframe, week: datetime) -> list[datetime]:
    return grid(calendar, timeframe, Span(week, week + timedelta(days=6)))["opened_at"].to_list()


@st.composite
def told(draw: st.DrawFn) -> tuple[pl.DataFrame, Instrument, Timeframe, datetime]:
    """Bars of a market around a change of clocks, a holiday or nothing of the kind; some rows harmed in some way."""
    calendar, week = draw(st.sampled_from(CALENDARS)), draw(st.sampled_from(WEEKS))
    timeframe = draw(st.sampled_from((H1, Timeframe.M30, Timeframe.H4, Timeframe.D1)))
    opens = opens_of(calendar, timeframe, week)
    first, count = draw(st.integers(0, len(opens))), draw(st.sampled_from((0, 1, 2, 5, 12)))
    rows = [sound(at, draw(st.sampled_from((10.5, 9.0, 12.0)))) for at in opens[first : first + count]]
    for harm, at in draw(st.lists(st.tuples(st.sampled_from(HARM), st.integers(0, 20)), max_size=3)):
        if rows:
            harm(rows[at % len(rows)], rows)
    kind = draw(st.sampled_from((pl.String, pl.Float64)))
    learned_at = draw(st.sampled_from((LATER, week + timedelta(days=1))))
    return frame(rows, kind), instrument(calendar), timeframe, learned_at


def rounded(number: Decimal) -> Decimal:
    """To 12 decimals, as floats are; what is too large for that stays."""
    return round(number, 12) if number.is_finite() and abs(number) < 10**15 else number


def expected(raw: pl.DataFrame, market: Instrument, timeframe: Timeframe, learned_at: datetime) -> list[datetime]:
    """The opens of the rows that may enter, found one by one and with nothing of the judge's."""
    taken: list[datetime] = []
    for at, *numbers in raw.iter_rows():
        try:
            open_, high, low, close, volume = (Decimal(str(number)) for number in numbers)
        except ArithmeticError:
            continue
        if raw.schema["open"] == pl.Float64:
            open_, high, low, close, volume = map(rounded, (open_, high, low, close, volume))
        if not all(n.is_finite() and abs(n) < 10**26 and n == rounded(n) for n in (open_, high, low, close, volume)):
            continue
        if at is None or not 0 < low <= min(open_, close) <= max(open_, close) <= high or volume < 0:
            continue
        if at.year not in (2024, 2025) and market.calendar not in ("24/7", "FX"):
            continue
        on_grid = bar_at(market.calendar, timeframe, at.astimezone(UTC))
        if on_grid is not None and on_grid.end <= learned_at and (not taken or at > taken[-1]):
            taken.append(at)
    return taken


Case = tuple[pl.DataFrame, Instrument, Timeframe, datetime]


@pytest.mark.slow(11)
@settings(max_examples=1_500)
@given(told())
def test_of_any_frame_exactly_the_bars_enter_that_can_be_meant(case: Case) -> None:
    exactly_those_enter_that_can_be_meant(case)


@pytest.mark.long
@settings(max_examples=15_000)
@given(told())
def test_of_many_more_frames_exactly_the_bars_enter_that_can_be_meant(case: Case) -> None:
    exactly_those_enter_that_can_be_meant(case)


def exactly_those_enter_that_can_be_meant(case: Case) -> None:
    raw, market, timeframe, learned_at = case
    judged = validate_bars(raw, market, timeframe, learned_at)
    bars = judged.bars()
    assert [bar.opened_at for bar in bars] == expected(raw, market, timeframe, learned_at)
    assert len(bars) + len(judged.refused) == raw.height
    assert [invalid_bar_reason(bar, timeframe) for bar in bars] == [None] * len(bars)
    assert [row.row for row in judged.refused] == sorted({row.row for row in judged.refused})
    assert all(row.reason and "\n" not in row.reason for row in judged.refused)


def test_a_million_rows_are_judged_and_the_bad_ones_among_them_found() -> None:
    count, bad = 1_000_000, {7: ("high", 1.0), 500_000: ("close", math.nan), 999_999: ("volume", -1.0)}
    closes = 100 + np.arange(count) % 7 / 100
    rows = pl.DataFrame(
        {
            "opened_at": pl.datetime_range(
                WEEKS[0], WEEKS[0] + timedelta(minutes=count - 1), "1m", eager=True, time_unit="us"
            ),
            "open": closes,
            "high": closes + 1,
            "low": closes - 1,
            "close": closes,
            "volume": np.ones(count),
        }
    ).with_row_index("row")
    for row, (name, value) in bad.items():
        rows = rows.with_columns(pl.when(pl.col("row") == row).then(value).otherwise(pl.col(name)).alias(name))
    judged = validate_bars(rows, instrument(), Timeframe.M1, LATER)
    assert [each.row for each in judged.refused] == list(bad)
    assert judged.frame.height == count - len(bad)


# --- Words --------------------------------------------------------------------------------------------------------

SUMMER = datetime(2024, 7, 1, 13, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("calendar", "at", "words"),
    [("XNYS", SUMMER + timedelta(minutes=30), "no 1h bar opens at 2024-07-01T14:00:00Z in the calendar XNYS"),
     ("XNYS", datetime(2024, 7, 4, 13, 30, tzinfo=UTC), "has no 1h bar at 2024-07-04T13:30:00Z, it is closed"),
     ("FX", datetime(2024, 7, 6, 12, tzinfo=UTC), "the calendar FX has no 1h bar at 2024-07-06T12:00:00Z"),
     ("NYMEX", datetime(2024, 7, 1, 21, tzinfo=UTC), "the calendar NYMEX has no 1h bar at 2024-07-01T21:00:00Z"),
     ("24/7", SUMMER, "name the symbol's own calendar")],
)  # fmt: skip
def test_a_bar_where_none_can_be_is_refused_with_its_calendar(calendar: Calendar, at: datetime, words: str) -> None:
    judged = validate_bars(frame([sound(at)]), instrument(calendar), H1)
    assert judged.bars() == []
    assert words in judged.refused[0].reason


def test_the_last_bar_of_a_session_closes_with_it() -> None:
    (bar,) = validate_bars(frame([sound(datetime(2024, 7, 1, 19, 30, tzinfo=UTC))]), instrument("XNYS"), H1).bars()
    assert bar.closed_at - bar.opened_at == timedelta(minutes=30)


def test_an_unusual_spelling_is_a_number_all_the_same() -> None:
    row = sound(SUMMER) | {"open": "+10", "high": "1.2E1", "low": ".9e1", "close": "10.", "volume": "5e0"}
    plain = validate_bars(frame([sound(SUMMER, 10.0)]), instrument("XNYS"), H1).bars()
    assert validate_bars(frame([row]), instrument("XNYS"), H1).bars() == plain


def test_a_float_is_rounded_to_what_is_kept_and_a_text_is_not() -> None:
    close = 10 + 1 / 3
    (bar,) = validate_bars(frame([sound(SUMMER, close)], pl.Float64), instrument("XNYS"), H1).bars()
    assert bar.close == exact("10.333333333333")
    (refused,) = validate_bars(frame([sound(SUMMER, close)]), instrument("XNYS"), H1).refused
    assert refused.reason == f"close {close} has more than 12 decimals; round it"


@pytest.mark.parametrize(("text", "reason"), [("1" + "0" * 26, "more than 26 digits"), ("１２", "is not a number")])
def test_a_number_that_no_column_holds_is_refused(text: str, reason: str) -> None:
    (refused,) = validate_bars(frame([sound(SUMMER) | {"volume": text}]), instrument("XNYS"), H1).refused
    assert reason in refused.reason


def test_a_time_beyond_the_table_of_holidays_costs_one_row() -> None:
    far = [sound(datetime(year, 7, 1, 13, 30, tzinfo=UTC)) for year in (1955, 2199, 9999)]
    judged = validate_bars(frame([sound(SUMMER), *far]), instrument("XNYS"), H1)
    assert [bar.opened_at for bar in judged.bars()] == [SUMMER]
    assert len(judged.refused) == 3


def test_a_row_keeps_the_number_and_the_text_it_came_with() -> None:
    raw = frame([sound(SUMMER), sound(SUMMER)]).with_columns(row=pl.Series([3, 9]), line=pl.Series(["first", "second"]))
    (refused,) = validate_bars(raw, instrument("XNYS"), H1).refused
    assert (refused.row, refused.line) == (9, "second")
    assert refused.reason == "a bar that opens at 2024-07-01T13:30:00Z was given before"


# --- Flags --------------------------------------------------------------------------------------------------------


def series(ranges: list[float], tick: str | None = None) -> ValidatedBars:
    """Hourly bars around 100 with these ranges, one price each their own."""
    rows = [
        {
            "opened_at": WEEKS[3] + n * H1.duration,
            "open": 100,
            "high": 100 + wide,
            "low": 100,
            "close": 100,
            "volume": 1,
        }
        for n, wide in enumerate(ranges)
    ]
    return validate_bars(frame(rows), instrument(tick=tick), H1)


def test_a_jump_is_flagged_above_its_multiple_of_the_usual_range_and_not_at_it() -> None:
    usual = [1.0, 1.5] * (RANGE_BARS // 2)
    mean = sum(usual) / len(usual)
    for wide, words in ((JUMP * mean, ""), (JUMP * mean + 1, "its range is 10.8 times the usual one")):
        assert series([*usual, wide]).frame["flags"].to_list() == [""] * RANGE_BARS + [words]
    assert series([*usual[1:], 1000.0]).frame["flags"].to_list() == [""] * RANGE_BARS


def test_a_bar_that_repeats_the_one_before_is_flagged() -> None:
    assert series([1, 1, 2]).frame["flags"].to_list() == ["", "it repeats the prices of the bar before", ""]


def test_a_price_off_the_tick_is_flagged() -> None:
    assert series([1, 1.25, 1.1], "0.25").frame["flags"].to_list() == ["", "", "a price is off the tick of 0.25"]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 39))
def test_no_flag_knows_a_later_bar(ranges: list[int], known: int) -> None:
    bars = series([wide / 10 for wide in ranges], "0.3").frame
    assert flags(bars.head(known), instrument(tick="0.3")).to_list() == bars["flags"].head(known).to_list()


# --- Files --------------------------------------------------------------------------------------------------------


def test_days_of_a_stock_exchange_are_named_by_their_date(tmp_path: Path) -> None:
    path = tmp_path / "days.csv"
    path.write_text("date,open,high,low,close\n2024-07-03,10,12,9,11\n2024-07-04,10,12,9,11\n2024-07-05,11,12,9,10\n")
    judged = read_bars(path, instrument("XNYS"), Timeframe.D1, accept_valid=True)
    assert [(bar.opened_at.hour, bar.closed_at.hour) for bar in judged.bars()] == [(13, 17), (13, 20)]
    assert "the calendar XNYS has no 1d bar of 2024-07-04, it is closed" in judged.refused[0].reason


@given(st.lists(st.decimals("0.000001", "99999", places=6), min_size=4, max_size=4))
def test_bars_and_frames_say_the_same(numbers: list[Decimal]) -> None:
    low, open_, close, high = sorted(map(exact, numbers))
    bar = Bar("AAA", SUMMER, SUMMER + H1.duration, open_, high, low, close, exact("1.5"))
    made = exact_frame([bar]).with_columns(flags=pl.lit(""))
    assert ValidatedBars(instrument(), H1, made, []).bars() == [bar]


def test_every_symbol_of_the_table_has_a_market() -> None:
    for symbol in ("BTC-USD", "SPX", "CL", "GC", "NQ", "ES", "DJI", "QQQ", "VIX", "DXY", "AAPL", "TSLA"):
        market = instrument_for(symbol)
        assert grid(market.calendar, H1, Span(SUMMER, SUMMER + timedelta(days=1))).height > 0
