"""One step of market time through the book. Pure: everything it looks at is an argument.

At instant T the session first takes what the broker did inside the bars that close at T. Then, here, in this order:
a session roll at T; what the closes mean (loss and drawdown breakers, margin); halts by persons; exits that are due;
the wishes in symbol order, each approved order reserving cash for the next. Last come the opens of the bars that begin
at T, at the broker again. A wish made from the close at T can so be filled at T's next open, never at the price it was
made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec

from engine import exits, risk
from engine.book import Book, closing_units, evolve
from engine.calendars import session_end
from engine.config import RunConfig
from engine.events import (
    AT_MARKET,
    BookEvent,
    BookOpened,
    OrderCanceled,
    OrderPlaced,
    OrderReplaced,
    OrderTerms,
    PositionsMarked,
    Protection,
    RiskDecided,
    SignalRaised,
    Source,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.fills import on_tick
from engine.market import Direction, OrderType, Side, Symbol, TimeInForce
from engine.money import ONE, ZERO, add, bps_of, is_exact, neg, percent_of, size, sub
from engine.orders import Wish, order_id, signal_id
from engine.risk import Proposal
from engine.sizing import target_quantity
from engine.step import Step

Command = TradingHalted | TradingResumed
"""What a person tells an account. Its `at` is set to the instant from which it holds."""


def open_book(config: RunConfig, config_digest: str, at: datetime) -> BookOpened:
    return BookOpened(at, config.cash, config.currency, config.instruments, config_digest, config.shorting.margin_pct)


def close_book(book: Book, at: datetime, marks: Mapping[Symbol, Decimal]) -> PositionsMarked:
    """The last fact of a run: what everything is worth at its end. Positions stay open."""
    return _marked(book, at, marks, "end")


def decide(
    book: Book, step: Step, wishes: Sequence[Wish], config: RunConfig, commands: Sequence[Command] = ()
) -> tuple[BookEvent, ...]:
    """The events that follow from the closes at one instant. `commands` are what persons told since the last one."""
    made: list[BookEvent] = []
    # Persons first: a resume lifts what its author could have seen, not what this very close sets off.
    for command in commands:
        book = _record(book, _obey(book, step, command, config), made)
    if config.limits.daily_loss_pct is not None or config.limits.drawdown_pct is not None:
        book = _record(book, _breakers(book, step, config), made)
    if book.positions:
        book = _record(book, _exits(book, step, wishes, config), made)
    for wish in wishes:
        book = _record(book, _act(book, step, wish, config), made)
    return tuple(made)


def _record(book: Book, events: Iterable[BookEvent], made: list[BookEvent]) -> Book:
    for event in events:
        made.append(event)
        book = evolve(book, event)
    return book


# --- Session roll -------------------------------------------------------------------------------------------------


def roll_due(at: datetime, previous_at: datetime | None, hour: int) -> datetime | None:
    """The latest session roll after the previous step, up to this one."""
    if previous_at is None:
        return None
    roll = at.replace(hour=hour, minute=0, second=0, microsecond=0)
    if roll > at:
        roll -= timedelta(days=1)
    return roll if roll > previous_at else None


def roll(book: Book, at: datetime, marks: Mapping[Symbol, Decimal]) -> Iterator[BookEvent]:
    """A new session begins: everything is marked, and the day's loss counts from here."""
    yield _marked(book, at, marks, "roll")
    if DAILY_LOSS in book.halts:
        yield TradingResumed(at, "a new session began", SESSION_ROLL, (DAILY_LOSS,))


def _marked(
    book: Book, at: datetime, marks: Mapping[Symbol, Decimal], occasion: Literal["roll", "halt", "end"]
) -> PositionsMarked:
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


# --- Halts --------------------------------------------------------------------------------------------------------

DAILY_LOSS = "daily_loss"
DRAWDOWN = "drawdown"
SESSION_ROLL = "session_roll"
RULES = (DAILY_LOSS, DRAWDOWN, SESSION_ROLL)
"""Who halts and resumes in a book by itself. Every other actor there was told."""


