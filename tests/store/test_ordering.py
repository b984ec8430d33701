"""A reader that follows the log misses nothing, whoever writes: positions become visible in their order.

Gaps are normal (an append that was refused leaves one); what must never be is a position that turns up late.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from engine.core.errors import VersionConflict
from engine.core.events import TradingHalted
from engine.store import Batch, Cause
from engine.store.codec import encode_payload, encode_state, stored_name, stream_id
from engine.store.hash_chain import Seal
from engine.store.postgres import PostgresStore, Recorder, datastore
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until, waits_for_lock

AT = datetime(2024, 1, 1, tzinfo=UTC)
WRITERS = 6
PER_APPEND = 50


def halted(reason: str) -> TradingHalted:
    return TradingHalted(AT, "entries", reason, "tester")


class Follower:
    """A reader that polls from the last position it saw, while others write."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.seen: list[int] = []

    def poll(self) -> int:
        page = self._store.read_all(self.seen[-1] if self.seen else 0)
        self.seen += [row.position for row in page]
        return len(page)

    def follow(self, writers: Sequence[Thread]) -> None:
        while any(writer.is_alive() for writer in writers) or self.poll():
            self.poll()


def write(dsn: str, writer: int, appends: int, failures: list[BaseException]) -> None:
    try:
        with PostgresStore(dsn) as store:
            for n in range(appends):
                events = [halted(f"{writer} {n} {k}") for k in range(PER_APPEND)]
                store.append([Batch(f"control:{writer}", n * PER_APPEND, events)], Cause("test"))
                if n % 20 == 0:
                    # Refused, rolled back, and its positions are lost: a gap.
                    with pytest.raises(VersionConflict):
                        store.append([Batch(f"control:{writer}", 0, [halted("another")])], Cause("test"))
    except BaseException as error:
        failures.append(error)


def followed(dsn: str, events: int) -> tuple[list[int], list[int]]:
    """The positions that a follower saw while six writers wrote, and those that there are."""
    failures: list[BaseException] = []
    appends = events // (WRITERS * PER_APPEND)
    writers = [Thread(target=write, args=(dsn, n, appends, failures)) for n in range(WRITERS)]
    with PostgresStore(dsn) as store:
        follower = Follower(store)
        for writer in writers:
            writer.start()
        follower.follow(writers)
    assert failures == []
    with psycopg.connect(dsn) as conn:
        stored = conn.execute("SELECT notification_id FROM quantagent.events ORDER BY 1").fetchall()
    return follower.seen, [position for (position,) in stored]


@pytest.mark.long
def test_six_writers_and_a_hundred_thousand_events_and_a_follower_misses_none(dsn: str) -> None:
    seen, stored = followed(dsn, 102_000)
    assert len(stored) == 102_000
    assert seen == stored
    assert stored[-1] > len(stored)  # there were gaps


# --- Without the turn it fails: the same appends, with the one line taken out of the function that begins them -------


class Unsealed(Recorder):
    """Seals have numbers without gaps, which would make writers wait for each other too."""

    def _seal(self, curs: psycopg.Cursor[Any], seal: Seal) -> None:
        pass


def let_unsealed_appends_pass(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("DROP TRIGGER check_sealed ON quantagent.append_turn")
        conn.execute("DROP TRIGGER check_events ON quantagent.events")


def take_out_the_turn(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        (source,) = conn.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'begin_append'"
        ).fetchone() or ("",)
        without, found = re.subn(r"FOR UPDATE|UPDATE quantagent\.append_turn t SET [^;]*;", "", source)
        assert found == 2
        conn.execute(without.encode())


@contextmanager
def appending_slowly(recorder: Recorder) -> Generator[Callable[[], None]]:
    """An append that has its positions and has not committed yet; what is yielded lets it go on."""
    go_on, has_positions = Event(), Event()

    class Slow(Unsealed):
        def _seal(self, curs: psycopg.Cursor[Any], seal: Seal) -> None:
            has_positions.set()
            assert go_on.wait(WAIT_TIMEOUT_S)

    slow = Slow(recorder.datastore)
    writer = Thread(target=slow.insert_events, args=([stored("slow")],))
    writer.start()
    assert has_positions.wait(WAIT_TIMEOUT_S)

    def finish() -> None:
        go_on.set()
        writer.join(WAIT_TIMEOUT_S)

    yield finish
    finish()


def stored(stream: str) -> StoredEvent:
    from engine.store import ENGINE_VERSION, Meta

    event = halted(stream)
    state = encode_state(encode_payload(event), Meta(stream, AT, "test", "", "", ENGINE_VERSION))
    return StoredEvent(stream_id(stream), 1, stored_name(event), state)


def missed_by_a_follower(dsn: str) -> list[str]:
    """Streams that a follower never sees when a quick append overtakes a slow one, if it can."""
    recorder = Unsealed(datastore(dsn))
    with PostgresStore(dsn) as store:
        follower = Follower(store)
        with appending_slowly(recorder) as finish:
            quick = Thread(target=recorder.insert_events, args=([stored("quick")],))
            quick.start()
            wait_until(lambda: not quick.is_alive() or waits_for_lock(dsn), "the quick append neither ends nor waits")
            follower.poll()
            finish()
            quick.join(WAIT_TIMEOUT_S)
        follower.poll()
        missed = [row.stream for row in store.read_all() if row.position not in follower.seen]
    recorder.datastore.close()
    return missed


def test_an_append_waits_for_the_one_before_it(dsn: str) -> None:
    let_unsealed_appends_pass(dsn)
    assert missed_by_a_follower(dsn) == []


def test_without_the_turn_a_follower_misses_what_was_overtaken(dsn: str) -> None:
    let_unsealed_appends_pass(dsn)
    take_out_the_turn(dsn)
    assert missed_by_a_follower(dsn) == ["slow"]
