"""Reproduction of a capsule's run: its bars and analyses are imported, and the usual loop runs it again.

Repeating it changes nothing. No analysis is made: the analyst returns those of the capsule, or fails.
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
EMPTY_HOME_REMEDY = "Reproduce it in an empty data folder, set with QUANTAGENT_HOME."

ProgressCallback = Callable[[str, int, int], None]


class ReproductionResult(NamedTuple):
    """A run in the capsule and its reproduction. difference: the first divergence of the book, `ours` being the event
    in the capsule."""

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
    """Import a capsule's bars and analyses into this log and catalogue, and execute its run to the end.

    Raise `BadInput` if different bars or analyses are stored here already, and `VersionConflict` or `ReplayDiverged` if
    the run itself is stored here with different events.
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
    """Return the request as stored in this log, or the capsule's with `known_at` of this catalogue."""
    requested, timeframe = capsule.requested, capsule.requested.config.timeframe
    # The request of a paper run has no known end.
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
        raise BadInput(
            f"this catalogue has bars in the run's range that are not in {capsule.path}. {EMPTY_HOME_REMEDY}"
        )
    return msgspec.structs.replace(requested, known_at=known_at)


def _import_bars(
    catalogue: BarCatalogue, capsule: Capsule, bars_by_symbol: Sequence[Sequence[Bar]], actor: str
) -> None:
    requested = capsule.requested
    config, source = requested.config, f"capsule of run {requested.run_id}"
    stored_symbols = {each.symbol for each in catalogue.list_series()}
    for instrument in (*config.instruments, *config.rates):
        known = catalogue.instrument(instrument.symbol)
        # Instruments of the first version had no tick, so one with a tick may be the same instrument.
        if known not in (instrument, msgspec.structs.replace(instrument, tick=instrument.tick or known.tick)):
            if instrument.symbol in stored_symbols:
                raise BadInput(
                    f"the instrument {instrument.symbol} stored here differs from the one in {capsule.path}. "
                    f"{EMPTY_HOME_REMEDY}"
                )
            catalogue.save_instrument(instrument)
    for symbol, bars in zip(config.data_symbols, bars_by_symbol, strict=True):
        catalogue.add(symbol, config.timeframe, bars, source=source, learned_at=clock.now(), actor=actor)


def _import_analyses(store: Store, dsn: str, capsule: Capsule, actor: str, on_progress: ProgressCallback) -> Analyst:
    """Import the analyses that the run consulted, and return an analyst that gives only those."""
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
        raise BadInput(f"{error.stream} differs here from the one in {capsule.path}. {EMPTY_HOME_REMEDY}") from None
    intents = {(intent.symbol, at): intent for at, intent in intents_at_versions(store, read)}
    return StoredAnalyses(intents, requested)


def _batches(store: Store, rows: Sequence[LogEntry]) -> Iterator[Batch]:
    """Yield the events at their versions, stream by stream; those of one stream are consecutive.

    An event that is stored here under a former name with the same content is not appended, because its payload differs.
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
