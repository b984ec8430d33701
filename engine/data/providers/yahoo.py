"""Provider of bars from Yahoo through yfinance: unadjusted, in UTC, closed bars only.

Yahoo's terms allow personal use only. yfinance is called for one symbol at a time, set to raise its errors, and stores
nothing on disk. It loads pandas, so the first call imports it.
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
"""Delay of Yahoo's prices of futures and indices."""
DELAY_MARGIN = timedelta(minutes=5)
"""Time after `DELAY` in which Yahoo may still change a bar. Younger bars are not used: yfinance adds the latest trade
to an unfinished bar, and counts its volume twice."""
REACH_MARGIN = timedelta(hours=1)
"""Reduction of the reach below Yahoo's limit, which Yahoo counts from the time it receives the request."""
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
    # Yahoo has the VIX in the time of Chicago; its dates are the same.
    "XNYS": (_NEW_YORK, _CHICAGO),
    "CME": (_NEW_YORK,),
    "NYMEX": (_NEW_YORK,),
    "FX": (_LONDON, _NEW_YORK),
}
"""Time zones that Yahoo uses for the markets of a calendar. Its dates are those of the calendar's sessions, except for
FX, where its days begin at midnight in London."""

# yfinance has one connection, one configuration and one cache of answers in a process.
_LIBRARY = Lock()


class Yahoo:
    """Bars from Yahoo. Symbols that are not in the table of names are used as they are."""

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
        """Create a provider.

        names: Yahoo's names of symbols; session: factory of the HTTP session, of curl_cffi or requests; rate_limiter:
        a limiter of its own instead of that of the process.
        """
        self.names = dict(shipped_names(self.name) if names is None else names)
        self.rate_limiter = rate_limiter or _default_rate_limiter()
        self._make_session = session or _browser_session
        self._session: object = None

    def renamed(self, own: Mapping[Symbol, str]) -> Yahoo:
        """Return the provider with a user's names, which take precedence over the bundled ones."""
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
            raise ProviderUnavailable(
                f"yahoo has no {what} that begin and end as those of the calendar do: resample smaller bars."
            )
        if reach.back is not None and span.start < now - reach.back - REACH_MARGIN:
            raise ProviderUnavailable(
                f"yahoo has {what} of the last {reach.back.days + 1} days only: request them from "
                f"{format_instant(now - reach.back)} on, or import older ones from a file."
            )
        if reach.call is not None and span.end - span.start > reach.call:
            raise ProviderUnavailable(f"yahoo has {what} for {reach.call.days} days per call: request shorter spans.")

    def _request(self, instrument: Instrument, timeframe: Timeframe, span: Span, what: str) -> pl.DataFrame:
        """Return Yahoo's rows of a span. Raise `RetryLater` if it refuses or cannot be reached."""
        name = self.names.get(instrument.symbol, instrument.symbol)
        with _LIBRARY, catch_warnings():
            yfinance = _library()
            # yfinance 1.7 uses functions that pandas 3.1 deprecates, and enables these warnings on import.
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
    # Only requests in local time need the zone. yfinance would spend a call on it, or ten for an unknown symbol.
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
    """Return the limiter of the process: Yahoo counts calls by IP address."""
    return RateLimiter(Yahoo.name)


@lru_cache(maxsize=1)
def _browser_session() -> object:
    """Return one session for all symbols: yfinance would create one for each, and its cached cookies belong to one."""
    return import_module("curl_cffi.requests").Session(impersonate="chrome")


def _library() -> Any:
    """Return yfinance, configured to raise its errors and not to log, retry or cache."""
    yfinance: Any = import_module("yfinance")
    yfinance.config.debug.hide_exceptions = False
    yfinance.config.network.retries = 0
    # A folder that cannot be created: yfinance would store zones and cookies in SQLite, which locks, and unpickle them.
    yfinance.set_tz_cache_location(os.path.join(os.devnull, "none"))
    getLogger("yfinance").setLevel(CRITICAL)
    # The cache of past bars may hold incomplete responses, or bars that Yahoo has corrected since.
    import_module("yfinance.data").YfData.cache_get.cache_clear()
    return yfinance


