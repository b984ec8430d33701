"""Laws of the book over any history: any bars, any wishes, any account.

A second account is kept here in fractions, from nothing but the numbers on the events, and compared with the book's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar, get_args

import msgspec
import pytest
from hypothesis import example, given, seed, settings

from engine.core.config import Costs, Entry, RunConfig
from engine.core.events import (
    BookEvent,
    BookOpened,
    CashAdjusted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    PositionsMarked,
    RiskDecided,
    SignalRaised,
    TradingEnded,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.core.market import Direction, OrderType, Side
from engine.core.money import exact
from engine.data.timeline import time_slices
from engine.trading.book import Book, evolve, fold
from engine.trading.fills import Market, cost_of
from engine.trading.proposal import reference_of
from engine.trading.risk import RULES, pending_exit
from tests.support.histories import START, TENTH_OF_VOLUME, account, bars, intent
from tests.support.strategies import HOUR, History, HistoryRun, histories, run_history

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

    def take(self, event: BookEvent) -> None:
        if isinstance(event, CashAdjusted):
            self.cash += Fraction(event.amount)
        if isinstance(event, OrderFilled):
            self._fill(event)

    def _fill(self, filled: OrderFilled) -> None:
        sign = filled.side.sign
        self.cash -= sign * Fraction(filled.notional) + Fraction(filled.commission)
        self.fees += Fraction(filled.commission)
        self.held[filled.symbol] += sign * Fraction(filled.quantity)

    def equity(self, marks: dict[str, Decimal]) -> Fraction:
        return self.cash + sum(
            held * Fraction(marks[symbol]) * self.multipliers[symbol] for symbol, held in self.held.items() if held
        )


def steps(played: HistoryRun) -> Iterator[tuple[Book, BookEvent, Book]]:
    """Every event with the book before and after it."""
    before = Book()
    for event in played.events:
        after = evolve(before, event)
        yield before, event, after
        before = after


def of(kind: type[E], played: HistoryRun) -> list[E]:
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


def volume_at(history: History, symbol: str, at: datetime) -> Decimal:
    """The volume of the symbol's latest bar known at an instant."""
    return [bar.volume for bars in history.bars for bar in bars if bar.symbol == symbol and bar.closed_at <= at][-1]


def worst_fill(order: OrderPlaced, reference: Decimal, volume: Decimal, config: RunConfig) -> OrderFilled:
    """The fill of a whole order as bad as chance can make it."""
    market = Market(config.instrument(order.symbol), volume, Decimal(1))
    cost = cost_of(order.side, order.quantity, reference, order.terms, config.costs, market)
    return OrderFilled(
        order.order_id, order.symbol, order.at, order.at, order.side, order.quantity, cost.price, reference,
        cost.notional, cost.slippage, cost.commission, order.at,
    )  # fmt: skip


def placed_in(played: HistoryRun) -> dict[str, OrderPlaced]:
    return {order.order_id: order for order in of(OrderPlaced, played)}


def is_plain(config: RunConfig) -> bool:
    """Whether a market order is filled as a whole at the next open."""
    return config.costs.latency_bars == 0 and config.costs.volume_cap_pct is None


@pytest.mark.slow
def test_the_histories_reach_every_kind_of_trouble() -> None:
    seen: Counter[str] = Counter()
    missing: set[str] = set()

    wanted = {
        *(set(RULES) - BEYOND_REACH),
        *Verdict,
        *{"reversal", "in part", "at an open", "inside a bar", "without a next bar"},
        *{"holding_time", "session_end", "margin_call", "analysis"},
        *{"roll", "halt", "end"},
        *{"entry", "exit", "stop", "target", "trailing_stop", "liquidation"},
        *OrderType,
        *{each.__name__ for each in get_args(BookEvent)},
    }

    @any_history
    @settings(max_examples=30)
    def watch(history: History) -> None:
        played = run_history(history)
        seen.update(type(event).__name__ for event in played.events)
        seen.update(event.verdict.value for event in of(RiskDecided, played))
        seen.update(check.rule for event in of(RiskDecided, played) for check in event.checks if not check.passed)
        seen.update(event.source for event in of(SignalRaised, played))
        for order in of(OrderPlaced, played):
            seen.update((order.role, order.terms.order_type))
        seen["without a next bar"] += len(played.session.book.working)
        seen.update(event.occasion for event in of(PositionsMarked, played))
        for before, event, after in steps(played):
            if isinstance(event, OrderFilled):
                seen["at an open" if event.at == event.bar_opened_at else "inside a bar"] += 1
                turned = before.held(event.symbol) * after.held(event.symbol) < 0
                seen["reversal" if turned else "in part" if event.order_id in after.working else "whole"] += 1

    # Of one seed many are alike: so a few from each of many, until all is seen.
    for number in range(40):
        seed(number)(watch)()
        missing = {name for name in wanted if not seen[name]}
        if not missing:
            break
    assert missing == set()


