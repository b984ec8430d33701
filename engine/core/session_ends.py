"""Trading sessions of a run. They determine the expiry of DAY orders, the reset of the daily loss, and return periods.

Pure. The sessions come from `engine.data.calendars` and are frozen into the run when it starts, so that an updated
holiday table does not change a run. Days outside the frozen range, as in a manual account, end at the usual hours
below, without holidays.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from engine.core.config import RunConfig
from engine.core.market import Calendar, SessionHours

_DAY = timedelta(days=1)
_NEW_YORK_ENDS: dict[Calendar, time] = {
    "FX": time(17),
    "CME": time(17),
    "NYMEX": time(17),
    "XNYS": time(16),
}
"""Usual end of a calendar's session in New York time, from Monday to Friday."""

# Longer than any market closure in peacetime.
_SEARCH_DAYS_MAX = 30


class Schedule:
    """The sessions of a run's markets.

    calendars: calendars of the traded instruments. hours: frozen sessions; where they overlap, the first one applies.
    roll_hour: hour of the day, in UTC, at which a session ends according to the profile; None: use the calendars.
    """

    def __init__(
        self, calendars: Iterable[Calendar] = (), hours: Iterable[SessionHours] = (), roll_hour: int | None = None
    ) -> None:
        self.roll_hour = roll_hour
        # The session roll follows the markets that close; a 24/7 market counts only if there is no other.
        closing: set[Calendar] = {each for each in calendars if each != "24/7"}
        self._roll_calendars: tuple[Calendar, ...] = tuple(sorted(closing)) or ("24/7",)
        self._ends: dict[Calendar, dict[date, datetime | None]] = {}
        for frozen in hours:
            days = self._ends.setdefault(frozen.calendar, {})
            closes = {closed_at.date(): closed_at for _, closed_at in frozen.sessions}
            for n in range((frozen.last - frozen.first).days + 1):
                day = frozen.first + n * _DAY
                days.setdefault(day, closes.get(day))

    @classmethod
    def from_config(cls, config: RunConfig, hours: Iterable[SessionHours] = ()) -> Schedule:
        return cls((instrument.calendar for instrument in config.instruments), hours, config.session_roll_hour)

    # --- One market ---

    def end_after(self, calendar: Calendar, at: datetime) -> datetime:
        """Return the first session end of a calendar after an instant, in UTC."""
        day = at.date()
        while (end := self._end_on(calendar, day)) is None or end <= at:
            day += _DAY
        return end

    def ends_within(self, calendar: Calendar, at: datetime, span: timedelta) -> bool:
        """Return true if the current session at an instant ends within a span of time."""
        return self.end_after(calendar, at) <= at + span

    def _end_on(self, calendar: Calendar, day: date) -> datetime | None:
        """Return the end of the session that ends on a day; None if there is none."""
        frozen = self._ends.get(calendar)
        if frozen is not None and day in frozen:
            return frozen[day]
        hour = _NEW_YORK_ENDS.get(calendar)
        if hour is None:
            return datetime.combine(day, time(self.roll_hour or 0), UTC)
        return new_york_to_utc(day, hour) if day.weekday() <= _FRIDAY else None

    # --- The whole run ---

    def roll_by(self, at: datetime) -> datetime | None:
        """Return the latest session roll up to an instant; None if there was none for a month.

        A session of the run ends when the last of its markets closes that day; if all markets trade around the clock,
        at midnight UTC.
        """
        day = at.date()
        for _ in range(_SEARCH_DAYS_MAX):
            end = self._roll_on(day)
            if end is not None and end <= at:
                return end
            day -= _DAY
        return None

    def roll_after(self, at: datetime) -> datetime:
        """Return the first session roll at or after an instant."""
        day = at.date()
        while (end := self._roll_on(day)) is None or end < at:
            day += _DAY
        return end

    def _roll_on(self, day: date) -> datetime | None:
        if self.roll_hour is not None:
            return datetime.combine(day, time(self.roll_hour), UTC)
        ends = [end for calendar in self._roll_calendars if (end := self._end_on(calendar, day)) is not None]
        return max(ends, default=None)


_FRIDAY = 4


def new_york_to_utc(day: date, clock: time) -> datetime:
    """Convert New York time to UTC, from 03:00 on: four hours behind in summer, five in winter."""
    hours_behind = 4 if _is_summer(day) else 5
    return datetime.combine(day, clock, UTC) + timedelta(hours=hours_behind)


def _is_summer(day: date) -> bool:
    """Return true if New York has daylight saving time on a day, after a clock change in the night before.

    From the second Sunday of March to the first of November (Energy Policy Act of 2005). Before 2007 from the first
    Sunday of April to the last of October, which is applied to all earlier years.
    """
    if day.year >= 2007:
        return _sunday(day.year, 3, 8) <= day < _sunday(day.year, 11, 1)
    return _sunday(day.year, 4, 1) <= day < _sunday(day.year, 10, 25)


def _sunday(year: int, month: int, first: int) -> date:
    """Return the first Sunday on or after a day of a month."""
    day = date(year, month, first)
    return day + timedelta(days=6 - day.weekday())
