"""APScheduler as a clock and nothing else: calls a function when the next slot is due on the wall."""

# The library ships no types; its calls are confined to this module.
# pyright: reportUnknownMemberType=false, reportIncompatibleMethodOverride=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from engine.errors import QuantagentError

# APScheduler asks for the next time as it fires; a tick that is still running has not moved the next slot yet.
PAUSE = timedelta(milliseconds=20)


class Ticker:
    """Calls `tick` whenever `next_wall_time` has come, in a thread of its own; `trouble` hears what went wrong."""

    def __init__(
        self,
        tick: Callable[[], None],
        next_wall_time: Callable[[], datetime | None],
        trouble: Callable[[BaseException], None],
    ) -> None:
        self._trouble = trouble
        # The library's defaults drop a job that is one second late. Here nothing is dropped for being late, several
        # late ticks are one, no two run at once, and the schedule lives in memory only: the log holds what was done.
        self._scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        self._scheduler.add_job(tick, _WhenDue(next_wall_time))
        self._scheduler.add_listener(self._on_trouble, EVENT_JOB_ERROR | EVENT_JOB_MISSED)

    def __enter__(self) -> Ticker:
        self._scheduler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._scheduler.shutdown(wait=True)

    def _on_trouble(self, event: JobExecutionEvent) -> None:
        self._trouble(event.exception or QuantagentError("a scheduler tick was missed: start the daemon again."))


class _WhenDue(BaseTrigger):
    def __init__(self, next_wall_time: Callable[[], datetime | None]) -> None:
        self._next_wall_time = next_wall_time

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        at = self._next_wall_time()
        return at if at is None or previous_fire_time is None else max(at, now + PAUSE)
