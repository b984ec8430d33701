"""Book: cash, positions and working orders, folded from events. Pure: every event is applied without validation.

Invariant after every event, exactly: cash + cost of the positions + fees - realised profit - adjustments = initial
cash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Literal, TypeVar, assert_never

import msgspec

from engine.core.events import (
    AnalysesConsulted,
    BookEvent,
    BookOpened,
    CashAdjusted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    PositionsMarked,
    RiskDecided,
    SignalRaised,
    TradingEnded,
    TradingHalted,
    TradingResumed,
)
from engine.core.market import Bar, Direction, Instrument, Side, Symbol
from engine.core.money import ONE, ZERO, add, magnitude, mul, neg, percent_of, prorate, sub, total

V = TypeVar("V")
ROLLING = timedelta(hours=1)
DRAWDOWN = "drawdown"
"""Actor of the halt by the drawdown limit."""


class Position(msgspec.Struct, frozen=True, gc=False):
    """Open position of a symbol.

    quantity: signed, negative when short; cost: entry cost, signed like the quantity; opened_at: open of its entry bar;
    holding_bars: number of bars after which it is closed, if limited; result: profit realized by its partial closes so
    far, less all its commissions.
    """

    symbol: Symbol
    quantity: Decimal
    cost: Decimal
    opened_at: datetime
    holding_bars: int | None
    result: Decimal = ZERO

    @property
    def direction(self) -> Direction:
        return Direction.LONG if self.quantity > 0 else Direction.SHORT


class Book(msgspec.Struct, frozen=True):
    """State of an account; amounts in `currency`.

    halts: halts in force, by actor; day_equity: equity at the latest session roll; losses: consecutive losing round
    trips, the latest at `lost_at`; placed: instants of the entries placed in the 60 minutes up to the latest of them;
    raised: the instant of the latest signal, and the number of signals of each symbol at that instant.
    last_equity, peak: equity at the latest close, and its maximum since the last drawdown halt was lifted. A close is
    no event: `with_close` updates them if a drawdown limit is set; otherwise they stay at the initial cash.
    ended: reason that trading ended; empty while it continues.
    """

    cash: Decimal = ZERO
    currency: str = ""
    margin_pct: Decimal = Decimal(100)
    instruments: Mapping[Symbol, Instrument] = {}
    positions: Mapping[Symbol, Position] = {}
    working: Mapping[str, OrderPlaced] = {}
    halts: Mapping[str, TradingHalted] = {}
    fees: Decimal = ZERO
    realised: Decimal = ZERO
    adjusted: Decimal = ZERO
    day_equity: Decimal = ZERO
    losses: int = 0
    lost_at: datetime | None = None
    placed: tuple[datetime, ...] = ()
    raised: tuple[datetime | None, Mapping[Symbol, int]] = (None, {})
    last_equity: Decimal = ZERO
    peak: Decimal = ZERO
    ended: str = ""

    def held(self, symbol: Symbol) -> Decimal:
        position = self.positions.get(symbol)
        return ZERO if position is None else position.quantity

    def direction(self, symbol: Symbol) -> Direction:
        position = self.positions.get(symbol)
        return Direction.FLAT if position is None else position.direction

    def orders_of(self, symbol: Symbol) -> list[OrderPlaced]:
        """Return the symbol's working orders, in the order of placement."""
        return [order for order in self.working.values() if order.symbol == symbol]

    def unit_value(self, symbol: Symbol, price: Decimal, marks: Mapping[Symbol, Decimal]) -> Decimal:
        """Return the value of one unit at a price, in account currency. Raise `KeyError` without a conversion rate."""
        instrument = self.instruments[symbol]
        value = mul(price, instrument.multiplier)
        return value if instrument.quote == self.currency else mul(value, self.rate(symbol, marks))

    def rate(self, symbol: Symbol, marks: Mapping[Symbol, Decimal]) -> Decimal:
        """Return the account currency per unit of a symbol's quote currency, at the last close."""
        quote = self.instruments[symbol].quote
        return ONE if quote == self.currency else marks[f"{quote}-{self.currency}"]

    def value(self, symbol: Symbol, marks: Mapping[Symbol, Decimal]) -> Decimal:
        """Return the value of a position at its mark; negative when short."""
        return mul(self.held(symbol), self.unit_value(symbol, marks[symbol], marks))

    def equity(self, marks: Mapping[Symbol, Decimal]) -> Decimal:
        """Return cash plus every position at its mark."""
        worth = self.cash
        for symbol in self.positions:
            worth = add(worth, self.value(symbol, marks))
        return worth

    @property
    def free_cash(self) -> Decimal:
        """Cash available for entries, net of the reservations of working orders."""
        return sub(self.cash_unreserved, total(order.reserved for order in self.working.values()))

    @property
    def cash_unreserved(self) -> Decimal:
        """Cash less the margin of shorts, before the reservations of working orders.

        The broker keeps the proceeds of a short sale, plus collateral of `margin_pct` percent of them. With 100 a short
        ties up as much free cash as a long position of the same cost.
        """
        short_cost = total(position.cost for position in self.positions.values() if position.cost < 0)
        return add(add(self.cash, short_cost), percent_of(short_cost, self.margin_pct))