def _breakers(book: Book, step: Step, config: RunConfig) -> Iterator[BookEvent]:
    """Halts that the closes themselves set. The day's loss ends with the session, a drawdown when a person says so."""
    limits, marked = config.limits, False
    day_limit = risk.daily_loss_limit(book, config)
    if day_limit is not None and DAILY_LOSS not in book.halts:
        loss = sub(book.day_equity, book.equity(step.marks))
        if loss >= day_limit > 0:
            marked = True
            reason = f"lost {loss} since the session roll, the limit is {day_limit}"
            yield _marked(book, step.at, step.marks, "halt")
            halted = TradingHalted(step.at, "entries", reason, DAILY_LOSS)
            for event in _halt(book, step, halted, config):
                book = evolve(book, event)
                yield event
    if limits.drawdown_pct is not None and step.peak is not None and DRAWDOWN not in book.halts:
        lost, most = sub(step.peak, book.equity(step.marks)), percent_of(step.peak, limits.drawdown_pct)
        if lost >= most > 0:
            reason = f"fell {lost} below the highest equity, {step.peak}, the limit is {most}"
            if not marked:
                yield _marked(book, step.at, step.marks, "halt")
            yield from _halt(book, step, TradingHalted(step.at, "entries", reason, DRAWDOWN), config)


def _obey(book: Book, step: Step, command: Command, config: RunConfig) -> Iterator[BookEvent]:
    if isinstance(command, TradingResumed):
        yield TradingResumed(step.at, command.reason, command.actor, command.lifted)
    else:
        halted = TradingHalted(step.at, command.scope, command.reason, command.actor)
        yield from _halt(book, step, halted, config)


def _halt(book: Book, step: Step, halted: TradingHalted, config: RunConfig) -> Iterator[BookEvent]:
    """A halt, and the end of every entry that works. What one of them was to close is closed all the same."""
    entries = [order for order in book.working.values() if not order.is_exit]
    ends = [
        OrderCanceled(order.order_id, order.symbol, halted.at, f"{halted.scope} halted by {halted.actor}")
        for order in entries
    ]
    for event in (halted, *ends):
        book = evolve(book, event)
        yield event
    for order in entries:
        if closing_units(book.held(order.symbol), order.side, order.closing) > 0:
            yield from _give_up(book, step, order.symbol, "halt", config)


# --- Exits --------------------------------------------------------------------------------------------------------


def _exits(book: Book, step: Step, wishes: Sequence[Wish], config: RunConfig) -> Iterator[BookEvent]:
    sources: dict[Symbol, Source] = {}
    if exits.margin_called(book, step, config):
        sources = {s: "margin_call" for s, held in book.positions.items() if held.direction is Direction.SHORT}
    for bar in step.closed:
        source = exits.due(book, bar.symbol, step, config)
        # Where the symbol's own wish leaves the position at this very close, one order does both.
        if source is not None and not any(w.symbol == bar.symbol and _leaves(book, step, w, config) for w in wishes):
            sources.setdefault(bar.symbol, source)
    for symbol, source in sources.items():
        if risk.leaving_by(book, symbol) is not None:
            continue
        for order in book.orders_of(symbol):
            if order.role == "entry":
                canceled = OrderCanceled(order.order_id, symbol, step.at, f"the position is given up: {source}")
                book = evolve(book, canceled)
                yield canceled
        for event in _give_up(book, step, symbol, source, config):
            book = evolve(book, event)
            yield event


def _give_up(book: Book, step: Step, symbol: Symbol, source: Source, config: RunConfig) -> Iterator[BookEvent]:
    """The way out of a position at the next open, for a reason of the book's own."""
    signal = SignalRaised(
        signal_id=signal_id(symbol, step.at, 1 + _earlier(book, step, symbol)),
        symbol=symbol,
        at=step.at,
        direction=Direction.FLAT,
        confidence=ONE,
        reference_price=step.marks[symbol],
        source=source,
    )
    yield from _pursue(book, step, signal, Plan(*_way_out(book, symbol)), config)


