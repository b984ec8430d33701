"""Protocol of the append-only event store, and its values.

A stream has a name (`book:<run_id>`) and versions that count from 1 without gaps. A position orders all events of the
log; positions rise strictly and may have gaps. Appending the same events at the same versions again succeeds, which
makes retries, restarts and claims safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, Protocol

import msgspec

from engine.core.errors import UnreadableEvent
from engine.core.events import Event

ENGINE_VERSION = "0.2.1"
PAGE = 5_000

# Every append notifies this channel of the database, without a payload: listeners read the log.
CHANNEL = "events"


NO_BYTES: Mapping[str, bytes] = MappingProxyType({})


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Metadata of an event, excluded from digests and comparisons."""

    stream: str
    recorded_at: datetime
    actor: str
    correlation: str
    causation: str
    engine: str


class Cause(NamedTuple):
    """Origin of appended events: user or process, the run or slot they belong to, and the cause."""

    actor: str
    correlation: str = ""
    causation: str = ""


class Batch(NamedTuple):
    """Events to append to one stream after its version `after`."""

    stream: str
    after: int
    events: Sequence[Event]


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """An event with its position in the log."""

    position: int
    stream: str
    version: int
    name: str
    event: Event
    meta: Meta
    payload: bytes


class Store(Protocol):
    """Protocol of an event store; `engine.store.memory` and `engine.store.postgres` implement it."""

    def append(self, batches: Sequence[Batch], cause: Cause) -> None:
        """Append all batches or none; skip events that are stored already.

        Raise `VersionConflict` when a stream has different events at those versions.
        """
        ...

    def read(self, stream: str, after: int = 0) -> Iterator[LogEntry]:
        """Yield the events of a stream in order, from version `after + 1`.

        Raise `EventMissing` for a gap in the versions.
        """
        ...

    def read_many(self, streams: Sequence[str]) -> dict[str, list[LogEntry]]:
        """Return the events of several short streams by stream; streams without events are absent."""
        ...

    def read_all(
        self, after: int = 0, limit: int = PAGE, names: Sequence[str] = (), before: int | None = None
    ) -> list[LogEntry]:
        """Return up to `limit` events with a position above `after` (and below `before`), in order.

        names: only events with these names; all if empty. Raise `UnreadableEvent`, with its position, for the first
        stored event that cannot be loaded.
        """
        ...

    def read_newest(
        self, limit: int, names: Sequence[str] = (), before: int | None = None, having: Mapping[str, bytes] = NO_BYTES
    ) -> list[LogEntry]:
        """Return up to `limit` events with the highest positions (below `before`), newest first.

        names: only events with these names; all if empty. having: by name, bytes that the stored event must contain.
        Raise as `read_all` does.
        """
        ...

    def last_position(self) -> int:
        """Return the highest position; 0 for an empty log."""
        ...


def read_from(store: Store, names: Sequence[str] = (), after: int = 0) -> Iterator[LogEntry]:
    """Yield all events with the given names, page by page."""
    while page := store.read_all(after, PAGE, names):
        yield from page
        after = page[-1].position


def readable_from(store: Store, names: Sequence[str] = (), after: int = 0) -> Iterator[LogEntry]:
    """Yield all events with the given names, page by page, without those that cannot be loaded."""
    while True:
        try:
            page, end = store.read_all(after, PAGE, names), None
        except UnreadableEvent as error:
            page, end = store.read_all(after, PAGE, names, before=error.position), error.position
        yield from page
        if not page and end is None:
            return
        after = page[-1].position if end is None else end
