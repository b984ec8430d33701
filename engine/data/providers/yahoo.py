"""Yahoo's prices through yfinance: raw, in UTC, finished bars only. For personal use, as Yahoo's terms have it.

yfinance is asked for one symbol at a time, tells its errors, and keeps nothing on disk. It loads pandas, so it is
imported by the first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib import import_module
from json import JSONDecodeError
from logging import CRITICAL, getLogger
from threading import Lock
from typing import Any
from warnings import catch_warnings, simplefilter

import polars as pl

from engine.core.errors import NotFound, ProviderUnavailable
from engine.core.market import Calendar, Instrument, Symbol, Timeframe
from engine.data.bar_rules import format_instant
from engine.data.calendars import Span, bar_of_day
from engine.data.encoding import NUMBERS, PRICES
from engine.data.providers import Reach
from engine.data.providers.rate_limit import RateLimiter, RetryLater
from engine.data.providers.rows import COLUMNS, TIME, closed_rows, no_rows
from engine.data.providers.symbols import shipped_names

DELAY = timedelta(minutes=15)
"""How late Yahoo shows what futures and indices did."""
DELAY_MARGIN = timedelta(minutes=5)
"""And how much later it may still change it. A bar is taken only when it closed that long ago: in an unfinished one
yfinance has mixed the latest trade, with its volume counted twice."""
REACH_MARGIN = timedelta(hours=1)
"""Told is a reach that is so much shorter: Yahoo counts from when it hears the question."""
TIMEOUT_S = 15

_DAY = timedelta(days=1)
_OFFERED: dict[Timeframe, tuple[str, Reach]] = {
    Timeframe.M1: ("1m", Reach(30 * _DAY - REACH_MARGIN, 7 * _DAY)),
    Timeframe.M5: ("5m", Reach(60 * _DAY - REACH_MARGIN)),
    Timeframe.M15: ("15m", Reach(60 * _DAY - REACH_MARGIN)),
    Timeframe.M30: ("30m", Reach(60 * _DAY - REACH_MARGIN)),
    Timeframe.H1: ("60m", Reach(730 * _DAY - REACH_MARGIN)),
    Timeframe.D1: ("1d", Reach()),
    Timeframe.W1: ("1wk", Reach()),
    Timeframe.MO1: ("1mo", Reach()),
}
_NEW_YORK, _CHICAGO, _LONDON = "America/New_York", "America/Chicago", "Europe/London"
_ZONES: dict[Calendar, tuple[str, ...]] = {
    "24/7": ("UTC",),
    # The VIX is told in the time of Chicago: its dates are the same days.
    "XNYS": (_NEW_YORK, _CHICAGO),
    "CME": (_NEW_YORK,),
    "NYMEX": (_NEW_YORK,),
    "FX": (_LONDON, _NEW_YORK),
}
"""Whose clocks Yahoo goes by in the markets of a calendar. Its dates are those of the calendar's sessions, but for FX,
where its days begin at midnight in London."""

# yfinance has one connection, one configuration and one cache of answers in a process.
_LIBRARY = Lock()


class Yahoo:
    """Bars from Yahoo, of the symbols that its table names and of all others by their own names."""

    name = "yahoo"
    synthetic = False
    remembers = True

    def __init__(
        self,
        names: Mapping[Symbol, str] | None = None,
        *,
        session: Callable[[], object] | None = None,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        """names: what Yahoo calls our symbols; session: makes the HTTP session, of curl_cffi or requests; budget: one
        of its own instead of that of the process."""
        self.names = dict(shipped_names(self.name) if names is None else names)
        self.rate_limiter = rate_limiter or _default_rate_limiter()
        self._make_session = session or _browser_session
        self._session: object = None

    def renamed(self, own: Mapping[Symbol, str]) -> Yahoo:
        """The same with a user's names, which go before those that are shipped."""
        return Yahoo({**self.names, **own}, session=self._make_session, rate_limiter=self.rate_limiter)

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        if timeframe not in _OFFERED or (instrument.calendar == "FX" and not timeframe.is_intraday):
            return None
        return _OFFERED[timeframe][1]

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        what = f"{timeframe} bars of {instrument.symbol}"
        self._check_reach(instrument, timeframe, span, now, what)
        known_at = now - DELAY - DELAY_MARGIN
        if span.start >= min(span.end, known_at):
            return no_rows()
        requested = span if timeframe.is_intraday else _with_labels(span)
        rows = self.rate_limiter.call(lambda: self._request(instrument, timeframe, requested, what), what)
        return closed_rows(rows, instrument, timeframe, span, known_at)

    def _check_reach(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime, what: str) -> None:
        reach = self.reach(instrument, timeframe)
        if reach is None:
            raise ProviderUnavailable(f"yahoo has no {what} that begin and end as ours do: make them of smaller bars.")
        if reach.back is not None and span.start < now - reach.back - REACH_MARGIN:
            raise ProviderUnavailable(
                f"yahoo has {what} of the last {reach.back.days + 1} days only: ask from "
                f"{format_instant(now - reach.back)} on, or import older ones from a file."
            )
        if reach.call is not None and span.end - span.start > reach.call:
            raise ProviderUnavailable(f"yahoo gives {what} for {reach.call.days} days at once: ask in shorter spans.")

    def _request(self, instrument: Instrument, timeframe: Timeframe, span: Span, what: str) -> pl.DataFrame:
        """What Yahoo tells of a span; `TryAgain` when it refuses or is not heard."""
        name = self.names.get(instrument.symbol, instrument.symbol)
        with _LIBRARY, catch_warnings():
            yfinance = _library()
            # Its version 1.7 calls what pandas 3.1 deprecates, and asks to be told of it when it is imported.
            simplefilter("ignore")
            self._session = self._session or self._make_session()
            ticker: Any = None
            try:
                ticker = yfinance.Ticker(name, session=self._session)
                table = _history(ticker, timeframe, span)
            except Exception as error:
                if _is_no_bars_error(error, ticker):
                    return no_rows()
                raise _translate_error(error, name, what) from error
        try:
            return _rows(table, instrument, timeframe)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _translate_error(error, name, what) from error


