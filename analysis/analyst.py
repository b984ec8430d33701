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

from analysis.variants import RULES, Chain, Formed, Maker, Own, Stored, Unavailable, Variant, Window, links
from engine.core.errors import BadInput
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.intents import Wish, wish_of
from engine.core.market import Bar, Symbol, Timeframe, instant_text
from engine.data import Bars
from engine.data.bar_rules import bar_line
from engine.store import Batch, Cause, Recorded, Store

CHUNK = 500

Until = Callable[[datetime], datetime | None]
"""From the close of a bar to the instant when a run had read the analyses of it; None where it has not yet."""


def _always(at: datetime) -> None:
    del at


def windows(bars: Sequence[Bar], timeframe: Timeframe, size: int) -> Iterator[Window]:
    """The window that ends at each bar: the last `size`, or as many as there are."""
    seen: deque[bytes] = deque(maxlen=size)
    for row, bar in enumerate(bars):
        seen.append(sha256(bar_line(bar, timeframe).encode()).digest())
        yield Window(row, bar.closed_at, len(seen), sha256(b"".join(seen)).hexdigest())


def analysis_id(symbol: Symbol, timeframe: Timeframe, window: Window, variant: str) -> str:
    return f"{symbol}.{timeframe}@{instant_text(window.at)}.{variant}.{window.digest[:16]}"


def fact(
    symbol: Symbol, timeframe: Timeframe, window: Window, variant: Variant | Maker, formed: Formed
) -> AnalysisMade:
    """An opinion as it is stored."""
    opinion = formed.opinion
    return AnalysisMade(
        analysis_id=analysis_id(symbol, timeframe, window, variant.name),
        symbol=symbol,
        timeframe=timeframe.value,
        as_of=window.at,
        variant=variant.name,
        decision=opinion.direction,
        confidence=opinion.confidence,
        horizon_bars=opinion.horizon_bars,
        risk_reward=opinion.risk_reward,
        reports=formed.reports,
        window_digest=window.digest,
        window_bars=window.bars,
        agent_version=variant.version,
        stop=opinion.stop,
        target=opinion.target,
        entry=opinion.entry,
    )


class Opinions:
    """The wishes of all bars of a run, in memory.

    `made` of them are new, `found` were stored before; `failed` are those for which no opinion could be made, which is
    a HOLD. `notices` tell in words what a person should know of them.
    """

    def __init__(self) -> None:
        self._wishes: dict[tuple[Symbol, datetime], Wish] = {}
        self.made = self.found = self.failed = 0
        self.notices: list[str] = []

    def take(self, fact: AnalysisMade | AnalysisFailed, version: int) -> None:
        self._wishes[fact.symbol, fact.as_of] = wish_of(fact, version)

    def hold(self, failures: Iterable[Stored]) -> None:
        """Takes failures for what they are."""
        for failure in failures:
            self.take(*failure)
            self.failed += 1

    def wish(self, bar: Bar) -> Wish:
        return self._wishes[bar.symbol, bar.closed_at]

    def has(self, symbol: Symbol, at: datetime) -> bool:
        """Whether there is an opinion on the bar that closed then."""
        return (symbol, at) in self._wishes

    def __len__(self) -> int:
        return len(self._wishes)


def opinions(
    store: Store,
    catalogue: Bars,
    symbols: Sequence[Symbol],
    timeframe: Timeframe,
    start: datetime | None,
    end: datetime | None,
    *,
    actor: str,
    variant: Variant | Maker | Chain = RULES,
    progress: Callable[[int], None] = lambda done: None,
    retry: bool = False,
    until: Until = _always,
) -> Opinions:
    """An opinion on every bar of the range: stored ones are read, missing ones made and stored.

    Windows reach back before `start`, never beyond their own bar. `progress` hears how many are done. A failure that
    is stored stays one, so that the same question has the same answer; `retry` asks again. `until`: for a run that has
    read its analyses before, when it had read that of a bar.
    """
    formed = Opinions()
    for symbol in symbols:
        bars = catalogue.bars(symbol, timeframe, None, end)
        left = {row for row, bar in enumerate(bars) if start is None or bar.opened_at >= start}
        failures: dict[int, Stored] = {}
        for one in links(variant):
            desk = _Desk(store, symbol, timeframe, one, actor, retry, until)
            wanted = [window for window in windows(bars, timeframe, one.window_bars) if window.row in left]
            warm_up = sum(window.bars < one.warm_up_bars for window in wanted)
            formed.notices += warm_up_notices(one, symbol, warm_up, len(wanted))
            left, failed = desk.settle(bars, wanted, formed, progress, stands_by=one is not links(variant)[-1])
            failures = {**failed, **failures}
        formed.hold(failures[row] for row in sorted(left))
        formed.notices += failure_notices(variant, symbol, len(left))
    return formed


