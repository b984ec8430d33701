"""Bars in and out: a million judged and stored, read back, and what a fetch saves that finds them there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import polars as pl

from engine import clock
from engine.core.market import Instrument, Timeframe, instrument_for
from engine.data.calendars import Span
from engine.data.catalogue import PostgresCatalogue
from engine.data.fetch import fetch_bars
from engine.data.providers import Reach
from engine.data.providers.synthetic import Synthetic
from engine.data.validation import validate_bars
from tests.support.bench_log import Figure

MILLION = 1_000_000
CALL_SECONDS = 0.3
"""What a call to a provider takes that is far away."""
ROUNDS = 3
SINCE = datetime(2022, 1, 1, tzinfo=UTC)


class FarAway:
    """The synthetic provider behind a wire: each call waits, and covers what one of Yahoo's covers."""

    name, synthetic, remembers = "far away", True, True

    def __init__(self, provider: Synthetic, call: timedelta | None) -> None:
        self._provider, self._call, self.calls = provider, call, 0

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach:
        return Reach(call=self._call)

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        self.calls += 1
        time.sleep(CALL_SECONDS)
        return self._provider.fetch(instrument, timeframe, span, now)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(dsn: str) -> Iterator[Figure]:
    market, catalogue, minute = instrument_for("SYNTHETIC.BTC-USD"), PostgresCatalogue(dsn), Timeframe.M1
    span = Span(SINCE, SINCE + MILLION * minute.duration)
    rows = Synthetic().fetch(market, minute, span, clock.now())
    judging = statistics.median(
        seconds(lambda: validate_bars(rows, market, minute, clock.now())) for _ in range(ROUNDS)
    )
    judged = validate_bars(rows, market, minute, clock.now())
    stored = seconds(lambda: catalogue.add_validated(judged, source="bench", learned_at=clock.now()))
    yield Figure("bars validated", MILLION / judging, "bars/s", f"1,000,000 in {judging:.1f} s")
    yield Figure("bars stored", MILLION / stored, "bars/s", f"1,000,000 in {stored:.1f} s")
    reading = statistics.median(seconds(lambda: catalogue.frame(market.symbol, minute)) for _ in range(ROUNDS))
    yield Figure("bars read into polars", MILLION / reading, "bars/s", f"1,000,000 in {reading:.1f} s")
    # A year of hours is one call to Yahoo, a month of minutes five.
    yield cached(catalogue, "a year of hours", Timeframe.H1, timedelta(days=365), None)
    yield cached(catalogue, "a month of minutes", minute, timedelta(days=30), timedelta(days=7))


def cached(
    catalogue: PostgresCatalogue, what: str, timeframe: Timeframe, length: timedelta, call: timedelta | None
) -> Figure:
    """How much sooner the bars of a range are there the second time."""
    market = instrument_for(f"SYNTHETIC.EUR-USD.{timeframe.duration.seconds}")
    provider, span = FarAway(Synthetic(), call), Span(SINCE, SINCE + length)

    def get() -> None:
        fetch_bars(catalogue, provider, market, timeframe, span, actor="bench")
        catalogue.frame(market.symbol, timeframe, *span)

    first, calls = seconds(get), provider.calls
    again = statistics.median(seconds(get) for _ in range(ROUNDS))
    assert provider.calls == calls, "the second time nobody is asked"
    shown = f"{first / again:.0f} x as fast as with {calls} call{'s' if calls > 1 else ''} of 300 ms"
    return Figure(f"{what}, fetched before", 1 / again, "ranges/s", shown)
