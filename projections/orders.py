"""Signals, verdicts, orders and fills: the rows that follow each of their events."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.book import Book
from engine.events import OrderCanceled, OrderFilled, OrderPlaced, OrderRejected, RiskDecided, SignalRaised
from engine.money import ZERO, add
from engine.store import Recorded
from projections import tables
from projections.tables import Row, Table


class OrdersView:
    """Remembers signals and orders of one run, so that each changed row is complete."""

    def __init__(self) -> None:
        self._signals: dict[str, Row] = {}
        self._orders: dict[str, Row] = {}

    def apply(self, recorded: Recorded, book: Book) -> Iterator[tuple[Table, Row]]:
        event = recorded.event
        match event:
            case SignalRaised():
                self._signals[event.signal_id] = _signal(event, recorded.position)
                yield tables.SIGNALS, self._signals[event.signal_id]
            case RiskDecided():
                yield tables.RISK_DECISIONS, _verdict(event, recorded.position)
            case OrderPlaced():
                self._orders[event.order_id] = _order(event, recorded.position)
                self._signals[event.signal_id] = {**self._signals[event.signal_id], "order_id": event.order_id}
                yield tables.ORDERS, self._orders[event.order_id]
                yield tables.SIGNALS, self._signals[event.signal_id]
            case OrderFilled():
                yield tables.FILLS, _fill(event, book, recorded.position)
                yield tables.ORDERS, self._filled(event, book)
            case OrderRejected() | OrderCanceled():
                ended = "rejected" if isinstance(event, OrderRejected) else "canceled"
                status = "partly filled" if self._orders[event.order_id]["filled_quantity"] else ended
                yield tables.ORDERS, self._changed(event.order_id, {"status": status, "reason": event.reason})
            case _:
                return

    def _filled(self, event: OrderFilled, book: Book) -> Row:
        filled = add(self._orders[event.order_id]["filled_quantity"], event.quantity)  # type: ignore[arg-type]
        status = "working" if event.order_id in book.working else "filled"
        return self._changed(event.order_id, {"status": status, "filled_quantity": filled, "filled_at": event.at})

    def _changed(self, order_id: str, changes: Row) -> Row:
        self._orders[order_id] = {**self._orders[order_id], **changes}
        return self._orders[order_id]


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
        "order_type": event.order_type,
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
        "side": event.side.value,
        "quantity": event.quantity,
        "price": event.price,
        "reference_price": event.reference_price,
        "notional": event.notional,
        "slippage": event.slippage,
        "commission": event.commission,
        "cash_after": book.cash,
        "position": position,
    }
