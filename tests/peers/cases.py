"""The hand-made bars of `cases.json`: what is ordered, and the fills that our rules give, worked out by hand.

Bars are open, high, low, close, volume; the first two only lead in, and every order is given at the close of bar 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.peers.tasks import Fill, Order, Row, Task

CASH = 100_000.0


class Case(NamedTuple):
    """One situation. slippage, volume_cap: shares, as in `Task`."""

    name: str
    what: str
    bars: list[Row]
    orders: list[Order]
    by_hand: list[Fill]
    slippage: float
    volume_cap: float | None

    @property
    def task(self) -> Task:
        return Task(CASH, 0.0, self.slippage, [self.bars], self.orders, self.volume_cap)


def case_of(data: dict[str, Any]) -> Case:
    return Case(
        name=data["name"],
        what=data["what"],
        bars=data["bars"],
        orders=[Order(**order) for order in data["orders"]],
        by_hand=[Fill(*fill) for fill in data["ours"]],
        slippage=data.get("slippage", 0.0),
        volume_cap=data.get("volume_cap"),
    )


CASES = [case_of(data) for data in json.loads((Path(__file__).parent / "cases.json").read_text())]
