"""Rows of signals, verdicts, orders and fills."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.core.events import (
    Event,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    RiskDecided,
    SignalRaised,
)
from engine.core.money import ZERO, add
from engine.store import LogEntry
from engine.trading.book import Book
from projections import tables
from projections.tables import Row, Table


class OrdersView:
    """Fold of one run's events that keeps signals and orders, so that each changed row is complete."""

    def __init__(self) -> None:
        self._signals: dict[str, Row] = {}
        self._orders: dict[str, Row] = {}

    def apply(self, recorded: LogEntry, book: Book) -> Iterator[tuple[Table, Row]]:
        event = recorded.event
        match event:
            case SignalRaised():
                self._signals[event.signal_id] = _signal(event, recorded.position)
                yield tables.SIGNALS, self._signals[event.signal_id]
            case RiskDecided():
                yield tables.RISK_DECISIONS, _verdict(event, recorded.position)
            case OrderPlaced():
                self._orders[event.order_id] = _order(event, recorded.position)
                yield tables.ORDERS, self._orders[event.order_id]
                if event.role in ("entry", "exit"):
                    self._signals[event.signal_id] = {**self._signals[event.signal_id], "order_id": event.order_id}
                    yield tables.SIGNALS, self._signals[event.signal_id]
            case OrderFilled():
                yield tables.FILLS, _fill(event, book, recorded.position)
                yield tables.ORDERS, self._filled(event, book)
            case OrderRejected() | OrderCanceled() | OrderExpired() | OrderReplaced():
                status = (
                    "partly filled" if self._orders[event.order_id]["filled_quantity"] else _END_STATUS[type(event)]
                )
                yield tables.ORDERS, self._changed(event.order_id, {"status": status, "reason": _reason(event)})
            case _:
                return

    def _filled(self, event: OrderFilled, book: Book) -> Row:
        filled = add(self._orders[event.order_id]["filled_quantity"], event.quantity)  # type: ignore[arg-type]
        status = "working" if event.order_id in book.working else "filled"
        return self._changed(event.order_id, {"status": status, "filled_quantity": filled, "filled_at": event.at})

    def _changed(self, order_id: str, changes: Row) -> Row:
        self._orders[order_id] = {**self._orders[order_id], **changes}
        return self._orders[order_id]


_END_STATUS: dict[type[Event], str] = {
    OrderRejected: "rejected",
    OrderCanceled: "canceled",
    OrderExpired: "expired",
    OrderReplaced: "replaced",
}


def _reason(event: OrderRejected | OrderCanceled | OrderExpired | OrderReplaced) -> str:
    match event:
        case OrderExpired():
            return "its time in force has ended"
        case OrderReplaced():
            return f"replaced by {event.replaced_by}"
        case _:
            return event.reason


def _signal(event: SignalRaised, position: int) -> Row:
    return {
        "signal_id": event.signal_id,
        "order_id": None,
        "symbol": event.symbol,
        "at": event.at,
        "direction": event.direction.value,
        "confidence": event.confidence,
        "reference_price": event.reference_price,
        "source": event.source,
        "analysis_id": event.analysis_id or None,
        "horizon_bars": event.horizon_bars,
        "stop": event.stop,
        "target": event.target,
        "position": position,
    }


def _verdict(event: RiskDecided, position: int) -> Row:
    return {
        "signal_id": event.signal_id,
        "symbol": event.symbol,
        "at": event.at,
        "verdict": event.verdict.value,
        "side": event.side.value,
        "requested": event.requested,
        "quantity": event.quantity,
        "reason": event.reason,
        "checks": msgspec.json.encode(event.checks).decode(),
        "position": position,
    }


def _order(event: OrderPlaced, position: int) -> Row:
    return {
        "order_id": event.order_id,
        "trigger_signal_id": event.signal_id,
        "analysis_id": event.analysis_id or None,
        "symbol": event.symbol,
        "placed_at": event.at,
        "side": event.side.value,
        "role": event.role,
        "order_type": event.terms.order_type.value,
        "limit_price": event.terms.limit_price,
        "stop_price": event.terms.stop_price,
        "trail": event.terms.trail,
        "time_in_force": event.terms.time_in_force.value,
        "expires_at": event.terms.expires_at,
        "pair": event.pair or None,
        "replaces": event.replaces or None,
        "quantity": event.quantity,
        "reference_price": event.reference_price,
        "status": "working",
        "filled_quantity": ZERO,
        "filled_at": None,
        "reason": None,
        "position": position,
    }


def _fill(event: OrderFilled, book: Book, position: int) -> Row:
    return {
        "order_id": event.order_id,
        "symbol": event.symbol,
        "decided_at": event.decided_at,
        "at": event.at,
        "bar_opened_at": event.bar_opened_at,
        "side": event.side.value,
        "quantity": event.quantity,
        "price": event.price,
        "reference_price": event.reference_price,
        "notional": event.notional,
        "slippage": event.slippage,
        "commission": event.commission,
        "rate": event.rate,
        "cash_after": book.cash,
        "position": position,
    }
