"""Ids of signals, orders, trades and streams, derived from symbol, market instant and a number.

The same decision has the same id in every run.
"""

from __future__ import annotations

from datetime import datetime

from engine.core.market import Symbol, instant_text


def signal_id(symbol: Symbol, at: datetime, n: int = 1) -> str:
    return f"signal-{symbol}-{instant_text(at)}-{n}"


def order_id(symbol: Symbol, at: datetime, n: int = 1) -> str:
    return f"order-{symbol}-{instant_text(at)}-{n}"


def trade_id(entry_order_id: str) -> str:
    """Return the id of a round trip, derived from the id of its entry order."""
    return "trade-" + entry_order_id.removeprefix("order-")


def entry_order_of(trade: str) -> str:
    return "order-" + trade.removeprefix("trade-")


def analysis_stream(analysis_id: str) -> str:
    """Return the name of an analysis's stream."""
    return f"analysis:{analysis_id}"