def _history(ticker: Any, timeframe: Timeframe, span: Span) -> Any:
    # Only questions in local times need the zone, and yfinance would spend a request on it, or ten when the symbol is
    # unknown.
    ticker._tz = "UTC"
    return ticker.history(
        start=span.start,
        end=span.end,
        interval=_OFFERED[timeframe][0],
        auto_adjust=False,
        actions=False,
        prepost=False,
        timeout=TIMEOUT_S,
    )


@lru_cache(maxsize=1)
def _default_rate_limiter() -> RateLimiter:
    """One for all of a process: Yahoo counts what comes from an address, whoever asks there."""
    return RateLimiter(Yahoo.name)


@lru_cache(maxsize=1)
def _browser_session() -> object:
    """The session that yfinance makes for each symbol anew: its cookies belong to what yfinance remembers of them."""
    return import_module("curl_cffi.requests").Session(impersonate="chrome")


def _library() -> Any:
    """yfinance, told to raise its errors, to log and retry nothing by itself, and to forget."""
    yfinance: Any = import_module("yfinance")
    yfinance.config.debug.hide_exceptions = False
    yfinance.config.network.retries = 0
    # A folder that cannot be made: it keeps zones and cookies in SQLite, which locks, and reads them back by pickle.
    yfinance.set_tz_cache_location(os.path.join(os.devnull, "none"))
    getLogger("yfinance").setLevel(CRITICAL)
    # It answers questions about the past from memory: also with half an answer, and when Yahoo has corrected it since.
    import_module("yfinance.data").YfData.cache_get.cache_clear()
    return yfinance


def _with_labels(span: Span) -> Span:
    """A span that holds the dates of all sessions, weeks and months that open in the given one.

    A date is a midnight: after the open of futures, and before the first session of a week or month. Weeks are asked
    for from a Monday on and months from the first, because Yahoo cuts them where the question begins.
    """
    day = span.start.date()
    start = min(day - day.weekday() * _DAY, day.replace(day=1))
    return Span(datetime(start.year, start.month, start.day, tzinfo=UTC), span.end + _DAY)


