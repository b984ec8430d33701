"""What an order costs: the price after slippage, the commission, the fill. Pure arithmetic, no decision."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from engine.config import Costs
from engine.events import OrderFilled, OrderPlaced
from engine.market import Instrument, Side
from engine.money import add, bps_of, mul, size, sub


class Cost(NamedTuple):
    """Price paid per unit, price x quantity x multiplier, and the two costs in money."""

    price: Decimal
    notional: Decimal
    slippage: Decimal
    commission: Decimal


def slipped(side: Side, reference: Decimal, costs: Costs) -> Decimal:
    """The price after adverse slippage: a buy pays more than the reference, a sale receives less."""
    slip = bps_of(reference, costs.slippage_bps)
    return add(reference, slip) if side is Side.BUY else sub(reference, slip)


def cost_of(side: Side, quantity: Decimal, reference: Decimal, costs: Costs, instrument: Instrument) -> Cost:
    """What `quantity` costs at a reference price. The commission is charged on the slipped notional."""
    price = slipped(side, reference, costs)
    notional = mul(mul(price, quantity), instrument.multiplier)
    slippage = mul(mul(size(sub(price, reference)), quantity), instrument.multiplier)
    return Cost(price, notional, slippage, bps_of(notional, costs.commission_bps))


def fill(
    order: OrderPlaced, quantity: Decimal, open_price: Decimal, at: datetime, costs: Costs, instrument: Instrument
) -> OrderFilled:
    """A market order's fill at the open of the next bar: the decision was made from the close before it."""
    cost = cost_of(order.side, quantity, open_price, costs, instrument)
    return OrderFilled(
        order_id=order.order_id,
        symbol=order.symbol,
        decided_at=order.at,
        at=at,
        side=order.side,
        quantity=quantity,
        price=cost.price,
        reference_price=open_price,
        notional=cost.notional,
        slippage=cost.slippage,
        commission=cost.commission,
    )
