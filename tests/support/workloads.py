"""Bars and signals that tests share: the seeded synthetic walk, and the golden workloads' moving-average state."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np

from engine.core.config import Costs, Exits, RiskLimits, RunConfig, Sizing
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Instrument, Timeframe, instant_text
from engine.core.money import ONE, exact

HOUR = timedelta(hours=1)


def walk(symbol: str, seed: int, count: int, start: float, sigma: float, decimals: int = 4) -> list[Bar]:
    """A geometric random walk of hourly bars from 2024-01-01 UTC, as the golden recipe has it (PCG64)."""
    random = np.random.Generator(np.random.PCG64(seed))
    gap, body = random.normal(0, sigma * 0.2, count), random.normal(0, sigma, count)
    wick = np.abs(random.normal(0, sigma * 0.5, (2, count)))
    log_close = np.cumsum(gap + body)
    close, open_ = start * np.exp(log_close), start * np.exp(log_close - body)
    high, low = np.maximum(open_, close) * np.exp(wick[0]), np.minimum(open_, close) * np.exp(-wick[1])
    volume = random.integers(1_000_000, 2_000_000, count)
    first = datetime(2024, 1, 1, tzinfo=UTC)
    rows = zip(
        *(np.round(prices, decimals).tolist() for prices in (open_, high, low, close)), volume.tolist(), strict=True
    )
    return [
        Bar(symbol, first + n * HOUR, first + (n + 1) * HOUR, *(exact(str(price)) for price in row))
        for n, row in enumerate(rows)
    ]


def golden_bars(path: Path, symbol: str) -> list[Bar]:
    """Bars of a reference file, whose `ts` is the bar's open."""
    with path.open() as file:
        return [
            Bar(
                symbol,
                at := datetime.fromisoformat(row["ts"]).replace(tzinfo=UTC),
                at + HOUR,
                *(exact(row[name]) for name in ("Open", "High", "Low", "Close", "Volume")),
            )
            for row in csv.DictReader(file)
        ]


def moving_average_state(bars: Sequence[Bar]) -> list[tuple[Bar, Direction]]:
    """LONG while the mean of 10 closes is above that of 20, else FLAT, from the 21st bar on. Exact: sums, no floats."""
    closes = [bar.close for bar in bars]
    return [
        (bar, Direction.LONG if 2 * sum(closes[n - 9 : n + 1]) > sum(closes[n - 19 : n + 1]) else Direction.FLAT)
        for n, bar in enumerate(bars)
        if n >= 20
    ]


def write_signals(path: Path, bars_by_symbol: Sequence[Sequence[Bar]]) -> Path:
    """A signal file of the moving-average state of every symbol."""
    with path.open("w") as file:
        file.write("symbol,at,decision\n")
        for bars in bars_by_symbol:
            for bar, decision in moving_average_state(bars):
                file.write(f"{bar.symbol},{bar.closed_at.isoformat()},{decision}\n")
    return path


def golden_config(symbols: Sequence[str], cash: int, quantity: int, decimals: int, periods: int) -> RunConfig:
    """The golden workloads' account: fixed quantity, 0.1 % commission, no slippage, no caps, no holding exit."""
    return RunConfig(
        cash=Decimal(cash),
        currency="USD",
        timeframe=Timeframe.H1,
        instruments=tuple(Instrument(symbol, "USD", decimals, Decimal(1)) for symbol in symbols),
        costs=Costs(slippage_bps=Decimal(0), commission_bps=Decimal(10)),
        sizing=Sizing("fixed_quantity", quantity=Decimal(quantity)),
        limits=RiskLimits(position_pct=None, daily_loss_pct=None),
        exits=Exits(holding_bars=None),
        periods_per_year=periods,
    )


class ScriptedAnalyst:
    """Answers with what a test wrote down: (symbol, close of the bar) -> direction and confidence."""

    def __init__(self, script: dict[tuple[str, datetime], tuple[Direction, Decimal]]) -> None:
        self._script = script

    def intent(self, bar: Bar) -> Intent | None:
        entry = self._script.get((bar.symbol, bar.closed_at))
        if entry is None:
            return None
        direction, confidence = entry
        return Intent(bar.symbol, direction, confidence, f"scripted#{bar.symbol}@{instant_text(bar.closed_at)}")


def scripted(bars_by_symbol: Sequence[Sequence[Bar]]) -> ScriptedAnalyst:
    return ScriptedAnalyst(
        {
            (bar.symbol, bar.closed_at): (decision, ONE)
            for bars in bars_by_symbol
            for bar, decision in moving_average_state(bars)
        }
    )
