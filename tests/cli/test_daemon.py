"""The daemon as an operator runs it: real processes over a recorded feed, ended and killed, and the log after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import asdict

import quantagent
from engine import clock
from engine.audit.anchors import anchors_file, is_signed, read_anchors
from engine.audit.chain import read_log_id
from engine.broker.blotter import PostgresBlotter
from engine.core.errors import BadInput, VersionConflict
from engine.core.events import OrderFilled, SlotClaimed, SlotCompleted
from engine.runtime import lease, slots
from engine.store import Batch, Cause, Store, read_from
from engine.store.postgres import PostgresStore
from projections.queries import Queries
from tests.support.commands import answer, run
from tests.support.forks import QUANTAGENT
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until
from ui.app import App, open_app
from ui.daemon import paper as daemon_module
from ui.daemon.paper import PaperDaemon, PaperPlan
from ui.services.backtest import BacktestRequest, run_backtest
from ui.settings import Settings

pytestmark = pytest.mark.slow

# Long enough for some trades, after the analyst's warm-up, short enough for a test: 5 days of two symbols.
RANGE = ("--start", "2017-08-15", "--end", "2017-08-20")
START, END = datetime(2017, 8, 15, tzinfo=UTC), datetime(2017, 8, 20, tzinfo=UTC)
SLOTS = 120


@pytest.fixture
def app(sample_dsn: str) -> Iterator[App]:
    with open_app(Settings(None, sample_dsn, "tester")) as opened:
        yield opened


@pytest.fixture
def env(app: App, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": app.dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}


def digest_of_backtest(app: App) -> str:
    return run_backtest(app, BacktestRequest(start=START, end=END)).result.ended.book_digest


def begin(env: dict[str, str], *more: str) -> subprocess.Popen[str]:
    command = [str(QUANTAGENT), "paper", "start", *RANGE, "--json", *more]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def slots_done(dsn: str) -> int:
    with PostgresStore(dsn) as store:
        return sum(1 for _ in read_from(store, ["SlotCompleted.v1"]))


def wait_for_slots(dsn: str, count: int) -> None:
    wait_until(lambda: slots_done(dsn) >= count, "the daemon does not go on")


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, complaints = process.communicate(timeout=WAIT_TIMEOUT_S)
    assert process.returncode == 0, complaints
    return json.loads(said)


@pytest.mark.slow
def test_a_daemon_over_stored_bars_ends_with_the_backtests_digest(app: App, env: dict[str, str]) -> None:
    ended = answer(env, "paper", "start", *RANGE)
    assert ended["book_digest"] == digest_of_backtest(app)
    with Queries(app.dsn) as queries:
        shown = queries.run(ended["run_id"])
        assert (shown["environment"], shown["status"]) == ("paper", "ended")
        assert shown["book_digest"] == ended["book_digest"]
    assert slots_done(app.dsn) == SLOTS
    replayed = answer(env, "replay", ended["run_id"])
    assert replayed["equal"] is True


@pytest.mark.slow(9)
def test_sigterm_ends_between_slots_and_a_restart_goes_on_without_a_duplicate(app: App, env: dict[str, str]) -> None:
    # Slow enough for a busy machine: the signal comes long before the last slot.
    daemon = begin(env, "--speed", "6000")
    wait_for_slots(app.dsn, 8)
    daemon.send_signal(signal.SIGTERM)
    assert finished(daemon)["ended"] is False
    done = slots_done(app.dsn)
    assert 8 <= done < SLOTS
    ended = answer(env, "paper", "start", *RANGE)
    assert ended["book_digest"] == digest_of_backtest(app)
    assert slots_done(app.dsn) == SLOTS


@pytest.mark.slow(11)
def test_killed_at_any_moment_it_goes_on_where_the_log_ends(app: App, env: dict[str, str]) -> None:
    for count in (3, 31, 64):
        daemon = begin(env, "--speed", "100000")
        wait_for_slots(app.dsn, count)
        daemon.kill()
        daemon.communicate(timeout=WAIT_TIMEOUT_S)
    ended = answer(env, "paper", "start", *RANGE)
    assert ended["book_digest"] == digest_of_backtest(app)
    completed: dict[str, int] = {}
    for row in read_from(app.store, ["SlotCompleted.v1"]):
        completed[row.stream] = completed.get(row.stream, 0) + 1
    assert len(completed) == SLOTS
    assert set(completed.values()) == {1}


# A process that kills itself around the n-th fill, or the n-th stored step with one: `PLACE N paper start ...`.
KILLS_ITSELF = """
import os, signal, sys
from engine.broker.blotter import PostgresBlotter
from engine.core.events import OrderFilled
from engine.runtime.session import Journal
from ui.cli import main

place, left = sys.argv.pop(1), int(sys.argv.pop(1))