def _leaves(book: Book, step: Step, wish: Wish, config: RunConfig) -> bool:
    """Whether a wish ends the position at the next open. A reversal that is denied, or waits for a price, does not."""
    held = book.direction(wish.symbol)
    if held is Direction.FLAT or wish.direction in (Direction.HOLD, held):
        return False
    if wish.direction is Direction.FLAT:
        return True
    order_type = config.entry_of(wish.symbol).order_type if wish.entry is None else wish.entry.order_type
    flaw = flaw_of(wish, step.marks.get(wish.symbol))
    return config.limits.reversal and order_type is OrderType.MARKET and not flaw


# --- Wishes -------------------------------------------------------------------------------------------------------


class Plan:
    """How a signal is to become an order: side, quantity, and what goes with it."""

    __slots__ = ("flaw", "holding_bars", "protection", "quantity", "replaces", "side", "terms")

    def __init__(
        self,
        side: Side,
        quantity: Decimal,
        terms: OrderTerms = AT_MARKET,
        protection: Protection | None = None,
        holding_bars: int | None = None,
        flaw: str = "",
        replaces: OrderPlaced | None = None,
    ) -> None:
        self.side, self.quantity, self.terms, self.protection = side, quantity, terms, protection
        self.holding_bars, self.flaw, self.replaces = holding_bars, flaw, replaces


def _act(book: Book, step: Step, wish: Wish, config: RunConfig) -> Iterator[BookEvent]:
    if wish.direction is Direction.HOLD:
        return
    orders = book.orders_of(wish.symbol) if book.working else []
    if not orders and _is_there(book, wish, config):
        return
    flaw = flaw_of(wish, step.marks.get(wish.symbol))
    if flaw:
        signal = _signal(book, step, wish, confidence=ZERO)
        side = Side.SELL if wish.direction is Direction.SHORT else Side.BUY
        yield from _pursue(book, step, signal, Plan(side, ZERO, flaw=flaw), config)
        return
    for order in _contrary(orders, wish):
        canceled = OrderCanceled(order.order_id, order.symbol, step.at, f"{wish.direction} is wished instead")
        book = evolve(book, canceled)
        yield canceled
    working = next((order for order in book.orders_of(wish.symbol) if order.role == "entry"), None)
    terms = _terms(step, wish, config)
    if working is not None and (wish.entry is None or working.terms == terms):
        return
    if working is None and _is_there(book, wish, config):
        return
    sure = ONE if wish.direction is Direction.FLAT else wish.confidence
    signal = _signal(book, step, wish, confidence=sure)
    yield from _pursue(book, step, signal, _plan(book, step, wish, terms, config, working), config)


def _contrary(orders: Sequence[OrderPlaced], wish: Wish) -> list[OrderPlaced]:
    """The working entries of a wish's symbol that lead elsewhere."""
    side = {Direction.LONG: Side.BUY, Direction.SHORT: Side.SELL}.get(wish.direction)
    return [order for order in orders if order.role == "entry" and order.side is not side]


def _is_there(book: Book, wish: Wish, config: RunConfig) -> bool:
    """Whether the position is, or is about to be, where the wish wants it."""
    if wish.direction is Direction.FLAT:
        return wish.symbol not in book.positions or risk.leaving_by(book, wish.symbol) is not None
    return wish.direction is book.direction(wish.symbol) and not config.pyramid


def _signal(book: Book, step: Step, wish: Wish, confidence: Decimal) -> SignalRaised:
    usable = confidence is wish.confidence and wish.direction is not Direction.FLAT
    return SignalRaised(
        signal_id=signal_id(wish.symbol, step.at, 1 + _earlier(book, step, wish.symbol)),
        symbol=wish.symbol,
        at=step.at,
        direction=wish.direction,
        confidence=confidence,
        reference_price=step.marks[wish.symbol],
        source="analysis",
        analysis_id=wish.analysis_id,
        analysis_version=wish.analysis_version,
        horizon_bars=wish.horizon_bars,
        stop=wish.stop if usable else None,
        target=wish.target if usable else None,
    )


