"""Round trips, from flat to flat or to a reversal. Partial closes and additions belong to their trade."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from engine.core.events import BookEvent, CashAdjusted, OrderFilled, OrderPlaced, SignalRaised
from engine.core.ids import trade_id
from engine.core.market import Side
from engine.core.money import ZERO, add, div, magnitude, mul, prorate, sub
from engine.trading.book import Book
from projections.tables import Row


class Trade(msgspec.Struct):
    """A round trip so far.

    gross_pnl, fees, borrow_cost: in account currency, the gross before the other two; entry_paid, exit_paid: units x
    price, in quote currency.
    """

    symbol: str
    direction: str
    entry_order_id: str
    entry_at: datetime
    quantity: Decimal = ZERO
    bought_units: Decimal = ZERO
    entry_paid: Decimal = ZERO
    exit_units: Decimal = ZERO
    exit_paid: Decimal = ZERO
    gross_pnl: Decimal = ZERO
    fees: Decimal = ZERO
    borrow_cost: Decimal = ZERO
    exit_at: datetime | None = None
    exit_order_id: str | None = None
    exit_reason: str | None = None

    @property
    def net_pnl(self) -> Decimal:
        return sub(sub(self.gross_pnl, self.fees), self.borrow_cost)


class TradesView:
    """Fold of fills into trades. A reversing fill ends one trade and begins the next; its commission is prorated."""

    def __init__(self) -> None:
        self._open: dict[str, Trade] = {}
        self._sources: dict[str, str] = {}
        self.closed: list[Trade] = []

    @property
    def open(self) -> list[Trade]:
        return list(self._open.values())

    def record_source(self, event: BookEvent) -> None:
        """Keep the source of an order, its signal's source or its own role, as the exit reason of a trade."""
        if isinstance(event, SignalRaised):
            self._sources[event.signal_id] = event.source
        elif isinstance(event, OrderPlaced):
            protects = event.role not in ("entry", "exit")
            self._sources[event.order_id] = event.role if protects else self._sources[event.signal_id]

    def add_borrow_cost(self, event: CashAdjusted) -> list[Trade]:
        """Add a cost of borrowing to its trade and return the trade in a list; empty without an open trade."""
        trade = self._open.get(event.symbol)
        if trade is None:
            return []
        trade.borrow_cost = sub(trade.borrow_cost, event.amount)
        return [trade]

    def apply(self, fill: OrderFilled, before: Book, after: Book) -> list[Trade]:
        """Return the trades that a fill changed: one, or the one it ended and the one it began."""
        changed: list[Trade] = []
        held = before.held(fill.symbol)
        opposite = held > 0 if fill.side is Side.SELL else held < 0
        closing = min(fill.quantity, magnitude(held)) if opposite else ZERO
        if closing > 0:
            trade = self._open[fill.symbol]
            self._exit(trade, fill, closing, sub(after.realised, before.realised), flat=closing == magnitude(held))
            changed.append(trade)
        opening = sub(fill.quantity, closing)
        if opening > 0:
            trade = self._open.get(fill.symbol) or self._begin(fill)
            _enter(trade, fill, opening, magnitude(after.held(fill.symbol)))
            changed.append(trade)
        return changed

    def _begin(self, fill: OrderFilled) -> Trade:
        direction = "LONG" if fill.side.sign > 0 else "SHORT"
        trade = Trade(fill.symbol, direction, fill.order_id, fill.at)
        self._open[fill.symbol] = trade
        return trade

    def _exit(self, trade: Trade, fill: OrderFilled, units: Decimal, realised: Decimal, *, flat: bool) -> None:
        trade.exit_units = add(trade.exit_units, units)
        trade.exit_paid = add(trade.exit_paid, mul(fill.price, units))
        trade.gross_pnl = add(trade.gross_pnl, realised)
        trade.fees = add(trade.fees, _closing_share(fill.commission, units, fill.quantity))
        trade.exit_order_id, trade.exit_reason = fill.order_id, self._sources.get(fill.order_id)
        if flat:
            trade.exit_at = fill.at
            self.closed.append(self._open.pop(fill.symbol))


def _enter(trade: Trade, fill: OrderFilled, units: Decimal, held: Decimal) -> None:
    trade.bought_units = add(trade.bought_units, units)
    trade.entry_paid = add(trade.entry_paid, mul(fill.price, units))
    trade.fees = add(trade.fees, _opening_share(fill.commission, units, fill.quantity))
    trade.quantity = max(trade.quantity, held)


def _closing_share(amount: Decimal, units: Decimal, whole: Decimal) -> Decimal:
    """Return the closing units' share of an amount."""
    return amount if units == whole else prorate(amount, units, whole)


def _opening_share(amount: Decimal, units: Decimal, whole: Decimal) -> Decimal:
    """Return the opening units' share of an amount, the exact remainder of the closing units' share."""
    return amount if units == whole else sub(amount, prorate(amount, sub(whole, units), whole))


def trade_row(trade: Trade) -> Row:
    """Return the row of a trade."""
    closed = trade.exit_at is not None
    return {
        "trade_id": trade_id(trade.entry_order_id),
        "symbol": trade.symbol,
        "direction": trade.direction,
        "status": "closed" if closed else "open",
        "entry_at": trade.entry_at,
        "exit_at": trade.exit_at,
        "quantity": trade.quantity,
        "entry_price": div(trade.entry_paid, trade.bought_units),
        "exit_price": div(trade.exit_paid, trade.exit_units) if trade.exit_units else None,
        "gross_pnl": trade.gross_pnl,
        "fees": trade.fees,
        "borrow_cost": trade.borrow_cost,
        "net_pnl": trade.net_pnl,
        "entry_order_id": trade.entry_order_id,
        "exit_order_id": trade.exit_order_id,
        "exit_reason": trade.exit_reason if closed else None,
    }
