"""Projection of the books of all runs: accounts, positions, signals, verdicts, orders, fills and trades."""

from __future__ import annotations

from collections.abc import Iterable

from engine.core.events import RunRequested
from engine.store import LogEntry, Store
from projections.account import CONSUMED_EVENTS, load_run_events, stream_run_id
from projections.projection import RowChange
from projections.runs import RunView


class Books:
    """Projection that keeps unfinished runs in memory; a run not seen from its beginning is read again."""

    name = "books"
    consumes = CONSUMED_EVENTS
    streams = frozenset({"run", "book"})

    def __init__(self, store: Store) -> None:
        self._store = store
        self._views: dict[str, RunView] = {}
        self._changed: dict[str, RunView] = {}

    def apply(self, recorded: LogEntry) -> Iterable[RowChange]:
        run_id = stream_run_id(recorded)
        if run_id is None:
            return
        view = self._views.get(run_id) or self._begin(run_id, recorded)
        yield from view.apply(recorded)
        self._changed[run_id] = view
        if view.ended:
            del self._views[run_id]

    def _begin(self, run_id: str, recorded: LogEntry) -> RunView:
        entries = (
            [] if isinstance(recorded.event, RunRequested) else load_run_events(self._store, run_id, recorded.position)
        )
        view = RunView(entries[0] if entries else recorded)
        for entry in entries:
            for _ in view.apply(entry):
                pass
        self._views[run_id] = view
        return view

    def flush(self) -> Iterable[RowChange]:
        for view in self._changed.values():
            yield from view.account_row()
        self._changed.clear()

    def reset(self) -> None:
        self._views.clear()
        self._changed.clear()
