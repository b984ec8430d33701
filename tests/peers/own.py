"""Our own fills on the hand-made cases: the paper broker, told the bars one after the other."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from engine.broker.paper import PaperBroker
from engine.core.config import Costs, RunConfig
from engine.core.events import OrderPlaced, OrderTerms, Protection
from engine.core.market import Bar, OrderType, Side
from engine.core.money import ZERO, exact
from engine.trading.decide import open_book
from tests.peers.cases import CASH, Case
from tests.peers.tasks import Fill, Order, Row
from tests.support.workloads import HOUR, golden_config

SYMBOL = "AAA"
FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def fills(case: Case) -> list[Fill]:
    bars = [bar_of(number, row) for number, row in enumerate(case.bars)]
    broker = PaperBroker(config_of(case), open_book(config_of(case), "", FIRST))
    before = bars[0]
    for number, bar in enumerate(bars):
        broker.open(SYMBOL, bar.open, bar.opened_at, {SYMBOL: before.close}, before.volume)
        broker.close(bar, {SYMBOL: bar.close})
        for order in case.orders:
            if order.at == number:
                broker.place_order(placed(order, bar))
        before = bar
    number_of = {bar.opened_at: number for number, bar in enumerate(bars)}
    return [
        Fill(number_of[made.bar_opened_at], str(made.side), float(made.quantity), float(made.price))
        for made in broker.executions()
    ]


def config_of(case: Case) -> RunConfig:
    costs = Costs(
        slippage_bps=exact(str(case.slippage * 10_000)),
        commission_bps=ZERO,
        volume_cap_pct=None if case.volume_cap is None else exact(str(case.volume_cap * 100)),
    )
    return msgspec.structs.replace(golden_config([SYMBOL], int(CASH), 1, 2, 365), costs=costs)


def bar_of(number: int, row: Row) -> Bar:
    opened_at = FIRST + number * HOUR
    return Bar(SYMBOL, opened_at, opened_at + HOUR, *(exact(str(value)) for value in row))


def placed(order: Order, bar: Bar) -> OrderPlaced:
    """The order as it stands when the gate has passed it, at the close of a bar."""
    protection = Protection(stop=price(order.stop), target=price(order.target), trail=price(order.trail))
    return OrderPlaced(
        order_id="entry",
        signal_id="",
        analysis_id="",
        symbol=SYMBOL,
        at=bar.closed_at,
        side=Side(order.side),
        quantity=exact(str(order.quantity)),
        reference_price=bar.close,
        reserved=ZERO,
        terms=OrderTerms(OrderType(order.type), limit_price=price(order.limit), stop_price=price(order.trigger)),
        protection=protection,
    )


def price(value: float | None) -> Decimal | None:
    return None if value is None else exact(str(value))
