"""Session ends, against the time zone database that the program does without."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from engine.calendars import session_end
from engine.market import Calendar

NEW_YORK = ZoneInfo("America/New_York")
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
DAYS = [date(1990, 1, 1) + n * DAY for n in range((date(2036, 1, 1) - date(1990, 1, 1)).days)]


@pytest.mark.parametrize(("calendar", "hour"), [("FX", 17), ("CME", 17), ("NYMEX", 17), ("XNYS", 16)])
def test_sessions_end_in_the_afternoon_of_new_york_on_every_weekday_of_46_years(calendar: Calendar, hour: int) -> None:
    ends = [datetime.combine(day, time(hour), NEW_YORK).astimezone(UTC) for day in DAYS if day.weekday() < 5]
    for end, following in pairwise(ends):
        assert session_end(calendar, end - SECOND, 0) == end
        assert session_end(calendar, end, 0) == following
        assert session_end(calendar, end + SECOND, 0) == following


@pytest.mark.parametrize("hours", range(0, 72, 7))
def test_after_friday_comes_monday(hours: int) -> None:
    friday = datetime(2024, 1, 5, 22, tzinfo=UTC)
    assert session_end("FX", friday + timedelta(hours=hours), 0) == datetime(2024, 1, 8, 22, tzinfo=UTC)


@pytest.mark.parametrize("roll_hour", [0, 17, 23])
def test_around_the_clock_a_session_ends_at_the_roll(roll_hour: int) -> None:
    roll = datetime(2024, 2, 29, roll_hour, tzinfo=UTC)
    assert session_end("24/7", roll - SECOND, roll_hour) == roll
    assert session_end("24/7", roll, roll_hour) == roll + DAY
    assert session_end("24/7", roll + SECOND, roll_hour) == roll + DAY