# A wish is made at a close: its price is known then, and fresh.
BEYOND_REACH = {"price", "stale_price"}


@any_history
@examples
def test_folding_all_events_gives_the_book_that_decided(history: History) -> None:
    played = run_history(history)
    folded = fold(played.events)
    # What closes show is no event.
    shown = {"last_equity": folded.last_equity, "peak": folded.peak}
    assert folded == msgspec.structs.replace(played.session.book, **shown)
    half = len(played.events) // 2
    assert fold(played.events[half:], fold(played.events[:half])) == folded


@any_history
@examples
def test_the_books_balance_exactly_after_every_event(history: History) -> None:
    account = Account(history)
    for _, event, after in steps(run_history(history)):
        account.take(event)
        assert account.cash == Fraction(after.cash)
        assert account.fees == Fraction(after.fees)
        assert {symbol: held for symbol, held in account.held.items() if held} == {
            symbol: Fraction(position.quantity) for symbol, position in after.positions.items()
        }
        costs = sum(Fraction(position.cost) for position in after.positions.values())
        made = Fraction(after.realised) + Fraction(after.adjusted)
        assert account.cash + costs + account.fees - made == Fraction(history.config.cash)
        assert all(position.cost * position.quantity > 0 for position in after.positions.values())


# Half of an order of 200 at 5 is filled at 5.01, and the rest had reserved its share of 1,000.
PARTLY_FILLED = History(
    msgspec.structs.replace(account(quantity="200", costs=TENTH_OF_VOLUME), cash=exact("1000")),
    [bars("5 5 5 5 1000", "5.01 5.01 5.01 5.01 1000", "5 5 5 5 1000", "5 5 5 5 1000")],
    {("AAA", START + HOUR): intent(Direction.LONG)},
)


@any_history
@example(history=PARTLY_FILLED)
@examples
def test_an_entry_never_spends_more_than_the_free_cash(history: History) -> None:
    for before, event, after in steps(run_history(history)):
        if isinstance(event, OrderFilled) and enters(before, event):
            assert after.free_cash >= 0
        if isinstance(event, OrderRejected):
            assert event.required > event.available
            assert event.order_id in before.working
            assert event.order_id not in after.working


@any_history
@examples
def test_an_entry_is_inside_every_limit_at_its_reference_price(history: History) -> None:
    config = history.config
    account = Account(history)
    for before, event, after in steps(run_history(history)):
        account.take(event)
        if not isinstance(event, OrderPlaced) or not enters(before, event):
            continue
        marks = marks_at(history, event.at)
        assert event.role == "entry"
        assert event.reference_price == marks[event.symbol]
        equity = account.equity(marks)
        instrument = config.instrument(event.symbol)
        reference = reference_of(event.side, event.terms, event.reference_price)
        assert reference is not None
        filled = worst_fill(event, reference, volume_at(history, event.symbol, event.at), config)
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
    for before, event, _ in steps(run_history(history)):
        if isinstance(event, RiskDecided):
            held = before.held(event.symbol)
            opposite = held > 0 if event.side is Side.SELL else held < 0
            if opposite and 0 < event.requested <= abs(held) and pending_exit(before, event.symbol) is None:
                assert (event.verdict, event.quantity) == (Verdict.APPROVED, event.requested)


