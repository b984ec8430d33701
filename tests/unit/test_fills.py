"""Prices and costs of fills, rule by rule: at the very price, and a tick to either side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.config import Costs
from engine.core.events import AT_MARKET, OrderFilled, OrderPlaced, OrderTerms
from engine.core.market import Bar, Instrument, OrderType, Side, TimeInForce
from engine.core.money import ONE, ZERO, add, exact
from engine.trading.fills import (
    NOT_FILLED,
    Cost,
    FilledSoFar,
    Market,
    best_price,
    chance_of,
    commission_of,
    cost_of,
    fill,
    fillable_quantity,
    is_marketable,
    is_triggered,
    price_at_open,
    price_in_bar,
    round_to_tick,
    slippage_bps,
    stop_after_entry,
    trail_stop,
    triggers_stop,
    with_slippage,
    worst_price,
)

BUY, SELL = Side.BUY, Side.SELL
AT = datetime(2024, 1, 2, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLAIN = Instrument("AAA", quantity_step=ONE)
TICKED = Instrument("ES=F", "USD", 2, ONE, exact("50"), "CME", exact("0.25"))


def bar(low: str = "98", high: str = "103", open_: str = "100", close: str = "101") -> Bar:
    return Bar("AAA", AT, AT + HOUR, exact(open_), exact(high), exact(low), exact(close), exact("1000"))


def limit(price: str) -> OrderTerms:
    return OrderTerms(OrderType.LIMIT, limit_price=exact(price))


def stop(price: str) -> OrderTerms:
    return OrderTerms(OrderType.STOP, stop_price=exact(price))


def stop_limit(stop_price: str, limit_price: str) -> OrderTerms:
    return OrderTerms(OrderType.STOP_LIMIT, exact(limit_price), exact(stop_price))


def amount(text: str | None) -> Decimal | None:
    return None if text is None else exact(text)


def costs(**parts: str) -> Costs:
    given_parts = {name: exact(value) for name, value in ({"slippage_bps": "0", "commission_bps": "0"} | parts).items()}
    return Costs(
        given_parts["slippage_bps"],
        given_parts["commission_bps"],
        given_parts.get("slippage_volume_bps", ZERO),
        given_parts.get("slippage_random_bps", ZERO),
        7 if "slippage_random_bps" in parts else None,
        given_parts.get("commission_per_unit", ZERO),
        given_parts.get("commission_min", ZERO),
        given_parts.get("volume_cap_pct"),
    )


# --- Where a price stands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "price", "is_reached", "is_within"),
    [(BUY, "99.99", False, True), (BUY, "100", True, True), (BUY, "100.01", True, False),
     (SELL, "99.99", True, False), (SELL, "100", True, True), (SELL, "100.01", False, True)],
)  # fmt: skip
def test_a_stop_is_reached_at_its_price_or_worse_and_a_limit_met_at_its_price_or_better(
    side: Side, price: str, is_reached: bool, is_within: bool
) -> None:
    assert is_triggered(side, exact(price), exact("100")) is is_reached
    assert is_marketable(side, exact(price), exact("100")) is is_within
    assert triggers_stop(side, stop("100"), exact(price)) is is_reached
    assert triggers_stop(side, stop_limit("100", "50"), exact(price)) is is_reached
    assert not triggers_stop(side, limit("100"), exact(price))


def test_a_bars_best_price_for_one_side_is_its_worst_for_the_other() -> None:
    assert (best_price(BUY, bar()), best_price(SELL, bar())) == (98, 103)
    assert (worst_price(BUY, bar()), worst_price(SELL, bar())) == (103, 98)


# --- At an open ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "terms", "triggered", "filled_at"),
    [(BUY, AT_MARKET, False, "100"),
     (BUY, limit("99.99"), False, None), (BUY, limit("100"), False, "100"), (BUY, limit("120"), False, "100"),
     (SELL, limit("100.01"), False, None), (SELL, limit("100"), False, "100"), (SELL, limit("80"), False, "100"),
     (BUY, stop("100.01"), False, None), (BUY, stop("100"), False, "100"), (BUY, stop("90"), False, "100"),
     (SELL, stop("99.99"), False, None), (SELL, stop("100"), False, "100"), (SELL, stop("110"), False, "100"),
     (BUY, stop("100.01"), True, "100"), (SELL, stop("99.99"), True, "100"),
     (BUY, stop_limit("90", "99"), False, None), (BUY, stop_limit("90", "100"), False, "100"),
     (BUY, stop_limit("101", "110"), False, None), (BUY, stop_limit("101", "110"), True, "100"),
     (BUY, stop_limit("101", "99"), True, None)],
)  # fmt: skip
def test_an_open_of_100_fills(side: Side, terms: OrderTerms, triggered: bool, filled_at: str | None) -> None:
    assert price_at_open(side, terms, triggered, exact("100")) == amount(filled_at)


# --- Inside a bar from 98 to 103 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "terms", "triggered", "filled_at"),
    [(BUY, AT_MARKET, False, None), (SELL, AT_MARKET, False, None),
     (BUY, limit("97.99"), False, None), (BUY, limit("98"), False, "98"), (BUY, limit("99"), False, "99"),
     (SELL, limit("103.01"), False, None), (SELL, limit("103"), False, "103"), (SELL, limit("102"), False, "102"),
     (BUY, stop("103.01"), False, None), (BUY, stop("103"), False, "103"), (BUY, stop("102"), False, "102"),
     (SELL, stop("97.99"), False, None), (SELL, stop("98"), False, "98"), (SELL, stop("99"), False, "99"),
     (BUY, stop("102"), True, None), (SELL, stop("99"), True, None),
     (BUY, stop_limit("102", "102"), False, "102"), (BUY, stop_limit("102", "105"), False, "102"),
     (BUY, stop_limit("102", "101.99"), False, None), (BUY, stop_limit("104", "105"), False, None),
     (SELL, stop_limit("99", "99"), False, "99"), (SELL, stop_limit("99", "99.01"), False, None),
     (BUY, stop_limit("102", "99"), True, "99"), (BUY, stop_limit("102", "97"), True, None),
     (SELL, stop_limit("99", "103"), True, "103")],
)  # fmt: skip
def test_a_bar_from_98_to_103_fills(side: Side, terms: OrderTerms, triggered: bool, filled_at: str | None) -> None:
    assert price_in_bar(side, terms, triggered, bar()) == amount(filled_at)


@pytest.mark.parametrize(
    ("side", "terms", "entry", "filled_at"),
    [(SELL, stop("99"), "101", "99"), (SELL, stop("98"), "101", "98"), (SELL, stop("97.99"), "101", None),
     (SELL, stop("102"), "101", "101"), (BUY, stop("102"), "100", "102"), (BUY, stop("103"), "100", "103"),
     (BUY, stop("103.01"), "100", None), (BUY, stop("99"), "100", "100"),
     (SELL, limit("102"), "101", None), (SELL, stop_limit("99", "98"), "101", None), (SELL, AT_MARKET, "101", None)],
)  # fmt: skip
def test_a_stop_beside_an_entry_inside_the_bar_takes_the_worst_to_have_come_after(
    side: Side, terms: OrderTerms, entry: str, filled_at: str | None
) -> None:
    assert stop_after_entry(side, terms, exact(entry), bar()) == amount(filled_at)


@pytest.mark.parametrize(
    ("side", "level", "moved"),
    [(SELL, "100", "101"), (SELL, "101", "101"), (SELL, "101.5", "101.5"),
     (BUY, "101", "100"), (BUY, "100", "100"), (BUY, "99.5", "99.5")],
)  # fmt: skip
def test_a_trailing_stop_follows_the_best_price_and_never_goes_back(side: Side, level: str, moved: str) -> None:
    ends = AT + HOUR
    terms = OrderTerms(
        OrderType.TRAILING_STOP, None, exact(level), exact("2"), time_in_force=TimeInForce.GTD, expires_at=ends
    )
    assert trail_stop(side, terms, bar()) == OrderTerms(
        OrderType.TRAILING_STOP, None, exact(moved), exact("2"), TimeInForce.GTD, ends
    )
    limited = OrderTerms(OrderType.STOP_LIMIT, exact("9"), exact(level), exact("2"))
    assert trail_stop(side, limited, bar()).limit_price == 9


def test_what_has_no_trail_stays_where_it_is() -> None:
    for terms in (AT_MARKET, stop("99"), limit("99"), OrderTerms(OrderType.TRAILING_STOP, trail=exact("2"))):
        assert trail_stop(SELL, terms, bar()) is terms


@pytest.mark.parametrize(
    ("side", "price", "rounded"),
    [(BUY, "100", "100"), (BUY, "100.000000000001", "100.25"), (BUY, "100.25", "100.25"), (BUY, "0.1", "0.25"),
     (SELL, "100", "100"), (SELL, "99.999999999999", "99.75"), (SELL, "0.25", "0.25"), (SELL, "0.2", "0.25")],
)  # fmt: skip
def test_prices_are_rounded_to_the_tick_against_the_order(side: Side, price: str, rounded: str) -> None:
    assert round_to_tick(side, exact(price), TICKED) == exact(rounded)
    assert round_to_tick(side, exact(price), PLAIN) == exact(price)


# --- Quantities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume", "taken", "cap", "fits"),
    [("100", "0", None, "10"), ("0", "0", None, "10"), ("100", "0", "10", "10"), ("99", "0", "10", "9"),
     ("200", "15", "10", "5"), ("200", "20", "10", "0"), ("200", "30", "10", "0"), ("0", "0", "10", "0"),
     ("10", "0", "100", "10"), ("9", "0", "100", "9"), ("15", "0", "10", "1")],
)  # fmt: skip
def test_an_order_for_10_takes_no_more_than_its_share_of_the_volume_in_whole_lots(
    volume: str, taken: str, cap: str | None, fits: str
) -> None:
    capped = costs() if cap is None else costs(volume_cap_pct=cap)
    assert fillable_quantity(exact("10"), exact(volume), exact(taken), capped, PLAIN) == exact(fits)


# --- Costs --------------------------------------------------------------------------------------------------------


def test_slippage_is_adverse() -> None:
    assert with_slippage(BUY, exact("100"), exact("25")) == exact("100.25")
    assert with_slippage(SELL, exact("100"), exact("25")) == exact("99.75")


@pytest.mark.parametrize(
    ("quantity", "volume", "chance", "bps"),
    [("50", "100", "0", "27"), ("50", "100", "1", "37"), ("50", "100", "0.5", "32"), ("10", "100", "0", "3"),
     ("100", "100", "0", "102"), ("200", "100", "0", "102"), ("1", "0", "0", "102"), ("1", "0.5", "0", "102"),
     ("0.25", "0.5", "0", "27")],
)  # fmt: skip
def test_slippage_is_the_sum_of_its_three_parts(quantity: str, volume: str, chance: str, bps: str) -> None:
    parts = costs(slippage_bps="2", slippage_volume_bps="100", slippage_random_bps="10")
    assert slippage_bps(exact(quantity), exact(volume), parts, exact(chance)) == exact(bps)
    assert slippage_bps(exact(quantity), exact(volume), costs(slippage_bps="2"), exact(chance)) == 2


def test_chance_is_the_same_for_the_same_seed_order_and_fill() -> None:
    # The first eight bytes of SHA-256 over "7 order 0", as a number, modulo 10^12.
    assert chance_of(7, "order", 0) == exact("0.070175920188")
    chances = [chance_of(seed, order, n) for seed in (7, 8, None) for order in ("order", "orders") for n in range(200)]
    assert len(set(chances)) == 1200
    assert 0 <= min(chances) < exact("0.01")
    assert exact("0.99") < max(chances) < 1
    assert exact("0.45") < sum(chances) / 1200 < exact("0.55")


@pytest.mark.parametrize(
    ("notional", "quantity", "before", "commission"),
    [("10000", "10", NOT_FILLED, "15"),
     ("1000", "1", NOT_FILLED, "5"),
     ("1000", "1", FilledSoFar(exact("1"), exact("1000"), exact("5"), 1), "0"),
     ("3000", "3", FilledSoFar(exact("1"), exact("1000"), exact("5"), 1), "1"),
     ("2000", "10", FilledSoFar(exact("10"), exact("8000"), exact("13"), 1), "7")],
)  # fmt: skip
def test_commission_has_a_minimum_per_order_whatever_the_number_of_its_fills(
    notional: str, quantity: str, before: FilledSoFar, commission: str
) -> None:
    charged = costs(commission_bps="10", commission_per_unit="0.5", commission_min="5")
    assert commission_of(exact(notional), exact(quantity), charged, before) == exact(commission)


def test_commission_without_a_charge_per_unit_is_a_share_of_the_notional() -> None:
    assert commission_of(exact("10000"), exact("10"), costs(commission_bps="10")) == 10


parts_of_orders = st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**9)), min_size=1, max_size=8)


@given(
    parts_of_orders, st.sampled_from(["0", "3.3", "10"]), st.sampled_from(["0", "0.01"]), st.sampled_from(["0", "7"])
)
def test_partial_fills_cost_together_what_one_fill_costs(
    fills: list[tuple[int, int]], bps: str, per_unit: str, least: str
) -> None:
    charged = costs(commission_bps=bps, commission_per_unit=per_unit, commission_min=least)
    paid = NOT_FILLED
    for units, notional in fills:
        due = commission_of(Decimal(notional), Decimal(units), charged, paid)
        assert due >= 0
        paid = FilledSoFar(
            add(paid.units, Decimal(units)), add(paid.notional, Decimal(notional)), add(paid.commission, due)
        )
    assert paid.commission == commission_of(paid.notional, paid.units, charged)


WITH_TICKS = Costs(exact("10"), exact("0"), round_to_tick=True)


@pytest.mark.parametrize(
    ("side", "terms", "charged", "price"),
    [(BUY, AT_MARKET, costs(slippage_bps="10"), "100.1"), (SELL, AT_MARKET, costs(slippage_bps="10"), "99.9"),
     (BUY, AT_MARKET, WITH_TICKS, "100.25"), (SELL, AT_MARKET, WITH_TICKS, "99.75"),
     (BUY, stop("99"), costs(slippage_bps="10"), "100.1"),
     (BUY, limit("120"), costs(slippage_bps="10"), "100"), (SELL, limit("80"), WITH_TICKS, "100"),
     (BUY, stop_limit("99", "100.05"), costs(slippage_bps="10"), "100.05"),
     (BUY, stop_limit("99", "100.1"), costs(slippage_bps="10"), "100.1"),
     (BUY, stop_limit("99", "101"), costs(slippage_bps="10"), "100.1"),
     (SELL, stop_limit("101", "99.95"), WITH_TICKS, "99.95")],
)  # fmt: skip
def test_what_100_becomes_for(side: Side, terms: OrderTerms, charged: Costs, price: str) -> None:
    assert cost_of(side, exact("3"), exact("100"), terms, charged, Market(TICKED, ONE, ONE)).price == exact(price)


def test_a_cost_is_in_the_accounts_currency() -> None:
    charged = costs(slippage_bps="10", commission_bps="10", commission_per_unit="2")
    market = Market(TICKED, exact("1000"), exact("1.1"))
    # 100.1 x 3 x 50 x 1.1; 0.1 x 3 x 50 x 1.1; 10 bps of the first, and 6 for three units.
    assert cost_of(BUY, exact("3"), exact("100"), AT_MARKET, charged, market) == Cost(
        exact("100.1"), exact("16516.5"), exact("16.5"), exact("22.5165")
    )
    assert cost_of(SELL, exact("3"), exact("100"), AT_MARKET, charged, market).slippage == exact("16.5")
    before = FilledSoFar(exact("1"), exact("1000"), exact("3"))
    assert cost_of(BUY, exact("3"), exact("100"), AT_MARKET, charged, market, before=before).commission == exact(
        "22.5165"
    )


def test_without_chance_the_random_part_is_as_bad_as_it_can_be() -> None:
    random, market = costs(slippage_random_bps="100"), Market(PLAIN, ONE, ONE)
    assert cost_of(BUY, ONE, exact("100"), AT_MARKET, random, market).price == 101
    assert cost_of(BUY, ONE, exact("100"), AT_MARKET, random, market, exact("0.25")).price == exact("100.25")


ORDER = OrderPlaced("order", "signal", "", "AAA", AT, SELL, exact("9"), exact("100"), ZERO)


def test_a_fill_tells_everything_it_came_from() -> None:
    charged = costs(slippage_bps="10", commission_bps="10", commission_min="2", slippage_volume_bps="100")
    market = Market(TICKED, exact("40"), exact("2"))
    before = FilledSoFar(exact("1"), exact("100"), exact("2"), 1)
    # 10 bps and 100 x (4/40)^2: 11 bps; 99.89 x 4 x 100; 0.11 x 4 x 100; 10 bps of 40,056 less 2.
    assert fill(ORDER, exact("4"), exact("100"), AT + HOUR, AT, charged, market, before) == OrderFilled(
        "order", "AAA", AT, AT + HOUR, SELL, exact("4"), exact("99.89"), exact("100"), exact("39956"), exact("44"),
        exact("38.056"), AT, exact("2"),
    )  # fmt: skip


def test_each_fill_of_an_order_has_a_chance_of_its_own() -> None:
    random, market = costs(slippage_random_bps="100"), Market(PLAIN, ONE, ONE)
    for n in (0, 1):
        made = fill(ORDER, ONE, exact("100"), AT, AT, random, market, FilledSoFar(fills=n))
        assert made.price == 100 - chance_of(7, "order", n)
    assert fill(ORDER, ONE, exact("100"), AT, AT, costs(), market).price == 100