def around(work, has_fill, before, after):
    def dying(self, *arguments):
        global left
        fills = has_fill(self, *arguments)
        left -= fills
        if fills and left == 0 and place == before:
            os.kill(os.getpid(), signal.SIGKILL)
        work(self, *arguments)
        if fills and left == 0 and place == after:
            os.kill(os.getpid(), signal.SIGKILL)
    return dying

def filled(events):
    return any(isinstance(event, OrderFilled) for event in events)

if place.endswith("recorded"):
    told = lambda self, events: filled(events)
    PostgresBlotter.record = around(PostgresBlotter.record, told, "not recorded", "recorded")
else:
    pending = lambda self: filled(self._pending)
    Journal.flush = around(Journal.flush, pending, "not stored", "stored")
main()
"""


def fills_by_three(dsn: str, run_id: str) -> list[list[tuple[Any, ...]]]:
    """The fills of a run by the broker's record, by the book, and by the read models."""
    columns = ("order_id", "at", "symbol", "side", "quantity", "price", "commission")
    with (
        closing(PostgresBlotter(dsn, run_id)) as blotter,
        PostgresStore(dsn) as store,
        Queries(dsn) as queries,
    ):
        told = [fill._asdict() for fill in blotter.executions()]
        book = [asdict(row.event) for row in store.read(f"book:{run_id}") if isinstance(row.event, OrderFilled)]
        return [
            sorted(tuple(fill[name] for name in columns) for fill in each)
            for each in (told, book, queries.fills(run_id))
        ]