def at_market(history: History) -> History:
    """The same wishes, all of them for the market at the next open."""
    config = history.config
    costs = Costs(config.costs.slippage_bps, config.costs.commission_bps)
    return history._replace(
        config=msgspec.structs.replace(config, costs=costs, entry=Entry()),
        script={key: msgspec.structs.replace(wish, entry=None) for key, wish in history.script.items()},
    )


@any_history
@examples
def test_no_position_outlives_its_holding_time(history: History) -> None:
    history = at_market(history)
    opened: dict[str, tuple[datetime, int | None]] = {}

    def check(symbol: str, ended_at: datetime) -> None:
        began, limit = opened[symbol]
        bars = history.bars[history.config.symbols.index(symbol)]
        lived = sum(bar.opened_at >= began and bar.closed_at <= ended_at for bar in bars)
        assert limit is None or lived <= limit

    for before, event, after in steps(played := run_history(history)):
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
    told = [
        event for event in run_history(history).events if isinstance(event, SignalRaised | RiskDecided | OrderPlaced)
    ]
    events = [each for each in told if not isinstance(each, OrderPlaced) or each.role in ("entry", "exit")]
    signals = [event.signal_id for event in events if isinstance(event, SignalRaised)]
    orders = [event.order_id for event in events if isinstance(event, OrderPlaced)]
    assert len(set(signals)) == len(signals)
    assert len(set(orders)) == len(orders)
    assert {each.signal_id for each in told} == set(signals)
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
    for before, event, _ in steps(run_history(history)):
        if isinstance(event, SignalRaised):
            assert event.direction is not Direction.HOLD
            adds = history.config.pyramid and event.direction is not Direction.FLAT
            # With orders at work a wish may amend one; and one that cannot be meant is denied, whatever it is for.
            amends = before.orders_of(event.symbol)
            assert event.direction is not before.direction(event.symbol) or adds or amends


@any_history
@examples
def test_one_entry_and_one_way_out_at_the_market_work_at_a_time(history: History) -> None:
    for _, _, after in steps(run_history(history)):
        entries = Counter(order.symbol for order in after.working.values() if order.role == "entry")
        leaving = Counter(
            order.symbol
            for order in after.working.values()
            if order.role == "exit" and order.terms.order_type is OrderType.MARKET
        )
        assert set(entries.values()) | set(leaving.values()) <= {1}


@any_history
@examples
def test_a_market_order_ends_at_the_open_of_its_symbols_next_bar(history: History) -> None:
    history = at_market(history)
    played = run_history(history)
    ends: dict[str, set[datetime]] = {order.order_id: set() for order in of(OrderPlaced, played)}
    for event in played.events:
        if isinstance(event, OrderFilled | OrderRejected | OrderCanceled | OrderExpired):
            ends[event.order_id].add(event.at)
    given_up = {event.order_id for event in [*of(OrderCanceled, played), *of(OrderExpired, played)]}
    for order in of(OrderPlaced, played):
        if order.terms.order_type is not OrderType.MARKET or order.role == "liquidation":
            continue
        later = [
            bar for bars in history.bars for bar in bars if bar.symbol == order.symbol and bar.opened_at >= order.at
        ]
        assert order.order_id in given_up or ends[order.order_id] == {bar.opened_at for bar in later[:1]}
        for filled in of(OrderFilled, played):
            if filled.order_id == order.order_id:
                assert (filled.decided_at, filled.reference_price) == (order.at, later[0].open)


@any_history
@examples
def test_no_order_is_filled_before_its_time_or_after_its_end(history: History) -> None:
    played = run_history(history)
    orders = placed_in(played)
    for filled in of(OrderFilled, played):
        order = orders[filled.order_id]
        assert filled.at >= order.at
        if order.role in ("entry", "exit"):
            between = [
                bar
                for bars in history.bars
                for bar in bars
                if bar.symbol == order.symbol and order.at <= bar.opened_at < filled.bar_opened_at
            ]
            assert filled.bar_opened_at >= order.at
            assert len(between) >= history.config.costs.latency_bars
        assert order.terms.expires_at is None or filled.at <= order.terms.expires_at
    for expired in of(OrderExpired, played):
        end = orders[expired.order_id].terms.expires_at
        assert end is not None
        assert end <= expired.at


