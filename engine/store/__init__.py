"""The log: append facts to streams, read them back by stream or by position. The protocol and its few values.

A stream is a name (`book:<run_id>`); its versions count from 1 without gaps. A position orders all events of the log,
strictly rising, gaps allowed. Appending the same facts at the same versions again is success: that one rule makes
retries, restarts and claims safe.
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

# Every append notifies this channel of the database, with nothing in it: what was appended is read from the log.
CHANNEL = "events"


NO_BYTES: Mapping[str, bytes] = MappingProxyType({})


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What explains an event but is no part of it: outside digests and comparisons."""

    stream: str
    recorded_at: datetime
    actor: str
    correlation: str
    causation: str
    engine: str


class Cause(NamedTuple):
    """On whose behalf facts are appended: person or process, the run or slot they belong to, what led to them."""

    actor: str
    correlation: str = ""
    causation: str = ""


class Batch(NamedTuple):
    """Facts to append to one stream after its version `after`."""

    stream: str
    after: int
    events: Sequence[Event]


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """One fact at its place in the log."""

    position: int
    stream: str
    version: int
    name: str
    event: Event
    meta: Meta
    payload: bytes


class Store(Protocol):
    """What the engine needs of a log. `engine.store.memory` and `engine.store.postgres` keep the same contract."""

    def append(self, batches: Sequence[Batch], cause: Cause) -> None:
        """Appends all batches or none; what is stored already is skipped.

        Raises `BookMoved` when a stream already has other facts at those versions.
        """
        ...

    def read(self, stream: str, after: int = 0) -> Iterator[LogEntry]:
        """The facts of a stream in order, from version `after + 1`. Raises `EventMissing` where a version lacks."""
        ...

    def read_many(self, streams: Sequence[str]) -> dict[str, list[LogEntry]]:
        """The facts of several short streams at once; streams without facts are absent."""
        ...

    def read_all(
        self, after: int = 0, limit: int = PAGE, names: Sequence[str] = (), before: int | None = None
    ) -> list[LogEntry]:
        """Up to `limit` facts with a position above `after` (and below `before`), in order, of some names or of all.

        Raises `UnreadableEvent`, with its position, at the first stored event that cannot be loaded.
        """
        ...

    def read_newest(
        self, limit: int, names: Sequence[str] = (), before: int | None = None, having: Mapping[str, bytes] = NO_BYTES
    ) -> list[LogEntry]:
        """Up to `limit` facts with the highest positions (below `before`), newest first, of some names or of all.

        having: of a name only the facts whose stored bytes contain these. Raises as `read_all` does.
        """
        ...

    def last_position(self) -> int:
        """The highest position; 0 when the log is empty."""
        ...


def read_from(store: Store, names: Sequence[str] = (), after: int = 0) -> Iterator[LogEntry]:
    """All facts of the given names, page by page."""
    while page := store.read_all(after, PAGE, names):
        yield from page
        after = page[-1].position


def readable_from(store: Store, names: Sequence[str] = (), after: int = 0) -> Iterator[LogEntry]:
    """All facts of the given names, page by page, without those that cannot be loaded."""
    while True:
        try:
            page, end = store.read_all(after, PAGE, names), None
        except UnreadableEvent as error:
            page, end = store.read_all(after, PAGE, names, before=error.position), error.position
        yield from page
        if not page and end is None:
            return
        after = page[-1].position if end is None else end
