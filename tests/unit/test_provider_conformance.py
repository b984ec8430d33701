"""The shipped suite for providers: what comes with the project passes it, and each check is seen to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from engine.core.errors import BadInput, NotFound, ProviderUnavailable
from engine.core.market import Instrument, Symbol, Timeframe, instrument_for
from engine.data.calendars import Span, grid, sessions
from engine.data.encoding import PRICES
from engine.data.providers import Provider, Reach, load_provider
from engine.data.providers.conformance import CHECKS, UNKNOWN, check_provider
from engine.data.providers.folder import Folder
from engine.data.providers.rate_limit import RateLimiter
from engine.data.providers.rows import NUMBERS, closed_rows, no_rows
from engine.data.providers.yahoo import Yahoo
from engine.data.sample import SAMPLE_FILES
from tests.support.yahoo_answers import NOT_FOUND, LocalYahoo, YahooResponse, YahooRow, error, midnight, serve_charts

DAY = timedelta(days=1)
SPX, BTC = instrument_for("SPX"), instrument_for("BTC-USD")
WEEK = Span(datetime(2025, 2, 17, tzinfo=UTC), datetime(2025, 2, 22, tzinfo=UTC))
LATER = WEEK.end + 3 * DAY
SAMPLED = Span(datetime(2017, 8, 1, tzinfo=UTC), datetime(2017, 8, 12, tzinfo=UTC))


# --- What is shipped ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeframe", Timeframe)
@pytest.mark.parametrize("symbol", ["SYNTHETIC.BTC-USD", "SYNTHETIC.SPX.7", "SYNTHETIC.CL", "SYNTHETIC.EUR-USD.2"])
def test_the_synthetic_provider_keeps_its_word(symbol: Symbol, timeframe: Timeframe) -> None:
    days = 9 if timeframe.is_intraday else 150
    assert (
        check_provider(
            load_provider("synthetic"), instrument_for(symbol), timeframe, Span(WEEK.end - days * DAY, WEEK.end), LATER
        )
        == []
    )


@pytest.mark.parametrize("symbol", SAMPLE_FILES)
def test_the_sample_keeps_its_word(symbol: Symbol) -> None:
    assert check_provider(load_provider("sample"), instrument_for(symbol), Timeframe.H1, SAMPLED, LATER) == []


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_keeps_its_word(tmp_path: Path, kind: str) -> None:
    frame = pl.read_csv(SAMPLE_FILES["EUR-USD"], infer_schema=False)
    path = tmp_path / f"EUR-USD_1h.{kind}"
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    assert check_provider(Folder(tmp_path), instrument_for("EUR-USD"), Timeframe.H1, SAMPLED, LATER) == []


@pytest.fixture
def connected() -> Iterator[Callable[[Instrument, Timeframe], Yahoo]]:
    """Makes Yahoo with the bars of an instrument's grid, as it was at `LATER`."""
    connections: list[LocalYahoo] = []

    def connect(instrument: Instrument, timeframe: Timeframe) -> Yahoo:
        around, zone = Span(WEEK.start - 9 * DAY, LATER), "UTC" if instrument.calendar == "24/7" else "America/New_York"
        opens: list[datetime] = grid(instrument.calendar, timeframe, around)["opened_at"].to_list()
        if not timeframe.is_intraday:
            labels = [session.label for session in sessions(instrument.calendar, around)]
            opens = [midnight(day.year, day.month, day.day, zone) for day in labels]
        rows = [YahooRow(at, 10 + n, 12 + n, 9 + n, 11 + n, n) for n, at in enumerate(opens)]
        chart = serve_charts(rows, instrument.calendar, zone)

        def known(name: str, params: dict[str, object]) -> YahooResponse:
            return error(NOT_FOUND) if name == UNKNOWN else chart(name, params)

        session = LocalYahoo(known)
        connections.append(session)
        return Yahoo(session=lambda: session, rate_limiter=RateLimiter("yahoo", sleep=lambda seconds: None))

    yield connect
    for session in connections:
        session.close()
    assert [stranger for session in connections for stranger in session.other_requests] == []


