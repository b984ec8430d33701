"""History of an order: its original and every later state, each with actor and time.

SEC rule 17a-4(f)(2)(i)(A) requires that the original and every interim state of a record can be recreated.
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
    """One state of an order: the change and the order after it.

    filled and remaining: units, together the quantity ordered; average_price: of the fills so far, None before the
    first.
    """

    state: str
    at: datetime
    description: str
    filled: Decimal
    remaining: Decimal
    average_price: Decimal | None
    row: LogEntry


class OrderHistory(NamedTuple):
    """The states of an order, with the signal it came from and the verdict on that signal."""

    order: OrderPlaced
    signal: LogEntry | None
    verdict: LogEntry | None
    states: list[OrderState]


def order_history(
    store: Store, run: RunRequested, key: str, at: datetime | None = None, recorded: bool = False
) -> OrderHistory:
    """Return the states of an order up to a market time or, if `recorded`, a recording time; all if `at` is None.

    key: the order's id, an unambiguous prefix of it, or `latest`. Raise `NotFound` for an unknown order and for one
    that was not yet placed at that time.
    """
    placed = _find_order(store, run, key, at, recorded)
    order = placed.event
    assert isinstance(order, OrderPlaced)
    if at is not None and event_time(placed, recorded) > at:
        raise NotFound(
            f"order {order.order_id} was placed at {format_instant(event_time(placed, recorded))}: at "
            f"{format_instant(at)} it did not exist yet, use a later time."
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
    """Return the event that placed the order. `latest` is the last one at the instant; an id is searched everywhere."""
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
    raise _no_match(run, key, fitting, len(orders))


def _no_match(run: RunRequested, key: str, fitting: Sequence[str], known: int) -> NotFound:
    run_id = run.run_id[:8]
    if fitting:
        examples = ", ".join(fitting[:5])
        return NotFound(f"order {key!r} matches {len(fitting)} orders of run {run_id} ({examples}): use a longer id.")
    if key == "latest":
        return NotFound(f"run {run_id} had placed no order by then.", "ORDERS_MISSING", run=run_id)
    return NotFound(f"run {run_id} has no order {key!r}.", "ORDER_UNKNOWN", run=run_id, count=known)


def _next_state(order: OrderPlaced, previous: OrderState | None, row: LogEntry) -> OrderState:
    filled, average = (ZERO, None) if previous is None else (previous.filled, previous.average_price)
    if isinstance(row.event, OrderFilled):
        price, quantity = row.event.price, row.event.quantity
        filled = add(filled, quantity)
        # Incremental mean: the average of a single fill is exactly its price, without rounding.
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
