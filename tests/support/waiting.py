"""Waits of tests: each ends when its condition holds, however slow the machine is.

Load must not turn a test red, so no test measures time. The limits here only end a hang, and are shorter than pytest's
own, so that the line that hangs is the one that is reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

WAIT_TIMEOUT_S = 300.0
"""The limit of every wait for a process, a thread, a queue or a condition, in seconds."""

_POLL_S = 0.01


def wait_until(condition: Callable[[], object], message: str = "the condition does not hold") -> None:
    """Return as soon as the condition holds. Raises `AssertionError` with the message after `GIVE_UP_S`."""
    deadline = time.monotonic() + WAIT_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{message} after {WAIT_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)


def waits_for_lock(dsn: str) -> bool:
    """Return whether a connection to this database waits for a lock of another one."""
    with psycopg.connect(dsn) as conn:
        waiting = conn.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1"
        )
        return waiting.fetchone() is not None
