"""Outcomes of the analyses that a run consulted, by the price four hours later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Symbol
from projections.tables import Row

OUTCOME_HORIZON = timedelta(hours=4)


def decision_rows(intents: Iterable[tuple[datetime, Intent]], bars_by_symbol: Sequence[Sequence[Bar]]) -> Iterator[Row]:
    """Yield one row per intent. It was right if the close four hours later moved in its direction; an unchanged close
    is neither right nor wrong."""
    closes = {bars[0].symbol: {bar.closed_at: bar.close for bar in bars} for bars in bars_by_symbol if bars}
    for at, intent in intents:
        yield _row(at, intent, closes)


def _row(at: datetime, intent: Intent, closes: Mapping[Symbol, Mapping[datetime, Decimal]]) -> Row:
    now = closes.get(intent.symbol, {}).get(at)
    later = closes.get(intent.symbol, {}).get(at + OUTCOME_HORIZON)
    change = float(later) / float(now) - 1.0 if now and later else None
    return {
        "symbol": intent.symbol,
        "at": at,
        "analysis_id": intent.analysis_id,
        "analysis_version": intent.analysis_version,
        "decision": intent.direction.value,
        "confidence": intent.confidence,
        "close": now,
        "close_4h": later,
        "price_return": change,
        "was_right": _was_right(intent.direction, now, later),
    }


def _was_right(direction: Direction, now: Decimal | None, later: Decimal | None) -> bool | None:
    if now is None or later is None or now == later or direction in (Direction.HOLD, Direction.FLAT):
        return None
    return (later > now) is (direction is Direction.LONG)
