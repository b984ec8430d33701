"""backtesting.py: one symbol, whole orders, its own stops and targets. A trailing stop is moved bar by bar, by hand.

Its `spread` is charged when a trade is opened and not when it is closed, so the account's slippage comes out one-sided.
"""

from __future__ import annotations

from collections.abc import Callable

from backtesting import Backtest, Strategy
from backtesting.backtesting import Trade

from tests.peers.engines import frames
from tests.peers.tasks import Answer, Fill, Task, Unsupported, by_bar, fill_of


def prepare(task: Task) -> Callable[[], Answer]:
    if len(task.series) > 1:
        raise Unsupported("It has one symbol an account.")
    if task.volume_cap is not None:
        raise Unsupported("It fills whole orders, whatever the volume.")
    frame, due = frames(task)[0], by_bar(task.orders)
    trail = next((order.trail for order in task.orders if order.trail), None)

    class Handed(Strategy):
        def init(self) -> None:
            pass

        def next(self) -> None:
            for order in due.get(len(self.data) - 1, ()):
                give = self.buy if order.side == "BUY" else self.sell
                give(size=order.quantity, limit=order.limit, stop=order.trigger, sl=order.stop, tp=order.target)
            if trail:
                follow(self, trail)

    def run() -> Answer:
        engine = Backtest(frame, Handed, cash=task.cash, commission=task.commission, spread=task.slippage)
        ended = engine.run()._strategy
        return Answer(fills_of([*ended.closed_trades, *ended.trades]), float(ended.equity))

    return run


def follow(strategy: Strategy, distance: float) -> None:
    """Moves the stop of every long trade up to its distance from this bar's high."""
    for trade in strategy.trades:
        level = max(strategy.data.High[-1], trade.entry_price) - distance
        if trade.sl is None or level > trade.sl:
            trade.sl = level


def fills_of(trades: list[Trade]) -> list[Fill]:
    fills: list[Fill] = []
    for trade in sorted(trades, key=lambda trade: trade.entry_bar):
        fills.append(fill_of(trade.entry_bar, trade.size, trade.entry_price))
        if trade.exit_bar is not None:
            fills.append(fill_of(trade.exit_bar, -trade.size, trade.exit_price))
    return sorted(fills, key=lambda fill: fill.bar)
