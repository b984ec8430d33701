"""The wall clock; no other module reads the time.

Market time comes from bars and is always an argument. This clock serves metadata and the scheduler.
"""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Return the present instant in UTC."""
    return datetime.now(UTC)


class AcceleratedClock:
    """Market time that starts at `start` and runs `speed` times as fast as the wall clock.

    With speed 0 nothing waits: every instant is in the past.
    """

    def __init__(self, start: datetime, speed: float) -> None:
        self._start, self._speed = start, speed
        self._began = now()

    def now(self) -> datetime:
        if self._speed <= 0:
            return datetime.max.replace(tzinfo=UTC)
        return self._start + (now() - self._began) * self._speed

    def wall_time(self, instant: datetime) -> datetime:
        if self._speed <= 0:
            return now()
        return self._began + (instant - self._start) / self._speed