def _earlier(book: Book, step: Step, symbol: Symbol) -> int:
    """How many signals the symbol has had at this instant already."""
    at, counts = book.raised
    return counts.get(symbol, 0) if at == step.at else 0


def flaw_of(wish: Wish, last: Decimal | None) -> str:
    """What is wrong with a wish's numbers; empty when nothing is. `last`: the last close, if the prices are judged.

    An analysis is made by people, programs and models: what cannot be meant is denied, and never guessed at.
    """
    if wish.direction is Direction.FLAT:
        # It asks for nothing but to leave: whatever numbers come with it mean nothing.
        return ""
    if not is_exact(wish.confidence) or not 0 <= wish.confidence <= 1:
        return f"confidence {wish.confidence} is not from 0 to 1"
    for name, number in (("stop", wish.stop), ("target", wish.target), ("risk-reward", wish.risk_reward)):
        if number is not None and (not is_exact(number) or number <= 0):
            return f"{name} {number} is not above 0"
    if wish.horizon_bars is not None and wish.horizon_bars < 1:
        return f"horizon {wish.horizon_bars} is not a number of bars"
    entry = wish.entry
    if entry is not None and (flaw := _flaw_of_terms(entry)):
        return flaw
    if last is None:
        return ""
    side = Side.BUY if wish.direction is Direction.LONG else Side.SELL
    reference = last if entry is None else risk.reference_of(side, entry, last)
    return "" if reference is None else exits.unprotectable(wish, reference)


_NEEDED: dict[OrderType, tuple[str, ...]] = {
    OrderType.MARKET: (),
    OrderType.LIMIT: ("limit_price",),
    OrderType.STOP: ("stop_price",),
    OrderType.STOP_LIMIT: ("limit_price", "stop_price"),
    OrderType.TRAILING_STOP: ("stop_price", "trail"),
}
_ENTERS = (OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT)


def _flaw_of_terms(terms: OrderTerms, allowed: Sequence[OrderType] = _ENTERS) -> str:
    needed = _NEEDED[terms.order_type]
    if terms.order_type not in allowed:
        return f"{terms.order_type} is no order to enter with"
    for name in ("limit_price", "stop_price", "trail"):
        price = getattr(terms, name)
        if (price is not None) is not (name in needed):
            return f"{terms.order_type} order {'without' if price is None else 'with'} a {name.replace('_', ' ')}"
        if price is not None and price <= 0:
            return f"{name.replace('_', ' ')} {price} is not above 0"
    if (terms.time_in_force is TimeInForce.GTD) is (terms.expires_at is None):
        return f"{terms.time_in_force} order {'without' if terms.expires_at is None else 'with'} an end"
    return ""


def _terms(step: Step, wish: Wish, config: RunConfig) -> OrderTerms:
    """How the order of a wish is executed: as the wish says, else as the profile does."""
    return _ended(step, wish.symbol, wish.entry or _profile_terms(step, wish, config), config)


def _ended(step: Step, symbol: Symbol, given: OrderTerms, config: RunConfig) -> OrderTerms:
    """The same terms; those of an order for the day with the end of its session."""
    if given.time_in_force is not TimeInForce.DAY or given.expires_at is not None:
        return given
    calendar = config.instrument(symbol).calendar
    ends = session_end(calendar, step.at, config.session_roll_hour)
    return OrderTerms(given.order_type, given.limit_price, given.stop_price, given.trail, given.time_in_force, ends)


