"""Yahoo's answers in the shape in which it gave them, and an HTTP session that gives them without a network.

The session is curl_cffi's own class with `request` replaced: everything above the socket is what runs in earnest.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from curl_cffi import requests

from engine.core.market import Calendar
from engine.data.calendars import Span, sessions

Number = float | None
ROBOT = "<html><head><title>Yahoo</title></head><body>Will you accept cookies?</body></html>"
NOT_FOUND = "No data found, symbol may be delisted"


class YahooRow(NamedTuple):
    """One row of a chart: prices as Yahoo tells them, None for what it writes as null."""

    at: datetime
    open: Number
    high: Number
    low: Number
    close: Number
    volume: int | None = 0


class YahooResponse(NamedTuple):
    text: str
    status: int = 200


ChartService = Callable[[str, dict[str, Any]], YahooResponse]
"""What the chart service answers for a name and the parameters of the request."""


class LocalYahoo(requests.Session[requests.Response]):
    """Answers for Yahoo's hosts. `asked` are the charts that were asked for; `strangers` all other addresses."""

    def __init__(self, charts: ChartService) -> None:
        super().__init__()
        self.charts = charts
        self.chart_requests: list[tuple[str, dict[str, Any]]] = []
        self.other_requests: list[str] = []

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        answer = self._answer(url, kwargs.get("params") or {})
        response = requests.Response()
        response.url, response.content = url, answer.text.encode()
        response.status_code, response.ok = answer.status, answer.status < 400
        return response

    def _answer(self, url: str, params: dict[str, Any]) -> YahooResponse:
        address = urlsplit(url)
        if address.hostname in ("fc.yahoo.com", "guce.yahoo.com"):
            return YahooResponse(ROBOT, 404)
        if address.path == "/v1/test/getcrumb":
            return YahooResponse("kRuMb.012345")
        prefix, _, name = address.path.rpartition("/")
        if address.hostname == "query2.finance.yahoo.com" and prefix == "/v8/finance/chart":
            self.chart_requests.append((name, params))
            return self.charts(name, params)
        self.other_requests.append(url)
        raise AssertionError(f"a request to {url}")


def error(description: str, code: str = "Not Found", status: int = 404) -> YahooResponse:
    return YahooResponse(
        json.dumps({"chart": {"result": None, "error": {"code": code, "description": description}}}), status
    )


def chart(
    rows: Sequence[YahooRow],
    *,
    zone: str = "America/New_York",
    interval: str = "60m",
    periods: Iterable[Span] = (),
    name: str = "^GSPC",
    **meta: object,
) -> YahooResponse:
    """A chart with these rows. `periods` are the trading hours, which intraday charts tell."""
    chart_meta: dict[str, object] = {
        "currency": "USD",
        "symbol": name,
        "exchangeName": "SNP",
        "instrumentType": "INDEX",
        "firstTradeDate": -1325583000,
        "regularMarketTime": 1740000000,
        "hasPrePostMarketData": True,
        "gmtoffset": -18000,
        "timezone": "EST",
        "exchangeTimezoneName": zone,
        "regularMarketPrice": 6013.13,
        "priceHint": 2,
        "currentTradingPeriod": {
            part: {"timezone": "EST", "start": 1740000000, "end": 1740020000, "gmtoffset": -18000}
            for part in ("pre", "regular", "post")
        },
        "dataGranularity": interval,
        "range": "",
        "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
    }
    if interval[-1] in "mh":
        hours = [{"timezone": "EST", "start": seconds(a), "end": seconds(b), "gmtoffset": -18000} for a, b in periods]
        chart_meta["tradingPeriods"] = [[one] for one in hours]
    columns = ("open", "high", "low", "close", "volume")
    quote = {column: [in_32_bits(getattr(row, column)) for row in rows] for column in columns}
    indicators: dict[str, object] = {"quote": [quote if rows else {}]}
    if interval[-1] not in "mh":
        # As if dividends of a half had been paid since.
        indicators["adjclose"] = [{"adjclose": [close and close / 2 for close in quote["close"]]}]
    result: dict[str, object] = {"meta": {**chart_meta, **meta}, "indicators": indicators}
    if rows:
        result["timestamp"] = [seconds(row.at) for row in rows]
    return YahooResponse(json.dumps({"chart": {"result": [result], "error": None}}))


def in_32_bits(number: Number) -> Number:
    """A price as Yahoo writes it: all digits of a number of 32 bits."""
    if number is None or isinstance(number, int):
        return number
    return struct.unpack("f", struct.pack("f", number))[0]


def seconds(at: datetime) -> int:
    return int(at.timestamp())


def hours_of(calendar: Calendar, span: Span, zone: str = "America/New_York") -> list[Span]:
    """The trading hours that Yahoo tells: those of shares; all others trade from midnight to 23:59 of each day."""
    if calendar == "XNYS":
        return [Span(one.opened_at, one.closed_at) for one in sessions(calendar, span)]
    days = [
        (span.start + timedelta(days=n)).astimezone(ZoneInfo(zone)) for n in range((span.end - span.start).days + 1)
    ]
    return [
        Span(at.replace(hour=0, minute=0, second=0), at.replace(hour=23, minute=59, second=0, fold=1)) for at in days
    ]


def serve_charts(rows: Sequence[YahooRow], calendar: Calendar, zone: str = "America/New_York") -> ChartService:
    """A chart service that has these rows and answers for what it is asked: a part of them, or none."""

    def answer(name: str, params: dict[str, Any]) -> YahooResponse:
        start, end = (datetime.fromtimestamp(params[key], UTC) for key in ("period1", "period2"))
        found = [row for row in rows if start <= row.at < end]
        periods = hours_of(calendar, Span(start - timedelta(days=2), end), zone) if found else []
        return chart(found, zone=zone, interval=params["interval"], periods=periods, name=name)

    return answer


def midnight(year: int, month: int, day: int, zone: str = "America/New_York") -> datetime:
    """The instant of a date in Yahoo's answers: midnight there."""
    return datetime(year, month, day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
