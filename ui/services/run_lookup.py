"""Runs by the prefix of their id, or `latest`."""

from __future__ import annotations

from collections.abc import Iterator

from engine.core.errors import NotFound
from engine.core.events import Environment, RunRequested
from engine.core.upcasters import event_names
from engine.runtime import runs
from engine.store import read_from
from ui.app import App

DEMO = "demo"
"""Label of the replays that the demo makes; users did not request them as runs of their own."""
LATEST = "latest"


def find_run(app: App, prefix: str) -> RunRequested:
    """Return the run whose id begins with `prefix`; `latest` is the newest run except replays of the demo."""
    if prefix != LATEST:
        return runs.find_run_by_prefix(app.store, prefix)
    wanted = (run for run in _newest_first(app) if (run.environment, run.label) != (Environment.REPLAY, DEMO))
    return next(wanted, None) or runs.latest_run(app.store)


def find_source(app: App, prefix: str) -> RunRequested:
    """Return the run to replay; `latest` is the newest backtest or paper run that has ended."""
    if prefix != LATEST:
        return runs.find_run_by_prefix(app.store, prefix)
    known = list(_newest_first(app)) or [runs.latest_run(app.store)]
    originals = (run for run in known if run.environment is not Environment.REPLAY)
    ended = next((run for run in originals if runs.result_of(app.store, run.run_id)), None)
    if ended is None:
        raise NotFound("no backtest or paper run has ended yet.", "NO_RUN_ENDED")
    return ended


def _newest_first(app: App) -> Iterator[RunRequested]:
    rows = list(read_from(app.store, event_names([RunRequested])))
    return (row.event for row in reversed(rows) if isinstance(row.event, RunRequested))
