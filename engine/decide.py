"""One step of market time through the book. Pure: everything it looks at is an argument.

At instant T, in this order: a session roll before T; what the bars closing at T mean (a roll at T, the daily-loss
breaker); exits that are due, then the wishes in symbol order, each approved order reserving cash for the next; then
the fills at the opens of the bars that begin at T. A wish made from the close at T can so be filled at T's next open,
never at the price it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec

from engine import exits, risk
from engine.book import Book, evolve
from engine.config import RunConfig
from engine.events import (
    BookEvent,
    BookOpened,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    PositionsMarked,
    RiskDecided,
    SignalRaised,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.fills import fill, slipped
from engine.market import Bar, Direction, Side, Symbol
from engine.money import ONE, ZERO, add, neg, size, sub
from engine.orders import Wish, order_id, signal_id
from engine.sizing import target_quantity


class Step(msgspec.Struct, frozen=True, gc=False):
    """What the market shows at one instant.

    closed: bars that end at `at`; opened: (symbol, open price) of bars that begin at `at`; both in symbol order.
    marks: last known close of each symbol, those of `closed` included; marks_before: without them.
    bars_held: for each symbol with a position, how many of its bars have closed since it was opened.
    """

    at: datetime
    previous_at: datetime | None
    closed: tuple[Bar, ...]
    opened: tuple[tuple[Symbol, Decimal], ...]
    marks: Mapping[Symbol, Decimal]
    marks_before: Mapping[Symbol, Decimal]
    bars_held: Mapping[Symbol, int]


def open_book(config: RunConfig, config_digest: str, at: datetime) -> BookOpened:
    return BookOpened(at, config.cash, config.currency, config.instruments, config_digest)


def close_book(book: Book, at: datetime, marks: Mapping[Symbol, Decimal]) -> PositionsMarked:
    """The last fact of a run: what everything is worth at its end. Positions stay open."""
    return _marked(book, at, marks, "end")


def decide(
    book: Book, step: Step, wishes: Sequence[Wish], config: RunConfig, halts: Sequence[TradingHalted] = ()
) -> tuple[BookEvent, ...]:
    """The events of one step. `halts` are those in force for the account, from outside this book."""
    made: list[BookEvent] = []
    book = _record(book, _roll(book, step, config), made)
    book = _record(book, _breaker(book, step, config), made)
    book = _record(book, _exits(book, step, wishes, config), made)
    for wish in wishes:
        book = _record(book, _act(book, step, wish, config, halts), made)
    for symbol, price in step.opened:
        book = _record(book, fills_at_open(book, symbol, price, step.at, config), made)
    return tuple(made)


def _record(book: Book, events: Iterable[BookEvent], made: list[BookEvent]) -> Book:
    for event in events:
        made.append(event)
        book = evolve(book, event)
    return book


# --- Session roll and breaker -------------------------------------------------------------------------------------


def roll_due(step: Step, hour: int) -> datetime | None:
    """The latest session roll after the previous step, up to this one."""
    if step.previous_at is None:
        return None
    roll = _latest_roll(step.at, hour)
    return roll if roll > step.previous_at else None


def _latest_roll(at: datetime, hour: int) -> datetime:
    roll = at.replace(hour=hour, minute=0, second=0, microsecond=0)
    return roll if roll <= at else roll - timedelta(days=1)


def _roll(book: Book, step: Step, config: RunConfig) -> Iterator[BookEvent]:
    roll = roll_due(step, config.session_roll_hour)
    if roll is None:
        return
    # Bars that close at the roll itself belong to the day that ends; those that close later are not known at it.
    yield _marked(book, roll, step.marks if roll == step.at else step.marks_before, "roll")
    if book.halt is not None:
        yield TradingResumed(roll, book.halt.scope, "a new session began", "session_roll")


def _breaker(book: Book, step: Step, config: RunConfig) -> Iterator[BookEvent]:
    limit = risk.daily_loss_limit(book, config)
    if limit is None or book.halt is not None or not book.positions:
        return
    equity = book.equity(step.marks)
    loss = sub(book.day_equity, equity)
    if loss >= limit > 0:
        yield _marked(book, step.at, step.marks, "halt")
        reason = f"lost {loss} since the session roll, the limit is {limit}"
        yield TradingHalted(step.at, "entries", reason, "daily_loss")


def _marked(
    book: Book, at: datetime, marks: Mapping[Symbol, Decimal], occasion: Literal["roll", "halt", "end"]
) -> PositionsMarked:
    used = tuple((symbol, marks[symbol]) for symbol in book.instruments if symbol in book.positions)
    return PositionsMarked(at, occasion, book.equity(marks), book.cash, used)


# --- Exits and wishes ---------------------------------------------------------------------------------------------


def _exits(book: Book, step: Step, wishes: Sequence[Wish], config: RunConfig) -> Iterator[BookEvent]:
    # Where the symbol's own wish leaves the position at this very close, one order does both.
    leaving = {wish.symbol for wish in wishes if _leaves(book, wish, config)}
    for bar in step.closed:
        held = step.bars_held.get(bar.symbol, 0)
        if bar.symbol in leaving or book.working_for(bar.symbol) or not exits.overdue(book, bar.symbol, held):
            continue
        signal = SignalRaised(
            signal_id=signal_id(bar.symbol, step.at),
            symbol=bar.symbol,
            at=step.at,
            direction=Direction.FLAT,
            confidence=ONE,
            reference_price=step.marks[bar.symbol],
            source="holding_time",
        )
        for event in _pursue(book, signal, step, config, (), None):
            book = evolve(book, event)
            yield event


def _leaves(book: Book, wish: Wish, config: RunConfig) -> bool:
    """Whether a wish ends the position. One for the other side does not where reversals are denied: the exit must."""
    held = book.direction(wish.symbol)
    if held is Direction.FLAT or wish.direction in (Direction.HOLD, held):
        return False
    return wish.direction is Direction.FLAT or config.limits.reversal


def _act(book: Book, step: Step, wish: Wish, config: RunConfig, halts: Sequence[TradingHalted]) -> Iterator[BookEvent]:
    if wish.direction is Direction.HOLD:
        return
    if wish.direction is book.direction(wish.symbol) and not (config.pyramid and wish.direction is not Direction.FLAT):
        return
    taken = book.working_for(wish.symbol)
    signal = SignalRaised(
        signal_id=signal_id(wish.symbol, step.at, 2 if taken is not None and taken.at == step.at else 1),
        symbol=wish.symbol,
        at=step.at,
        direction=wish.direction,
        confidence=wish.confidence,
        reference_price=step.marks[wish.symbol],
        source="analysis",
        analysis_id=wish.analysis_id,
        analysis_version=wish.analysis_version,
        horizon_bars=wish.horizon_bars,
    )
    yield from _pursue(book, signal, step, config, halts, exits.holding_bars(config.exits, wish))


def _pursue(
    book: Book,
    signal: SignalRaised,
    step: Step,
    config: RunConfig,
    halts: Sequence[TradingHalted],
    hold: int | None,
) -> Iterator[BookEvent]:
    """Signal, verdict and, if it may be, the order."""
    yield signal
    side, quantity, equity = _sized(book, signal, step, config)
    instrument = book.instruments[signal.symbol]
    proposal = risk.propose(book, config, instrument, side, quantity, signal.reference_price, equity, halts)
    ruling = risk.judge(proposal)
    yield RiskDecided(
        signal_id=signal.signal_id,
        symbol=signal.symbol,
        at=signal.at,
        verdict=ruling.verdict,
        side=side,
        requested=quantity,
        quantity=ruling.quantity,
        reason=ruling.reason,
        checks=ruling.checks,
    )
    if ruling.verdict is Verdict.DENIED:
        return
    exit_only = ruling.quantity == proposal.closing
    yield OrderPlaced(
        order_id=order_id(signal.symbol, signal.at, int(signal.signal_id.rpartition("-")[2])),
        signal_id=signal.signal_id,
        analysis_id=signal.analysis_id,
        symbol=signal.symbol,
        at=signal.at,
        side=side,
        order_type="MARKET",
        quantity=ruling.quantity,
        reference_price=signal.reference_price,
        reserved=ZERO if exit_only else risk.entry_cash(proposal),
        holding_bars=None if exit_only else hold,
    )


def _sized(book: Book, signal: SignalRaised, step: Step, config: RunConfig) -> tuple[Side, Decimal, Decimal]:
    """Side and quantity that lead from what is held to what the signal wants, and the equity they were sized with."""
    held = book.held(signal.symbol)
    equity = book.equity(step.marks)
    if signal.direction is Direction.FLAT:
        return (Side.SELL if held > 0 else Side.BUY), size(held), equity
    side = Side.BUY if signal.direction is Direction.LONG else Side.SELL
    price = slipped(side, signal.reference_price, config.costs)
    wanted = target_quantity(equity, price, signal.confidence, book.instruments[signal.symbol], config)
    opposite = max(ZERO, held if side is Side.SELL else neg(held))
    return side, add(wanted, opposite), equity


# --- Fills --------------------------------------------------------------------------------------------------------


def fills_at_open(book: Book, symbol: Symbol, price: Decimal, at: datetime, config: RunConfig) -> Iterator[BookEvent]:
    """The symbol's working order meets the open of a bar: filled, filled in part, or refused for want of cash."""
    order = book.working_for(symbol)
    if order is None:
        return
    instrument = book.instruments[symbol]
    whole = fill(order, order.quantity, price, at, config.costs, instrument)
    required = _overdraft(book, whole)
    if required <= 0:
        yield whole
        return
    # The price moved away between decision and fill. What closes is filled all the same; what opens is refused.
    opposite = book.held(symbol) if order.side is Side.SELL else neg(book.held(symbol))
    if opposite > 0:
        yield fill(order, min(opposite, order.quantity), price, at, config.costs, instrument)
    free = add(book.free_cash, order.reserved)
    yield OrderRejected(order.order_id, symbol, at, "not enough free cash at the fill price", add(free, required), free)


def _overdraft(book: Book, whole: OrderFilled) -> Decimal:
    """By how much an entry would overdraw free cash; 0 for an order that only reduces."""
    after = evolve(book, whole)
    grows = size(after.held(whole.symbol)) > size(book.held(whole.symbol)) or (
        after.direction(whole.symbol) is not book.direction(whole.symbol)
        and after.direction(whole.symbol) is not Direction.FLAT
    )
    return max(ZERO, neg(after.free_cash)) if grows else ZERO
