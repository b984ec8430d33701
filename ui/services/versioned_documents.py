"""Versioned documents in the log: profiles and model presets share this service.

The stream `KIND:NAME` holds every saved version and every activation of a document. An activation names one version
as the default of a scope; saving another version changes no default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from engine.core.errors import BadInput, NotFound
from engine.core.events import (
    Environment,
    Event,
    ModelActivated,
    ModelSaved,
    ProfileActivated,
    ProfileSaved,
    ProfileScope,
)
from engine.core.upcasters import event_names
from engine.store import Batch, Cause, Store, read_from

SavedT = TypeVar("SavedT", ProfileSaved, ModelSaved)
ActivatedT = TypeVar("ActivatedT", ProfileActivated, ModelActivated)


class DocumentVersion(NamedTuple, Generic[SavedT]):
    """A saved version of a document, counted from 1, with the time and the actor of its saving."""

    number: int
    saved: SavedT
    at: datetime
    actor: str


class Default(NamedTuple):
    """The default of a scope for one part of the documents; `digest` names the version."""

    scope: ProfileScope
    part: str
    name: str
    digest: str
    at: datetime
    actor: str


class VersionedDocuments(Generic[SavedT, ActivatedT]):
    """Versions and defaults of one kind of document.

    kind: its name in streams and messages; parts_of: the parts of a document that an activation covers, each of which
    has a default of its own.
    """

    def __init__(
        self,
        kind: str,
        saved: type[SavedT],
        activated: type[ActivatedT],
        parts_of: Callable[[ActivatedT], Sequence[str]] = lambda activated: ("",),
    ) -> None:
        self.kind, self._saved, self._activated, self._parts_of = kind, saved, activated, parts_of

    # --- Reading ---

    def versions(self, store: Store) -> dict[str, list[DocumentVersion[SavedT]]]:
        """Return the saved versions of every document by name, oldest first."""
        found: dict[str, list[DocumentVersion[SavedT]]] = {}
        for row in read_from(store, event_names([self._saved])):
            if isinstance(row.event, self._saved):
                saved = found.setdefault(row.event.name, [])
                saved.append(DocumentVersion(len(saved) + 1, row.event, row.meta.recorded_at, row.meta.actor))
        return found

    def defaults(self, store: Store) -> dict[tuple[ProfileScope, str], Default]:
        """Return the present defaults by scope and part."""
        found: dict[tuple[ProfileScope, str], Default] = {}
        for row in read_from(store, event_names([self._activated])):
            if not isinstance(row.event, self._activated):
                continue
            event = row.event
            for part in self._parts_of(event):
                found.pop((event.scope, part), None)
                if event.name:
                    found[event.scope, part] = Default(
                        event.scope, part, event.name, event.digest, row.meta.recorded_at, row.meta.actor
                    )
        return found

    def default_for(self, store: Store, environment: Environment | None, part: str = "") -> Default | None:
        """Return the default of an environment, else the global one; None where neither is set."""
        defaults = self.defaults(store)
        return next((defaults[scope, part] for scope in scopes_of(environment) if (scope, part) in defaults), None)

    def active_version(self, store: Store, default: Default) -> tuple[DocumentVersion[SavedT] | None, str]:
        """Return the version that a default names, None for one that was never saved, and a note if it is not the
        latest."""
        saved = self.versions(store).get(default.name, [])
        version = next((each for each in reversed(saved) if each.saved.digest == default.digest), None)
        if version is None or version is saved[-1]:
            return version, ""
        return version, f", version {version.number} of {len(saved)}"

    def pick_version(
        self, given: str, versions: Sequence[DocumentVersion[SavedT]], without: str = "no versions"
    ) -> DocumentVersion[SavedT] | None:
        """Return the version that `NAME` (the latest) or `NAME@VERSION` names; None for a name never saved.

        Raise `NotFound` for a number that does not exist.
        """
        name, at, number = given.partition("@")
        if not at:
            return versions[-1] if versions else None
        found = next((version for n, version in enumerate(versions, 1) if str(n) == number), None)
        if found is None:
            has = f"versions 1 to {len(versions)}" if versions else without
            raise NotFound(f"{self.kind} {given!r} does not exist: {name} has {has}.")
        return found

    # --- Writing ---

    def append(self, store: Store, events: Mapping[str, Event], actor: str) -> None:
        """Append one event to the stream of each named document, all or none."""
        streams = {f"{self.kind}:{name}": event for name, event in events.items()}
        stored = store.read_many(list(streams))
        batches = [Batch(stream, len(stored.get(stream, ())), [event]) for stream, event in streams.items()]
        store.append(batches, Cause(actor))

    def save(self, store: Store, event: SavedT, latest_text: str | None, actor: str) -> DocumentVersion[SavedT]:
        """Append a version unless its text equals the latest one's; return the latest version."""
        if latest_text != event.document:
            self.append(store, {event.name: event}, actor)
        return self.versions(store)[event.name][-1]

    def activate(self, store: Store, event: ActivatedT, actor: str) -> ActivatedT:
        """Append an activation unless it changes no default; return it."""
        current = self.defaults(store)
        covered = [current.get((event.scope, part)) for part in self._parts_of(event)]
        if any(each is None or (each.name, each.digest) != (event.name, event.digest) for each in covered):
            self.append(store, {event.name: event}, actor)
        return event

    def check_name(self, name: str) -> None:
        """Raise `BadInput` for a name that a document cannot be saved under."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
            raise BadInput(
                f"{self.kind} name {name!r} is not usable: write small letters, digits, - and _, 40 at most."
            )


def scopes_of(environment: Environment | None) -> tuple[ProfileScope, ...]:
    """Return the scopes whose defaults hold in an environment, the narrowest first."""
    if environment is None:
        return ("global",)
    return ("paper" if environment is Environment.PAPER else "backtest", "global")


def describe_scope(scope: ProfileScope) -> str:
    """Return the scope of a default as a phrase."""
    return "globally" if scope == "global" else f"for {scope}"
