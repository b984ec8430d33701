"""Sessions and grids, against published hours, the time zone database and real bars.

With `QUANTAGENT_REFERENCE_DATA` naming a folder that holds `data/`, every bar of its hourly futures and index files is
placed on the grid too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import BadInput
from engine.core.market import Calendar, Timeframe, instrument_for
from engine.data.calendars import CalendarSession, Span, bar_at, bar_of_day, grid, locate_in_grid, sessions
from engine.data.sample import SAMPLE_FILES

NEW_YORK = ZoneInfo("America/New_York")
DAY, HOUR, MOMENT = timedelta(days=1), timedelta(hours=1), timedelta.resolution
CALENDARS: tuple[Calendar, ...] = get_args(Calendar)
H1, D1, W1, MO1 = Timeframe.H1, Timeframe.D1, Timeframe.W1, Timeframe.MO1


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def span(start: str, end: str) -> Span:
    return Span(utc(start), utc(end))


def in_words(bars: pl.DataFrame) -> list[str]:
    """Bars as `11-29 14:30-15:30`."""
    return [f"{opened:%m-%d %H:%M}-{closed:%H:%M}" for opened, closed in bars.iter_rows()]


def rows(bars: pl.DataFrame) -> list[Span]:
    return [Span(opened.astimezone(UTC), closed.astimezone(UTC)) for opened, closed in bars.iter_rows()]


def session_of(calendar: Calendar, day: date) -> CalendarSession | None:
    """The session that a day names, found by looking at the days around it."""
    noon = datetime.combine(day, time(12), UTC)
    return next((each for each in sessions(calendar, Span(noon - 2 * DAY, noon + 2 * DAY)) if each.label == day), None)


def hours_of(calendar: Calendar, day: date) -> str | None:
    """A session in the clocks of New York."""
    found = session_of(calendar, day)
    if found is None:
        return None
    opened, closed = (at.astimezone(NEW_YORK) for at in found[1:])
    assert closed.date() == day
    return f"{opened:%a %H:%M} {closed:%a %H:%M}"


# --- Sessions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calendar", "friday", "monday"),
    [
        ("XNYS", ("2024-03-08T14:30", "2024-03-08T21:00"), ("2024-03-11T13:30", "2024-03-11T20:00")),
        ("CME", ("2024-03-07T23:00", "2024-03-08T22:00"), ("2024-03-10T22:00", "2024-03-11T21:00")),
        ("NYMEX", ("2024-03-07T23:00", "2024-03-08T22:00"), ("2024-03-10T22:00", "2024-03-11T21:00")),
        ("FX", ("2024-03-07T22:00", "2024-03-08T22:00"), ("2024-03-10T21:00", "2024-03-11T21:00")),
        ("XNYS", ("2024-11-01T13:30", "2024-11-01T20:00"), ("2024-11-04T14:30", "2024-11-04T21:00")),
        ("CME", ("2024-10-31T22:00", "2024-11-01T21:00"), ("2024-11-03T23:00", "2024-11-04T22:00")),
        ("NYMEX", ("2024-10-31T22:00", "2024-11-01T21:00"), ("2024-11-03T23:00", "2024-11-04T22:00")),
        ("FX", ("2024-10-31T21:00", "2024-11-01T21:00"), ("2024-11-03T22:00", "2024-11-04T22:00")),
    ],
)
def test_sessions_move_by_an_hour_of_utc_when_new_york_changes_its_clocks(
    calendar: Calendar, friday: tuple[str, str], monday: tuple[str, str]
) -> None:
    expected = [CalendarSession(utc(closed).date(), utc(opened), utc(closed)) for opened, closed in (friday, monday)]
    assert sessions(calendar, Span(expected[0].opened_at, expected[1].closed_at)) == expected


def test_around_the_clock_a_session_is_a_day_of_utc_whatever_the_clocks_of_new_york_do() -> None:
    found = sessions("24/7", span("2024-03-09T23:59", "2024-03-11T00:01"))
    assert [session.label.day for session in found] == [9, 10, 11]
    assert all(session.opened_at.time() == time() and session.closed_at - session.opened_at == DAY for session in found)


@pytest.mark.parametrize("calendar", CALENDARS)
def test_a_span_has_the_sessions_it_touches_and_not_those_it_only_meets(calendar: Calendar) -> None:
    first, middle, last = sessions(calendar, span("2024-06-04T15:00", "2024-06-06T15:00"))
    assert sessions(calendar, Span(first.closed_at, last.opened_at)) == [middle]
    assert sessions(calendar, Span(first.closed_at - MOMENT, last.opened_at + MOMENT)) == [first, middle, last]


WHOLE = "Sun 18:00 Mon 17:00"


@pytest.mark.parametrize(
    ("day", "stocks", "index_futures", "oil"),
    [
        ("2025-01-13", "Mon 09:30 Mon 16:00", WHOLE, WHOLE),
        ("2024-12-25", None, None, None),
        ("2025-01-01", None, None, None),
        ("2022-12-26", None, None, None),  # Christmas fell on a Sunday
        ("2021-12-24", None, None, None),  # and on a Saturday
        ("2023-01-02", None, None, None),
        ("2021-12-31", "Fri 09:30 Fri 16:00", "Thu 18:00 Fri 17:00", "Thu 18:00 Fri 17:00"),
        ("2025-04-18", None, None, None),  # Good Friday
        ("2024-03-29", None, None, None),
        ("2023-04-07", None, "Thu 18:00 Fri 09:15", None),  # Good Friday with a jobs report
        ("2026-04-03", None, "Thu 18:00 Fri 09:15", None),
        ("2025-01-20", None, "Sun 18:00 Mon 13:00", "Sun 18:00 Mon 14:30"),  # Martin Luther King
        ("2025-02-17", None, "Sun 18:00 Mon 13:00", "Sun 18:00 Mon 14:30"),
        ("2025-05-26", None, "Sun 18:00 Mon 13:00", "Sun 18:00 Mon 14:30"),
        ("2025-06-19", None, "Wed 18:00 Thu 13:00", "Wed 18:00 Thu 14:30"),
        ("2025-09-01", None, "Sun 18:00 Mon 13:00", "Sun 18:00 Mon 14:30"),
        ("2021-09-06", None, "Sun 18:00 Mon 13:00", "Sun 18:00 Mon 13:00"),
        ("2025-07-04", None, "Thu 18:00 Fri 13:00", "Thu 18:00 Fri 13:00"),  # the weekend follows
        ("2026-06-19", None, "Thu 18:00 Fri 13:00", "Thu 18:00 Fri 13:00"),
        ("2025-07-03", "Thu 09:30 Thu 13:00", "Wed 18:00 Thu 13:15", "Wed 18:00 Thu 17:00"),
        ("2024-11-28", None, "Wed 18:00 Thu 13:00", "Wed 18:00 Thu 14:30"),  # Thanksgiving
        ("2024-11-29", "Fri 09:30 Fri 13:00", "Thu 18:00 Fri 13:15", "Thu 18:00 Fri 13:45"),
        ("2024-12-24", "Tue 09:30 Tue 13:00", "Mon 18:00 Tue 13:15", "Mon 18:00 Tue 13:45"),
        ("2024-12-26", "Thu 09:30 Thu 16:00", "Wed 18:00 Thu 17:00", "Wed 18:00 Thu 17:00"),
        ("2025-01-09", None, "Wed 18:00 Thu 09:30", "Wed 18:00 Thu 17:00"),  # a day of mourning
        ("2012-10-29", None, "Sun 18:00 Mon 09:30", WHOLE),  # a storm
        ("2025-01-11", None, None, None),
    ],
)
def test_holidays_and_half_days_are_those_of_each_exchange(
    day: str, stocks: str | None, index_futures: str | None, oil: str | None
) -> None:
    found = [hours_of(calendar, date.fromisoformat(day)) for calendar in ("XNYS", "CME", "NYMEX")]
    assert found == [stocks, index_futures, oil]


@given(st.dates(date(1990, 1, 1), date(2049, 12, 31)), st.sampled_from(["FX", "CME", "NYMEX", "XNYS"]))
def test_a_session_keeps_the_clocks_of_new_york(day: date, calendar: Calendar) -> None:
    found = session_of(calendar, day)
    if found is None:
        assert day.weekday() > 4 or calendar != "FX"
        return
    opens = {"FX": time(17), "CME": time(18), "NYMEX": time(18), "XNYS": time(9, 30)}[calendar]
    before = DAY if calendar != "XNYS" else timedelta()
    assert found.opened_at == datetime.combine(day - before, opens, NEW_YORK).astimezone(UTC)
    closed = found.closed_at.astimezone(NEW_YORK)
    usual = time(16) if calendar == "XNYS" else time(17)
    assert closed.date() == day
    assert closed.time() == usual or (calendar != "FX" and time(9, 15) <= closed.time() < usual)


@pytest.mark.parametrize("calendar", ["XNYS", "CME", "NYMEX"])
def test_a_span_beyond_the_table_of_holidays_is_refused_with_its_bounds(calendar: Calendar) -> None:
    assert sessions(calendar, span("2050-12-27T00:00", "2050-12-30T00:00"))
    for start, end in (("2050-12-30", "2051-01-10"), ("1969-12-31", "1970-01-05")):
        with pytest.raises(BadInput, match=rf"{calendar} are known from 1970-01-01 to 2050-12-31, .* choose a range"):
            grid(calendar, H1, span(f"{start}T00:00", f"{end}T00:00"))


@pytest.mark.parametrize("calendar", ["24/7", "FX"])
def test_a_calendar_without_holidays_has_no_bounds(calendar: Calendar) -> None:
    assert grid(calendar, D1, span("1960-01-01T00:00", "1960-02-01T00:00")).height > 20
    assert grid(calendar, D1, span("2060-01-01T00:00", "2060-02-01T00:00")).height > 20


def test_tables_are_loaded_only_where_a_calendar_needs_them() -> None:
    code = (
        "import sys; from datetime import UTC, datetime; from engine.data.calendars import Span, sessions;"
        "asked = Span(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC));"
        "sessions('24/7', asked), sessions('FX', asked);"
        "print([name for name in ('pandas', 'polars', 'exchange_calendars') if name in sys.modules]);"
        "sessions('XNYS', asked);"
        "print([name for name in ('pandas', 'polars', 'exchange_calendars') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["[]", "['pandas', 'exchange_calendars']"]


# --- Bars within sessions -----------------------------------------------------------------------------------------


def test_the_last_hour_of_stocks_lasts_half_an_hour() -> None:
    winter = ["14:30-15:30", "15:30-16:30", "16:30-17:30", "17:30-18:30", "18:30-19:30", "19:30-20:30", "20:30-21:00"]
    bars = grid("XNYS", H1, span("2024-12-10T00:00", "2024-12-11T00:00"))
    assert in_words(bars) == [f"12-10 {each}" for each in winter]
    assert bars.schema == {"opened_at": pl.Datetime("us", "UTC"), "closed_at": pl.Datetime("us", "UTC")}


def test_a_half_day_ends_with_a_bar_cut_at_its_close() -> None:
    bars = grid("XNYS", H1, span("2024-11-28T00:00", "2024-11-30T00:00"))
    assert in_words(bars) == [f"11-29 {each}" for each in ("14:30-15:30", "15:30-16:30", "16:30-17:30", "17:30-18:00")]
    assert in_words(grid("CME", H1, span("2024-11-29T17:00", "2024-12-01T23:30"))) == [
        "11-29 17:00-18:00", "11-29 18:00-18:15", "12-01 23:00-00:00",
    ]  # fmt: skip
    assert in_words(grid("NYMEX", H1, span("2024-11-28T18:00", "2024-11-28T23:30"))) == [
        "11-28 18:00-19:00", "11-28 19:00-19:30", "11-28 23:00-00:00",
    ]  # fmt: skip


def test_four_hours_are_counted_from_the_open() -> None:
    assert in_words(grid("CME", Timeframe.H4, span("2024-06-04T12:00", "2024-06-05T12:00"))) == [
        "06-04 14:00-18:00", "06-04 18:00-21:00", "06-04 22:00-02:00", "06-05 02:00-06:00", "06-05 06:00-10:00",
        "06-05 10:00-14:00",
    ]  # fmt: skip
    opens = grid("FX", Timeframe.H4, span("2024-03-08T12:00", "2024-03-11T12:00"))["opened_at"].dt.strftime("%d %H")
    assert opens.to_list() == ["08 14", "08 18", "10 21", "11 01", "11 05", "11 09"]
    opens = grid("24/7", Timeframe.H4, span("2024-03-10T01:00", "2024-03-11T00:00"))["opened_at"].dt.strftime("%d %H")
    assert opens.to_list() == ["10 04", "10 08", "10 12", "10 16", "10 20"]


def test_a_million_minutes_are_all_there() -> None:
    bars = grid("24/7", Timeframe.M1, Span(start := utc("2024-01-01T00:00"), start + timedelta(minutes=1_000_000)))
    assert bars.height == 1_000_000
    assert bars["opened_at"].diff().drop_nulls().unique().to_list() == [timedelta(minutes=1)]


def test_the_bar_at_an_instant_is_cut_at_the_close_and_there_is_none_after_it() -> None:
    asked = [utc(f"2024-12-10T{at}") for at in ("14:30", "20:30", "21:00", "21:30", "14:00", "15:00")]
    assert [bar_at("XNYS", H1, at) for at in asked] == [
        span("2024-12-10T14:30", "2024-12-10T15:30"),
        span("2024-12-10T20:30", "2024-12-10T21:00"),
        *[None] * 4,
    ]


def test_where_nothing_trades_the_grid_is_empty() -> None:
    weekend = span("2024-06-08T00:00", "2024-06-09T12:00")
    for calendar in ("XNYS", "CME", "NYMEX", "FX"):
        for timeframe in Timeframe:
            assert grid(calendar, timeframe, weekend).is_empty()
            assert grid(calendar, timeframe, weekend).schema == grid("24/7", H1, weekend).schema


INSTANTS = st.integers(0, 21 * 365 * 86_400_000_000).map(lambda n: utc("2006-01-01T00:00") + n * MOMENT)
calendars, timeframes = st.sampled_from(CALENDARS), st.sampled_from(Timeframe)
LENGTHS = {timeframe: timeframe.duration * 40 for timeframe in Timeframe}


@given(calendars, timeframes, INSTANTS, st.floats(0, 1), st.floats(0, 1))
def test_a_grid_is_the_grids_of_its_parts_in_order_without_overlap(
    calendar: Calendar, timeframe: Timeframe, start: datetime, length: float, part: float
) -> None:
    end = start + length * LENGTHS[timeframe]
    middle = start + part * (end - start)
    bars = rows(grid(calendar, timeframe, Span(start, end)))
    assert bars == [
        *rows(grid(calendar, timeframe, Span(start, middle))),
        *rows(grid(calendar, timeframe, Span(middle, end))),
    ]
    assert all(start <= bar.start < bar.end <= bar.start + timeframe.duration and bar.start < end for bar in bars)
    assert all(bar.end <= following.start for bar, following in pairwise(bars))


@given(calendars, timeframes.filter(lambda each: each.is_intraday), INSTANTS)
def test_the_bars_of_a_session_are_all_of_it_and_nothing_else(
    calendar: Calendar, timeframe: Timeframe, at: datetime
) -> None:
    for session in sessions(calendar, Span(at, at + 4 * DAY)):
        bars = rows(grid(calendar, timeframe, Span(session.opened_at, session.closed_at)))
        assert (bars[0].start, bars[-1].end) == (session.opened_at, session.closed_at)
        assert all(bar.end == following.start for bar, following in pairwise(bars))
        assert all(bar.end - bar.start == timeframe.duration for bar in bars[:-1])
        assert bar_at(calendar, timeframe, bars[-1].start) == bars[-1]


@given(calendars, timeframes, st.lists(st.tuples(INSTANTS, st.sampled_from((1, 30, 60))), max_size=6))
def test_instants_are_placed_as_each_alone_would_be(
    calendar: Calendar, timeframe: Timeframe, rounded: list[tuple[datetime, int]]
) -> None:
    asked = [at.replace(minute=at.minute // minutes * minutes, second=0, microsecond=0) for at, minutes in rounded]
    found = locate_in_grid(calendar, timeframe, pl.Series(asked, dtype=pl.Datetime("us", "UTC")))
    assert found["opened_at"].to_list() == sorted(set(asked))
    for opened_at, closed_at, trades in found.iter_rows():
        bar = bar_at(calendar, timeframe, opened_at.astimezone(UTC))
        assert closed_at == (None if bar is None else bar.end)
        if timeframe.is_intraday:
            assert trades == bool(sessions(calendar, Span(opened_at, opened_at + MOMENT)))


@given(calendars, timeframes, INSTANTS)
def test_the_bar_at_an_instant_is_the_grid_s_if_one_opens_then(
    calendar: Calendar, timeframe: Timeframe, at: datetime
) -> None:
    at = at.replace(second=0, microsecond=0)
    for bar in rows(grid(calendar, timeframe, Span(at, at + 2 * timeframe.duration)))[:5]:
        assert bar_at(calendar, timeframe, bar.start) == bar
        assert bar_at(calendar, timeframe, bar.start + MOMENT) is None
        assert bar_at(calendar, timeframe, bar.start - MOMENT) is None
    assert [bar_at(calendar, timeframe, at) or ()] == (rows(grid(calendar, timeframe, Span(at, at + MOMENT))) or [()])


# --- Sessions, weeks and months as bars ---------------------------------------------------------------------------


def test_a_day_is_a_session() -> None:
    assert rows(grid("CME", D1, span("2024-11-27T00:00", "2024-12-01T00:00"))) == [
        span("2024-11-27T23:00", "2024-11-28T18:00"),
        span("2024-11-28T23:00", "2024-11-29T18:15"),
    ]
    assert bar_of_day("CME", D1, date(2024, 11, 28)) == span("2024-11-27T23:00", "2024-11-28T18:00")
    assert bar_of_day("24/7", D1, date(2024, 2, 29)) == span("2024-02-29T00:00", "2024-03-01T00:00")
    assert bar_of_day("CME", D1, date(2024, 11, 30)) is None
    assert bar_of_day("XNYS", D1, date(2024, 11, 28)) is None


def test_a_week_with_a_holiday_lasts_from_its_first_open_to_its_last_close() -> None:
    labor_day, thanksgiving = date(2024, 9, 2), date(2024, 11, 28)
    assert bar_of_day("XNYS", W1, labor_day) == span("2024-09-03T13:30", "2024-09-06T20:00")
    assert bar_of_day("CME", W1, labor_day) == span("2024-09-01T22:00", "2024-09-06T21:00")
    assert bar_of_day("XNYS", W1, thanksgiving) == span("2024-11-25T14:30", "2024-11-29T18:00")
    assert bar_of_day("FX", W1, date(2024, 3, 10)) == span("2024-03-03T22:00", "2024-03-08T22:00")
    assert bar_of_day("FX", W1, date(2024, 3, 11)) == span("2024-03-10T21:00", "2024-03-15T21:00")
    assert bar_of_day("24/7", W1, date(2024, 12, 31)) == span("2024-12-30T00:00", "2025-01-06T00:00")


def test_a_month_is_the_sessions_that_its_days_name() -> None:
    assert bar_of_day("XNYS", MO1, date(2024, 3, 29)) == span("2024-03-01T14:30", "2024-03-28T20:00")
    assert bar_of_day("CME", MO1, date(2024, 8, 17)) == span("2024-07-31T22:00", "2024-08-30T21:00")
    assert bar_of_day("24/7", MO1, date(2024, 2, 10)) == span("2024-02-01T00:00", "2024-03-01T00:00")
    assert rows(grid("FX", MO1, span("2024-06-01T00:00", "2024-07-31T00:00"))) == [
        span("2024-06-02T21:00", "2024-06-28T21:00"),
        span("2024-06-30T21:00", "2024-07-31T21:00"),
    ]


@settings(max_examples=50)
@given(calendars, st.sampled_from([D1, W1, MO1]), st.dates(date(2006, 1, 1), date(2027, 1, 1)))
def test_every_session_is_in_the_one_bar_that_its_label_names(
    calendar: Calendar, timeframe: Timeframe, day: date
) -> None:
    week = Span(datetime.combine(day, time(), UTC), datetime.combine(day + 7 * DAY, time(), UTC))
    for session in sessions(calendar, week):
        bar = bar_of_day(calendar, timeframe, session.label)
        assert bar is not None
        assert bar.start <= session.opened_at < session.closed_at <= bar.end
        assert bar_at(calendar, timeframe, bar.start) == bar


# --- Real bars ----------------------------------------------------------------------------------------------------


def opens_in(path: Path, column: str) -> pl.Series:
    return pl.read_csv(path, infer_schema=False)[column].str.to_datetime(time_unit="us", time_zone="UTC")


def beside_the_grid(calendar: Calendar, opens: pl.Series) -> list[str]:
    """The hourly bars that open where none does."""
    bars = grid(calendar, H1, Span(opens[0], opens[-1] + MOMENT))
    return opens.filter(~opens.is_in(bars["opened_at"].implode())).dt.strftime("%Y-%m-%d %H:%M").to_list()


def holes_in(calendar: Calendar, opens: pl.Series) -> list[str]:
    """Runs of hours of the grid without a bar, as `2024-11-20 20:00 11`."""
    bars = grid(calendar, H1, Span(opens[0], opens[-1] + MOMENT))["opened_at"]
    there = zip(bars, bars.is_in(opens.implode()), strict=True)
    runs = [[at for at, _ in run] for stored, run in groupby(there, lambda each: each[1]) if not stored]
    return [f"{run[0]:%Y-%m-%d %H:%M} {len(run)}" for run in runs]


def test_every_hour_of_the_bundled_sample_is_on_its_grid() -> None:
    opens = {symbol: opens_in(path, "opened_at") for symbol, path in SAMPLE_FILES.items()}
    assert {symbol: len(each) for symbol, each in opens.items()} == {"BTC-USD": 4_321, "EUR-USD": 3_105}
    assert [beside_the_grid(instrument_for(symbol).calendar, each) for symbol, each in opens.items()] == [[], []]
    assert holes_in("24/7", opens["BTC-USD"]) == []
    assert holes_in("FX", opens["EUR-USD"]) == ["2017-12-24 22:00 1", "2017-12-25 08:00 14"]


@pytest.fixture(scope="module")
def hourly() -> Path:
    """The folder of hourly reference files, or a skip that says why."""
    folder = Path(os.environ.get("QUANTAGENT_REFERENCE_DATA", "")) / "data" / "trio_1h_2024_25"
    if not os.environ.get("QUANTAGENT_REFERENCE_DATA") or not folder.is_dir():
        pytest.skip("QUANTAGENT_REFERENCE_DATA names no folder with data/trio_1h_2024_25: real futures are not placed")
    return folder


BLACK_FRIDAY, CHRISTMAS_EVE = (
    [f"{day} {hour}:30" for hour in (14, 15, 16, 17)] for day in ("2024-11-29", "2024-12-24")
)
INDEX_FUTURES_HOLES = ["2025-01-13 08:00 10", "2025-01-20 03:00 21", "2025-01-28 17:00 3", "2025-02-11 18:00 74"]


@pytest.mark.parametrize(
    ("symbol", "half_hours", "holes"),
    [
        (
            "CL",
            BLACK_FRIDAY + CHRISTMAS_EVE,
            ["2024-11-20 20:00 11", "2025-01-20 16:00 10", "2025-01-21 06:00 1", "2025-02-17 05:00 6"],
        ),
        ("ES", [], INDEX_FUTURES_HOLES),
        ("NQ", [], INDEX_FUTURES_HOLES),
        ("SPX", [], ["2025-01-27 17:30 203"]),
    ],
)
def test_real_bars_are_on_the_grid_and_nothing_is_missing_that_is_not_known_to_be(
    hourly: Path, symbol: str, half_hours: list[str], holes: list[str]
) -> None:
    opens = opens_in(hourly / f"{symbol}_1h.csv", "ts_utc")
    calendar = instrument_for(symbol).calendar
    assert beside_the_grid(calendar, opens) == half_hours
    assert holes_in(calendar, opens) == holes
