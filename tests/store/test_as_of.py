"""The book at any instant of the past is the fold of what had happened by then."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import clock
from engine.audit.as_of import BookSnapshot, book_as_of
from engine.core.config import digest_of
from engine.core.errors import NotFound
from engine.core.events import BookEvent, Environment, PositionsMarked, RunRequested, TradingHalted
from engine.core.intents import Intent
from engine.core.market import Direction
from engine.core.money import add, exact, percent_of, sub, total
from engine.data.signals import ImportedAnalyst
from engine.data.timeline import time_slices
from engine.runtime import runs
from engine.runtime.session import Journal, Session
from engine.store import ENGINE_VERSION, Cause, Store
from engine.store.memory import MemoryStore
from engine.trading.book import fold
from tests.support.commands import answer, refusal, run
from tests.support.databases import log_of_its_own
from tests.support.strategies import FIRST, HOUR, STREAM, History, Scripted, bar_at, config_of, histories, run_history
from tests.support.worlds import BARS, BOLD, FILE, run_request


def question_of(history: History) -> RunRequested:
    """The run that a law's history would be."""
    asked = runs.request(
        Environment.BACKTEST, history.config, profile="law", dataset_digest="", variant="law",
        start=history.bars[0][0].opened_at, end=history.bars[0][-1].closed_at,
    )  # fmt: skip
    return msgspec.structs.replace(asked, run_id=STREAM.removeprefix("book:"))


def starting_cash(state: BookSnapshot) -> Decimal:
    """What the account must have begun with, worked back from what it has."""
    cost = total(position.cost for position in state.book.positions.values())
    return sub(add(add(state.book.cash, cost), state.book.fees), add(state.book.realised, state.book.adjusted))


@given(histories(), st.integers(-60, 24 * 60 * 10))
@settings(max_examples=60)
def test_at_any_instant_it_is_the_fold_of_the_events_until_then(history: History, minutes: int) -> None:
    store = MemoryStore()
    events = run_history(history, store).events
    at = events[0].at + timedelta(minutes=minutes)
    before = [event for event in events if event.at <= at]
    if not before:
        with pytest.raises(NotFound, match=r"was opened at .*, after .*: use a later time\.$"):
            book_as_of(store, question_of(history), at)
        return
    state = book_as_of(store, question_of(history), at)
    assert state.book == fold(before)
    assert state.last.event == before[-1]
    assert state.last.version == len(before)
    assert starting_cash(state) == history.config.cash
    assert state.marked == next((event for event in reversed(before) if isinstance(event, PositionsMarked)), None)


@given(histories())
@settings(max_examples=20)
def test_at_its_end_it_is_the_book(history: History) -> None:
    store = MemoryStore()
    session = run_history(history, store).session
    state = book_as_of(store, question_of(history), datetime.max.replace(tzinfo=UTC))
    # Closes are no events: the log alone leaves the equity of the opening, which the session follows.
    closes = {"last_equity": state.book.last_equity, "peak": state.book.peak}
    assert state.book == msgspec.structs.replace(session.book, **closes)
    for position in state.book.positions.values():
        multiplier = state.book.instruments[position.symbol].multiplier
        paid = state.average_price(position) * position.quantity * multiplier
        assert abs(paid - position.cost) <= abs(position.quantity * multiplier) * Decimal("1e-12")


@pytest.fixture(scope="module")
def bold() -> tuple[Store, RunRequested]:
    """A run that turns, adds, is refused and is halted."""
    store = MemoryStore()
    return store, runs.execute_run(store, run_request(BOLD), BARS, ImportedAnalyst(FILE), actor="test").request


def test_a_halt_is_there_until_it_is_lifted(bold: tuple[Store, RunRequested]) -> None:
    store, asked = bold
    rows = list(store.read(runs.book_stream(asked.run_id)))
    halted = next(row.event for row in rows if isinstance(row.event, TradingHalted))
    assert book_as_of(store, asked, halted.at).book.halts == {"daily_loss": halted}
    assert book_as_of(store, asked, halted.at - timedelta(seconds=1)).book.halts == {}
    midnight = halted.at.replace(hour=0) + timedelta(days=1)
    assert book_as_of(store, asked, midnight - timedelta(seconds=1)).book.halts == {"daily_loss": halted}
    assert book_as_of(store, asked, midnight).book.halts == {}


def test_the_limits_are_the_runs_own_in_the_money_of_that_day(bold: tuple[Store, RunRequested]) -> None:
    store, asked = bold
    state = book_as_of(store, asked, BARS[0][-1].closed_at)
    assert BOLD.limits.daily_loss_pct is not None
    assert state.daily_loss == percent_of(state.book.day_equity, BOLD.limits.daily_loss_pct)
    assert state.run.config.limits == BOLD.limits


