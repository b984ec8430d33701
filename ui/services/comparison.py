"""Two variants compared on the bars that both have analyzed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from engine.core.errors import BadInput, NotFound
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.market import Bar, Direction, Symbol, Timeframe
from engine.core.money import ZERO, add
from engine.core.upcasters import event_names
from engine.store import Store, read_from

if TYPE_CHECKING:
    from ui.app import App


class VariantRecord(NamedTuple):
    """Record of a variant on the bars that both variants have analyzed.

    `right` of `judged`: LONG and SHORT confirmed by the close `horizon` bars later, of all confirmed or refuted by it
    (an unchanged close counts for neither); after_cutoff: the same for bars after the model's knowledge cutoff.
    """

    variant: str
    analyses: int
    failed: int
    long: int
    short: int
    hold: int
    right: int
    judged: int
    right_after_cutoff: int
    judged_after_cutoff: int
    cost: Decimal
    latency_ms: int

    @property
    def accuracy(self) -> float | None:
        return self.right / self.judged if self.judged else None

    @property
    def accuracy_after_cutoff(self) -> float | None:
        return self.right_after_cutoff / self.judged_after_cutoff if self.judged_after_cutoff else None


class VariantComparison(NamedTuple):
    """Two variants on the bars that both have analyzed; agreed: number of equal decisions."""

    symbol: Symbol
    horizon: int
    both: int
    agreed: int
    records: tuple[VariantRecord, VariantRecord]


def compare_variants(
    app: App,
    variants: tuple[str, str],
    symbol: Symbol,
    timeframe: Timeframe,
    horizon: int,
    start: datetime | None = None,
    end: datetime | None = None,
) -> VariantComparison:
    """Compare two variants on the same stored bars. Raise `NotFound` if one has no analysis or no bar is common."""
    facts = {name: dict(_outcomes_by_bar(app.store, name, symbol, timeframe, start, end)) for name in variants}
    for name in variants:
        if not facts[name]:
            raise NotFound(
                f"no {timeframe} analysis of {symbol} by {name} is stored in that range.",
                "ANALYSES_NOT_STORED",
            )
    common = [at for at in facts[variants[0]] if at in facts[variants[1]]]
    if not common:
        raise NotFound(
            f"{variants[0]} and {variants[1]} have no bar of {symbol} in common: analyze one range with both."
        )
    bars = app.catalogue.bars(symbol, timeframe, None, None)
    closes = {bar.closed_at: row for row, bar in enumerate(bars)}
    moves = {at: _price_change(bars, closes[at], horizon) for at in common if at in closes}
    first, second = (_score_variant([facts[name][at] for at in common], moves) for name in variants)
    agreed = sum(
        _decision_text(facts[variants[0]][at][-1]) == _decision_text(facts[variants[1]][at][-1]) for at in common
    )
    return VariantComparison(symbol, horizon, len(common), agreed, (first, second))


def analysed_symbols(app: App, variants: Sequence[str], timeframe: Timeframe) -> list[Symbol]:
    """Return the symbols that all of these variants have analyzed. Raise `NotFound` if there are none."""
    by: dict[str, set[Symbol]] = {name: set() for name in variants}
    for fact in all_outcomes(app.store, None, timeframe, None, None):
        for name in variants:
            if name in (fact.variant, fact.variant.partition("@")[0]):
                by[name].add(fact.symbol)
    common = set[Symbol].intersection(*by.values())
    if not common:
        raise NotFound(f"{' and '.join(variants)} have analyzed no symbol in common.", "NO_COMMON_SYMBOL")
    return sorted(common)


def _outcomes_by_bar(
    store: Store, variant: str, symbol: Symbol, timeframe: Timeframe, start: datetime | None, end: datetime | None
) -> Iterator[tuple[datetime, list[AnalysisMade | AnalysisFailed]]]:
    """Yield the outcomes of a variant, named with or without its digest, by bar; the last outcome of a bar counts.

    Of a corrected bar the latest analysis counts. Raise `BadInput` for a name that several variants have.
    """
    found: dict[datetime, list[AnalysisMade | AnalysisFailed]] = {}
    for fact in all_outcomes(store, symbol, timeframe, start, end):
        if variant in (fact.variant, fact.variant.partition("@")[0]):
            found.setdefault(fact.as_of, []).append(fact)
    several = {fact.variant for facts in found.values() for fact in facts}
    if len(several) > 1:
        raise BadInput(f"{variant} is the name of several variants: name one of {', '.join(sorted(several))}.")
    for at, facts in sorted(found.items()):
        yield at, sorted(facts, key=lambda fact: isinstance(fact, AnalysisMade))


def all_outcomes(
    store: Store,
    symbol: Symbol | None,
    timeframe: Timeframe | None,
    start: datetime | None,
    end: datetime | None,
) -> Iterator[AnalysisMade | AnalysisFailed]:
    for row in read_from(store, event_names([AnalysisMade, AnalysisFailed])):
        event = row.event
        if not isinstance(event, AnalysisMade | AnalysisFailed):
            continue
        fits = symbol in (None, event.symbol) and timeframe in (None, Timeframe.parse(event.timeframe))
        if fits and (start is None or event.as_of > start) and (end is None or event.as_of <= end):
            yield event


def _decision_text(event: AnalysisMade | AnalysisFailed) -> str:
    return event.decision if isinstance(event, AnalysisMade) else "failed"


def _price_change(bars: Sequence[Bar], row: int, horizon: int) -> Decimal | None:
    """Return the change of the close after `horizon` bars; None if there are not that many."""
    if row + horizon >= len(bars):
        return None
    return bars[row + horizon].close - bars[row].close


def _score_variant(
    all_facts: Sequence[Sequence[AnalysisMade | AnalysisFailed]], moves: Mapping[datetime, Decimal | None]
) -> VariantRecord:
    facts = [each[-1] for each in all_facts]
    decisions = [_decision_text(fact) for fact in facts]
    scored = [(fact, right) for fact in facts if (right := _is_correct(fact, moves.get(fact.as_of))) is not None]
    later = [(fact, right) for fact, right in scored if _is_after_cutoff(fact)]
    cost, latency = ZERO, 0
    for fact in facts:
        latency += fact.work.latency_ms if fact.work is not None else 0
    for fact in (fact for each in all_facts for fact in each):
        # The cost of failures counts.
        cost = add(cost, fact.work.cost) if fact.work is not None else cost
    return VariantRecord(
        variant=facts[-1].variant,
        analyses=len(facts),
        failed=decisions.count("failed"),
        long=decisions.count(Direction.LONG),
        short=decisions.count(Direction.SHORT),
        hold=decisions.count(Direction.HOLD),
        right=sum(right for _, right in scored),
        judged=len(scored),
        right_after_cutoff=sum(right for _, right in later),
        judged_after_cutoff=len(later),
        cost=cost,
        latency_ms=latency // len(facts),
    )


def _is_correct(event: AnalysisMade | AnalysisFailed, move: Decimal | None) -> bool | None:
    if move is None or move == 0 or _decision_text(event) not in (Direction.LONG, Direction.SHORT):
        return None
    return (move > 0) is (_decision_text(event) == Direction.LONG)


def _is_after_cutoff(event: AnalysisMade | AnalysisFailed) -> bool:
    cutoff = event.work.knowledge_cutoff if event.work is not None else ""
    return bool(cutoff) and event.as_of.date() > date.fromisoformat(cutoff)
