"""Makes analyses and stores each as one fact, or finds it stored. Every bar's opinion is made once, ever.

An analysis is named by its symbol, timeframe, bar, variant and the digest of exactly the bars it saw: the same window
is the same analysis for every run, and a revised bar makes another one. Batch and live give the same bytes.
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
"""From the close of a bar to the instant when a run had read the analyses of it; None where it has not yet."""


def _not_read_yet(at: datetime) -> None:
    del at


def windows(bars: Sequence[Bar], timeframe: Timeframe, size: int) -> Iterator[Window]:
    """The window that ends at each bar: the last `size`, or as many as there are."""
    seen: deque[bytes] = deque(maxlen=size)
    for row, bar in enumerate(bars):
        seen.append(sha256(bar_line(bar, timeframe).encode()).digest())
        yield Window(row, bar.closed_at, len(seen), sha256(b"".join(seen)).hexdigest())


def analysis_id(symbol: Symbol, timeframe: Timeframe, window: Window, variant: str) -> str:
    return f"{symbol}.{timeframe}@{instant_text(window.at)}.{variant}.{window.digest[:16]}"


def build_analysis_event(
    symbol: Symbol, timeframe: Timeframe, window: Window, variant: Variant | ModelVariant, formed: FormedAnalysis
) -> AnalysisMade:
    """An opinion as it is stored."""
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
    """The wishes of all bars of a run, in memory.

    `made` of them are new, `found` were stored before; `failed` are those for which no opinion could be made, which is
    a HOLD. `notices` tell in words what a person should know of them.
    """

    def __init__(self) -> None:
        self._intents: dict[tuple[Symbol, datetime], Intent] = {}
        self.made = self.already_stored = self.failed = 0
        self.notices: list[str] = []

    def add(self, event: AnalysisMade | AnalysisFailed, version: int) -> None:
        self._intents[event.symbol, event.as_of] = intent_of(event, version)

    def add_failures(self, failures: Iterable[StoredOutcome]) -> None:
        """Takes failures for what they are."""
        for failure in failures:
            self.add(*failure)
            self.failed += 1

    def intent(self, bar: Bar) -> Intent:
        return self._intents[bar.symbol, bar.closed_at]

    def has(self, symbol: Symbol, at: datetime) -> bool:
        """Whether there is an opinion on the bar that closed then."""
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
    """An opinion on every bar of the range: stored ones are read, missing ones made and stored.

    Windows reach back before `start`, never beyond their own bar. `progress` hears how many are done. A failure that
    is stored stays one, so that the same question has the same answer; `retry` asks again. `until`: for a run that has
    read its analyses before, when it had read that of a bar.
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
    """The rows of the windows that nobody has an opinion on yet, and the failures among them."""

    rows: set[int]
    failures: dict[int, StoredOutcome]


class _VariantAnalyses(NamedTuple):
    """Where the analyses of one variant on one symbol are made, stored and found."""

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
        """Takes or makes the opinion on each window. What is left is for the next one; `stands_by`: there is one."""
        failures: dict[int, StoredOutcome] = {}
        # Who asks models works on as many windows as it may at the same time; computed ones are made by the chunk.
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
        """Takes what is stored; returns what is to be made."""
        ids = {analysis_id(self.symbol, self.timeframe, window, self.variant.name): window for window in chunk}
        stored = self.store.read_many([analysis_stream(each) for each in ids])
        missing: list[Window] = []
        known: AnalysisMade | None = None
        for each, window in ids.items():
            read_at = self.read_time(window.at)
            outcome = latest_outcome(stored.get(analysis_stream(each), ()), read_at)
            retry = self.retry and read_at is None
            if outcome is None and read_at is not None and has_fallback:
                # Nobody had been asked when the run read on: then as now it is for the next one.
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
        """A strategy that was changed and kept its version would go on trading what it used to say."""
        if not isinstance(self.variant, StrategyVariant):
            return
        (recomputed,) = self._compute_events(self.variant, bars, [window])
        if recomputed != stored:
            raise BadInput(
                f"variant {self.variant.name} said {stored.decision} {stored.confidence} on {self.symbol} at "
                f"{instant_text(window.at)} and now says {recomputed.decision} {recomputed.confidence}, or "
                f"gives another reason: "
                "give a changed strategy another version, and see `quantagent check-lookahead` if it was not changed."
            )

    def _create_missing(
        self,
        bars: Sequence[Bar],
        missing: Sequence[Window],
        result: AnalysisSet,
        failures: dict[int, StoredOutcome],
        progress: Callable[[int], None],
    ) -> None:
        """Makes what is not stored, and stores it."""
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
        """Stores that there is no opinion on a window."""
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
    """What an analysis's stream says, or said at an instant: its first opinion, else its last failure."""
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
    """What to tell of windows that nobody had an opinion on."""
    if not failed:
        return []
    which = "1 analysis" if failed == 1 else f"{failed:,} analyses"
    return [
        f"{which} of {symbol} by {variant.name} failed and count as HOLD: `quantagent analyses list --failed` tells "
        "why, and `quantagent analyses make --retry` asks again."
    ]


def warm_up_notices(variant: Variant | ModelVariant, symbol: Symbol, short: int, bars: int | None = None) -> list[str]:
    """What to tell when the first bars of a run, or of `bars` all, have too few before them; nothing when none has."""
    if not short:
        return []
    which = f"all {bars:,} bars" if short == bars else f"the first {short:,} bars"
    remedy = ": import earlier ones, or choose a later range" if short == bars else ""
    return [
        f"{which} of {symbol} are warm-up, {variant.name} says HOLD until it has seen {variant.warm_up_bars:,}{remedy}."
    ]


class LiveAnalyst:
    """Has its opinion when the bar closes: what a daemon uses. Adopts a stored analysis of the same window.

    `warn` hears in words where there are too few bars yet for more than a HOLD, and where an analysis failed. `until`
    as of `opinions`.
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
                # The bar that makes a window whole has its opinion.
                for notice in warm_up_notices(one, symbol, max(0, one.warm_up_bars - 1 - len(seen))):
                    warn(notice)

    def prepare(self, bars: Sequence[Bar]) -> None:
        """Asks models about bars that close at the same instant at the same time; `wish` finds what came of it."""
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
        """The opinion on the last of these bars, if anybody has one, and the failures of those who have none."""
        analyses, failures = AnalysisSet(), list[StoredOutcome]()
        for n, member in enumerate(self._members[bar.symbol], 1):
            *_, window = windows(bars, self._timeframe, member.variant.window_bars)
            stands_by = n < len(self._members[bar.symbol])
            try:
                failures += member.ensure(bars, [window], analyses, has_fallback=stands_by).failures.values()
            except VariantUnavailable as error:
                # Stops and targets work on: whoever trades live has a HOLD where nobody can be asked.
                failures.append(member.record_failure(window, str(error)))
            if len(analyses):
                break
        return analyses, failures


def _failure_reason(stored: StoredOutcome) -> str:
    return stored.event.reason if isinstance(stored.event, AnalysisFailed) else ""


def _bars_before(catalogue: BarCatalogue, symbol: Symbol, timeframe: Timeframe, start: datetime) -> list[Bar]:
    """The bars that had closed by `start`, in order; none is no error here."""
    first = min(held.first for held in catalogue.list_series() if (held.symbol, held.timeframe) == (symbol, timeframe))
    if first >= start:
        return []
    return catalogue.bars(symbol, timeframe, first, start)
