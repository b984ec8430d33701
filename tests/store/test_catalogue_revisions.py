"""What a catalogue knew when: revisions beside each other, in the order in which they were learned."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import count

import msgspec
import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from psycopg.conninfo import make_conninfo

from engine.core.errors import BadInput, NotFound
from engine.core.market import Bar, Instrument, Timeframe, instrument_for
from engine.core.money import exact
from engine.data import NOTHING_KNOWN, Added, BarCatalogue, ProviderRequest, RefusedRow, Revision, StoredSeries
from engine.data.bar_rules import bar_line
from engine.data.calendars import Span, bar_of_day
from engine.data.catalogue import PostgresCatalogue
from engine.data.memory import MemoryCatalogue
from engine.data.validation import ValidatedBars

D1, H1 = Timeframe.D1, Timeframe.H1
HOUR, MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
JUNE, JULY, AUGUST = (datetime(2024, month, 1, tzinfo=UTC) for month in (6, 7, 8))


def bar(hour: float, close: str = "10", lasts: float = 1, symbol: str = "X-USD") -> Bar:
    at, price = START + HOUR * hour, Decimal(close)
    return Bar(symbol, at, at + HOUR * lasts, price, price, price, price, Decimal("1.5"))


def add(catalogue: BarCatalogue, bars: Sequence[Bar], learned_at: datetime = JUNE, correct: bool = False) -> Added:
    symbol = bars[0].symbol
    return catalogue.add(symbol, H1, bars, source=f"of {learned_at:%B}", learned_at=learned_at, correct=correct)


def judged(bars: Sequence[Bar], refused: Sequence[RefusedRow] = (), timeframe: Timeframe = H1) -> ValidatedBars:
    """Bars as the judge leaves them."""
    names = ("opened_at", "closed_at", "open", "high", "low", "close", "volume")
    times, numbers = pl.Datetime("us", "UTC"), pl.Decimal(38, 12)
    frame = pl.DataFrame(
        [[getattr(each, name) for name in names] for each in bars],
        schema={name: times if name.endswith("_at") else numbers for name in names},
        orient="row",
    )
    symbol = bars[0].symbol if bars else "X-USD"
    return ValidatedBars(instrument_for(symbol), timeframe, frame.with_columns(flags=pl.lit("")), list(refused))


@pytest.fixture(params=["memory", "postgres"])
def catalogue(request: pytest.FixtureRequest) -> BarCatalogue:
    """Each kind of catalogue in turn, empty."""
    return MemoryCatalogue() if request.param == "memory" else PostgresCatalogue(request.getfixturevalue("dsn"))


# --- Corrections --------------------------------------------------------------------------------------------------


def test_a_corrected_bar_is_a_revision_beside_the_one_before(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0), bar(1)], JUNE)
    assert add(catalogue, [bar(0, "11"), bar(1), bar(2)], JULY, correct=True) == Added(1, 1, 1)
    assert catalogue.bars("X-USD", H1) == [bar(0, "11"), bar(1), bar(2)]
    assert catalogue.frame("X-USD", H1)["close"].to_list() == [11, 10, 10]
    assert catalogue.list_series() == [StoredSeries("X-USD", H1, START, START + 3 * HOUR, 3)]
    assert catalogue.history("X-USD", H1) == [
        Revision(bar(0), 1, JUNE, "of June"),
        Revision(bar(0, "11"), 2, JULY, "of July"),
        Revision(bar(1), 1, JUNE, "of June"),
        Revision(bar(2), 1, JULY, "of July"),
    ]
    assert catalogue.history("X-USD", H1, START + 2 * HOUR) == [Revision(bar(2), 1, JULY, "of July")]
    assert catalogue.history("Y-USD", H1) == []


def test_revised_are_all_revisions_of_the_bars_that_have_several_and_of_no_others(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(hour) for hour in range(4)], JUNE)
    assert catalogue.revised_bars("X-USD", H1) == []
    add(catalogue, [bar(0, "11"), bar(2, "12"), bar(4)], JULY, correct=True)
    add(catalogue, [bar(2, "13")], AUGUST, correct=True)
    first = [Revision(bar(0), 1, JUNE, "of June"), Revision(bar(0, "11"), 2, JULY, "of July")]
    third = [Revision(bar(2), 1, JUNE, "of June"), Revision(bar(2, "12"), 2, JULY, "of July")]
    third_now = [*third, Revision(bar(2, "13"), 3, AUGUST, "of August")]
    assert catalogue.revised_bars("X-USD", H1) == [*first, *third_now]
    assert catalogue.revised_bars("X-USD", H1, START + HOUR) == third_now
    assert catalogue.revised_bars("X-USD", H1, end=START + 2.5 * HOUR) == first
    assert catalogue.as_known_at(JULY).revised_bars("X-USD", H1) == [*first, *third]
    assert catalogue.as_known_at(JUNE).revised_bars("X-USD", H1) == []
    assert catalogue.revised_bars("Y-USD", H1) == catalogue.revised_bars("X-USD", D1) == []
    with pytest.raises(BadInput, match="give a start that is before the end"):
        catalogue.revised_bars("X-USD", H1, JULY, JUNE)


def test_other_values_are_refused_unless_they_are_a_correction(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0)])
    for other in (bar(0, "11"), bar(0, lasts=0.5)):
        with pytest.raises(BadInput, match="never overwritten"):
            add(catalogue, [other, bar(5)], JULY)
    assert catalogue.bars("X-USD", H1) == [bar(0)]
    assert catalogue.known_at() == JUNE


def test_when_a_bar_closed_can_be_corrected(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0), bar(1)])
    assert add(catalogue, [bar(1, lasts=0.5)], JULY, correct=True) == Added(0, 0, 1)
    assert catalogue.bars("X-USD", H1) == [bar(0), bar(1, lasts=0.5)]
    assert catalogue.list_series()[0].last == START + 1.5 * HOUR


def test_a_correction_makes_no_bars_overlap(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0, lasts=0.5), bar(0.5, lasts=0.5)])
    with pytest.raises(BadInput, match=r"would overlap: one opens at 2024-01-01T00:00:00Z, the other at .*00:30:00Z"):
        add(catalogue, [bar(0)], JULY, correct=True)
    assert catalogue.bars("X-USD", H1) == [bar(0, lasts=0.5), bar(0.5, lasts=0.5)]


def test_a_correction_taken_back_is_learned_once_more(catalogue: BarCatalogue) -> None:
    for learned_at, close in ((JUNE, "10"), (JULY, "11"), (AUGUST, "10")):
        add(catalogue, [bar(0, close)], learned_at, correct=True)
    assert [each.revision for each in catalogue.history("X-USD", H1)] == [1, 2, 3]
    first, second, third = catalogue.imports()
    assert first.digest == third.digest != second.digest
    assert (first.learned_at, third.learned_at) == (JUNE, AUGUST)
    assert add(catalogue, [bar(0)], AUGUST, correct=True) == Added(0, 1)
    assert len(catalogue.imports()) == 3


# --- Known when ---------------------------------------------------------------------------------------------------


def test_whatever_is_stored_is_learned_later_than_all_before_it(catalogue: BarCatalogue) -> None:
    assert catalogue.known_at() == NOTHING_KNOWN
    add(catalogue, [bar(0)], JULY)
    add(catalogue, [bar(0, symbol="Y-USD")], JUNE)
    add(catalogue, [bar(1)], JULY)
    assert [each.learned_at for each in catalogue.imports()] == [JULY, JULY + MICROSECOND, JULY + 2 * MICROSECOND]
    (other,) = catalogue.history("Y-USD", H1)
    assert other.learned_at == JULY + MICROSECOND
    assert catalogue.known_at() == JULY + 2 * MICROSECOND
    add(catalogue, [bar(1)], AUGUST)
    assert catalogue.known_at() == JULY + 2 * MICROSECOND


def test_the_past_knows_nothing_that_was_learned_later(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0), bar(2)], JUNE)
    noted, digest, frame = catalogue.known_at(), catalogue.digest(["X-USD"], H1), catalogue.frame("X-USD", H1)
    listing, imports, history = catalogue.list_series(), catalogue.imports(), catalogue.history("X-USD", H1)
    past = catalogue.as_known_at(noted)
    add(catalogue, [bar(2, "12", lasts=0.5)], JULY, correct=True)
    add(catalogue, [bar(-1), bar(1), bar(3)], AUGUST)
    assert catalogue.digest(["X-USD"], H1) != digest
    assert past.bars("X-USD", H1) == [bar(0), bar(2)]
    assert past.bars("X-USD", H1, START + HOUR) == [bar(2)]
    assert past.digest(["X-USD"], H1) == digest
    assert_frame_equal(past.frame("X-USD", H1), frame)
    assert (past.list_series(), past.imports(), past.known_at()) == (listing, imports, noted)
    assert past.history("X-USD", H1) == history
    assert catalogue.as_known_at(JULY).bars("X-USD", H1) == [bar(0), bar(2, "12", lasts=0.5)]
    assert catalogue.as_known_at(None).bars("X-USD", H1) == catalogue.bars("X-USD", H1)


def test_before_anything_was_learned_there_is_nothing(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0)], JUNE)
    past = catalogue.as_known_at(JUNE - MICROSECOND)
    assert (past.list_series(), past.imports(), past.known_at()) == ([], [], NOTHING_KNOWN)
    with pytest.raises(NotFound, match="holds no bars yet"):
        past.bars("X-USD", H1)


def test_the_past_of_the_past_is_the_earlier_one(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0)], JUNE)
    add(catalogue, [bar(1)], JULY)
    past = catalogue.as_known_at(JUNE)
    for at in (JULY, None):
        assert past.as_known_at(at).bars("X-USD", H1) == [bar(0)]


def test_nothing_can_be_added_to_the_past(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0)], JUNE)
    past = catalogue.as_known_at(JULY)
    with pytest.raises(AssertionError, match="a view of the past is read-only"):
        add(past, [bar(1)], JULY)
    with pytest.raises(AssertionError, match="a view of the past is read-only"):
        past.add_validated(judged([bar(1)]), source="test", learned_at=JULY)


def test_instruments_are_those_of_today(catalogue: BarCatalogue) -> None:
    past, own = catalogue.as_known_at(JUNE), Instrument("X-USD", price_decimals=7)
    catalogue.save_instrument(own)
    assert past.instrument("X-USD") == own


def test_a_reader_who_notes_what_was_known_finds_it_again_whoever_writes(dsn: str) -> None:
    catalogue = PostgresCatalogue(dsn)
    add(catalogue, [bar(0)])

    def write(n: int) -> None:
        # Half of them say that they learned it long before the others did.
        add(catalogue, [bar(0, str(10 + n)), bar(n)], JUNE if n % 2 else AUGUST, correct=True)

    def read(_: int) -> tuple[datetime, str]:
        at = catalogue.known_at()
        return at, catalogue.as_known_at(at).digest(["X-USD"], H1)

    with ThreadPoolExecutor(6) as pool:
        writing = [pool.submit(write, n) for n in range(1, 13)]
        noted = list(pool.map(read, range(40)))
        for each in writing:
            each.result()
    assert len(catalogue.history("X-USD", H1)) == 25
    assert {digest for _, digest in noted} <= {catalogue.as_known_at(at).digest(["X-USD"], H1) for at, _ in noted}
    for at, digest in noted:
        assert catalogue.as_known_at(at).digest(["X-USD"], H1) == digest


# --- Bars that last less than their timeframe -----------------------------------------------------------------------


def test_a_bar_that_is_cut_short_says_in_its_line_when_it_closes(catalogue: BarCatalogue) -> None:
    bars = [bar(0), bar(1, "2525", lasts=0.5), bar(2)]
    add(catalogue, bars)
    assert catalogue.bars("X-USD", H1) == bars
    assert catalogue.frame("X-USD", H1)["closed_at"].to_list() == [each.closed_at for each in bars]
    text = "".join(bar_line(each, H1) for each in bars)
    assert "X-USD,1h,2024-01-01T01:00:00Z,2525,2525,2525,2525,1.5,2024-01-01T01:30:00Z\n" in text
    assert catalogue.digest(["X-USD"], H1) == sha256(text.encode()).hexdigest()


def test_how_long_a_day_lasts_does_not_depend_on_the_time_zone_of_the_session(dsn: str) -> None:
    here, there = PostgresCatalogue(dsn), PostgresCatalogue(make_conninfo(dsn, options="-c timezone=America/New_York"))
    # The days around the one on which New York sets its clocks forward.
    days = [datetime(2024, 3, day, tzinfo=UTC) for day in (9, 10, 11)]
    price = Decimal(10)
    bars = [Bar("X-USD", day, day + timedelta(days=1), *[price] * 5) for day in days]
    there.add("X-USD", D1, bars, source="test", learned_at=JUNE)
    assert there.bars("X-USD", D1) == here.bars("X-USD", D1) == bars
    expected = sha256("".join(bar_line(each, D1) for each in bars).encode()).hexdigest()
    assert there.digest(["X-USD"], D1) == here.digest(["X-USD"], D1) == expected
    assert_frame_equal(there.frame("X-USD", D1), here.frame("X-USD", D1))


# --- Bars from the judge --------------------------------------------------------------------------------------------


numbers = st.one_of(
    st.sampled_from(["0.000000000001", "100", "2500.5", "1000000", "123456789012345.123456789012"]),
    st.decimals("0.000000000001", "999999", places=12).map(str),
    st.integers(1, 10**12).map(str),
).map(exact)


@st.composite
def series(draw: st.DrawFn) -> list[Bar]:
    bars: list[Bar] = []
    for hour in sorted(draw(st.sets(st.integers(0, 300), min_size=1, max_size=12))):
        low, first, last, high = sorted(draw(st.tuples(numbers, numbers, numbers, numbers)))
        at, lasts = START + HOUR * hour, HOUR if draw(st.booleans()) else HOUR / 4
        volume = draw(st.one_of(numbers, st.just(Decimal(0))))
        bars.append(Bar("X-USD", at, at + lasts, first, high, low, last, volume))
    return bars


SOURCE = 'a "source", with a comma'
symbols = (f"LAW-{number}" for number in count())


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(bars=series(), other=series())
def test_bars_from_the_judge_are_the_same_bars(dsn: str, bars: list[Bar], other: list[Bar]) -> None:
    one, two = next(symbols), next(symbols)  # one database serves all examples
    stored, memory = PostgresCatalogue(dsn), MemoryCatalogue()
    for taken in (bars, other):
        mine, theirs = ([msgspec.structs.replace(each, symbol=symbol) for each in taken] for symbol in (one, two))
        added = stored.add(one, H1, mine, source=SOURCE, learned_at=JUNE, correct=True)
        for kept in (stored, memory):
            assert kept.add_validated(judged(theirs), source=SOURCE, learned_at=JUNE, correct=True) == added
    assert stored.bars(two, H1) == memory.bars(two, H1)
    text = "".join(bar_line(each, H1) for each in stored.bars(two, H1))
    assert stored.digest([two], H1) == memory.digest([two], H1) == sha256(text.encode()).hexdigest()
    assert stored.digest([one], H1) == sha256(text.replace(two, one).encode()).hexdigest()
    assert_frame_equal(stored.frame(two, H1), memory.frame(two, H1), check_exact=True)
    imported = [[each.digest for each in kept.imports() if each.symbol == two] for kept in (stored, memory)]
    assert imported[0] == imported[1]
    assert stored.bars(two, H1) == [msgspec.structs.replace(each, symbol=two) for each in stored.bars(one, H1)]
    assert {each.source for each in stored.history(two, H1)} == {SOURCE}


def test_what_the_judge_refused_is_remembered(catalogue: BarCatalogue) -> None:
    refused = [RefusedRow(2, "x,1,1,1,1", "its time is no time")]
    assert catalogue.add_validated(judged([bar(0)], refused), source="s", learned_at=JUNE, actor="me") == Added(1, 0)
    assert catalogue.add_validated(judged([], refused), source="s", learned_at=JULY) == Added(0, 0)
    first, second = catalogue.imports()
    assert (first.rows, first.refused, first.actor) == (1, tuple(refused), "me")
    assert (second.rows, second.refused) == (0, tuple(refused))


def test_from_the_judge_too_other_values_are_refused_unless_they_are_a_correction(catalogue: BarCatalogue) -> None:
    add(catalogue, [bar(0)])
    with pytest.raises(BadInput, match="given as open 11 high 11 low 11"):
        catalogue.add_validated(judged([bar(0, "11")]), source="s", learned_at=JULY)
    assert catalogue.add_validated(judged([bar(0, "11")]), source="s", learned_at=JULY, correct=True) == Added(0, 0, 1)
    assert catalogue.bars("X-USD", H1) == [bar(0, "11")]


def test_the_month_in_which_clocks_were_set_back_is_stored(catalogue: BarCatalogue) -> None:
    span = bar_of_day("FX", Timeframe.MO1, date(2003, 10, 1))
    assert span is not None
    month = Bar("EUR-USD", *span, *[Decimal(1)] * 5)
    assert catalogue.add_validated(judged([month], timeframe=Timeframe.MO1), source="s", learned_at=JUNE) == Added(1, 0)
    assert catalogue.add("EUR-USD", Timeframe.MO1, [month], source="s", learned_at=JUNE) == Added(0, 1)
    assert catalogue.bars("EUR-USD", Timeframe.MO1) == [month]


def test_many_bars_go_in_whole(dsn: str) -> None:
    """More than one part of the text that is sent, into a series that is empty and then into one that is not."""
    opens = pl.datetime_range(START - 120_000 * HOUR, START, "1h", time_unit="us", time_zone="UTC", eager=True)
    prices = (opens.to_physical() // 3_600_000_000 % 1_000 + 1).cast(pl.Decimal(38, 12))
    frame = pl.DataFrame({"opened_at": opens, "closed_at": opens.dt.offset_by("1h")}).with_columns(
        prices.alias(name) for name in ("open", "high", "low", "close", "volume")
    )
    catalogue = PostgresCatalogue(dsn)
    for part, expected in ((frame[:60_001], Added(60_001, 0)), (frame, Added(60_000, 60_001))):
        taken = ValidatedBars(instrument_for("X-USD"), H1, part, [])
        assert catalogue.add_validated(taken, source="s", learned_at=JUNE) == expected
    read = catalogue.frame("X-USD", H1)
    assert read["opened_at"].to_list() == frame["opened_at"].to_list()
    assert read["close"].to_list() == frame["close"].cast(pl.Float64).to_list()


# --- What providers were asked --------------------------------------------------------------------------------------


def test_what_a_provider_was_asked_is_remembered(catalogue: BarCatalogue) -> None:
    span = Span(START, START + HOUR)
    first, second = ProviderRequest("one", span, JULY, 0), ProviderRequest("two", span, JUNE, 7)
    catalogue.record_request("X-USD", H1, first)
    catalogue.record_request("X-USD", H1, second)
    catalogue.record_request("X-USD", D1, first)
    assert catalogue.provider_requests("X-USD", H1) == [first, second]
    assert catalogue.provider_requests("X-USD", D1) == [first]
    assert catalogue.provider_requests("Y-USD", H1) == []


def test_what_was_asked_can_be_neither_changed_nor_removed(dsn: str) -> None:
    PostgresCatalogue(dsn).record_request("X-USD", H1, ProviderRequest("one", Span(START, JUNE), JUNE, 0))
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in ("UPDATE quantagent.asked_bars SET rows = 1", "DELETE FROM quantagent.asked_bars"):
            with pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
                conn.execute(statement)
