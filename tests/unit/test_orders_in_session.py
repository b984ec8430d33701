"""Orders that wait: how they are entered, amended, cancelled, protected and ended, in sessions and by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import pytest

from engine.core.config import Costs, Entry, Exits, RiskLimits, RunConfig, Shorting
from engine.core.events import (
    BookEvent,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderReplaced,
    OrderTerms,
    PositionsMarked,
    Protection,
    RiskDecided,
    SignalRaised,
    TradingHalted,
    Verdict,
)
from engine.core.intents import Intent
from engine.core.market import Bar, Calendar, Direction, Instrument, OrderType, Side, TimeInForce
from engine.core.money import ONE, ZERO, exact
from engine.runtime.manual import ManualAccount
from engine.trading.tickets import OrderTicket
from tests.support.strategies import HOUR, History, config_of, run_history

E = TypeVar("E")
LONG, SHORT, FLAT = Direction.LONG, Direction.SHORT, Direction.FLAT
BUY, SELL = Side.BUY, Side.SELL
DAY, GTC, GTD = TimeInForce.DAY, TimeInForce.GTC, TimeInForce.GTD
# A Monday evening in New York's winter.
START = datetime(2024, 1, 8, 18, tzinfo=UTC)

Row = tuple[str, str, str, str]


def account(quantity: str = "10", *, tick: str | None = None, calendar: Calendar = "24/7", **changes: Any) -> RunConfig:
    """A plain account in whole lots; `changes` are to the rest of it."""
    instrument = Instrument("AAA", "USD", 2, ONE, ONE, calendar, None if tick is None else exact(tick))
    return msgspec.structs.replace(config_of(quantity=quantity), instruments=(instrument,), **changes)


def bars_of(*rows: Row, volume: str = "1000") -> list[Bar]:
    """Hourly bars of open, high, low and close."""
    return [
        Bar("AAA", START + n * HOUR, START + (n + 1) * HOUR, *(exact(each) for each in row), volume=exact(volume))
        for n, row in enumerate(rows)
    ]


STILL: Row = ("100", "100", "100", "100")


def wish(direction: Direction, entry: OrderTerms | None = None, **wanted: str) -> Intent:
    prices: dict[str, Any] = {name: exact(price) for name, price in wanted.items()}
    return Intent("AAA", direction, ONE, "analysis", entry=entry, **prices)


def limit(price: str, time_in_force: TimeInForce = GTC, expires_at: datetime | None = None) -> OrderTerms:
    return OrderTerms(OrderType.LIMIT, exact(price), time_in_force=time_in_force, expires_at=expires_at)


def session(config: RunConfig, bars: list[Bar], wishes: Mapping[int, Intent | Direction]) -> list[BookEvent]:
    """The events that follow from wishes at the close of the n-th bar."""
    script = {
        ("AAA", bars[n].closed_at): wish(wanted) if isinstance(wanted, Direction) else wanted
        for n, wanted in wishes.items()
    }
    return run_history(History(config, [bars], script)).events


def of(kind: type[E], events: list[BookEvent]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def fills(events: list[BookEvent]) -> list[tuple[Side, Decimal, Decimal]]:
    return [(made.side, made.quantity, made.price) for made in of(OrderFilled, events)]


# --- How the profile enters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "direction", "limit_price", "stop_price"),
    [(Entry(OrderType.LIMIT, exact("110")), LONG, "98.75", None),
     (Entry(OrderType.LIMIT, exact("110")), SHORT, "101.25", None),
     (Entry(OrderType.STOP, exact("110")), LONG, None, "101.25"),
     (Entry(OrderType.STOP, exact("110")), SHORT, None, "98.75"),
     (Entry(OrderType.STOP_LIMIT, exact("100"), exact("60")), LONG, "101.75", "101"),
     (Entry(OrderType.STOP_LIMIT, exact("100"), exact("60")), SHORT, "98.25", "99")],
)  # fmt: skip
def test_a_profile_enters_with_an_offset_from_the_close_rounded_to_the_tick(
    entry: Entry, direction: Direction, limit_price: str | None, stop_price: str | None
) -> None:
    events = session(account(tick="0.25", entry=entry), bars_of(STILL), {0: direction})
    (order,) = of(OrderPlaced, events)
    assert order.terms == OrderTerms(
        entry.order_type,
        None if limit_price is None else exact(limit_price),
        None if stop_price is None else exact(stop_price),
    )


@pytest.mark.parametrize(
    ("calendar", "ends_after"), [("24/7", 6), ("FX", 4), ("XNYS", 3), ("CME", 4)]
)  # The first bar closes at 19:00.
def test_an_order_for_the_day_ends_with_the_session_of_its_calendar(calendar: Calendar, ends_after: int) -> None:
    config = account(calendar=calendar, entry=Entry(OrderType.LIMIT, exact("500"), time_in_force=DAY))
    events = session(config, bars_of(*[STILL] * 9), {0: LONG})
    (order,), (expired,) = of(OrderPlaced, events), of(OrderExpired, events)
    assert order.terms.expires_at == expired.at == START + ends_after * HOUR
    assert fills(events) == []


def test_an_order_at_the_market_may_be_for_the_day_too() -> None:
    events = session(account(entry=Entry(time_in_force=DAY)), bars_of(STILL, STILL), {0: LONG})
    (order,) = of(OrderPlaced, events)
    assert order.terms == OrderTerms(time_in_force=DAY, expires_at=START.replace(day=9, hour=0))
    assert fills(events) == [(BUY, 10, 100)]


@pytest.mark.parametrize(("reaches_in", "filled"), [(2, True), (3, True), (4, False)])
def test_an_order_until_an_instant_is_filled_in_no_bar_it_does_not_outlast(reaches_in: int, filled: bool) -> None:
    config = account(entry=Entry(OrderType.LIMIT, exact("500"), time_in_force=GTD, valid_bars=3))
    rows = [STILL] * 6
    rows[reaches_in] = ("100", "100", "95", "100")
    events = session(config, bars_of(*rows), {0: LONG})
    assert of(OrderPlaced, events)[0].terms.expires_at == START + 4 * HOUR
    assert fills(events) == ([(BUY, 10, 95)] if filled else [])
    assert [expired.at for expired in of(OrderExpired, events)] == ([] if filled else [START + 4 * HOUR])


def test_an_order_until_canceled_waits_as_long_as_the_run() -> None:
    events = session(account(), bars_of(*[STILL] * 40, ("100", "100", "90", "90")), {0: wish(LONG, limit("95"))})
    assert fills(events) == [(BUY, 10, 95)]
    assert of(OrderExpired, events) == []


# --- Wishes and what waits already --------------------------------------------------------------------------------


@pytest.mark.parametrize(("then", "placed"), [(SHORT, 2), (FLAT, 1)])
def test_a_contrary_wish_cancels_what_waits_and_goes_its_own_way(then: Direction, placed: int) -> None:
    events = session(account(), bars_of(STILL, STILL, STILL), {0: wish(LONG, limit("95")), 1: then})
    (canceled,) = of(OrderCanceled, events)
    assert (canceled.order_id, canceled.reason) == (
        of(OrderPlaced, events)[0].order_id, f"{then} is wished instead",
    )  # fmt: skip
    assert len(of(OrderPlaced, events)) == placed


def test_the_same_wish_again_leaves_what_waits_alone_and_one_with_other_terms_amends_it() -> None:
    wishes = {0: wish(LONG, limit("95")), 1: wish(LONG), 2: wish(LONG, limit("95")), 3: wish(LONG, limit("96"))}
    events = session(account(), bars_of(*[STILL] * 6), wishes)
    first, second = of(OrderPlaced, events)
    (replaced,) = of(OrderReplaced, events)
    assert (replaced.order_id, replaced.replaced_by) == (first.order_id, second.order_id)
    assert (second.replaces, second.terms.limit_price, second.at) == (first.order_id, 96, START + 4 * HOUR)
    assert len(of(RiskDecided, events)) == 2


def test_an_amendment_that_the_gate_denies_leaves_the_order_it_was_to_replace() -> None:
    config = account(limits=RiskLimits(None, None, collar_pct=exact("6")))
    events = session(
        config,
        bars_of(STILL, STILL, ("100", "100", "95", "95")),
        {0: wish(LONG, limit("95")), 1: wish(LONG, limit("93"))},
    )
    assert [verdict.verdict for verdict in of(RiskDecided, events)] == [Verdict.APPROVED, Verdict.DENIED]
    assert of(OrderReplaced, events) == []
    assert fills(events) == [(BUY, 10, 95)]


def test_the_amendment_of_an_order_that_was_filled_in_part_asks_for_the_rest() -> None:
    config = account(costs=Costs(ZERO, ZERO, volume_cap_pct=exact("10")))
    bars = bars_of(STILL, ("100", "100", "95", "95"), STILL, ("100", "100", "96", "96"), volume="40")
    events = session(config, bars, {0: wish(LONG, limit("95")), 1: wish(LONG, limit("96"))})
    assert [(order.quantity, order.terms.limit_price) for order in of(OrderPlaced, events)] == [(10, 95), (6, 96)]
    assert fills(events) == [(BUY, 4, 95), (BUY, 4, 96)]


def test_a_wish_whose_numbers_cannot_be_meant_is_denied_with_what_is_wrong() -> None:
    wrong = {
        0: (msgspec.structs.replace(wish(LONG), confidence=Decimal("NaN")), "confidence NaN is not from 0 to 1"),
        1: (wish(LONG, stop="101"), "stop 101 is not on the losing side of 100"),
        2: (wish(SHORT, target="101"), "target 101 is not on the winning side of 100"),
        3: (wish(LONG, risk_reward="-1"), "risk-reward -1 is not above 0"),
        4: (msgspec.structs.replace(wish(LONG), horizon_bars=0), "horizon 0 is not a number of bars"),
        5: (wish(LONG, OrderTerms(OrderType.LIMIT)), "LIMIT order without a limit price"),
        6: (wish(LONG, OrderTerms(OrderType.MARKET, stop_price=ONE)), "MARKET order with a stop price"),
        7: (wish(LONG, limit("-1")), "limit price -1 is not above 0"),
        8: (wish(LONG, OrderTerms(OrderType.TRAILING_STOP, trail=ONE)), "TRAILING_STOP is no order to enter with"),
        9: (wish(LONG, limit("99", GTD)), "GTD order without an end"),
        10: (wish(LONG, limit("99", GTC, START + 20 * HOUR)), "GTC order with an end"),
        11: (wish(LONG, limit("95"), stop="95"), "stop 95 is not on the losing side of 95"),
    }
    events = session(account(), bars_of(*[STILL] * 12), {n: given for n, (given, _) in wrong.items()})
    assert of(OrderPlaced, events) == []
    assert [verdict.checks[0].observed for verdict in of(RiskDecided, events)] == [flaw for _, flaw in wrong.values()]
    assert {verdict.verdict for verdict in of(RiskDecided, events)} == {Verdict.DENIED}


# --- Brackets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "left_at", "canceled"),
    [(("100", "111", "100", "105"), "110", ".stop"), (("100", "105", "94", "105"), "95", ".target"),
     (("90", "92", "88", "91"), "90", ".target"), (("113", "114", "112", "113"), "113", ".stop")],
)  # fmt: skip
def test_of_a_bracket_one_cancels_the_other(row: Row, left_at: str, canceled: str) -> None:
    config = account(exits=Exits(None, stop_pct=exact("5"), risk_reward=exact("2")))
    events = session(config, bars_of(STILL, STILL, row, STILL), {0: LONG})
    assert fills(events) == [(BUY, 10, 100), (SELL, 10, exact(left_at))]
    (end,) = of(OrderCanceled, events)
    assert end.order_id.endswith(canceled)


def test_protective_exits_pass_while_entries_are_halted_and_cash_is_gone() -> None:
    limits = RiskLimits(None, exact("1"))
    config = account("1000", limits=limits, exits=Exits(None, stop_pct=exact("5")), costs=Costs(ZERO, ZERO))
    events = session(config, bars_of(STILL, ("100", "100", "98", "98"), ("98", "98", "90", "90"), STILL), {0: LONG})
    assert [halt.actor for halt in of(TradingHalted, events)] == ["daily_loss"]
    assert fills(events) == [(BUY, 1000, 100), (SELL, 1000, 95)]


def test_both_breakers_may_trip_at_one_close_on_one_mark() -> None:
    config = account("1000", limits=RiskLimits(None, exact("1"), drawdown_pct=exact("2")))
    events = session(config, bars_of(STILL, ("100", "100", "98", "98")), {0: LONG})
    assert [halt.actor for halt in of(TradingHalted, events)] == ["daily_loss", "drawdown"]
    assert [mark.occasion for mark in of(PositionsMarked, events)] == ["halt", "end"]
    only = account("1000", limits=RiskLimits(None, None, drawdown_pct=exact("2")))
    events = session(only, bars_of(STILL, ("100", "100", "98", "98")), {0: LONG})
    assert [halt.actor for halt in of(TradingHalted, events)] == ["drawdown"]
    assert [mark.occasion for mark in of(PositionsMarked, events)] == ["halt", "end"]


@pytest.mark.parametrize(("close", "called"), [("153.84", False), ("153.85", True)])
def test_shorts_are_bought_back_when_margin_is_called(close: str, called: bool) -> None:
    config = account("10", cash=exact("1000"), shorting=Shorting(margin_pct=exact("50"), maintenance_pct=exact("30")))
    # Worth 30 % of 10 x price: 2000 - 10 p < 3 p, above 153.846...
    rows = bars_of(STILL, ("100", close, "100", close), (close, close, close, close))
    events = session(config, rows, {0: SHORT})
    sources = [signal.source for signal in of(SignalRaised, events)]
    assert sources == (["analysis", "margin_call"] if called else ["analysis"])
    assert fills(events)[1:] == ([(BUY, 10, exact(close))] if called else [])


# --- Persons ------------------------------------------------------------------------------------------------------


def at_desk(**limits: Any) -> ManualAccount:
    return ManualAccount(account(limits=RiskLimits(None, None, **limits)), START)


def ticket(side: Side, quantity: str, terms: OrderTerms, replaces: str = "", stop: str | None = None) -> OrderTicket:
    protection = None if stop is None else Protection(exact(stop))
    return OrderTicket("AAA", side, exact(quantity), terms, protection, replaces)


def placed(events: list[BookEvent]) -> OrderPlaced:
    (order,) = of(OrderPlaced, events)
    return order


def test_several_orders_of_a_symbol_wait_beside_each_other() -> None:
    desk = at_desk()
    prices = ("95", "90", "85")
    for n, price in enumerate(prices):
        desk.submit(ticket(BUY, "3", limit(price)), exact("100"), START + n * HOUR)
    sell = placed(desk.submit(ticket(SELL, "2", limit("110")), exact("100"), START + 3 * HOUR))
    assert len(desk.book.working) == 4
    assert len({order.order_id for order in desk.book.working.values()}) == 4
    assert (sell.role, sell.closing) == ("entry", 0)
    desk.open("AAA", exact("100"), START + 4 * HOUR)
    desk.close(
        Bar("AAA", START + 4 * HOUR, START + 5 * HOUR, *(exact(p) for p in ("100", "100", "89", "92")), volume=ONE)
    )
    assert (desk.book.held("AAA"), len(desk.book.working)) == (6, 2)


def test_two_tickets_of_one_instant_have_names_of_their_own_and_a_third_like_them_is_a_duplicate() -> None:
    desk = at_desk()
    first = placed(desk.submit(ticket(BUY, "3", limit("95")), exact("100"), START))
    second = placed(desk.submit(ticket(SELL, "3", limit("105")), exact("100"), START))
    assert (first.order_id[-2:], second.order_id[-2:]) == ("-1", "-2")
    (denied,) = of(RiskDecided, desk.submit(ticket(SELL, "1", limit("106")), exact("100"), START))
    assert [check.rule for check in denied.checks if not check.passed] == ["duplicate"]


def test_a_ticket_amends_an_order_through_the_same_gate() -> None:
    desk = at_desk(order_quantity_max=exact("5"), reduce=False)
    order = placed(desk.submit(ticket(BUY, "3", limit("95")), exact("100"), START))
    events = desk.submit(ticket(BUY, "6", limit("96"), order.order_id), exact("100"), START + HOUR)
    assert of(RiskDecided, events)[0].verdict is Verdict.DENIED
    assert list(desk.book.working) == [order.order_id]
    amended = placed(desk.submit(ticket(BUY, "5", limit("96"), order.order_id), exact("100"), START + HOUR))
    assert list(desk.book.working) == [amended.order_id]
    assert (amended.replaces, desk.broker.account.working[amended.order_id].quantity) == (order.order_id, 5)


def test_a_ticket_that_amends_nothing_or_is_no_order_is_denied() -> None:
    desk = at_desk()
    for wrong, flaw in (
        (ticket(BUY, "1", limit("95"), "order-1"), "there is no working order order-1 to BUY AAA"),
        (ticket(BUY, "1", OrderTerms(OrderType.STOP)), "STOP order without a stop price"),
    ):
        (denied,) = of(RiskDecided, desk.submit(wrong, exact("100"), START))
        assert (denied.verdict, denied.checks[0].observed) == (Verdict.DENIED, flaw)


@pytest.mark.parametrize(
    ("wrong", "flaw"),
    [(OrderTicket("AAA", BUY, Decimal("NaN")), "quantity NaN is no amount"),
     (OrderTicket("BBB", BUY, ONE, replaces="{}"), "there is no working order {} to BUY BBB"),
     (OrderTicket("AAA", SELL, ONE, replaces="{}"), "there is no working order {} to SELL AAA"),
     (OrderTicket("AAA", BUY, ONE, protection=Protection(exact("101"))), "stop 101 is not on the losing side of 100"),
     (OrderTicket("AAA", SELL, ONE, protection=Protection(exact("99"))), "stop 99 is not on the losing side of 100"),
     (OrderTicket("AAA", BUY, ONE, protection=Protection(None, exact("99"))),
      "target 99 is not on the winning side of 100"),
     (OrderTicket("AAA", SELL, ONE, limit("105"), Protection(None, exact("106"))),
      "target 106 is not on the winning side of 105")],
)  # fmt: skip
def test_a_ticket_that_cannot_be_meant_is_denied_with_what_is_wrong(wrong: OrderTicket, flaw: str) -> None:
    desk = ManualAccount(config_of(("AAA", "BBB"), quantity="10"), START)
    waits = placed(desk.submit(ticket(BUY, "3", limit("95")), exact("100"), START)).order_id
    named = msgspec.structs.replace(wrong, replaces=wrong.replaces.format(waits))
    (denied,) = of(RiskDecided, desk.submit(named, exact("100"), START + HOUR))
    assert (denied.verdict, denied.checks[0].observed) == (Verdict.DENIED, flaw.format(waits))
    assert list(desk.book.working) == [waits]


def test_a_ticket_that_only_reduces_needs_no_sense_in_its_protection() -> None:
    desk = at_desk()
    placed(desk.submit(ticket(BUY, "5", OrderTerms()), exact("100"), START))
    desk.open("AAA", exact("100"), START)
    order = placed(desk.submit(ticket(SELL, "2", OrderTerms(), stop="90"), exact("100"), START + HOUR))
    assert (order.role, order.protection) == ("exit", None)


def test_an_exit_is_amended_to_an_exit_and_an_entry_to_an_entry() -> None:
    desk = at_desk()
    entry = placed(desk.submit(ticket(BUY, "5", OrderTerms(), stop="90"), exact("100"), START))
    desk.open("AAA", exact("100"), START)
    stop = f"{entry.order_id}.stop"
    wrong = ticket(SELL, "6", OrderTerms(OrderType.STOP, stop_price=exact("95")), stop)
    (denied,) = of(RiskDecided, desk.submit(wrong, exact("100"), START + HOUR))
    assert denied.checks[0].observed == f"{stop} is an exit, and this order is none"
    waits = placed(desk.submit(ticket(SELL, "8", limit("110")), exact("100"), START + HOUR))
    wrong = ticket(SELL, "4", limit("110"), waits.order_id)
    (denied,) = of(RiskDecided, desk.submit(wrong, exact("100"), START + 2 * HOUR))
    assert denied.checks[0].observed == f"{waits.order_id} is an entry, and this order is none"
    assert set(desk.book.working) == {stop, waits.order_id}


def test_an_amended_order_keeps_its_role_its_pair_and_its_protection() -> None:
    desk = at_desk()
    waits = placed(desk.submit(ticket(BUY, "5", limit("99"), stop="90"), exact("100"), START))
    entry = placed(desk.submit(ticket(BUY, "5", limit("101"), waits.order_id), exact("100"), START + HOUR))
    assert (entry.role, entry.protection) == ("entry", Protection(exact("90")))
    desk.open("AAA", exact("100"), START + HOUR)
    old = desk.book.working[f"{entry.order_id}.stop"]
    closer = ticket(SELL, "5", OrderTerms(OrderType.STOP, stop_price=exact("95")), old.order_id)
    new = placed(desk.submit(closer, exact("100"), START + 2 * HOUR))
    assert (new.role, new.pair, new.terms.stop_price) == ("stop", old.pair, 95)
    assert list(desk.book.working) == list(desk.broker.account.working) == [new.order_id]


def test_the_closing_half_of_a_persons_order_keeps_its_terms_and_that_of_a_wish_does_not() -> None:
    desk = at_desk(shorts=False)
    desk.submit(ticket(BUY, "5", OrderTerms()), exact("100"), START)
    desk.open("AAA", exact("100"), START)
    order = placed(desk.submit(ticket(SELL, "8", limit("105")), exact("100"), START + HOUR))
    assert (order.quantity, order.role, order.terms) == (5, "exit", limit("105"))
    order = placed(desk.submit_intent(wish(SHORT, limit("106")), exact("100"), START + 2 * HOUR))
    assert (order.quantity, order.role, order.terms) == (5, "exit", OrderTerms())


@pytest.mark.parametrize(
    ("held", "side", "quantity", "direction", "role"),
    [("0", BUY, "3", LONG, "entry"), ("0", SELL, "3", SHORT, "entry"), ("5", SELL, "5", FLAT, "exit"),
     ("5", SELL, "3", LONG, "exit"), ("5", SELL, "8", SHORT, "entry"), ("-5", BUY, "5", FLAT, "exit")],
)  # fmt: skip
def test_a_ticket_signals_where_it_leads(held: str, side: Side, quantity: str, direction: Direction, role: str) -> None:
    desk = at_desk()
    if held != "0":
        first = BUY if exact(held) > 0 else SELL
        desk.submit(ticket(first, held.removeprefix("-"), OrderTerms()), exact("100"), START)
        desk.open("AAA", exact("100"), START)
    losing = "50" if side is BUY else "150"
    events = desk.submit(ticket(side, quantity, OrderTerms(), stop=losing), exact("100"), START + HOUR)
    (signal,) = of(SignalRaised, events)
    assert (signal.direction, signal.source, signal.confidence) == (direction, "person", 1)
    assert placed(events).role == role
    assert (placed(events).protection is None) is (role == "exit")


def test_a_ticket_for_the_day_ends_with_its_session_and_may_be_canceled_before() -> None:
    desk = at_desk()
    day = placed(desk.submit(ticket(BUY, "1", limit("95", DAY)), exact("100"), START))
    other = placed(desk.submit(ticket(SELL, "1", limit("105", DAY)), exact("100"), START))
    assert day.terms.expires_at == START.replace(day=9, hour=0)
    assert desk.cancel(other.order_id, START)
    assert not desk.cancel(other.order_id, START)
    bar = Bar("AAA", START + 5 * HOUR, START + 6 * HOUR, *[exact("100")] * 4, volume=ONE)
    assert [event.order_id for event in of(OrderExpired, desk.close(bar))] == [day.order_id]
    assert desk.book.working == {}
