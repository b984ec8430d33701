"""Fetching: exactly what is missing is asked for, once, and whatever stops it costs nothing that was there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, ProviderUnavailable
from engine.feed.fetch import Fetched, fetch
from engine.feed.memory import MemoryCatalogue
from engine.feed.providers import Reach
from engine.feed.quality import frame_of
from engine.feed.resample import resampled
from engine.feed.sessions import Span, grid
from engine.market import Calendar, Instrument, Timeframe

H1 = Timeframe.H1
MONDAY = datetime(2024, 11, 25, tzinfo=UTC)
WEEK = Span(MONDAY, MONDAY + timedelta(days=7))


class Recorded:
    """A provider with a bar for each of the grid, but for those it lacks; it writes down what it is asked."""

    name, synthetic = "recorded", False

    def __init__(self, reach: Reach | None = None, lacks: tuple[Span, ...] = (), fails_at: int | None = None) -> None:
        self._reach, self.lacks, self.fails_at = reach or Reach(), lacks, fails_at
        self.asked: list[Span] = []
        self.close = 10.5

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return self._reach if timeframe in (Timeframe.M30, H1) else None

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        if len(self.asked) == self.fails_at:
            raise ProviderUnavailable("recorded is away: come back later.")
        self.asked.append(span)
        bars = grid(instrument.calendar, timeframe, span).select("opened_at")
        for hole in self.lacks:
            bars = bars.filter((pl.col("opened_at") < hole.start) | (pl.col("opened_at") >= hole.end))
        prices = {"open": 10.0, "high": 12.0, "low": 9.0, "close": self.close, "volume": 5.0}
        return bars.with_columns(pl.lit(value).alias(name) for name, value in prices.items())


def market(calendar: Calendar = "XNYS") -> Instrument:
    return Instrument("AAA", calendar=calendar)


def fetched(
    catalogue: MemoryCatalogue,
    provider: Recorded,
    span: Span = WEEK,
    calendar: Calendar = "XNYS",
    timeframe: Timeframe = H1,
    again: bool = False,
) -> Fetched:
    return fetch(catalogue, provider, market(calendar), timeframe, span, actor="test", again=again)


def opens(catalogue: MemoryCatalogue, timeframe: Timeframe = H1) -> list[datetime]:
    return [bar.opened_at for bar in catalogue.bars("AAA", timeframe)]


def whole(calendar: Calendar, span: Span, timeframe: Timeframe = H1) -> list[datetime]:
    inside = grid(calendar, timeframe, span).filter(pl.col("closed_at") <= span.end)
    return [at.astimezone(UTC) for at in inside["opened_at"]]


def test_a_week_with_a_holiday_and_a_half_day_is_one_call_and_then_none() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    assert fetched(catalogue, provider) == Fetched(1, 3 * 7 + 4)
    assert opens(catalogue) == whole("XNYS", WEEK)
    for _ in range(2):
        assert fetched(catalogue, provider) == Fetched()
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
    assert fetched(catalogue, provider, again=True) == Fetched(1, 2)
    assert opens(catalogue) == whole("XNYS", WEEK)


def test_what_has_changed_at_the_provider_becomes_a_revision_when_it_is_asked_again() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    fetched(catalogue, provider)
    known_at = catalogue.known_at()
    provider.close = 11.0
    assert fetched(catalogue, provider).corrected == 0
    assert fetched(catalogue, provider, again=True) == Fetched(1, 0, 25)
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
    with pytest.raises(BadInput, match=r"recorded has 1h bars since .* and nothing from 2024-11-25"):
        fetched(catalogue, Recorded(Reach(back=timedelta(days=1))))


def test_a_timeframe_that_is_not_offered_is_made_of_the_largest_that_fits() -> None:
    catalogue, provider = MemoryCatalogue(), Recorded()
    assert fetched(catalogue, provider, timeframe=Timeframe.D1).calls == 1
    made = resampled(frame_of(catalogue.bars("AAA", H1)), "XNYS", H1, Timeframe.D1)
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


def test_the_forming_bar_never_enters_and_a_young_one_that_is_missing_is_asked_for_again() -> None:
    now = datetime.now(UTC)
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
    held = set(opens(catalogue)) if catalogue.listing() else set[datetime]()
    assert held == had
    times = [at for span in provider.asked for at in _opening(calendar, span)]
    assert len(times) == len(set(times))
    assert set(times) == wanted


def _opening(calendar: Calendar, span: Span) -> Iterator[datetime]:
    return (at.astimezone(UTC) for at in grid(calendar, H1, span)["opened_at"])
