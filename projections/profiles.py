"""Projection of profiles: their versions and activations. Pure except for rereading short streams."""

from __future__ import annotations

from collections.abc import Iterable

from engine.core.events import ModelActivated, ProfileActivated, ProfileSaved
from engine.core.upcasters import event_names
from engine.store import LogEntry, Store
from projections import tables
from projections.projection import RowChange
from projections.tables import Row


class Profiles:
    """Stateless projection: the number of a version is counted in the profile's stream."""

    name = "profiles"
    consumes = frozenset(event_names([ProfileSaved, ProfileActivated]))
    streams = frozenset[str]()

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply(self, recorded: LogEntry) -> Iterable[RowChange]:
        match recorded.event:
            case ProfileSaved():
                yield tables.PROFILE_VERSIONS, self._saved(recorded, recorded.event)
            case ProfileActivated():
                kind = recorded.event.kind
                yield tables.PROFILE_ACTIVATIONS, {**activation_row(recorded, recorded.event), "kind": kind}
            case _:
                pass

    def flush(self) -> Iterable[RowChange]:
        return ()

    def reset(self) -> None: ...

    def _saved(self, recorded: LogEntry, saved: ProfileSaved) -> Row:
        return {
            "name": saved.name,
            "version": version_number(self._store, recorded),
            "kind": saved.kind,
            "digest": saved.digest,
            "actor": recorded.meta.actor,
            "saved_at": recorded.meta.recorded_at,
            "document": saved.document,
            "position": recorded.position,
        }


def version_number(store: Store, recorded: LogEntry) -> int:
    """Return the ordinal of an event among those of its type in its stream, from 1."""
    before = (row for row in store.read(recorded.stream) if row.version <= recorded.version)
    return sum(type(row.event) is type(recorded.event) for row in before)


def activation_row(recorded: LogEntry, activated: ProfileActivated | ModelActivated) -> Row:
    return {
        "scope": activated.scope,
        # The end of a default names no document; the stream does.
        "name": activated.name or recorded.stream.partition(":")[2],
        "digest": activated.digest or None,
        "at": recorded.meta.recorded_at,
        "actor": recorded.meta.actor,
        "position": recorded.position,
    }