def _profile_terms(step: Step, wish: Wish, config: RunConfig) -> OrderTerms:
    entry = config.entry_of(wish.symbol)
    if entry.order_type is OrderType.MARKET and entry.time_in_force is TimeInForce.GTC:
        return AT_MARKET
    expires_at = None if entry.valid_bars is None else step.at + entry.valid_bars * config.timeframe.duration
    last, instrument = step.marks[wish.symbol], config.instrument(wish.symbol)
    side = Side.SELL if wish.direction is Direction.SHORT else Side.BUY
    other = Side.BUY if side is Side.SELL else Side.SELL
    offset = bps_of(last, entry.offset_bps)
    limit = stop = None
    if entry.order_type is OrderType.LIMIT:
        # A limit waits for a better price, and is rounded to an even better one: so a buy's like a sale's price.
        limit = on_tick(other, sub(last, offset) if side is Side.BUY else add(last, offset), instrument)
    elif entry.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        stop = on_tick(side, add(last, offset) if side is Side.BUY else sub(last, offset), instrument)
        if entry.order_type is OrderType.STOP_LIMIT:
            beyond = bps_of(last, entry.limit_offset_bps)
            limit = on_tick(side, add(stop, beyond) if side is Side.BUY else sub(stop, beyond), instrument)
    return OrderTerms(entry.order_type, limit, stop, None, entry.time_in_force, expires_at)


def _plan(
    book: Book, step: Step, wish: Wish, terms: OrderTerms, config: RunConfig, working: OrderPlaced | None
) -> Plan:
    """Side and quantity that lead from what is held to what the wish wants, and what goes with the order."""
    symbol = wish.symbol
    if wish.direction is Direction.FLAT:
        return Plan(*_way_out(book, symbol))
    side = Side.BUY if wish.direction is Direction.LONG else Side.SELL
    reference = risk.reference_of(side, terms, step.marks[symbol])
    probe = Proposal(book, config, step, symbol, side, ONE, terms)
    if reference is None or probe.cost is None or probe.rate is None or probe.equity is None:
        return Plan(side, ZERO, terms)
    # A short is worth its price before slippage: see the position cap.
    price = max(probe.cost.price, reference)
    wanted = target_quantity(probe.equity, price, wish.confidence, book.instruments[symbol], config, probe.rate)
    own = config.exits_of(symbol)
    opposite = max(ZERO, book.held(symbol) if side is Side.SELL else neg(book.held(symbol)))
    if working is not None:
        # An amended order asks for what is still missing: a part of it may have been filled before.
        missing = sub(working.quantity, working.closing)
        wanted = (
            missing if config.pyramid else max(ZERO, sub(wanted, size(book.held(symbol)) if not opposite else ZERO))
        )
    protection = exits.protection(wish, reference, step.ranges.get(symbol, ()), own)
    return Plan(side, add(wanted, opposite), terms, protection, exits.holding_bars(own, wish), replaces=working)


def _way_out(book: Book, symbol: Symbol) -> tuple[Side, Decimal]:
    held = book.held(symbol)
    return (Side.SELL if held > 0 else Side.BUY), size(held)


# --- Persons ------------------------------------------------------------------------------------------------------


class Ticket(msgspec.Struct, frozen=True):
    """An order as a person asks for it. `replaces`: the id of the working order that it amends."""

    symbol: Symbol
    side: Side
    quantity: Decimal
    terms: OrderTerms = AT_MARKET
    protection: Protection | None = None
    replaces: str = ""


def submit(book: Book, step: Step, ticket: Ticket, config: RunConfig) -> tuple[BookEvent, ...]:
    """What follows from a person's order: the same signal, verdict and order as from a wish, through the same gate."""
    working = book.working.get(ticket.replaces)
    quantity = ticket.quantity if is_exact(ticket.quantity) else ZERO
    flaw = _flaw_of_ticket(book, step, ticket, working)
    resulting = add(book.held(ticket.symbol), quantity if ticket.side is Side.BUY else neg(quantity))
    sides = {1: Direction.LONG, 0: Direction.FLAT, -1: Direction.SHORT}
    signal = SignalRaised(
        signal_id=signal_id(ticket.symbol, step.at, 1 + _earlier(book, step, ticket.symbol)),
        symbol=ticket.symbol,
        at=step.at,
        direction=sides[(resulting > 0) - (resulting < 0)],
        confidence=ONE,
        reference_price=step.marks[ticket.symbol],
        source="person",
    )
    plan = Plan(
        ticket.side,
        ticket.quantity,
        _ended(step, ticket.symbol, ticket.terms, config),
        ticket.protection or (None if working is None else working.protection),
        config.exits_of(ticket.symbol).holding_bars,
        flaw,
        None if flaw else working,
    )
    return tuple(_pursue(book, step, signal, plan, config))


