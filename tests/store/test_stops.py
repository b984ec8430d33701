"""An event of no run that cannot be projected stops the projection that needs it, until it can be projected."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from engine.core.events import OrderFilled
from engine.store import LogEntry
from projections import runner
from projections.account import RunAccount
from projections.queries import Queries
from projections.rebuild import rebuild_read_models
from projections.runner import ProjectionStatus, Runner
from projections.schemas import CURRENT_SCHEMA
from projections.tables import VERSION
from projections.trades import Trade
from tests.support.commands import answer, run
from tests.support.worlds import BOLD, World, run_request, world_in


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made:
        yield made


def reached(one: Runner) -> dict[str, ProjectionStatus]:
    return {each.projection: each for each in one.status().projections}


def position_of(world: World, name: str, n: int = 0) -> int:
    return world.store.read_all(names=[name], limit=n + 1)[n].position


DAMAGE = "UPDATE quantagent.events SET state = convert_to(%s, 'UTF8') WHERE notification_id = %s"
RESTORE = "UPDATE quantagent.events SET state = %s WHERE notification_id = %s"


def test_a_damaged_analysis_stops_analyses_while_books_go_on_and_repair_lets_it_recover(world: World) -> None:
    world.analyse(5)
    bad = position_of(world, "AnalysisMade.v3", 2)
    with psycopg.connect(world.dsn) as conn:
        (state,) = conn.execute(
            "SELECT state FROM quantagent.events WHERE notification_id = %s", (bad,)
        ).fetchone() or (b"",)
    world.change(DAMAGE, '[{"analysis_id": 7}, {}]', bad)
    run_id = world.run(run_request(BOLD))
    one = world.runner()
    for _ in range(2):
        one.catch_up()
        found = reached(one)
        stopped = found["analyses"]
        assert (stopped.position, stopped.stopped_at, stopped.lag) == (bad - 1, bad, 3)
        assert f"position {bad} cannot be read" in (stopped.reason or "")
        assert found["books"].position == found["performance"].position == world.store.last_position()
        assert found["books"].lag == found["performance"].lag == 0
    assert len(world.rows()["analyses"]) == 2
    assert f"stopped analyses at event {bad}" in (one.describe_incomplete() or "")
    with Queries(world.dsn) as queries:
        assert queries.run(run_id)["status"] == "ended"
        assert queries.metrics(run_id) is not None
    world.change(RESTORE, state, bad)
    one.catch_up()
    assert one.describe_incomplete() is None
    assert len(world.rows()["analyses"]) == 5
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_the_status_command_says_what_stopped_and_exits_with_a_no(world: World, tmp_path: Path) -> None:
    env = {**os.environ, "QUANTAGENT_DSN": world.dsn, "QUANTAGENT_HOME": str(tmp_path)}
    world.analyse(3)
    assert answer(env, "projections", "status")["projections"][0]["stopped_at"] is None
    world.analyse(2, 3)
    bad = position_of(world, "AnalysisMade.v3", 3)
    world.change(DAMAGE, "[", bad)
    # As the command does it: the read tables belong to whoever projected first.
    assert run(env, "projections", "rebuild", "--json").returncode == 0
    shown = json.loads(run(env, "projections", "status", "--json", code=3).stdout)
    assert (shown["version"], shown["published"], shown["lag"]) == (VERSION, True, 2)
    found = {each["projection"]: (each["lag"], each["stopped_at"]) for each in shown["projections"]}
    others = dict.fromkeys(("books", "models", "performance", "profiles", "runs"), (0, None))
    assert found == {"analyses": (2, bad), **others}
    told = run(env, "projections", "status", code=3)
    assert f"position {bad} cannot be read" in told.stderr
    assert str(bad) in told.stdout


def test_a_rebuild_with_a_damaged_event_stops_where_the_present_tables_do(world: World) -> None:
    world.analyse(3)
    bad = position_of(world, "AnalysisMade.v3", 1)
    world.change(DAMAGE, "[", bad)
    world.run(run_request(BOLD))
    world.runner().catch_up()
    rebuilt = rebuild_read_models(world.store, world.catalogue, world.dsn)
    assert rebuilt.same
    assert rebuilt.rows["analyses"] == 1
    assert reached(world.runner())["analyses"].stopped_at == bad


def test_a_name_that_nobody_knows_stops_every_projection_before_it(world: World) -> None:
    world.analyse(4)
    bad = position_of(world, "AnalysisMade.v3", 1)
    world.change("UPDATE quantagent.events SET topic = %s WHERE notification_id = %s", "OrderTeleported.v1", bad)
    one = world.runner()
    one.catch_up()
    found = reached(one)
    assert {(each.position, each.stopped_at) for each in found.values()} == {(bad - 1, bad)}
    assert all("'OrderTeleported.v1'" in (each.reason or "") for each in found.values())
    world.change("UPDATE quantagent.events SET topic = %s WHERE notification_id = %s", "AnalysisMade.v3", bad)
    assert one.catch_up() == 3
    assert len(world.rows()["analyses"]) == 4


@pytest.mark.slow(8)
@pytest.mark.parametrize("page", [3, 64, 5_000])
def test_a_fold_that_fails_sets_its_run_aside_at_the_very_event(
    world: World, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    world.run(run_request(BOLD))
    world.analyse(3)
    bad = position_of(world, "OrderFilled.v2", 5)
    right = RunAccount.apply

    def wrong(account: RunAccount, recorded: LogEntry) -> list[Trade]:
        if recorded.position == bad:
            raise ZeroDivisionError("a bug of ours")
        return right(account, recorded)

    monkeypatch.setattr(runner, "PAGE", page)
    with monkeypatch.context() as patch:
        patch.setattr(RunAccount, "apply", wrong)
        one = world.runner()
        one.catch_up()
        assert {each.lag for each in reached(one).values()} == {0}
        aside = one.status().set_aside
        assert [each.projection for each in aside] == ["books", "performance"]
        for each in aside:
            assert each.position == bad
            assert each.reason == f"event {bad} cannot be projected: ZeroDivisionError: a bug of ours"
        assert world.rows()["fills"] == []
    assert not rebuild_read_models(world.store, world.catalogue, world.dsn).same
    assert world.runner().status().set_aside == ()
    assert len(world.rows()["fills"]) == len(world.store.read_all(limit=100_000, names=["OrderFilled.v2"]))
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_rows_that_the_database_refuses_stop_their_projection(world: World) -> None:
    world.analyse(3)
    one = world.runner()
    one.catch_up()
    with psycopg.connect(world.dsn, autocommit=True) as conn:
        conn.execute(f"ALTER TABLE {CURRENT_SCHEMA}.analyses ADD CHECK (analysis_id <> 'AAA.1h@4.test.0')".encode())
    world.analyse(3, 3)
    one.catch_up()
    found = reached(one)["analyses"]
    assert found.stopped_at == position_of(world, "AnalysisMade.v3", 4) == found.position + 1
    assert "CheckViolation" in (found.reason or "")
    # What somebody did to our tables is no reason to keep them.
    rebuilt = rebuild_read_models(world.store, world.catalogue, world.dsn)
    assert not rebuilt.same
    assert rebuilt.rows["analyses"] == 6
    assert one.describe_incomplete() is None


def test_a_database_that_is_down_is_nobodys_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.analyse(1)
    one = world.runner()
    one.status()

    def lost(*_: object) -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_rows", lost)
        with pytest.raises(psycopg.OperationalError, match="server closed"):
            one.catch_up()
    assert one.status().stopped == ()
    assert one.catch_up() == len(world.store.read_all())


def test_rows_and_position_are_kept_together_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(run_request(BOLD))
    one = world.runner()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.schemas, "advance_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            one.catch_up()
    assert not any(world.rows().values())
    assert {each.position for each in one.status().projections} == {0}
    one.catch_up()
    assert len(world.rows()["fills"]) == len(world.store.read_all(limit=100_000, names=[OrderFilled.__name__ + ".v2"]))
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same
