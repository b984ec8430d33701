"""A capsule's run made again here: its bars and opinions come into this log, and the usual loop drives it anew.

Doing it again changes nothing. No analysis is made: the analyst answers from what the capsule brought, or stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import msgspec

from engine import clock
from engine.audit.capsule import Capsule, describe_damage
from engine.audit.regenerate import dataset_digest
from engine.core.errors import BadInput, VersionConflict
from engine.core.events import Environment, RunEnded, RunRequested
from engine.core.market import Bar
from engine.data import BarCatalogue
from engine.data.signals import ImportedAnalyst, save_signals
from engine.runtime import halts, runs
from engine.runtime.replay import Divergence, StoredAnalyses, find_divergence, intents_at_versions
from engine.runtime.runs import book_stream
from engine.runtime.session import Analyst
from engine.store import ENGINE_VERSION, Batch, Cause, LogEntry, Store

CHUNK = 500
EMPTY_HOME_REMEDY = "Reproduce it in an empty data folder: set QUANTAGENT_HOME to one."

ProgressCallback = Callable[[str, int, int], None]


class ReproductionResult(NamedTuple):
    """A run as the capsule has it, and as it came out here. `difference` is the first in the book, the capsule's event
    being ours."""

    capsule: Capsule
    ended: RunEnded
    difference: Divergence | None

    @property
    def same_engine(self) -> bool:
        return self.capsule.manifest.engine == ENGINE_VERSION

    @property
    def equal(self) -> bool:
        return self.ended == self.capsule.lifecycle.ended


def reproduce_run(
    store: Store,
    catalogue: BarCatalogue,
    dsn: str,
    capsule: Capsule,
    *,
    actor: str,
    lock_digest: str = "",
    on_progress: ProgressCallback = lambda what, done, total: None,
) -> ReproductionResult:
    """Takes a capsule's bars and opinions into this log and catalogue, and drives its run to the end.

    Raises `BadInput` where something else is stored here already: other values of a bar, another opinion on it. Raises
    `BookMoved` or `ReplayDiverged` where the run itself is here and is another one.
    """
    with describe_damage(capsule.path):
        bars = capsule.bars()
    requested = _local_request(store, catalogue, capsule, bars, actor)
    analyst = _import_analyses(store, dsn, capsule, actor, on_progress)
    total = sum(map(len, bars))
    result = runs.execute_run(
        store,
        requested,
        bars,
        analyst,
        actor=actor,
        lock_digest=lock_digest,
        on_progress=lambda done: on_progress("bars", done, total),
        commands=halts.commands_from_book(capsule.book()),
    )
    divergence = None
    if result.ended.book_digest != capsule.manifest.book_digest:
        divergence = find_divergence(capsule.book(), store.read(book_stream(requested.run_id)))
    return ReproductionResult(capsule, result.ended, divergence)


def _local_request(
    store: Store, catalogue: BarCatalogue, capsule: Capsule, bars_by_symbol: Sequence[Sequence[Bar]], actor: str
) -> RunRequested:
    """The run as this log has it or will have it: by when its bars were known is this catalogue's to say."""
    requested, timeframe = capsule.requested, capsule.requested.config.timeframe
    # A paper run was asked before its end was known.
    end = capsule.lifecycle.ended.ended_at if requested.environment is Environment.PAPER else requested.end
    fed, digest = requested.config.data_symbols, capsule.manifest.dataset_digest
    stored = runs.stored_request(store, requested)
    if stored is not requested:
        with suppress(BadInput):
            if dataset_digest(runs.bars_seen(catalogue, store, stored, fed, end), timeframe) == digest:
                return stored
    _import_bars(catalogue, capsule, bars_by_symbol, actor)
    known_at = catalogue.known_at()
    if catalogue.as_known_at(known_at).digest(fed, timeframe, requested.start, end) != digest:
        raise BadInput(f"this catalogue has bars in the run's range that {capsule.path} has not. {EMPTY_HOME_REMEDY}")
    return msgspec.structs.replace(requested, known_at=known_at)


def _import_bars(
    catalogue: BarCatalogue, capsule: Capsule, bars_by_symbol: Sequence[Sequence[Bar]], actor: str
) -> None:
    requested = capsule.requested
    config, source = requested.config, f"capsule of run {requested.run_id}"
    stored_symbols = {each.symbol for each in catalogue.list_series()}
    for instrument in (*config.instruments, *config.rates):
        known = catalogue.instrument(instrument.symbol)
        # Instruments of the first version had no tick: one that is here now is the same instrument.
        if known not in (instrument, msgspec.structs.replace(instrument, tick=instrument.tick or known.tick)):
            if instrument.symbol in stored_symbols:
                raise BadInput(
                    f"{instrument.symbol} is another instrument here than in {capsule.path}. {EMPTY_HOME_REMEDY}"
                )
            catalogue.save_instrument(instrument)
    for symbol, bars in zip(config.data_symbols, bars_by_symbol, strict=True):
        catalogue.add(symbol, config.timeframe, bars, source=source, learned_at=clock.now(), actor=actor)


def _import_analyses(store: Store, dsn: str, capsule: Capsule, actor: str, on_progress: ProgressCallback) -> Analyst:
    """Whoever answers for the analyst: it knows what the run consulted, and makes nothing."""
    requested = capsule.requested
    try:
        with describe_damage(capsule.path):
            file = capsule.signals()
        if file is not None:
            save_signals(store, dsn, file, actor)
            return ImportedAnalyst(file)
        read = list(dict.fromkeys(capsule.consulted()))
        cause, rows = Cause(actor, requested.run_id, f"capsule of log {capsule.manifest.log}"), capsule.analyses()
        done = 0
        while chunk := list(islice(rows, CHUNK)):
            store.append(list(_batches(store, chunk)), cause)
            done += len(chunk)
            on_progress("analyses", done, max(done, len(read)))
    except VersionConflict as error:
        raise BadInput(f"{error.stream} says something else here than in {capsule.path}. {EMPTY_HOME_REMEDY}") from None
    intents = {(intent.symbol, at): intent for at, intent in intents_at_versions(store, read)}
    return StoredAnalyses(intents, requested)


def _batches(store: Store, rows: Sequence[LogEntry]) -> Iterator[Batch]:
    """The facts at the versions they had, stream by stream; those of one stream follow each other.

    What says the same here under a former name of its event is not appended: it would be another payload.
    """
    by_stream: dict[str, list[LogEntry]] = {}
    for row in rows:
        by_stream.setdefault(row.stream, []).append(row)
    stored = store.read_many(list(by_stream))
    for stream, entries in by_stream.items():
        stored_events = {row.version: row.event for row in stored.get(stream, ())}
        missing = [row for row in entries if stored_events.get(row.version) != row.event]
        if missing:
            yield Batch(stream, missing[0].version - 1, [row.event for row in missing])