@any_history
@examples
def test_a_limit_is_never_exceeded_and_a_stop_never_filled_before_it_is_reached(history: History) -> None:
    played = run_history(history)
    orders, known = placed_in(played), set[str]()
    for filled in of(OrderFilled, played):
        order = orders[filled.order_id]
        sign, limit, stop = order.side.sign, order.terms.limit_price, order.terms.stop_price
        assert limit is None or (limit - filled.price) * sign >= 0
        # What is left of a stop after its first fill is filled at the next opens, wherever they are.
        if stop is not None and limit is None and order.order_id not in known and is_plain(history.config):
            seen = [
                bar
                for bars in history.bars
                for bar in bars
                if bar.symbol == order.symbol and order.at < bar.closed_at <= filled.bar_opened_at
            ]
            if order.terms.trail is not None and sign > 0:
                stop = min([stop, *(bar.low + order.terms.trail for bar in seen)])
            elif order.terms.trail is not None:
                stop = max([stop, *(bar.high - order.terms.trail for bar in seen)])
            assert (filled.reference_price - stop) * sign >= 0
        known.add(order.order_id)


@any_history
@examples
def test_of_a_pair_no_more_is_filled_than_its_entry_opened(history: History) -> None:
    played = run_history(history)
    orders = placed_in(played)
    opened = {order.pair: order.quantity for order in orders.values() if order.pair}
    closed: dict[str, Fraction] = {}
    for filled in of(OrderFilled, played):
        pair = orders[filled.order_id].pair
        if pair:
            closed[pair] = closed.get(pair, Fraction(0)) + Fraction(filled.quantity)
            assert closed[pair] <= opened[pair]


@any_history
@examples
def test_an_exit_only_ever_reduces_a_position_and_goes_with_it(history: History) -> None:
    played = run_history(history)
    orders = placed_in(played)
    told = list(steps(played))
    for n, (before, event, after) in enumerate(told):
        if isinstance(event, OrderFilled) and orders[event.order_id].role != "entry":
            was, remains = before.held(event.symbol), after.held(event.symbol)
            assert abs(remains) < abs(was)
            assert remains * was >= 0
        if n + 1 == len(told) or told[n + 1][1].at > event.at:
            for order in after.working.values():
                assert not order.is_exit or after.held(order.symbol) * order.side.sign < 0


@any_history
@examples
def test_orders_take_no_more_of_a_bar_than_their_share(history: History) -> None:
    cap = history.config.costs.volume_cap_pct
    if cap is None:
        return
    bars = {(bar.symbol, bar.opened_at): (before, bar) for each in history.bars for before, bar in pairwise(each)}
    taken: dict[tuple[str, datetime], Fraction] = {}
    for filled in of(OrderFilled, run_history(history)):
        before, bar = bars[filled.symbol, filled.bar_opened_at]
        share = taken.get((bar.symbol, bar.opened_at), Fraction(0)) + Fraction(filled.quantity)
        taken[bar.symbol, bar.opened_at] = share
        volume = before.volume if filled.at == bar.opened_at else bar.volume
        assert share <= Fraction(volume) * Fraction(cap) / 100


@any_history
@examples
def test_slippage_is_adverse_and_never_more_than_its_parts(history: History) -> None:
    played, costs = run_history(history), history.config.costs
    orders = placed_in(played)
    for filled in of(OrderFilled, played):
        slip = Fraction(filled.price - filled.reference_price) * filled.side.sign
        instrument = history.config.instrument(filled.symbol)
        terms = orders[filled.order_id].terms
        parts = [costs.slippage_bps, costs.slippage_volume_bps, costs.slippage_random_bps]
        most = Fraction(filled.reference_price) * Fraction(sum(parts)) / 10_000
        if costs.round_to_tick and instrument.tick is not None:
            most += Fraction(instrument.tick)
        assert 0 <= slip <= (most + DUST if terms.order_type is not OrderType.LIMIT else 0)
        if parts[1:] == [0, 0] and terms.order_type in (OrderType.MARKET, OrderType.STOP) and not costs.round_to_tick:
            assert abs(slip - most) < DUST
        a_unit = Fraction(instrument.multiplier)
        assert abs(Fraction(filled.slippage) - slip * Fraction(filled.quantity) * a_unit) < DUST
        assert abs(Fraction(filled.notional) - Fraction(filled.price) * Fraction(filled.quantity) * a_unit) < DUST


