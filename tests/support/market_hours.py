"""Bars and instants of one market, an hour each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from engine.core.market import Bar
from tests.support.strategies import HOUR, bar_at

MONDAY = datetime(2024, 1, 8, tzinfo=UTC)


def hours(
    symbol: str,
    prices: Sequence[tuple[str, str]],
    start: datetime = MONDAY,
    holes: Mapping[int, timedelta] | None = None,
) -> list[Bar]:
    """Hourly bars of (open, close); `holes` are pauses before a bar, by its number."""
    bars: list[Bar] = []
    for n, (open_, close) in enumerate(prices):
        start += (holes or {}).get(n, timedelta(0))
        bars.append(bar_at(symbol, start, open_, close))
        start += HOUR
    return bars
