"""Trading calendars: sessions of markets, and the grid of bars of a fully traded market.

A *session* is one trading day of a calendar, named by a date. The *grid* of a timeframe contains the bars of all
sessions. Intraday bars count from the open of their session and are cut at its close; a daily bar covers one session;
a weekly or monthly bar covers all sessions of an ISO week or month, from the first open to the last close.

In the calendar 24/7 a session is a UTC day. The others use New York time, from Monday to Friday:

- FX: from 17:00 of the previous day to 17:00, without holidays. On December 25 and January 1 some venues close while
  others quote for some hours (the bundled sample has nine): bars are valid there, and an hour without one is a gap.
- XNYS: from exchange_calendars, with holidays, half days and unplanned closures.
- CME (index futures) and NYMEX (oil and metals): from 18:00 of the previous day to 17:00, with a break of an hour.
  `_futures_close` lists the differences of their holidays and half days from those of XNYS.

No clock is read here. The table has no holidays that were announced after the release of the installed
exchange_calendars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.core.errors import BadInput
from engine.core.market import Calendar, SessionHours, Timeframe
from engine.core.session_ends import new_york_to_utc

if TYPE_CHECKING:
    import polars as pl

TABLE_FIRST, TABLE_LAST = date(1970, 1, 1), date(2050, 12, 31)
"""Days for which the holidays of New York are known. The exchange had other hours before; later ones are uncertain."""

# Days with bars: a monthly bar needs its whole month inside the table.
_IN_TABLE, _ANY_TIME = (date(1970, 2, 1), date(2050, 11, 30)), (date(1899, 1, 1), date(2200, 12, 31))

_DAY = timedelta(days=1)
# A day order placed at the last close of a run expires in a later session.
_MARGIN = timedelta(days=14)
_MONTH = timedelta(days=31)
_FRIDAY = 4


class Span(NamedTuple):
    """Time span in UTC, from `start` up to, but not including, `end`."""

    start: datetime
    end: datetime


class CalendarSession(NamedTuple):
    """Trading day of a calendar, in UTC. label: its day; the day of its close if it opens on the evening before."""

    label: date
    opened_at: datetime
    closed_at: datetime


def sessions(calendar: Calendar, span: Span) -> list[CalendarSession]:
    """Return the sessions that overlap a span, uncut and in order.

    Raise `BadInput` for a span outside the table of holidays, if the calendar has holidays.
    """
    labelled = _labelled(calendar, span.start.date(), span.end.date() + _DAY)
    return [session for session in labelled if session.opened_at < span.end and session.closed_at > span.start]


def session_hours(calendars: Iterable[Calendar], start: datetime, end: datetime) -> tuple[SessionHours, ...]:
    """Return the sessions of the calendars other than 24/7, from two weeks before `start` to two weeks after `end`.

    Days outside the table of holidays are omitted.
    """
    found: list[SessionHours] = []
    closing: set[Calendar] = {each for each in calendars if each != "24/7"}
    for calendar in sorted(closing):
        first, last = start.date() - _MARGIN, end.date() + _MARGIN
        if calendar != "FX":
            first, last = max(first, TABLE_FIRST), min(last, TABLE_LAST)
        if first <= last:
            labelled = _labelled(calendar, first, last)
            found.append(SessionHours(calendar, first, last, tuple((each[1], each[2]) for each in labelled)))
    return tuple(found)


def grid(calendar: Calendar, timeframe: Timeframe, span: Span) -> pl.DataFrame:
    """Return the bars of the grid that open in a span, in order: opened_at, closed_at (UTC, microseconds).

    Raise as `sessions` does.
    """
    import polars as pl

    bars = [
        bar
        for bar in _whole_periods(calendar, timeframe, span)
        if bar.closed_at > span.start and bar.opened_at < span.end
    ]
    times = pl.Datetime("us", "UTC")
    frame = pl.DataFrame([bar[1:] for bar in bars], {"opened_at": times, "closed_at": times}, orient="row")
    if timeframe.is_intraday:
        step = timeframe.duration // timedelta(microseconds=1)
        opens = pl.int_ranges(pl.col("opened_at").cast(pl.Int64), pl.col("closed_at").cast(pl.Int64), step)
        frame = frame.with_columns(opened_at=opens).explode("opened_at").with_columns(pl.col("opened_at").cast(times))
        closes = pl.min_horizontal(pl.col("opened_at") + timeframe.duration, "closed_at")
        frame = frame.with_columns(closed_at=closes)
    return frame.filter(pl.col("opened_at") >= span.start, pl.col("opened_at") < span.end)


def locate_in_grid(calendar: Calendar, timeframe: Timeframe, opens: pl.Series) -> pl.DataFrame:
    """Locate instants (UTC, microseconds) in the grid; return one row for each distinct instant.

    Columns: opened_at (the instant), closed_at (of the bar that opens then, null if none does) and trades (True if the
    market is known to be open). Only sessions near the instants are computed, so distant instants cost nothing;
    instants outside the table of holidays have no bar.
    """
    import polars as pl

    unique_opens = opens.drop_nulls().unique().sort().to_frame("opened_at")
    first, last = _ANY_TIME if calendar in ("24/7", "FX") else _IN_TABLE
    stretches = _instant_spans(unique_opens.filter(pl.col("opened_at").dt.date().is_between(first, last)))
    whole = [bar[1:] for span in stretches for bar in _whole_periods(calendar, timeframe, span)]
    times = pl.Datetime("us", "UTC")
    known = pl.DataFrame(whole, {"begins": times, "ends": times}, orient="row").unique("begins").sort("begins")
    found = unique_opens.join_asof(known, left_on="opened_at", right_on="begins")
    since, trades = pl.col("opened_at") - pl.col("begins"), pl.col("opened_at") < pl.col("ends")
    lasts = pl.lit(timeframe.duration) if timeframe.is_intraday else pl.col("ends") - pl.col("begins")
    opening = trades & (since.cast(pl.Int64) % lasts.cast(pl.Int64) == 0)
    closes = pl.min_horizontal(pl.col("opened_at") + lasts, "ends")
    return found.select("opened_at", closed_at=pl.when(opening).then(closes), trades=trades.fill_null(False))


def _instant_spans(opens: pl.DataFrame) -> list[Span]:
    """Return spans that cover all instants, in order, without gaps of over a month between instants of a span."""
    import polars as pl

    after = (pl.col("opened_at").diff() > _MONTH).fill_null(False).cum_sum()
    ends = opens.group_by(after.alias("stretch"), maintain_order=True).agg(
        first=pl.col("opened_at").first(), last=pl.col("opened_at").last()
    )
    instants = ends.select("first", "last").iter_rows()
    return [Span(first.astimezone(UTC), last.astimezone(UTC) + timedelta.resolution) for first, last in instants]


def bar_at(calendar: Calendar, timeframe: Timeframe, opened_at: datetime) -> Span | None:
    """Return the bar of the grid that opens at an instant, or None. Raise as `sessions` does."""
    for bar in _whole_periods(calendar, timeframe, Span(opened_at, opened_at + timedelta.resolution)):
        if not timeframe.is_intraday and bar.opened_at == opened_at:
            return Span(bar.opened_at, bar.closed_at)
        if timeframe.is_intraday and not (opened_at - bar.opened_at) % timeframe.duration:
            return Span(opened_at, min(opened_at + timeframe.duration, bar.closed_at))
    return None


def bar_of_day(calendar: Calendar, timeframe: Timeframe, day: date) -> Span | None:
    """Return the daily, weekly or monthly bar of a date: the label of a session, or any date of the week or month.

    Return None if that day, week or month has no session. Raise as `sessions` does.
    """
    assert not timeframe.is_intraday, f"a date names no bar of {timeframe}"
    first, last = _period(timeframe, day)
    found = _labelled(calendar, first, last)
    return Span(found[0].opened_at, found[-1].closed_at) if found else None


def _whole_periods(calendar: Calendar, timeframe: Timeframe, span: Span) -> list[CalendarSession]:
    """Return the sessions, weeks or months that may overlap a span, uncut and in order, each with its last label."""
    if timeframe.is_intraday:
        return sessions(calendar, span)
    first, _ = _period(timeframe, span.start.date())
    _, last = _period(timeframe, span.end.date() + _DAY)
    together = [list(each) for _, each in groupby(_labelled(calendar, first, last), _KEYS[timeframe])]
    return [CalendarSession(each[-1].label, each[0].opened_at, each[-1].closed_at) for each in together]


# Adjacent days, weeks or months have different keys.
_KEYS: dict[Timeframe, Callable[[CalendarSession], int]] = {
    Timeframe.D1: lambda session: session.label.day,
    Timeframe.W1: lambda session: session.label.isocalendar().week,
    Timeframe.MO1: lambda session: session.label.month,
}


def _period(timeframe: Timeframe, day: date) -> tuple[date, date]:
    """Return the first and last day of the day, ISO week or month of a date."""
    if timeframe is Timeframe.W1:
        monday = day - day.weekday() * _DAY
        return monday, monday + 6 * _DAY
    if timeframe is Timeframe.MO1:
        first = day.replace(day=1)
        return first, (first + 31 * _DAY).replace(day=1) - _DAY
    return day, day


# --- Calendars ----------------------------------------------------------------------------------------------------


def _labelled(calendar: Calendar, first: date, last: date) -> list[CalendarSession]:
    """Return the sessions with labels in a range of days, both ends included."""
    days = [first + n * _DAY for n in range((last - first).days + 1)]
    if calendar == "24/7":
        return [CalendarSession(day, midnight := datetime.combine(day, time(), UTC), midnight + _DAY) for day in days]
    weekdays = [day for day in days if day.weekday() <= _FRIDAY]
    if calendar == "FX":
        return [_overnight(day, time(17), time(17)) for day in weekdays]
    if first < TABLE_FIRST or last > TABLE_LAST:
        raise BadInput(
            f"the holidays of {calendar} are known from {TABLE_FIRST} to {TABLE_LAST}, and sessions from {first} to "
            f"{last} were requested: choose a range inside the known one."
        )
    stocks = _stock_exchange()
    if calendar == "XNYS":
        return [stocks.sessions[day] for day in days if day in stocks.sessions]
    closes = [(day, _futures_close(calendar, day, stocks)) for day in weekdays]
    return [_overnight(day, time(18), close) for day, close in closes if close is not None]


def _overnight(day: date, opens: time, closes: time) -> CalendarSession:
    return CalendarSession(day, new_york_to_utc(day - _DAY, opens), new_york_to_utc(day, closes))


class _StockExchange(NamedTuple):
    """Table of XNYS: its sessions by label, and the weekdays of unplanned closures."""

    sessions: dict[date, CalendarSession]
    unplanned: frozenset[date]


def _futures_close(calendar: Calendar, day: date, stocks: _StockExchange) -> time | None:
    """Return the close of futures on a weekday, in New York time; None if they do not open.

    CME Group publishes the hours of each holiday (cmegroup.com/trading-hours), and they follow the stock exchange: no
    session on New Year's Day, Good Friday and Christmas, a short one on its other holidays and on its half days. These
    are the rules since 2022, checked against hourly bars of ES, NQ and CL from November 2024 to September 2025. They
    are applied to earlier years too, which is wrong in two cases: before 2014, index futures stopped on holidays at
    11:30 already; before September 2015, every full day ended 15 minutes later.
    """
    futures_on_stocks = calendar == "CME"
    session = stocks.sessions.get(day)
    if session is not None:
        if session.closed_at >= new_york_to_utc(day, time(16)):
            return time(17)
        if futures_on_stocks:
            return time(13, 15)
        # Oil and metals trade all day before Independence Day.
        return time(13, 45) if day.month > 10 else time(17)
    if day in stocks.unplanned:
        # For instance a day of mourning or a storm: index futures stop when stocks would have opened, others do not.
        return time(9, 30) if futures_on_stocks else time(17)
    if day.month in (3, 4):
        # Good Friday; in the first week of April the jobs report is published on that day at 8:30.
        return time(9, 15) if futures_on_stocks and day.month == 4 and day.day <= 7 else None
    if day.month == 12 or (day.month, day.day) <= (1, 2):
        return None
    # Oil and metals trade longer since 2022, unless the weekend follows.
    return time(13) if futures_on_stocks or day.year < 2022 or day.weekday() == _FRIDAY else time(14, 30)


@lru_cache(maxsize=1)
def _stock_exchange() -> _StockExchange:
    """Return the table of XNYS. The first call takes half a second; pandas is used only here."""
    import warnings

    with warnings.catch_warnings():
        # exchange_calendars 4.13 uses functions that pandas 3.1 deprecates.
        warnings.simplefilter("ignore")
        from exchange_calendars import get_calendar

        table: Any = get_calendar("XNYS", start=str(TABLE_FIRST), end=str(TABLE_LAST))
        opens, closes = (_datetimes(table.schedule[name]) for name in ("open", "close"))
        labels, unplanned = _datetimes(table.sessions), _datetimes(table.adhoc_holidays)
    found = [CalendarSession(label.date(), *times) for label, *times in zip(labels, opens, closes, strict=True)]
    return _StockExchange({session.label: session for session in found}, frozenset(at.date() for at in unplanned))


def _datetimes(timestamps: Any) -> list[datetime]:
    """Convert pandas timestamps to UTC datetimes; those without a zone (labels) are in UTC already."""
    found: list[datetime] = [at.to_pydatetime() for at in timestamps]
    return [at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC) for at in found]
