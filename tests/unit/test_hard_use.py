"""Histories from a day of hard use: each went wrong once, and is as small as it can be."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations

import msgspec
import pytest
from hypothesis import given

from engine.core.config import Costs, Exits, RiskLimits, Shorting, digest_of
from engine.core.events import (
    CashAdjusted,
    OrderCanceled,
    OrderFilled,
    OrderPlaced,
    PositionsMarked,
    RiskDecided,
    SignalRaised,
    TradingEnded,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, TimeInForce
from engine.core.money import ONE, ZERO, exact
from engine.core.session_ends import Schedule
from engine.data.calendars import session_hours
from engine.data.timeline import time_slices
from engine.runtime.manual import ManualAccount
from engine.runtime.session import Journal, Session
from engine.store import Cause
from engine.store.memory import MemoryStore
from engine.trading.book import Book, evolve
from engine.trading.tickets import OrderTicket
from projections.trades import TradesView
from tests.support.histories import (
    BUY,
    LONG,
    SELL,
    SHORT,
    START,
    STILL,
    TENTH_OF_VOLUME,
    account,
    bars,
    book_events,
    events_of_type,
    fills,
    intent,
    limit,
    sources,
    stop,
)
from tests.support.strategies import HOUR, History, Scripted, histories, run_history

# --- Of several stops the nearest ---------------------------------------------------------------------------------


def protected(direction: Direction, stop_price: str) -> Intent:
    return Intent("AAA", direction, ONE, "analysis", stop=exact(stop_price))


@pytest.mark.parametrize(
    ("direction", "stop_price", "rows", "expected"),
    [
        # A long: the trailing stop has followed to 106 and the bar falls through both.
        (LONG, "95", ["100 109 100 109", "109 109 90 92"], "106"),
        # A short, mirrored: the trailing stop has followed to 94.
        (SHORT, "105", ["100 100 91 91", "91 110 91 108"], "94"),
        # The fixed stop is the nearer one.
        (LONG, "99", ["100 100 100 100", "100 100 90 92"], "99"),
        (SHORT, "101", ["100 100 100 100", "100 110 100 108"], "101"),
    ],
)
def test_of_two_stops_that_a_bar_meets_the_nearest_is_met(
    direction: Direction,
    stop_price: str,
    rows: list[str],
    expected: str,
) -> None:
    config = account(exits=Exits(None, trail_pct=exact("3")))
    events = book_events(config, [bars(STILL, *rows)], {0: protected(direction, stop_price)})
    assert [price for _, _, price in fills(events)] == ["100", expected]


@pytest.mark.parametrize("levels", list(permutations(["97", "94", "91"])))
def test_stops_placed_by_hand_in_any_order_are_met_from_the_nearest(levels: tuple[str, ...]) -> None:
    desk = ManualAccount(account(quantity="30"), START)
    desk.submit_intent(intent(LONG), exact("100"), START)
    desk.open("AAA", exact("100"), START)
    for level in levels:
        desk.submit(OrderTicket("AAA", SELL, exact("10"), stop(level)), exact("100"), START)
    first, second = bars("100 100 100 100", "100 100 90 92")
    desk.open("AAA", exact("100"), second.opened_at)
    desk.close(second)
    assert first.closed_at == second.opened_at
    assert [str(fill.price) for fill in events_of_type(OrderFilled, desk.events)] == ["100", "97", "94", "91"]


def test_a_stop_inside_the_bar_of_its_entry_is_the_nearest_to_the_entry() -> None:
    config = account(exits=Exits(None, stop_pct=exact("9"), trail_pct=exact("2")))
    events = book_events(config, [bars(STILL, "105 105 90 92")], {0: intent(LONG, limit("100"))})
    assert [price for _, _, price in fills(events)] == ["100", "98"]


# --- The price collar at the fill ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "gap"), [(LONG, "150"), (SHORT, "50")])
def test_an_entry_beyond_its_collar_is_canceled_with_both_prices(direction: Direction, gap: str) -> None:
    config = account(limits=RiskLimits(None, None, collar_pct=exact("5")))
    events = book_events(config, [bars(STILL, f"{gap} {gap} {gap} {gap}")], {0: intent(direction)})
    assert fills(events) == []
    (canceled,) = events_of_type(OrderCanceled, events)
    assert canceled.reason.endswith(f": {gap} against {'105' if direction is LONG else '95'}")


def test_slippage_counts_and_an_open_at_the_collar_is_filled() -> None:
    limits = RiskLimits(None, None, collar_pct=exact("5"))
    rows = [bars(STILL, "105 105 105 105")]
    assert fills(book_events(account(limits=limits), rows, {0: intent(LONG)})) == [(BUY, 10, "105")]
    dear = account(limits=limits, costs=Costs(exact("1"), ZERO))
    assert fills(book_events(dear, rows, {0: intent(LONG)})) == []


def test_an_exit_is_filled_beyond_any_collar_and_of_a_reversal_the_closing_half() -> None:
    config = account(limits=RiskLimits(None, None, collar_pct=exact("5")))
    crash = [bars(STILL, STILL, "50 50 50 50", "50 50 50 50")]
    assert fills(book_events(config, crash, {0: intent(LONG), 1: intent(SHORT)})) == [
        (BUY, 10, "100"),
        (SELL, 10, "50"),
    ]


def test_an_entry_whose_stop_would_be_at_or_below_0_is_denied() -> None:
    config = account(exits=Exits(None, stop_ranges=exact("2")))
    wild = [bars(*["100 130 70 100"] * 15, STILL)]
    events = book_events(config, wild, {14: intent(LONG)})
    (denied,) = events_of_type(RiskDecided, events)
    assert (denied.verdict, fills(events)) == (Verdict.DENIED, [])
    assert "stop 120 below 100 would be at or below 0" in denied.reason
    assert fills(book_events(config, wild, {14: intent(SHORT)})) == [(SELL, 10, "100")]


# --- Reservations, repeated wishes, drawdowns ---------------------------------------------------------------------


def test_the_rest_of_a_partly_filled_order_reserves_no_cash_that_its_fill_has_spent() -> None:
    config = msgspec.structs.replace(account(quantity="200", costs=TENTH_OF_VOLUME), cash=exact("1000"))
    rows = bars("5 5 5 5 1000", "5.01 5.01 5.01 5.01 1000", "5 5 5 5 1000", "5 5 5 5 1000")
    desk_events = book_events(config, [rows], {0: intent(LONG)})
    journal = Journal(MemoryStore(), "book:law", Cause("a law"))
    session = Session(config, digest_of(config), Scripted({("AAA", START + HOUR): intent(LONG)}), journal)
    for moment in time_slices([rows]):
        session.advance(moment)
        assert session.book.free_cash >= 0
        assert session.broker is not None
        assert session.broker.account.free_cash == session.book.free_cash
    assert fills(desk_events)[0] == (BUY, 100, "5.01")
    assert session.book.cash >= 0


def test_a_wish_for_a_position_that_is_being_closed_is_denied_with_its_reason() -> None:
    # The exit takes two bars: the volume cap lets it sell four of the ten.
    config = account(costs=TENTH_OF_VOLUME, exits=Exits(2))
    rows = [bars(STILL, STILL, *[f"{STILL} 40"] * 6)]
    events = book_events(config, rows, {0: intent(LONG), 3: intent(LONG)})
    assert sources(events)[:2] == ["analysis", "holding_time"]
    denied = [ruling for ruling in events_of_type(RiskDecided, events) if ruling.verdict is Verdict.DENIED]
    assert [ruling.reason.split(":")[0] for ruling in denied] == ["incompatible_position"]
    assert len([s for s in events_of_type(SignalRaised, events) if s.at == denied[0].at]) == 1


DRAWDOWN_10 = RiskLimits(None, None, drawdown_pct=exact("10"))


def resumed(at: datetime) -> TradingResumed:
    return TradingResumed(at, "the loss is accepted", "operator")


def test_a_resume_ends_a_drawdown_while_the_price_stays_where_it_fell() -> None:
    config = msgspec.structs.replace(account(limits=DRAWDOWN_10), cash=exact("1000"))
    rows = bars(STILL, STILL, "100 100 70 70", *["70 70 70 70"] * 4, "70 70 62 62", "62 62 62 62")
    journal = Journal(MemoryStore(), "book:law", Cause("a law"))
    session = Session(config, digest_of(config), Scripted({("AAA", START + HOUR): intent(LONG)}), journal)
    halts: list[list[str]] = []
    for moment in time_slices([rows]):
        resumes = moment.at == START + 5 * HOUR
        session.advance(moment, [resumed(moment.at)] if resumes else [])
        halts.append(sorted(session.book.halts))
    # 700 is the new highest equity: 10 % below it is the next halt.
    assert (
        halts[2:]
        == [["drawdown"], ["drawdown"], [], [], [], ["drawdown"], ["drawdown"], ["drawdown"]][: len(halts) - 2]
        or halts
    )


def test_a_resume_ends_a_drawdown_of_an_account_by_hand() -> None:
    config = msgspec.structs.replace(account(limits=DRAWDOWN_10), cash=exact("1000"))
    desk = ManualAccount(config, START)
    desk.submit_intent(intent(LONG), exact("100"), START)
    desk.open("AAA", exact("100"), START)
    (fallen,) = bars("100 100 70 70")
    desk.close(fallen)
    desk.submit_intent(intent(LONG), exact("70"), fallen.closed_at)
    assert sorted(desk.book.halts) == ["drawdown"]
    assert [type(event) for event in desk.command(resumed(fallen.closed_at))] == [TradingResumed]
    assert desk.book.halts == {}
    assert desk.book.peak == Decimal(700)
    assert [
        event
        for event in desk.submit_intent(intent(SHORT), exact("70"), fallen.closed_at)
        if isinstance(event, TradingHalted)
    ] == []


FIRST_DAY = datetime(2024, 1, 8, tzinfo=UTC)


# --- Sessions -----------------------------------------------------------------------------------------------------


def test_the_last_close_of_a_session_is_measured_against_it_and_the_halt_ends_with_it() -> None:
    # Daily bars around the clock: each close is a session's end.
    config = msgspec.structs.replace(account(limits=RiskLimits(None, exact("5"))), cash=exact("1000"))
    day = 24 * HOUR
    rows = [
        Bar("AAA", FIRST_DAY + n * day, FIRST_DAY + (n + 1) * day, *map(exact, prices.split()), volume=Decimal(1000))
        for n, prices in enumerate([STILL, STILL, "100 100 90 90", "90 90 90 90"])
    ]
    script = {("AAA", FIRST_DAY + day): intent(LONG)}
    events = run_history(History(config, [rows], script)).events
    (halted,), (resumed_,) = events_of_type(TradingHalted, events), events_of_type(TradingResumed, events)
    assert (halted.actor, halted.at) == ("daily_loss", FIRST_DAY + 3 * day)
    assert resumed_.at == halted.at
    rolls = [mark.equity for mark in events_of_type(PositionsMarked, events) if mark.occasion == "roll"]
    assert rolls == [1000, 1000, 900, 900]


def test_positions_are_closed_before_a_half_day_ends_and_orders_for_the_day_end_with_it() -> None:
    # 24 December 2024: New York closes at 13:00, which is 18:00 UTC.
    opened = datetime(2024, 12, 24, 14, 30, tzinfo=UTC)
    config = account(calendar="XNYS", exits=Exits(None, session_end=True))
    schedule = Schedule.from_config(config, session_hours(["XNYS"], opened, opened + 72 * HOUR))
    morning = bars(STILL, STILL, STILL, STILL, start=opened)
    morning[-1] = msgspec.structs.replace(morning[-1], closed_at=opened + 3.5 * HOUR)
    after = bars(STILL, STILL, start=datetime(2024, 12, 26, 14, 30, tzinfo=UTC))
    day_order = msgspec.structs.replace(limit("50"), time_in_force=TimeInForce.DAY)
    script = {
        ("AAA", opened + HOUR): intent(LONG),
        ("AAA", opened + 3.5 * HOUR): intent(LONG, day_order),
    }
    journal = Journal(MemoryStore(), "book:law", Cause("a law"))
    session = Session(config, digest_of(config), Scripted(script), journal, schedule=schedule)
    events = [event for moment in time_slices([[*morning, *after]]) for event in session.advance(moment)]
    assert [(fill.side, fill.at) for fill in events_of_type(OrderFilled, events)] == [
        (BUY, opened + HOUR),
        (SELL, opened + 3 * HOUR),
    ]
    resting = [order for order in events_of_type(OrderPlaced, events) if order.terms.time_in_force is TimeInForce.DAY]
    assert [order.terms.expires_at for order in resting] == [datetime(2024, 12, 26, 21, tzinfo=UTC)]
    rolls = [mark.at for mark in events_of_type(PositionsMarked, events) if mark.occasion == "roll"]
    assert rolls == [datetime(2024, 12, 24, 18, tzinfo=UTC)]


# --- Shorts -------------------------------------------------------------------------------------------------------


def test_maintenance_is_checked_at_the_worst_price_of_a_bar() -> None:
    config = msgspec.structs.replace(account(shorting=Shorting(maintenance_pct=exact("30"))), cash=exact("2000"))
    spike = [bars(STILL, STILL, "100 250 100 100", STILL)]
    events = book_events(config, spike, {0: intent(SHORT)})
    assert sources(events) == ["analysis", "margin_call"]
    calm = [bars(STILL, STILL, "100 200 100 100", STILL)]
    assert sources(book_events(config, calm, {0: intent(SHORT)})) == ["analysis"]


def test_an_account_without_equity_is_liquidated_inside_the_bar_and_trades_no_more() -> None:
    config = msgspec.structs.replace(
        account(("AAA", "BBB"), shorting=Shorting(margin_pct=exact("0"))), cash=exact("1000")
    )
    squeezed = bars(STILL, STILL, "100 235 100 120", STILL, STILL)
    other = bars(STILL, STILL, "100 100 90 95", STILL, STILL, symbol="BBB")
    script = {0: [intent(SHORT), intent(LONG, symbol="BBB")], 1: intent(LONG, limit("10"), "BBB"), 3: intent(LONG)}
    events = book_events(config, [squeezed, other], script)
    (ended,) = events_of_type(TradingEnded, events)
    # 1,000 in cash and from the short less 10 x 235, and 10 x 90 for the long.
    assert (ended.reason, ended.equity, ended.at) == ("BANKRUPT", Decimal(-450), START + 3 * HOUR)
    after = [event for event in events if event.at >= ended.at]
    assert [(order.symbol, order.role) for order in events_of_type(OrderPlaced, after)] == [
        ("AAA", "liquidation"),
        ("BBB", "liquidation"),
    ]
    assert fills(after) == [(BUY, 10, "235"), (SELL, 10, "90")]
    last = events[-1]
    assert isinstance(last, PositionsMarked)
    assert (last.occasion, last.equity, last.at) == ("end", Decimal(-450), ended.at)


def test_an_account_by_hand_ends_when_its_equity_is_gone() -> None:
    config = msgspec.structs.replace(account(shorting=Shorting(margin_pct=exact("0"))), cash=exact("1000"))
    desk = ManualAccount(config, START)
    desk.submit_intent(intent(SHORT), exact("100"), START)
    desk.open("AAA", exact("100"), START)
    (squeezed,) = bars("100 235 100 120")
    desk.close(squeezed)
    assert desk.book.ended == "BANKRUPT"
    assert (desk.book.positions, desk.book.cash) == ({}, Decimal(-350))
    (denied,) = events_of_type(RiskDecided, desk.submit_intent(intent(LONG), exact("120"), squeezed.closed_at))
    assert denied.verdict is Verdict.DENIED
    assert "trading has ended: BANKRUPT" in denied.reason


def test_borrowed_days_are_counted_from_the_opening_of_the_short() -> None:
    config = account(shorting=Shorting(borrow_pct=exact("36.5")))
    hole = [""] * (5 * 24)
    rows = bars(STILL, STILL, *hole, STILL, STILL)
    events = book_events(config, [rows], {0: intent(SHORT)})
    # 1,000 short for five days at 0.1 % a day.
    assert [event.amount for event in events_of_type(CashAdjusted, events)] == [Decimal(-5)]


@given(histories())
def test_the_results_of_all_trades_are_the_result_of_the_account_to_the_last_digit(history: History) -> None:
    played = run_history(history)
    view, book = TradesView(), Book()
    for event in played.events:
        before, book = book, evolve(book, event)
        if isinstance(event, OrderFilled):
            view.apply(event, before, book)
        elif isinstance(event, CashAdjusted):
            view.add_borrow_cost(event)
        view.record_source(event)
    last = played.events[-1]
    assert isinstance(last, PositionsMarked)
    costs = sum((position.cost for position in book.positions.values()), ZERO)
    unrealised = last.equity - book.cash - costs
    results = sum((trade.net_pnl for trade in [*view.closed, *view.open]), ZERO)
    assert results + unrealised == last.equity - history.config.cash
