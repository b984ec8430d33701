"""Snapshots for the tests of what agents are shown."""

from __future__ import annotations

from decimal import Decimal

import polars as pl

from analysis.charting.snapshot import Snapshot, snapshot_of
from engine.core.market import Bar, Timeframe


def snapshot_from(frame: pl.DataFrame, symbol: str = "BTC-USD") -> Snapshot:
    """The snapshot of hourly bars as `tests.support.frames` makes them."""
    return snapshot_of([_bar(row, symbol) for row in frame.iter_rows(named=True)], Timeframe("1h"))


def _bar(row: dict[str, object], symbol: str) -> Bar:
    numbers = {name: Decimal(str(row[name])) for name in ("open", "high", "low", "close", "volume")}
    return Bar(symbol=symbol, opened_at=row["opened_at"], closed_at=row["closed_at"], **numbers)  # type: ignore[arg-type]
