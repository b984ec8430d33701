"""Projection of stored analyses and their model calls. Pure except for rereading short streams."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

import msgspec

from engine.core.events import AnalysisFailed, AnalysisMade, AnalysisOutcome, GraphWork
from engine.core.upcasters import event_names
from engine.store import LogEntry, Store
from projections import tables
from projections.projection import RowChange
from projections.tables import Row


class Analyses:
    """Stateless projection: the stream of a repeated analysis shows if an earlier attempt succeeded."""

    name = "analyses"
    consumes = frozenset(event_names([AnalysisMade, AnalysisFailed]))
    streams = frozenset[str]()

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply(self, recorded: LogEntry) -> Iterable[RowChange]:
        if not isinstance(recorded.event, AnalysisOutcome):
            return
        for row in _call_rows(recorded, recorded.event):
            yield tables.MODEL_CALLS, row
        if not self._has_earlier_analysis(recorded):
            yield tables.ANALYSES, _row(recorded, recorded.event)

    def flush(self) -> Iterable[RowChange]:
        return ()

    def reset(self) -> None: ...

    def _has_earlier_analysis(self, recorded: LogEntry) -> bool:
        """Return True if an earlier attempt succeeded: the first success in a stream is the analysis."""
        if recorded.version == 1:
            return False
        before = (row for row in self._store.read(recorded.stream) if row.version < recorded.version)
        return any(isinstance(row.event, AnalysisMade) for row in before)


def _row(recorded: LogEntry, outcome: AnalysisOutcome) -> Row:
    analysis = outcome if isinstance(outcome, AnalysisMade) else None
    return {
        "analysis_id": outcome.analysis_id,
        "symbol": outcome.symbol,
        "timeframe": outcome.timeframe,
        "at": outcome.as_of,
        "variant": outcome.variant,
        "status": "failed" if analysis is None else "made",
        "reason": outcome.reason if isinstance(outcome, AnalysisFailed) else None,
        "version": recorded.version,
        "decision": None if analysis is None else analysis.decision.value,
        "confidence": None if analysis is None else analysis.confidence,
        "horizon_bars": None if analysis is None else analysis.horizon_bars,
        "risk_reward": None if analysis is None else analysis.risk_reward,
        "agent_version": "" if analysis is None else analysis.agent_version,
        "window_digest": outcome.window_digest,
        **_work_cells(outcome.work),
        "position": recorded.position,
    }


def _work_cells(work: GraphWork | None) -> Row:
    """Return the cells on the work of the graph of agents; empty texts and nulls for an analysis without one."""
    if work is None:
        return {name: "" if kind == "text" else None for name, kind, *_ in tables.WORK}
    cells = {name: getattr(work, name) for name, *_ in tables.WORK}
    return {**cells, "artefacts": msgspec.json.encode(work.artefacts).decode()}


def _call_rows(recorded: LogEntry, outcome: AnalysisOutcome) -> Iterable[Row]:
    if outcome.work is None:
        return
    for n, call in enumerate(outcome.work.calls, 1):
        yield {
            "analysis_id": outcome.analysis_id,
            "version": recorded.version,
            "n": n,
            "variant": outcome.variant,
            "preset": outcome.work.preset,
            **msgspec.structs.asdict(call),
            "day": recorded.meta.recorded_at.astimezone(UTC).date(),
            "position": recorded.position,
        }
