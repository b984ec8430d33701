"""The book: cash, positions and working orders, folded from events. Copies facts; never refuses, asks or logs.

One law holds after every event, exactly: cash + cost of the positions + fees paid - realised profit = starting cash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import TypeVar, assert_never

import msgspec

from engine.events import (
    AnalysesConsulted,
    BookEvent,
    BookOpened,
    OrderCanceled,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    PositionsMarked,
    RiskDecided,
    SignalRaised,
    TradingHalted,
    TradingResumed,
)
from engine.market import Direction, Instrument, Side, Symbol
from engine.money import ZERO, add, mul, neg, part_of, size, sub, total

V = TypeVar("V")


class Position(msgspec.Struct, frozen=True, gc=False):
    """quantity: signed, negative when short; cost: what it was bought for, signed like the quantity.

    opened_at: the open of its entry bar; holding_bars: after how many bars it is given up, if ever.
    """

    symbol: Symbol
    quantity: Decimal
    cost: Decimal
    opened_at: datetime
    holding_bars: int | None

    @property
    def direction(self) -> Direction:
        return Direction.LONG if self.quantity > 0 else Direction.SHORT


class Book(msgspec.Struct, frozen=True):
    """`day_equity` is the equity at the latest session roll; `halt` is set while entries are stopped."""

    cash: Decimal = ZERO
    instruments: Mapping[Symbol, Instrument] = {}
    positions: Mapping[Symbol, Position] = {}
    working: Mapping[str, OrderPlaced] = {}
    fees: Decimal = ZERO
    realised: Decimal = ZERO
    day_equity: Decimal = ZERO
    halt: TradingHalted | None = None

    def held(self, symbol: Symbol) -> Decimal:
        position = self.positions.get(symbol)
        return ZERO if position is None else position.quantity

    def direction(self, symbol: Symbol) -> Direction:
        position = self.positions.get(symbol)
        return Direction.FLAT if position is None else position.direction

    def working_for(self, symbol: Symbol) -> OrderPlaced | None:
        return next((order for order in self.working.values() if order.symbol == symbol), None)

    def equity(self, marks: Mapping[Symbol, Decimal]) -> Decimal:
        """Cash plus every position at its mark."""
        worth = self.cash
        for symbol, position in self.positions.items():
            worth = add(worth, mul(mul(position.quantity, marks[symbol]), self.instruments[symbol].multiplier))
        return worth

    @property
    def free_cash(self) -> Decimal:
        """Cash that an entry may use.

        The proceeds of a short sale stay with the broker together with as much again as collateral, so a short ties
        up as much free cash as a long of the same cost. Working orders hold what they reserved.
        """
        short_cost = total(position.cost for position in self.positions.values() if position.cost < 0)
        reserved = total(order.reserved for order in self.working.values())
        return sub(add(add(self.cash, short_cost), short_cost), reserved)


def fold(events: Iterable[BookEvent], book: Book | None = None) -> Book:
    return reduce(evolve, events, Book() if book is None else book)


def evolve(book: Book, event: BookEvent) -> Book:
    match event:
        # The most frequent first: a long log is mostly signals and verdicts.
        case SignalRaised() | RiskDecided() | AnalysesConsulted():
            return book
        case OrderFilled():
            return _filled(book, event)
        case OrderPlaced():
            return msgspec.structs.replace(book, working={**book.working, event.order_id: event})
        case OrderRejected() | OrderCanceled():
            return msgspec.structs.replace(book, working=_without(book.working, event.order_id))
        case PositionsMarked():
            return msgspec.structs.replace(book, day_equity=event.equity) if event.occasion == "roll" else book
        case TradingHalted():
            return msgspec.structs.replace(book, halt=event)
        case TradingResumed():
            return msgspec.structs.replace(book, halt=None)
        case BookOpened():
            return Book(
                cash=event.cash,
                instruments={instrument.symbol: instrument for instrument in event.instruments},
                day_equity=event.cash,
            )
        case _:
            assert_never(event)


def _filled(book: Book, fill: OrderFilled) -> Book:
    order = book.working[fill.order_id]
    position, realised = _traded(book.positions.get(fill.symbol), fill, order.holding_bars)
    others = _without(book.positions, fill.symbol)
    spent = fill.notional if fill.side is Side.BUY else neg(fill.notional)
    working = _without(book.working, order.order_id)
    if fill.quantity != order.quantity:
        working[order.order_id] = msgspec.structs.replace(order, quantity=sub(order.quantity, fill.quantity))
    return msgspec.structs.replace(
        book,
        cash=sub(sub(book.cash, spent), fill.commission),
        fees=add(book.fees, fill.commission),
        realised=add(book.realised, realised),
        positions=others if position is None else {**others, fill.symbol: position},
        working=working,
    )


def _traded(held: Position | None, fill: OrderFilled, holding_bars: int | None) -> tuple[Position | None, Decimal]:
    """The position after a fill, and the profit it realised (before commission).

    Cost is averaged: a partial close takes its share of the cost, the rest stays with the rest.
    """
    buys = fill.side is Side.BUY
    signed = fill.quantity if buys else neg(fill.quantity)
    paid = fill.notional if buys else neg(fill.notional)
    if held is None:
        return Position(fill.symbol, signed, paid, fill.at, holding_bars), ZERO
    if (held.quantity > 0) is (signed > 0):
        larger = Position(
            held.symbol, add(held.quantity, signed), add(held.cost, paid), held.opened_at, held.holding_bars
        )
        return larger, ZERO
    units = size(held.quantity)
    if fill.quantity < units:
        cost_out = part_of(held.cost, fill.quantity, units)
        rest = Position(
            held.symbol, add(held.quantity, signed), sub(held.cost, cost_out), held.opened_at, held.holding_bars
        )
        return rest, neg(add(paid, cost_out))
    paid_to_close = paid if fill.quantity == units else part_of(paid, units, fill.quantity)
    realised = neg(add(paid_to_close, held.cost))
    if fill.quantity == units:
        return None, realised
    turned = Position(fill.symbol, add(held.quantity, signed), sub(paid, paid_to_close), fill.at, holding_bars)
    return turned, realised


def _without(mapping: Mapping[str, V], key: str) -> dict[str, V]:
    rest = dict(mapping)
    rest.pop(key, None)
    return rest
