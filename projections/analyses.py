"""The stored analyses, one row each, and the model calls behind them. Pure but for short streams it reads again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

import msgspec

from engine.core.events import AnalysisFailed, AnalysisMade, AnalysisOutcome, GraphWork
from engine.core.upcasters import event_names
from engine.store import Recorded, Store
from projections import tables
from projections.projection import Change
from projections.tables import Row


class Analyses:
    """Remembers nothing: of an analysis that was tried before, its stream tells whether there is an opinion yet."""

    name = "analyses"
    consumes = frozenset(event_names([AnalysisMade, AnalysisFailed]))
    streams = frozenset[str]()

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply(self, recorded: Recorded) -> Iterable[Change]:
        if not isinstance(recorded.event, AnalysisOutcome):
            return
        for row in _call_rows(recorded, recorded.event):
            yield tables.MODEL_CALLS, row
        if not self._has_opinion_before(recorded):
            yield tables.ANALYSES, _row(recorded, recorded.event)

    def settle(self) -> Iterable[Change]:
        return ()

    def forget(self) -> None: ...

    def _has_opinion_before(self, recorded: Recorded) -> bool:
        """The first opinion in a stream is the analysis, whatever is tried after it."""
        if recorded.version == 1:
            return False
        before = (row for row in self._store.read(recorded.stream) if row.version < recorded.version)
        return any(isinstance(row.event, AnalysisMade) for row in before)


def _row(recorded: Recorded, fact: AnalysisOutcome) -> Row:
    made = fact if isinstance(fact, AnalysisMade) else None
    return {
        "analysis_id": fact.analysis_id,
        "symbol": fact.symbol,
        "timeframe": fact.timeframe,
        "at": fact.as_of,
        "variant": fact.variant,
        "status": "failed" if made is None else "made",
        "reason": fact.reason if isinstance(fact, AnalysisFailed) else None,
        "version": recorded.version,
        "decision": None if made is None else made.decision.value,
        "confidence": None if made is None else made.confidence,
        "horizon_bars": None if made is None else made.horizon_bars,
        "risk_reward": None if made is None else made.risk_reward,
        "agent_version": "" if made is None else made.agent_version,
        "window_digest": fact.window_digest,
        **_of_work(fact.work),
        "position": recorded.position,
    }


def _of_work(work: GraphWork | None) -> Row:
    """What a graph of agents tells of its work; empty texts and nulls where none was at work."""
    if work is None:
        return {name: "" if kind == "text" else None for name, kind, *_ in tables.WORK}
    told = {name: getattr(work, name) for name, *_ in tables.WORK}
    return {**told, "artefacts": msgspec.json.encode(work.artefacts).decode()}


def _call_rows(recorded: Recorded, fact: AnalysisOutcome) -> Iterable[Row]:
    if fact.work is None:
        return
    for n, call in enumerate(fact.work.calls, 1):
        yield {
            "analysis_id": fact.analysis_id,
            "version": recorded.version,
            "n": n,
            "variant": fact.variant,
            "preset": fact.work.preset,
            **msgspec.structs.asdict(call),
            "day": recorded.meta.recorded_at.astimezone(UTC).date(),
            "position": recorded.position,
        }