@pytest.mark.parametrize("timeframe", ["5m", "30m", "1h", "1d"])
@pytest.mark.parametrize("symbol", ["SPX", "CL", "BTC-USD"])
def test_yahoo_keeps_its_word(
    connected: Callable[[Instrument, Timeframe], Yahoo], symbol: Symbol, timeframe: str
) -> None:
    instrument, frame = instrument_for(symbol), Timeframe(timeframe)
    assert check_provider(connected(instrument, frame), instrument, frame, WEEK, LATER) == []


# --- Each check is seen to fail -----------------------------------------------------------------------------------


class Honest:
    """A provider that passes, from which the bad ones differ in one thing."""

    name = "honest"
    synthetic = False
    remembers = True

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return Reach(back=30 * DAY)

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        if instrument.symbol != "SPX":
            raise NotFound(f"honest has no {instrument.symbol}: ask for SPX.")
        if span.end < now - 30 * DAY:
            raise ProviderUnavailable("honest has bars of 30 days only: ask for later ones.")
        return closed_rows(self.everything(timeframe), instrument, timeframe, span, now)

    def everything(self, timeframe: Timeframe) -> pl.DataFrame:
        opens = grid("XNYS", timeframe, Span(WEEK.start - 9 * DAY, WEEK.end + DAY))["opened_at"]
        numbers = pl.int_range(1, len(opens) + 1, eager=True).cast(pl.Float64)
        return pl.DataFrame({"opened_at": opens, **dict.fromkeys(NUMBERS, numbers)})


class Wide(Honest):
    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        return super().fetch(instrument, timeframe, Span(span.start - 4 * DAY, span.end), now)


class Moody(Honest):
    asked = 0

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        self.asked += 1
        return super().fetch(instrument, timeframe, span, now).with_columns(close=pl.lit(float(self.asked)))


class Sharing(Honest):
    def __init__(self) -> None:
        self.told: dict[tuple[Span, datetime], pl.DataFrame] = {}

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        if instrument.symbol != "SPX" or (span, now) not in self.told:
            self.told[span, now] = super().fetch(instrument, timeframe, span, now)
        return self.told[span, now]


class Adjusting(Honest):
    """Prices that begin at 1 wherever the question begins."""

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        told = super().fetch(instrument, timeframe, span, now)
        return told.with_columns(pl.col(PRICES) - pl.col("close").first() + 1)


class Impossible(Honest):
    """A high below the low."""

    def everything(self, timeframe: Timeframe) -> pl.DataFrame:
        return super().everything(timeframe).with_columns(high=pl.col("low") / 2)


class Askew(Honest):
    """Bars that open a minute after those of the calendar."""

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        told = super().fetch(instrument, timeframe, span, now - timedelta(minutes=1))
        return told.with_columns(pl.col("opened_at") + timedelta(minutes=1))


class Hasty(Honest):
    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        return super().fetch(instrument, timeframe, span, now + timedelta(seconds=1))


class Prophet(Honest):
    """Tells what opens after now, off the grid, where no bar is."""

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        return (
            super().fetch(instrument, timeframe, span, LATER).with_columns(pl.col("opened_at") + timedelta(minutes=1))
        )


class Obliging(Honest):
    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        return super().fetch(SPX, timeframe, span, now)


class Clumsy(Honest):
    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        return {"SPX": super().fetch}[instrument.symbol](instrument, timeframe, span, now)


class Boastful(Honest):
    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return Reach(call=DAY)


class Modest(Honest):
    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return Reach(back=DAY)


class Deeper(Honest):
    """Says 9 days and has 10 more."""

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return Reach(back=9 * DAY)