def _with_labels(span: Span) -> Span:
    """Extend a span to the dates of all sessions, weeks and months that open in it.

    A date is a midnight: after the open of futures, and before the first session of a week or month. Weeks must be
    requested from a Monday on and months from the first day, because Yahoo cuts them at the start of the request.
    """
    day = span.start.date()
    start = min(day - day.weekday() * _DAY, day.replace(day=1))
    return Span(datetime(start.year, start.month, start.day, tzinfo=UTC), span.end + _DAY)


def _is_no_bars_error(error: Exception, ticker: Any) -> bool:
    """Return True if an error of yfinance means that a known symbol has no bars in the span."""
    if type(error).__name__ != "YFPricesMissingError":
        return False
    reason: str | None = getattr(error, "yahoo_reason", None)
    if reason is not None:
        return reason.startswith("Data doesn't exist for startDate")
    # The public method fails for a chart without trading hours.
    metadata: Any = getattr(getattr(ticker, "_price_history", None), "_history_metadata", None) or {}
    return "exchangeTimezoneName" in metadata


def _translate_error(error: Exception, name: str, what: str) -> Exception:
    """Convert an error of yfinance to one of this project."""
    description = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    kind = type(error).__name__
    if kind == "YFRateLimitError":
        return RetryLater("HTTP 429, too many requests")
    if kind == "YFPricesMissingError":
        reason = getattr(error, "yahoo_reason", None) or "no reason given"
        if "No data found" in reason or "Not Found" in reason:
            return NotFound(
                f"yahoo knows no {name}, requested for {what}: it may be delisted, or have another name there; write "
                "that name into symbols.toml."
            )
        return ProviderUnavailable(f"yahoo has no {what} ({reason}): choose another span or timeframe.")
    if isinstance(error, JSONDecodeError):
        return RetryLater("its response was cut off, or a page instead of prices")
    # The base class of all errors of curl_cffi.
    if isinstance(error, OSError):
        return RetryLater(description)
    return ProviderUnavailable(f"the response of yahoo for {what} cannot be read ({description}): retry later.")


def _rows(table: Any, instrument: Instrument, timeframe: Timeframe) -> pl.DataFrame:
    """Convert a table of yfinance to rows, without those that lack a price.

    Raise `ValueError` for times without a zone, `ProviderUnavailable` for a zone that does not fit the calendar.
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
    """Raise `ProviderUnavailable` unless the zone fits the calendar: dates would mean other sessions otherwise."""
    symbol, expected = instrument.symbol, _ZONES[instrument.calendar]
    if zone in expected:
        return
    differing = (
        f"yahoo has the times of {symbol} in the zone {zone}, and markets of the calendar {instrument.calendar} use "
        f"{' or '.join(expected)}"
    )
    fitting = [calendar for calendar, zones in _ZONES.items() if zone in zones]
    if not fitting:
        raise ProviderUnavailable(f"{differing}: no calendar uses that zone, import the bars from a file.")
    others = f" (or {', '.join(fitting[1:])})" if fitting[1:] else ""
    raise ProviderUnavailable(
        f"{differing}.", "CALENDAR_ZONE_DIFFERS", calendars=f"{fitting[0]}{others}", symbol=symbol
    )


def _opens(dates: list[date], rows: pl.DataFrame, instrument: Instrument, timeframe: Timeframe) -> pl.Series:
    """Return the opens of the bars of dates; a date without a bar keeps its midnight."""
    bars = (bar_of_day(instrument.calendar, timeframe, day) for day in dates)
    opens = [bar.start if bar else midnight for bar, midnight in zip(bars, rows["opened_at"], strict=True)]
    return pl.Series("opened_at", opens, TIME)


def _as_quoted(price: str) -> pl.Expr:
    """Return an expression for a price with the digits of its quote.

    Yahoo stores most prices in 32 bits and returns all their digits: 69.80000305 for 69.80. The shortest text of the
    32-bit number is the quote; numbers that are not 32-bit numbers do not change.
    """
    short = pl.col(price).cast(pl.Float32)
    return (
        pl.when(short.cast(pl.Float64) == pl.col(price))
        .then(short.cast(pl.String).cast(pl.Float64))
        .otherwise(pl.col(price))
        .alias(price)
    )
