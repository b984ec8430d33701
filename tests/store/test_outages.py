"""When the database fails: one typed error, nothing half-stored, and everything goes on by itself once it is back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from engine.audit.verify import verify_log
from engine.core.errors import StoreUnavailable
from engine.core.events import TradingHalted
from engine.store import Batch, Cause
from engine.store import postgres as store_module
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from tests.support.embedded_home import embedded, new_home
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until

pytestmark = pytest.mark.slow

AT = datetime(2024, 1, 1, tzinfo=UTC)
ME = Cause("test")


def batch(stream: str, after: int = 0, count: int = 1, size: int = 10) -> Batch:
    return Batch(stream, after, [TradingHalted(AT, "entries", f"{n}" + "x" * size, "test") for n in range(count)])


def nothing_but(dsn: str, count: int) -> None:
    """So many events, all of them sealed."""
    with psycopg.connect(dsn) as conn:
        verdict = verify_log(conn)
    assert (verdict.finding, verdict.events) == (None, count)


@contextmanager
def somebody_elses_turn(dsn: str) -> Generator[None]:
    """An append that does not end."""
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT * FROM quantagent.begin_append(1)")
        yield
        conn.rollback()


def test_waiting_for_ones_turn_ends_with_a_typed_error(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT", "200ms")
    with PostgresStore(dsn) as store:
        with (
            somebody_elses_turn(dsn),
            pytest.raises(StoreUnavailable, match=r"lock timeout\. Nothing of this"),
        ):
            store.append([batch("control:a", count=700)], ME)
        store.append([batch("control:a")], ME)
    nothing_but(dsn, 1)


def test_a_statement_that_takes_too_long_ends_with_a_typed_error(dsn: str) -> None:
    # Long enough for the append that follows, on a busy machine too.
    with PostgresStore(make_conninfo(dsn, options="-c statement_timeout=2s")) as store:
        with somebody_elses_turn(dsn), pytest.raises(StoreUnavailable, match="statement timeout"):
            store.append([batch("control:a")], ME)
        store.append([batch("control:a")], ME)
    nothing_but(dsn, 1)


def test_an_exhausted_pool_ends_with_a_typed_error(dsn: str) -> None:
    with PostgresStore(dsn) as store:
        pool = store._recorder.datastore.pool  # pyright: ignore[reportPrivateUsage]
        pool.open()
        pool.timeout = 0.3
        taken = [pool.getconn() for _ in range(pool.max_size)]
        with pytest.raises(StoreUnavailable, match="couldn't get a connection"):
            store.append([batch("control:a")], ME)
        with pytest.raises(StoreUnavailable, match="couldn't get a connection"):
            list(store.read("control:a"))
        for conn in taken:
            pool.putconn(conn)
        store.append([batch("control:a")], ME)
    nothing_but(dsn, 1)


def test_a_lost_server_ends_with_a_typed_error_when_it_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "RECOVERY", timedelta(seconds=0.5))
    with new_home() as home:
        postgres = embedded(home)
        dsn = postgres.start()
        migrate(dsn)
        with PostgresStore(dsn) as store:
            pool = store._recorder.datastore.pool  # pyright: ignore[reportPrivateUsage]
            pool.timeout = 0.5
            store.append([batch("control:a")], ME)
            postgres.stop(force=True)
            with pytest.raises(StoreUnavailable, match="the log could not be written"):
                store.append([batch("control:a", 1)], ME)
            with pytest.raises(StoreUnavailable, match="the log could not be read"):
                list(store.read("control:a"))
            postgres.start()
            pool.timeout = WAIT_TIMEOUT_S
            store.append([batch("control:a", 1)], ME)
        nothing_but(dsn, 2)
        postgres.stop(force=True)


@pytest.mark.slow(10)
def test_a_server_that_is_killed_in_the_middle_of_appends_loses_none_and_fails_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # How long a server takes to restart depends on the machine; an append that gave up would be a failure.
    monkeypatch.setattr(store_module.with_retry, "__defaults__", (timedelta(seconds=WAIT_TIMEOUT_S),))
    with new_home() as home:
        postgres = embedded(home)
        dsn = postgres.start()
        migrate(dsn)
        done, failures = [0], list[BaseException]()
        stop = Event()

        def write() -> None:
            try:
                with PostgresStore(dsn) as store:
                    while not stop.is_set():
                        count = 1 + done[0] % 900
                        store.append([batch("control:a", done[0], count, 300)], ME)
                        done[0] += count
            except BaseException as error:
                failures.append(error)

        writer = Thread(target=write)
        writer.start()
        for _ in range(3):
            reached = done[0]
            wait_until(lambda reached=reached: done[0] >= reached + 2_000 or failures)
            kill_postgres(home)
            reached = done[0]
            postgres.start()
            wait_until(lambda reached=reached: done[0] > reached or failures, "the appends do not go on")
        stop.set()
        writer.join()
        assert failures == []
        nothing_but(dsn, done[0])
        postgres.stop(force=True)


def kill_postgres(home: Path) -> None:
    """As when the machine loses its power: every process of the server at once."""
    status = embedded(home).status()
    assert status.pid is not None
    postmaster = psutil.Process(status.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=WAIT_TIMEOUT_S)


# --- A full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of a few megabytes that the server can write to."""
    folder = Path("/tmp") / f"qa-disk-{os.getpid()}"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip("a small disk can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def test_a_full_disk_ends_with_a_typed_error_and_goes_on_when_there_is_room(dsn: str, small_disk: Path) -> None:
    space = f"small_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        place = small_disk / "space"
        place.mkdir(mode=0o700)
        give_to_server(conn, place)
        create = SQL("CREATE TABLESPACE {} LOCATION {}").format(Identifier(space), Literal(str(place)))
        conn.execute(create)
        conn.execute(SQL("ALTER TABLE quantagent.events SET TABLESPACE {}").format(Identifier(space)))
    ballast = small_disk / "ballast"
    try:
        with PostgresStore(dsn) as store:
            store.append([batch("control:a", 0, 100, 1_000)], ME)
            ballast.write_bytes(bytes(16 * 2**20))
            with pytest.raises(StoreUnavailable, match="No space left on device"):
                fill(store)
            stored = len(store.read_all(limit=1_000_000))
            assert stored % 1_000 == 100
            ballast.unlink()
            store.append([batch("control:c", 0, 100, 1_000)], ME)
        nothing_but(dsn, stored + 100)
    finally:
        ballast.unlink(missing_ok=True)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("ALTER TABLE quantagent.events SET TABLESPACE pg_default")
            conn.execute(SQL("DROP TABLESPACE {}").format(Identifier(space)))


def fill(store: PostgresStore) -> None:
    for n in range(100):
        store.append([batch(f"control:b{n}", 0, 1_000, 1_000)], ME)


def give_to_server(conn: psycopg.Connection[Any], folder: Path) -> None:
    """The folder belongs to whoever the server runs as."""
    (pid,) = conn.execute("SELECT pg_backend_pid()").fetchone() or (0,)
    process = psutil.Process(pid)
    os.chown(folder, process.uids().real, process.gids().real)
