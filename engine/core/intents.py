"""The intent of an analysis: the position it wants for a symbol, before any rule has seen it."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from engine.core.events import AnalysisFailed, AnalysisOutcome, OrderTerms
from engine.core.market import Direction, Symbol
from engine.core.money import ZERO


class Intent(msgspec.Struct, frozen=True, gc=False):
    """Where an analysis wants the position of a symbol to be. confidence: 0 to 1; HOLD is no opinion.

    stop, target: prices at which the position shall be given up; risk_reward: distance of the target in distances of
    the stop; entry: how the order shall be executed. Where they are None the profile says it.
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
    """What an analysis asks for, which is nothing where it failed; `version` is the fact's in the analysis's stream."""
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
