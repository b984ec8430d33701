"""Intent of an analysis: the target position of a symbol, before the risk check."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from engine.core.events import AnalysisFailed, AnalysisOutcome, OrderTerms
from engine.core.market import Direction, Symbol
from engine.core.money import ZERO


class Intent(msgspec.Struct, frozen=True, gc=False):
    """Target position of a symbol according to an analysis. confidence: 0 to 1; HOLD requests no change.

    stop, target: prices at which the position is to be closed; risk_reward: distance of the target as a multiple of
    the stop distance; entry: execution terms of the order. None uses the profile's setting.
    """

    symbol: Symbol
    direction: Direction
    confidence: Decimal
    analysis_id: str
    analysis_version: int = 1
    horizon_bars: int | None = None
    risk_reward: Decimal | None = None
    stop: Decimal | None = None
    target: Decimal | None = None
    entry: OrderTerms | None = None


def intent_of(outcome: AnalysisOutcome, version: int) -> Intent:
    """Return the intent of an analysis; HOLD for a failed one. `version`: its version in the analysis's stream."""
    if isinstance(outcome, AnalysisFailed):
        return Intent(outcome.symbol, Direction.HOLD, ZERO, outcome.analysis_id, version)
    return Intent(
        symbol=outcome.symbol,
        direction=outcome.decision,
        confidence=outcome.confidence,
        analysis_id=outcome.analysis_id,
        analysis_version=version,
        horizon_bars=outcome.horizon_bars,
        risk_reward=outcome.risk_reward,
        stop=outcome.stop,
        target=outcome.target,
        entry=outcome.entry,
    )
