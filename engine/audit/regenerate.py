"""A run done again from its stored opinions and bars, in memory, and compared with what the log holds of it.

Writes nothing. A run that has not ended is compared as far as its book goes.
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
    """One digest twice: as the log has it, empty where it does not say, and as it comes out now."""

    stored: str
    regenerated: str

    @property
    def equal(self) -> bool:
        return self.stored in ("", self.regenerated)


class RegenerationResult(NamedTuple):
    """A run and its second making.

    engine_recorded: the version that began the run; bars and events: how many were taken and compared; ended: whether
    the run had ended, so that its whole book is compared; bars_recorded: how many it had then; book_at_end: the book's
    digest as the run's last fact gives it, empty for a run without one; difference: the first in the book, the stored
    event being ours.
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
        """Whether everything that the log says of the run came out again."""
        pairs = self.dataset.equal and self.analyses.equal and self.book.equal
        return pairs and self.difference is None and self.book_at_end in ("", self.book.stored)


def regenerate_run(
    store: Store,
    bars_by_symbol: Sequence[Sequence[Bar]],
    analyst: Analyst,
    run: RunRequested,
    progress: Callable[[int], None] = lambda bars: None,
) -> RegenerationResult:
    """Drives a run's session over its bars (`bars_of`) and stored opinions (`opinions_of`) once more.

    `progress` hears how many bars have been taken. Raises `AnalysisMissing` where an opinion is not stored.
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
    """The book made anew, to its end or until it has `enough` events."""
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
    """The name of a dataset, as the catalogue gives it to the same bars."""
    sha = sha256()
    for bars in bars_by_symbol:
        for bar in bars:
            sha.update(bar_line(bar, timeframe).encode())
    return sha.hexdigest()


def _stored_dataset_digest(run: RunRequested) -> str:
    """A paper run is named before its bars are known."""
    return "" if run.environment is Environment.PAPER else run.dataset_digest


# --- What a run was made from -------------------------------------------------------------------------------------


def run_bars(catalogue: BarCatalogue, store: Store, run: RunRequested) -> list[list[Bar]]:
    """The bars of a run, as it saw them. Raises `BadInput` where a symbol has none any more.

    A paper run was asked before its end was known: it has the bars up to its last slot or, while it goes on, all.
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
    """The analyst of a run made again: what it consulted, and no other. `load_file` finds an imported file by its
    variant. Raises `AnalysisMissing` for the first opinion that is not stored."""
    if run.variant.startswith(VARIANT_PREFIX):
        return ImportedAnalyst(load_file(run.variant))
    read, complete_until = _consulted_analyses(store, run)
    intents: dict[tuple[Symbol, datetime], Intent] = {}
    for at, intent in intents_at_versions(store, read):
        intents[intent.symbol, at] = intent
        progress(len(intents))
    return _StoredIntents(run, intents, complete_until)


def _consulted_analyses(store: Store, run: RunRequested) -> tuple[list[AnalysisVersion], datetime | None]:
    """The opinions that a book names, and until when it names all.

    It names all once a session day, and the others where they led to a signal: what a book consulted since its latest
    roll, and took for no reason to act, is not in it yet. Silence there decides the same.
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
    """Stored opinions as an analyst that makes none."""

    def __init__(
        self, run: RunRequested, intents: dict[tuple[Symbol, datetime], Intent], complete_until: datetime | None
    ) -> None:
        self._run, self._intents, self._complete_until = run, intents, complete_until

    def intent(self, bar: Bar) -> Intent | None:
        wish = self._intents.get((bar.symbol, bar.closed_at))
        if wish is None and self._complete_until is not None and bar.closed_at < self._complete_until:
            run = self._run
            raise AnalysisMissing(f"{bar.symbol}.{run.config.timeframe}@{instant_text(bar.closed_at)}.{run.variant}")
        return wish
