"""Projection of the list of runs: request, status and digests, from the run's own stream alone.

A book that cannot be read does not affect the run's row here.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.core.events import RunEnded, RunFailed, RunRequested, RunStarted
from engine.core.upcasters import event_names
from engine.runtime.runs import run_stream
from engine.store import LogEntry, Store
from projections import tables
from projections.account import stream_run_id
from projections.projection import RowChange
from projections.tables import Row


class Runs:
    """Projection that keeps the rows of unfinished runs; a run not seen from its beginning is read again."""

    name = "runs"
    consumes = frozenset(event_names([RunRequested, RunStarted, RunEnded, RunFailed]))
    streams = frozenset({"run"})

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[str, Row] = {}

    def apply(self, recorded: LogEntry) -> Iterable[RowChange]:
        event, run_id = recorded.event, stream_run_id(recorded)
        if run_id is None or not isinstance(event, RunRequested | RunStarted | RunEnded | RunFailed):
            return
        if isinstance(event, RunRequested):
            row = _requested_row(recorded, event)
        else:
            row = {**self._row_before(run_id, recorded.version), **_progress(event)}
        yield tables.RUNS, row
        if isinstance(event, RunEnded | RunFailed):
            self._rows.pop(run_id, None)
        else:
            self._rows[run_id] = row

    def flush(self) -> Iterable[RowChange]:
        return ()

    def reset(self) -> None:
        self._rows.clear()

    def _row_before(self, run_id: str, version: int) -> Row:
        if run_id in self._rows:
            return self._rows[run_id]
        row: Row = {}
        for recorded in self._store.read(run_stream(run_id)):
            if recorded.version >= version:
                break
            if isinstance(recorded.event, RunRequested):
                row = _requested_row(recorded, recorded.event)
            elif isinstance(recorded.event, RunStarted | RunEnded | RunFailed):
                row = {**row, **_progress(recorded.event)}
        return row


def _requested_row(recorded: LogEntry, request: RunRequested) -> Row:
    return {
        **dict.fromkeys(tables.RUNS.names),
        "environment": request.environment.value,
        "run_id": request.run_id,
        "profile": request.profile,
        "variant": request.variant,
        "symbols": ",".join(request.config.symbols),
        "timeframe": request.config.timeframe.value,
        "start_at": request.start,
        "end_at": request.end,
        "label": request.label,
        "of_run": request.of_run or None,
        "currency": request.config.currency,
        "starting_cash": request.config.cash,
        "status": "requested",
        "config_digest": request.config_digest,
        "dataset_digest": request.dataset_digest,
        "requested_at": recorded.meta.recorded_at,
    }


def _progress(event: RunStarted | RunEnded | RunFailed) -> Row:
    match event:
        case RunStarted():
            return {"status": "running", "engine_version": event.engine_version}
        case RunFailed():
            return {"status": "failed", "reason": event.reason}
        case RunEnded():
            return {
                "status": "ended",
                "bars": event.bars,
                "signals": event.signals,
                "orders": event.orders,
                "fills": event.fills,
                "book_events": event.book_events,
                "book_digest": event.book_digest,
                "analyses_digest": event.analyses_digest,
                "reason": event.reason or None,
            }
