"""Regeneration of a run in memory from its stored analyses and bars, compared with the log.

Nothing is written. A run that has not ended is compared up to the end of its book.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from engine.audit.compare import BookDigest
from engine.core.errors import AnalysisMissing
from engine.core.events import AnalysesConsulted, Environment, RunRequested, SignalRaised
from engine.core.intents import Intent
from engine.core.market import Bar, Symbol, Timeframe, instant_text
from engine.core.session_ends import Schedule
from engine.data import BarCatalogue
from engine.data.bar_rules import bar_line
from engine.data.signals import VARIANT_PREFIX, ImportedAnalyst, SignalFile
from engine.data.timeline import time_slices
from engine.runtime.replay import (
    AnalysisVersion,
    Divergence,
    commands_of_run,
    engine_version_of,
    find_divergence,
    intents_at_versions,
)
from engine.runtime.runs import bars_seen, book_stream, commands_by_instant, result_of, schedule_of
from engine.runtime.session import Analyst, Journal, Session
from engine.store import ENGINE_VERSION, Cause, LogEntry, Store
from engine.store.memory import MemoryStore
from engine.trading.circuit_breakers import Command


class DigestPair(NamedTuple):
    """A digest as stored in the log (empty if the log has none) and as regenerated."""

    stored: str
    regenerated: str

    @property
    def equal(self) -> bool:
        return self.stored in ("", self.regenerated)


class RegenerationResult(NamedTuple):
    """Result of regenerating a run.

    engine_recorded: the engine version that started the run; bars, events: the numbers processed and compared; ended:
    True if the run has ended and its whole book was compared; bars_recorded: its number of bars at the end, else None;
    book_at_end: the digest of the book in the run's last event, empty for a run that has not ended; difference: the
    first divergence of the book, `ours` being the stored event.
    """

    run: RunRequested
    engine_recorded: str
    bars: int
    bars_recorded: int | None
    events: int
    ended: bool
    dataset: DigestPair
    analyses: DigestPair
    book: DigestPair
    book_at_end: str
    difference: Divergence | None

    @property
    def same_engine(self) -> bool:
        return self.engine_recorded == ENGINE_VERSION

    @property
    def equal(self) -> bool:
        """True if everything the log holds of the run was reproduced."""
        pairs = self.dataset.equal and self.analyses.equal and self.book.equal
        return pairs and self.difference is None and self.book_at_end in ("", self.book.stored)


def regenerate_run(
    store: Store,
    bars_by_symbol: Sequence[Sequence[Bar]],
    analyst: Analyst,
    run: RunRequested,
    progress: Callable[[int], None] = lambda bars: None,
) -> RegenerationResult:
    """Repeat a run's session over its bars (`run_bars`) and stored analyses (`stored_analyst`).

    progress: called with the number of bars processed. Raise `AnalysisMissing` for an analysis that is not stored.
    """
    stream = book_stream(run.run_id)
    result = result_of(store, run.run_id)
    ended = None if result is None else result.ended
    stored = BookDigest(store.read(stream))
    event_limit = None if ended else stored.events
    schedule = schedule_of(store, run)
    entries, session = _drive(
        run, schedule, bars_by_symbol, analyst, commands_of_run(store, run), event_limit, progress
    )
    compared = entries if ended else entries[: stored.events]
    book = DigestPair(stored.hexdigest(), BookDigest(compared).hexdigest())
    return RegenerationResult(
        run=run,
        engine_recorded=engine_version_of(store, run.run_id),
        bars=session.bars,
        bars_recorded=ended.bars if ended else None,
        events=stored.events,
        ended=ended is not None,
        dataset=DigestPair(_stored_dataset_digest(run), dataset_digest(bars_by_symbol, run.config.timeframe)),
        analyses=DigestPair(ended.analyses_digest if ended else "", session.analyses_digest),
        book=book,
        book_at_end=ended.book_digest if ended else "",
        difference=None if book.equal else find_divergence(store.read(stream), compared),
    )


def _drive(
    run: RunRequested,
    schedule: Schedule,
    bars_by_symbol: Sequence[Sequence[Bar]],
    analyst: Analyst,
    commands: Sequence[Command],
    event_limit: int | None,
    progress: Callable[[int], None],
) -> tuple[list[LogEntry], Session]:
    """Regenerate the book, to its end or until it has `event_limit` events."""
    memory, stream = MemoryStore(), book_stream(run.run_id)
    journal = Journal(memory, stream, Cause("regenerate"))
    session = Session(run.config, run.config_digest, analyst, journal, schedule=schedule)
    commands_at = commands_by_instant(commands)
    for time_slice in time_slices(bars_by_symbol):
        if event_limit is not None and journal.version >= event_limit:
            break
        session.advance(time_slice, commands_at.get(time_slice.at, ()))
        progress(session.bars)
        if session.ended:
            break
    session.end()
    return list(memory.read(stream)), session


def dataset_digest(bars_by_symbol: Sequence[Sequence[Bar]], timeframe: Timeframe) -> str:
    """Return the digest that the catalogue gives to a dataset of these bars."""
    sha = sha256()
    for bars in bars_by_symbol:
        for bar in bars:
            sha.update(bar_line(bar, timeframe).encode())
    return sha.hexdigest()


def _stored_dataset_digest(run: RunRequested) -> str:
    """Return the digest of a run's dataset; empty for a paper run, which starts before its bars are known."""
    return "" if run.environment is Environment.PAPER else run.dataset_digest


