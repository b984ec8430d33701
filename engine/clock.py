"""The only place that reads the time.

Market time comes from bars and is an argument everywhere; this clock serves metadata and the scheduler.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Protocol


def now() -> datetime:
    """The present instant in UTC."""
    return datetime.now(UTC)


class Clock(Protocol):
    """What a daemon needs of time: the instant, and to wait for one."""

    def now(self) -> datetime: ...

    def wait_until(self, instant: datetime, stop: threading.Event) -> bool:
        """Waits until `instant` or until `stop` is set; true when the instant came."""
        ...


class WallClock:
    """Real time."""

    def now(self) -> datetime:
        return now()

    def wait_until(self, instant: datetime, stop: threading.Event) -> bool:
        return not stop.wait(max(0.0, (instant - self.now()).total_seconds()))


class AcceleratedClock:
    """Time that starts at `start` and runs `speed` times as fast as the wall's; 0 means without waiting."""

    def __init__(self, start: datetime, speed: float) -> None:
        self._start, self._speed = start, speed
        self._began = now()
        self._latest = start

    def now(self) -> datetime:
        if self._speed <= 0:
            return self._latest
        return self._start + (now() - self._began) * self._speed

    def wait_until(self, instant: datetime, stop: threading.Event) -> bool:
        self._latest = max(self._latest, instant)
        if self._speed <= 0:
            return not stop.is_set()
        left: timedelta = (instant - self.now()) / self._speed
        return not stop.wait(max(0.0, left.total_seconds()))
