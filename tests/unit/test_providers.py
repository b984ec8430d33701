"""Providers found by name, the table of symbols, budgets, files, and made-up bars."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import invalidate_caches
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import BadInput, NotFound, ProviderUnavailable
from engine.core.market import BUILT_IN_INSTRUMENTS, Instrument, Symbol, Timeframe, instrument_for
from engine.data.calendars import Span, grid
from engine.data.encoding import PRICES
from engine.data.providers import Reach, load_provider, provider_names, symbols
from engine.data.providers.folder import Folder
from engine.data.providers.rate_limit import (
    ATTEMPTS,
    BACKOFF_MAX_S,
    BACKOFF_S,
    RateLimiter,
    RetryLater,
    backoff_s,
    hash_fraction,
)
from engine.data.providers.synthetic import PRICE_MODELS, Synthetic
from engine.data.providers.yahoo import Yahoo
from engine.data.validation import validate_bars
from ui.cli.remedies import sentence

DAY = timedelta(days=1)
NOW = datetime(2025, 6, 1, tzinfo=UTC)
BTC, EUR, SPX = (instrument_for(symbol) for symbol in ("BTC-USD", "EUR-USD", "SPX"))
YEAR_2017 = Span(datetime(2017, 1, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC))


# --- Found by name ------------------------------------------------------------------------------------------------


def test_what_comes_with_the_project_is_found() -> None:
    assert provider_names() == ["sample", "synthetic", "yahoo"]
    assert [(each.name, each.synthetic, each.remembers) for each in map(load_provider, provider_names())] == [
        ("sample", False, False),
        ("synthetic", True, False),
        ("yahoo", False, True),
    ]
    folder = load_provider("folder:bars")
    assert isinstance(folder, Folder)
    assert not folder.remembers, "all folders have one name, and what one lacks another may have"


def test_yfinance_and_pandas_are_loaded_by_the_first_call_only() -> None:
    program = (
        "import sys; from engine.data.providers import load_provider, provider_names; provider_names();"
        "assert 'polars' not in sys.modules; load_provider('yahoo');"
        "print(sorted({'yfinance', 'pandas', 'curl_cffi', 'exchange_calendars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_provider_is_told_those_there_are() -> None:
    with pytest.raises(
        BadInput, match="provider 'bloomberg' is unknown; the known ones are folder:PATH, sample, synthetic, yahoo"
    ):
        load_provider("bloomberg")


PACKAGE = """
class Mine:
    name, synthetic, remembers = "mine", False, True
    def reach(self, instrument, timeframe): return None
    def fetch(self, instrument, timeframe, span, now): return None

class Called(Mine):
    name = "other"

class Vague(Mine):
    synthetic = "no"

class Forgetful(Mine):
    remembers = None

class Mute(Mine):
    fetch = None

class Broken(Mine):
    def __init__(self): raise KeyError("API_KEY")

