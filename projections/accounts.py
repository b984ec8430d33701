"""The books of all runs: accounts, positions, signals, verdicts, orders, fills and trades."""

from __future__ import annotations

from collections.abc import Iterable

from engine.core.events import RunRequested
from engine.store import Recorded, Store
from projections.account import NAMES, history, run_of
from projections.projection import Change
from projections.runs import RunView


class Books:
    """Remembers the runs that have not ended. One that it has not seen from its beginning is read again."""

    name = "books"
    consumes = NAMES
    streams = frozenset({"run", "book"})

    def __init__(self, store: Store) -> None:
        self._store = store
        self._views: dict[str, RunView] = {}
        self._moved: dict[str, RunView] = {}

    def apply(self, recorded: Recorded) -> Iterable[Change]:
        run_id = run_of(recorded)
        if run_id is None:
            return
        view = self._views.get(run_id) or self._begin(run_id, recorded)
        yield from view.apply(recorded)
        self._moved[run_id] = view
        if view.ended:
            del self._views[run_id]

    def _begin(self, run_id: str, recorded: Recorded) -> RunView:
        facts = [] if isinstance(recorded.event, RunRequested) else history(self._store, run_id, recorded.position)
        view = RunView(facts[0] if facts else recorded)
        for fact in facts:
            for _ in view.apply(fact):
                pass
        self._views[run_id] = view
        return view

    def settle(self) -> Iterable[Change]:
        for view in self._moved.values():
            yield from view.account_row()
        self._moved.clear()

    def forget(self) -> None:
        self._views.clear()
        self._moved.clear()
