"""Larger bars made of smaller ones: against a slow reading of the definition, and laws over any bars with holes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from engine.core.errors import BadInput
from engine.core.market import Calendar, Timeframe
from engine.data.calendars import Span, bar_at, grid
from engine.data.resample import resample
from engine.data.sample import SAMPLE_FILES

M1, M5, M30, H1, H4, D1, W1, MO1 = (Timeframe(name) for name in ("1m", "5m", "30m", "1h", "4h", "1d", "1w", "1mo"))
NUMBERS = ("open", "high", "low", "close", "volume")
Part = tuple[Decimal, Decimal, Decimal, Decimal, Decimal]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def span(start: str, end: str) -> Span:
    return Span(utc(start), utc(end))


def walk(calendar: Calendar, timeframe: Timeframe, asked: Span) -> pl.DataFrame:
    """Every bar of a span: bar n opens at n, is between n - 1 and n + 2, closes at n + 1 and has a volume of n."""
    n = pl.int_range(1, pl.len() + 1).cast(pl.Float64)
    return grid(calendar, timeframe, asked).with_columns(open=n, high=n + 2, low=n - 1, close=n + 1, volume=n)


def told(bars: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Bars as ("03-08 14:30", "15:30", open, high, low, close, volume, bars, expected)."""
    return [(f"{opened:%m-%d %H:%M}", f"{closed:%H:%M}", *rest) for opened, closed, *rest in bars.iter_rows()]


# --- What a larger bar says ---------------------------------------------------------------------------------------


def test_a_larger_bar_has_the_first_open_the_extremes_the_last_close_and_all_volume() -> None:
    prices = {"open": [5, 6, 4], "high": [7, 9, 5], "low": [4, 6, 2], "close": [6, 7, 3], "volume": [1, 0, 2]}
    minutes = grid("24/7", M30, span("2024-06-04T00:00", "2024-06-04T01:30")).with_columns(
        **{name: pl.Series(values, dtype=pl.Float64) for name, values in prices.items()}
    )
    assert told(resample(minutes, "24/7", M30, H1)) == [("06-04 00:00", "01:00", 5, 9, 4, 7, 1, 2, 2)]
    more = resample(minutes, "24/7", M30, H1, utc("2024-06-04T02:00"))
    assert told(more)[1:] == [("06-04 01:00", "02:00", 4, 5, 2, 3, 2, 1, 2)]


def test_hours_of_a_half_day_of_stocks_end_with_one_of_half_an_hour() -> None:
    halves = walk("XNYS", M30, span("2024-11-29T00:00", "2024-12-02T15:30"))
    assert told(resample(halves, "XNYS", M30, H1)) == [
        ("11-29 14:30", "15:30", 1, 4, 0, 3, 3, 2, 2),
        ("11-29 15:30", "16:30", 3, 6, 2, 5, 7, 2, 2),
        ("11-29 16:30", "17:30", 5, 8, 4, 7, 11, 2, 2),
        ("11-29 17:30", "18:00", 7, 9, 6, 8, 7, 1, 1),
        ("12-02 14:30", "15:30", 8, 11, 7, 10, 17, 2, 2),
    ]
    assert told(resample(halves, "XNYS", M30, D1)) == [("11-29 14:30", "18:00", 1, 9, 0, 8, 28, 7, 7)]


@pytest.mark.parametrize(
    ("calendar", "monday", "opens"),
    [
        ("XNYS", "2024-03-11", "13:30"), ("XNYS", "2024-11-04", "14:30"), ("CME", "2024-03-11", "22:00"),
        ("CME", "2024-11-04", "23:00"), ("FX", "2024-03-11", "21:00"), ("FX", "2024-11-04", "22:00"),
    ],
)  # fmt: skip
def test_days_keep_their_hours_when_new_york_changes_its_clocks(calendar: Calendar, monday: str, opens: str) -> None:
    noon = utc(f"{monday}T12:00")
    days = resample(walk(calendar, H1, Span(noon - timedelta(days=4), noon + timedelta(days=2))), calendar, H1, D1)
    count = {"XNYS": 7, "CME": 23, "FX": 24}[calendar]
    friday, first, *_ = days.filter(pl.col("closed_at") > noon - timedelta(days=3, hours=1)).iter_rows(named=True)
    assert (friday["bars"], first["bars"]) == (friday["expected"], first["expected"]) == (count, count)
    assert f"{first['opened_at']:%H:%M}" == opens
    assert first["opened_at"] - friday["opened_at"] != timedelta(days=3)


