"""A run from question to answer: request, drive the session over its bars, end. And replaying one.

A run is named by its question: the same question is the same run. Driving it again appends nothing and returns the
same digest; after a crash it continues where the log ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple
from uuid import UUID, uuid5

from engine.config import RunConfig, digest_of
from engine.errors import AnalysisMissing, BadInput, NotFound
from engine.events import (
    AnalysesConsulted,
    AnalysisMade,
    Environment,
    Fact,
    RunEnded,
    RunRequested,
    RunStarted,
)
from engine.feed.recorded import moments
from engine.feed.signals import VARIANT_PREFIX, ImportedAnalyst, SignalFile
from engine.market import Bar, Symbol, instant_text
from engine.orders import Wish
from engine.session import Analyst, Journal, Session
from engine.store import ENGINE_VERSION, Batch, Cause, Recorded, Store, read_from

RUNS = UUID("0d7f5a0e-8f1b-5d53-b3c5-0b6a8f6e1c27")


class Result(NamedTuple):
    """What a finished run says of itself."""

    request: RunRequested
    ended: RunEnded


def run_id_of(
    environment: Environment, config_digest: str, dataset_digest: str, variant: str, label: str, of_run: str = ""
) -> str:
    """The name of a question. A paper run gives its account and first bar in place of the dataset digest."""
    parts = (environment, config_digest, dataset_digest, variant, ENGINE_VERSION, label, of_run)
    return str(uuid5(RUNS, "\n".join(parts)))


def request(
    environment: Environment,
    config: RunConfig,
    *,
    profile: str,
    dataset_digest: str,
    variant: str,
    start: datetime,
    end: datetime,
    label: str = "",
    of_run: str = "",
) -> RunRequested:
    """The first fact of a run, with its id."""
    config_digest = digest_of(config)
    run_id = run_id_of(environment, config_digest, dataset_digest, variant, label, of_run)
    return RunRequested(
        run_id, environment, profile, config, config_digest, dataset_digest, variant, start, end, label, of_run
    )


def run_stream(run_id: str) -> str:
    return f"run:{run_id}"


def book_stream(run_id: str) -> str:
    return f"book:{run_id}"


def begin(store: Store, requested: RunRequested, first: datetime, actor: str) -> RunRequested:
    """Records the question and the start, or finds them recorded; the recorded request wins (its profile's name)."""
    stream = run_stream(requested.run_id)
    known = next(iter(store.read(stream)), None)
    if known is not None and isinstance(known.event, RunRequested):
        requested = known.event
    started = RunStarted(requested.run_id, requested.environment, book_stream(requested.run_id), ENGINE_VERSION, first)
    store.append([Batch(stream, 0, [requested, started])], Cause(actor, requested.run_id))
    return requested


def conclude(
    store: Store, requested: RunRequested, session: Session, journal: Journal, at: datetime, actor: str
) -> RunEnded:
    """Ends the session and records its counts and digests as the run's last fact."""
    session.end()
    ended = RunEnded(
        run_id=requested.run_id,
        bars=session.bars,
        signals=session.signals,
        orders=session.orders,
        fills=session.fills,
        book_events=journal.version,
        book_digest=journal.digest,
        analyses_digest=session.analyses_digest,
        ended_at=at,
    )
    store.append([Batch(run_stream(requested.run_id), 2, [ended])], Cause(actor, requested.run_id))
    return ended


def perform(
    store: Store,
    requested: RunRequested,
    bars_by_symbol: Sequence[Sequence[Bar]],
    analyst: Analyst,
    *,
    actor: str,
    progress: Callable[[int], None] = lambda bars: None,
) -> Result:
    """Drives a run over its bars to its end. `progress` hears how many bars have been taken so far."""
    first = min(bars[0].opened_at for bars in bars_by_symbol)
    last = max(bars[-1].closed_at for bars in bars_by_symbol)
    requested = begin(store, requested, first, actor)
    journal = Journal(store, book_stream(requested.run_id), Cause(actor, requested.run_id))
    session = Session(requested.config, requested.config_digest, analyst, journal)
    for moment in moments(bars_by_symbol):
        session.advance(moment)
        progress(session.bars)
    return Result(requested, conclude(store, requested, session, journal, last, actor))


# --- Finding runs -------------------------------------------------------------------------------------------------


def find(store: Store, prefix: str) -> RunRequested:
    """The run whose id begins with `prefix`. Raises `NotFound` in words when there is none or more than one."""
    known = [row.event for row in read_from(store, ["RunRequested.v1"]) if isinstance(row.event, RunRequested)]
    matching = [event for event in known if event.run_id.startswith(prefix)] if prefix else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(event.run_id for event in matching[:5])
        raise NotFound(f"run {prefix!r} fits {len(matching)} runs ({names}): give more of its id.")
    raise NotFound(f"there is no run {prefix!r}: `quantagent runs list` names the {len(known)} that exist.")


def latest(store: Store) -> RunRequested:
    """The run requested last."""
    known = [row.event for row in read_from(store, ["RunRequested.v1"]) if isinstance(row.event, RunRequested)]
    if not known:
        raise NotFound("there is no run yet: `quantagent backtest` makes one.")
    return known[-1]


def result_of(store: Store, run_id: str) -> Result | None:
    """Request and end of a run; None while it has not ended."""
    facts: dict[type[Fact], Fact] = {type(row.event): row.event for row in store.read(run_stream(run_id))}
    requested, ended = facts.get(RunRequested), facts.get(RunEnded)
    if isinstance(requested, RunRequested) and isinstance(ended, RunEnded):
        return Result(requested, ended)
    return None


# --- Replay -------------------------------------------------------------------------------------------------------


class StoredOpinions:
    """The opinions a run consulted, read back from the log. It cannot make one: a missing analysis stops it."""

    def __init__(self, wishes: dict[tuple[Symbol, datetime], Wish], source: RunRequested) -> None:
        self._wishes = wishes
        self._variant, self._timeframe = source.variant, source.config.timeframe
        # Imported signals may pass over bars; an analyst's variant has an opinion on every one.
        self._complete = not source.variant.startswith(VARIANT_PREFIX)

    def wish(self, bar: Bar) -> Wish | None:
        wish = self._wishes.get((bar.symbol, bar.closed_at))
        if wish is None and self._complete:
            raise AnalysisMissing(f"{bar.symbol}.{self._timeframe}@{instant_text(bar.closed_at)}.{self._variant}")
        return wish


def consulted(store: Store, run_id: str) -> Iterator[str]:
    """The ids of the analyses a run read, in order."""
    for row in store.read(book_stream(run_id)):
        if isinstance(row.event, AnalysesConsulted):
            for analysis_id, _ in row.event.analyses:
                yield analysis_id


def analysis_stream(analysis_id: str) -> str:
    return f"analysis:{analysis_id}"


def wish_of(made: AnalysisMade, version: int) -> Wish:
    """What an analysis asks for."""
    return Wish(
        symbol=made.symbol,
        direction=made.decision,
        confidence=made.confidence,
        analysis_id=made.analysis_id,
        analysis_version=version,
        horizon_bars=made.horizon_bars,
    )


def consulted_opinions(
    store: Store, source: RunRequested, load_file: Callable[[str], SignalFile]
) -> Iterator[tuple[datetime, Wish]]:
    """(instant, wish) of every opinion a run consulted, in order. `load_file` finds an imported file by its variant.

    Raises `AnalysisMissing` with the key of the first that is not stored.
    """
    ids = list(consulted(store, source.run_id))
    if source.variant.startswith(VARIANT_PREFIX):
        imported = ImportedAnalyst(load_file(source.variant)).by_id()
        yield from (imported[analysis_id] for analysis_id in ids)
        return
    for start in range(0, len(ids), 500):
        chunk = ids[start : start + 500]
        found = store.read_many([analysis_stream(analysis_id) for analysis_id in chunk])
        for analysis_id in chunk:
            rows = found.get(analysis_stream(analysis_id), [])
            opinion = next(((row.event, row.version) for row in rows if isinstance(row.event, AnalysisMade)), None)
            if opinion is None:
                raise AnalysisMissing(analysis_id)
            yield opinion[0].as_of, wish_of(*opinion)


def stored_opinions(
    store: Store,
    source: RunRequested,
    load_file: Callable[[str], SignalFile],
    progress: Callable[[int], None] = lambda done: None,
) -> StoredOpinions:
    """The analyst of a replay: everything its source consulted, and nothing else."""
    wishes: dict[tuple[Symbol, datetime], Wish] = {}
    for at, wish in consulted_opinions(store, source, load_file):
        wishes[wish.symbol, at] = wish
        progress(len(wishes))
    return StoredOpinions(wishes, source)


def first_difference(store: Store, ours: RunRequested, theirs: RunRequested) -> str | None:
    """Where two books part, in words; another engine version is named first. None when they are equal."""
    versions = {run.run_id: _engine_version(store, run) for run in (ours, theirs)}
    if len(set(versions.values())) > 1:
        return f"engine versions differ: {versions[ours.run_id]} against {versions[theirs.run_id]}"
    pairs = zip_longest(*(store.read(book_stream(run.run_id)) for run in (ours, theirs)))
    for version, (a, b) in enumerate(pairs, 1):
        if a is None or b is None or (a.name, a.payload) != (b.name, b.payload):
            return f"books part at version {version}: {_shown(a)} against {_shown(b)}"
    return None


def _engine_version(store: Store, run: RunRequested) -> str:
    started = (row.event for row in store.read(run_stream(run.run_id)))
    return next((event.engine_version for event in started if isinstance(event, RunStarted)), "unknown")


def _shown(row: Recorded | None) -> str:
    return "nothing" if row is None else f"{row.name} {row.payload.decode()}"


def check_same_bars(source: RunRequested, dataset_digest: str) -> None:
    """A replay needs the very bars of its source."""
    if source.dataset_digest != dataset_digest:
        raise BadInput(
            f"the bars of run {source.run_id[:8]} are not what they were (dataset {source.dataset_digest[:12]}, "
            f"now {dataset_digest[:12]}): import the same files again before replaying it."
        )