class _Left(NamedTuple):
    """The rows of the windows that nobody has an opinion on yet, and the failures among them."""

    rows: set[int]
    failures: dict[int, Stored]


class _Desk(NamedTuple):
    """Where the analyses of one variant on one symbol are made, stored and found."""

    store: Store
    symbol: Symbol
    timeframe: Timeframe
    variant: Variant | Maker
    actor: str
    retry: bool = False
    until: Until = _always

    def settle(
        self,
        bars: Sequence[Bar],
        wanted: Sequence[Window],
        into: Opinions,
        progress: Callable[[int], None] = lambda done: None,
        *,
        stands_by: bool = False,
    ) -> _Left:
        """Takes or makes the opinion on each window. What is left is for the next one; `stands_by`: there is one."""
        failures: dict[int, Stored] = {}
        # Who asks models works on as many windows as it may at the same time; computed ones are made by the chunk.
        chunk = len(wanted) if isinstance(self.variant, Maker) else CHUNK
        for first in range(0, len(wanted), max(chunk, 1)):
            missing = self._take_stored(bars, wanted[first : first + chunk], into, failures, stands_by=stands_by)
            progress(len(into) + len(failures))
            try:
                self._add_missing(bars, missing, into, failures, progress)
            except Unavailable:
                if not stands_by:
                    raise
            progress(len(into) + len(failures))
        return _Left({window.row for window in wanted if not into.has(self.symbol, window.at)}, failures)

    def _take_stored(
        self,
        bars: Sequence[Bar],
        chunk: Iterable[Window],
        into: Opinions,
        failures: dict[int, Stored],
        *,
        stands_by: bool,
    ) -> list[Window]:
        """Takes what is stored; returns what is to be made."""
        ids = {analysis_id(self.symbol, self.timeframe, window, self.variant.name): window for window in chunk}
        stored = self.store.read_many([analysis_stream(each) for each in ids])
        missing: list[Window] = []
        known: AnalysisMade | None = None
        for each, window in ids.items():
            read_at = self.until(window.at)
            found = settled(stored.get(analysis_stream(each), ()), read_at)
            again = self.retry and read_at is None
            if found is None and read_at is not None and stands_by:
                # Nobody had been asked when the run read on: then as now it is for the next one.
                continue
            if found is None or (again and isinstance(found.fact, AnalysisFailed)):
                missing.append(window)
                continue
            if isinstance(found.fact, AnalysisFailed):
                failures[window.row] = found
            else:
                into.take(*found)
                known = found.fact
            into.found += 1
        if known is not None:
            self._check_still_said(bars, ids[known.analysis_id], known)
        return missing

    def _check_still_said(self, bars: Sequence[Bar], window: Window, stored: AnalysisMade) -> None:
        """A strategy that was changed and kept its version would go on trading what it used to say."""
        if not isinstance(self.variant, Own):
            return
        (now,) = self._facts(self.variant, bars, [window])
        if now != stored:
            raise BadInput(
                f"variant {self.variant.name} said {stored.decision} {stored.confidence} on {self.symbol} at "
                f"{instant_text(window.at)} and now says {now.decision} {now.confidence}, or gives another reason: "
                "give a changed strategy another version, and see `quantagent check-lookahead` if it was not changed."
            )

    def _add_missing(
        self,
        bars: Sequence[Bar],
        missing: Sequence[Window],
        into: Opinions,
        failures: dict[int, Stored],
        progress: Callable[[int], None],
    ) -> None:
        """Makes what is not stored, and stores it."""
        if isinstance(self.variant, Maker):
            rows = {window.at: window.row for window in missing}

            def heard(stored: Stored) -> None:
                if isinstance(stored.fact, AnalysisFailed):
                    failures[rows[stored.fact.as_of]] = stored
                else:
                    into.take(*stored)
                into.made += 1
                progress(len(into) + len(failures))

            self.variant.make(self.symbol, self.timeframe, bars, missing, heard)
            return
        facts = self._facts(self.variant, bars, missing)
        if facts:
            batches = [Batch(analysis_stream(each.analysis_id), 0, [each]) for each in facts]
            self.store.append(batches, Cause(self.actor))
        for each in facts:
            into.take(each, 1)
        into.made += len(facts)

    def give_up(self, window: Window, reason: str) -> Stored:
        """Stores that there is no opinion on a window."""
        analysis = analysis_id(self.symbol, self.timeframe, window, self.variant.name)
        failed = AnalysisFailed(
            analysis, self.symbol, self.timeframe.value, window.at, self.variant.name, reason, window.digest
        )
        after = sum(1 for _ in self.store.read(analysis_stream(analysis)))
        self.store.append([Batch(analysis_stream(analysis), after, [failed])], Cause(self.actor))
        return Stored(failed, after + 1)

    def _facts(self, variant: Variant, bars: Sequence[Bar], wanted: Sequence[Window]) -> list[AnalysisMade]:
        formed = variant.analyse(bars, [window.row for window in wanted])
        return [
            fact(self.symbol, self.timeframe, window, variant, each)
            for window, each in zip(wanted, formed, strict=True)
        ]


