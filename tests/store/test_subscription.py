"""The follower: woken by an append, asleep otherwise, and back after everything it held was cut."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from engine.core.errors import BadInput
from projections import subscription
from projections.schemas import CURRENT_SCHEMA
from projections.subscription import SubscriptionObserver, follow_in_thread
from tests.support.forks import QUANTAGENT
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until
from tests.support.worlds import World, world_in


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made:
        yield made


class Noted(SubscriptionObserver):
    """Keeps what a follower tells."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.errors: list[Exception] = []
        self.ended_by: list[Exception] = []

    def projected(self, events: int) -> None:
        self.events.append(events)

    def interrupted(self, error: Exception, pause_s: float) -> None:
        assert 0 < pause_s <= 10
        self.errors.append(error)

    def ended(self, error: Exception) -> None:
        self.ended_by.append(error)


def rows(world: World) -> int:
    with psycopg.connect(world.dsn) as conn:
        if conn.execute("SELECT to_regclass('read_models.analyses')").fetchone() == (None,):
            return 0
        (found,) = conn.execute("SELECT count(*) FROM read_models.analyses").fetchone() or (0,)
    return found


@pytest.fixture
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that looks without being woken once in a day: what it projects in a test, it was woken for."""
    monkeypatch.setattr(subscription, "WAKE_S", 86_400.0)


@pytest.mark.usefixtures("never_by_itself")
def test_a_follower_is_woken_by_an_append_and_by_nothing_else(world: World) -> None:
    noted, appends = Noted(), 5
    with follow_in_thread(world.runner(), 0.0, noted):
        wait_until(lambda: len(noted.events) == 1)
        before = world.store.last_position()
        for n in range(appends):
            world.analyse(1, n)
            wait_until(lambda n=n: rows(world) == n + 1)
        notifications = world.store.last_position() - before
    # One look when it began, and at the most one for each event that was appended.
    assert appends < len(noted.events) <= 1 + notifications
    assert notifications <= 2 * appends
    assert noted.errors == []


def test_what_was_appended_before_it_began_or_unheard_is_projected_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.analyse(1)
    monkeypatch.setattr(subscription, "WAKE_S", 0.5)
    monkeypatch.setattr(subscription, "CHANNEL", "nobody_speaks_here")
    with follow_in_thread(world.runner(), 0.0, SubscriptionObserver()):
        wait_until(lambda: rows(world) == 1)
        world.analyse(1, 1)
        wait_until(lambda: rows(world) == 2)


class Rest(Event):
    """A follower's stop, whose rests of one length end when a test lets them end."""

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self._every_s = every_s
        self.begun, self.over = 0, Event()

    def wait(self, timeout: float | None = None) -> bool:
        if timeout != self._every_s:
            return super().wait(timeout)
        self.begun += 1
        return self.over.wait(WAIT_TIMEOUT_S)


@pytest.mark.usefixtures("never_by_itself")
def test_a_busy_writer_costs_no_more_than_one_look_in_each_interval(world: World) -> None:
    noted, rest = Noted(), Rest(0.4)
    thread = Thread(target=subscription.follow_log, args=(world.runner(), rest, 0.4, noted))
    thread.start()
    wait_until(lambda: rest.begun == 1)
    before = world.store.last_position()
    for n in range(60):
        world.analyse(1, n)
    appended = world.store.last_position() - before
    assert (len(noted.events), rest.begun) == (1, 1)
    rest.over.set()
    wait_until(lambda: rows(world) == 60)
    rest.set()
    thread.join(WAIT_TIMEOUT_S)
    # All that was appended in one interval is one look's, and each look is followed by a rest.
    assert noted.events[1] == appended
    assert rest.begun == len(noted.events)


def test_it_survives_the_end_of_all_its_connections(world: World) -> None:
    noted = Noted()
    with follow_in_thread(world.runner(), 0.0, noted):
        wait_until(lambda: len(noted.events) == 1)
        for n in range(3):
            with psycopg.connect(world.dsn, autocommit=True) as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            wait_until(lambda n=n: len(noted.errors) > n)
            world.analyse(1, n)
            wait_until(lambda n=n: rows(world) == n + 1)


def test_tables_dropped_under_it_come_back(world: World) -> None:
    with follow_in_thread(world.runner(), 0.0, SubscriptionObserver()):
        world.analyse(2)
        wait_until(lambda: rows(world) == 2)
        with psycopg.connect(world.dsn, autocommit=True) as conn:
            conn.execute(f"DROP SCHEMA {CURRENT_SCHEMA} CASCADE".encode())
        world.analyse(1, 2)
        wait_until(lambda: rows(world) == 3)


def test_a_newer_program_ends_it_and_that_is_said(world: World) -> None:
    noted = Noted()

    def follow_until_told() -> None:
        with follow_in_thread(world.runner(), 0.0, noted):
            with psycopg.connect(world.dsn, autocommit=True) as conn:
                published = "SELECT to_regclass('read_models.published')"
                wait_until(lambda: conn.execute(published).fetchone() != (None,))
                conn.execute("UPDATE read_models.published SET version = 99")
            world.analyse(1)
            wait_until(lambda: noted.ended_by)

    with pytest.raises(BadInput, match="version 99"):
        follow_until_told()


@pytest.mark.usefixtures("never_by_itself")
def test_it_ends_when_it_is_told_to_and_not_at_its_next_look(world: World) -> None:
    stop = Event()
    thread = Thread(target=subscription.follow_log, args=(world.runner(), stop))
    thread.start()
    wait_until(lambda: rows_exist(world))
    stop.set()
    thread.join(WAIT_TIMEOUT_S)
    assert not thread.is_alive()


def rows_exist(world: World) -> bool:
    with psycopg.connect(world.dsn) as conn:
        return conn.execute("SELECT to_regclass('read_models.runs')").fetchone() != (None,)


def test_the_command_follows_until_it_is_told_to_end(world: World, tmp_path: Path) -> None:
    env = {**os.environ, "QUANTAGENT_DSN": world.dsn, "QUANTAGENT_HOME": str(tmp_path)}
    process = subprocess.Popen([str(QUANTAGENT), "projections", "follow"], env=env, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: rows_exist(world))
    world.analyse(3)
    wait_until(lambda: rows(world) == 3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WAIT_TIMEOUT_S)
    assert process.returncode == 0
    assert "events projected" in said
