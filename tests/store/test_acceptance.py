"""Mistakes that trading engines make, as claims that ours does not. docs/roadmap.md lists all of them with their tests;
here are those that belong to no single part."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from analysis.analyst import ensure_analyses
from analysis.baselines import AlwaysLong
from analysis.variants import StrategyVariant
from engine.core.events import Environment, RunRequested
from engine.core.market import BUILT_IN_INSTRUMENTS, Instrument, Timeframe, periods_per_year
from engine.data.memory import MemoryCatalogue
from engine.data.signals import ImportedAnalyst
from engine.data.timeline import time_slices
from engine.runtime import runs
from engine.runtime.session import Journal, Session
from engine.store import Cause
from engine.store.memory import MemoryStore
from projections.queries import Queries
from tests.support.strategies import HOUR
from tests.support.worlds import BARS, BOLD, CAREFUL, FILE, LATER, World, run_request, world_in


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as opened:
        yield opened


def rows_of(world: World, run_id: str, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of one run, without the columns that name it."""
    kept = world.rows()
    return {name: sorted([row[2:] for row in kept[name] if run_id in row], key=repr) for name in tables}


def test_every_time_of_a_run_is_a_time_of_its_bars(world: World) -> None:
    run_id = world.run(run_request(BOLD))
    world.runner().catch_up()
    first, last = BARS[0][0].opened_at, BARS[0][-1].closed_at
    for name in ("orders", "fills", "trades", "signals", "risk_decisions", "equity", "decisions", "positions", "days"):
        times = [value for row in world.rows()[name] if run_id in row for value in row if isinstance(value, datetime)]
        assert times, name
        assert all(first <= at <= last for at in times), name


def test_two_runs_over_the_same_dates_interleaved_give_what_each_gives_alone(world: World) -> None:
    alone = [world.run(run_request(config)) for config in (BOLD, CAREFUL)]
    together = [run_request(config, "together") for config in (BOLD, CAREFUL)]
    first, last = BARS[0][0].opened_at, BARS[0][-1].closed_at
    driven: list[tuple[RunRequested, Session, Journal]] = []
    for asked in together:
        runs.start_run(world.store, asked, first, "test")
        journal = Journal(world.store, runs.book_stream(asked.run_id), Cause("test", asked.run_id))
        driven.append((asked, Session(asked.config, asked.config_digest, ImportedAnalyst(FILE), journal), journal))
    for number, moment in enumerate(time_slices(BARS)):
        for _, session, journal in driven:
            session.advance(moment)
            if number % 7 == 0:
                journal.flush()
    for asked, session, journal in driven:
        runs.end_run(world.store, asked, session, journal, last, "test")
    world.runner().catch_up()
    tables = ("metrics", "equity", "trades", "orders", "fills", "portfolio", "positions", "days", "decisions")
    for run_id, asked in zip(alone, together, strict=True):
        ours, theirs = rows_of(world, asked.run_id, *tables), rows_of(world, run_id, *tables)
        for name in tables:
            # Where a row stands in the log differs, and nothing else.
            assert len(ours[name]) == len(theirs[name]) > 0, name
            if name not in ("orders", "fills"):
                assert ours[name] == theirs[name], name


def test_equity_moves_with_every_bar_that_moves_a_position(world: World) -> None:
    run_id = world.run(run_request(BOLD))
    world.runner().catch_up()
    with Queries(world.dsn) as queries:
        curve, trades = queries.equity(run_id), queries.trades(run_id)
    held = [
        before["equity"] != after["equity"]
        for before, after in pairwise(curve)
        if any(t["entry_at"] < before["at"] and (t["exit_at"] is None or t["exit_at"] > after["at"]) for t in trades)
    ]
    assert len(held) > 10
    assert all(held)


def test_positions_of_paper_and_backtest_live_side_by_side(world: World) -> None:
    backtest, paper = run_request(BOLD), run_request(CAREFUL, "paper", Environment.PAPER)
    for asked in (backtest, paper):
        world.run(asked)
    world.runner().catch_up()
    rows = [row[:3] for row in world.rows()["positions"]]
    assert {(environment, symbol) for environment, _, symbol in rows} == {
        (environment, symbol) for environment in ("backtest", "paper") for symbol in ("AAA", "BBB")
    }
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(
    ("calendars", "periods"), [(["24/7"], 365), (["XNYS"], 252), (["FX"], 252), (["XNYS", "24/7"], 365)]
)
def test_years_have_the_days_of_their_calendar_whatever_the_bars(calendars: list[Any], periods: int) -> None:
    instruments = [Instrument(f"S{n}", calendar=calendar) for n, calendar in enumerate(calendars)]
    assert periods_per_year(instruments) == periods
    assert periods_per_year([BUILT_IN_INSTRUMENTS["BTC-USD"]]) == 365


def test_one_opinion_is_made_for_each_new_bar_and_none_for_an_hour_without_one() -> None:
    store, catalogue = MemoryStore(), MemoryCatalogue()
    # A hole of ten hours: a closed market.
    bars = [bar for bar in BARS[0] if not 20 * HOUR <= bar.opened_at - BARS[0][0].opened_at < 30 * HOUR]
    catalogue.add("AAA", Timeframe.H1, bars, source="test", learned_at=LATER)
    made = ensure_analyses(
        store,
        catalogue,
        ["AAA"],
        Timeframe.H1,
        None,
        None,
        actor="test",
        variant=StrategyVariant(AlwaysLong(), "always_long"),
    )
    again = ensure_analyses(
        store,
        catalogue,
        ["AAA"],
        Timeframe.H1,
        None,
        None,
        actor="test",
        variant=StrategyVariant(AlwaysLong(), "always_long"),
    )
    assert (made.made, made.already_stored) == (len(bars), 0)
    assert (again.made, again.already_stored) == (0, len(bars))