# --- Inputs of a run ----------------------------------------------------------------------------------------------


def run_bars(catalogue: BarCatalogue, store: Store, run: RunRequested) -> list[list[Bar]]:
    """Return the bars of a run, as it saw them. Raise `BadInput` for a symbol that has none left.

    The request of a paper run has no known end: it gets the bars up to its last slot or, while it is running, all.
    """
    end: datetime | None = run.end
    if run.environment is Environment.PAPER:
        result = result_of(store, run.run_id)
        end = result.ended.ended_at if result else None
    return bars_seen(catalogue, store, run, run.config.data_symbols, end)


def stored_analyst(
    store: Store,
    run: RunRequested,
    load_file: Callable[[str], SignalFile],
    progress: Callable[[int], None] = lambda done: None,
) -> Analyst:
    """Return an analyst that gives only the analyses that a run consulted.

    load_file: returns an imported file by its variant; progress: called with the number of analyses loaded. Raise
    `AnalysisMissing` for the first analysis that is not stored.
    """
    if run.variant.startswith(VARIANT_PREFIX):
        return ImportedAnalyst(load_file(run.variant))
    read, complete_until = _consulted_analyses(store, run)
    intents: dict[tuple[Symbol, datetime], Intent] = {}
    for at, intent in intents_at_versions(store, read):
        intents[intent.symbol, at] = intent
        progress(len(intents))
    return _StoredIntents(run, intents, complete_until)


def _consulted_analyses(store: Store, run: RunRequested) -> tuple[list[AnalysisVersion], datetime | None]:
    """Return the analyses that a book names, and the instant up to which it names all of them.

    A book lists all analyses once per session day, and names others in the signals they led to. An analysis consulted
    since the latest roll that led to no signal is not in the book yet; leaving it out gives the same decisions.
    """
    read: dict[AnalysisVersion, None] = {}
    until = None
    for row in store.read(book_stream(run.run_id)):
        match row.event:
            case AnalysesConsulted(at=at, analyses=analyses):
                read.update(dict.fromkeys(analyses))
                until = at
            case SignalRaised(analysis_id=analysis_id, analysis_version=version) if analysis_id:
                read[analysis_id, version] = None
            case _:
                pass
    return list(read), until


class _StoredIntents:
    """An analyst that returns stored analyses and makes none."""

    def __init__(
        self, run: RunRequested, intents: dict[tuple[Symbol, datetime], Intent], complete_until: datetime | None
    ) -> None:
        self._run, self._intents, self._complete_until = run, intents, complete_until

    def intent(self, bar: Bar) -> Intent | None:
        found = self._intents.get((bar.symbol, bar.closed_at))
        if found is None and self._complete_until is not None and bar.closed_at < self._complete_until:
            run = self._run
            raise AnalysisMissing(f"{bar.symbol}.{run.config.timeframe}@{instant_text(bar.closed_at)}.{run.variant}")
        return found
