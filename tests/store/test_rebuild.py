"""Tables side by side: rebuilt while events arrive, of an older and a newer version, and what readers see meanwhile."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread, current_thread

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from engine.core.errors import BadInput
from engine.core.market import Timeframe
from engine.data.memory import MemoryCatalogue
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from projections import runner, schemas
from projections.projection import ChangedRows, write_rows
from projections.queries import Queries
from projections.rebuild import NEXT_SCHEMA, rebuild_read_models
from projections.runner import Runner
from projections.schemas import CURRENT_SCHEMA, VIEWS_SCHEMA
from projections.tables import VERSION
from tests.support.databases import database
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until, waits_for_lock
from tests.support.worlds import BARS, BOLD, CAREFUL, LATER, World, run_request, world_in


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made:
        yield made


@contextmanager
def meanwhile(work: Callable[[int], object], pause_s: float = 0.02) -> Generator[None]:
    """Does a piece of work again and again in a thread; raises what went wrong there."""
    stop, errors = Event(), list[BaseException]()

    def loop() -> None:
        n = 0
        try:
            while not stop.is_set():
                work(n)
                n += 1
                stop.wait(pause_s)
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert errors == []


def schemas_in(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        return {name for (name,) in conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'read%'")}


def test_a_rebuild_while_events_arrive_and_pages_are_read_equals_what_is_projected_live(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.session.BATCH", 5)
    for n in range(3):
        world.run(run_request(BOLD, str(n)))
    with Queries(world.dsn) as queries, PostgresStore(world.dsn) as own:
        world.runner().catch_up()
        live = world.runner()
        writer = world._replace(store=own)
        with (
            meanwhile(lambda n: writer.run(run_request(CAREFUL, str(n))), 0.3),
            meanwhile(lambda n: live.catch_up()),
            meanwhile(lambda n: [queries.runs(), queries.fills(queries.run("latest")["run_id"])]),
        ):
            for _ in range(2):
                rebuilt = rebuild_read_models(world.store, world.catalogue, world.dsn)
                assert rebuilt.same
                assert min(rebuilt.rows[name] for name in ("runs", "fills", "equity")) > 0
    world.runner().catch_up()
    world.runner("alone").catch_up()
    assert world.rows() == world.rows("alone")
    assert schemas_in(world.dsn) == {VIEWS_SCHEMA, CURRENT_SCHEMA}


def test_two_rebuilds_at_once_take_turns(world: World) -> None:
    world.run(run_request(BOLD))
    with (
        PostgresStore(world.dsn) as own,
        meanwhile(lambda n: rebuild_read_models(own, world.catalogue, world.dsn) if n == 0 else time.sleep(0.01)),
    ):
        assert rebuild_read_models(world.store, world.catalogue, world.dsn).same
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same
    assert schemas_in(world.dsn) == {VIEWS_SCHEMA, CURRENT_SCHEMA}


def test_rows_that_are_not_what_the_log_says_are_found_and_replaced(world: World) -> None:
    world.run(run_request(BOLD))
    world.runner().catch_up()
    right = world.rows()
    with psycopg.connect(world.dsn, autocommit=True) as conn:
        conn.execute(SQL("UPDATE {} SET cash = cash + 1").format(Identifier(CURRENT_SCHEMA, "portfolio")))
    rebuilt = rebuild_read_models(world.store, world.catalogue, world.dsn)
    assert rebuilt.differing["portfolio"] == 2
    assert world.rows() == right


def test_a_runner_that_waited_for_a_switch_does_not_write_by_what_it_knew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small enough for a first page without a row that may be written only once: nothing else would catch a mistake.
    monkeypatch.setattr(runner, "PAGE", 3)
    monkeypatch.setattr("engine.runtime.session.BATCH", 1)
    world.run(run_request(BOLD), until=40)
    one = world.runner()
    one.catch_up()
    world.runner(NEXT_SCHEMA).catch_up()
    world.run(run_request(CAREFUL), until=40)
    waiting = Thread(target=one.catch_up, name="slow")
    with let_another_overtake(monkeypatch, world), psycopg.connect(world.dsn) as conn:
        schemas.lock_position(conn, CURRENT_SCHEMA, "books")
        waiting.start()
        wait_until(lambda: "transactionid" in waits_in(world.dsn))
        schemas.switch_tables(conn, NEXT_SCHEMA)
        conn.commit()
        waiting.join()
    assert world.runner().status().stopped == ()
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_a_slow_runner_keeps_the_others_waiting_and_is_not_overtaken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small enough for a first page without a row that may be written only once: nothing else would catch a mistake.
    monkeypatch.setattr(runner, "PAGE", 3)
    monkeypatch.setattr("engine.runtime.session.BATCH", 1)
    world.run(run_request(BOLD), until=40)
    slow = Thread(target=world.runner().catch_up, name="slow")
    with let_another_overtake(monkeypatch, world):
        slow.start()
        slow.join()
    assert world.runner().status().stopped == ()
    world.runner("alone").catch_up()
    assert world.rows() == world.rows("alone")


@contextmanager
def let_another_overtake(monkeypatch: pytest.MonkeyPatch, world: World) -> Generator[None]:
    """Between the look at its position and its first rows, the thread called slow lets another runner go ahead."""
    others: list[Thread] = []

    def late(conn: schemas.Connection, schema: str, changed: Sequence[ChangedRows]) -> None:
        if changed and current_thread().name == "slow" and not others:
            others.append(Thread(target=world.runner().catch_up))
            others[0].start()
            # It overtakes the slow one, or waits for it.
            wait_until(lambda: not others[0].is_alive() or waits_for_lock(world.dsn))
        write_rows(conn, schema, changed)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_rows", late)
        yield
        assert others
        others[0].join(WAIT_TIMEOUT_S)


def waits_in(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        query = "SELECT wait_event FROM pg_stat_activity WHERE datname = current_database() AND wait_event IS NOT NULL"
        return [event for (event,) in conn.execute(query)]


# --- Two processes ------------------------------------------------------------------------------------------------


def catch_up_in_a_process(dsn: str, page: int) -> None:
    runner.PAGE = page
    catalogue = MemoryCatalogue()
    for series in BARS:
        catalogue.add(series[0].symbol, Timeframe.H1, series, source="test", learned_at=LATER)
    with PostgresStore(dsn) as store:
        Runner(store, catalogue, dsn).catch_up()


@pytest.mark.long
def test_processes_that_project_at_once_on_a_new_database_write_what_one_writes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(run_request(BOLD))
    world.run(run_request(CAREFUL))
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=catch_up_in_a_process, args=(world.dsn, page)) for page in (7, 11)]
    for process in processes:
        process.start()
    monkeypatch.setattr(runner, "PAGE", 5)
    world.runner().catch_up()
    for process in processes:
        process.join(WAIT_TIMEOUT_S)
        assert process.exitcode == 0
    assert world.runner().status().lag == 0
    world.runner("alone").catch_up()
    assert world.rows() == world.rows("alone")


# --- Versions -----------------------------------------------------------------------------------------------------


def pretend_it_is_of_version(dsn: str, version: int) -> None:
    """As if a program of another version had made what is there."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"ALTER SCHEMA {CURRENT_SCHEMA} RENAME TO read_models_v{version}".encode())
        conn.execute("UPDATE read_models.published SET version = %s", (version,))