def _flaw_of_ticket(book: Book, step: Step, ticket: Ticket, working: OrderPlaced | None) -> str:
    """What is wrong with a person's order; empty when nothing is."""
    if not is_exact(ticket.quantity):
        return f"quantity {ticket.quantity} is no amount"
    if ticket.replaces:
        if working is None or (working.symbol, working.side) != (ticket.symbol, ticket.side):
            return f"there is no working order {ticket.replaces} to {ticket.side} {ticket.symbol}"
        reduces = closing_units(book.held(ticket.symbol), ticket.side, ticket.quantity) == ticket.quantity
        if working.is_exit is not reduces:
            return f"{ticket.replaces} is {'an exit' if working.is_exit else 'an entry'}, and this order is none"
    flaw = _flaw_of_terms(ticket.terms, tuple(OrderType))
    reference = risk.reference_of(ticket.side, ticket.terms, step.marks.get(ticket.symbol))
    if flaw or ticket.protection is None or reference is None:
        return flaw
    direction = Direction.LONG if ticket.side is Side.BUY else Direction.SHORT
    wish = Wish(ticket.symbol, direction, ONE, "", stop=ticket.protection.stop, target=ticket.protection.target)
    return exits.unprotectable(wish, reference)


# --- Orders -------------------------------------------------------------------------------------------------------


def _pursue(book: Book, step: Step, signal: SignalRaised, plan: Plan, config: RunConfig) -> Iterator[BookEvent]:
    """Signal, verdict and, if it may be, the order."""
    yield signal
    proposal = Proposal(
        book, config, step, signal.symbol, plan.side, plan.quantity, plan.terms, plan.flaw, plan.replaces
    )
    ruling = risk.judge(proposal)
    yield RiskDecided(
        signal_id=signal.signal_id,
        symbol=signal.symbol,
        at=signal.at,
        verdict=ruling.verdict,
        side=plan.side,
        requested=proposal.quantity,
        quantity=ruling.quantity,
        reason=ruling.reason,
        checks=ruling.checks,
    )
    if ruling.verdict is Verdict.DENIED:
        return
    agreed = proposal if ruling.quantity == plan.quantity else proposal.of(ruling.quantity)
    exit_only = agreed.reduces_only
    amended = plan.replaces
    # Where only the closing half of a wish's entry is left, it does not wait for the entry's price.
    halved = exit_only and ruling.quantity != plan.quantity and signal.source != "person"
    number = int(signal.signal_id.rpartition("-")[2])
    order = OrderPlaced(
        order_id=order_id(signal.symbol, signal.at, number),
        signal_id=signal.signal_id,
        analysis_id=signal.analysis_id,
        symbol=signal.symbol,
        at=signal.at,
        side=plan.side,
        quantity=ruling.quantity,
        reference_price=signal.reference_price,
        reserved=ZERO if exit_only else risk.entry_cash(agreed),
        closing=agreed.closing,
        holding_bars=None if exit_only else plan.holding_bars,
        role=amended.role if amended is not None and exit_only else "exit" if exit_only else "entry",
        terms=AT_MARKET if halved else plan.terms,
        protection=None if exit_only else plan.protection,
        pair="" if amended is None else amended.pair,
        replaces="" if amended is None else amended.order_id,
    )
    if amended is not None:
        yield OrderReplaced(amended.order_id, signal.symbol, signal.at, order.order_id)
    yield order
