"""The stored analyses, one row each. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from engine.events import AnalysisMade
from engine.store import Recorded
from engine.versions import names
from projections import tables
from projections.projection import Change
from projections.tables import Row


class Analyses:
    """Remembers nothing: an analysis never changes."""

    name = "analyses"
    consumes = frozenset(names([AnalysisMade]))

    def apply(self, recorded: Recorded) -> Iterable[Change]:
        if isinstance(recorded.event, AnalysisMade):
            yield tables.ANALYSES, _row(recorded.event, recorded.position)

    def settle(self) -> Iterable[Change]:
        return ()

    def forget(self) -> None: ...


def _row(made: AnalysisMade, position: int) -> Row:
    return {
        "analysis_id": made.analysis_id,
        "symbol": made.symbol,
        "timeframe": made.timeframe,
        "at": made.as_of,
        "variant": made.variant,
        "decision": made.decision.value,
        "confidence": made.confidence,
        "horizon_bars": made.horizon_bars,
        "risk_reward": made.risk_reward,
        "model_provider": made.model_provider,
        "model_name": made.model_name,
        "temperature": made.temperature,
        "agent_version": made.agent_version,
        "graph_version": made.graph_version,
        "thread_id": made.thread_id,
        "checkpoint_id": made.checkpoint_id,
        "state_snapshot": made.state_snapshot,
        "window_digest": made.window_digest,
        "position": position,
    }
