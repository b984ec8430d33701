"""Projection of model presets: their versions and activations. Pure except for rereading short streams."""

from __future__ import annotations

from collections.abc import Iterable

from engine.core.events import ModelActivated, ModelSaved
from engine.core.upcasters import event_names
from engine.store import LogEntry, Store
from projections import tables
from projections.profiles import activation_row, version_number
from projections.projection import RowChange
from projections.tables import Row


class Models:
    """Stateless projection: the number of a version is counted in the preset's stream."""

    name = "models"
    consumes = frozenset(event_names([ModelSaved, ModelActivated]))
    streams = frozenset[str]()

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply(self, recorded: LogEntry) -> Iterable[RowChange]:
        match recorded.event:
            case ModelSaved():
                yield tables.MODEL_VERSIONS, self._saved(recorded, recorded.event)
            case ModelActivated():
                yield tables.MODEL_ACTIVATIONS, activation_row(recorded, recorded.event)
            case _:
                pass

    def flush(self) -> Iterable[RowChange]:
        return ()

    def reset(self) -> None: ...

    def _saved(self, recorded: LogEntry, saved: ModelSaved) -> Row:
        return {
            "name": saved.name,
            "version": version_number(self._store, recorded),
            "digest": saved.digest,
            "actor": recorded.meta.actor,
            "saved_at": recorded.meta.recorded_at,
            "document": saved.document,
            "position": recorded.position,
        }
