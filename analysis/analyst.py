"""Creation and lookup of analyses: each is created once and stored as one event.

An analysis is identified by symbol, timeframe, bar, variant and the digest of the bars in its window. All runs share
the analysis of a window; a revised bar leads to a new one. Batch and live analyses have the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from analysis.variants import (
    RULES,
    FormedAnalysis,
    ModelVariant,
    StoredOutcome,
    StrategyVariant,
    Variant,
    VariantChain,
    VariantUnavailable,
    Window,
    members,
)
from engine.core.errors import BadInput
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.intents import Intent, intent_of
from engine.core.market import Bar, Symbol, Timeframe, instant_text
from engine.data import BarCatalogue
from engine.data.bar_rules import bar_line
from engine.store import Batch, Cause, LogEntry, Store

CHUNK = 500

ReadTime = Callable[[datetime], datetime | None]
"""Map the close of a bar to the instant at which a run read its analyses; None if it has not read them yet."""


def _not_read_yet(at: datetime) -> None:
    del at


def windows(bars: Sequence[Bar], timeframe: Timeframe, size: int) -> Iterator[Window]:
    """Yield the window that ends at each bar: the last `size` bars, fewer at the beginning."""
    seen: deque[bytes] = deque(maxlen=size)
    for row, bar in enumerate(bars):
        seen.append(sha256(bar_line(bar, timeframe).encode()).digest())
        yield Window(row, bar.closed_at, len(seen), sha256(b"".join(seen)).hexdigest())


def analysis_id(symbol: Symbol, timeframe: Timeframe, window: Window, variant: str) -> str:
    return f"{symbol}.{timeframe}@{instant_text(window.at)}.{variant}.{window.digest[:16]}"


def build_analysis_event(
    symbol: Symbol, timeframe: Timeframe, window: Window, variant: Variant | ModelVariant, formed: FormedAnalysis
) -> AnalysisMade:
    """Return the event that stores an analysis."""
    decision = formed.decision
    return AnalysisMade(
        analysis_id=analysis_id(symbol, timeframe, window, variant.name),
        symbol=symbol,
        timeframe=timeframe.value,
        as_of=window.at,
        variant=variant.name,
        decision=decision.direction,
        confidence=decision.confidence,
        horizon_bars=decision.horizon_bars,
        risk_reward=decision.risk_reward,
        reports=formed.reports,
        window_digest=window.digest,
        window_bars=window.bars,
        agent_version=variant.version,
        stop=decision.stop,
        target=decision.target,
        entry=decision.entry,
    )


class AnalysisSet:
    """Intents of all bars of a run, in memory.

    made: analyses created now; already_stored: analyses found in the store; failed: bars without an analysis, which
    count as HOLD; notices: sentences for the user about warm-up and failures.
    """

    def __init__(self) -> None:
        self._intents: dict[tuple[Symbol, datetime], Intent] = {}
        self.made = self.already_stored = self.failed = 0
        self.notices: list[str] = []

    def add(self, event: AnalysisMade | AnalysisFailed, version: int) -> None:
        self._intents[event.symbol, event.as_of] = intent_of(event, version)

    def add_failures(self, failures: Iterable[StoredOutcome]) -> None:
        """Add the failures of bars that no variant could analyze; each counts as HOLD."""
        for failure in failures:
            self.add(*failure)
            self.failed += 1

    def intent(self, bar: Bar) -> Intent:
        return self._intents[bar.symbol, bar.closed_at]

    def has(self, symbol: Symbol, at: datetime) -> bool:
        """Return True if the set covers the bar of a symbol that closed at an instant."""
        return (symbol, at) in self._intents

    def __len__(self) -> int:
        return len(self._intents)


def ensure_analyses(
    store: Store,
    catalogue: BarCatalogue,
    symbols: Sequence[Symbol],
    timeframe: Timeframe,
    start: datetime | None,
    end: datetime | None,
    *,
    actor: str,
    variant: Variant | ModelVariant | VariantChain = RULES,
    progress: Callable[[int], None] = lambda done: None,
    retry: bool = False,
    read_time: ReadTime = _not_read_yet,
) -> AnalysisSet:
    """Return an analysis of every bar of the range; read stored ones, create and store missing ones.

    Windows reach back before `start`, never beyond their own bar. progress: called with the number of bars done;
    retry: try stored failures again, which otherwise stay failures so that a request is repeatable; read_time: for a
    run that has read analyses before, when it read those of a bar.
    """
    analyses = AnalysisSet()
    for symbol in symbols:
        bars = catalogue.bars(symbol, timeframe, None, end)
        remaining = {row for row, bar in enumerate(bars) if start is None or bar.opened_at >= start}
        failures: dict[int, StoredOutcome] = {}
        for member in members(variant):
            member_analyses = _VariantAnalyses(store, symbol, timeframe, member, actor, retry, read_time)
            wanted = [window for window in windows(bars, timeframe, member.window_bars) if window.row in remaining]
            warm_up = sum(window.bars < member.warm_up_bars for window in wanted)
            analyses.notices += warm_up_notices(member, symbol, warm_up, len(wanted))
            remaining, failed = member_analyses.ensure(
                bars, wanted, analyses, progress, has_fallback=member is not members(variant)[-1]
            )
            failures = {**failed, **failures}
        analyses.add_failures(failures[row] for row in sorted(remaining))
        analyses.notices += failure_notices(variant, symbol, len(remaining))
    return analyses


class _Remaining(NamedTuple):
    """Rows of the windows without an analysis so far, and the failures among them."""

    rows: set[int]
    failures: dict[int, StoredOutcome]


class _VariantAnalyses(NamedTuple):
    """Analyses of one symbol by one variant: loads stored ones, creates and stores missing ones."""

    store: Store
    symbol: Symbol
    timeframe: Timeframe
    variant: Variant | ModelVariant
    actor: str
    retry: bool = False
    read_time: ReadTime = _not_read_yet

    def ensure(
        self,
        bars: Sequence[Bar],
        wanted: Sequence[Window],
        result: AnalysisSet,
        progress: Callable[[int], None] = lambda done: None,
        *,
        has_fallback: bool = False,
    ) -> _Remaining:
        """Add the analysis of each window to `result`; return the windows left for the next variant of a chain.

        has_fallback: another variant follows, so that an unavailable one raises nothing.
        """
        failures: dict[int, StoredOutcome] = {}
        # A model variant limits its own concurrency; computed variants work in chunks to bound memory.
        chunk = len(wanted) if isinstance(self.variant, ModelVariant) else CHUNK
        for first in range(0, len(wanted), max(chunk, 1)):
            missing = self._load_stored(
                bars, wanted[first : first + chunk], result, failures, has_fallback=has_fallback
            )
            progress(len(result) + len(failures))
            try:
                self._create_missing(bars, missing, result, failures, progress)
            except VariantUnavailable:
                if not has_fallback:
                    raise
            progress(len(result) + len(failures))
        return _Remaining({window.row for window in wanted if not result.has(self.symbol, window.at)}, failures)

    def _load_stored(
        self,
        bars: Sequence[Bar],
        chunk: Iterable[Window],
        result: AnalysisSet,
        failures: dict[int, StoredOutcome],
        *,
        has_fallback: bool,
    ) -> list[Window]:
        """Add stored analyses to `result` and stored failures to `failures`; return the windows to be analyzed."""
        ids = {analysis_id(self.symbol, self.timeframe, window, self.variant.name): window for window in chunk}
        stored = self.store.read_many([analysis_stream(each) for each in ids])
        missing: list[Window] = []
        known: AnalysisMade | None = None
        for each, window in ids.items():
            read_at = self.read_time(window.at)
            outcome = latest_outcome(stored.get(analysis_stream(each), ()), read_at)
            retry = self.retry and read_at is None
            if outcome is None and read_at is not None and has_fallback:
                # The variant had no outcome when the run read this bar, so the run used the fallback.
                continue
            if outcome is None or (retry and isinstance(outcome.event, AnalysisFailed)):
                missing.append(window)
                continue
            if isinstance(outcome.event, AnalysisFailed):
                failures[window.row] = outcome
            else:
                result.add(*outcome)
                known = outcome.event
            result.already_stored += 1
        if known is not None:
            self._check_unchanged(bars, ids[known.analysis_id], known)
        return missing

    def _check_unchanged(self, bars: Sequence[Bar], window: Window, stored: AnalysisMade) -> None:
        """Raise `BadInput` if a strategy decides differently from its stored analysis: changed code, old version."""
        if not isinstance(self.variant, StrategyVariant):
            return
        (recomputed,) = self._compute_events(self.variant, bars, [window])
        if recomputed != stored:
            raise BadInput(
                f"variant {self.variant.name} stored {stored.decision} {stored.confidence} on {self.symbol} at "
                f"{instant_text(window.at)} and now returns {recomputed.decision} {recomputed.confidence}, or a "
                "different reason; a changed strategy needs a new version.",
                "STRATEGY_CHANGED",
            )

    def _create_missing(
        self,
        bars: Sequence[Bar],
        missing: Sequence[Window],
        result: AnalysisSet,
        failures: dict[int, StoredOutcome],
        progress: Callable[[int], None],
    ) -> None:
        """Create and store the analyses of `missing`."""
        if isinstance(self.variant, ModelVariant):
            rows = {window.at: window.row for window in missing}

            def on_result(stored: StoredOutcome) -> None:
                if isinstance(stored.event, AnalysisFailed):
                    failures[rows[stored.event.as_of]] = stored
                else:
                    result.add(*stored)
                result.made += 1
                progress(len(result) + len(failures))

            self.variant.create_analyses(self.symbol, self.timeframe, bars, missing, on_result)
            return
        events = self._compute_events(self.variant, bars, missing)
        if events:
            batches = [Batch(analysis_stream(each.analysis_id), 0, [each]) for each in events]
            self.store.append(batches, Cause(self.actor))
        for each in events:
            result.add(each, 1)
        result.made += len(events)

    def record_failure(self, window: Window, reason: str) -> StoredOutcome:
        """Append the event of a failed analysis."""
        analysis = analysis_id(self.symbol, self.timeframe, window, self.variant.name)
        failed = AnalysisFailed(
            analysis, self.symbol, self.timeframe.value, window.at, self.variant.name, reason, window.digest
        )
        after = sum(1 for _ in self.store.read(analysis_stream(analysis)))
        self.store.append([Batch(analysis_stream(analysis), after, [failed])], Cause(self.actor))
        return StoredOutcome(failed, after + 1)

    def _compute_events(self, variant: Variant, bars: Sequence[Bar], wanted: Sequence[Window]) -> list[AnalysisMade]:
        analyses = variant.analyse(bars, [window.row for window in wanted])
        return [
            build_analysis_event(self.symbol, self.timeframe, window, variant, each)
            for window, each in zip(wanted, analyses, strict=True)
        ]


def latest_outcome(rows: Iterable[LogEntry], until: datetime | None = None) -> StoredOutcome | None:
    """Return the first analysis in the rows of a stream, else its last failure; None for an empty stream.

    until: ignore rows recorded after this instant.
    """
    failure: StoredOutcome | None = None
    for row in rows:
        if until is not None and row.meta.recorded_at > until:
            break
        if isinstance(row.event, AnalysisMade):
            return StoredOutcome(row.event, row.version)
        if isinstance(row.event, AnalysisFailed):
            failure = StoredOutcome(row.event, row.version)
    return failure


def failure_notices(variant: Variant | ModelVariant | VariantChain, symbol: Symbol, failed: int) -> list[str]:
    """Return a notice about failed analyses; an empty list if none failed."""
    if not failed:
        return []
    which = "1 analysis" if failed == 1 else f"{failed:,} analyses"
    return [f"{which} of {symbol} by {variant.name} failed and count as HOLD."]


def warm_up_notices(variant: Variant | ModelVariant, symbol: Symbol, short: int, bars: int | None = None) -> list[str]:
    """Return a notice about bars without enough history; an empty list if `short` is 0.

    short: number of such bars; bars: number of all bars of the range, if known.
    """
    if not short:
        return []
    which = f"all {bars:,} bars" if short == bars else f"the first {short:,} bars"
    remedy = " Import earlier bars, or choose a later range." if short == bars else ""
    return [
        f"{which} of {symbol} are warm-up: {variant.name} returns HOLD until it has {variant.warm_up_bars:,} "
        f"bars.{remedy}"
    ]


class LiveAnalyst:
    """Analyst of a live feed: analyzes each bar when it closes, or reuses the stored analysis of the same window.

    warn: called with a notice about warm-up or a failed analysis; read_time: as in `ensure_analyses`.
    """

    def __init__(
        self,
        store: Store,
        catalogue: BarCatalogue,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime,
        actor: str,
        variant: Variant | ModelVariant | VariantChain = RULES,
        warn: Callable[[str], object] = lambda notice: None,
        read_time: ReadTime = _not_read_yet,
    ) -> None:
        self._timeframe, self._variant, self._warn = timeframe, variant, warn
        self._members = {
            symbol: [
                _VariantAnalyses(store, symbol, timeframe, one, actor, read_time=read_time) for one in members(variant)
            ]
            for symbol in symbols
        }
        longest = max(one.window_bars for one in members(variant))
        self._seen = {symbol: deque(_bars_before(catalogue, symbol, timeframe, start), longest) for symbol in symbols}
        self.made = 0
        for symbol, seen in self._seen.items():
            for one in members(variant):
                # The bar that completes the first window is analyzed, hence one bar less.
                for notice in warm_up_notices(one, symbol, max(0, one.warm_up_bars - 1 - len(seen))):
                    warn(notice)

    def prepare(self, bars: Sequence[Bar]) -> None:
        """Call models in parallel for bars that close at the same instant; `intent` then finds the results stored."""
        if not any(isinstance(one, ModelVariant) for one in members(self._variant)):
            return
        with ThreadPoolExecutor(max_workers=len(bars) or 1) as pool:
            futures = [
                pool.submit(self._ensure, bar, [*self._seen[bar.symbol], bar])
                for bar in bars
                if bar.symbol in self._members
            ]
        for each in futures:
            self.made += each.result()[0].made

    def intent(self, bar: Bar) -> Intent:
        seen = self._seen[bar.symbol]
        seen.append(bar)
        analyses, failures = self._ensure(bar, list(seen))
        if not len(analyses):
            analyses.add_failures(failures[:1])
            self._warn(f"{bar.symbol} at {instant_text(bar.closed_at)}: HOLD, for {_failure_reason(failures[0])}")
        self.made += analyses.made
        return analyses.intent(bar)

    def _ensure(self, bar: Bar, bars: Sequence[Bar]) -> tuple[AnalysisSet, list[StoredOutcome]]:
        """Return the analysis of the last bar, empty if every variant failed, and the failures of its variants."""
        analyses, failures = AnalysisSet(), list[StoredOutcome]()
        for n, member in enumerate(self._members[bar.symbol], 1):
            *_, window = windows(bars, self._timeframe, member.variant.window_bars)
            has_fallback = n < len(self._members[bar.symbol])
            try:
                failures += member.ensure(bars, [window], analyses, has_fallback=has_fallback).failures.values()
            except VariantUnavailable as error:
                # Live trading continues with a HOLD, so that stops and targets keep working.
                failures.append(member.record_failure(window, str(error)))
            if len(analyses):
                break
        return analyses, failures


def _failure_reason(stored: StoredOutcome) -> str:
    return stored.event.reason if isinstance(stored.event, AnalysisFailed) else ""


def _bars_before(catalogue: BarCatalogue, symbol: Symbol, timeframe: Timeframe, start: datetime) -> list[Bar]:
    """Return the bars that closed by `start`, oldest first; an empty list is allowed."""
    first = min(held.first for held in catalogue.list_series() if (held.symbol, held.timeframe) == (symbol, timeframe))
    if first >= start:
        return []
    return catalogue.bars(symbol, timeframe, first, start)