def settled(rows: Iterable[Recorded], until: datetime | None = None) -> Stored | None:
    """What an analysis's stream says, or said at an instant: its first opinion, else its last failure."""
    failure: Stored | None = None
    for row in rows:
        if until is not None and row.meta.recorded_at > until:
            break
        if isinstance(row.event, AnalysisMade):
            return Stored(row.event, row.version)
        if isinstance(row.event, AnalysisFailed):
            failure = Stored(row.event, row.version)
    return failure


def failure_notices(variant: Variant | Maker | Chain, symbol: Symbol, failed: int) -> list[str]:
    """What to tell of windows that nobody had an opinion on."""
    if not failed:
        return []
    which = "1 analysis" if failed == 1 else f"{failed:,} analyses"
    return [
        f"{which} of {symbol} by {variant.name} failed and count as HOLD: `quantagent analyses list --failed` tells "
        "why, and `quantagent analyses make --retry` asks again."
    ]


def warm_up_notices(variant: Variant | Maker, symbol: Symbol, short: int, bars: int | None = None) -> list[str]:
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
        catalogue: Bars,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime,
        actor: str,
        variant: Variant | Maker | Chain = RULES,
        warn: Callable[[str], object] = lambda notice: None,
        until: Until = _always,
    ) -> None:
        self._timeframe, self._variant, self._warn = timeframe, variant, warn
        self._desks = {
            symbol: [_Desk(store, symbol, timeframe, one, actor, until=until) for one in links(variant)]
            for symbol in symbols
        }
        longest = max(one.window_bars for one in links(variant))
        self._seen = {symbol: deque(_before(catalogue, symbol, timeframe, start), longest) for symbol in symbols}
        self.made = 0
        for symbol, seen in self._seen.items():
            for one in links(variant):
                # The bar that makes a window whole has its opinion.
                for notice in warm_up_notices(one, symbol, max(0, one.warm_up_bars - 1 - len(seen))):
                    warn(notice)

    def prepare(self, bars: Sequence[Bar]) -> None:
        """Asks models about bars that close at the same instant at the same time; `wish` finds what came of it."""
        if not any(isinstance(one, Maker) for one in links(self._variant)):
            return
        with ThreadPoolExecutor(max_workers=len(bars) or 1) as pool:
            asked = [
                pool.submit(self._settled, bar, [*self._seen[bar.symbol], bar])
                for bar in bars
                if bar.symbol in self._desks
            ]
        for each in asked:
            self.made += each.result()[0].made

    def wish(self, bar: Bar) -> Wish:
        seen = self._seen[bar.symbol]
        seen.append(bar)
        formed, failures = self._settled(bar, list(seen))
        if not len(formed):
            formed.hold(failures[:1])
            self._warn(f"{bar.symbol} at {instant_text(bar.closed_at)}: HOLD, for {_reason(failures[0])}")
        self.made += formed.made
        return formed.wish(bar)

    def _settled(self, bar: Bar, bars: Sequence[Bar]) -> tuple[Opinions, list[Stored]]:
        """The opinion on the last of these bars, if anybody has one, and the failures of those who have none."""
        formed, failures = Opinions(), list[Stored]()
        for n, desk in enumerate(self._desks[bar.symbol], 1):
            *_, window = windows(bars, self._timeframe, desk.variant.window_bars)
            stands_by = n < len(self._desks[bar.symbol])
            try:
                failures += desk.settle(bars, [window], formed, stands_by=stands_by).failures.values()
            except Unavailable as error:
                # Stops and targets work on: whoever trades live has a HOLD where nobody can be asked.
                failures.append(desk.give_up(window, str(error)))
            if len(formed):
                break
        return formed, failures


def _reason(stored: Stored) -> str:
    return stored.fact.reason if isinstance(stored.fact, AnalysisFailed) else ""


def _before(catalogue: Bars, symbol: Symbol, timeframe: Timeframe, start: datetime) -> list[Bar]:
    """The bars that had closed by `start`, in order; none is no error here."""
    first = min(held.first for held in catalogue.listing() if (held.symbol, held.timeframe) == (symbol, timeframe))
    if first >= start:
        return []
    return catalogue.bars(symbol, timeframe, first, start)
