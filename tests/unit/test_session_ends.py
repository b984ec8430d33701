"""Session ends, against the time zone database that the program does without."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from engine.core.market import Calendar
from engine.core.session_ends import Schedule
from engine.data.calendars import Span, session_hours, sessions

NEW_YORK = ZoneInfo("America/New_York")
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
USUAL = Schedule()
DAYS = [date(1990, 1, 1) + n * DAY for n in range((date(2036, 1, 1) - date(1990, 1, 1)).days)]


@pytest.mark.parametrize(("calendar", "hour"), [("FX", 17), ("CME", 17), ("NYMEX", 17), ("XNYS", 16)])
def test_sessions_end_in_the_afternoon_of_new_york_on_every_weekday_of_46_years(calendar: Calendar, hour: int) -> None:
    ends = [datetime.combine(day, time(hour), NEW_YORK).astimezone(UTC) for day in DAYS if day.weekday() < 5]
    for end, following in pairwise(ends):
        assert USUAL.end_after(calendar, end - SECOND) == end
        assert USUAL.end_after(calendar, end) == following
        assert USUAL.end_after(calendar, end + SECOND) == following


@pytest.mark.parametrize("hours", range(0, 72, 7))
def test_after_friday_comes_monday(hours: int) -> None:
    friday = datetime(2024, 1, 5, 22, tzinfo=UTC)
    assert USUAL.end_after("FX", friday + timedelta(hours=hours)) == datetime(2024, 1, 8, 22, tzinfo=UTC)


@pytest.mark.parametrize("roll_hour", [0, 17, 23])
def test_around_the_clock_a_session_ends_at_the_roll(roll_hour: int) -> None:
    roll = datetime(2024, 2, 29, roll_hour, tzinfo=UTC)
    schedule = Schedule(["24/7"], roll_hour=roll_hour)
    assert schedule.end_after("24/7", roll - SECOND) == roll
    assert schedule.end_after("24/7", roll) == roll + DAY
    assert schedule.end_after("24/7", roll + SECOND) == roll + DAY


# --- Frozen sessions ----------------------------------------------------------------------------------------------

YEARS = Span(datetime(2018, 1, 1, tzinfo=UTC), datetime(2025, 12, 31, tzinfo=UTC))


@pytest.mark.parametrize("calendar", ["FX", "CME", "NYMEX", "XNYS"])
def test_orders_and_rolls_go_by_the_sessions_of_the_data(calendar: Calendar) -> None:
    schedule = Schedule([calendar], session_hours([calendar], *YEARS))
    ends = [session.closed_at for session in sessions(calendar, YEARS)]
    for end, following in pairwise(ends):
        assert schedule.end_after(calendar, end - SECOND) == end
        assert schedule.end_after(calendar, end) == following
        assert (schedule.roll_by(end), schedule.roll_after(end)) == (end, end)
        assert (schedule.roll_by(end + SECOND), schedule.roll_after(end + SECOND)) == (end, following)


def test_a_half_day_ends_early_and_a_holiday_has_no_session() -> None:
    christmas = Span(datetime(2024, 12, 23, tzinfo=UTC), datetime(2024, 12, 27, tzinfo=UTC))
    schedule = Schedule(["XNYS"], session_hours(["XNYS"], *christmas))
    noon = datetime(2024, 12, 24, 17, tzinfo=UTC)
    assert schedule.end_after("XNYS", noon) == datetime(2024, 12, 24, 18, tzinfo=UTC)
    assert schedule.end_after("XNYS", noon + timedelta(hours=1)) == datetime(2024, 12, 26, 21, tzinfo=UTC)
    assert schedule.ends_within("XNYS", noon + timedelta(minutes=30), timedelta(hours=1))


def test_several_markets_roll_when_the_last_of_a_day_closes_and_one_around_the_clock_waits_for_it() -> None:
    span = Span(datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 9, tzinfo=UTC))
    schedule = Schedule(["24/7", "XNYS", "NYMEX"], session_hours(["24/7", "XNYS", "NYMEX"], *span))
    friday = datetime(2024, 7, 5, 21, tzinfo=UTC)
    assert schedule.roll_after(friday - DAY / 4) == friday
    # Bitcoin's weekend belongs to Monday.
    assert schedule.roll_after(friday + DAY) == datetime(2024, 7, 8, 21, tzinfo=UTC)


def test_an_hour_of_the_profile_decides_alone() -> None:
    schedule = Schedule(["XNYS"], session_hours(["XNYS"], *YEARS), 22)
    at = datetime(2024, 7, 6, 12, tzinfo=UTC)
    assert (schedule.roll_by(at), schedule.roll_after(at)) == (at.replace(day=5, hour=22), at.replace(hour=22))


def test_of_a_day_frozen_twice_the_first_counts() -> None:
    (hours,) = session_hours(["XNYS"], datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 5, tzinfo=UTC))
    moved = tuple((opened, closed - timedelta(hours=1)) for opened, closed in hours.sessions)
    other = type(hours)(hours.calendar, hours.first, hours.last, moved)
    noon = datetime(2024, 7, 2, 16, tzinfo=UTC)
    assert Schedule(["XNYS"], [hours, other]).end_after("XNYS", noon) == datetime(2024, 7, 2, 20, tzinfo=UTC)
    assert Schedule(["XNYS"], [other, hours]).end_after("XNYS", noon) == datetime(2024, 7, 2, 19, tzinfo=UTC)
