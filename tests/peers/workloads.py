"""The golden workloads as everybody's task, our own answer to them, and how `.venv-peers` is asked for the others'.

The decisions are ours, from exact sums: at floats' own means, engines part where two means are equal.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine.core.config import Costs, RunConfig
from engine.core.events import Environment, OrderFilled, PositionsMarked
from engine.core.market import Bar, Direction
from engine.runtime import runs
from engine.store.memory import MemoryStore
from tests.peers.tasks import Answer, Fill, Order, Row, Task
from tests.support.paths import ROOT
from tests.support.workloads import golden_bars, golden_config, moving_average_state, scripted, walk

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
COMMISSION = 0.001
THREE = (("AAA", 100, 100.0), ("BBB", 101, 250.0), ("CCC", 102, 50.0))


class Workload(NamedTuple):
    """Bars of each symbol; starting cash; how many units are bought and sold."""

    bars: list[list[Bar]]
    cash: int
    quantity: int
    decimals: int

    @property
    def config(self) -> RunConfig:
        return golden_config([series[0].symbol for series in self.bars], self.cash, self.quantity, self.decimals, 365)


def one_symbol() -> Workload:
    return Workload([walk("AAA", 100, 8_760, 100.0, 0.005)], 1_000_000, 100, 4)


def three_symbols() -> Workload:
    return Workload([walk(name, seed, 8_760, start, 0.005) for name, seed, start in THREE], 1_000_000, 100, 4)


def eurusd_file() -> Path:
    """Where the reference data that QUANTAGENT_REFERENCE_DATA names has these bars, if it has."""
    return Path(os.environ.get("QUANTAGENT_REFERENCE_DATA", "")) / "golden" / "bars_EURUSD.csv"


def eurusd() -> Workload:
    return Workload([golden_bars(eurusd_file(), "EURUSD")], 100_000, 10_000, 5)


def quiet_walk(count: int) -> Workload:
    return Workload([walk("AAA", 42, count, 100.0, 0.0005)], 1_000_000, 10, 4)


# --- Ours ---------------------------------------------------------------------------------------------------------


def prepare(workload: Workload, slippage_bps: str = "0") -> Callable[[], Answer]:
    """A run through the session, every signal, verdict, order and fill an event in a memory store."""
    costs = Costs(slippage_bps=Decimal(slippage_bps), commission_bps=Decimal(10))
    config = msgspec.structs.replace(workload.config, costs=costs)
    analyst = scripted(workload.bars)
    asked = runs.request(
        Environment.BACKTEST,
        config,
        profile="golden",
        dataset_digest="",
        variant="scripted",
        start=workload.bars[0][0].opened_at,
        end=workload.bars[0][-1].closed_at,
    )
    bar_of = {bar.opened_at: n for n, bar in enumerate(workload.bars[0])}

    def run() -> Answer:
        store = MemoryStore()
        runs.execute_run(store, asked, workload.bars, analyst, actor="peers")
        events = [row.event for row in store.read(runs.book_stream(asked.run_id))]
        fills = [
            Fill(
                bar_of[event.at],
                str(event.side),
                float(event.quantity),
                float(event.price),
                config.symbols.index(event.symbol),
            )
            for event in events
            if isinstance(event, OrderFilled)
        ]
        last = events[-1]
        assert isinstance(last, PositionsMarked)
        return Answer(fills, float(last.equity))

    return run


# --- Theirs -------------------------------------------------------------------------------------------------------


def task(workload: Workload, slippage: float = 0.0) -> Task:
    series = [list(map(row, series)) for series in workload.bars]
    orders = [order for n, series in enumerate(workload.bars) for order in changes(series, n, workload.quantity)]
    return Task(float(workload.cash), COMMISSION, slippage, series, sorted(orders, key=lambda order: order.at))


def row(bar: Bar) -> Row:
    return float(bar.open), float(bar.high), float(bar.low), float(bar.close), float(bar.volume)


def changes(series: Sequence[Bar], symbol: int, quantity: int) -> list[Order]:
    """A market order at each change of the moving-average state, beginning flat."""
    held, orders = Direction.FLAT, list[Order]()
    first = len(series) - len(moving_average_state(series))
    for at, (_, wanted) in enumerate(moving_average_state(series), first):
        if wanted is not held:
            orders.append(Order(at, "BUY" if wanted is Direction.LONG else "SELL", quantity, symbol=symbol))
        held = wanted
    return orders


def with_slipped_opens(task: Task) -> Task:
    """For engines without slippage of their own: it is in the opens at which orders are filled, and asked of nobody."""
    series = [list(rows) for rows in task.series]
    for order in task.orders:
        rows, at = series[order.symbol], order.at + 1
        if at < len(rows):
            slipped = rows[at][0] * (1 + task.slippage if order.side == "BUY" else 1 - task.slippage)
            rows[at] = (slipped, *rows[at][1:])
    return task._replace(series=series, slippage=0.0)


def ask(engine: str, tasks: Sequence[Task], rounds: int = 0) -> list[dict[str, Any]]:
    """An engine's answers to the tasks, each run once and `rounds` times more; see `tests.peers.__main__`."""
    asked = json.dumps({"rounds": rounds, "tasks": [task._asdict() for task in tasks]})
    command = [str(PYTHON), "-m", "tests.peers", engine]
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