def fold(events: Iterable[BookEvent], book: Book | None = None) -> Book:
    return reduce(evolve, events, Book() if book is None else book)


def evolve(book: Book, event: BookEvent) -> Book:
    match event:
        # The most frequent events first: a long log is mostly signals and verdicts.
        case SignalRaised():
            return _apply_signal(book, event)
        case RiskDecided() | AnalysesConsulted():
            return book
        case OrderFilled():
            return _apply_fill(book, event)
        case OrderPlaced():
            return _apply_order(book, event)
        case OrderRejected() | OrderCanceled() | OrderExpired() | OrderReplaced():
            return msgspec.structs.replace(book, working=_without(book.working, event.order_id))
        case PositionsMarked():
            return msgspec.structs.replace(book, day_equity=event.equity) if event.occasion == "roll" else book
        case CashAdjusted():
            return msgspec.structs.replace(
                book, cash=add(book.cash, event.amount), adjusted=add(book.adjusted, event.amount)
            )
        case TradingHalted():
            return msgspec.structs.replace(book, halts={**book.halts, event.actor: event})
        case TradingResumed():
            lifted = event.lifted or tuple(book.halts)
            return msgspec.structs.replace(
                book,
                halts={actor: halt for actor, halt in book.halts.items() if actor not in lifted},
                # A resume accepts the loss up to the latest close known at that time.
                peak=book.last_equity if DRAWDOWN in book.halts and DRAWDOWN in lifted else book.peak,
            )
        case TradingEnded():
            return msgspec.structs.replace(book, ended=event.reason)
        case BookOpened():
            return Book(
                cash=event.cash,
                currency=event.currency,
                margin_pct=event.margin_pct,
                instruments={instrument.symbol: instrument for instrument in event.instruments},
                day_equity=event.cash,
                last_equity=event.cash,
                peak=event.cash,
            )
        case _:
            assert_never(event)


def worst_marks(book: Book, closed: Iterable[Bar], marks: Mapping[Symbol, Decimal]) -> dict[Symbol, Decimal]:
    """Return the marks with the worst price of each position's closed bar: low for a long, high for a short.

    The order of these prices across symbols is unknown, so all of them are assumed at once.
    """
    worst = dict(marks)
    for bar in closed:
        position = book.positions.get(bar.symbol)
        if position is not None:
            worst[bar.symbol] = bar.low if position.quantity > 0 else bar.high
    return worst


def with_close(book: Book, marks: Mapping[Symbol, Decimal]) -> Book:
    """Return the book after a close at these prices. Raise `KeyError` if one is missing."""
    equity = book.equity(marks)
    return msgspec.structs.replace(book, last_equity=equity, peak=max(book.peak, equity))


def mark_positions(
    book: Book, at: datetime, marks: Mapping[Symbol, Decimal], occasion: Literal["roll", "halt", "end"]
) -> PositionsMarked:
    """Return the event that marks all positions at these prices. Raise `KeyError` if one is missing."""
    held = [symbol for symbol in book.instruments if symbol in book.positions]
    quotes = dict.fromkeys(book.instruments[symbol].quote for symbol in held)
    rates = [f"{quote}-{book.currency}" for quote in quotes if quote != book.currency]
    return PositionsMarked(
        at,
        occasion,
        book.equity(marks),
        book.cash,
        tuple((symbol, marks[symbol]) for symbol in held),
        tuple((symbol, marks[symbol]) for symbol in rates),
    )


def _apply_signal(book: Book, signal: SignalRaised) -> Book:
    at, counts = book.raised
    now = dict(counts) if at == signal.at else {}
    now[signal.symbol] = now.get(signal.symbol, 0) + 1
    return msgspec.structs.replace(book, raised=(signal.at, now))


def _apply_order(book: Book, order: OrderPlaced) -> Book:
    working = {**book.working, order.order_id: order}
    if order.role != "entry":
        return msgspec.structs.replace(book, working=working)
    recent = tuple(at for at in book.placed if at > order.at - ROLLING)
    return msgspec.structs.replace(book, working=working, placed=(*recent, order.at))


# --- Fills --------------------------------------------------------------------------------------------------------


def closing_units(held: Decimal, side: Side, quantity: Decimal) -> Decimal:
    """Return the part of a trade's quantity that reduces the position; the rest opens or adds."""
    opposite = held < 0 if side is Side.BUY else held > 0
    return min(quantity, magnitude(held)) if opposite else ZERO