def test_a_bar_is_made_of_what_there_is_and_tells_how_much_is_missing() -> None:
    minutes = walk("24/7", M1, span("2024-06-04T00:00", "2024-06-04T03:00"))
    here = minutes.filter((pl.col("open") > 2) & ~pl.col("open").is_between(60, 120))
    assert told(resample(here, "24/7", M1, H1)) == [
        ("06-04 00:00", "01:00", 3, 61, 2, 60, sum(range(3, 60)), 57, 60),
        ("06-04 02:00", "03:00", 121, 182, 120, 181, sum(range(121, 181)), 60, 60),
    ]


def test_a_week_with_a_holiday_and_a_month_are_whole_without_the_days_nobody_traded() -> None:
    days = walk("CME", D1, span("2024-11-01T12:00", "2025-01-01T12:00"))
    weeks, months = resample(days, "CME", D1, W1), resample(days, "CME", D1, MO1)
    christmas = weeks.row(by_predicate=pl.col("opened_at") == utc("2024-12-22T23:00"), named=True)
    assert (christmas["closed_at"], christmas["bars"], christmas["expected"]) == (utc("2024-12-27T22:00"), 4, 4)
    assert told(months.drop(NUMBERS)) == [("10-31 22:00", "18:15", 20, 21), ("12-01 23:00", "22:00", 21, 21)]


def test_bars_that_are_on_no_grid_are_left_out() -> None:
    hours = walk("24/7", H1, span("2024-06-04T00:00", "2024-06-05T00:00"))
    odd = hours.head(3).with_columns(pl.col("opened_at", "closed_at") + timedelta(minutes=30), high=pl.lit(1e6))
    assert_frame_equal(
        resample(pl.concat([hours, odd]).sort("opened_at"), "24/7", H1, D1), resample(hours, "24/7", H1, D1)
    )


def test_no_bars_make_no_bars() -> None:
    hours = walk("XNYS", H1, span("2024-06-03T00:00", "2024-06-08T00:00"))
    none, first = resample(hours.head(0), "XNYS", H1, D1), resample(hours.head(2), "XNYS", H1, D1)
    assert none.is_empty()
    assert first.is_empty()
    assert none.schema == first.schema == resample(hours, "XNYS", H1, D1).schema


@pytest.mark.parametrize(("of", "to"), [(H1, H1), (H1, M30), (D1, H1), (W1, MO1), (MO1, W1)])
def test_bars_that_do_not_fit_into_larger_ones_are_refused(of: Timeframe, to: Timeframe) -> None:
    with pytest.raises(BadInput, match=f"bars of {of} do not fit into bars of {to}: use smaller ones"):
        resample(walk("24/7", H1, span("2024-06-04T00:00", "2024-06-04T03:00")), "24/7", of, to)


def test_the_days_of_the_sample_are_whole_but_for_christmas() -> None:
    hours = pl.read_csv(SAMPLE_FILES["EUR-USD"], infer_schema_length=None).with_columns(
        pl.col("opened_at").str.to_datetime(time_unit="us", time_zone="UTC")
    )
    hours = hours.with_columns(closed_at=pl.col("opened_at") + timedelta(hours=1))
    days = resample(hours, "FX", H1, D1)
    assert (days.height, days["bars"].sum()) == (130, 3_105)
    assert told(days.filter(pl.col("bars") < pl.col("expected")).drop(NUMBERS)) == [("12-24 22:00", "22:00", 9, 24)]


# --- Laws ---------------------------------------------------------------------------------------------------------

prices = st.integers(1, 10**9).map(lambda n: Decimal(n).scaleb(-4))


@st.composite
def parts(draw: st.DrawFn) -> Part:
    low, *between, high = sorted(draw(st.lists(prices, min_size=4, max_size=4)))
    first, last = draw(st.permutations(between))
    return first, high, low, last, draw(prices)


