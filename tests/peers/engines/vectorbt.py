"""vectorbt: arrays of signals through one compiled loop. Entries at the open of their bar; stops and targets as shares
of the price paid, looked at from the bar after the entry on. It has no orders that wait for a price.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import vectorbt as vbt
from vectorbt.portfolio.enums import StopEntryPrice, StopExitPrice

from tests.peers.engines import frames
from tests.peers.tasks import Answer, Task, Unsupported, fill_of


def prepare(task: Task) -> Callable[[], Answer]:
    if any(order.type != "MARKET" for order in task.orders):
        raise Unsupported("It has no orders that wait for a price to enter at.")
    data = frames(task)
    prices = {
        name.lower(): pd.DataFrame(dict(enumerate(frame[name] for frame in data)))
        for name in ("Open", "High", "Low", "Close")
    }
    signals = signals_of(task)

    def run() -> Answer:
        portfolio = vbt.Portfolio.from_signals(
            **prices,
            **signals,
            price=prices["open"],
            fees=task.commission,
            slippage=task.slippage,
            stop_entry_price=StopEntryPrice.FillPrice,
            stop_exit_price=StopExitPrice.StopMarket,
            init_cash=task.cash,
            cash_sharing=True,
            group_by=True,
            freq="h",
        )
        made = np.sort(portfolio.orders.values, order=["idx", "col"])
        fills = [
            fill_of(row["idx"], row["size"] if row["side"] == 0 else -row["size"], row["price"], row["col"])
            for row in made
        ]
        return Answer(fills, float(portfolio.final_value()))

    return run


def signals_of(task: Task) -> dict[str, object]:
    """Each order as a signal on the bar after it; stops and targets as shares of what is paid at that bar's open."""
    shape = (len(task.series[0]), len(task.series))
    entries, exits = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    size, stop, target = (np.full(shape, np.nan) for _ in range(3))
    opening = task.orders[0].side if task.orders else "BUY"
    for order in task.orders:
        cell = (order.at + 1, order.symbol)
        if cell[0] == shape[0]:
            continue
        (entries if order.side == opening else exits)[cell] = True
        size[cell] = order.quantity
        sign = 1 if order.side == "BUY" else -1
        paid = task.series[order.symbol][order.at + 1][0] * (1 + sign * task.slippage)
        if order.stop or order.trail:
            stop[cell] = (order.trail or sign * (paid - order.stop)) / paid
        if order.target:
            target[cell] = sign * (order.target - paid) / paid
    if np.nanmin([stop, target], initial=0) < 0:
        raise Unsupported("Stops and targets are shares of the price paid: none lies on its wrong side.")
    direction = "longonly" if opening == "BUY" else "shortonly"
    signals = {"entries": entries, "exits": exits, "size": size, "direction": direction}
    if not np.isnan(stop).all() or not np.isnan(target).all():
        signals |= {"sl_stop": stop, "tp_stop": target, "sl_trail": any(order.trail for order in task.orders)}
    if task.volume_cap is not None:
        # Of the bar before: an array is what one makes of it, and at an open nobody knows more.
        volumes = np.array([[row[4] for row in rows] for rows in task.series]).T
        signals["max_size"] = np.vstack([np.zeros((1, shape[1])), volumes[:-1]]) * task.volume_cap
    return signals