def test_the_old_version_is_read_until_the_new_one_has_caught_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = world.run(run_request(BOLD))
    world.runner().catch_up()
    before = world.rows(VIEWS_SCHEMA)
    pretend_it_is_of_version(world.dsn, VERSION - 1)
    world.run(run_request(CAREFUL))
    monkeypatch.setattr(runner, "PAGE", 50)
    seen: list[bool] = []
    with Queries(world.dsn) as queries:

        def look(done: int, total: int) -> None:
            assert total > 0
            if done < total:
                assert not world.runner().status().published
                seen.append(world.rows(VIEWS_SCHEMA) == before)
                assert [row["run_id"] for row in queries.runs()] == [old]

        world.runner().catch_up(look)
        assert len(queries.runs()) == 2
    assert len(seen) > 3
    assert all(seen)
    assert world.runner().status().published
    assert world.rows(VIEWS_SCHEMA) == world.rows(CURRENT_SCHEMA)
    assert schemas_in(world.dsn) == {VIEWS_SCHEMA, CURRENT_SCHEMA}


def test_a_new_version_that_stops_where_the_old_one_got_past_is_not_shown(world: World) -> None:
    world.analyse(5)
    world.runner().catch_up()
    pretend_it_is_of_version(world.dsn, VERSION - 1)
    bad = world.store.read_all(names=["AnalysisMade.v3"])[2].position
    world.change("UPDATE quantagent.events SET topic = 'Unheard.v1' WHERE notification_id = %s", bad)
    world.runner().catch_up()
    status = world.runner().status()
    assert not status.published
    assert len(status.stopped) == 6
    assert len(world.rows(VIEWS_SCHEMA)["analyses"]) == 5
    world.change("UPDATE quantagent.events SET topic = 'AnalysisMade.v2' WHERE notification_id = %s", bad)
    world.runner().catch_up()
    assert world.runner().status().published


