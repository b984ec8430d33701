"""A run that cannot be projected is set aside by itself: its row says why, all other runs go on, and it comes back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from engine.core.config import RunConfig
from engine.core.events import Environment, OrderPlaced, RunRequested
from engine.core.market import Timeframe
from engine.core.money import ZERO
from engine.core.upcasters import NAMES
from engine.data.memory import MemoryCatalogue
from engine.runtime import runs
from projections import performance, runner, schemas
from projections.queries import MetricsMissing, Queries
from projections.rebuild import rebuild_read_models
from projections.runner import Runner
from projections.tables import VERSION
from quantagent import Backtest
from tests.support.commands import run as command
from tests.support.worlds import BARS, BOLD, CAREFUL, LATER, World, run_request, world_in

pytestmark = pytest.mark.slow

OF_PERFORMANCE = ("metrics", "equity", "decisions")
OF_BOOKS = ("portfolio", "positions", "days", "signals", "risk_decisions", "orders", "fills", "trades")


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made:
        yield made


def runs_in(world: World, table: str, schema: str = "read_models") -> set[str]:
    return {row[1] for row in world.rows(schema)[table]}


def set_aside(world: World) -> dict[tuple[str, str], str]:
    return {(each.projection, each.run_id): each.reason for each in world.runner().status().set_aside}


def line_of(world: World, run_id: str) -> dict[str, Any]:
    with Queries(world.dsn) as queries:
        return queries.run(run_id)


def event_of(world: World, run_id: str, name: str, n: int = 0) -> int:
    rows = world.store.read_all(limit=100_000, names=[name])
    return [row.position for row in rows if row.stream.endswith(run_id)][n]


def without_cash(config: RunConfig) -> RunConfig:
    """A configuration as an older version may have stored it, whatever today's refuses."""
    poor = msgspec.structs.replace(config)
    msgspec.structs.force_setattr(poor, "cash", ZERO)
    return poor


def allowed(cash: Decimal) -> None:
    del cash


def poor_question() -> RunRequested:
    """A run without cash, as 0.2.0 took it."""
    with pytest.MonkeyPatch.context() as past:
        past.setattr(runs, "check_cash", allowed)
        return run_request(without_cash(BOLD), "poor")


# --- Kinds of poison ----------------------------------------------------------------------------------------------


