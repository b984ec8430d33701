"""When trading sessions end. Pure arithmetic: no table of zones or holidays is read, so that no update of one changes
a book.

A session that a holiday shortens ends here at its usual time: an order for the day works until then, and finds no bar
to be filled in.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from engine.market import Calendar

_DAY = timedelta(days=1)
_NEW_YORK_ENDS: dict[Calendar, time] = {
    "FX": time(17),
    "CME": time(17),
    "NYMEX": time(17),
    "XNYS": time(16),
}
"""When a calendar's session ends in New York, on the days that have one."""


def session_end(calendar: Calendar, at: datetime, roll_hour: int) -> datetime:
    """The first end of a session after an instant, in UTC.

    Around the clock a session ends at the session roll. FX, CME and NYMEX end at 17:00 in New York, XNYS at 16:00,
    from Monday to Friday.
    """
    hour = _NEW_YORK_ENDS.get(calendar)
    if hour is None:
        end = datetime.combine(at.date(), time(roll_hour), UTC)
        return end if end > at else end + _DAY
    day = at.date()
    while (end := in_new_york(day, hour)) <= at or day.weekday() > _FRIDAY:
        day += _DAY
    return end


def session_ends_within(calendar: Calendar, at: datetime, roll_hour: int, span: timedelta) -> bool:
    """Whether the session under way at an instant is over by the end of a span of time."""
    return session_end(calendar, at, roll_hour) <= at + span


_FRIDAY = 4


def in_new_york(day: date, clock: time) -> datetime:
    """What the clocks of New York show on a day, from 03:00 on, in UTC: four hours behind in summer, five in winter."""
    behind = 4 if _is_summer(day) else 5
    return datetime.combine(day, clock, UTC) + timedelta(hours=behind)


def _is_summer(day: date) -> bool:
    """Whether New York has summer time on a day, once the night in which clocks are changed is over.

    From the second Sunday of March to the first of November (Energy Policy Act of 2005); before 2007 from the first
    Sunday of April to the last of October, and that is taken for all years before.
    """
    if day.year >= 2007:
        return _sunday(day.year, 3, 8) <= day < _sunday(day.year, 11, 1)
    return _sunday(day.year, 4, 1) <= day < _sunday(day.year, 10, 25)


def _sunday(year: int, month: int, first: int) -> date:
    """The first Sunday on or after a day of a month."""
    day = date(year, month, first)
    return day + timedelta(days=6 - day.weekday())
