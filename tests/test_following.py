"""The follower: woken by an append, asleep otherwise, and back after everything it held was cut."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from engine.errors import BadInput
from projections import follow
from projections.follow import Heard, following
from projections.schemas import PRESENT
from tests.forks import QUANTAGENT
from tests.worlds import World, world_in


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made:
        yield made


class Noted(Heard):
    """Keeps what a follower tells."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.errors: list[Exception] = []

    def projected(self, events: int) -> None:
        self.events.append(events)

    def interrupted(self, error: Exception, pause_s: float) -> None:
        assert 0 < pause_s <= 10
        self.errors.append(error)


def within(seconds: float, found: Callable[[], bool]) -> float:
    """How many seconds it took until something was so."""
    began = time.monotonic()
    while not found():
        assert time.monotonic() - began < seconds
        time.sleep(0.005)
    return time.monotonic() - began


def rows(world: World) -> int:
    with psycopg.connect(world.dsn) as conn:
        if conn.execute("SELECT to_regclass('read_models.analyses')").fetchone() == (None,):
            return 0
        (found,) = conn.execute("SELECT count(*) FROM read_models.analyses").fetchone() or (0,)
    return found


def test_an_append_is_projected_within_a_second_and_nothing_is_done_between(world: World) -> None:
    noted = Noted()
    with following(world.runner(), 0.0, noted):
        within(10, lambda: len(noted.events) == 1)
        waits: list[float] = []
        for n in range(5):
            world.analyse(1, n)
            # A busy machine may be late once; without being woken it would be late each time, and by half a minute.
            waits.append(within(20, lambda n=n: rows(world) == n + 1))
        assert sorted(waits)[2] < 1
        time.sleep(0.6)
        asleep = len(noted.events)
        time.sleep(0.6)
        assert len(noted.events) == asleep <= 11
    assert noted.errors == []


def test_what_was_appended_before_it_began_or_unheard_is_projected_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.analyse(1)
    monkeypatch.setattr(follow, "WAKE_S", 0.5)
    monkeypatch.setattr(follow, "CHANNEL", "nobody_speaks_here")
    with following(world.runner(), 0.0, Heard()):
        within(5, lambda: rows(world) == 1)
        world.analyse(1, 1)
        within(5, lambda: rows(world) == 2)


def test_a_busy_writer_costs_no_more_than_one_look_in_each_interval(world: World) -> None:
    noted = Noted()
    began = time.monotonic()
    with following(world.runner(), 0.4, noted):
        for n in range(60):
            world.analyse(1, n)
        within(5, lambda: rows(world) == 60)
        looks = len(noted.events)
        assert looks <= 2 + (time.monotonic() - began) / 0.4


def test_it_survives_the_end_of_all_its_connections(world: World) -> None:
    noted = Noted()
    with following(world.runner(), 0.0, noted):
        within(10, lambda: len(noted.events) == 1)
        for n in range(3):
            with psycopg.connect(world.dsn, autocommit=True) as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            within(10, lambda n=n: len(noted.errors) > n)
            world.analyse(1, n)
            within(30, lambda n=n: rows(world) == n + 1)


def test_tables_dropped_under_it_come_back(world: World) -> None:
    with following(world.runner(), 0.0, Heard()):
        world.analyse(2)
        within(10, lambda: rows(world) == 2)
        with psycopg.connect(world.dsn, autocommit=True) as conn:
            conn.execute(f"DROP SCHEMA {PRESENT} CASCADE".encode())
        world.analyse(1, 2)
        within(10, lambda: rows(world) == 3)


def test_a_newer_program_ends_it_and_that_is_said(world: World) -> None:
    def follow_until_told() -> None:
        with following(world.runner(), 0.0, Heard()):
            with psycopg.connect(world.dsn, autocommit=True) as conn:
                within(10, lambda: conn.execute("SELECT to_regclass('read_models.published')").fetchone() != (None,))
                conn.execute("UPDATE read_models.published SET version = 99")
            world.analyse(1)
            time.sleep(0.5)

    with pytest.raises(BadInput, match="version 99"):
        follow_until_told()


def test_it_ends_soon_after_it_is_told_to(world: World) -> None:
    stop = Event()
    thread = Thread(target=follow.follow, args=(world.runner(), stop))
    thread.start()
    within(10, lambda: rows_exist(world))
    stop.set()
    thread.join(2)
    assert not thread.is_alive()


def rows_exist(world: World) -> bool:
    with psycopg.connect(world.dsn) as conn:
        return conn.execute("SELECT to_regclass('read_models.runs')").fetchone() != (None,)


def test_the_command_follows_until_it_is_told_to_end(world: World, tmp_path: Path) -> None:
    env = {**os.environ, "QUANTAGENT_DSN": world.dsn, "QUANTAGENT_HOME": str(tmp_path)}
    process = subprocess.Popen([str(QUANTAGENT), "projections", "follow"], env=env, stderr=subprocess.PIPE, text=True)
    within(30, lambda: rows_exist(world))
    world.analyse(3)
    within(5, lambda: rows(world) == 3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "events projected" in said
