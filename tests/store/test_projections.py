"""Read models are a function of the log and the bars: rebuilt, paged, restarted or raced, the rows are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal, localcontext
from threading import Thread
from typing import Any

import msgspec
import pytest

from engine.core.config import RunConfig
from engine.core.events import Environment, OrderRejected, PositionsMarked, TradingHalted
from engine.core.intents import Intent
from engine.core.market import Timeframe
from engine.core.money import exact
from engine.core.session_ends import Schedule
from engine.data.memory import MemoryCatalogue
from engine.data.signals import save_signals
from engine.store import Store
from engine.store.memory import MemoryStore
from projections import performance, runner
from projections.metrics import metrics
from projections.queries import Queries
from projections.rebuild import rebuild_read_models
from projections.runner import Runner
from projections.tables import TABLES
from tests.support.decimal_contexts import HOSTILE
from tests.support.strategies import HOUR, config_of
from tests.support.worlds import BARS, BOLD, CAREFUL, FILE, LATER, World, run_request, world_in

UTC_DAYS = Schedule(["24/7"]).roll_after


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made:
        yield made


def test_the_runs_used_here_have_seen_something(world: World) -> None:
    book, events = world.book(world.run(run_request(BOLD)))
    kinds = {type(event) for event in events}
    assert {TradingHalted, OrderRejected} <= kinds
    assert book.realised != 0


def test_a_rebuild_gives_what_was_projected_live_row_for_row(world: World) -> None:
    for config in (BOLD, CAREFUL):
        world.run(run_request(config))
        assert world.runner().catch_up() > 0
    world.run(run_request(BOLD, "unfinished"), until=100)
    world.runner().catch_up()
    live = world.rows()
    rebuilt = rebuild_read_models(world.store, world.catalogue, world.dsn)
    assert rebuilt.same
    assert rebuilt.events == len(world.store.read_all(limit=100_000))
    assert rebuilt.rows == {name: len(rows) for name, rows in live.items()}
    saved = {"profile_versions", "profile_activations", "model_versions", "model_activations"}
    without_runs = {"analyses", "model_calls", *saved}
    assert {name for name, rows in live.items() if not rows} == without_runs
    assert world.rows() == live


def test_the_size_of_the_pages_changes_no_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(run_request(BOLD))
    world.run(run_request(CAREFUL))
    found: list[dict[str, list[tuple[Any, ...]]]] = []
    for page in (7, 100, 5_000):
        monkeypatch.setattr(runner, "PAGE", page)
        world.runner(f"by_{page}").catch_up()
        found.append(world.rows(f"by_{page}"))
    assert found[0] == found[1] == found[2]


def test_two_runners_at_once_write_what_one_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PAGE", 9)
    world.run(run_request(BOLD))
    done: list[int] = []
    threads = [Thread(target=lambda: done.append(world.runner().catch_up())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert world.runner().status().lag == 0
    world.runner("alone").catch_up()
    assert world.rows() == world.rows("alone")


@pytest.mark.parametrize("bars", [1, 60, 200, 299])
def test_a_runner_that_starts_in_the_middle_of_a_run_goes_on_as_the_one_before(
    world: World, bars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.session.BATCH", 1)
    world.run(run_request(BOLD), until=bars)
    world.runner().catch_up()
    world.run(run_request(BOLD))
    world.runner().catch_up()
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_what_could_not_be_projected_is_projected_whole_by_the_next_attempt(world: World) -> None:
    late = MemoryCatalogue()
    one = Runner(world.store, late, world.dsn)
    world.run(run_request(BOLD), until=150)
    one.catch_up()
    world.run(run_request(BOLD))
    for _ in range(2):
        one.catch_up()
        (aside,) = one.status().set_aside
        assert aside.projection == "performance"
        assert "there are no bars of AAA" in aside.reason
    for bars in BARS:
        late.add(bars[0].symbol, Timeframe.H1, bars, source="test", learned_at=LATER)
    one.catch_up()
    assert one.status().set_aside == ()
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_analyses_that_were_read_once_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs over the same bars consult the same analyses: a process that starts after them reads each once."""
    ids = world.analyse(120)
    projection = performance.Performance(world.store, world.catalogue, world.dsn)
    read: list[str] = []
    right = performance.intents_at_versions

    def counted(store: Store, named: Sequence[tuple[str, int]]) -> Iterator[tuple[datetime, Intent]]:
        read.extend(analysis_id for analysis_id, _ in named)
        return right(store, named)

    monkeypatch.setattr(performance, "intents_at_versions", counted)
    named = [(analysis_id, 1) for analysis_id in ids]
    found = projection._load_intents(named)  # pyright: ignore[reportPrivateUsage]
    assert [wish.analysis_id for _, wish in found] == ids
    assert projection._load_intents(named) == found  # pyright: ignore[reportPrivateUsage]
    projection.reset()
    assert projection._load_intents([*named, *named]) == found * 2  # pyright: ignore[reportPrivateUsage]
    assert read == ids
    monkeypatch.setattr(performance, "INTENT_CACHE_SIZE", 10)
    for analysis_id in world.analyse(30, 120):
        projection._load_intents([(analysis_id, 1)])  # pyright: ignore[reportPrivateUsage]
    assert len(projection._intent_cache) == 10  # pyright: ignore[reportPrivateUsage]
    assert projection._load_intents(named) == found  # pyright: ignore[reportPrivateUsage]


