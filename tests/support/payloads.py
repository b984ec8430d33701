"""The stored payloads of a book."""

from __future__ import annotations

from engine.store import Store


def payloads(store: Store) -> list[tuple[str, int, str, bytes]]:
    return [(row.stream, row.version, row.name, row.payload) for row in store.read_all(limit=100_000)]
