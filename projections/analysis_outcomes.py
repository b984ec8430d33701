"""Every opinion a run consulted, judged by the price four hours later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Symbol
from projections.tables import Row

AFTER = timedelta(hours=4)


def decision_rows(
    opinions: Iterable[tuple[datetime, Intent]], bars_by_symbol: Sequence[Sequence[Bar]]
) -> Iterator[Row]:
    """One row per opinion. Right: the close four hours later lies on the side it said; unchanged is neither."""
    closes = {bars[0].symbol: {bar.closed_at: bar.close for bar in bars} for bars in bars_by_symbol if bars}
    for at, wish in opinions:
        yield _row(at, wish, closes)


def _row(at: datetime, wish: Intent, closes: Mapping[Symbol, Mapping[datetime, Decimal]]) -> Row:
    now = closes.get(wish.symbol, {}).get(at)
    later = closes.get(wish.symbol, {}).get(at + AFTER)
    change = float(later) / float(now) - 1.0 if now and later else None
    return {
        "symbol": wish.symbol,
        "at": at,
        "analysis_id": wish.analysis_id,
        "analysis_version": wish.analysis_version,
        "decision": wish.direction.value,
        "confidence": wish.confidence,
        "close": now,
        "close_4h": later,
        "price_return": change,
        "was_right": _right(wish.direction, now, later),
    }


def _right(direction: Direction, now: Decimal | None, later: Decimal | None) -> bool | None:
    if now is None or later is None or now == later or direction in (Direction.HOLD, Direction.FLAT):
        return None
    return (later > now) is (direction is Direction.LONG)