class Renamed(Mine):
    names = {}
    def renamed(self, names):
        new = type(self)()
        new.names = names
        return new
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a package whose entry point `mine` leads to an object of `PACKAGE`."""

    def install(object_: str, package: str = "bars-of-mine") -> None:
        (tmp_path / "bars_of_mine.py").write_text(PACKAGE)
        about = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[quantagent.providers]\nmine = bars_of_mine:{object_}\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        invalidate_caches()
        monkeypatch.delitem(sys.modules, "bars_of_mine", raising=False)

    return install


def test_a_provider_of_a_package_is_found(installed: Callable[..., None]) -> None:
    installed("Mine")
    assert "mine" in provider_names()
    assert load_provider("mine").name == "mine"


@pytest.mark.parametrize(
    ("object_", "fault"),
    [
        ("Called", "is no provider: its name is 'other'"),
        ("Vague", "is no provider: `synthetic` must be a bool"),
        ("Forgetful", "is no provider: `remembers` must be a bool"),
        ("Mute", "is no provider: it has no method `fetch`"),
        ("Broken", r"cannot be loaded: KeyError: 'API_KEY' \(bars_of_mine.py, line \d+\)"),
        ("Missing", "cannot be loaded: AttributeError"),
    ],
)
def test_a_package_without_a_provider_is_told_why(installed: Callable[..., None], object_: str, fault: str) -> None:
    installed(object_)
    with pytest.raises(BadInput, match=f"provider 'mine' of package bars-of-mine .* {fault}"):
        load_provider("mine")


def test_two_packages_with_one_name_are_told_apart(installed: Callable[..., None]) -> None:
    installed("Mine")
    installed("Renamed", package="more-bars")
    with pytest.raises(BadInput, match=r"is offered by .*more-bars.*: uninstall all but one"):
        load_provider("mine")


# --- Symbols ------------------------------------------------------------------------------------------------------


def test_every_built_in_symbol_has_a_name_at_yahoo() -> None:
    ours = {symbol for symbol in BUILT_IN_INSTRUMENTS if not symbol.endswith("=F")}
    assert set(symbols.shipped_names("yahoo")) == ours == set(PRICE_MODELS)
    assert symbols.shipped_names("sample") == {}


def test_a_users_names_go_before_those_that_are_shipped(tmp_path: Path) -> None:
    table = tmp_path / "symbols.toml"
    missing = load_provider("yahoo", table)
    table.write_text('[yahoo]\nSPX = "SPY"\n"BRK.B" = "BRK-B"\n')
    found = load_provider("yahoo", table)
    assert isinstance(missing, Yahoo)
    assert isinstance(found, Yahoo)
    assert missing.names == symbols.shipped_names("yahoo")
    assert found.names == {**missing.names, "SPX": "SPY", "BRK.B": "BRK-B"}


def test_a_package_gets_the_users_names_if_it_takes_any(installed: Callable[..., None], tmp_path: Path) -> None:
    installed("Renamed")
    table = tmp_path / "symbols.toml"
    table.write_text('[mine]\nSPX = "spx.us"\n[sample]\nSPX = "X"\n')
    assert getattr(load_provider("mine", table), "names", None) == {"SPX": "spx.us"}
    with pytest.raises(
        BadInput, match=r"names symbols for sample, which supports no other names: remove \[sample\] there"
    ):
        load_provider("sample", table)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[yahoo", "is not TOML"),
        ('SPX = "^GSPC"', "'SPX' is outside of a table"),
        ('[yahoo]\nspx = "^GSPC"', r"\[yahoo\]: symbol 'spx' is not usable"),
        ("[yahoo]\nSPX = 500", "the name of SPX is 500"),
        ('[yahoo]\nSPX = "a b"', "the name of SPX is 'a b'"),
        ('[yahoo]\nSPX = ""', "the name of SPX is ''"),
        ('[yahoo]\nBRK.B = "BRK-B"', "the name of BRK is {'B': 'BRK-B'}.*with quotes around symbols that have a dot"),
    ],
)
def test_a_table_of_another_shape_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    table = tmp_path / "symbols.toml"
    table.write_text(text)
    with pytest.raises(BadInput, match=rf"symbols\.toml.*{fault}") as raised:
        load_provider("yahoo", table)
    assert "SPX = " in str(raised.value) or "capitals" in str(raised.value)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "symbols.toml"
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="cannot be read"):
        load_provider("yahoo", table)


# --- Budgets ------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.at = NOW
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)


def budget(clock: Clock, **limits: float) -> RateLimiter:
    return RateLimiter("them", now=clock.now, sleep=clock.sleep, **limits)  # pyright: ignore[reportArgumentType]


def refuse() -> None:
    raise RetryLater("busy")


@given(waits=st.lists(st.floats(0, 5), max_size=30), burst=st.integers(1, 4))
def test_no_second_sees_more_calls_than_the_bucket_holds(waits: list[float], burst: int) -> None:
    clock = Clock()
    limited = budget(clock, burst=burst)
    calls: list[datetime] = []
    for wait in waits:
        clock.at += timedelta(seconds=wait)
        limited.call(lambda: calls.append(clock.at), "bars")
    for call in calls:
        # A microsecond is the clock's own step.
        late = [other for other in calls if call <= other < call + timedelta(seconds=1, microseconds=-len(calls))]
        assert len(late) <= burst + 1
    assert len(calls) <= burst + sum(waits) + sum(clock.slept) + 0.001


def test_a_bucket_of_one_spaces_calls_a_second_apart() -> None:
    clock = Clock()
    limited = budget(clock)
    for _ in range(3):
        limited.call(lambda: None, "bars")
    assert clock.slept == [1.0, 1.0]


def test_a_clock_that_is_set_back_stops_nobody() -> None:
    clock = Clock()
    limited = budget(clock)
    for _ in range(3):
        limited.call(lambda: None, "bars")
        clock.at -= timedelta(hours=3)
    assert max(clock.slept) <= 1


def test_this_hours_calls_are_counted_and_end() -> None:
    clock = Clock()
    limited = budget(clock, calls_per_hour=3, calls_per_s=10)
    for left in (2, 1, 0):
        limited.call(lambda: None, "bars")
        assert limited.calls_left == left
        assert str(limited) == f"them: {left} of 3 calls left this hour"
    with pytest.raises(
        ProviderUnavailable, match=r"3 calls an hour to them are used up, .* after 2025-06-01T01:00:00Z"
    ):
        limited.call(lambda: None, "bars")
    clock.at = NOW + timedelta(hours=1)
    limited.call(lambda: None, "bars")


def test_refusals_are_followed_by_growing_pauses_and_an_end() -> None:
    clock = Clock()
    limited = budget(clock, calls_per_s=1_000)
    with pytest.raises(ProviderUnavailable, match=rf"them did not answer for bars in {ATTEMPTS} attempts \(busy\)"):
        limited.call(refuse, "bars")
    assert limited.calls_left == 1_000 - ATTEMPTS
    assert [pause <= BACKOFF_S * 2**attempt for attempt, pause in enumerate(clock.slept, 1)] == [True] * (ATTEMPTS - 1)
    limited.call(lambda: None, "bars")
    assert str(limited).endswith("calls left this hour")


def test_the_breaker_opens_in_the_middle_of_attempts_and_again_at_the_first_refusal_after_the_rest() -> None:
    clock = Clock()
    limited = budget(clock, refusals_max=2)
    with pytest.raises(ProviderUnavailable, match="them refused 2 calls in a row and is not called for bars"):
        limited.call(refuse, "bars")
    assert "refused 2 times in a row, called again from 2025-06-01T00:15" in str(limited)
    clock.at += timedelta(minutes=15)
    with pytest.raises(ProviderUnavailable, match="refused 3 calls in a row"):
        limited.call(refuse, "bars")


def test_another_error_is_no_refusal() -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        budget(clock).call(lambda: 1 // 0, "bars")
    assert clock.slept == []


@given(st.integers(1, 40), st.text(max_size=9))
def test_pauses_are_bounded_and_follow_from_what_is_asked_and_when(attempt: int, what: str) -> None:
    pause = backoff_s(attempt, what, NOW)
    assert 0 <= pause < min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt)
    assert pause == backoff_s(attempt, what, NOW)
    assert pause != backoff_s(attempt, what, NOW + timedelta(microseconds=1))


@pytest.mark.parametrize(("attempt", "most"), [(1, 4), (2, 8), (3, 16), (4, 32), (5, 60), (50, 60)])
def test_pauses_may_be_twice_as_long_each_time_up_to_a_minute(attempt: int, most: float) -> None:
    pauses = [backoff_s(attempt, str(n), NOW) for n in range(400)]
    assert 0.95 * most < max(pauses) < most
    assert min(pauses) < 0.05 * most


def test_shares_lie_evenly_between_0_and_1() -> None:
    shares = [hash_fraction("bars", str(n)) for n in range(2_000)]
    tenths = [sum(low <= 10 * each < low + 1 for each in shares) for low in range(10)]
    assert sum(tenths) == 2_000
    assert min(tenths) > 150


# --- Files --------------------------------------------------------------------------------------------------------


def write(path: Path, *lines: str, header: str = "opened_at,open,high,low,close,volume") -> Path:
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def test_rows_are_told_as_they_stand_good_and_bad(tmp_path: Path) -> None:
    write(
        tmp_path / "BTC-USD_1h.csv",
        "2017-07-02T21:00:00Z,1.10,2,1,1.5,7",
        "2017-07-02T21:00:00Z,-1,nan,1,x,",
        "2017-07-02 19:30:00+02:00,1,2,1,1.5,7",
        "2017-07-02 22:00Z,1,2,1,1.5,7",
    )
    told = load_provider(f"folder:{tmp_path}").fetch(BTC, Timeframe.H1, YEAR_2017, NOW)
    assert [row[0].strftime("%H:%M") for row in told.rows()] == ["21:00", "21:00", "17:30", "22:00"]
    assert told["open"].to_list() == ["1.10", "-1", "1", "1"]
    assert told["close"].to_list() == ["1.5", "x", "1.5", "1.5"]
    # What it tells, the judge can read.
    assert len(validate_bars(told, BTC, Timeframe.H1, NOW).frame) == 2


def test_columns_may_have_other_names_and_volume_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "BTC-USD_1h.csv", "x,9,8,7,6,2017-07-02T21:00:00Z", header="src,Close,Low,HIGH,Open,ts_utc")
    told = Folder(tmp_path / "BTC-USD_1h.csv").fetch(BTC, Timeframe.H1, YEAR_2017, NOW)
    assert told.rows()[0][1:] == ("6", "7", "8", "9", "0")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_date_names_a_session(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame(
        {"Date": [date(2017, 7, 3), date(2017, 7, 5)], **dict.fromkeys(("open", "high", "low", "close"), 9.5)}
    )
    path = tmp_path / f"SPX_1d.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    told = Folder(tmp_path).fetch(SPX, Timeframe.D1, YEAR_2017, NOW)
    assert told["opened_at"].to_list() == [datetime(2017, 7, day, 13, 30, tzinfo=UTC) for day in (3, 5)]


@pytest.mark.parametrize("written", ["2017-07-02T21:00:00", "2017-07-02", "noon", ""])
def test_a_time_that_is_no_instant_is_refused_with_its_row(tmp_path: Path, written: str) -> None:
    write(tmp_path / "BTC-USD_1h.csv", "2017-07-02T21:00:00Z,1,2,1,1.5,7", f"{written},1,2,1,1.5,7")
    with pytest.raises(BadInput, match=r"BTC-USD_1h.csv, row 3: time ") as refused:
        Folder(tmp_path).fetch(BTC, Timeframe.H1, YEAR_2017, NOW)
    assert sentence(refused.value).endswith("import the file with `quantagent data import`.")


def test_times_without_a_zone_in_parquet_are_refused(tmp_path: Path) -> None:
    prices = dict.fromkeys(PRICES, 1.0)
    pl.DataFrame({"time": [datetime(2017, 7, 2, 21)], **prices}).write_parquet(tmp_path / "BTC-USD_1h.parquet")  # noqa: DTZ001
    with pytest.raises(BadInput, match=r"row 1: time .* has no zone"):
        Folder(tmp_path).fetch(BTC, Timeframe.H1, YEAR_2017, NOW)


def test_exact_numbers_of_parquet_keep_their_digits(tmp_path: Path) -> None:
    price = pl.Series([Decimal("1.10")], dtype=pl.Decimal(10, 2))
    frame = pl.DataFrame(
        {"time": [datetime(2017, 7, 2, 21, tzinfo=UTC)], **dict.fromkeys(("open", "high", "low", "close"), price)}
    )
    frame.write_parquet(tmp_path / "BTC-USD_1h.parquet")
    assert Folder(tmp_path).fetch(BTC, Timeframe.H1, YEAR_2017, NOW)["open"].to_list() == ["1.10"]


def test_a_folder_offers_what_its_files_are_named_after(tmp_path: Path) -> None:
    write(tmp_path / "BTC-USD_1h.csv", "2017-07-02T21:00:00Z,1,2,1,1.5,7")
    (tmp_path / "notes.txt").write_text("BTC-USD_1d.csv")
    folder = Folder(tmp_path)
    assert folder.reach(BTC, Timeframe.H1) == Reach()
    assert folder.reach(BTC, Timeframe.D1) is folder.reach(EUR, Timeframe.H1) is None
    with pytest.raises(ProviderUnavailable, match=r"has no 1d bars of BTC-USD: it has BTC-USD_1h.csv"):
        folder.fetch(BTC, Timeframe.D1, YEAR_2017, NOW)
    with pytest.raises(NotFound, match="has no 1h bars of EUR-USD"):
        folder.fetch(EUR, Timeframe.H1, YEAR_2017, NOW)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "it lacks a time, open, high, low, close; its columns are a, b"),
        (b"time,date,open,high,low,close\n", "several time columns"),
        (b"time,open,OPEN,high,low,close\n", "2 columns named open"),
        (b"\xff\xfe\x00", "neither CSV text in UTF-8"),
        (b"time,open,high,low,close\n1,2\n1,2,3,4,5,6,7\n", "row 2: the row has 2 cells, the header 5"),
    ],
)
def test_a_file_that_is_no_table_of_bars_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "BTC-USD_1h.csv").write_bytes(content)
    with pytest.raises(BadInput, match=fault):
        Folder(tmp_path).fetch(BTC, Timeframe.H1, YEAR_2017, NOW)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "BTC-USD_1h.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match="is not a readable Parquet file"):
        Folder(tmp_path).fetch(BTC, Timeframe.H1, YEAR_2017, NOW)


def test_a_folder_that_is_not_there_and_two_files_for_the_same_bars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder or file"):
        Folder(tmp_path / "none").reach(BTC, Timeframe.H1)
    for suffix in ("csv", "parquet"):
        (tmp_path / f"BTC-USD_1h.{suffix}").touch()
    with pytest.raises(BadInput, match="hold the same bars"):
        Folder(tmp_path).reach(BTC, Timeframe.H1)


# --- The sample ---------------------------------------------------------------------------------------------------


def test_the_sample_is_told_whole_and_nothing_else_is() -> None:
    sample = load_provider("sample")
    assert [sample.reach(BTC, Timeframe.H1), sample.reach(BTC, Timeframe.D1)] == [Reach(), None]
    assert [sample.fetch(each, Timeframe.H1, YEAR_2017, NOW).height for each in (BTC, EUR)] == [4_321, 3_105]
    with pytest.raises(NotFound, match="the sample has no SPX: it has BTC-USD and EUR-USD"):
        sample.fetch(SPX, Timeframe.H1, YEAR_2017, NOW)
    with pytest.raises(ProviderUnavailable, match="has 1h bars only: make 1d bars of them"):
        sample.fetch(BTC, Timeframe.D1, YEAR_2017, NOW)


# --- Made-up bars -------------------------------------------------------------------------------------------------


def made(symbol: Symbol, timeframe: Timeframe, span: Span, now: datetime = NOW) -> pl.DataFrame:
    return Synthetic().fetch(instrument_for(symbol), timeframe, span, now)


@given(
    market=st.sampled_from(["BTC-USD", "SPX", "CL", "EUR-USD"]),
    timeframe=st.sampled_from([Timeframe.M1, Timeframe.M15, Timeframe.H1, Timeframe.H4, Timeframe.D1]),
    start=st.datetimes(datetime(2016, 1, 1), datetime(2025, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),  # noqa: DTZ001
    around=st.tuples(st.integers(0, 900), st.integers(0, 900)),
)
def test_a_made_up_bar_is_the_same_whatever_is_asked_around_it(
    market: Symbol, timeframe: Timeframe, start: datetime, around: tuple[int, int]
) -> None:
    before, after = (timedelta(hours=hours) for hours in around)
    span = Span(start, start + 3 * DAY)
    wider = made(f"SYNTHETIC.{market}", timeframe, Span(span.start - before, span.end + after))
    assert made(f"SYNTHETIC.{market}", timeframe, span).equals(
        wider.filter(pl.col("opened_at").is_between(*span, closed="left"))
    )


@pytest.mark.parametrize("market", PRICE_MODELS)
def test_made_up_bars_are_those_of_the_markets_grid_and_pass_the_judge(market: Symbol) -> None:
    instrument, span = instrument_for(f"SYNTHETIC.{market}"), Span(NOW - 40 * DAY, NOW)
    told = made(instrument.symbol, Timeframe.H1, span)
    judged = validate_bars(told, instrument, Timeframe.H1, NOW)
    assert judged.refused == []
    assert told["opened_at"].to_list() == grid(instrument.calendar, Timeframe.H1, span)["opened_at"].to_list()
    assert instrument.tick is not None
    assert {Decimal(str(price)) % instrument.tick for price in told["close"]} == {Decimal(0)}


@pytest.mark.parametrize("timeframe", [Timeframe.M15, Timeframe.H4, Timeframe.D1, Timeframe.W1, Timeframe.MO1])
@pytest.mark.parametrize("market", ["SPX", "CL", "BTC-USD"])
def test_larger_made_up_bars_are_what_minutes_add_up_to(market: Symbol, timeframe: Timeframe) -> None:
    span = Span(datetime(2025, 1, 30, tzinfo=UTC), datetime(2025, 4, 2, tzinfo=UTC))
    larger = made(f"SYNTHETIC.{market}", timeframe, span).to_dicts()[-1]
    calendar = instrument_for(f"SYNTHETIC.{market}").calendar
    (opened, closed) = next(b for b in grid(calendar, timeframe, span).rows() if b[0] == larger["opened_at"])
    minutes = made(f"SYNTHETIC.{market}", Timeframe.M1, Span(opened, closed))
    sums = (
        minutes["open"][0],
        minutes["high"].max(),
        minutes["low"].min(),
        minutes["close"][-1],
        minutes["volume"].sum(),
    )
    assert tuple(larger.values())[1:] == sums


@pytest.mark.parametrize("market", ["BTC-USD", "EUR-USD", "VIX"])
def test_made_up_bars_move_as_much_as_their_market(market: Symbol) -> None:
    span = Span(datetime(2018, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
    moves = made(f"SYNTHETIC.{market}", Timeframe.D1, span)["close"].log().diff().drop_nulls()
    a_year = (sum(move**2 for move in moves) / 6) ** 0.5
    assert a_year == pytest.approx(PRICE_MODELS[market].volatility, rel=0.08)


@pytest.mark.parametrize(("timeframe", "minutes"), [(Timeframe.M1, 1), (Timeframe.H1, 60)])
def test_the_extremes_of_made_up_bars_lie_as_far_apart_as_those_of_a_random_walk(
    timeframe: Timeframe, minutes: int
) -> None:
    # Parkinson 1980: the mean square of a random walk's range is 4 ln 2 times its variance.
    told = made("SYNTHETIC.BTC-USD", timeframe, Span(NOW - 10 * minutes**0.5 * DAY, NOW))
    ranges = [(high - low) ** 2 for high, low in zip(told["high"].log(), told["low"].log(), strict=True)]
    variance = PRICE_MODELS["BTC-USD"].volatility ** 2 * minutes / (365.25 * 1_440)
    assert sum(ranges) / len(ranges) / variance == pytest.approx(2.7726, rel=0.08)


def test_a_number_names_another_course_of_the_same_market() -> None:
    span = Span(NOW - 10 * DAY, NOW)
    courses = [made(symbol, Timeframe.H1, span) for symbol in ("SYNTHETIC.ES", "SYNTHETIC.ES.1", "SYNTHETIC.ES.2")]
    moves = pl.DataFrame({str(n): course["close"].log().diff().drop_nulls() for n, course in enumerate(courses)})
    for one, other in (("0", "1"), ("1", "2"), ("0", "2")):
        assert abs(moves.select(pl.corr(one, other)).item()) < 0.3


def test_made_up_bars_stay_what_they_were() -> None:
    # Stored bars and their digests outlive this version.
    near, far = (
        Span(NOW - 2 * DAY, NOW - DAY),
        Span(datetime(1999, 12, 31, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC)),
    )
    hours, days = made("SYNTHETIC.BTC-USD.7", Timeframe.H1, near), made("SYNTHETIC.SPX", Timeframe.D1, far)
    assert hours.rows()[0][1:] == (112843.81, 113146.56, 112295.03, 113078.77, 1362.0)
    assert days.rows()[0][1:] == (10512.4, 10546.35, 10509.89, 10513.26, 191551697.0)


@pytest.mark.parametrize("symbol", ["BTC-USD", "SYNTHETIC.", "SYNTHETIC.DAX", "SYNTHETIC.ES.X", "SYNTHETIC.7"])
def test_what_names_no_market_is_not_found(symbol: Symbol) -> None:
    with pytest.raises(NotFound, match=rf"{symbol} is no synthetic symbol: write SYNTHETIC.MARKET"):
        Synthetic().fetch(Instrument(symbol), Timeframe.H1, Span(NOW - DAY, NOW), NOW)
    assert Synthetic().reach(Instrument(symbol), Timeframe.H1) is None


def test_there_was_nothing_before_1970_and_is_nothing_after_now() -> None:
    with pytest.raises(BadInput, match="begin on 1970-01-01"):
        made("SYNTHETIC.ES", Timeframe.D1, Span(datetime(1969, 1, 1, tzinfo=UTC), NOW))
    assert made("SYNTHETIC.ES", Timeframe.D1, Span(NOW, NOW + DAY)).is_empty()
