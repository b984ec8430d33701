"""Yahoo through yfinance and its real HTTP session, over answers in the shape that Yahoo gives. No network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from curl_cffi import requests

from engine.core.errors import NotFound, ProviderUnavailable, QuantagentError
from engine.core.market import Instrument, Timeframe, instrument_for
from engine.data.calendars import Span, bar_of_day, grid
from engine.data.providers import load_provider
from engine.data.providers.rate_limit import ATTEMPTS, RateLimiter
from engine.data.providers.yahoo import DELAY, DELAY_MARGIN, Yahoo
from tests.support.yahoo_answers import (
    NOT_FOUND,
    ROBOT,
    ChartService,
    LocalYahoo,
    YahooResponse,
    YahooRow,
    chart,
    error,
    hours_of,
    midnight,
    serve_charts,
)
from ui.cli.remedies import sentence

SPX, CL, BTC, EUR = (instrument_for(symbol) for symbol in ("SPX", "CL", "BTC-USD", "EUR-USD"))
VIX, CHICAGO = instrument_for("VIX"), "America/Chicago"
WEDNESDAY = Span(datetime(2025, 2, 19, tzinfo=UTC), datetime(2025, 2, 20, tzinfo=UTC))
LATER = datetime(2025, 2, 24, tzinfo=UTC)

Ask = Callable[..., pl.DataFrame]


class World:
    """A provider, what it is connected to, and how long it slept."""

    def __init__(self) -> None:
        self.sessions: list[LocalYahoo] = []
        self.slept: list[float] = []
        self.at = LATER

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)

    def yahoo(self, charts: ChartService, **limits: Any) -> Yahoo:
        budget = RateLimiter("yahoo", now=lambda: self.at, sleep=self.sleep, **limits)

        def session() -> LocalYahoo:
            self.sessions.append(LocalYahoo(charts))
            return self.sessions[-1]

        return Yahoo(session=session, rate_limiter=budget)

    @property
    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        return [asked for session in self.sessions for asked in session.chart_requests]


@pytest.fixture
def world() -> Iterator[World]:
    """Fails the test that asked anybody but Yahoo."""
    made = World()
    yield made
    for session in made.sessions:
        session.close()
    assert [stranger for session in made.sessions for stranger in session.other_requests] == []


def hourly(instrument: Instrument, span: Span, price: float = 6000.13) -> list[YahooRow]:
    opens = grid(instrument.calendar, Timeframe.H1, span)["opened_at"]
    return [
        YahooRow(at, price + n, price + n + 2.5, price + n - 2.5, price + n + 1, 1_000 + n)
        for n, at in enumerate(opens)
    ]


def always(answer: YahooResponse) -> ChartService:
    return lambda name, params: answer


def hour(at: int, minute: int = 30) -> datetime:
    return datetime(2025, 2, 19, at, minute, tzinfo=UTC)


# --- What it tells ------------------------------------------------------------------------------------------------


def test_bars_come_in_utc_with_the_digits_they_were_quoted_with(world: World) -> None:
    rows = hourly(SPX, WEDNESDAY)
    told = world.yahoo(serve_charts(rows, "XNYS")).fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    assert told.schema["opened_at"] == pl.Datetime("us", "UTC")
    assert told.rows() == [tuple(row) for row in rows]
    assert [name for name, _ in world.asked] == ["^GSPC"]
    assert world.asked[0][1]["interval"] == "60m"


def test_a_price_of_eight_digits_keeps_its_cents(world: World) -> None:
    row = YahooRow(hour(14, 0), 104585.36, 104590.12, 104000.01, 104585.37, 7)
    yahoo = world.yahoo(serve_charts([row], "24/7", zone="UTC"))
    assert yahoo.fetch(BTC, Timeframe.H1, WEDNESDAY, LATER).rows() == [tuple(row)]


def test_the_last_half_hour_of_the_index_is_a_bar(world: World) -> None:
    yahoo = world.yahoo(serve_charts(hourly(SPX, WEDNESDAY), "XNYS"))
    closed_at = hour(21, 0)
    before, after = (
        yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, closed_at + DELAY + DELAY_MARGIN + late)["opened_at"].to_list()
        for late in (timedelta(seconds=-1), timedelta(0))
    )
    assert after[-1] == hour(20, 30)
    assert before == after[:-1]


def test_the_bar_into_which_the_latest_trade_was_mixed_is_left_out(world: World) -> None:
    # Yahoo tells the trade of 16:07 as a row of its own; yfinance adds it to the hour from 15:30, volume and all.
    finished, forming = hourly(SPX, WEDNESDAY)[:2]
    now_row = YahooRow(hour(16, 7) + timedelta(seconds=21), 6010.5, 6010.5, 6010.5, 6010.5, forming.volume)
    yahoo = world.yahoo(serve_charts([finished, forming, now_row], "XNYS"))
    mixed = yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    assert mixed.rows()[-1][1:] == (forming.open, 6010.5, forming.low, 6010.5, 2 * 1_001)
    told = yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, hour(16, 22))
    assert told.rows() == [tuple(finished)]


def test_rows_without_prices_are_left_out(world: World) -> None:
    first, second, third = hourly(SPX, WEDNESDAY)[:3]
    rows = [first, YahooRow(second.at, None, None, None, None, None), third._replace(close=None)]
    told = world.yahoo(serve_charts(rows, "XNYS")).fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    assert told.rows() == [tuple(first)]


def test_half_hours_come_of_quarters(world: World) -> None:
    quarters = grid("XNYS", Timeframe.M15, WEDNESDAY)["opened_at"]
    yahoo = world.yahoo(serve_charts([YahooRow(at, 10, 12, 9, 11, 5) for at in quarters], "XNYS"))
    told = yahoo.fetch(SPX, Timeframe.M30, WEDNESDAY, LATER)
    assert world.asked[0][1]["interval"] == "15m"
    assert told["opened_at"].to_list() == grid("XNYS", Timeframe.M30, WEDNESDAY)["opened_at"].to_list()
    assert set(told["volume"]) == {10}


@pytest.mark.parametrize("day", [datetime(2025, 3, 9, tzinfo=UTC), datetime(2024, 11, 3, tzinfo=UTC)])
def test_the_days_on_which_the_clocks_are_changed_have_all_their_hours_once(world: World, day: datetime) -> None:
    weekend = Span(day - timedelta(days=2), day + timedelta(days=2))
    rows = hourly(CL, weekend, price=70.5)
    told = world.yahoo(serve_charts(rows, "NYMEX")).fetch(CL, Timeframe.H1, weekend, day + timedelta(days=9))
    assert told.rows() == [tuple(row) for row in rows]


DATES = [(2025, 2, 13), (2025, 2, 14), (2025, 2, 18), (2025, 2, 19)]


@pytest.mark.parametrize(("instrument", "zone"), [(SPX, "America/New_York"), (CL, "America/New_York"), (BTC, "UTC")])
def test_dates_are_the_sessions_that_they_name(world: World, instrument: Instrument, zone: str) -> None:
    rows = [YahooRow(midnight(*day, zone), 100.5 + n, 102, 99, 101.25, n) for n, day in enumerate(DATES)]
    span = Span(datetime(2025, 2, 13, tzinfo=UTC) - timedelta(days=1), WEDNESDAY.start + timedelta(hours=18))
    told = world.yahoo(serve_charts(rows, instrument.calendar, zone)).fetch(instrument, Timeframe.D1, span, LATER)
    bars = [bar_of_day(instrument.calendar, Timeframe.D1, datetime(*day, tzinfo=UTC).date()) for day in DATES]
    assert told["opened_at"].to_list() == [bar.start for bar in bars if bar]
    assert told["volume"].to_list() == [0, 1, 2, 3]
    assert told["close"].to_list() == [101.25] * 4, "as it was quoted then, whatever dividends came later"


def test_the_session_that_opens_in_the_evening_is_named_by_the_day_after(world: World) -> None:
    yahoo = world.yahoo(serve_charts([YahooRow(midnight(2025, 2, 20), 72.1, 72.9, 71.5, 72.48, 9)], "NYMEX"))
    opens = hour(23, 0)
    told = yahoo.fetch(CL, Timeframe.D1, Span(opens, opens + timedelta(seconds=1)), LATER)
    assert told["opened_at"].to_list() == [opens]


@pytest.mark.parametrize(
    ("timeframe", "interval", "names", "opens"),
    [
        # The week of Washington's birthday begins on its Tuesday.
        (Timeframe.W1, "1wk", (2025, 2, 17), datetime(2025, 2, 18, 14, 30, tzinfo=UTC)),
        (Timeframe.MO1, "1mo", (2025, 2, 1), datetime(2025, 2, 3, 14, 30, tzinfo=UTC)),
    ],
)
def test_weeks_and_months_open_with_their_first_session(
    world: World, timeframe: Timeframe, interval: str, names: tuple[int, int, int], opens: datetime
) -> None:
    yahoo = world.yahoo(serve_charts([YahooRow(midnight(*names), 6000, 6100, 5900, 6050, 9)], "XNYS"))
    span = Span(opens, opens + timedelta(hours=1))
    assert yahoo.fetch(SPX, timeframe, span, datetime(2025, 4, 1, tzinfo=UTC))["opened_at"].to_list() == [opens]
    assert yahoo.fetch(SPX, timeframe, span, datetime(2025, 2, 20, tzinfo=UTC)).is_empty(), "it has not closed"
    assert world.asked[0][1]["interval"] == interval
    assert world.asked[0][1]["period1"] <= midnight(*names).timestamp()


# --- No bars, and no answer ---------------------------------------------------------------------------------------


NO_BARS = [
    chart([], periods=hours_of("XNYS", WEDNESDAY)),
    chart([]),
    error("Data doesn't exist for startDate = 1739923200, endDate = 1740009600", "Bad Request", 400),
]


@pytest.mark.parametrize("answer", NO_BARS)
def test_no_bars_are_no_rows(world: World, answer: YahooResponse) -> None:
    yahoo = world.yahoo(always(answer))
    assert yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER).is_empty()
    assert str(yahoo.rate_limiter) == "yahoo: 999 of 1,000 calls left this hour"


def test_nothing_is_asked_about_the_future(world: World) -> None:
    yahoo = world.yahoo(always(YahooResponse(ROBOT)))
    assert yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, WEDNESDAY.start).is_empty()
    assert world.asked == []


def test_a_delisted_symbol_is_not_found_and_asked_for_once(world: World) -> None:
    yahoo = world.yahoo(always(error(NOT_FOUND)))
    with pytest.raises(NotFound, match=r"yahoo knows no GONE, .* symbols.toml"):
        yahoo.fetch(Instrument("GONE", calendar="XNYS"), Timeframe.H1, WEDNESDAY, LATER)
    # yfinance asks again with another cookie.
    assert len(world.asked) == 2
    assert world.slept == []


GOOD = chart(hourly(SPX, WEDNESDAY), periods=hours_of("XNYS", WEDNESDAY))
UNUSABLE = {
    "out of reach": error("The requested range must be within the last 730 days.", "Unprocessable Entity", 422),
    "refused for its cookie": YahooResponse('{"finance": {"result": null, "error": {"code": "Unauthorized"}}}', 401),
    "no JSON object": YahooResponse("[]"),
    "another shape": YahooResponse(
        '{"chart": {"result": [{"indicators": {"quote": [{"open": [1]}]}}], "error": null}}'
    ),
    "a zone that is none": YahooResponse(GOOD.text.replace("America/New_York", "Mars/Phobos")),
    "text for a volume": YahooResponse(GOOD.text.replace("1000,", '"x",')),
    "down": YahooResponse("Will be right back..."),
}


@pytest.mark.parametrize("answer", UNUSABLE.values(), ids=UNUSABLE)
def test_an_answer_that_cannot_be_used_says_so_in_a_sentence(world: World, answer: YahooResponse) -> None:
    with pytest.raises(ProviderUnavailable) as raised:
        world.yahoo(always(answer)).fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    assert "1h bars of SPX" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert world.slept == []


@pytest.mark.parametrize("timeframe", [Timeframe.H1, Timeframe.D1])
def test_times_of_another_zone_than_the_calendars_are_refused(world: World, timeframe: Timeframe) -> None:
    tokyo = serve_charts([YahooRow(hour(15), 1, 1, 1, 1)], "XNYS", "Asia/Tokyo")
    with pytest.raises(ProviderUnavailable, match=r"SPX in the zone Asia/Tokyo, .* XNYS use America/New_York"):
        world.yahoo(tokyo).fetch(SPX, timeframe, WEDNESDAY, LATER)


@pytest.mark.parametrize(
    ("instrument", "zone", "remedy"),
    [
        (
            Instrument("MSFT"),
            "America/New_York",
            r"--calendar XNYS \(or CME, NYMEX, FX\) of `quantagent data fetch MSFT`",
        ),
        (Instrument("MSFT", calendar="CME"), "America/Chicago", "--calendar XNYS of `quantagent data fetch MSFT`"),
        (Instrument("BTC-EUR", calendar="FX"), "UTC", "--calendar 24/7 of `quantagent data fetch BTC-EUR`"),
        (Instrument("DAX"), "Europe/Berlin", "no calendar uses that zone, import the bars from a file"),
    ],
)
def test_bars_of_another_calendar_are_refused_with_the_one_to_give(
    world: World, instrument: Instrument, zone: str, remedy: str
) -> None:
    elsewhere = serve_charts(hourly(SPX, WEDNESDAY), "XNYS", zone)
    with pytest.raises(ProviderUnavailable, match=rf"{instrument.symbol} in the zone {zone}, ") as refused:
        world.yahoo(elsewhere).fetch(instrument, Timeframe.H1, WEDNESDAY, LATER)
    assert re.search(rf"{remedy}\.$", sentence(refused.value))


@pytest.mark.parametrize(("symbol", "name"), [("MSFT", "MSFT"), ("BRK.B", "BRK-B")])
def test_a_share_that_is_not_built_in_is_told_once_its_calendar_is(world: World, symbol: str, name: str) -> None:
    rows = hourly(SPX, WEDNESDAY)
    yahoo = world.yahoo(serve_charts(rows, "XNYS")).renamed({"BRK.B": "BRK-B"})
    told = yahoo.fetch(Instrument(symbol, calendar="XNYS"), Timeframe.H1, WEDNESDAY, LATER)
    assert told.rows() == [tuple(row) for row in rows]
    assert [asked for asked, _ in world.asked] == [name]


def test_the_vix_is_told_in_the_time_of_chicago_and_has_the_sessions_of_new_york(world: World) -> None:
    hours = hourly(VIX, WEDNESDAY, price=15.27)
    told = world.yahoo(serve_charts(hours, "XNYS", CHICAGO)).fetch(VIX, Timeframe.H1, WEDNESDAY, LATER)
    assert told.rows() == [tuple(row) for row in hours]
    days = [YahooRow(midnight(*day, CHICAGO), 15.5 + n, 17, 14, 15.27, 0) for n, day in enumerate(DATES)]
    span = Span(midnight(*DATES[0]), midnight(2025, 2, 20))
    told = world.yahoo(serve_charts(days, "XNYS", CHICAGO)).fetch(VIX, Timeframe.D1, span, LATER)
    assert told["opened_at"].to_list() == [datetime(*day, 14, 30, tzinfo=UTC) for day in DATES]
    assert told["open"].to_list() == [15.5, 16.5, 17.5, 18.5]


# --- Refusals and patience ----------------------------------------------------------------------------------------


def failing(times: int, failure: YahooResponse | Exception, rows: list[YahooRow]) -> ChartService:
    """Fails so many times, and serves the rows from then on."""
    left = [failure] * times

    def answer(name: str, params: dict[str, Any]) -> YahooResponse:
        if not left:
            return serve_charts(rows, "XNYS")(name, params)
        failed = left.pop()
        if isinstance(failed, Exception):
            raise failed
        return failed

    return answer


TRANSIENT = {
    "429": (YahooResponse("Too Many Requests", 429), "HTTP 429"),
    "503": (YahooResponse("<html>Service Unavailable</html>", 503), "a page instead of prices"),
    "html": (YahooResponse(ROBOT), "a page instead of prices"),
    "truncated": (YahooResponse(GOOD.text[:-40]), "cut off"),
    "timeout": (requests.exceptions.ReadTimeout("timed out after 15 s"), "ReadTimeout"),
    "no network": (requests.exceptions.DNSError("could not resolve host"), "DNSError"),
}


@pytest.mark.parametrize(("failure", "said"), TRANSIENT.values(), ids=TRANSIENT)
def test_what_may_pass_is_tried_again_after_a_pause(
    world: World, failure: YahooResponse | Exception, said: str
) -> None:
    rows = hourly(SPX, WEDNESDAY)
    yahoo = world.yahoo(failing(1, failure, rows))
    told = yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    assert told.rows() == [tuple(row) for row in rows]
    forever = world.yahoo(failing(99, failure, rows))
    with pytest.raises(ProviderUnavailable, match=said) as raised:
        forever.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    assert f"did not answer for 1h bars of SPX in {ATTEMPTS} attempts" in str(raised.value)
    assert "refused 4 times in a row" in str(forever.rate_limiter)


def test_a_provider_that_keeps_refusing_is_left_alone_for_a_while(world: World) -> None:
    rows = hourly(SPX, WEDNESDAY)
    # yfinance asks twice for what it reports once.
    yahoo = world.yahoo(failing(8, YahooResponse("Too Many Requests", 429), rows), refusals_max=4)
    with pytest.raises(ProviderUnavailable, match="4 attempts"):
        yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    asked = len(world.asked)
    with pytest.raises(ProviderUnavailable, match=r"refused 4 calls in a row .* after 2025-02-24T00:15"):
        yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    assert len(world.asked) == asked
    world.at += timedelta(minutes=15)
    assert yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER).height == len(rows)


def test_a_process_has_one_budget_for_yahoo_however_often_it_is_found() -> None:
    first, second = load_provider("yahoo"), load_provider("yahoo")
    assert isinstance(first, Yahoo)
    assert isinstance(second, Yahoo)
    assert first.rate_limiter is second.rate_limiter is second.renamed({"SPX": "SPY"}).rate_limiter
    assert Yahoo(rate_limiter=RateLimiter("yahoo")).rate_limiter is not first.rate_limiter


def test_the_same_question_is_asked_anew_and_not_answered_from_memory(world: World) -> None:
    rows = hourly(SPX, WEDNESDAY)
    corrected = [rows[0]._replace(close=6001.0), *rows[1:]]
    answers = iter([serve_charts(rows, "XNYS"), serve_charts(corrected, "XNYS")])
    yahoo = world.yahoo(lambda name, params: next(answers)(name, params))
    closes = [yahoo.fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)["close"][0] for _ in range(2)]
    assert closes == [rows[0].close, 6001.0]
    assert len(world.asked) == 2, "one request for prices each, and none for the zone"


def test_nothing_is_kept_on_disk(world: World) -> None:
    world.yahoo(always(GOOD)).fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
    cache: Any = import_module("yfinance.cache")
    places = [manager.get_location() for manager in (cache._TzDBManager, cache._CookieDBManager, cache._ISINDBManager)]
    assert not any(Path(place).exists() for place in places)


# --- Reach --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeframe", "back_days", "call_days"),
    [("1m", 30, 7), ("5m", 60, None), ("15m", 60, None), ("30m", 60, None), ("1h", 730, None), ("1d", None, None)],
)
def test_its_history_ends_where_yahoos_does(
    world: World, timeframe: str, back_days: int | None, call_days: int | None
) -> None:
    yahoo, frame, day = world.yahoo(always(chart([]))), Timeframe(timeframe), timedelta(days=1)
    reach = yahoo.reach(SPX, frame)
    assert reach is not None
    assert (reach.back is None) == (back_days is None)
    if reach.back is not None and back_days is not None:
        assert timedelta(0) < back_days * day - reach.back <= day
        edge = LATER - reach.back
        assert yahoo.fetch(SPX, frame, Span(edge, edge + day), LATER).is_empty()
        with pytest.raises(ProviderUnavailable, match=f"of the last {back_days} days only"):
            yahoo.fetch(SPX, frame, Span(edge - day, edge), LATER)
    assert reach.call == (call_days and call_days * day)
    if call_days is not None:
        with pytest.raises(ProviderUnavailable, match=f"for {call_days} days per call"):
            yahoo.fetch(SPX, frame, Span(LATER - (call_days + 1) * day, LATER), LATER)


@pytest.mark.parametrize(("instrument", "timeframe"), [(SPX, "4h"), (EUR, "1d"), (EUR, "1w")])
def test_bars_that_are_not_ours_are_not_offered(world: World, instrument: Instrument, timeframe: str) -> None:
    yahoo = world.yahoo(always(chart([])))
    assert yahoo.reach(instrument, Timeframe(timeframe)) is None
    with pytest.raises(ProviderUnavailable, match="resample smaller bars"):
        yahoo.fetch(instrument, Timeframe(timeframe), WEDNESDAY, LATER)


def test_a_symbol_without_a_name_of_yahoos_is_asked_for_by_its_own(world: World) -> None:
    yahoo = world.yahoo(always(chart([]))).renamed({"SPX": "SPY", "OIL": "BZ=F"})
    for symbol in ("MSFT", "SPX", "OIL", "CL"):
        yahoo.fetch(Instrument(symbol, calendar="XNYS"), Timeframe.H1, WEDNESDAY, LATER)
    assert [name for name, _ in world.asked] == ["MSFT", "SPY", "BZ=F", "CL=F"]


def test_a_name_that_yfinance_does_not_take_is_an_error_of_ours(world: World) -> None:
    with pytest.raises(ProviderUnavailable, match=r"1h bars of SPX cannot be read \(ValueError: Empty ticker name"):
        world.yahoo(always(GOOD)).renamed({"SPX": ""}).fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)


def test_no_answer_brings_another_error_than_ours(world: World) -> None:
    # Every prefix of a good answer, and the good answer with any one word of it replaced.
    text = chart(hourly(SPX, WEDNESDAY)[:1], periods=hours_of("XNYS", WEDNESDAY)).text
    spoilt = [text[:end] for end in range(0, len(text), 97)]
    spoilt += [text.replace(word, other) for word in text.split(" ") for other in ("null,", "[]", "-1,", "1e999,")]
    for answer in spoilt:
        try:
            told = world.yahoo(always(YahooResponse(answer))).fetch(SPX, Timeframe.H1, WEDNESDAY, LATER)
            assert told.height <= 1
        except QuantagentError:
            pass
