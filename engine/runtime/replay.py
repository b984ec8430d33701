"""Replay of a run from the log: its consulted analyses and operator commands. Also compares two books.

A replay creates no analyses: a missing one stops it with an error that names the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple

from engine.core.errors import AnalysisMissing, BadInput
from engine.core.events import AnalysesConsulted, AnalysisOutcome, Environment, RunRequested, RunStarted
from engine.core.ids import analysis_stream
from engine.core.intents import Intent, intent_of
from engine.core.market import Bar, Symbol, instant_text
from engine.data.signals import VARIANT_PREFIX, ImportedAnalyst, SignalFile
from engine.runtime import halts
from engine.runtime.runs import book_stream, result_of, run_stream
from engine.store import LogEntry, Store
from engine.trading.circuit_breakers import Command

AnalysisVersion = tuple[str, int]
"""An analysis id and the version of its stream that was read."""


class StoredAnalyses:
    """Analyst that returns the analyses a run consulted. Raises `AnalysisMissing` for a missing one."""

    def __init__(self, intents: dict[tuple[Symbol, datetime], Intent], source: RunRequested) -> None:
        self._intents = intents
        self._variant, self._timeframe = source.variant, source.config.timeframe
        # Imported signals may skip bars; any other variant has an analysis of every bar.
        self._complete = not source.variant.startswith(VARIANT_PREFIX)

    def intent(self, bar: Bar) -> Intent | None:
        intent = self._intents.get((bar.symbol, bar.closed_at))
        if intent is None and self._complete:
            raise AnalysisMissing(f"{bar.symbol}.{self._timeframe}@{instant_text(bar.closed_at)}.{self._variant}")
        return intent


def consulted_analyses(store: Store, run_id: str) -> Iterator[AnalysisVersion]:
    """Yield the analyses that a run read, each with the version it read, in order."""
    for row in store.read(book_stream(run_id)):
        if isinstance(row.event, AnalysesConsulted):
            yield from row.event.analyses


def consulted_intents(
    store: Store, source: RunRequested, load_file: Callable[[str], SignalFile]
) -> Iterator[tuple[datetime, Intent]]:
    """Yield (instant, intent) of every analysis that a run consulted, in order.

    `load_file` loads an imported file by its variant. Raise `AnalysisMissing` for the first that is not stored.
    """
    read = list(consulted_analyses(store, source.run_id))
    if source.variant.startswith(VARIANT_PREFIX):
        imported = ImportedAnalyst(load_file(source.variant)).by_id()
        yield from (imported[analysis_id] for analysis_id, _ in read)
    else:
        yield from intents_at_versions(store, read)


def intents_at_versions(store: Store, read: Sequence[AnalysisVersion]) -> Iterator[tuple[datetime, Intent]]:
    """Yield (instant, intent) of stored analyses at the given versions, in order.

    Later versions are ignored: an analysis that had failed when it was read stays a HOLD. Raise `AnalysisMissing` for
    the first that is not stored.
    """
    for start in range(0, len(read), 500):
        chunk = read[start : start + 500]
        entries = store.read_many([analysis_stream(analysis_id) for analysis_id, _ in chunk])
        for analysis_id, version in chunk:
            rows = entries.get(analysis_stream(analysis_id), [])
            outcome = next((row.event for row in rows if row.version == version), None)
            if not isinstance(outcome, AnalysisOutcome):
                raise AnalysisMissing(analysis_id)
            yield outcome.as_of, intent_of(outcome, version)


def load_stored_analyses(
    store: Store,
    source: RunRequested,
    load_file: Callable[[str], SignalFile],
    on_progress: Callable[[int], None] = lambda done: None,
) -> StoredAnalyses:
    """Return the analyst of a replay: exactly the analyses that its source run consulted."""
    intents: dict[tuple[Symbol, datetime], Intent] = {}
    for at, intent in consulted_intents(store, source, load_file):
        intents[intent.symbol, at] = intent
        on_progress(len(intents))
    return StoredAnalyses(intents, source)


def commands_of_run(store: Store, source: RunRequested) -> list[Command]:
    """Return the operator commands of a run, each at the instant of effect. A backtest has none."""
    if source.environment is Environment.BACKTEST:
        return []
    return halts.commands_from_book(store.read(book_stream(source.run_id)))


class Divergence(NamedTuple):
    """First difference between two books: the version and both entries; None where a book has ended."""

    version: int
    ours: LogEntry | None
    theirs: LogEntry | None


def find_divergence(ours: Iterable[LogEntry], theirs: Iterable[LogEntry], first: int = 1) -> Divergence | None:
    """Return the first difference between two books read from version `first`; None if they are equal."""
    for version, (a, b) in enumerate(zip_longest(ours, theirs), first):
        if a is None or b is None or (a.name, a.payload) != (b.name, b.payload):
            return Divergence(version, a, b)
    return None


def describe_divergence(store: Store, ours: RunRequested, theirs: RunRequested) -> str | None:
    """Describe the first difference between two runs' books, or between their engine versions; None if equal."""
    versions = [engine_version_of(store, run.run_id) for run in (ours, theirs)]
    if versions[0] != versions[1]:
        return f"engine versions differ: {versions[0]} against {versions[1]}"
    divergence = find_divergence(store.read(book_stream(ours.run_id)), store.read(book_stream(theirs.run_id)))
    if divergence is None:
        return None
    return (
        f"books diverge at version {divergence.version}: {_describe_entry(divergence.ours)} against "
        f"{_describe_entry(divergence.theirs)}"
    )


def engine_version_of(store: Store, run_id: str) -> str:
    """Return the engine version that started a run."""
    started = (row.event for row in store.read(run_stream(run_id)))
    return next((event.engine_version for event in started if isinstance(event, RunStarted)), "unknown")


def _describe_entry(row: LogEntry | None) -> str:
    return "nothing" if row is None else f"{row.name} {row.payload.decode()}"


def check_replayable(store: Store, source: RunRequested, dataset_digest: str) -> None:
    """Raise `BadInput` if a run has not ended or, except for a paper run, if its bars have changed."""
    if result_of(store, source.run_id) is None:
        raise BadInput(f"run {source.run_id[:8]} has not ended: complete the run first, then replay it.")
    if source.environment is not Environment.PAPER and source.dataset_digest != dataset_digest:
        raise BadInput(
            f"the bars of run {source.run_id[:8]} have changed since it ran (dataset {source.dataset_digest[:12]}, "
            f"now {dataset_digest[:12]}): import the same files again before replaying it."
        )
