"""The intent of an analysis: the position it wants for a symbol, before any rule has seen it."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from engine.core.events import AnalysisFailed, Attempt, OrderTerms
from engine.core.market import Direction, Symbol
from engine.core.money import ZERO


class Wish(msgspec.Struct, frozen=True, gc=False):
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


def wish_of(fact: Attempt, version: int) -> Wish:
    """What an analysis asks for, which is nothing where it failed; `version` is the fact's in the analysis's stream."""
    if isinstance(fact, AnalysisFailed):
        return Wish(fact.symbol, Direction.HOLD, ZERO, fact.analysis_id, version)
    return Wish(
        symbol=fact.symbol,
        direction=fact.decision,
        confidence=fact.confidence,
        analysis_id=fact.analysis_id,
        analysis_version=version,
        horizon_bars=fact.horizon_bars,
        risk_reward=fact.risk_reward,
        stop=fact.stop,
        target=fact.target,
        entry=fact.entry,
    )
