"""A book is a function of bars, analyses and configuration, and of nothing else.

Run as a program it prints what it computed, so that the same can be asked of other processes: `python -m
tests.store.test_determinism`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Context, localcontext
from itertools import cycle, product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.analyst import ensure_analyses
from engine.core.config import RunConfig
from engine.core.errors import ReplayDiverged
from engine.core.events import Environment, RunEnded, RunRequested
from engine.core.market import Bar, Timeframe
from engine.data.memory import MemoryCatalogue
from engine.runtime import runs, session
from engine.store import Batch, Cause, Store
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from tests.support.decimal_contexts import HOSTILE
from tests.support.payloads import payloads
from tests.support.strategies import STREAM, History, config_of, histories, run_history
from tests.support.workloads import scripted, walk

ME = Cause("test")
LATER = datetime(2030, 1, 1, tzinfo=UTC)
SYMBOLS = ("AAA", "BBB")


def synthetic_bars() -> list[list[Bar]]:
    return [walk(symbol, seed, 360, 100.0, 0.01) for symbol, seed in zip(SYMBOLS, (31, 5), strict=True)]


def account() -> RunConfig:
    """Odd figures, so that something is there to be rounded."""
    return config_of(
        SYMBOLS,
        cash="98765.4321",
        slippage_bps="3.3",
        commission_bps="1.7",
        position_pct="10",
        daily_loss_pct="1",
        holding_bars=4,
    )


def request_for(bars: list[list[Bar]], variant: str) -> RunRequested:
    return runs.request(
        Environment.BACKTEST,
        account(),
        profile="test",
        dataset_digest="digest",
        variant=variant,
        start=bars[0][0].opened_at,
        end=bars[0][-1].closed_at,
    )


def backtests(store: Store) -> Iterator[RunEnded]:
    """One run with the rules analyst, one with written wishes."""
    bars = synthetic_bars()
    catalogue = MemoryCatalogue()
    for series in bars:
        catalogue.add(series[0].symbol, Timeframe.H1, series, source="test", learned_at=LATER)
    formed = ensure_analyses(store, catalogue, SYMBOLS, Timeframe.H1, None, None, actor="test")
    yield runs.execute_run(store, request_for(bars, "rules"), bars, formed, actor="test").ended
    yield runs.execute_run(store, request_for(bars, "scripted"), bars, scripted(bars), actor="test").ended


def said(store: Store) -> str:
    """What two backtests say of themselves, in one line."""
    return " ".join(
        f"{ended.fills} {ended.book_events} {ended.book_digest} {ended.analyses_digest}" for ended in backtests(store)
    )


@pytest.fixture(scope="module")
def reference() -> tuple[str, list[tuple[str, int, str, bytes]]]:
    store = MemoryStore()
    return said(store), payloads(store)


Reference = tuple[str, list[tuple[str, int, str, bytes]]]


def test_both_backtests_trade(reference: Reference) -> None:
    ruled, written = [ended.fills for ended in backtests(MemoryStore())]
    assert ruled >= 10
    assert written >= 30


# Every hash seed meets every time zone. The locales are those that every machine has.
SEEDS, ZONES, LOCALES = ("0", "1", "2"), ("UTC", "Asia/Tokyo", "America/New_York"), ("C", "C.UTF-8")


@pytest.mark.slow(10)
@pytest.mark.parametrize(
    ("seed", "zone", "locale"),
    [(*pair, name) for pair, name in zip(product(SEEDS, ZONES), cycle(LOCALES))],
)
def test_another_process_says_the_same(seed: str, zone: str, locale: str, reference: Reference) -> None:
    surroundings = {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale}
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.test_determinism"],
        env={**os.environ, **surroundings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == reference[0]


def test_postgres_holds_the_same_bytes_as_memory(dsn: str, reference: Reference) -> None:
    with PostgresStore(dsn) as store:
        assert said(store) == reference[0]
        assert payloads(store) == reference[1]


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_size_of_the_batches_changes_nothing(
    batch: int, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "BATCH", batch)
    store = MemoryStore()
    assert said(store) == reference[0]
    assert payloads(store) == reference[1]


def test_a_hostile_decimal_context_changes_nothing(reference: Reference) -> None:
    store = MemoryStore()
    bars = synthetic_bars()
    with localcontext(HOSTILE):
        ended = runs.execute_run(store, request_for(bars, "scripted"), bars, scripted_calmly(bars), actor="test").ended
    assert ended.book_digest in reference[0]


def scripted_calmly(bars: list[list[Bar]]) -> session.Analyst:
    """The written wishes are the test's own arithmetic: made outside the hostile context."""
    with localcontext(Context(prec=60)):
        return scripted(bars)


@given(history=histories())
@settings(max_examples=60)
def test_no_history_depends_on_the_decimal_context(history: History) -> None:
    calm = run_history(history).journal.digest
    with localcontext(HOSTILE):
        hostile = run_history(history).journal.digest
    assert hostile == calm


@given(history=histories(), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_restart_anywhere_continues_to_the_same_digest_and_writes_nothing_twice(
    history: History, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_history(history)
    stored = data.draw(st.integers(0, len(whole.events)))
    monkeypatch.setattr(session, "BATCH", data.draw(st.sampled_from([1, 7, 500])))
    store = MemoryStore()
    store.append([Batch(STREAM, 0, whole.events[:stored])], ME)
    again = run_history(history, store)
    assert again.journal.digest == whole.journal.digest
    assert again.events == whole.events
    assert again.session.book == whole.session.book
    assert store.last_position() == len(whole.events)
    assert [row.meta.actor for row in store.read(STREAM)].count("test") == stored


def test_a_book_that_holds_something_else_is_named_at_its_first_difference() -> None:
    bars = [walk("AAA", 3, 60, 100.0, 0.01)]
    script = scripted(bars)
    whole = History(
        config_of(quantity="10"), bars, {(b.symbol, b.closed_at): w for b in bars[0] if (w := script.intent(b))}
    )
    store = MemoryStore()
    run_history(whole, store)
    dearer = whole._replace(config=config_of(quantity="10", commission_bps="1"))
    with pytest.raises(ReplayDiverged, match=f"{STREAM} diverges at version 1: stored BookOpened"):
        run_history(dearer, store)
    assert len(list(store.read(STREAM))) == len(run_history(whole).events)


if __name__ == "__main__":
    print(said(MemoryStore()))
