"""bt: rebalances at one price a bar and has no orders that wait.

It is given closes to mark by, and trades at each bar's open through `transact(quantity, price=...)`. Slippage it has
none of, but it may be handed slipped opens.
"""

from __future__ import annotations

from collections.abc import Callable

import bt
import pandas as pd

from tests.peers.engines import frames
from tests.peers.tasks import Answer, Order, Task, Unsupported, by_bar, fill_of


def prepare(task: Task) -> Callable[[], Answer]:
    check(task)
    data, due = frames(task), by_bar(task.orders)
    names = [str(symbol) for symbol in range(len(data))]
    closes = pd.DataFrame({name: frame["Close"] for name, frame in zip(names, data, strict=True)})
    opens = [frame["Open"].tolist() for frame in data]
    bars = {at: bar for bar, at in enumerate(closes.index)}
    nothing = pd.DataFrame(0.0, index=closes.index, columns=closes.columns)

    class Handed(bt.Algo):
        def __call__(self, target: bt.Strategy) -> bool:
            bar = bars[target.now]
            for order in due.get(bar - 1, ()):
                target[names[order.symbol]].transact(order.signed, price=opens[order.symbol][bar])
            return True

    def run() -> Answer:
        engine = bt.Backtest(
            bt.Strategy("handed", [Handed("handed")], children=[bt.Security(name) for name in names]),
            closes,
            initial_capital=task.cash,
            commissions=lambda quantity, price: abs(quantity) * price * task.commission,
            # Prices of one's own are refused unless bt keeps account of what they cost against its own.
            additional_data={"bidoffer": nothing},
            progress_bar=False,
        )
        engine.run()
        made = engine.strategy.get_transactions().itertuples()
        fills = [fill_of(bars[row.Index[0]], row.quantity, row.price, int(row.Index[1])) for row in made]
        return Answer(fills, float(engine.strategy.value))

    return run


def check(task: Task) -> None:
    if task.slippage:
        raise Unsupported("It has no slippage.")
    if task.volume_cap is not None:
        raise Unsupported("It fills whole orders, whatever the volume.")
    if any(map(waits, task.orders)):
        raise Unsupported("It has no orders that wait for a price.")


def waits(order: Order) -> bool:
    return order.type != "MARKET" or bool(order.stop or order.target or order.trail)
