"""Subscription to the log: projects after each append and reconnects after a lost connection.

A notification only means that something was appended; the events are read from the log. A lost notification therefore
causes a delay and never loses an event.
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
"""Interval after which the log is read without a notification."""

_LISTEN_S = 0.25
_PAUSE_S, _PAUSE_MAX_S = 0.2, 10.0


class SubscriptionObserver:
    """Callbacks of a subscription. This base class ignores them."""

    def projected(self, events: int) -> None:
        """Receive the number of events projected by one attempt."""

    def interrupted(self, error: Exception, pause_s: float) -> None:
        """Receive the error of an unavailable database; the next attempt follows after the pause."""

    def ended(self, error: Exception) -> None:
        """Receive the error that ended the subscription; there is no further attempt."""


def follow_log(runner: Runner, stop: Event, every_s: float = 0.0, observer: SubscriptionObserver | None = None) -> None:
    """Keep the read tables up to date until `stop` is set, with a pause of `every_s` seconds after each attempt.

    Lost connections and server restarts are retried, with pauses of at most 10 s. Raise `BadInput` if a newer program
    has published its version.
    """
    observer = observer or SubscriptionObserver()
    pause_s = _PAUSE_S
    while not stop.is_set():
        try:
            with psycopg.connect(runner.dsn, autocommit=True) as conn:
                # LISTEN before the first read, so that later appends are notified.
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
    """Follow the log in a thread while the block runs. An error that ended the thread is raised after the block."""
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
    """Wait for an append, for `stop`, or for `WAKE_S`."""
    for _ in range(round(WAKE_S / _LISTEN_S)):
        if stop.is_set() or any(conn.notifies(timeout=_LISTEN_S, stop_after=1)):
            return
