"""What is wished and ordered: the wish of an analysis, and the names of signals, orders and trades.

Names come from content: symbol, market instant and a count. The same decision has the same name in every run.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from engine.events import AnalysisFailed, Attempt, OrderTerms
from engine.market import Direction, Symbol, instant_text
from engine.money import ZERO


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


def signal_id(symbol: Symbol, at: datetime, n: int = 1) -> str:
    return f"signal-{symbol}-{instant_text(at)}-{n}"


def order_id(symbol: Symbol, at: datetime, n: int = 1) -> str:
    return f"order-{symbol}-{instant_text(at)}-{n}"


def trade_id(entry_order_id: str) -> str:
    """A round trip is named after the order that began it."""
    return "trade-" + entry_order_id.removeprefix("order-")


def entry_order_of(trade: str) -> str:
    return "order-" + trade.removeprefix("trade-")


def analysis_stream(analysis_id: str) -> str:
    """The stream of one analysis."""
    return f"analysis:{analysis_id}"


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
