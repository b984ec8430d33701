"""Laws of the book over any history: any bars, any wishes, any account.

A second account is kept here in fractions, from nothing but the numbers on the events, and compared with the book's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

from hypothesis import given, settings

from engine.book import Book, evolve, fold
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
from engine.feed.recorded import moments
from engine.fills import Market, fill
from engine.market import Direction, Side
from engine.money import exact
from engine.risk import RULES
from tests.strategies import History, Played, histories, play

E = TypeVar("E")
any_history = given(history=histories())
examples = settings(max_examples=70)
# What rounding to 12 decimals may add up to in a comparison of a rounded product with a fraction.
DUST = Fraction(1, 10**6)


class Account:
    """Cash, fees and quantities in fractions, from the fills alone."""

    def __init__(self, history: History) -> None:
        self.cash, self.fees = Fraction(history.config.cash), Fraction(0)
        self.held = dict.fromkeys(history.config.symbols, Fraction(0))
        self.multipliers = {i.symbol: Fraction(i.multiplier) for i in history.config.instruments}

    def take(self, filled: OrderFilled) -> None:
        sign = filled.side.sign
        self.cash -= sign * Fraction(filled.notional) + Fraction(filled.commission)
        self.fees += Fraction(filled.commission)
        self.held[filled.symbol] += sign * Fraction(filled.quantity)

    def equity(self, marks: dict[str, Decimal]) -> Fraction:
        return self.cash + sum(
            held * Fraction(marks[symbol]) * self.multipliers[symbol] for symbol, held in self.held.items() if held
        )


def steps(played: Played) -> Iterator[tuple[Book, BookEvent, Book]]:
    """Every event with the book before and after it."""
    before = Book()
    for event in played.events:
        after = evolve(before, event)
        yield before, event, after
        before = after


def of(kind: type[E], played: Played) -> list[E]:
    return [event for event in played.events if isinstance(event, kind)]


def marks_at(history: History, at: datetime) -> dict[str, Decimal]:
    """The last close of each symbol known at an instant."""
    return {bar.symbol: bar.close for bars in history.bars for bar in bars if bar.closed_at <= at}


def signed(order: OrderPlaced | OrderFilled) -> Decimal:
    return exact(order.side.sign * order.quantity)


def enters(before: Book, order: OrderPlaced | OrderFilled) -> bool:
    """Whether it leads away from zero, or across it."""
    held = before.held(order.symbol)
    after = held + signed(order)
    return after != 0 and (abs(after) > abs(held) or (after > 0) is not (held > 0))


def test_the_histories_reach_every_kind_of_trouble() -> None:
    seen: Counter[str] = Counter()

    @any_history
    @settings(max_examples=250)
    def watch(history: History) -> None:
        played = play(history)
        seen.update(type(event).__name__ for event in played.events)
        seen.update(event.verdict.value for event in of(RiskDecided, played))
        seen.update(check.rule for event in of(RiskDecided, played) for check in event.checks if not check.passed)
        seen.update(event.source for event in of(SignalRaised, played))
        seen.update(event.occasion for event in of(PositionsMarked, played))
        for before, event, after in steps(played):
            if isinstance(event, OrderFilled):
                turned = before.held(event.symbol) * after.held(event.symbol) < 0
                seen["reversal" if turned else "in part" if event.order_id in after.working else "whole"] += 1

    watch()
    wanted = {
        *{"quantity", "cash", "position_cap", "daily_loss", "incompatible_position", "halt"},
        *Verdict,
        "reversal",
        "in part",
        "holding_time",
        "roll",
        "halt",
        "OrderRejected",
        "TradingResumed",
    }
    assert {name for name in wanted if not seen[name]} == set()


@any_history
@examples
def test_folding_all_events_gives_the_book_that_decided(history: History) -> None:
    played = play(history)
    assert fold(played.events) == played.session.book
    half = len(played.events) // 2
    assert fold(played.events[half:], fold(played.events[:half])) == played.session.book


@any_history
@examples
def test_the_books_balance_exactly_after_every_event(history: History) -> None:
    account = Account(history)
    for _, event, after in steps(play(history)):
        if isinstance(event, OrderFilled):
            account.take(event)
        assert account.cash == Fraction(after.cash)
        assert account.fees == Fraction(after.fees)
        assert {symbol: held for symbol, held in account.held.items() if held} == {
            symbol: Fraction(position.quantity) for symbol, position in after.positions.items()
        }
        costs = sum(Fraction(position.cost) for position in after.positions.values())
        assert account.cash + costs + account.fees - Fraction(after.realised) == Fraction(history.config.cash)
        assert all(position.cost * position.quantity > 0 for position in after.positions.values())


@any_history
@examples
def test_an_entry_never_spends_more_than_the_free_cash(history: History) -> None:
    for before, event, after in steps(play(history)):
        if isinstance(event, OrderFilled) and enters(before, event):
            assert after.free_cash >= 0
        if isinstance(event, OrderRejected):
            assert event.required > event.available
            assert all(order.symbol != event.symbol for order in after.working.values())


@any_history
@examples
def test_an_entry_is_inside_every_limit_at_its_reference_price(history: History) -> None:
    config = history.config
    account = Account(history)
    for before, event, after in steps(play(history)):
        if isinstance(event, OrderFilled):
            account.take(event)
        if not isinstance(event, OrderPlaced) or not enters(before, event):
            continue
        marks = marks_at(history, event.at)
        assert event.reference_price == marks[event.symbol]
        equity = account.equity(marks)
        instrument = config.instrument(event.symbol)
        market = Market(instrument, Decimal(0), Decimal(1))
        filled = fill(event, event.quantity, event.reference_price, event.at, event.at, config.costs, market)
        then = evolve(after, filled)
        if config.limits.position_pct is not None:
            worth = abs(Fraction(then.held(event.symbol))) * Fraction(filled.price) * Fraction(instrument.multiplier)
            assert worth <= equity * Fraction(config.limits.position_pct) / 100 + DUST
        if config.limits.daily_loss_pct is not None:
            start = Fraction(before.day_equity)
            assert start - equity < start * Fraction(config.limits.daily_loss_pct) / 100 + DUST
        assert Fraction(then.free_cash) >= -DUST
        assert event.reserved <= before.free_cash
        assert before.halts == {}
        assert config.limits.reversal or before.direction(event.symbol) in (
            Direction.FLAT,
            then.direction(event.symbol),
        )


@any_history
@examples
def test_an_exit_is_never_held_back(history: History) -> None:
    for before, event, _ in steps(play(history)):
        if isinstance(event, RiskDecided):
            held = before.held(event.symbol)
            opposite = held > 0 if event.side is Side.SELL else held < 0
            if opposite and 0 < event.requested <= abs(held):
                assert (event.verdict, event.quantity) == (Verdict.APPROVED, event.requested)


@any_history
@examples
def test_no_position_outlives_its_holding_time(history: History) -> None:
    opened: dict[str, tuple[datetime, int | None]] = {}

    def check(symbol: str, ended_at: datetime) -> None:
        began, limit = opened[symbol]
        bars = history.bars[history.config.symbols.index(symbol)]
        lived = sum(bar.opened_at >= began and bar.closed_at <= ended_at for bar in bars)
        assert limit is None or lived <= limit

    for before, event, after in steps(played := play(history)):
        if isinstance(event, OrderFilled) and before.direction(event.symbol) is not after.direction(event.symbol):
            if event.symbol in opened:
                check(event.symbol, event.at)
                del opened[event.symbol]
            if event.symbol in after.positions:
                wish = history.script[event.symbol, event.decided_at]
                horizon = wish.horizon_bars if history.config.exits.from_decision else None
                opened[event.symbol] = event.at, horizon or history.config.exits.holding_bars
    for symbol in opened:
        check(symbol, played.events[-1].at)


@any_history
@examples
def test_every_order_answers_to_one_signal_and_one_verdict(history: History) -> None:
    events = [e for e in play(history).events if isinstance(e, SignalRaised | RiskDecided | OrderPlaced)]
    signals = [event.signal_id for event in events if isinstance(event, SignalRaised)]
    orders = [event.order_id for event in events if isinstance(event, OrderPlaced)]
    assert len(set(signals)) == len(signals)
    assert len(set(orders)) == len(orders)
    for n, signal in enumerate(events):
        if not isinstance(signal, SignalRaised):
            continue
        verdict = events[n + 1]
        assert isinstance(verdict, RiskDecided)
        assert verdict.signal_id == signal.signal_id
        assert [check.rule for check in verdict.checks] == list(RULES)
        assert (verdict.verdict is Verdict.DENIED) is (verdict.quantity == 0)
        assert (verdict.verdict is Verdict.APPROVED) is (verdict.quantity == verdict.requested > 0)
        following = events[n + 2] if n + 2 < len(events) else None
        assert isinstance(following, OrderPlaced) is (verdict.verdict is not Verdict.DENIED)
        if isinstance(following, OrderPlaced):
            assert following.closing <= following.quantity
            assert (following.signal_id, following.side, following.quantity, following.at) == (
                signal.signal_id, verdict.side, verdict.quantity, signal.at,
            )  # fmt: skip
    assert len(events) == 2 * len(signals) + len(orders)


@any_history
@examples
def test_a_signal_is_always_a_wish_for_something_else(history: History) -> None:
    for before, event, _ in steps(play(history)):
        if isinstance(event, SignalRaised):
            assert event.direction is not Direction.HOLD
            adds = history.config.pyramid and event.direction is not Direction.FLAT
            assert event.direction is not before.direction(event.symbol) or adds


@any_history
@examples
def test_a_symbol_has_at_most_one_working_order(history: History) -> None:
    for _, _, after in steps(play(history)):
        symbols = [order.symbol for order in after.working.values()]
        assert len(symbols) == len(set(symbols))


@any_history
@examples
def test_an_order_ends_at_the_open_of_its_symbols_next_bar(history: History) -> None:
    played = play(history)
    ends: dict[str, set[datetime]] = {order.order_id: set() for order in of(OrderPlaced, played)}
    for event in [*of(OrderFilled, played), *of(OrderRejected, played)]:
        ends[event.order_id].add(event.at)
    for order in of(OrderPlaced, played):
        later = [
            bar for bars in history.bars for bar in bars if bar.symbol == order.symbol and bar.opened_at >= order.at
        ]
        assert ends[order.order_id] == {bar.opened_at for bar in later[:1]}
        for filled in of(OrderFilled, played):
            if filled.order_id == order.order_id:
                assert (filled.decided_at, filled.reference_price) == (order.at, later[0].open)


@any_history
@examples
def test_costs_are_adverse_and_charged_on_what_was_paid(history: History) -> None:
    costs = history.config.costs
    for filled in of(OrderFilled, play(history)):
        slip = (filled.price - filled.reference_price) * filled.side.sign
        assert abs(Fraction(slip) - Fraction(filled.reference_price) * Fraction(costs.slippage_bps) / 10_000) < DUST
        assert slip >= 0
        paid = Fraction(filled.price) * Fraction(filled.quantity)
        paid *= Fraction(history.config.instrument(filled.symbol).multiplier)
        assert abs(Fraction(filled.notional) - paid) < DUST
        assert abs(Fraction(filled.commission) - paid * Fraction(costs.commission_bps) / 10_000) < DUST
        assert filled.slippage >= 0


@any_history
@examples
def test_every_mark_is_cash_plus_positions_at_the_last_known_close(history: History) -> None:
    account = Account(history)
    for before, event, after in steps(play(history)):
        if isinstance(event, OrderFilled):
            account.take(event)
        if isinstance(event, PositionsMarked):
            assert set(dict(event.marks)) == set(before.positions)
            known = marks_at(history, event.at)
            assert dict(event.marks).items() <= known.items()
            assert abs(Fraction(event.equity) - account.equity(known)) <= DUST
            assert Fraction(event.cash) == account.cash
            assert after.day_equity == (event.equity if event.occasion == "roll" else before.day_equity)


@any_history
@examples
def test_a_halt_is_a_loss_at_the_limit_and_lasts_until_the_session_roll(history: History) -> None:
    account = Account(history)
    for before, event, after in steps(play(history)):
        if isinstance(event, OrderFilled):
            account.take(event)
        if isinstance(event, TradingHalted):
            limit = history.config.limits.daily_loss_pct
            assert limit
            loss = Fraction(before.day_equity) - account.equity(marks_at(history, event.at))
            assert loss >= Fraction(before.day_equity) * Fraction(limit) / 100 - DUST
            assert before.halts == {}
        if isinstance(event, TradingResumed):
            assert event.at.hour == history.config.session_roll_hour
            assert event.at > before.halts["daily_loss"].at
            assert after.halts == {}


@any_history
@examples
def test_a_book_tells_its_story_in_order_and_marks_each_session_once(history: History) -> None:
    played = play(history)
    times = [event.at for event in played.events]
    assert times == sorted(times)
    assert isinstance(played.events[0], BookOpened)
    assert played.events[0].at == times[0] == next(moments(history.bars)).at
    last = played.events[-1]
    assert isinstance(last, PositionsMarked)
    assert last.occasion == "end"
    rolls = [event.at for event in of(PositionsMarked, played) if event.occasion == "roll"]
    assert len(rolls) == len(set(rolls))
    days = {moment.at.date() for moment in moments(history.bars)}
    if history.config.session_roll_hour == 0:
        assert {at.date() for at in rolls} == {day for day in days if day != times[0].date()}
