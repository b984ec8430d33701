"""Event store in memory, for tests and for runs that are not stored. Not thread-safe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from engine import clock
from engine.core.errors import VersionConflict
from engine.store import ENGINE_VERSION, NO_BYTES, PAGE, Batch, Cause, LogEntry, Meta
from engine.store.codec import decode_entry, encode_payload, encode_state, stored_name


class MemoryStore:
    """Event store in memory. Rows are kept as bytes, so that reads use the codec as in PostgreSQL."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, bytes]] = []
        self._streams: dict[str, list[int]] = {}

    def append(self, batches: Sequence[Batch], cause: Cause) -> None:
        missing = [self._missing(batch) for batch in batches]
        at = clock.now()
        for stream, after, events in missing:
            if not events:
                continue
            meta = Meta(stream, at, cause.actor, cause.correlation, cause.causation, ENGINE_VERSION)
            places = self._streams.setdefault(stream, [])
            for version, event in enumerate(events, after + 1):
                places.append(len(self._rows))
                self._rows.append((version, stored_name(event), encode_state(encode_payload(event), meta)))

    def _missing(self, batch: Batch) -> Batch:
        """Return the rest of a batch, without the events that its stream already has at those versions."""
        places = self._streams.get(batch.stream, [])
        stored = [(row.name, row.payload) for row in map(self._at, places[batch.after :])]
        count = len(stored)
        wanted = [(stored_name(event), encode_payload(event)) for event in batch.events]
        if len(places) < batch.after or stored[: len(wanted)] != wanted[:count]:
            raise VersionConflict(batch.stream, batch.after, len(places))
        return Batch(batch.stream, batch.after + count, batch.events[count:])

    def _at(self, place: int) -> LogEntry:
        return decode_entry(place + 1, *self._rows[place])

    def read(self, stream: str, after: int = 0) -> Iterator[LogEntry]:
        for place in self._streams.get(stream, [])[after:]:
            yield self._at(place)

    def read_many(self, streams: Sequence[str]) -> dict[str, list[LogEntry]]:
        return {stream: list(self.read(stream)) for stream in streams if stream in self._streams}

    def read_all(
        self, after: int = 0, limit: int = PAGE, names: Sequence[str] = (), before: int | None = None
    ) -> list[LogEntry]:
        found: list[LogEntry] = []
        end = len(self._rows) if before is None else min(before - 1, len(self._rows))
        for place in range(after, end):
            if not names or self._rows[place][1] in names:
                found.append(self._at(place))
                if len(found) == limit:
                    break
        return found

    def read_newest(
        self, limit: int, names: Sequence[str] = (), before: int | None = None, having: Mapping[str, bytes] = NO_BYTES
    ) -> list[LogEntry]:
        end = len(self._rows) if before is None else min(before - 1, len(self._rows))
        wanted = (
            place
            for place in range(end - 1, -1, -1)
            if (not names or self._rows[place][1] in names)
            and having.get(self._rows[place][1], b"") in self._rows[place][2]
        )
        return [self._at(place) for place in islice(wanted, limit)]

    def last_position(self) -> int:
        return len(self._rows)
