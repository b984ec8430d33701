"""One contract for both catalogues, and what only the one in PostgreSQL promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from hashlib import sha256
from itertools import count, cycle, islice
from typing import Any, LiteralString

import msgspec
import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from psycopg.conninfo import make_conninfo

from engine.core.errors import BadInput, NotFound, StoreUnavailable
from engine.core.market import Bar, Instrument, Timeframe, instrument_for
from engine.core.money import exact
from engine.data import Added, BarCatalogue, RefusedRow, StoredSeries
from engine.data import catalogue as catalogues
from engine.data.catalogue import PostgresCatalogue
from engine.data.memory import MemoryCatalogue
from ui.cli.remedies import sentence

H1, M30 = Timeframe.H1, Timeframe.M30
START = datetime(2024, 1, 1, tzinfo=UTC)
LATER = datetime(2024, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def bar(hour: float, close: str = "10", symbol: str = "X-USD", timeframe: Timeframe = H1) -> Bar:
    at, price = START + HOUR * hour, Decimal(close)
    return Bar(symbol, at, at + timeframe.duration, price, price, price, price, Decimal("1.5"))


def add(catalogue: BarCatalogue, bars: Sequence[Bar], symbol: str = "X-USD", timeframe: Timeframe = H1) -> Added:
    return catalogue.add(symbol, timeframe, bars, source="test", learned_at=LATER)


@pytest.fixture(params=["memory", "postgres"])
def catalogue(request: pytest.FixtureRequest) -> BarCatalogue:
    """Each kind of catalogue in turn, empty."""
    return MemoryCatalogue() if request.param == "memory" else PostgresCatalogue(request.getfixturevalue("dsn"))


class TestEveryCatalogue:
    def test_gives_back_exactly_the_bars_it_was_given_in_order(self, catalogue: BarCatalogue) -> None:
        bars = [bar(0, "0.000000000001"), bar(1, "123456789.123456789"), bar(5, "2525"), bar(6, "100")]
        assert add(catalogue, bars[2:]) == Added(2, 0)
        assert add(catalogue, bars[:2]) == Added(2, 0)
        stored = catalogue.bars("X-USD", H1)
        assert stored == bars
        assert [str(each) for each in stored] == [str(each) for each in bars]

    def test_the_same_bars_again_are_known(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(0), bar(1)])
        digest = catalogue.digest(["X-USD"], H1)
        assert add(catalogue, [bar(0), bar(1), bar(2)]) == Added(1, 2)
        assert add(catalogue, [bar(0), bar(1), bar(2)]) == Added(0, 3)
        assert catalogue.digest(["X-USD"], H1, end=START + 2 * HOUR) == digest

    def test_adding_nothing_changes_nothing(self, catalogue: BarCatalogue) -> None:
        assert add(catalogue, []) == Added(0, 0)
        assert (catalogue.list_series(), catalogue.imports()) == ([], [])

    def test_other_prices_for_a_stored_bar_are_refused_and_nothing_is_stored(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(1, "10")])
        with pytest.raises(BadInput) as error:
            add(catalogue, [bar(0, "9"), bar(1, "11"), bar(2, "12")])
        message = str(error.value)
        assert "X-USD 1h at 2024-01-01T01:00:00Z is stored as open 10 high 10 low 10 close 10 volume 1.5" in message
        assert "given as open 11 high 11 low 11 close 11 volume 1.5" in message
        assert "never overwritten" in message
        assert catalogue.bars("X-USD", H1) == [bar(1, "10")]
        assert len(catalogue.imports()) == 1

    @pytest.mark.parametrize("hour", [-0.5, 0.5])
    def test_a_bar_that_overlaps_a_stored_one_is_refused_and_nothing_is_stored(
        self, catalogue: BarCatalogue, hour: float
    ) -> None:
        add(catalogue, [bar(0)])
        with pytest.raises(BadInput, match=r"bars would overlap: .* 2024-01-01T00:00:00Z"):
            add(catalogue, [bar(hour), bar(9)])
        assert catalogue.bars("X-USD", H1) == [bar(0)]

    def test_bars_that_touch_do_not_overlap(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(0.5), bar(2.5)])
        assert add(catalogue, [bar(1.5)]) == Added(1, 0)

    @pytest.mark.parametrize(
        ("bars", "words"),
        [
            ([bar(1), bar(0)], "sort them by time"),
            ([bar(0), bar(0)], "was given before"),
            ([bar(0), bar(0.5)], "overlaps the one given before it"),
            ([bar(0, symbol="Y-USD")], "it is a bar of Y-USD"),
            ([bar(0, timeframe=Timeframe.H4)], "does not last up to 1h"),
            ([bar(0, "-1")], "open -1 is not a price above 0"),
            ([bar(0, "NaN")], "open NaN is not a price above 0"),
            ([bar(0, "1.10")], "open 1.10 is not a price above 0 with at most 12 decimals"),
        ],
    )
    def test_an_impossible_bar_is_refused(self, catalogue: BarCatalogue, bars: list[Bar], words: str) -> None:
        with pytest.raises(BadInput) as error:
            add(catalogue, bars)
        assert words in str(error.value)
        assert catalogue.list_series() == []

    def test_a_bar_that_is_still_forming_is_refused(self, catalogue: BarCatalogue) -> None:
        with pytest.raises(BadInput, match="closes only at 2024-01-01T02:00:00Z"):
            catalogue.add("X-USD", H1, [bar(0), bar(1)], source="test", learned_at=START + HOUR * 1.5)
        assert catalogue.add("X-USD", H1, [bar(0)], source="test", learned_at=START + HOUR) == Added(1, 0)

    def test_a_range_holds_bars_that_open_and_close_inside_it(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(hour) for hour in range(6)])
        found = catalogue.bars("X-USD", H1, START + HOUR, START + 3 * HOUR)
        assert found == [bar(1), bar(2)]
        assert catalogue.bars("X-USD", H1, START + HOUR * 0.5, START + HOUR * 3.5) == found
        assert catalogue.frame("X-USD", H1, START + HOUR, START + 3 * HOUR)["opened_at"].to_list() == [
            START + HOUR,
            START + 2 * HOUR,
        ]

    def test_a_frame_is_typed_and_sorted(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(2, "0.1")])
        add(catalogue, [bar(0, "1.23456789")])
        frame = catalogue.frame("X-USD", H1)
        times = pl.Datetime("us", "UTC")
        numbers = dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64())
        assert dict(frame.schema) == {"opened_at": times, "closed_at": times, **numbers}
        assert frame.rows() == [
            (START, START + HOUR, *[1.23456789] * 4, 1.5),
            (START + 2 * HOUR, START + 3 * HOUR, *[0.1] * 4, 1.5),
        ]

    def test_the_digest_is_that_of_the_bars_as_lines_of_text(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(0, "0.0000001"), bar(1, "2525")])
        add(catalogue, [bar(0, symbol="Y-USD")], "Y-USD")
        x = (
            "X-USD,1h,2024-01-01T00:00:00Z,0.0000001,0.0000001,0.0000001,0.0000001,1.5\n"
            "X-USD,1h,2024-01-01T01:00:00Z,2525,2525,2525,2525,1.5\n"
        )
        y = "Y-USD,1h,2024-01-01T00:00:00Z,10,10,10,10,1.5\n"
        assert catalogue.digest(["X-USD", "Y-USD"], H1) == sha256((x + y).encode()).hexdigest()
        assert catalogue.digest(["Y-USD", "X-USD"], H1) == sha256((y + x).encode()).hexdigest()

    def test_the_digest_depends_on_the_range_and_on_nothing_outside_it(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(1), bar(2)])
        before = catalogue.digest(["X-USD"], H1)
        add(catalogue, [bar(0), bar(3)])
        assert catalogue.digest(["X-USD"], H1, START + HOUR, START + 3 * HOUR) == before
        assert catalogue.digest(["X-USD"], H1) != before

    def test_instants_in_another_zone_are_the_same_instants(self, catalogue: BarCatalogue) -> None:
        tokyo = timezone(timedelta(hours=9))
        given_bar = bar(0)
        moved = Bar(
            "X-USD",
            given_bar.opened_at.astimezone(tokyo),
            given_bar.closed_at.astimezone(tokyo),
            *(given_bar.open, given_bar.high, given_bar.low, given_bar.close, given_bar.volume),
        )
        add(catalogue, [given_bar])
        assert add(catalogue, [moved]) == Added(0, 1)
        assert catalogue.bars("X-USD", H1, START.astimezone(tokyo)) == [given_bar]

    def test_an_unknown_symbol_names_the_known_ones_and_the_commands(self, catalogue: BarCatalogue) -> None:
        with pytest.raises(NotFound, match="holds no bars yet"):
            catalogue.bars("X-USD", H1)
        add(catalogue, [bar(0)])
        for ask in (catalogue.bars, catalogue.frame):
            with pytest.raises(NotFound) as error:
                ask("Z-USD", H1)
            assert str(error.value).endswith("holds X-USD.")
            assert "`quantagent data import FILE --symbol Z-USD --timeframe 1h`" in sentence(error.value)
            assert "`quantagent data sample`" in sentence(error.value)
        with pytest.raises(NotFound):
            catalogue.digest(["X-USD", "Z-USD"], H1)

    def test_an_empty_range_names_what_there_is(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(0), bar(1)])
        for timeframe, start in ((H1, LATER), (M30, None)):
            for ask in (catalogue.bars, catalogue.frame):
                with pytest.raises(BadInput) as error:
                    ask("X-USD", timeframe, start)
                assert not isinstance(error.value, NotFound)
                assert "holds 1h from 2024-01-01T00:00:00Z to 2024-01-01T02:00:00Z" in str(error.value)

    def test_a_range_that_ends_before_it_begins_is_refused(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(0)])
        for ask in (catalogue.bars, catalogue.frame):
            with pytest.raises(BadInput, match="give a start that is before the end"):
                ask("X-USD", H1, LATER, START)

    def test_a_dataset_without_symbols_is_refused(self, catalogue: BarCatalogue) -> None:
        with pytest.raises(BadInput, match="at least one symbol"):
            catalogue.digest([], H1)

    def test_the_listing_says_what_there_is(self, catalogue: BarCatalogue) -> None:
        add(catalogue, [bar(3)])
        add(catalogue, [bar(0)])
        add(catalogue, [bar(0, timeframe=M30)], timeframe=M30)
        add(catalogue, [bar(0, symbol="A_B")], "A_B")
        add(catalogue, [bar(0, symbol="A-C")], "A-C")
        assert catalogue.list_series() == [
            StoredSeries("A-C", H1, START, START + HOUR, 1),
            StoredSeries("A_B", H1, START, START + HOUR, 1),
            StoredSeries("X-USD", H1, START, START + 4 * HOUR, 2),
            StoredSeries("X-USD", M30, START, START + HOUR / 2, 1),
        ]

    def test_an_import_is_remembered_once_with_what_it_refused(self, catalogue: BarCatalogue) -> None:
        refused = [RefusedRow(3, "x,1,1,1,1", "time 'x' is none"), RefusedRow(7, "", "the row has 0 cells")]
        for _ in range(2):
            catalogue.add("X-USD", H1, [bar(0)], source="bars.csv", learned_at=LATER, actor="someone", refused=refused)
        add(catalogue, [bar(1)])
        first, second = catalogue.imports()
        assert (first.symbol, first.timeframe, first.source, first.actor) == ("X-USD", H1, "bars.csv", "someone")
        assert (first.learned_at, first.rows, first.refused) == (LATER, 1, tuple(refused))
        assert (second.source, second.rows, second.refused) == ("test", 1, ())
        assert first.digest != second.digest

    def test_an_instrument_is_the_saved_one_or_the_usual_one(self, catalogue: BarCatalogue) -> None:
        assert catalogue.instrument("BTC-USD") == instrument_for("BTC-USD")
        assert catalogue.instrument("ES") == instrument_for("ES")
        future = Instrument("ES", "USD", 2, Decimal(1), Decimal(50), "CME")
        catalogue.save_instrument(Instrument("ES"))
        catalogue.save_instrument(future)
        assert catalogue.instrument("ES") == future


# --- Laws ---------------------------------------------------------------------------------------------------------

prices = st.decimals("0.000000000001", "999999", places=12).map(exact)


@st.composite
def histories(draw: st.DrawFn) -> list[Bar]:
    hours = sorted(draw(st.sets(st.integers(0, 500), min_size=1, max_size=25)))
    bars: list[Bar] = []
    for hour in hours:
        low, first, last, high = sorted(draw(st.tuples(prices, prices, prices, prices)))
        at = START + HOUR * hour
        bars.append(Bar("X-USD", at, at + HOUR, first, high, low, last, draw(prices)))
    return bars


symbols = (f"LAW-{number}" for number in count())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(bars=histories(), chunks=st.lists(st.integers(1, 10), min_size=1), backwards=st.booleans())
def test_both_catalogues_agree_whatever_the_chunks_and_their_order(
    dsn: str, bars: list[Bar], chunks: list[int], backwards: bool
) -> None:
    symbol = next(symbols)  # one database serves all examples
    bars = [msgspec.structs.replace(each, symbol=symbol) for each in bars]
    whole, parts = MemoryCatalogue(), PostgresCatalogue(dsn)
    add(whole, bars, symbol)
    pieces = list(split(bars, chunks))
    for piece in reversed(pieces) if backwards else pieces:
        assert add(parts, piece, symbol) == Added(len(piece), 0)
    assert parts.bars(symbol, H1) == whole.bars(symbol, H1) == bars
    assert parts.digest([symbol], H1) == whole.digest([symbol], H1)
    assert_frame_equal(parts.frame(symbol, H1), whole.frame(symbol, H1), check_exact=True)


def split(bars: list[Bar], sizes: list[int]) -> Iterator[list[Bar]]:
    rest = iter(bars)
    for size in cycle(sizes):
        if not (piece := list(islice(rest, size))):
            return
        yield piece


# --- PostgreSQL only ----------------------------------------------------------------------------------------------


def test_stored_bars_can_be_neither_changed_nor_removed(dsn: str) -> None:
    PostgresCatalogue(dsn).add(
        "X-USD", H1, [bar(0)], source="test", learned_at=LATER, refused=[RefusedRow(1, "a", "is no bar")]
    )
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in (
            "UPDATE quantagent.bars SET close = close",
            "DELETE FROM quantagent.bars",
            "TRUNCATE quantagent.bars",
            "DELETE FROM quantagent.refused_bars",
            "UPDATE quantagent.bar_imports SET source = 'elsewhere'",
        ):
            with pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
                conn.execute(statement)


def test_the_latest_revision_of_a_bar_is_the_one_that_is_read(dsn: str) -> None:
    catalogue = PostgresCatalogue(dsn)
    add(catalogue, [bar(0, "10"), bar(1, "10")])
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "INSERT INTO quantagent.bars SELECT symbol, timeframe, opened_at, closed_at, 11, 11, 11, 11, volume, 2, "
            "learned_at, source FROM quantagent.bars WHERE opened_at = %s",
            (START,),
        )
    revised = [bar(0, "11"), bar(1, "10")]
    assert catalogue.bars("X-USD", H1) == revised
    assert catalogue.frame("X-USD", H1)["close"].to_list() == [11, 10]
    assert catalogue.list_series() == [StoredSeries("X-USD", H1, START, START + 2 * HOUR, 2)]
    assert add(catalogue, revised) == Added(0, 2)


@pytest.mark.parametrize("query", ["_LINES", "_SECONDS_CSV", "_BARS", "_HISTORY", "_REVISED"])
def test_a_read_of_an_early_hour_does_not_go_on_to_the_end_of_the_series(dsn: str, query: str) -> None:
    add(PostgresCatalogue(dsn), [bar(hour) for hour in range(500)])
    asked = PostgresCatalogue(dsn)._range("X-USD", H1, START, START + 2 * HOUR)  # pyright: ignore[reportPrivateUsage]
    select: LiteralString = getattr(catalogues, query).removeprefix("COPY (").partition(") TO STDOUT")[0]
    with psycopg.connect(dsn) as conn:
        ((plans,),) = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + select, asked).fetchall()
    assert max(rows_of(plans[0]["Plan"])) == (0 if query == "_REVISED" else 2)


def rows_of(plan: dict[str, Any]) -> Iterator[int]:
    """How many rows each step of a plan looked at."""
    yield plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    for step in plan.get("Plans", []):
        yield from rows_of(step)


def test_writers_at_the_same_time_store_each_bar_once(dsn: str) -> None:
    bars = [bar(hour) for hour in range(200)]
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(partial(add, PostgresCatalogue(dsn)), [bars] * 4))
    assert sorted(each.new for each in added) == [0, 0, 0, 200]
    assert PostgresCatalogue(dsn).bars("X-USD", H1) == bars


def test_writers_at_the_same_time_cannot_make_bars_overlap(dsn: str) -> None:
    def attempt(hour: float) -> bool:
        try:
            add(PostgresCatalogue(dsn), [bar(hour)])
        except BadInput:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, (0, 0.25, 0.5, 0.75))) == [False, False, False, True]


def test_the_time_zone_of_the_session_changes_nothing(dsn: str) -> None:
    here, there = PostgresCatalogue(dsn), PostgresCatalogue(make_conninfo(dsn, options="-c timezone=Asia/Kolkata"))
    add(there, [bar(0), bar(1)])
    assert there.bars("X-USD", H1)[0].opened_at.tzinfo is UTC
    assert there.bars("X-USD", H1) == here.bars("X-USD", H1) == [bar(0), bar(1)]
    assert there.digest(["X-USD"], H1, START) == here.digest(["X-USD"], H1, START)
    assert_frame_equal(there.frame("X-USD", H1), here.frame("X-USD", H1))


def test_a_server_that_cannot_be_reached_is_named_as_the_cause() -> None:
    with pytest.raises(StoreUnavailable, match="catalogue of bars cannot be reached"):
        PostgresCatalogue("postgresql://app:hidden@127.0.0.1:1/none?connect_timeout=2").list_series()


def test_a_database_that_was_not_set_up_is_named_as_the_cause(server: str) -> None:
    with pytest.raises(StoreUnavailable, match="has no table of bars") as refused:
        PostgresCatalogue(server).list_series()
    assert "run `quantagent db upgrade`" in sentence(refused.value)