@st.composite
def series(draw: st.DrawFn, calendars: tuple[Calendar, ...] = get_args(Calendar), of: Timeframe = M5) -> Any:
    """A calendar, bars with holes around the ends of two sessions, and an instant in reach of them."""
    calendar = draw(st.sampled_from(calendars))
    start = utc("2024-03-06T00:00") + draw(st.integers(0, 9 * 24)) * timedelta(hours=1)
    bars = grid(calendar, of, Span(start, start + timedelta(days=4)))
    kept = draw(st.lists(st.integers(0, max(bars.height - 1, 0)), min_size=1, max_size=40, unique=True).map(sorted))
    kept = [n for n in kept if n < bars.height]
    numbers = draw(st.lists(parts(), min_size=len(kept), max_size=len(kept)))
    exact = pl.DataFrame(numbers, dict.fromkeys(map(str, NUMBERS), pl.Decimal(38, 12)), orient="row")
    frame = bars[kept].hstack(exact)
    return calendar, frame, start + draw(st.integers(0, 5 * 24 * 12)) * timedelta(minutes=5)


exactly = settings(max_examples=60)


@exactly
@given(series(), st.sampled_from([H1, H4, D1, W1, MO1]))
def test_a_larger_bar_is_what_reading_its_parts_one_by_one_finds(drawn: Any, to: Timeframe) -> None:
    calendar, frame, known_at = drawn
    for bar in resample(frame, calendar, M5, to, known_at).iter_rows(named=True):
        found = bar_at(calendar, to, bar["opened_at"])
        assert found is not None
        assert found.end == bar["closed_at"] <= known_at
        inside = [row for row in frame.iter_rows(named=True) if found.start <= row["opened_at"] < found.end]
        assert (bar["open"], bar["close"]) == (inside[0]["open"], inside[-1]["close"])
        assert (bar["high"], bar["low"]) == (max(row["high"] for row in inside), min(row["low"] for row in inside))
        assert (bar["volume"], bar["bars"]) == (sum(row["volume"] for row in inside), len(inside))
        assert bar["bars"] <= bar["expected"] == grid(calendar, M5, found).height


@exactly
@given(series(), st.sampled_from([D1, W1, MO1]))
def test_two_steps_lead_where_one_does(drawn: Any, to: Timeframe) -> None:
    calendar, frame, known_at = drawn
    direct = resample(frame, calendar, M5, to, known_at)
    for between in (M30, H1, H4):
        halfway = resample(frame, calendar, M5, between, known_at)
        stepwise = resample(halfway, calendar, between, to, known_at)
        assert_frame_equal(stepwise.drop("bars", "expected"), direct.drop("bars", "expected"))


@exactly
@given(series(), st.sampled_from([H1, D1, W1]))
def test_nothing_is_lost_and_nothing_is_made_up(drawn: Any, to: Timeframe) -> None:
    calendar, frame, _ = drawn
    later = utc("2025-01-01T00:00")
    bars = resample(frame, calendar, M5, to, later)
    assert bars["bars"].sum() == frame.height
    assert bars["volume"].sum() == frame["volume"].sum()
    assert (bars["high"].max(), bars["low"].min()) == (frame["high"].max(), frame["low"].min())
    assert all(bars.select((pl.col("low") <= pl.min_horizontal("open", "close")).all()).row(0))
    assert all(bars.select((pl.col("high") >= pl.max_horizontal("open", "close")).all()).row(0))


@exactly
@given(series(), st.sampled_from([H1, H4, D1]))
def test_no_bar_that_closes_later_changes_what_is_known(drawn: Any, to: Timeframe) -> None:
    calendar, frame, known_at = drawn
    known = resample(frame, calendar, M5, to, known_at)
    cut = frame.filter(pl.col("closed_at") <= known_at)
    poisoned = frame.with_columns(
        pl.when(pl.col("closed_at") <= known_at).then(name).otherwise(pl.lit(Decimal(10**9))).alias(name)
        for name in NUMBERS
    )
    assert_frame_equal(resample(cut, calendar, M5, to, known_at), known)
    assert_frame_equal(resample(poisoned, calendar, M5, to, known_at), known)
    if not cut.is_empty():
        by_default = resample(cut, calendar, M5, to)
        assert_frame_equal(by_default, known.filter(pl.col("closed_at") <= cut["closed_at"].max()))


@exactly
@given(series(), st.sampled_from([H1, D1]))
def test_floats_give_the_prices_that_decimals_give(drawn: Any, to: Timeframe) -> None:
    calendar, frame, known_at = drawn
    floats = frame.with_columns(pl.col(NUMBERS).cast(pl.Float64))
    exact = resample(frame, calendar, M5, to, known_at)
    assert_frame_equal(
        resample(floats, calendar, M5, to, known_at),
        exact.with_columns(pl.col(NUMBERS).cast(pl.Float64)),
        rel_tol=1e-12,
    )
    assert exact.schema["volume"] == pl.Decimal(38, 12)