@any_history
@examples
def test_commission_is_charged_on_what_was_paid_and_its_minimum_once_for_an_order(history: History) -> None:
    played, costs = run_history(history), history.config.costs
    paid: dict[str, Fraction] = {}
    notional: dict[str, Fraction] = {}
    units: dict[str, Fraction] = {}
    for filled in of(OrderFilled, played):
        name = filled.order_id
        paid[name] = paid.get(name, Fraction(0)) + Fraction(filled.commission)
        notional[name] = notional.get(name, Fraction(0)) + Fraction(filled.notional)
        units[name] = units.get(name, Fraction(0)) + Fraction(filled.quantity)
        due = notional[name] * Fraction(costs.commission_bps) / 10_000
        due += units[name] * Fraction(costs.commission_per_unit)
        assert abs(paid[name] - max(due, Fraction(costs.commission_min))) < DUST
        assert filled.commission >= 0


@any_history
@examples
def test_only_a_short_pays_for_what_it_borrows_and_only_at_a_session_roll(history: History) -> None:
    for before, event, after in steps(run_history(history)):
        if isinstance(event, CashAdjusted):
            assert history.config.shorting.borrow_pct > 0
            assert event.amount < 0
            assert before.held(event.symbol) < 0
            assert event.at.hour == history.config.session_roll_hour
            assert after.cash - before.cash == event.amount


@any_history
@examples
def test_every_mark_is_cash_plus_positions_at_the_last_known_close(history: History) -> None:
    account = Account(history)
    for before, event, after in steps(run_history(history)):
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
def test_a_halt_is_a_loss_at_the_limit_and_only_the_days_own_ends_with_the_session(history: History) -> None:
    account, limits = Account(history), history.config.limits
    for before, event, after in steps(run_history(history)):
        account.take(event)
        if isinstance(event, TradingHalted):
            assert event.actor not in before.halts
            equity, day = account.equity(marks_at(history, event.at)), Fraction(before.day_equity)
            if event.actor == "daily_loss":
                assert limits.daily_loss_pct
                assert day - equity >= day * Fraction(limits.daily_loss_pct) / 100 - DUST
            else:
                assert (event.actor, limits.drawdown_pct is None) == ("drawdown", False)
        if isinstance(event, TradingResumed):
            assert event.at.hour == history.config.session_roll_hour
            # A close that ends its session may halt, and its roll resumes at the same instant.
            assert event.at >= before.halts["daily_loss"].at
            assert set(before.halts) - set(after.halts) == {"daily_loss"}


@any_history
@examples
def test_a_book_tells_its_story_in_order_and_marks_each_session_once(history: History) -> None:
    played = run_history(history)
    times = [event.at for event in played.events]
    assert times == sorted(times)
    assert isinstance(played.events[0], BookOpened)
    assert played.events[0].at == times[0] == next(time_slices(history.bars)).at
    last = played.events[-1]
    assert isinstance(last, PositionsMarked)
    assert last.occasion == "end"
    rolls = [event.at for event in of(PositionsMarked, played) if event.occasion == "roll"]
    assert len(rolls) == len(set(rolls))
    # Nothing is rolled once the account is bankrupt.
    ended = [event.at for event in of(TradingEnded, played)]
    days = {moment.at.date() for moment in time_slices(history.bars) if not ended or moment.at < ended[0]}
    if history.config.session_roll_hour == 0:
        assert {at.date() for at in rolls} == {day for day in days if day != times[0].date()}
