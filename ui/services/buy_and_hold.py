"""Buy and hold over the bars of a run: the return of its symbols without any decision."""

from __future__ import annotations

from typing import NamedTuple

from engine.core.events import RunRequested
from engine.core.market import Symbol
from ui.app import App


class BuyAndHoldReturn(NamedTuple):
    """Return of each symbol as a fraction, from the first open to the last close, without costs; equal_weight: that of
    an account with its cash split evenly among them."""

    symbols: dict[Symbol, float]
    equal_weight: float


def buy_and_hold(app: App, run: RunRequested) -> BuyAndHoldReturn:
    """Return the buy-and-hold returns of a run's symbols over its bars, in their quote currencies."""
    known = app.catalogue.as_known_at(run.known_at)
    returns: dict[Symbol, float] = {}
    for symbol in run.config.symbols:
        bars = known.frame(symbol, run.config.timeframe, run.start, run.end)
        returns[symbol] = float(bars["close"][-1]) / float(bars["open"][0]) - 1.0
    return BuyAndHoldReturn(returns, sum(returns.values()) / len(returns))