def test_the_thread_s_decimal_context_changes_no_row(world: World) -> None:
    world.run(run_request(BOLD))
    world.runner().catch_up()
    with localcontext(HOSTILE):
        world.runner("hostile").catch_up()
    assert world.rows("hostile") == world.rows()


def test_every_row_names_its_run_and_environment_and_runs_do_not_mix(world: World) -> None:
    asked = [run_request(BOLD), run_request(CAREFUL), run_request(BOLD, environment=Environment.PAPER)]
    for each in asked:
        world.run(each, until=120)
    for each in asked:
        world.run(each)
    world.runner().catch_up()
    rows = world.rows()
    of_the_log = {"position", "requested_at"}

    def without_place(name: str, found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        names = next(table.names for table in TABLES if table.name == name)
        kept = [n for n, column in enumerate(names) if column not in of_the_log]
        return sorted((tuple(row[n] for n in kept) for row in found), key=repr)

    environments = {each.run_id: each.environment.value for each in asked}
    for n, each in enumerate(asked):
        alone = World(world.dsn, MemoryStore(), world.catalogue)
        save_signals(alone.store, world.dsn, FILE, "test")
        alone.run(each)
        alone.runner(f"alone_{n}").catch_up()
        for name, found in alone.rows(f"alone_{n}").items():
            ours = [row for row in rows[name] if row[1] == each.run_id]
            assert without_place(name, ours) == without_place(name, found)
    for found in rows.values():
        assert {(row[1], row[0]) for row in found} <= set(environments.items())


# --- What the rows say --------------------------------------------------------------------------------------------


def summed(rows: list[dict[str, Any]], name: str) -> Decimal:
    return exact(sum((row[name] for row in rows), Decimal(0)))


@pytest.mark.parametrize("config", [BOLD, CAREFUL], ids=["bold", "careful"])
def test_the_rows_of_a_run_agree_with_its_book(world: World, config: RunConfig) -> None:
    run_id = world.run(run_request(config))
    book, events = world.book(run_id)
    end = events[-1]
    assert isinstance(end, PositionsMarked)
    world.runner().catch_up()
    with Queries(world.dsn) as queries:
        trades, fills, orders = queries.trades(run_id), queries.fills(run_id), queries.orders(run_id)
        equity, portfolio, figures = queries.equity(run_id), queries.portfolio(run_id), queries.metrics(run_id)
        positions = queries.positions(run_id)
        (shown,) = queries.runs()
    assert portfolio is not None
    assert figures is not None
    assert summed(trades, "gross_pnl") == book.realised
    assert summed(trades, "fees") == summed(fills, "commission") == book.fees == figures["fees"]
    assert summed(trades, "net_pnl") == book.realised - book.fees
    assert [trade["status"] for trade in trades].count("open") == len(book.positions) == figures["open_trades"]
    assert {row["symbol"]: row["quantity"] for row in positions} == {
        symbol: position.quantity for symbol, position in book.positions.items()
    }
    assert equity[-1]["equity"] == end.equity == portfolio["equity"] == figures["final_equity"]
    assert equity[-1]["cash"] == end.cash == portfolio["cash"] == fills[-1]["cash_after"]
    assert len(equity) == 150
    assert portfolio["realised_pnl"] + portfolio["unrealised_pnl"] - portfolio["fees"] == end.equity - config.cash
    assert (shown["status"], shown["fills"], shown["orders"]) == ("ended", len(fills), len(orders))
    partly = [order for order in orders if order["status"] == "partly filled"]
    assert all(0 < order["filled_quantity"] < order["quantity"] for order in partly)
    for order in orders:
        assert (order["status"] == "filled") is (order["filled_quantity"] == order["quantity"])


def test_the_metrics_row_is_what_the_curve_and_the_trades_say(world: World) -> None:
    run_id = world.run(run_request(BOLD))
    world.runner().catch_up()
    with Queries(world.dsn) as queries:
        curve = [(row["at"], row["equity"]) for row in queries.equity(run_id)]
        drawdowns = [row["drawdown"] for row in queries.equity(run_id)]
        trades, row = queries.trades(run_id), queries.metrics(run_id)
    assert row is not None
    closed = [trade["net_pnl"] for trade in trades if trade["status"] == "closed"]
    found = msgspec.structs.asdict(metrics(BOLD.cash, curve, closed, len(trades) - len(closed), 365, HOUR, UTC_DAYS))
    assert {name: row[name] for name in row if name in found} == {
        name: float(value) if isinstance(value, Decimal) and name != "total_pnl" else value
        for name, value in found.items()
        if name in row
    }
    assert min(drawdowns) == row["max_drawdown"]


def test_a_run_without_a_trade_has_a_flat_curve_and_no_ratios(world: World) -> None:
    run_id = world.run(
        run_request(
            msgspec.structs.replace(
                BOLD,
                cash=exact("0.000001"),
                sizing=config_of(quantity="1").sizing,
                limits=config_of(reduce=False).limits,
            )
        )
    )
    world.runner().catch_up()
    with Queries(world.dsn) as queries:
        row, equity = queries.metrics(run_id), queries.equity(run_id)
    assert row is not None
    assert (row["total_trades"], row["win_rate"], row["profit_factor"], row["sharpe_ratio"]) == (0, None, None, None)
    assert {(point["equity"], point["drawdown"]) for point in equity} == {(exact("0.000001"), 0.0)}