def test_an_older_program_leaves_the_tables_of_a_newer_one_alone(world: World) -> None:
    world.run(run_request(BOLD))
    one = world.runner()
    one.catch_up()
    pretend_it_is_of_version(world.dsn, VERSION + 1)
    seen = world.rows(VIEWS_SCHEMA)
    world.run(run_request(CAREFUL))
    for refused in (one.catch_up, one.status, lambda: rebuild_read_models(world.store, world.catalogue, world.dsn)):
        with pytest.raises(BadInput, match=f"a newer program .version {VERSION + 1}.*update quantagent here"):
            refused()
    assert world.rows(VIEWS_SCHEMA) == seen
    assert schemas_in(world.dsn) == {VIEWS_SCHEMA, f"read_models_v{VERSION + 1}"}


def test_an_older_program_that_is_overtaken_while_it_projects_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(run_request(BOLD))
    monkeypatch.setattr(runner, "PAGE", 50)

    def overtaken(done: int, total: int) -> None:
        assert 0 < done <= total
        pretend_it_is_of_version(world.dsn, VERSION + 1)

    with pytest.raises(BadInput, match="a newer program"):
        world.runner().catch_up(overtaken)


def test_the_tables_of_the_time_before_versions_give_way(world: World) -> None:
    run_id = world.run(run_request(BOLD))
    with psycopg.connect(world.dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA read_models CREATE TABLE runs (run_id text) CREATE TABLE progress (version int)")
    world.runner().catch_up()
    with Queries(world.dsn) as queries:
        assert [row["run_id"] for row in queries.runs()] == [run_id]
    assert schemas_in(world.dsn) == {VIEWS_SCHEMA, CURRENT_SCHEMA}


def test_a_new_database_can_be_read_before_anything_is_projected(world: World) -> None:
    assert world.runner().status().position == 0
    with Queries(world.dsn) as queries:
        assert queries.runs() == []


def test_tables_of_another_log_are_made_anew(world: World, server: str, template: str) -> None:
    world.run(run_request(BOLD))
    world.run(run_request(CAREFUL))
    world.runner().catch_up()
    with database(server, template) as other, PostgresStore(other) as shorter:
        replaced = world._replace(store=shorter)
        replaced.run(run_request(BOLD))
        # A log restored from an older copy looks like this.
        replaced.runner().catch_up()
        assert [row[1] for row in world.rows()["runs"]] == [run_request(BOLD).run_id]


# --- Rights -------------------------------------------------------------------------------------------------------


def test_a_user_without_special_rights_projects_rebuilds_and_lets_readers_read(tcp_server: str, server: str) -> None:
    reader = "quantagent_reader"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(1)")
        if conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (reader,)).fetchone() is None:
            conn.execute(SQL("CREATE ROLE {} NOLOGIN").format(Identifier(reader)))
    with database(tcp_server, "template0") as dsn:
        migrate(dsn)
        with world_in(dsn) as world:
            world.run(run_request(BOLD))
            for work in (world.runner().catch_up, lambda: rebuild_read_models(world.store, world.catalogue, dsn)):
                work()
                with psycopg.connect(make_conninfo(server, dbname=dsn_name(dsn)), autocommit=True) as conn:
                    conn.execute(SQL("SET ROLE {}").format(Identifier(reader)))
                    for name in ("read_models.runs", "read_models.event_log", f"{CURRENT_SCHEMA}.runs"):
                        assert conn.execute(f"SELECT count(*) > 0 FROM {name}".encode()).fetchone() == (True,)
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        conn.execute("UPDATE read_models.runs SET label = ''")


def dsn_name(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["dbname"])
