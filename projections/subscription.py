"""Follows the log: woken by each append, asleep between them, back after a lost connection.

The log's channel says only that something was appended; what it was is read from the log, so a notification that got
lost costs a moment and never an event.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import Event, Thread

import psycopg

from engine.core.errors import StoreUnavailable
from engine.store import CHANNEL
from projections.runner import Runner
from projections.schemas import Connection

WAKE_S = 30.0
"""After so long a follower looks without being called."""

_LISTEN_S = 0.25
_PAUSE_S, _PAUSE_MAX_S = 0.2, 10.0


class SubscriptionObserver:
    """What a follower tells while it works; here it tells nobody."""

    def projected(self, events: int) -> None:
        """So many events were projected."""

    def interrupted(self, error: Exception, pause_s: float) -> None:
        """The database was not there; the next attempt follows after the pause."""

    def ended(self, error: Exception) -> None:
        """It cannot go on, and there will be no other attempt."""


def follow_log(runner: Runner, stop: Event, every_s: float = 0.0, observer: SubscriptionObserver | None = None) -> None:
    """Keeps the read tables up with the log until `stop` is set, with `every_s` seconds of rest after each attempt.

    Outlives its connections and the server's restarts, with pauses of at most 10 s. Raises `BadInput` when a newer
    program has published its version.
    """
    observer = observer or SubscriptionObserver()
    pause_s = _PAUSE_S
    while not stop.is_set():
        try:
            with psycopg.connect(runner.dsn, autocommit=True) as conn:
                # Before the first look at the log: what is appended after that look is heard.
                conn.execute(f"LISTEN {CHANNEL}")
                while not stop.is_set():
                    observer.projected(runner.catch_up())
                    pause_s = _PAUSE_S
                    stop.wait(every_s)
                    _wait_for_append(conn, stop)
        except (psycopg.Error, StoreUnavailable) as error:
            observer.interrupted(error, pause_s)
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)


@contextmanager
def follow_in_thread(runner: Runner, every_s: float, observer: SubscriptionObserver) -> Generator[None]:
    """Follows in a thread of its own for as long as the block runs; what ended the thread early is raised after it."""
    stop = Event()
    ended_by: list[Exception] = []

    def work() -> None:
        try:
            follow_log(runner, stop, every_s, observer)
        except Exception as error:
            observer.ended(error)
            ended_by.append(error)

    thread = Thread(target=work, name="projections", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if ended_by:
        raise ended_by[0]


def _wait_for_append(conn: Connection, stop: Event) -> None:
    """Until something is appended, `stop` is set, or it has been long enough."""
    for _ in range(round(WAKE_S / _LISTEN_S)):
        if stop.is_set() or any(conn.notifies(timeout=_LISTEN_S, stop_after=1)):
            return
