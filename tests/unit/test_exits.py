"""When positions are given up by the book's own rules, and what protects them from their first moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from engine.core.config import Costs, Exits, Override, RunConfig, Shorting
from engine.core.events import OrderFilled, OrderPlaced, OrderTerms, Protection
from engine.core.intents import Intent
from engine.core.market import Bar, Calendar, Direction, Instrument, OrderType, Side
from engine.core.money import ONE, ZERO, exact
from engine.core.session_ends import Schedule
from engine.core.step import MarketView
from engine.trading.book import Book, Position
from engine.trading.exits import (
    RANGE_BARS,
    exit_due,
    holding_bars,
    invalid_protection,
    is_margin_called,
    protection,
    protective_orders,
    true_range,
)
from tests.support.strategies import config_of

AT = datetime(2024, 1, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LONG, SHORT = Direction.LONG, Direction.SHORT
BUY, SELL = Side.BUY, Side.SELL


def exiting(**exits: Any) -> Exits:
    chosen: dict[str, Any] = {"holding_bars": None}
    chosen |= {name: exact(value) if isinstance(value, str) else value for name, value in exits.items()}
    return Exits(**chosen)


def wish(direction: Direction = LONG, **wanted: Any) -> Intent:
    chosen: dict[str, Any] = {k: exact(v) if isinstance(v, str) else v for k, v in wanted.items()}
    return Intent("AAA", direction, ONE, "analysis", **chosen)


def account(config: RunConfig, quantities: dict[str, str], cash: str = "1000", bars: int | None = None) -> Book:
    positions = {
        symbol: Position(symbol, exact(units), exact(units) * 100, AT, bars) for symbol, units in quantities.items()
    }
    instruments = {instrument.symbol: instrument for instrument in config.instruments}
    return Book(exact(cash), "USD", instruments=instruments, positions=positions)


def step_of(at: datetime = AT, bars_held: dict[str, int] | None = None, **marks: str) -> MarketView:
    return MarketView(at, None, (), {}, {s: exact(price) for s, price in marks.items()}, bars_held=bars_held or {})


# --- Giving up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exits", "horizon", "bars"),
    [(Exits(4), None, 4), (Exits(4), 9, 4), (Exits(None), 9, None), (Exits(4, from_decision=True), 9, 9),
     (Exits(4, from_decision=True), None, 4), (Exits(None, from_decision=True), None, None)],
)  # fmt: skip
def test_a_position_is_held_as_long_as_the_decision_or_the_profile_says(
    exits: Exits, horizon: int | None, bars: int | None
) -> None:
    assert holding_bars(exits, wish(horizon_bars=horizon)) == bars


@pytest.mark.parametrize(("lived", "source"), [(3, None), (4, "holding_time"), (5, "holding_time")])
def test_a_position_is_given_up_when_its_last_bar_has_closed(lived: int, source: str | None) -> None:
    config = config_of()
    assert exit_due(account(config, {"AAA": "1"}, bars=4), "AAA", step_of(bars_held={"AAA": lived}), config) == source
    assert exit_due(account(config, {"AAA": "1"}), "AAA", step_of(bars_held={"AAA": lived}), config) is None
    assert exit_due(account(config, {"BBB": "1"}, bars=4), "AAA", step_of(bars_held={"AAA": lived}), config) is None


def test_a_position_whose_bar_has_not_closed_is_not_due() -> None:
    assert exit_due(account(config_of(), {"AAA": "1"}, bars=1), "AAA", step_of(), config_of()) is None
    assert exit_due(account(config_of(), {"AAA": "1"}, bars=1), "AAA", step_of(bars_held={"AAA": 1}), config_of())


@pytest.mark.parametrize(
    ("calendar", "hour", "minute", "gives_up"),
    [("XNYS", 18, 59, False), ("XNYS", 19, 0, False), ("XNYS", 20, 0, True), ("XNYS", 20, 30, True),
     ("XNYS", 21, 0, False), ("24/7", 20, 0, False), ("24/7", 21, 0, True), ("24/7", 22, 0, False)],
)  # fmt: skip
def test_a_position_is_given_up_in_the_last_bar_of_its_session(
    calendar: Calendar, hour: int, minute: int, gives_up: bool
) -> None:
    plain = msgspec.structs.replace(
        config_of(), instruments=(Instrument("AAA", calendar=calendar),), session_roll_hour=22
    )
    closing = msgspec.structs.replace(plain, exits=exiting(session_end=True))
    schedule = Schedule.from_config(plain)
    step = msgspec.structs.replace(step_of(AT.replace(hour=hour, minute=minute)), schedule=schedule)
    held = {"AAA": "1"}
    assert exit_due(account(plain, held), "AAA", step, plain) is None
    assert exit_due(account(closing, held), "AAA", step, closing) == ("session_end" if gives_up else None)
    own = Override("AAA", exits=exiting(session_end=True))
    overridden = msgspec.structs.replace(plain, overrides=(own,))
    assert exit_due(account(plain, held), "AAA", step, overridden) == ("session_end" if gives_up else None)


@pytest.mark.parametrize(
    ("latency", "hour", "gives_up"),
    [(0, 19, False), (0, 20, True), (1, 18, False), (1, 19, True), (1, 20, True), (2, 17, False), (2, 18, True)],
)
def test_an_order_that_waits_is_given_so_much_earlier(latency: int, hour: int, gives_up: bool) -> None:
    config = msgspec.structs.replace(
        config_of(),
        instruments=(Instrument("AAA", calendar="XNYS"),),
        costs=Costs(ZERO, ZERO, latency_bars=latency),
        exits=exiting(session_end=True),
    )
    own = Override("AAA", costs=Costs(ZERO, ZERO, latency_bars=latency))
    overridden = msgspec.structs.replace(config, costs=Costs(ZERO, ZERO), overrides=(own,))
    for each in (config, overridden):
        source = exit_due(account(each, {"AAA": "1"}), "AAA", step_of(AT.replace(hour=hour)), each)
        assert source == ("session_end" if gives_up else None)


@pytest.mark.parametrize(
    ("quantities", "cash", "called"),
    [({"AAA": "-10"}, "1300", False), ({"AAA": "-10"}, "1299.99", True), ({"AAA": "-10"}, "1300.01", False),
     ({"AAA": "-10", "BBB": "5"}, "800", False), ({"AAA": "-10", "BBB": "5"}, "799.99", True),
     ({"AAA": "-10", "BBB": "-10"}, "2600", False), ({"AAA": "-10", "BBB": "-10"}, "2599.99", True),
     ({"AAA": "-10", "BBB": "0.5"}, "1250", False), ({"AAA": "-10", "BBB": "0.5"}, "1249.99", True),
     ({"AAA": "-0.5"}, "65", False), ({"AAA": "-0.5"}, "64.99", True),
     ({"AAA": "10"}, "-2000", False), ({"AAA": "0.5"}, "-2000", False), ({}, "-1", False)],
)  # fmt: skip
def test_shorts_are_called_when_equity_is_below_their_maintenance_margin(
    quantities: dict[str, str], cash: str, called: bool
) -> None:
    config = config_of(("AAA", "BBB"))
    margined = msgspec.structs.replace(config, shorting=Shorting(maintenance_pct=exact("30")))
    book, step = account(config, quantities, cash), step_of(AAA="100", BBB="100")
    assert is_margin_called(book, step, margined) is called
    assert not is_margin_called(book, step, config)


# --- Protecting ---------------------------------------------------------------------------------------------------


def ranges(*widths: int) -> list[Decimal]:
    return [Decimal(width) for width in widths]


@pytest.mark.parametrize(
    ("wanted", "exits", "placed"),
    [(wish(), exiting(), None),
     (wish(stop="190", target="230"), exiting(), Protection(exact("190"), exact("230"))),
     (wish(stop="190"), exiting(), Protection(exact("190"))),
     (wish(target="230"), exiting(), Protection(target=exact("230"))),
     (wish(), exiting(stop_pct="2"), Protection(stop_distance=exact("4"))),
     (wish(), exiting(stop_pct="2", risk_reward="1.5"),
      Protection(stop_distance=exact("4"), target_distance=exact("6"))),
     (wish(stop="190"), exiting(stop_pct="2", risk_reward="1.5"),
      Protection(exact("190"), target_distance=exact("15"))),
     (wish(stop="190", target="230"), exiting(stop_pct="2", risk_reward="1.5"),
      Protection(exact("190"), exact("230"))),
     (wish(target="230"), exiting(stop_pct="2", risk_reward="1.5"),
      Protection(target=exact("230"), stop_distance=exact("4"))),
     (wish(SHORT, stop="210"), exiting(stop_pct="2", risk_reward="2"),
      Protection(exact("210"), target_distance=exact("20"))),
     (wish(risk_reward="3"), exiting(stop_pct="2", risk_reward="1.5"),
      Protection(stop_distance=exact("4"), target_distance=exact("6"))),
     (wish(risk_reward="3"), exiting(stop_pct="2", risk_reward="1.5", from_decision=True),
      Protection(stop_distance=exact("4"), target_distance=exact("12"))),
     (wish(), exiting(stop_pct="2", risk_reward="1.5", from_decision=True),
      Protection(stop_distance=exact("4"), target_distance=exact("6"))),
     (wish(risk_reward="3"), exiting(from_decision=True), None),
     (wish(stop="190", risk_reward="3"), exiting(from_decision=True),
      Protection(exact("190"), target_distance=exact("30"))),
     (wish(), exiting(trail_pct="1"), Protection(trail=exact("2"))),
     (wish(stop="190"), exiting(trail_pct="1"), Protection(exact("190"), trail=exact("2"))),
     (wish(stop="190", risk_reward="9" * 30), exiting(from_decision=True), Protection(exact("190")))],
)  # fmt: skip
def test_an_entry_at_200_is_protected_by_what_the_wish_names_else_by_the_profile(
    wanted: Intent, exits: Exits, placed: Protection | None
) -> None:
    assert protection(wanted, exact("200"), (), exits) == placed


def test_a_stop_in_mean_ranges_takes_the_latest_fourteen() -> None:
    exits = exiting(stop_ranges="2", risk_reward="1.5")
    assert RANGE_BARS == 14
    assert protection(wish(), exact("200"), ranges(*[1] * 13), exits) is None
    assert protection(wish(), exact("200"), ranges(*[1] * 7, *[3] * 7), exits) == Protection(
        stop_distance=exact("4"), target_distance=exact("6")
    )
    assert protection(wish(), exact("200"), ranges(*[99] * 3, *[1] * 7, *[3] * 7), exits) == Protection(
        stop_distance=exact("4"), target_distance=exact("6")
    )
    assert protection(wish(stop="190"), exact("200"), ranges(*[1] * 14), exits) == Protection(
        exact("190"), target_distance=exact("15")
    )


def bar(high: str, low: str, close: str) -> Bar:
    return Bar("AAA", AT, AT + HOUR, exact(close), exact(high), exact(low), exact(close), ONE)


@pytest.mark.parametrize(
    ("before", "width"), [(None, "6"), ("105", "6"), ("103", "6"), ("108", "8"), ("99", "7"), ("106", "6")]
)
def test_a_true_range_reaches_to_the_close_before(before: str | None, width: str) -> None:
    last = None if before is None else bar("120", "90", before)
    assert true_range(bar("106", "100", "101"), last) == exact(width)


@pytest.mark.parametrize(
    ("wanted", "flaw"),
    [(wish(), ""), (wish(stop="99.99", target="100.01"), ""), (wish(SHORT, stop="100.01", target="99.99"), ""),
     (wish(stop="100"), "stop 100 is not on the losing side of 100"),
     (wish(stop="100.01"), "stop 100.01 is not on the losing side of 100"),
     (wish(SHORT, stop="100"), "stop 100 is not on the losing side of 100"),
     (wish(SHORT, stop="99.99"), "stop 99.99 is not on the losing side of 100"),
     (wish(target="100"), "target 100 is not on the winning side of 100"),
     (wish(target="99.99"), "target 99.99 is not on the winning side of 100"),
     (wish(SHORT, target="100"), "target 100 is not on the winning side of 100"),
     (wish(SHORT, target="100.01"), "target 100.01 is not on the winning side of 100")],
)  # fmt: skip
def test_a_stop_lies_on_the_losing_side_and_a_target_on_the_winning_one(wanted: Intent, flaw: str) -> None:
    assert invalid_protection(wanted, exact("100")) == flaw


@pytest.mark.parametrize("text", ["NaN", "sNaN", "-Infinity"])
@pytest.mark.parametrize("direction", [LONG, SHORT])
def test_what_is_no_number_is_on_no_side_and_raises_nothing(direction: Direction, text: str) -> None:
    strange = Decimal(text)
    assert invalid_protection(msgspec.structs.replace(wish(direction), stop=strange), ONE).startswith("stop")
    assert invalid_protection(msgspec.structs.replace(wish(direction), target=strange), ONE).startswith("target")
    assert invalid_protection(wish(direction, stop="1"), strange).startswith("stop 1 is not on the losing side")
    assert invalid_protection(wish(direction, target="1"), strange).startswith("target 1 is not on the winning side")
    assert invalid_protection(wish(direction), strange) == ""


# --- The orders that protect --------------------------------------------------------------------------------------

TICKED = Instrument("AAA", quantity_step=ONE, tick=exact("0.25"))


def placed_by(
    terms: Protection | None, side: Side = BUY, *, price: str = "100", slipped: str = "100", left: str = "10",
    filled: str = "10", opened: str = "10", instrument: Instrument = TICKED,
) -> list[OrderPlaced]:  # fmt: skip
    entry = OrderPlaced(
        "entry", "signal", "analysis", "AAA", AT - HOUR, side, exact(left), ONE, ONE, holding_bars=4, protection=terms
    )
    made = OrderFilled(
        "entry", "AAA", AT - HOUR, AT, side, exact(filled), exact(slipped), exact(price), ONE, ZERO, ZERO, AT - HOUR
    )
    return protective_orders(entry, made, exact(opened), instrument)


def exit_order(role: Any, side: Side, terms: OrderTerms, opened: str = "10", mark: str = "") -> OrderPlaced:
    return OrderPlaced(
        f"entry.{role}{mark}", "signal", "analysis", "AAA", AT, side, exact(opened), exact("100"), ZERO, exact(opened),
        None, role, terms, None, f"entry{mark}",
    )  # fmt: skip


def stop(price: str) -> OrderTerms:
    return OrderTerms(OrderType.STOP, stop_price=exact(price))


def limit(price: str) -> OrderTerms:
    return OrderTerms(OrderType.LIMIT, limit_price=exact(price))


def test_a_long_is_protected_by_orders_of_which_one_cancels_the_others() -> None:
    terms = Protection(stop_distance=exact("4"), target_distance=exact("6"), trail=exact("3"))
    trailing = OrderTerms(OrderType.TRAILING_STOP, stop_price=exact("97"), trail=exact("3"))
    assert placed_by(terms) == [
        exit_order("stop", SELL, stop("96")),
        exit_order("trailing_stop", SELL, trailing),
        exit_order("target", SELL, limit("106")),
    ]


def test_a_short_is_protected_the_other_way_round() -> None:
    terms = Protection(stop_distance=exact("4"), target_distance=exact("6"), trail=exact("3"))
    trailing = OrderTerms(OrderType.TRAILING_STOP, stop_price=exact("103"), trail=exact("3"))
    assert placed_by(terms, SELL) == [
        exit_order("stop", BUY, stop("104")),
        exit_order("trailing_stop", BUY, trailing),
        exit_order("target", BUY, limit("94")),
    ]


@pytest.mark.parametrize(("side", "slipped"), [(BUY, "110"), (SELL, "90")])
def test_distances_begin_at_the_price_of_the_market_not_at_the_one_that_slipped(side: Side, slipped: str) -> None:
    terms = Protection(stop_distance=exact("4"), target_distance=exact("6"), trail=exact("3"))
    wanted = [order.terms for order in placed_by(terms, side)]
    assert [order.terms for order in placed_by(terms, side, slipped=slipped)] == wanted


def test_prices_that_are_named_go_before_distances() -> None:
    terms = Protection(exact("95"), exact("120"), exact("4"), exact("6"))
    assert [order.terms for order in placed_by(terms)] == [stop("95"), limit("120")]


@pytest.mark.parametrize(
    ("side", "stop_at", "trails_at", "target_at"),
    [(BUY, "95.75", "96.75", "106.25"), (SELL, "104.25", "103.25", "93.75")],
)
def test_a_stop_is_rounded_further_off_and_a_target_to_one_that_is_harder_to_reach(
    side: Side, stop_at: str, trails_at: str, target_at: str
) -> None:
    terms = Protection(stop_distance=exact("4.1"), target_distance=exact("6.1"), trail=exact("3.1"))
    stops, trailing, target = (order.terms for order in placed_by(terms, side))
    assert (stops.stop_price, trailing.stop_price, target.limit_price) == (
        exact(stop_at), exact(trails_at), exact(target_at),
    )  # fmt: skip
    assert trailing.trail == exact("3.1")


def test_the_orders_of_several_fills_are_told_apart() -> None:
    terms = Protection(exact("95"))
    assert placed_by(terms, left="10", filled="4", opened="3") == [exit_order("stop", SELL, stop("95"), "3", ".6")]
    assert placed_by(terms, left="6", filled="6", opened="6") == [exit_order("stop", SELL, stop("95"), "6")]


def test_nothing_is_placed_where_nothing_was_opened_or_no_price_is_left() -> None:
    terms = Protection(exact("95"), exact("120"), trail=exact("1"))
    assert placed_by(None) == []
    assert placed_by(terms, opened="0") == []
    assert placed_by(Protection()) == []
    out_of_reach = Protection(stop_distance=exact("100"), trail=exact("100"))
    assert placed_by(out_of_reach) == []
    assert placed_by(Protection(target_distance=exact("100")), SELL) == []
    nearly = Protection(stop_distance=exact("99.9"), trail=exact("99.9"))
    assert [order.terms.stop_price for order in placed_by(nearly)] == [exact("0.25"), exact("0.25")]
    near_target = placed_by(Protection(target_distance=exact("99.9")), SELL)
    assert [order.terms.limit_price for order in near_target] == [exact("0.25")]
