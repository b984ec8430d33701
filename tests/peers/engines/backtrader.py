"""backtrader: an event loop with all the orders compared here. Slippage on every fill but one at a limit's price."""

from __future__ import annotations

from collections.abc import Callable

import backtrader as bt

from tests.peers.engines import frames
from tests.peers.tasks import Answer, Fill, Order, Task, by_bar, fill_of

KINDS = {
    "MARKET": bt.Order.Market,
    "LIMIT": bt.Order.Limit,
    "STOP": bt.Order.Stop,
    "STOP_LIMIT": bt.Order.StopLimit,
}


def prepare(task: Task) -> Callable[[], Answer]:
    data, due = frames(task), by_bar(task.orders)

    def run() -> Answer:
        cerebro = bt.Cerebro(stdstats=False)
        for frame in data:
            cerebro.adddata(bt.feeds.PandasData(dataname=frame))
        broker = cerebro.broker
        broker.setcash(task.cash)
        broker.setcommission(commission=task.commission)
        # slip_out: beyond the bar's high or low too, as a price with a fixed share of slippage is.
        broker.set_slippage_perc(task.slippage, slip_open=True, slip_limit=False, slip_match=True, slip_out=True)
        if task.volume_cap is not None:
            broker.set_filler(bt.broker.fillers.FixedBarPerc(perc=100 * task.volume_cap))
        cerebro.addstrategy(Handed, due=due)
        return Answer(cerebro.run()[0].fills, float(broker.getvalue()))

    return run


class Handed(bt.Strategy):
    params = (("due", None),)

    def __init__(self) -> None:
        self.fills: list[Fill] = []

    def next(self) -> None:
        for order in self.p.due.get(len(self.data) - 1, ()):
            give(self, order)

    def notify_order(self, order: bt.Order) -> None:
        for part in order.executed.iterpending():
            self.fills.append(fill_of(len(self.data) - 1, part.size, part.price, self.datas.index(order.data)))


def give(strategy: Handed, order: Order) -> None:
    """An order, or a bracket of it with its stop and target."""
    price = order.limit if order.type == "LIMIT" else order.trigger
    protected = order.stop or order.target or order.trail
    entry = {
        "data": strategy.datas[order.symbol],
        "size": order.quantity,
        "price": price,
        "plimit": order.limit if order.type == "STOP_LIMIT" else None,
        "exectype": KINDS[order.type],
    }
    if not protected:
        (strategy.buy if order.side == "BUY" else strategy.sell)(**entry)
        return
    bracket = strategy.buy_bracket if order.side == "BUY" else strategy.sell_bracket
    stop = bt.Order.StopTrail if order.trail else bt.Order.Stop if order.stop else None
    bracket(
        **entry,
        stopprice=order.stop,
        stopexec=stop,
        stopargs={"trailamount": order.trail} if order.trail else {},
        limitprice=order.target,
        limitexec=bt.Order.Limit if order.target else None,
    )