@pytest.mark.slow(18)
@pytest.mark.parametrize("place", ["not recorded", "recorded", "not stored", "stored"])
def test_killed_between_broker_and_log_no_fill_is_doubled_or_lost(app: App, env: dict[str, str], place: str) -> None:
    one = (*RANGE, "--symbols", "BTC-USD")
    words = [sys.executable, "-c", KILLS_ITSELF, place, "2", "paper", "start", *one]
    died = subprocess.run(words, env=env, capture_output=True, text=True, timeout=WAIT_TIMEOUT_S, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    ended = answer(env, "paper", "start", *one)
    expected = run_backtest(app, BacktestRequest(symbols=("BTC-USD",), start=START, end=END)).result.ended.book_digest
    assert ended["book_digest"] == expected
    record, book, shown = fills_by_three(app.dsn, ended["run_id"])
    assert record == book == shown
    assert len(book) >= 3
    assert answer(env, "paper", "reconcile")["equal"] is True


def test_stop_ends_a_running_daemon_and_status_shows_it(app: App, env: dict[str, str]) -> None:
    daemon = begin(env, "--speed", "2000")
    wait_for_slots(app.dsn, 1)
    (shown,) = answer(env, "paper", "status")["daemons"]
    assert (shown["account"], shown["alive"], shown["state"]) == ("paper", True, "running")
    refused = run(env, "paper", "start", *RANGE, code=2)
    assert "another daemon" in refused.stderr
    assert answer(env, "paper", "stop")["stopped"] is True
    assert finished(daemon)["ended"] is False
    (shown,) = answer(env, "paper", "status")["daemons"]
    assert (shown["alive"], shown["state"]) == (False, "stopped")


def test_an_accelerated_clock_keeps_its_pace(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = [clock.now()]
    claims: list[tuple[datetime, datetime]] = []
    claim = slots.claim

    class Early:
        """Ticks a moment before each time that it is given, then at that time."""

        def __init__(
            self, tick: Callable[[], None], next_wall_time: Callable[[], datetime | None], trouble: object
        ) -> None:
            self._tick, self._next_wall_time = tick, next_wall_time

        def __enter__(self) -> None:
            while (at := self._next_wall_time()) is not None:
                for wall[0] in (at - timedelta(milliseconds=1), at):
                    self._tick()

        def __exit__(self, *_: object) -> None: ...

    def noted(store: Store, slot: slots.Slot, run_id: str, instance: str, cause: Cause) -> bool:
        claims.append((slot.due_at, wall[0]))
        return claim(store, slot, run_id, instance, cause)

    monkeypatch.setattr(clock, "now", lambda: wall[0])
    monkeypatch.setattr(slots, "claim", noted)
    monkeypatch.setattr(daemon_module, "Ticker", Early)
    began = wall[0]
    daemon = PaperDaemon(app, PaperPlan(start=START, end=START + timedelta(days=1), speed=60_000))
    assert daemon.run() is not None
    # A day at 60,000 times the wall's speed is 1.44 s; no slot comes before its time.
    assert claims == [(due, began + (due - START) / 60_000) for due, _ in claims]
    assert (len(claims), wall[0] - began) == (24, timedelta(seconds=1.44))


def test_of_two_that_claim_one_slot_only_the_first_succeeds(store: Store) -> None:
    slot = slots.Slot("paper", "1h", START, ("BTC-USD",))
    me, other = Cause("me"), Cause("other")
    assert slots.claim(store, slot, "run", "daemon-1", me) is True
    racing = SlotClaimed("paper", "1h", START, ("BTC-USD",), "run", "daemon-2")
    with pytest.raises(VersionConflict):
        store.append([Batch(slot.stream, 0, [racing])], other)
    assert slots.claim(store, slot, "run", "daemon-1", me) is True
    slots.complete(store, slot, [("BTC-USD", "no change")], me)
    slots.complete(store, slot, [("BTC-USD", "no change")], other)
    assert slots.claim(store, slot, "run", "daemon-2", other) is False
    assert [type(row.event) for row in store.read(slot.stream)] == [SlotClaimed, SlotCompleted]


@pytest.mark.slow
def test_a_failed_slot_is_recorded_and_tried_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PaperPlan(start=START, end=END)
    daemon = PaperDaemon(app, plan)
    monkeypatch.setattr("ui.daemon.paper.LiveAnalyst", _Failing)
    with pytest.raises(BadInput, match="no opinion today"):
        daemon.run()
    (failed,) = read_from(app.store, ["SlotFailed.v1"])
    assert failed.event.reason == "no opinion today"  # type: ignore[attr-defined]
    monkeypatch.undo()
    ended = PaperDaemon(app, plan).run()
    assert ended is not None
    assert ended.book_digest == digest_of_backtest(app)


class _Failing:
    """An analyst that cannot form an opinion."""

    def __init__(self, *_: object) -> None: ...

    def prepare(self, bars: object) -> None: ...

    def intent(self, bar: object) -> None:
        raise BadInput("no opinion today")


def test_the_scheduler_of_the_python_door_starts_once_analyses_and_stops(app: App) -> None:
    scheduler = quantagent.TradingScheduler(app, quantagent.PaperPlan(start=START, end=END, speed=2_000))
    run_id = scheduler.start()
    assert scheduler.start() == run_id
    opinion = scheduler.analyze_asset("BTC-USD")
    assert opinion["at"] == END
    assert opinion["decision"] in ("LONG", "SHORT", "HOLD")
    assert scheduler.analyze_asset("BTC-USD") == {**opinion, "made": False}
    scheduler.stop()
    assert scheduler.result is None
    assert not [thread for thread in threading.enumerate() if thread.name == "paper"]


def slow(app: App, speed: float) -> PaperDaemon:
    """A daemon that takes its time: `speed` seconds of market time a second."""
    return PaperDaemon(app, PaperPlan(symbols=("BTC-USD",), start=START, end=END, speed=speed))


def test_a_running_daemon_anchors_the_log_again_and_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    # In earnest it is once an hour; here at every heartbeat that finds something new.
    monkeypatch.setattr(daemon_module, "ANCHOR_EVERY", timedelta(0))
    monkeypatch.setattr(daemon_module, "HEARTBEAT", timedelta(seconds=0.05))
    with psycopg.connect(app.dsn) as conn:
        file = anchors_file(app.home, read_log_id(conn))
    daemon = slow(app, 7_200)
    failures: list[BaseException] = []

    def drive() -> None:
        try:
            daemon.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=drive)
    thread.start()
    wait_until(lambda: failures or (file.exists() and len(read_anchors(file)) >= 4), "there are no new anchors")
    daemon.request_stop()
    thread.join(WAIT_TIMEOUT_S)
    assert failures == []
    made = read_anchors(file)
    assert all(is_signed(anchor) for anchor in made)
    assert [anchor.seal for anchor in made] == sorted({anchor.seal for anchor in made})


@pytest.mark.slow
def test_a_daemon_outlives_the_loss_of_all_its_connections(
    app: App, sample_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "HEARTBEAT", timedelta(seconds=0.1))
    expected = run_backtest(app, BacktestRequest(symbols=("BTC-USD",), start=START, end=END)).result.ended.book_digest
    daemon = slow(app, 72_000)
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(daemon.run()))
    thread.start()
    with psycopg.connect(sample_dsn, autocommit=True) as conn:
        for reached in (20, 60, 100):
            wait_for_slots(sample_dsn, reached)
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    thread.join(WAIT_TIMEOUT_S)
    assert [each.book_digest for each in ended] == [expected]


def test_a_daemon_that_lost_its_lock_to_another_one_stops(app: App, sample_dsn: str) -> None:
    held = lease.Lease(app.dsn, "paper", "run", "one")
    held._conn.close()  # pyright: ignore[reportPrivateUsage]
    with (
        lease.lease(app.dsn, "paper", "run", "two"),
        pytest.raises(BadInput, match="in use by another daemon"),
    ):
        held.heartbeat(None)
    assert held.heartbeat(None) is False
    held.close()
