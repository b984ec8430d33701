"""Open positions at the latest prices that their run has seen: mark, value and unrealized P&L."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from engine.core.events import Environment, RunRequested
from engine.core.market import Symbol
from engine.core.money import mul, sub
from projections.queries import Queries


def marked_positions(queries: Queries, run: RunRequested, symbol: Symbol | None = None) -> list[dict[str, Any]]:
    """Return the open positions of a run with `mark` (quote currency, close of the latest bar), `marked_at` (UTC),
    `value` and `unrealised_pnl` (account currency, before exit costs); None where no bar of the symbol is known."""
    marks = latest_closes(queries, run)
    return [row | _at_mark(row, run, marks) for row in queries.positions(run.run_id, symbol)]


def latest_closes(queries: Queries, run: RunRequested) -> dict[Symbol, Mapping[str, Any]]:
    """Return the latest bar of each symbol that a run has seen closed."""
    until = queries.last_bar_closed_at(run.run_id)
    if until is None:
        return {}
    # A paper run sees more bars than were known at its start.
    known_at = None if run.environment is Environment.PAPER else run.known_at
    latest_bars = {
        symbol: queries.bars(symbol, run.config.timeframe, run.start, until, 1, known_at)
        for symbol in run.config.data_symbols
    }
    return {symbol: bars[0] for symbol, bars in latest_bars.items() if bars}


def _at_mark(row: Mapping[str, Any], run: RunRequested, marks: Mapping[Symbol, Mapping[str, Any]]) -> dict[str, Any]:
    symbol: Symbol = row["symbol"]
    instrument = run.config.instrument(symbol)
    bar, rate = marks.get(symbol), _rate(run, instrument.quote, marks)
    if bar is None or rate is None:
        return {"mark": None, "marked_at": None, "value": None, "unrealised_pnl": None}
    value = mul(mul(mul(row["quantity"], bar["close"]), instrument.multiplier), rate)
    return {
        "mark": bar["close"],
        "marked_at": bar["closed_at"],
        "value": value,
        "unrealised_pnl": sub(value, row["cost"]),
    }


def _rate(run: RunRequested, quote: str, marks: Mapping[Symbol, Mapping[str, Any]]) -> Decimal | None:
    """Return account currency per unit of a quote currency; None if no bar of the rate's symbol is known."""
    rate = run.config.rate_symbol(quote)
    if rate is None:
        return Decimal(1)
    return marks[rate]["close"] if rate in marks else None
