"""Comparison of two runs: the differences of their requests and results, and the first divergence of their books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, cast

import msgspec

from engine.core.events import OrderFilled, OrderPlaced, OrderRejected, RiskDecided, RunRequested, SignalRaised, Verdict
from engine.runtime.replay import Divergence, engine_version_of, find_divergence
from engine.runtime.runs import book_stream, result_of
from engine.store import LogEntry, Store


class ValueChange(NamedTuple):
    """A field by its path (`config.limits.position_pct`), and its two values as text; None where it is absent."""

    field: str
    ours: str | None
    theirs: str | None


class RunSide(NamedTuple):
    """One of the two runs: its request, engine version, state, and the counts and digest of its book."""

    run: RunRequested
    engine: str
    ended: bool
    counts: dict[str, int]
    book_digest: str


class RunComparison(NamedTuple):
    """Two runs compared.

    difference: the first divergence of their decisions. A different configuration digest in the first event of the book
    is not a divergence, so unequal books may have no difference.
    """

    ours: RunSide
    theirs: RunSide
    request_changes: list[ValueChange]
    difference: Divergence | None

    @property
    def equal(self) -> bool:
        return self.ours.book_digest == self.theirs.book_digest


def compare_runs(store: Store, ours: RunRequested, theirs: RunRequested) -> RunComparison:
    """Compare two runs of a log, finished or not."""
    a, b = _side(store, ours), _side(store, theirs)
    divergence = None if a.book_digest == b.book_digest else _first_divergence(store, ours, theirs)
    return RunComparison(a, b, list(changes(_request_fields(ours), _request_fields(theirs))), divergence)


def _first_divergence(store: Store, ours: RunRequested, theirs: RunRequested) -> Divergence | None:
    def from_version(first: int) -> Divergence | None:
        a, b = (store.read(book_stream(run.run_id), first - 1) for run in (ours, theirs))
        return find_divergence(a, b, first)

    found = from_version(1)
    if found is None or [change.field for change in event_changes(*found[1:])] != ["config_digest"]:
        return found
    return from_version(found.version + 1)


def _side(store: Store, run: RunRequested) -> RunSide:
    digest, counts = BookDigest(), Counter[str](dict.fromkeys(_COUNTED, 0))
    for row in store.read(book_stream(run.run_id)):
        digest.add(row)
        counts.update(_counted_kinds(row))
    ended = result_of(store, run.run_id) is not None
    return RunSide(run, engine_version_of(store, run.run_id), ended, dict(counts), digest.hexdigest())


class BookDigest:
    """Incremental digest of a stored book: SHA-256 over names and payloads, as computed by the session."""

    def __init__(self, rows: Iterable[LogEntry] = ()) -> None:
        self._sha = sha256()
        self.events = 0
        for row in rows:
            self.add(row)

    def add(self, row: LogEntry) -> None:
        self.events += 1
        self._sha.update(b"%s\n%s\n" % (row.name.encode(), row.payload))

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


_COUNTED = ("book events", "signals", "denied", "orders", "fills", "rejected")


def _counted_kinds(row: LogEntry) -> Iterator[str]:
    yield "book events"
    match row.event:
        case SignalRaised():
            yield "signals"
        case RiskDecided(verdict=Verdict.DENIED):
            yield "denied"
        case OrderPlaced():
            yield "orders"
        case OrderFilled():
            yield "fills"
        case OrderRejected():
            yield "rejected"
        case _:
            pass


# Derived from fields that are compared themselves.
_IDENTITY_FIELDS = ("run_id", "config_digest")


def _request_fields(run: RunRequested) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(run)
    config = fields["config"]
    config["instruments"] = {each["symbol"]: each for each in config["instruments"]}
    return {name: value for name, value in fields.items() if name not in _IDENTITY_FIELDS}


def event_changes(ours: LogEntry | None, theirs: LogEntry | None) -> list[ValueChange]:
    """Return the fields in which two events differ; different names of the events come first."""
    sides = [{} if row is None else {"event": row.name, **msgspec.json.decode(row.payload)} for row in (ours, theirs)]
    return list(changes(*sides))


def changes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[ValueChange]:
    """Yield the leaves in which two trees of plain values differ, in order."""
    a, b = dict(_leaves(ours)), dict(_leaves(theirs))
    for field in dict.fromkeys((*a, *b)):
        if a.get(field) != b.get(field):
            yield ValueChange(field, a.get(field), b.get(field))


def _leaves(tree: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield the values of a tree with their paths; list items are named by their index from 0."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(cast("dict[str, Any]", value), f"{within}{name}.")
        elif isinstance(value, list):
            places = {str(place): each for place, each in enumerate(cast("list[Any]", value))}
            yield from _leaves(places, f"{within}{name}.")
        else:
            text = value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
            yield within + name, text
