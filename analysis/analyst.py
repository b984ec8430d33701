"""Makes analyses and stores each as one fact, or finds it stored. Every bar's opinion is made once, ever.

An analysis is named by its symbol, timeframe, bar, variant and the digest of exactly the bars it saw: the same window
is the same analysis for every run, and a revised bar makes another one. Batch and live give the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from analysis import rules
from analysis.indicators import WINDOW_BARS
from analysis.reports import Analysis
from engine.errors import BadInput
from engine.events import AnalysisMade
from engine.feed import Bars
from engine.feed.checks import bar_line
from engine.market import Bar, Direction, Symbol, Timeframe, instant_text
from engine.orders import Wish, analysis_stream, wish_of
from engine.store import Batch, Cause, Store

if TYPE_CHECKING:
    import polars as pl

VARIANTS = (rules.VARIANT,)
CHUNK = 500


def check_variant(variant: str) -> str:
    if variant not in VARIANTS:
        raise BadInput(f"variant {variant!r} is unknown: there is {', '.join(VARIANTS)}.")
    return variant


class Window(NamedTuple):
    """One bar to have an opinion on: its row in the frame, its close, how many bars are seen, their digest."""

    row: int
    at: datetime
    bars: int
    digest: str


def windows(bars: Sequence[Bar], timeframe: Timeframe) -> Iterator[Window]:
    """The window that ends at each bar: the last 500, or as many as there are."""
    seen: deque[bytes] = deque(maxlen=WINDOW_BARS)
    for row, bar in enumerate(bars):
        seen.append(sha256(bar_line(bar, timeframe).encode()).digest())
        yield Window(row, bar.closed_at, len(seen), sha256(b"".join(seen)).hexdigest())


def analysis_id(symbol: Symbol, timeframe: Timeframe, window: Window, variant: str) -> str:
    return f"{symbol}.{timeframe}@{instant_text(window.at)}.{variant}.{window.digest[:16]}"


def fact(symbol: Symbol, timeframe: Timeframe, window: Window, made: Analysis) -> AnalysisMade:
    """The stored form of a `rules` analysis."""
    return AnalysisMade(
        analysis_id=analysis_id(symbol, timeframe, window, rules.VARIANT),
        symbol=symbol,
        timeframe=timeframe.value,
        as_of=window.at,
        variant=rules.VARIANT,
        decision=Direction(made.decision.decision),
        confidence=made.decision.confidence,
        horizon_bars=made.decision.horizon_bars,
        risk_reward=made.decision.risk_reward,
        reports=made.model_dump_json(),
        window_digest=window.digest,
        window_bars=window.bars,
        agent_version=rules.AGENT_VERSION,
    )


class Opinions:
    """The wishes of all bars of a run, in memory. `made` of them are new, `found` were stored before."""

    def __init__(self) -> None:
        self._wishes: dict[tuple[Symbol, datetime], Wish] = {}
        self.made = self.found = 0

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
    progress: Callable[[int], None] = lambda done: None,
) -> Opinions:
    """An opinion on every bar of the range: stored ones are read, missing ones made and stored, 500 at a time.

    Windows reach back before `start`, never beyond their own bar. `progress` hears how many are done.
    """
    all_of_them = Opinions()
    for symbol in symbols:
        bars = catalogue.bars(symbol, timeframe, None, end)
        frame = catalogue.frame(symbol, timeframe, None, end)
        wanted = [
            window
            for bar, window in zip(bars, windows(bars, timeframe), strict=True)
            if start is None or bar.opened_at >= start
        ]
        for first in range(0, len(wanted), CHUNK):
            chunk = wanted[first : first + CHUNK]
            missing = _take_stored(store, symbol, timeframe, chunk, all_of_them)
            progress(all_of_them.made + all_of_them.found)
            _make(store, symbol, timeframe, frame, missing, all_of_them, actor)
            progress(all_of_them.made + all_of_them.found)
    return all_of_them


def _take_stored(
    store: Store, symbol: Symbol, timeframe: Timeframe, chunk: Iterable[Window], into: Opinions
) -> list[Window]:
    """Takes what is stored; returns what is not."""
    by_stream = {analysis_stream(analysis_id(symbol, timeframe, w, rules.VARIANT)): w for w in chunk}
    stored = store.read_many(list(by_stream))
    missing: list[Window] = []
    for stream, window in by_stream.items():
        row = next((row for row in stored.get(stream, ()) if isinstance(row.event, AnalysisMade)), None)
        if row is None or not isinstance(row.event, AnalysisMade):
            missing.append(window)
        else:
            into.take(row.event, row.version)
            into.found += 1
    return missing


def _make(
    store: Store,
    symbol: Symbol,
    timeframe: Timeframe,
    frame: pl.DataFrame,
    missing: Sequence[Window],
    into: Opinions,
    actor: str,
) -> None:
    made = rules.analyse_many(frame, [window.row for window in missing])
    facts = [fact(symbol, timeframe, window, analysis) for window, analysis in zip(missing, made, strict=True)]
    if facts:
        store.append([Batch(analysis_stream(each.analysis_id), 0, [each]) for each in facts], Cause(actor))
    for each in facts:
        into.take(each, 1)
    into.made += len(facts)


class LiveAnalyst:
    """Has its opinion when the bar closes: what a daemon uses. Adopts a stored analysis of the same window."""

    def __init__(
        self,
        store: Store,
        catalogue: Bars,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime,
        actor: str,
    ) -> None:
        self._store, self._timeframe, self._actor = store, timeframe, actor
        self._seen = {symbol: deque(_before(catalogue, symbol, timeframe, start), WINDOW_BARS) for symbol in symbols}
        self.made = 0

    def wish(self, bar: Bar) -> Wish:
        seen = self._seen[bar.symbol]
        seen.append(bar)
        *_, window = windows(list(seen), self._timeframe)
        opinion = Opinions()
        missing = _take_stored(self._store, bar.symbol, self._timeframe, [window], opinion)
        _make(self._store, bar.symbol, self._timeframe, frame_of(seen), missing, opinion, self._actor)
        self.made += opinion.made
        return opinion.wish(bar)


def _before(catalogue: Bars, symbol: Symbol, timeframe: Timeframe, start: datetime) -> list[Bar]:
    """The bars that had closed by `start`, in order; none is no error here."""
    first = min(held.first for held in catalogue.listing() if (held.symbol, held.timeframe) == (symbol, timeframe))
    if first >= start:
        return []
    return catalogue.bars(symbol, timeframe, first, start)[-WINDOW_BARS:]


def frame_of(bars: Iterable[Bar]) -> pl.DataFrame:
    """Bars as the floats that indicators compute with, in the catalogue's columns."""
    import polars as pl

    rows = list(bars)
    prices = {name: [float(getattr(bar, name)) for bar in rows] for name in ("open", "high", "low", "close", "volume")}
    times = {name: [getattr(bar, name) for bar in rows] for name in ("opened_at", "closed_at")}
    return pl.DataFrame({**times, **prices}, schema_overrides=dict.fromkeys(times, pl.Datetime("us", "UTC")))
