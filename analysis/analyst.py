"""Makes analyses and stores each as one fact, or finds it stored. Every bar's opinion is made once, ever.

An analysis is named by its symbol, timeframe, bar, variant and the digest of exactly the bars it saw: the same window
is the same analysis for every run, and a revised bar makes another one. Batch and live give the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from analysis.variants import RULES, Formed, Own, Variant
from engine.errors import BadInput
from engine.events import AnalysisMade
from engine.feed import Bars
from engine.feed.checks import bar_line
from engine.market import Bar, Symbol, Timeframe, instant_text
from engine.orders import Wish, analysis_stream, wish_of
from engine.store import Batch, Cause, Store

CHUNK = 500


class Window(NamedTuple):
    """One bar to have an opinion on: its row among the bars, its close, how many bars are seen, their digest."""

    row: int
    at: datetime
    bars: int
    digest: str


def windows(bars: Sequence[Bar], timeframe: Timeframe, size: int) -> Iterator[Window]:
    """The window that ends at each bar: the last `size`, or as many as there are."""
    seen: deque[bytes] = deque(maxlen=size)
    for row, bar in enumerate(bars):
        seen.append(sha256(bar_line(bar, timeframe).encode()).digest())
        yield Window(row, bar.closed_at, len(seen), sha256(b"".join(seen)).hexdigest())


def analysis_id(symbol: Symbol, timeframe: Timeframe, window: Window, variant: str) -> str:
    return f"{symbol}.{timeframe}@{instant_text(window.at)}.{variant}.{window.digest[:16]}"


def fact(symbol: Symbol, timeframe: Timeframe, window: Window, variant: Variant, formed: Formed) -> AnalysisMade:
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
    """The wishes of all bars of a run, in memory. `made` of them are new, `found` were stored before; `notices` tell
    in words where there were too few bars for more than a HOLD."""

    def __init__(self) -> None:
        self._wishes: dict[tuple[Symbol, datetime], Wish] = {}
        self.made = self.found = 0
        self.notices: list[str] = []

    def take(self, fact: AnalysisMade, version: int) -> None:
        self._wishes[fact.symbol, fact.as_of] = wish_of(fact, version)

    def wish(self, bar: Bar) -> Wish:
        return self._wishes[bar.symbol, bar.closed_at]


def opinions(
    store: Store,
    catalogue: Bars,
    symbols: Sequence[Symbol],
    timeframe: Timeframe,
    start: datetime | None,
    end: datetime | None,
    *,
    actor: str,
    variant: Variant = RULES,
    progress: Callable[[int], None] = lambda done: None,
) -> Opinions:
    """An opinion on every bar of the range: stored ones are read, missing ones made and stored, 500 at a time.

    Windows reach back before `start`, never beyond their own bar. `progress` hears how many are done.
    """
    all_of_them = Opinions()
    for symbol in symbols:
        bars = catalogue.bars(symbol, timeframe, None, end)
        desk = _Desk(store, symbol, timeframe, variant, actor)
        wanted = [
            window
            for bar, window in zip(bars, windows(bars, timeframe, variant.window_bars), strict=True)
            if start is None or bar.opened_at >= start
        ]
        warm_up = sum(window.bars < variant.warm_up_bars for window in wanted)
        all_of_them.notices += warm_up_notices(variant, symbol, warm_up, len(wanted))
        for first in range(0, len(wanted), CHUNK):
            missing = desk.take_stored(bars, wanted[first : first + CHUNK], all_of_them)
            progress(all_of_them.made + all_of_them.found)
            desk.make(bars, missing, all_of_them)
            progress(all_of_them.made + all_of_them.found)
    return all_of_them


class _Desk(NamedTuple):
    """Where the analyses of one variant on one symbol are made, stored and found."""

    store: Store
    symbol: Symbol
    timeframe: Timeframe
    variant: Variant
    actor: str

    def take_stored(self, bars: Sequence[Bar], chunk: Iterable[Window], into: Opinions) -> list[Window]:
        """Takes what is stored; returns what is not."""
        ids = {analysis_id(self.symbol, self.timeframe, window, self.variant.name): window for window in chunk}
        stored = self.store.read_many([analysis_stream(each) for each in ids])
        missing: list[Window] = []
        known: AnalysisMade | None = None
        for each, window in ids.items():
            rows = stored.get(analysis_stream(each), ())
            found = next(((row.event, row.version) for row in rows if isinstance(row.event, AnalysisMade)), None)
            if found is None:
                missing.append(window)
            else:
                into.take(*found)
                into.found += 1
                known = found[0]
        if known is not None:
            self._check_still_said(bars, ids[known.analysis_id], known)
        return missing

    def _check_still_said(self, bars: Sequence[Bar], window: Window, stored: AnalysisMade) -> None:
        """A strategy that was changed and kept its version would go on trading what it used to say."""
        if not isinstance(self.variant, Own):
            return
        (now,) = self._facts(bars, [window])
        if now != stored:
            raise BadInput(
                f"variant {self.variant.name} said {stored.decision} {stored.confidence} on {self.symbol} at "
                f"{instant_text(window.at)} and now says {now.decision} {now.confidence}, or gives another reason: "
                "give a changed strategy another version, and see `quantagent check-lookahead` if it was not changed."
            )

    def make(self, bars: Sequence[Bar], missing: Sequence[Window], into: Opinions) -> None:
        """Makes what is not stored, and stores it."""
        facts = self._facts(bars, missing)
        if facts:
            batches = [Batch(analysis_stream(each.analysis_id), 0, [each]) for each in facts]
            self.store.append(batches, Cause(self.actor))
        for each in facts:
            into.take(each, 1)
        into.made += len(facts)

    def _facts(self, bars: Sequence[Bar], wanted: Sequence[Window]) -> list[AnalysisMade]:
        formed = self.variant.analyse(bars, [window.row for window in wanted])
        return [
            fact(self.symbol, self.timeframe, window, self.variant, each)
            for window, each in zip(wanted, formed, strict=True)
        ]


def warm_up_notices(variant: Variant, symbol: Symbol, short: int, bars: int | None = None) -> list[str]:
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

    `warn` hears in words where there are too few bars yet for more than a HOLD.
    """

    def __init__(
        self,
        store: Store,
        catalogue: Bars,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime,
        actor: str,
        variant: Variant = RULES,
        warn: Callable[[str], object] = lambda notice: None,
    ) -> None:
        self._timeframe, self._variant = timeframe, variant
        self._desks = {symbol: _Desk(store, symbol, timeframe, variant, actor) for symbol in symbols}
        self._seen = {
            symbol: deque(_before(catalogue, symbol, timeframe, start), variant.window_bars) for symbol in symbols
        }
        self.made = 0
        for symbol, seen in self._seen.items():
            # The bar that makes a window whole has its opinion.
            for notice in warm_up_notices(variant, symbol, max(0, variant.warm_up_bars - 1 - len(seen))):
                warn(notice)

    def wish(self, bar: Bar) -> Wish:
        seen, desk = self._seen[bar.symbol], self._desks[bar.symbol]
        seen.append(bar)
        bars = list(seen)
        *_, window = windows(bars, self._timeframe, self._variant.window_bars)
        opinion = Opinions()
        desk.make(bars, desk.take_stored(bars, [window], opinion), opinion)
        self.made += opinion.made
        return opinion.wish(bar)


def _before(catalogue: Bars, symbol: Symbol, timeframe: Timeframe, start: datetime) -> list[Bar]:
    """The bars that had closed by `start`, in order; none is no error here."""
    first = min(held.first for held in catalogue.listing() if (held.symbol, held.timeframe) == (symbol, timeframe))
    if first >= start:
        return []
    return catalogue.bars(symbol, timeframe, first, start)
