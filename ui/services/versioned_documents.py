"""What profiles and models have in common in the log: versions under a name, in a stream of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from engine.core.errors import BadInput, NotFound
from engine.core.events import Event, ProfileScope
from engine.store import Batch, Cause, Store

V = TypeVar("V")


def check_name(what: str, name: str) -> None:
    """Raises `BadInput` for a name that cannot be saved under."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
        raise BadInput(f"{what} name {name!r} is not usable: write small letters, digits, - and _, 40 at most.")


def pick_version(what: str, given: str, versions: Sequence[V], without: str = "no versions") -> V | None:
    """The version that `NAME` (the last one) or `NAME@VERSION` means; None for a name that was never saved.

    Raises `NotFound` for a number that there is not.
    """
    name, at, number = given.partition("@")
    if not at:
        return versions[-1] if versions else None
    found = next((version for n, version in enumerate(versions, 1) if str(n) == number), None)
    if found is None:
        has = f"versions 1 to {len(versions)}" if versions else without
        raise NotFound(f"there is no {what} {given!r}: {name} has {has}.")
    return found


def append_events(store: Store, events: Mapping[str, Event], actor: str) -> None:
    """One fact to the end of each stream, all or none."""
    stored = store.read_many(list(events))
    batches = [Batch(stream, len(stored.get(stream, ())), [event]) for stream, event in events.items()]
    store.append(batches, Cause(actor))


def describe_scope(scope: ProfileScope) -> str:
    """Where a default holds."""
    return "globally" if scope == "global" else f"for {scope}"
