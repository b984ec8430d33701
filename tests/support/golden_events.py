"""Golden payloads of every stored event."""

from __future__ import annotations

from datetime import UTC, datetime

from engine.store import LogEntry, Meta
from engine.store.codec import decode_entry, encode_state
from tests.support.paths import TESTS

GOLDEN = TESTS / "golden_events"


AT = datetime(2024, 1, 1, tzinfo=UTC)


META = Meta("book:r", AT, "test", "", "", "0.1.0")


def payload(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


def load(name: str, body: bytes, position: int = 1) -> LogEntry:
    """As a store does it."""
    return decode_entry(position, 1, name, encode_state(body, META))