def test_an_order_that_waits_over_a_weekend_is_there_with_what_it_reserved() -> None:
    friday, monday = FIRST, FIRST + 60 * HOUR
    bars = [[bar_at("AAA", friday, "100", "100"), bar_at("AAA", monday, "101", "101")]]
    long = Intent("AAA", Direction.LONG, exact(1), "law#1")
    history = History(config_of(quantity="10", commission_bps="10"), bars, {("AAA", friday + HOUR): long})
    store = MemoryStore()
    run_history(history, store)
    waiting = book_as_of(store, question_of(history), monday - HOUR)
    (order,) = waiting.book.working.values()
    assert (order.at, order.quantity, order.reserved) == (friday + HOUR, 10, exact("1001"))
    assert waiting.book.free_cash == 100_000 - order.reserved
    filled = book_as_of(store, question_of(history), monday)
    assert (filled.book.working, filled.book.held("AAA")) == ({}, 10)
    assert filled.average_price(filled.book.positions["AAA"]) == 101


@given(histories(), st.integers(0, 40))
@settings(max_examples=20)
def test_by_recording_time_it_is_what_the_log_knew(history: History, steps: int) -> None:
    """Every step is stored an hour of the clock after the one before it."""
    store, began = MemoryStore(), datetime(2026, 3, 1, 12, tzinfo=UTC)
    journal = Journal(store, STREAM, Cause("a law"))
    session = Session(history.config, digest_of(history.config), Scripted(history.script), journal)
    with pytest.MonkeyPatch.context() as patch:
        for n, moment in enumerate(time_slices(history.bars)):
            patch.setattr(clock, "now", lambda hours=n: began + hours * HOUR)
            session.advance(moment)
            journal.flush()
    at = began + steps * HOUR
    rows = [row for row in store.read(STREAM) if row.meta.recorded_at <= at]
    state = book_as_of(store, question_of(history), at, recorded=True)
    assert state.book == fold(row.event for row in rows if isinstance(row.event, BookEvent))
    assert (state.last, state.opened_at) == (rows[-1], began)
    with pytest.raises(NotFound, match="was first recorded at 2026-03-01T12:00:00Z"):
        book_as_of(store, question_of(history), began - HOUR, recorded=True)


def test_a_run_that_has_decided_nothing_says_so() -> None:
    store = MemoryStore()
    asked = runs.start_run(store, run_request(BOLD), BARS[0][0].opened_at, "test")
    with pytest.raises(NotFound, match="holds no event yet"):
        book_as_of(store, asked, BARS[0][0].opened_at)


# --- As a command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env(
    server: str, seeded_template: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("home")
    with log_of_its_own(server, seeded_template[0]) as dsn:
        yield {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(home), "QUANTAGENT_ACTOR": "auditor"}


def test_the_command_agrees_with_the_orders_and_positions_listed(env: dict[str, str]) -> None:
    end = answer(env, "audit", "as-of", "2017-11-16")
    assert end["environment"] == "backtest"
    shown = answer(env, "runs", "show", "latest")
    assert (end["run_id"], end["engine_version"]) == (shown["run"]["run_id"], ENGINE_VERSION)
    assert Decimal(end["cash"]) == Decimal(shown["portfolio"]["cash"])
    assert Decimal(end["fees"]) == Decimal(shown["portfolio"]["fees"])
    listed = answer(env, "positions", "list")["positions"]
    assert {row["symbol"]: Decimal(row["quantity"]) for row in end["positions"]} == {
        row["symbol"]: Decimal(row["quantity"]) for row in listed
    }
    assert end["limits"]["reversal"] is False
    assert end["marked"]["occasion"] == "end"


def test_what_people_read_rounds_nothing(env: dict[str, str]) -> None:
    end = answer(env, "audit", "as-of", "2017-11-16T00:00")
    shown = run(env, "audit", "as-of", "2017-11-16T00:00").stdout
    for name in ("cash", "free_cash", "realised", "fees", "day_equity"):
        assert f"{Decimal(end[name]):,f}" in shown
    assert "Working orders: none" in shown
    assert re.search(r"reversal +no", shown)


def test_what_cannot_be_asked_is_one_sentence(env: dict[str, str]) -> None:
    assert "2017-11-01T00:00:00Z" in refusal(env, "audit", "as-of", "2017-10-31")
    assert "noon" in refusal(env, "audit", "as-of", "noon")
    assert "abc" in refusal(env, "audit", "as-of", "2017-11-16", "--run", "abc")
    assert "use a later time" in refusal(env, "audit", "as-of", "2017-11-16", "--recorded")