def a_fold_that_fails(world: World, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = performance.equity_curve

    def wrong(config: RunConfig, *rest: Any) -> Any:
        if config == CAREFUL:
            raise ZeroDivisionError("a bug of ours")
        return right(config, *rest)

    monkeypatch.setattr(performance, "equity_curve", wrong)


def an_unknown_version_in_its_book(world: World, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = event_of(world, bad, "OrderFilled.v2", 3)
    world.change("UPDATE quantagent.events SET topic = 'OrderFilled.v99' WHERE notification_id = %s", at)


def an_unknown_name_in_its_book(world: World, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = event_of(world, bad, NAMES[OrderPlaced], 3)
    world.change("UPDATE quantagent.events SET topic = 'OrderTeleported.v1' WHERE notification_id = %s", at)


def bytes_that_are_no_event(world: World, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = event_of(world, bad, "OrderFilled.v2", 3)
    world.change("UPDATE quantagent.events SET state = 'nonsense' WHERE notification_id = %s", at)


def a_missing_event(world: World, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = event_of(world, bad, NAMES[OrderPlaced], 3)
    world.change("DELETE FROM quantagent.events WHERE notification_id = %s", at)


def an_amount_beyond_what_the_database_holds(world: World, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = event_of(world, bad, "RiskDecided.v1", 3)
    world.change(
        "UPDATE quantagent.events SET state = convert_to(regexp_replace(convert_from(state, 'UTF8'), "
        '\'"requested":"[^"]*"\', \'"requested":"1E+140000"\'), \'UTF8\') WHERE notification_id = %s',
        at,
    )


def an_amount_beyond_what_the_book_adds(world: World, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = event_of(world, bad, "OrderFilled.v2", 3)
    world.change(
        "UPDATE quantagent.events SET state = convert_to(regexp_replace(convert_from(state, 'UTF8'), "
        '\'"notional":"[^"]*"\', \'"notional":"9e40"\'), \'UTF8\') WHERE notification_id = %s',
        at,
    )


BOOK_POISON = [
    an_unknown_version_in_its_book,
    an_unknown_name_in_its_book,
    bytes_that_are_no_event,
    a_missing_event,
    an_amount_beyond_what_the_book_adds,
]

Poison = Callable[[World, str, pytest.MonkeyPatch], None]


@pytest.mark.parametrize("page", [7, 5_000])
@pytest.mark.parametrize("poison", [*BOOK_POISON, a_fold_that_fails, an_amount_beyond_what_the_database_holds])
def test_a_run_that_cannot_be_projected_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, poison: Poison, page: int
) -> None:
    monkeypatch.setattr(runner, "PAGE", page)
    before, bad = world.run(run_request(BOLD, "before")), world.run(run_request(CAREFUL, "bad"))
    poison(world, bad, monkeypatch)
    after = world.run(run_request(BOLD, "after"))
    world.analyse(2)
    one = world.runner()
    one.catch_up()
    status = one.status()
    assert status.stopped == ()
    assert {each.position for each in status.projections} == {world.store.last_position()}
    assert {run_id for _, run_id in set_aside(world)} == {bad}
    assert runs_in(world, "runs") == {before, bad, after}
    assert runs_in(world, "metrics") >= {before, after}
    line = line_of(world, bad)
    assert line["status"] == "ended"
    reasons = set_aside(world)
    assert line["set_aside"] == "; ".join(f"{name}: {reasons[name, run]}" for name, run in sorted(reasons))
    for name, run in reasons:
        tables = OF_BOOKS if name == "books" else OF_PERFORMANCE
        assert [table for table in tables if run in runs_in(world, table)] == []
    assert line_of(world, after)["set_aside"] is None
    if poison in BOOK_POISON:
        assert {name for name, _ in reasons} == {"books", "performance"}
    assert len(world.rows()["analyses"]) == 2
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_runs_after_the_poison_have_the_rows_they_have_without_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(run_request(BOLD, "before"))
    bad = world.run(run_request(CAREFUL, "bad"))
    world.run(run_request(BOLD, "after"))
    world.runner("whole").catch_up()
    an_unknown_version_in_its_book(world, bad, monkeypatch)
    world.runner().catch_up()
    whole, left = world.rows("whole"), world.rows()
    for name, rows in left.items():
        expected = [row for row in whole[name] if bad not in row or name == "runs"]
        assert rows == expected, name


def test_a_run_whose_cash_is_nothing_is_set_aside_and_its_row_says_why(world: World) -> None:
    poor = poor_question()
    bad = world.run(poor)
    good = world.run(run_request(BOLD))
    world.runner().catch_up()
    assert world.runner().status().stopped == ()
    assert runs_in(world, "metrics") == {good}
    assert list(set_aside(world)) == [("performance", bad)]
    assert "start_equity" in line_of(world, bad)["set_aside"]


REFUSED_TODAY = (
    "state = convert_to(regexp_replace(convert_from(state, 'UTF8'), '\"instruments\":\\[.*?\\],\"costs\"', "
    "'\"instruments\":[],\"costs\"'), 'UTF8')"
)


@pytest.mark.parametrize(
    "damage", ["topic = 'RunRequested.v99'", "state = 'nonsense'", "state = '[{}, {}]'", REFUSED_TODAY]
)
def test_a_run_whose_request_cannot_be_read_keeps_a_line_that_says_why(world: World, damage: str) -> None:
    good, bad = world.run(run_request(BOLD)), world.run(run_request(CAREFUL, "bad"))
    newer = world.run(run_request(BOLD, "newer"))
    at = next(row.position for row in world.store.read_all(limit=100_000) if row.stream == f"run:{bad}")
    world.change(f"UPDATE quantagent.events SET {damage} WHERE notification_id = %s", at)
    world.runner().catch_up()
    assert world.runner().status().stopped == ()
    line = line_of(world, bad)
    assert (line["status"], f"position {at}" in line["set_aside"]) == ("unreadable", True)
    assert line["environment"] == ("backtest" if damage in ("topic = 'RunRequested.v99'", REFUSED_TODAY) else None)
    assert line_of(world, "latest")["run_id"] == newer == runs.latest_run(world.store).run_id
    assert runs.find_run_by_prefix(world.store, good[:8]).run_id == good
    assert runs_in(world, "metrics") == {good, newer}
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_a_backtest_whose_metrics_are_missing_says_so_and_exits_with_an_error(
    sample_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**os.environ, "QUANTAGENT_DSN": sample_dsn, "QUANTAGENT_HOME": str(tmp_path)}
    asked = ("backtest", "--symbols", "BTC-USD", "--variant", "rules", "--end", "2017-07-20")
    whole = json.loads(command(env, *asked, "--json").stdout)
    with psycopg.connect(sample_dsn, autocommit=True) as conn:
        conn.execute(f"ALTER TABLE {schemas.CURRENT_SCHEMA}.metrics ADD CHECK (total_trades < 0) NOT VALID".encode())
    for arguments in ((*asked, "--label", "again"), ("replay", whole["run_id"])):
        refused = command(env, *arguments, "--json", code=1)
        assert json.loads(refused.stdout)
        (said,) = (line for line in refused.stderr.splitlines() if line.startswith("error: "))
        assert "are missing" in said
        assert "CheckViolation" in said
    found = json.loads(command(env, "runs", "list", "--json").stdout)["runs"]
    assert [row["set_aside"] is None for row in found] == [False, False, True]
    runs_of = [row["run_id"][:8] for row in found]
    assert "error: the metrics of run" in command(env, "compare", *runs_of, code=1).stderr
    monkeypatch.setenv("QUANTAGENT_DSN", sample_dsn)
    monkeypatch.setenv("QUANTAGENT_HOME", str(tmp_path))
    with pytest.raises(MetricsMissing, match="CheckViolation"):
        Backtest(symbols=["BTC-USD"], end="2017-07-20", variant="rules", label="again").run().metrics  # noqa: B018
    command(env, "projections", "rebuild", code=3)
    assert json.loads(command(env, *asked, "--label", "again", "--json").stdout)["metrics"] == whole["metrics"]


STOPPED: LiteralString = "UPDATE {} SET stopped_at = 9, position = 8 WHERE projection = 'performance'"


# --- Coming back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["OrderFilled.v2", "RunRequested.v1"])
def test_a_repaired_event_brings_its_run_back_with_the_next_attempt(world: World, name: str) -> None:
    bad = world.run(run_request(BOLD, "bad"))
    (known,) = {row.name for row in world.store.read_all(limit=100_000) if row.name.startswith(name.split(".")[0])}
    at = event_of(world, bad, known)
    world.change("UPDATE quantagent.events SET topic = 'Unheard.v9' WHERE notification_id = %s", at)
    world.run(run_request(CAREFUL))
    one = world.runner()
    for _ in range(2):
        one.catch_up()
        assert {run_id for _, run_id in set_aside(world)} == {bad}
    assert bad not in runs_in(world, "fills")
    world.change("UPDATE quantagent.events SET topic = %s WHERE notification_id = %s", known, at)
    one.catch_up()
    assert set_aside(world) == {}
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same
    world.runner("alone").catch_up()
    assert world.rows() == world.rows("alone")


def test_bars_that_were_missing_bring_a_run_back(world: World) -> None:
    late = MemoryCatalogue()
    one = Runner(world.store, late, world.dsn)
    bad = world.run(run_request(BOLD))
    one.catch_up()
    assert list(set_aside(world)) == [("performance", bad)]
    assert "there are no bars of AAA" in line_of(world, bad)["set_aside"]
    for bars in BARS:
        late.add(bars[0].symbol, Timeframe.H1, bars, source="test", learned_at=LATER)
    one.catch_up()
    assert set_aside(world) == {}
    world.runner("alone").catch_up()
    assert world.rows() == world.rows("alone")


def test_a_paper_run_set_aside_in_the_middle_comes_back_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = run_request(BOLD, environment=Environment.PAPER)
    world.run(asked, until=100)
    late = MemoryCatalogue()
    one = Runner(world.store, late, world.dsn)
    one.catch_up()
    assert list(set_aside(world)) == [("performance", asked.run_id)]
    for bars in BARS:
        late.add(bars[0].symbol, Timeframe.H1, bars, source="test", learned_at=LATER)
    one.catch_up()
    assert runs_in(world, "metrics") == {asked.run_id}
    world.run(asked)
    one.catch_up()
    world.runner("alone").catch_up()
    assert world.rows() == world.rows("alone")


def test_a_run_that_cannot_be_projected_is_not_tried_again_for_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(poor_question())
    one = world.runner()
    one.catch_up()
    tried: list[str] = []

    def noted(*_: object) -> None:
        tried.append("")

    monkeypatch.setattr(Runner, "_restore_run", noted)
    one.catch_up()
    world.run(run_request(BOLD))
    one.catch_up()
    assert tried == []
    monkeypatch.setattr("projections.quarantine.ENGINE_VERSION", "another")
    one.catch_up()
    assert tried == [""]


def test_an_installation_that_0_2_0_left_damaged_heals_with_an_ordinary_start(world: World) -> None:
    """There, `performance` stood still at the end of such a run, and every later run was without figures."""
    world.run(poor_question())
    good = world.run(run_request(BOLD))
    world.runner().catch_up()
    with psycopg.connect(world.dsn, autocommit=True) as conn:
        conn.execute(f"ALTER SCHEMA {schemas.CURRENT_SCHEMA} RENAME TO read_models_v{VERSION - 1}".encode())
        conn.execute("DROP VIEW read_models.set_aside")
        conn.execute("UPDATE read_models.published SET version = %s", (VERSION - 1,))
        older = Identifier(f"read_models_v{VERSION - 1}", "metrics")
        conn.execute(SQL("DELETE FROM {}").format(older))
        progress = Identifier(f"read_models_v{VERSION - 1}", "progress")
        conn.execute(
            SQL("UPDATE {} SET stopped_at = 9, position = 8 WHERE projection = 'performance'").format(progress)
        )
    assert line_of(world, good)["max_drawdown"] is None
    world.runner().catch_up()
    status = world.runner().status()
    assert status.published
    assert status.stopped == ()
    assert line_of(world, good)["max_drawdown"] is not None


def test_the_status_command_names_the_runs_set_aside_and_exits_with_a_no(world: World, tmp_path: Path) -> None:
    bad = world.run(poor_question())
    env = {**os.environ, "QUANTAGENT_DSN": world.dsn, "QUANTAGENT_HOME": str(tmp_path)}
    command(env, "projections", "rebuild")
    shown = json.loads(command(env, "projections", "status", "--json", code=3).stdout)
    assert [(each["projection"], each["run_id"]) for each in shown["set_aside"]] == [("performance", bad)]
    told = command(env, "projections", "status", code=3)
    assert f"run {bad} is set aside by performance" in told.stderr
    listed = command(env, "runs", "list")
    assert f"run {bad[:8]} is set aside: performance: event " in listed.stderr
    doctor = json.loads(command(env, "doctor", "--json", code=3).stdout)
    (check,) = (each for each in doctor["checks"] if each["check"] == "read models")
    assert (check["ok"], "1 run is set aside" in check["says"]) == (False, True)