def _is_no_bars_error(error: Exception, ticker: Any) -> bool:
    """Whether an error means that the symbol is known and has no bars in the span: yfinance says it like a failure."""
    if type(error).__name__ != "YFPricesMissingError":
        return False
    reason: str | None = getattr(error, "yahoo_reason", None)
    if reason is not None:
        return reason.startswith("Data doesn't exist for startDate")
    # Its public method fails on the trading hours of a chart without any.
    metadata: Any = getattr(getattr(ticker, "_price_history", None), "_history_metadata", None) or {}
    return "exchangeTimezoneName" in metadata


def _translate_error(error: Exception, name: str, what: str) -> Exception:
    """The error that a caller can act on."""
    description = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    kind = type(error).__name__
    if kind == "YFRateLimitError":
        return RetryLater("HTTP 429, too many requests")
    if kind == "YFPricesMissingError":
        reason = getattr(error, "yahoo_reason", None) or "no reason given"
        if "No data found" in reason or "Not Found" in reason:
            return NotFound(
                f"yahoo knows no {name}, asked for {what}: it may be delisted, or have another name there; write that "
                "name into symbols.toml."
            )
        return ProviderUnavailable(f"yahoo has no {what} to give ({reason}): ask for another span or timeframe.")
    if isinstance(error, JSONDecodeError):
        return RetryLater("its answer was cut off, or a page instead of prices")
    # Everything that curl_cffi raises is one.
    if isinstance(error, OSError):
        return RetryLater(description)
    return ProviderUnavailable(f"yahoo's answer for {what} is not understood ({description}): try again later.")


def _rows(table: Any, instrument: Instrument, timeframe: Timeframe) -> pl.DataFrame:
    """yfinance's table as rows of ours, without those that lack a price.

    Raises `ValueError` for times without a zone, `ProviderUnavailable` for a zone that is not the calendar's.
    """
    if table.index.tz is None:
        raise ValueError("its times have no zone")
    _check_zone(str(table.index.tz), instrument)
    columns = {number: table[number.capitalize()].to_numpy().astype("float64") for number in NUMBERS}
    opened: Any = table.index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]")
    rows = pl.DataFrame({"opened_at": opened, **columns}).with_columns(pl.col("opened_at").dt.replace_time_zone("UTC"))
    if not timeframe.is_intraday:
        rows = rows.with_columns(opened_at=_opens([at.date() for at in table.index], rows, instrument, timeframe))
    complete = rows.drop_nans(PRICES).drop_nulls(PRICES)
    return complete.with_columns(_as_quoted(price) for price in PRICES).select(COLUMNS)


def _check_zone(zone: str, instrument: Instrument) -> None:
    """In another zone its dates would name other sessions, and yfinance take other hours for closed ones."""
    symbol, ours = instrument.symbol, _ZONES[instrument.calendar]
    if zone in ours:
        return
    remedy = "no calendar of ours goes by that zone, import its bars from a file"
    fitting = [calendar for calendar, zones in _ZONES.items() if zone in zones]
    if fitting:
        others = f" (or {', '.join(fitting[1:])})" if fitting[1:] else ""
        remedy = f"give its calendar with --calendar {fitting[0]}{others} of `quantagent data fetch {symbol}`"
    raise ProviderUnavailable(
        f"yahoo's times of {symbol} are those of {zone}, and markets of the calendar {instrument.calendar} go by "
        f"{' or '.join(ours)}: {remedy}."
    )


def _opens(dates: list[date], rows: pl.DataFrame, instrument: Instrument, timeframe: Timeframe) -> pl.Series:
    """When the bars open that dates name; a date that names none stays its own midnight."""
    bars = (bar_of_day(instrument.calendar, timeframe, day) for day in dates)
    opens = [bar.start if bar else midnight for bar, midnight in zip(bars, rows["opened_at"], strict=True)]
    return pl.Series("opened_at", opens, TIME)


def _as_quoted(price: str) -> pl.Expr:
    """A price with the digits it was quoted with.

    Yahoo keeps most prices in 32 bits and tells all digits of that: 69.80000305 for 69.80. The shortest text that 32
    bits keep as the same number is the quote again; a number that is not one of 32 bits stays.
    """
    short = pl.col(price).cast(pl.Float32)
    return (
        pl.when(short.cast(pl.Float64) == pl.col(price))
        .then(short.cast(pl.String).cast(pl.Float64))
        .otherwise(pl.col(price))
        .alias(price)
    )
