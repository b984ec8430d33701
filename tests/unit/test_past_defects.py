"""Histories that once went wrong, each as small as it can be. What amendments and tickets must not be is told in
`test_orders_in_session`."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from engine.core.config import Costs, Exits, RiskLimits, Shorting, digest_of
from engine.core.events import (
    BookEvent,
    OrderCanceled,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    OrderTerms,
    PositionsMarked,
    RiskDecided,
    SignalRaised,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.core.intents import Intent
from engine.core.market import Direction, Instrument
from engine.core.money import ONE, ZERO, exact
from engine.data.timeline import time_slices
from engine.runtime.manual import ManualAccount
from engine.runtime.session import Journal, Session
from engine.runtime.slots import Slot
from engine.store import Cause
from engine.store.memory import MemoryStore
from engine.trading.book import Book, evolve, fold
from engine.trading.tickets import OrderTicket
from projections import tables
from projections.portfolio import PortfolioView
from tests.support.histories import (
    BRACKET,
    BUY,
    FLAT,
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
    placed_order,
    sources,
    stop,
)
from tests.support.strategies import HOUR, Scripted, config_of
from ui.daemon.paper import _outcomes  # pyright: ignore[reportPrivateUsage]

# --- The gate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "entry"), [(SHORT, limit("1")), (LONG, stop("1"))])
def test_an_order_far_beyond_the_market_is_sized_and_capped_at_the_price_it_will_meet(
    direction: Direction, entry: OrderTerms
) -> None:
    limits = RiskLimits(exact("10"), None)
    config = msgspec.structs.replace(account(quantity=None, limits=limits), cash=exact("10000"))
    events = book_events(config, [bars(STILL, STILL)], {0: intent(direction, entry)})
    assert [quantity for _, quantity, _ in fills(events)] == [5]
    fixed = msgspec.structs.replace(account(quantity="900", limits=limits), cash=exact("10000"))
    (verdict,) = events_of_type(RiskDecided, book_events(fixed, [bars(STILL, STILL)], {0: intent(direction, entry)}))
    assert (verdict.verdict, verdict.quantity) == (Verdict.REDUCED, 10)


def test_half_a_contract_is_neither_sized_nor_sold_to_a_person() -> None:
    future = Instrument("ES=F", "USD", 2, ONE, exact("50"), "CME")
    config = msgspec.structs.replace(config_of(quantity="0.5"), instruments=(future,))
    desk = ManualAccount(config, START)
    for events in (
        desk.submit_intent(intent(LONG, symbol="ES=F"), exact("100"), START),
        desk.submit(OrderTicket("ES=F", BUY, exact("1.5")), exact("100"), START + HOUR),
    ):
        (denied,) = events_of_type(RiskDecided, events)
        assert denied.verdict is Verdict.DENIED
        assert [check.limit for check in denied.checks if not check.passed] == ["above 0, in lots of 1"]


def test_a_profile_that_leaves_before_the_session_ends_does_not_enter_in_its_last_bar() -> None:
    evening = START.replace(hour=18)
    config = account(calendar="FX", exits=Exits(None, session_end=True))
    # The session ends at 22:00: an entry of 21:00 would begin with its last bar.
    for hour, expected in ((1, [(BUY, 10, "100"), (SELL, 10, "100")]), (2, []), (3, [(BUY, 10, "100")])):
        events = book_events(config, [bars(*[STILL] * 6, start=evening)], {hour: intent(LONG)})
        assert fills(events) == expected


def test_a_partial_fill_is_not_refused_for_what_its_own_rest_has_set_aside() -> None:
    config = msgspec.structs.replace(account(costs=TENTH_OF_VOLUME), cash=exact("1000"))
    rows = bars(f"{STILL} 40", "101 101 101 101 40", "99 99 99 99 40", "99 99 99 99 40")
    events = book_events(config, [rows], {0: intent(LONG)})
    assert fills(events) == [(BUY, 4, "101"), (BUY, 4, "99"), (BUY, 2, "99")]
    assert events_of_type(OrderRejected, events) == []


# --- Breakers and halts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaker", "limits"),
    [("daily_loss", RiskLimits(None, exact("0.04"))), ("drawdown", RiskLimits(None, None, drawdown_pct=exact("0.04")))],
)
def test_a_loss_realised_inside_a_bar_trips_the_breaker_though_nothing_is_held_at_the_close(
    breaker: str, limits: RiskLimits
) -> None:
    config = account(("AAA", "BBB"), limits=limits, exits=Exits(None, stop_pct=exact("5")))
    falls = bars(STILL, STILL, "100 100 94 94", STILL)
    still = bars(*[STILL] * 3, "100 100 10 10", symbol="BBB")
    events = book_events(config, [falls, still], {0: intent(LONG), 1: intent(LONG, limit("50"), "BBB")})
    (halt,), (canceled,) = events_of_type(TradingHalted, events), events_of_type(OrderCanceled, events)
    assert (halt.actor, halt.at) == (breaker, START + 3 * HOUR)
    assert (canceled.symbol, canceled.at, canceled.reason) == ("BBB", halt.at, f"entries halted by {breaker}")
    assert fills(events) == [(BUY, 10, "100"), (SELL, 10, "95")]


def test_a_resume_does_not_lift_the_drawdown_that_its_own_close_brings() -> None:
    config = account(limits=RiskLimits(None, None, drawdown_pct=exact("0.05")))
    rows = bars(STILL, STILL, "100 100 90 90", "90 90 90 90")
    journal = Journal(MemoryStore(), "book:law", Cause("a law"))
    script = {("AAA", START + HOUR): intent(LONG)}
    session = Session(config, digest_of(config), Scripted(script), journal)
    for moment in time_slices([rows]):
        resumes = moment.at == START + 3 * HOUR
        session.advance(moment, [TradingResumed(moment.at, "all is well", "operator")] if resumes else [])
    assert list(session.book.halts) == ["drawdown"]


def test_a_breaker_that_cancels_a_waiting_reversal_still_leaves_the_position() -> None:
    costs = Costs(ZERO, ZERO, latency_bars=1)
    config = account(costs=costs, limits=RiskLimits(None, exact("0.05")))
    rows = bars(STILL, STILL, STILL, "100 100 90 90", "90 90 90 90", "89 89 89 89")
    events = book_events(config, [rows], {0: intent(LONG), 2: intent(SHORT)})
    assert sources(events) == ["analysis", "analysis", "halt"]
    assert fills(events) == [(BUY, 10, "100"), (SELL, 10, "89")]


# --- Exits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lives", [1, 2])
def test_a_due_exit_does_not_wait_for_the_price_of_a_reversal(lives: int) -> None:
    config = account(exits=Exits(lives))
    events = book_events(config, [bars(*[STILL] * 5)], {0: intent(LONG), 1: intent(SHORT, limit("150"))})
    assert "holding_time" in sources(events)
    assert fills(events) == [(BUY, 10, "100"), (SELL, 10, "100")]
    assert events_of_type(OrderFilled, events)[1].at == START + (lives + 1) * HOUR


@pytest.mark.parametrize("lives", [None, 1])
def test_a_wish_to_leave_leaves_whatever_numbers_come_with_it(lives: int | None) -> None:
    odd = Intent("AAA", FLAT, Decimal("NaN"), "analysis", stop=exact("-1"), target=Decimal("NaN"), horizon_bars=0)
    events = book_events(account(exits=Exits(lives)), [bars(*[STILL] * 4)], {0: intent(LONG), 1: odd})
    assert fills(events) == [(BUY, 10, "100"), (SELL, 10, "100")]


def test_an_exit_by_rule_ends_the_rest_of_its_own_entry() -> None:
    events = book_events(
        account(costs=TENTH_OF_VOLUME, exits=Exits(1)), [bars(*[f"{STILL} 40"] * 5)], {0: intent(LONG)}
    )
    assert fills(events) == [(BUY, 4, "100"), (SELL, 4, "100")]
    assert [canceled.reason for canceled in events_of_type(OrderCanceled, events)] == [
        "the position is given up: holding_time"
    ]


@pytest.mark.parametrize(("row", "price"), [("100 100 94 94 1000", "95"), ("100 111 100 111 1000", "110")])
def test_a_stop_or_a_target_ends_the_rest_of_its_own_entry(row: str, price: str) -> None:
    rows = bars(f"{STILL} 40", f"{STILL} 40", row, STILL, STILL)
    events = book_events(account(costs=TENTH_OF_VOLUME, exits=BRACKET), [rows], {0: intent(LONG)})
    assert fills(events) == [*[(BUY, 4, "100")] * 2, *[(SELL, 4, price)] * 2]
    assert "its position is given up" in [canceled.reason for canceled in events_of_type(OrderCanceled, events)]


def test_a_margin_call_does_not_go_on_selling() -> None:
    shorting = Shorting(margin_pct=exact("50"), maintenance_pct=exact("30"))
    config = msgspec.structs.replace(account(costs=TENTH_OF_VOLUME, shorting=shorting), cash=exact("1000"))
    rows = bars(f"{STILL} 40", "100 300 100 300 40", *["300 300 300 300 40"] * 3)
    events = book_events(config, [rows], {0: intent(SHORT)})
    assert fills(events) == [(SELL, 4, "100"), (BUY, 4, "300")]
    assert sources(events) == ["analysis", "margin_call"]


def test_a_margin_call_buys_back_every_short_though_one_has_no_bar() -> None:
    shorting = Shorting(margin_pct=exact("50"), maintenance_pct=exact("30"))
    config = msgspec.structs.replace(account(("AAA", "BBB"), shorting=shorting), cash=exact("2000"))
    leaps = bars(STILL, STILL, "100 250 100 250", "250 250 250 250")
    events = book_events(
        config, [leaps, bars(STILL, STILL, "", STILL, symbol="BBB")], {0: [intent(SHORT), intent(SHORT, symbol="BBB")]}
    )
    called = [
        (signal.symbol, signal.at) for signal in events_of_type(SignalRaised, events) if signal.source == "margin_call"
    ]
    assert sorted(called) == [("AAA", START + 3 * HOUR), ("BBB", START + 3 * HOUR)]
    assert fold(events).positions == {}


def test_a_reversal_whose_closing_part_a_stop_took_opens_what_it_was_to() -> None:
    config = account(costs=TENTH_OF_VOLUME, exits=Exits(None, stop_pct=exact("5")))
    rows = bars(STILL, STILL, "100 100 94 96", "96 106 96 100 40", "100 106 100 100", "100 106 100 100")
    events = book_events(config, [rows], {0: intent(LONG), 1: intent(SHORT, limit("105"))})
    assert [order.quantity for order in events_of_type(OrderPlaced, events) if order.role == "entry"] == [10, 20]
    assert fills(events) == [(BUY, 10, "100"), (SELL, 10, "95"), (SELL, 4, "105"), (SELL, 6, "105")]
    assert fold(events).held("AAA") == -10


def test_a_near_stop_under_much_slippage_lies_on_the_losing_side_of_the_open() -> None:
    config = account(costs=Costs(exact("200"), ZERO), exits=Exits(None, stop_pct=exact("1")))
    for direction, price, level in ((LONG, "102", "99"), (SHORT, "98", "101")):
        events = book_events(config, [bars(*[STILL] * 4)], {0: intent(direction)})
        assert [made[2] for made in fills(events)] == [price]
        (own,) = [order for order in events_of_type(OrderPlaced, events) if order.role == "stop"]
        assert own.terms.stop_price == exact(level)


def test_a_stop_that_was_set_off_and_filled_in_part_ends_its_target() -> None:
    rows = bars(STILL, STILL, "100 100 94 94 40", "96 111 96 105", "105 105 105 105")
    events = book_events(account(costs=TENTH_OF_VOLUME, exits=BRACKET), [rows], {0: intent(LONG)})
    assert fills(events)[1:] == [(SELL, 4, "95"), (SELL, 4, "96"), (SELL, 2, "105")]
    (canceled,) = events_of_type(OrderCanceled, events)
    assert (canceled.order_id[-7:], canceled.at) == (".target", START + 3 * HOUR)


# --- Names and amendments -----------------------------------------------------------------------------------------


def test_orders_of_one_instant_have_names_of_their_own_after_fills_and_cancels() -> None:
    desk = ManualAccount(account(), START)
    first = placed_order(desk.submit(OrderTicket("AAA", BUY, exact("3")), exact("100"), START))
    desk.open("AAA", exact("100"), START)
    second = placed_order(desk.submit(OrderTicket("AAA", BUY, exact("2")), exact("100"), START))
    desk.cancel(second.order_id, START)
    third = placed_order(desk.submit(OrderTicket("AAA", BUY, exact("4")), exact("100"), START))
    assert len({first.order_id, second.order_id, third.order_id}) == 3
    assert desk.broker.account.working == desk.book.working == {third.order_id: third}
    desk.open("AAA", exact("100"), START)
    assert [made.order_id for made in desk.broker.executions()] == [first.order_id, third.order_id]


def test_signals_of_one_instant_have_names_of_their_own_though_the_first_led_nowhere() -> None:
    desk = ManualAccount(account(), START)
    for quantity in ("-1", "0", "3"):
        desk.submit(OrderTicket("AAA", BUY, exact(quantity)), exact("100"), START)
    names = [signal.signal_id for signal in events_of_type(SignalRaised, desk.events)]
    assert len(set(names)) == 3
    assert [verdict.signal_id for verdict in events_of_type(RiskDecided, desk.events)] == names


def test_an_addition_to_a_position_may_be_amended() -> None:
    config = account(pyramid=True)
    wishes = {0: intent(LONG), 1: intent(LONG, limit("95")), 2: intent(LONG, limit("96"))}
    events = book_events(config, [bars(STILL, STILL, STILL, "100 100 96 96")], wishes)
    assert len(events_of_type(OrderReplaced, events)) == 1
    assert fills(events) == [(BUY, 10, "100"), (BUY, 10, "96")]


def test_an_amended_stop_that_is_filled_in_part_goes_on_and_ends_its_target() -> None:
    desk = ManualAccount(account(costs=TENTH_OF_VOLUME, exits=BRACKET), START)
    desk.close(bars(STILL)[0])
    at = START + HOUR
    desk.submit_intent(intent(LONG), exact("100"), at)
    desk.open("AAA", exact("100"), at)
    (old,) = [order for order in desk.book.working.values() if order.role == "stop"]
    new = placed_order(
        desk.submit(OrderTicket("AAA", SELL, exact("10"), stop("97"), None, old.order_id), exact("100"), at)
    )
    assert (new.role, new.pair) == ("stop", old.pair)
    desk.open("AAA", exact("98"), at)
    desk.close(bars("98 98 96 96 40", start=at)[0])
    assert {each.order_id: each.quantity for each in desk.book.working.values()} == {new.order_id: 6}


# --- What is shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("later", "rows"), [(0, ["roll"]), (1, ["roll", "end"])])
def test_a_run_that_ends_at_a_roll_has_one_row_for_the_day(later: int, rows: list[str]) -> None:
    view, book = PortfolioView(), Book()
    (opened,) = ManualAccount(account(), START).events
    assert isinstance(opened, BookEvent)
    cash = exact("100000")
    days: list[object] = []
    for event in (
        opened,
        PositionsMarked(START, "roll", cash, cash, (), ()),
        PositionsMarked(START + later * HOUR, "end", cash, cash, (), ()),
    ):
        book = evolve(book, event)
        days += [row["occasion"] for table, row in view.apply(event, book) if table is tables.DAYS]
    assert days == rows


def test_a_slot_tells_what_came_of_a_symbol_that_closes_no_bar_in_it() -> None:
    order = placed_order(ManualAccount(account(), START).submit(OrderTicket("AAA", BUY, ONE), exact("100"), START))
    assert _outcomes(Slot("paper", "1h", START, ("BBB",)), [order]) == [("BBB", "no change"), ("AAA", "buy ordered")]