BAD: list[tuple[type[Honest], str, str]] = [
    (Wide, "nothing is outside of the span", "opens at 2025-02-1"),
    (
        Impossible,
        "the catalogue takes its rows",
        "2025-02-18T14:30:00Z,36.0,18.0,36.0,36.0,36.0 is refused: high 18 is",
    ),
    (Askew, "the catalogue takes its rows", "2025-02-18T14:31:00Z"),
    (Moody, "the same question has the same answer", "and then"),
    (Sharing, "an answer is the caller's own", "columns are opened_at, open, high, low, close, not"),
    (Adjusting, "two halves of a span are the whole", "and then"),
    (Hasty, "no bar is returned before it has closed", "returned the bar that opens at"),
    (Prophet, "no bar is returned before it has closed", "returned a row that opens at"),
    (Obliging, "an unknown symbol is NotFound or ProviderUnavailable", f"rows of {UNKNOWN}"),
    (Clumsy, "an unknown symbol is NotFound or ProviderUnavailable", "raised KeyError"),
    (Boastful, "its reach is as declared", "answered for 5 days"),
    (Modest, "its reach is as declared", "has a row of"),
    (Deeper, "its reach is as declared", "has rows up to"),
]


def test_a_provider_that_keeps_its_word_passes() -> None:
    assert check_provider(Honest(), SPX, Timeframe.H1, WEEK, LATER) == []


@pytest.mark.parametrize(("bad", "broken", "what"), BAD)
def test_a_broken_word_is_found(bad: type[Honest], broken: str, what: str) -> None:
    findings = {finding.check: finding.what for finding in check_provider(bad(), SPX, Timeframe.H1, WEEK, LATER)}
    assert what in findings[broken]
    if bad not in (Moody, Wide, Prophet):
        assert list(findings) == [broken]


def test_every_check_has_been_broken() -> None:
    assert {broken for _, broken, _ in BAD} == set(CHECKS)


def told(change: Callable[[pl.DataFrame], object]) -> Provider:
    class Odd(Honest):
        def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
            return change(super().fetch(instrument, timeframe, span, now))  # pyright: ignore[reportReturnType]

    return Odd()


def refuse(rows: pl.DataFrame) -> pl.DataFrame:
    raise BadInput("no.")


SHAPES: list[tuple[Callable[[pl.DataFrame], object], str]] = [
    (lambda rows: rows.to_dicts(), "it answered with list"),
    (lambda rows: rows.drop("volume"), "its columns are"),
    (lambda rows: rows.select(*reversed(rows.columns)), "its columns are"),
    (lambda rows: rows.with_columns(pl.col("opened_at").dt.replace_time_zone(None)), "convert times to UTC"),
    (lambda rows: rows.with_columns(pl.col("opened_at").dt.convert_time_zone("America/New_York")), "convert times"),
    (lambda rows: rows.with_columns(pl.col("opened_at").dt.cast_time_unit("ms")), "convert times"),
    (lambda rows: rows.with_columns(opened_at=pl.lit(None, rows.schema["opened_at"])), "rows have no time"),
    (lambda rows: rows.with_columns(pl.col("high").cast(pl.Int64)), "high is Int64"),
    (lambda rows: rows.head(1), "1 rows"),
    (lambda rows: no_rows(), "0 rows"),
    (refuse, "it raised BadInput: no."),
    (lambda rows: rows["nothing"], "it raised ColumnNotFoundError"),
]


@pytest.mark.parametrize(("change", "what"), SHAPES)
def test_an_answer_of_another_shape_is_found(change: Callable[[pl.DataFrame], object], what: str) -> None:
    (finding,) = check_provider(told(change), SPX, Timeframe.H1, WEEK, LATER)
    assert what in finding.what


def test_bars_that_are_not_offered_cannot_be_tried() -> None:
    (finding,) = check_provider(load_provider("sample"), SPX, Timeframe.H1, WEEK, LATER)
    assert finding.what == "it offers no 1h bars of SPX: try others"
