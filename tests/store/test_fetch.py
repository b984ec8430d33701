"""Fetching: exactly what is missing is asked for, once, and whatever stops it costs nothing that was there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import BadInput, ProviderUnavailable
from engine.core.market import Calendar, Instrument, Timeframe
from engine.core.money import exact
from engine.data.calendars import Span, grid
from engine.data.fetch import FetchResult, fetch_bars
from engine.data.memory import MemoryCatalogue
from engine.data.providers import Reach
from engine.data.resample import resample
from engine.data.validation import exact_frame

H1 = Timeframe.H1
MONDAY = datetime(2024, 11, 25, tzinfo=UTC)
WEEK = Span(MONDAY, MONDAY + timedelta(days=7))


class Recorded:
    """A provider with a bar for each of the grid, but for those it lacks; it writes down what it is asked."""

    name, synthetic, remembers = "recorded", False, True

    def __init__(self, reach: Reach | None = None, lacks: tuple[Span, ...] = (), fails_at: int | None = None) -> None:
        self.reaches, self.lacks, self.fails_at = reach or Reach(), lacks, fails_at
        self.asked: list[Span] = []
        self.close, self.talks, self.answer = 10.5, False, object()

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return self.reaches if timeframe in (Timeframe.M30, H1) else None

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        if len(self.asked) == self.fails_at:
            raise ProviderUnavailable("recorded is away: come back later.")
        self.asked.append(span)
        if isinstance(self.answer, Exception):
            raise self.answer
        if type(self.answer) is not object:
            return self.answer  # pyright: ignore[reportReturnType] - that is what is tried
        beside = timedelta(days=2) if self.talks else timedelta()
        bars = grid(instrument.calendar, timeframe, Span(span.start - beside, span.end + beside)).select("opened_at")
        for hole in self.lacks:
            bars = bars.filter((pl.col("opened_at") < hole.start) | (pl.col("opened_at") >= hole.end))
        prices = {"open": 10.0, "high": 12.0, "low": 9.0, "close": self.close, "volume": 5.0}
        return bars.with_columns(pl.lit(value, pl.Float64).alias(name) for name, value in prices.items())


def market(calendar: Calendar = "XNYS") -> Instrument:
    return Instrument("AAA", calendar=calendar)


def fetched(
    catalogue: MemoryCatalogue,
    provider: Recorded,
    span: Span = WEEK,
    calendar: Calendar = "XNYS",
    timeframe: Timeframe = H1,
    again: bool = False,
) -> FetchResult:
    return fetch_bars(catalogue, provider, market(calendar), timeframe, span, actor="test", refetch=again)


def opens(catalogue: MemoryCatalogue, timeframe: Timeframe = H1) -> list[datetime]:
    return [bar.opened_at for bar in catalogue.bars("AAA", timeframe)]


def whole(calendar: Calendar, span: Span, timeframe: Timeframe = H1) -> list[datetime]:
    inside = grid(calendar, timeframe, span).filter(pl.col("closed_at") <= span.end)
    return [at.astimezone(UTC) for at in inside["opened_at"]]


def test_a_week_with_a_holiday_and_a_half_day_is_one_call_and_then_none() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    assert fetched(catalogue, provider) == FetchResult(1, 3 * 7 + 4)
    assert opens(catalogue) == whole("XNYS", WEEK)
    for _ in range(2):
        assert fetched(catalogue, provider) == FetchResult()
    assert len(provider.asked) == 1


@pytest.mark.parametrize("calendar", ["24/7", "FX", "XNYS", "CME", "NYMEX"])
def test_a_closed_market_is_nothing_that_is_missing(calendar: Calendar) -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    fetched(catalogue, provider, calendar=calendar)
    assert opens(catalogue) == whole(calendar, WEEK)
    assert fetched(catalogue, provider, calendar=calendar).calls == 0
    weekend = Span(MONDAY + timedelta(days=5, hours=1), MONDAY + timedelta(days=6, hours=20))
    if calendar != "24/7":
        assert fetched(MemoryCatalogue(), provider, weekend, calendar).calls == 0


def test_every_hole_inside_is_found_and_only_the_holes_are_asked_for() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    days = [Span(MONDAY + timedelta(days=n), MONDAY + timedelta(days=n + 1)) for n in range(5)]
    for day in (days[0], days[2], days[4]):
        fetched(catalogue, provider, day)
    provider.asked.clear()
    # Thursday is Thanksgiving, so that Tuesday is the only hole.
    assert fetched(catalogue, provider).calls == 1
    (asked,) = provider.asked
    assert days[1].start < asked.start < asked.end < days[1].end
    assert opens(catalogue) == whole("XNYS", WEEK)


def test_what_a_provider_has_not_is_not_asked_for_again_unless_a_person_says_so() -> None:
    away = Span(MONDAY + timedelta(hours=16), MONDAY + timedelta(hours=18))
    catalogue, provider = MemoryCatalogue(), Recorded(lacks=(away,))
    assert fetched(catalogue, provider).calls == 1
    assert fetched(catalogue, provider).calls == 0
    provider.lacks = ()
    assert fetched(catalogue, provider).calls == 0
    assert fetched(catalogue, provider, again=True) == FetchResult(1, 2)
    assert opens(catalogue) == whole("XNYS", WEEK)


def test_what_has_changed_at_the_provider_becomes_a_revision_when_it_is_asked_again() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    fetched(catalogue, provider)
    known_at = catalogue.known_at()
    provider.close = 11.0
    assert fetched(catalogue, provider).corrected == 0
    assert fetched(catalogue, provider, again=True) == FetchResult(1, 0, 25)
    assert {float(bar.close) for bar in catalogue.bars("AAA", H1)} == {11.0}
    assert {float(bar.close) for bar in catalogue.as_known_at(known_at).bars("AAA", H1)} == {10.5}


def test_a_call_covers_no_more_than_the_provider_allows_and_none_goes_twice() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded(Reach(call=timedelta(hours=30)))
    fetched(catalogue, provider, calendar="24/7")
    assert len(provider.asked) == 6
    assert all(span.end - span.start <= timedelta(hours=30) for span in provider.asked)
    assert opens(catalogue) == whole("24/7", WEEK)


def test_what_lies_before_a_providers_reach_is_left_and_all_of_it_is_an_error() -> None:
    catalogue = MemoryCatalogue()
    with pytest.raises(BadInput, match=r"recorded has 1h bars since .* and the 25 missing bars are older"):
        fetched(catalogue, Recorded(Reach(back=timedelta(days=1))))
    since = datetime.now(UTC) - timedelta(days=3)
    got = fetched(catalogue, Recorded(Reach(back=timedelta(days=1))), Span(since, since + timedelta(days=2.5)), "24/7")
    assert (got.calls, got.new + got.beyond, got.beyond in (47, 48)) == (1, 59, True)


def test_bars_that_are_there_need_no_provider_that_has_them_still() -> None:
    catalogue = MemoryCatalogue()
    fetched(catalogue, Recorded())
    assert fetched(catalogue, Recorded(Reach(back=timedelta(days=1)))) == FetchResult()


def test_a_thin_series_is_asked_for_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 3, 2, 14, tzinfo=UTC)
    monkeypatch.setattr("engine.clock.now", lambda: now)
    hours = [now - timedelta(hours=n) for n in range(1, 40)]
    quiet = tuple(Span(at, at + timedelta(hours=1)) for at in hours[::3])
    catalogue, provider = MemoryCatalogue(), Recorded(lacks=quiet)
    for _ in range(3):
        fetched(catalogue, provider, Span(hours[-1], now), "24/7")
    assert len(provider.asked) == 3


def test_what_comes_beside_what_was_asked_for_changes_nothing() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    fetched(catalogue, provider, Span(MONDAY, MONDAY + timedelta(days=1)))
    fetched(catalogue, provider, Span(MONDAY + timedelta(days=2), MONDAY + timedelta(days=7)))
    provider.close, provider.talks = 11.0, True
    assert fetched(catalogue, provider) == FetchResult(1, 7)
    assert sum(float(bar.close) == 10.5 for bar in catalogue.bars("AAA", H1)) == 18


@pytest.mark.parametrize("answer", [None, pl.DataFrame(), pl.DataFrame({"opened_at": [1]}), ValueError("no idea")])
def test_a_provider_that_breaks_its_word_is_named_in_a_sentence(answer: object) -> None:
    provider = Recorded()
    provider.answer = answer
    with pytest.raises(ProviderUnavailable, match="provider recorded failed on 1h bars of AAA: "):
        fetched(MemoryCatalogue(), provider)


def test_a_made_bar_of_which_a_part_may_still_come_is_not_made_yet() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded(fails_at=1)
    days = Span(MONDAY, MONDAY + timedelta(days=3))
    provider.reaches = Reach(call=timedelta(hours=36))
    with pytest.raises(ProviderUnavailable):
        fetched(catalogue, provider, days, "24/7", Timeframe.D1)
    provider.fails_at = None
    fetched(catalogue, provider, days, "24/7", Timeframe.D1)
    assert [bar.volume for bar in catalogue.bars("AAA", Timeframe.D1)] == [24 * 5] * 3
    assert fetched(catalogue, provider, days, "24/7", Timeframe.D1).calls == 0


def test_a_made_bar_begins_and_ends_with_parts_that_are_there() -> None:
    hour = timedelta(hours=1)
    gone = (Span(MONDAY, MONDAY + 3 * hour), Span(MONDAY + 30 * hour, MONDAY + 32 * hour))
    catalogue = MemoryCatalogue()
    fetched(catalogue, Recorded(lacks=gone), Span(MONDAY, MONDAY + 72 * hour), "24/7", Timeframe.D1)
    made = catalogue.bars("AAA", Timeframe.D1)
    assert [(bar.opened_at, bar.volume) for bar in made] == [
        (MONDAY + 24 * hour, 22 * 5), (MONDAY + 48 * hour, 24 * 5)
    ]  # fmt: skip


def test_making_bars_leaves_those_alone_that_came_from_elsewhere() -> None:
    catalogue = MemoryCatalogue()
    fetched(catalogue, Recorded(), WEEK, "24/7", Timeframe.D1)
    own = catalogue.bars("AAA", Timeframe.D1)[2]
    better = msgspec.structs.replace(own, volume=exact("7"))
    catalogue.add("AAA", Timeframe.D1, [better], source="own", learned_at=datetime.now(UTC), correct=True)
    longer = Span(WEEK.start, WEEK.end + timedelta(days=1))
    assert fetched(catalogue, Recorded(), longer, "24/7", Timeframe.D1).new == 1
    assert catalogue.bars("AAA", Timeframe.D1)[2] == better


def test_a_timeframe_that_is_not_offered_is_made_of_the_largest_that_fits() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    assert fetched(catalogue, provider, timeframe=Timeframe.D1).calls == 1
    made = resample(exact_frame(catalogue.bars("AAA", H1)), "XNYS", H1, Timeframe.D1)
    assert opens(catalogue, Timeframe.D1) == [at.astimezone(UTC) for at in made["opened_at"]]
    assert len(opens(catalogue, Timeframe.D1)) == 4
    with pytest.raises(BadInput, match="recorded has no 1m bars of AAA"):
        fetched(catalogue, provider, timeframe=Timeframe.M1)


def test_a_fetch_that_is_stopped_goes_on_where_it_ended() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded(Reach(call=timedelta(hours=20)), fails_at=3)
    with pytest.raises(ProviderUnavailable):
        fetched(catalogue, provider, calendar="24/7")
    stored, asked = len(opens(catalogue)), len(provider.asked)
    assert (stored, asked) == (60, 3)
    provider.fails_at = None
    fetched(catalogue, provider, calendar="24/7")
    assert opens(catalogue) == whole("24/7", WEEK)
    assert all(later.start >= provider.asked[2].end for later in provider.asked[3:])


def test_the_forming_bar_never_enters_and_a_young_one_that_is_missing_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = datetime(2026, 3, 2, 14, 20, tzinfo=UTC)
    monkeypatch.setattr("engine.clock.now", lambda: now)
    young = Span(now - timedelta(hours=5), now + timedelta(hours=5))
    last = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    catalogue, provider = MemoryCatalogue(), Recorded(lacks=(Span(last, last + timedelta(hours=1)),))
    fetched(catalogue, provider, young, "24/7")
    assert opens(catalogue)[-1] == last - timedelta(hours=1)
    provider.lacks = ()
    assert fetched(catalogue, provider, Span(young.start, last + timedelta(hours=1)), "24/7").new == 1


spans = st.tuples(st.integers(0, 24 * 9), st.integers(1, 24 * 4)).map(
    lambda at: Span(MONDAY + timedelta(hours=at[0]), MONDAY + timedelta(hours=at[0] + at[1]))
)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    asked=st.lists(spans, min_size=1, max_size=6),
    lacks=st.lists(spans, max_size=2),
    calendar=st.sampled_from(("24/7", "XNYS", "NYMEX")),
    hours=st.sampled_from((None, 7, 50)),
)
def test_whatever_is_asked_in_whatever_order_no_bar_is_asked_for_twice_and_none_forgotten(
    asked: list[Span], lacks: list[Span], calendar: Calendar, hours: int | None
) -> None:
    call = None if hours is None else timedelta(hours=hours)
    catalogue, provider = MemoryCatalogue(), Recorded(Reach(call=call), tuple(lacks))
    for span in asked:
        fetched(catalogue, provider, span, calendar)
    wanted = {at for span in asked for at in whole(calendar, span)}
    had = {at for at in wanted if not any(hole.start <= at < hole.end for hole in lacks)}
    held = set(opens(catalogue)) if catalogue.list_series() else set[datetime]()
    assert held == had
    asked_for = [set(_opening(calendar, span)) for span in provider.asked]
    assert set[datetime]().union(*asked_for) >= wanted
    for span in asked:
        assert fetched(catalogue, provider, span, calendar).calls == 0


def _opening(calendar: Calendar, span: Span) -> Iterator[datetime]:
    return (at.astimezone(UTC) for at in grid(calendar, H1, span)["opened_at"])
