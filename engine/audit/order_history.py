"""An order through its life: as it was placed, and every state after that, each with its actor and its time.

What SEC rule 17a-4(f)(2)(i)(A) asks of records: that the original and every interim state can be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from engine.audit.as_of import event_time, events_until
from engine.audit.narration import describe_event
from engine.core.errors import NotFound
from engine.core.events import (
    Event,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    RiskDecided,
    RunRequested,
    SignalRaised,
)
from engine.core.money import ZERO, add, prorate, sub
from engine.data.bar_rules import format_instant
from engine.store import LogEntry, Store


class OrderState(NamedTuple):
    """One state of an order: what changed, and how the order stood after it.

    filled and remaining add up to the quantity ordered; average_price is over the fills so far, None before the first.
    """

    state: str
    at: datetime
    description: str
    filled: Decimal
    remaining: Decimal
    average_price: Decimal | None
    row: LogEntry


class OrderHistory(NamedTuple):
    """An order's states in order, and where it came from: its signal and the verdict on that."""

    order: OrderPlaced
    signal: LogEntry | None
    verdict: LogEntry | None
    states: list[OrderState]


def order_history(
    store: Store, run: RunRequested, key: str, at: datetime | None = None, recorded: bool = False
) -> OrderHistory:
    """The states of an order up to an instant of the market or, if `recorded`, of the clock that told when facts were
    stored; without one, all of them.

    `key` is the order's id, a beginning that no other order of the run has, or `latest`. Raises `NotFound` for an order
    that the run does not know, or that was not placed yet at that instant.
    """
    placed = _find_order(store, run, key, at, recorded)
    order = placed.event
    assert isinstance(order, OrderPlaced)
    if at is not None and event_time(placed, recorded) > at:
        raise NotFound(
            f"order {order.order_id} was placed at {format_instant(event_time(placed, recorded))}: at "
            f"{format_instant(at)} there was "
            "nothing of it, ask for a later time."
        )
    signal = verdict = None
    states: list[OrderState] = []
    for row in events_until(store, run, at, recorded):
        match row.event:
            case SignalRaised(signal_id=signal_id) if signal_id == order.signal_id:
                signal = row
            case RiskDecided(signal_id=signal_id) if signal_id == order.signal_id:
                verdict = row
            case (
                OrderPlaced() | OrderFilled() | OrderRejected() | OrderCanceled() | OrderExpired() | OrderReplaced()
            ) as event:
                if event.order_id == order.order_id:
                    states.append(_next_state(order, states[-1] if states else None, row))
            case _:
                pass
    return OrderHistory(order, signal, verdict, states)


def _find_order(store: Store, run: RunRequested, key: str, at: datetime | None, recorded: bool) -> LogEntry:
    """The event that placed the order. `latest` looks no further than the instant, an id at the whole book."""
    latest = key == "latest"
    rows = events_until(store, run, at if latest else None, recorded)
    orders = {row.event.order_id: row for row in rows if isinstance(row.event, OrderPlaced)}
    if latest and orders:
        return next(reversed(orders.values()))
    if key in orders:
        return orders[key]
    fitting = [order_id for order_id in orders if key and order_id.startswith(key)]
    if len(fitting) == 1:
        return orders[fitting[0]]
    raise NotFound(_describe_no_match(run, key, fitting, len(orders)))


def _describe_no_match(run: RunRequested, key: str, fitting: Sequence[str], known: int) -> str:
    where = f"run {run.run_id[:8]}"
    if fitting:
        return f"order {key!r} fits {len(fitting)} of {where} ({', '.join(fitting[:5])}): give more of its id."
    if key == "latest":
        return f"{where} had placed no order by then: `quantagent orders list --run {run.run_id[:8]}` names them all."
    return f"{where} has no order {key!r}: `quantagent orders list --run {run.run_id[:8]}` names its {known}."


def _next_state(order: OrderPlaced, previous: OrderState | None, row: LogEntry) -> OrderState:
    filled, average = (ZERO, None) if previous is None else (previous.filled, previous.average_price)
    if isinstance(row.event, OrderFilled):
        price, quantity = row.event.price, row.event.quantity
        filled = add(filled, quantity)
        # Weighted by what each fill moves it: of one fill the average is its very price, with nothing rounded.
        average = price if average is None else add(average, prorate(sub(price, average), quantity, filled))
    remaining = sub(order.quantity, filled)
    return OrderState(
        _state_name(row.event, remaining),
        event_time(row, False),
        describe_event(row.event),
        filled,
        remaining,
        average,
        row,
    )


def _state_name(event: Event, remaining: Decimal) -> str:
    match event:
        case OrderPlaced():
            return "placed"
        case OrderFilled():
            return "filled" if remaining == ZERO else "partly filled"
        case OrderRejected():
            return "rejected"
        case OrderExpired():
            return "expired"
        case OrderReplaced():
            return "replaced"
        case _:
            return "canceled"