def _apply_fill(book: Book, fill: OrderFilled) -> Book:
    order = book.working[fill.order_id]
    before = book.positions.get(fill.symbol)
    after, realised, result = _position_after_fill(before, fill, order.holding_bars)
    others = _without(book.positions, fill.symbol)
    spent = fill.notional if fill.side is Side.BUY else neg(fill.notional)
    losses, lost_at = book.losses, book.lost_at
    if result is not None:
        losses, lost_at = (losses + 1, fill.at) if result < 0 else (0, lost_at)
    filled = msgspec.structs.replace(
        book,
        cash=sub(sub(book.cash, spent), fill.commission),
        fees=add(book.fees, fill.commission),
        realised=add(book.realised, realised),
        positions=others if after is None else {**others, fill.symbol: after},
        working=_reduce_working(
            book.working, order, fill.quantity, closing_units(book.held(fill.symbol), fill.side, fill.quantity)
        ),
        losses=losses,
        lost_at=lost_at,
    )
    if fill.quantity == order.quantity:
        return filled
    return _cap_reservation(filled, order, sub(book.cash_unreserved, filled.cash_unreserved))


def _cap_reservation(book: Book, before: OrderPlaced, used: Decimal) -> Book:
    """Limit the reservation of a partly filled order to the part that its fill has not used.

    If a fill costs more than its share, the rest would otherwise reserve cash that has been spent.
    """
    rest = book.working.get(before.order_id)
    left = max(ZERO, sub(before.reserved, used))
    if rest is None or rest.reserved <= left:
        return book
    reduced = msgspec.structs.replace(rest, reserved=left)
    return msgspec.structs.replace(book, working={**book.working, rest.order_id: reduced})


def _reduce_working(
    working: Mapping[str, OrderPlaced], order: OrderPlaced, quantity: Decimal, closed: Decimal
) -> dict[str, OrderPlaced]:
    """Return the working orders after a fill, which reduces the order itself and those paired with it."""
    left = dict(working)
    if quantity == order.quantity:
        del left[order.order_id]
    else:
        left[order.order_id] = _remaining(order, quantity, closed)
    if order.pair:
        for other in working.values():
            if other.pair == order.pair and other is not order:
                left[other.order_id] = _remaining(other, quantity, quantity)
    return left


def _remaining(order: OrderPlaced, filled: Decimal, closed: Decimal) -> OrderPlaced:
    """Return an order less its filled quantity, of which `closed` reduced the position."""
    quantity = max(ZERO, sub(order.quantity, filled))
    return msgspec.structs.replace(
        order,
        quantity=quantity,
        closing=min(quantity, max(ZERO, sub(order.closing, closed))),
        reserved=prorate(order.reserved, quantity, order.quantity),
    )


def _position_after_fill(
    held: Position | None, fill: OrderFilled, holding_bars: int | None
) -> tuple[Position | None, Decimal, Decimal | None]:
    """Return the position after a fill, the realized profit before commission, and the net result of a completed
    round trip, if any.

    Cost is averaged: a partial close takes its proportional share of the cost.
    """
    buys = fill.side is Side.BUY
    signed = fill.quantity if buys else neg(fill.quantity)
    paid = fill.notional if buys else neg(fill.notional)
    if held is None:
        opened = Position(fill.symbol, signed, paid, fill.bar_opened_at, holding_bars, neg(fill.commission))
        return opened, ZERO, None
    units = magnitude(held.quantity)
    closing = closing_units(held.quantity, fill.side, fill.quantity)
    if closing == 0:
        return (
            _adjusted_position(held, add(held.quantity, signed), add(held.cost, paid), neg(fill.commission)),
            ZERO,
            None,
        )
    if closing < units:
        cost_out = prorate(held.cost, closing, units)
        realised = neg(add(paid, cost_out))
        rest = _adjusted_position(
            held, add(held.quantity, signed), sub(held.cost, cost_out), sub(realised, fill.commission)
        )
        return rest, realised, None
    if closing == fill.quantity:
        realised = neg(add(paid, held.cost))
        return None, realised, sub(add(held.result, realised), fill.commission)
    paid_to_close = prorate(paid, closing, fill.quantity)
    fee_to_close = prorate(fill.commission, closing, fill.quantity)
    realised = neg(add(paid_to_close, held.cost))
    reversed_position = Position(
        fill.symbol,
        add(held.quantity, signed),
        sub(paid, paid_to_close),
        fill.bar_opened_at,
        holding_bars,
        sub(fee_to_close, fill.commission),
    )
    return reversed_position, realised, sub(add(held.result, realised), fee_to_close)


def _adjusted_position(held: Position, quantity: Decimal, cost: Decimal, result: Decimal) -> Position:
    return Position(held.symbol, quantity, cost, held.opened_at, held.holding_bars, add(held.result, result))


def _without(mapping: Mapping[str, V], key: str) -> dict[str, V]:
    rest = dict(mapping)
    rest.pop(key, None)
    return rest
