"""APScheduler as a clock: a function is called when the next slot is due in wall time."""

# The library ships no types; its calls are confined to this module.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from engine.core.errors import QuantagentError


class Ticker:
    """Timer that calls `tick` at every `next_wall_time`; `on_error` receives errors.

    There is one job at a time: a slow tick delays the next and never overlaps it.
    """

    def __init__(
        self,
        tick: Callable[[], None],
        next_wall_time: Callable[[], datetime | None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._tick, self._next_wall_time, self._report_error = tick, next_wall_time, on_error
        # The library's defaults drop a job that is a second late. No job is dropped here, and the schedule is in memory
        # only, because the log records what was done.
        self._scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        self._scheduler.add_listener(self._on_job_event, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def __enter__(self) -> Ticker:
        self._schedule()
        self._scheduler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._scheduler.shutdown(wait=True)

    def _schedule(self) -> None:
        at = self._next_wall_time()
        if at is not None:
            self._scheduler.add_job(self._run, DateTrigger(at))

    def _run(self) -> None:
        self._tick()
        self._schedule()

    def _on_job_event(self, event: JobEvent) -> None:
        error = getattr(event, "exception", None)
        self._report_error(error or QuantagentError("the scheduler dropped a tick: start the daemon again."))
