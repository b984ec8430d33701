"""The gate, rule by rule: at its limit, a tick below and a tick above, and fed with what is not known.

`account` is a book as it stands, `proposed` an order before it, `ruled` what the gate says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.core.config import Costs, Exits, Override, RiskLimits, RunConfig, Shorting
from engine.core.events import AT_MARKET, OrderPlaced, OrderTerms, Role, TradingHalted, Verdict
from engine.core.market import Bar, Calendar, Instrument, OrderType, Side
from engine.core.money import ONE, ZERO, add, exact, floor_to_step, mul, sub
from engine.core.step import MarketView
from engine.trading.book import Book, Position, closing_units, evolve, fold
from engine.trading.decide import open_book
from engine.trading.fills import Market, fill
from engine.trading.proposal import OrderPlan, Proposal, entry_cash, propose, reference_of
from engine.trading.risk import RULES, RiskRuling, check, daily_loss_limit, pending_exit
from engine.trading.sizing import target_quantity
from tests.support.strategies import config_of

AT = datetime(2024, 1, 2, 12, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
BUY, SELL = Side.BUY, Side.SELL
NAN = Decimal("NaN")
ENTRIES = TradingHalted(AT, "entries", "lost too much", "daily_loss")
EVERYTHING = TradingHalted(AT, "everything", "the operator says stop", "operator")


def limited(changes: Mapping[str, Any] | None = None, **limits: Any) -> RunConfig:
    """An account of 100,000 in two symbols with these limits and no other; `changes` are to the rest of it."""
    chosen: dict[str, Any] = {"position_pct": None, "daily_loss_pct": None}
    chosen |= {name: exact(value) if isinstance(value, str) else value for name, value in limits.items()}
    plain = msgspec.structs.replace(config_of(("AAA", "BBB")), limits=RiskLimits(**chosen))
    return msgspec.structs.replace(plain, **(changes or {}))


def account(config: RunConfig, held: Mapping[str, str] | None = None, **facts: Any) -> Book:
    """A book that holds signed quantities, bought at 100 each."""
    positions = {
        symbol: Position(symbol, exact(units), mul(exact(units), Decimal(100)), AT, None)
        for symbol, units in (held or {}).items()
    }
    book = fold([open_book(config, "digest", AT)])
    cash = sub(book.cash, sum((position.cost for position in positions.values()), ZERO))
    working = {order.order_id: order for order in facts.pop("working", ())}
    halts = {halt.actor: halt for halt in facts.pop("halts", ())}
    return msgspec.structs.replace(book, cash=cash, positions=positions, working=working, halts=halts, **facts)


def order_of(
    symbol: str, side: Side, quantity: str, terms: OrderTerms = AT_MARKET, *, closing: str = "0", role: Role = "entry",
    at: datetime = AT - HOUR, reserved: str = "0",
) -> OrderPlaced:  # fmt: skip
    """A working order."""
    name = f"{role}-{symbol}-{side}-{quantity}"
    units = exact(quantity), Decimal(100), exact(reserved), exact(closing)
    return OrderPlaced(name, "s", "", symbol, at, side, *units, role=role, terms=terms)


def proposed(
    config: RunConfig,
    side: Side = BUY,
    quantity: str | Decimal = "1",
    terms: OrderTerms = AT_MARKET,
    *,
    book: Book | None = None,
    symbol: str = "AAA",
    prices: Mapping[str, str | Decimal | None] | None = None,
    at: datetime = AT,
    closed_at: datetime | None = AT,
    volume: str = "0",
    peak: str | None = None,
    flaw: str = "",
    replaces: OrderPlaced | None = None,
) -> Proposal:
    """An order before the gate at an instant, where every symbol has just closed at 100 if `prices` do not differ."""
    quotes = {"AAA": "100", "BBB": "100"} | dict(prices or {})
    marks = {name: Decimal(price) for name, price in quotes.items() if price is not None}
    latest: dict[str, Bar] = {}
    if closed_at is not None:
        latest[symbol] = Bar(symbol, closed_at - HOUR, closed_at, ONE, ONE, ONE, ONE, exact(volume))
    step = MarketView(at, None, (), latest, marks)
    book = account(config) if book is None else book
    if peak is not None:
        book = msgspec.structs.replace(book, peak=exact(peak))
    plan = OrderPlan(side, Decimal(quantity), terms, invalid_reason=flaw, replaces=replaces)
    return propose(book, config, step, symbol, plan)


def failures(ruling: RiskRuling) -> list[str]:
    return [check.rule for check in ruling.checks if not check.passed]


def failing(proposal: Proposal) -> list[str]:
    return failures(check(proposal))


def rule_check(proposal: Proposal, rule: str) -> tuple[bool, str, str]:
    return next((each.passed, each.limit, each.observed) for each in check(proposal).checks if each.rule == rule)


def ruled(proposal: Proposal) -> tuple[Verdict, Decimal]:
    ruling = check(proposal)
    return ruling.verdict, ruling.quantity


def limit(price: str, **terms: Any) -> OrderTerms:
    return OrderTerms(OrderType.LIMIT, limit_price=exact(price), **terms)


def stop(price: str) -> OrderTerms:
    return OrderTerms(OrderType.STOP, stop_price=exact(price))


def stop_limit(limit_price: str, stop_price: str) -> OrderTerms:
    return OrderTerms(OrderType.STOP_LIMIT, exact(limit_price), exact(stop_price))


# --- At the limit, and a tick to either side ----------------------------------------------------------------------


class Edge(msgspec.Struct):
    """A limit and the three values around it: the order made of the first two (or the first alone) passes."""

    name: str
    rule: str
    made: Callable[[str], Proposal]
    below: str
    at: str
    above: str
    at_passes: bool = True


def with_costs(slippage_bps: str, commission_bps: str = "0", volume_bps: str = "0") -> dict[str, Any]:
    return {"costs": Costs(exact(slippage_bps), exact(commission_bps), slippage_volume_bps=exact(volume_bps))}


CASH = limited({"cash": exact("1000")})
CASH_AND_COSTS = limited({"cash": exact("1021.02"), **with_costs("200", "10")})
HALF_MARGIN = limited({"cash": exact("1000"), "shorting": Shorting(margin_pct=exact("50"))})
CAP, VALUE = limited(position_pct="10"), limited(order_value_max="1000")
OWN_CAP = limited({"overrides": (Override("AAA", position_pct=exact("5")),)}, position_pct="10")
DEAR = limited(
    with_costs("100") | {"instruments": (Instrument("AAA", multiplier=exact("10")),)}, order_value_max="1010"
)
CAP_AND_COSTS = limited(with_costs("100"), position_pct="10")
UNITS = limited(position_quantity_max="10")
GROSS, NET = limited(gross_exposure_pct="20"), limited(net_exposure_pct="20")
SLIPPED_GROSS = limited(with_costs("100"), gross_exposure_pct="19.998")
SLIPPED_NET = limited(with_costs("100"), net_exposure_pct="20.2")
DAY, FALL = limited(daily_loss_pct="5"), limited(drawdown_pct="10")
COLLAR, COLLARED_COSTS = limited(collar_pct="2"), limited(with_costs("200"), collar_pct="2")
FRESH = limited(stale_bars=3)
NO_SHORTS = limited(shorts=False)


def at_price(config: RunConfig, held: Mapping[str, str], **more: Any) -> Callable[[str], Proposal]:
    """An order in BBB while AAA is worth what is told."""
    book = account(config, held)
    return lambda price: proposed(config, book=book, symbol="BBB", prices={"AAA": price}, **more)


def of_units(config: RunConfig, side: Side = BUY, **more: Any) -> Callable[[str], Proposal]:
    return lambda quantity: proposed(config, side, quantity, **more)


def older(age: str) -> Proposal:
    return proposed(FRESH, closed_at=AT - timedelta(seconds=int(age)))


EDGES: list[Edge] = [
    Edge("cash of a long", "cash", lambda price: proposed(CASH, BUY, "10", prices={"AAA": price}),
         "99.99999", "100", "100.00001"),
    Edge("cash of a short", "cash", lambda price: proposed(CASH, SELL, "10", prices={"AAA": price}),
         "99.99999", "100", "100.00001"),
    Edge("cash of a short at half the collateral", "cash", of_units(HALF_MARGIN, SELL),
         "19.99999999", "20", "20.00000001"),
    Edge("cash with slippage and commission", "cash", of_units(CASH_AND_COSTS), "9.99999999", "10", "10.00000001"),
    Edge("cash that working orders have reserved", "cash",
         of_units(CASH, book=account(CASH, working=[order_of("BBB", BUY, "1", reserved="400")])),
         "5.99999999", "6", "6.00000001"),
    Edge("order value", "order_value", of_units(VALUE), "9.99999999", "10", "10.00000001"),
    Edge("order value of a sale", "order_value", of_units(VALUE, SELL), "9.99999999", "10", "10.00000001"),
    Edge("order value after slippage, of a contract", "order_value", of_units(DEAR),
         "0.99999999", "1", "1.00000001"),
    Edge("order value at the limit price", "order_value", lambda q: proposed(VALUE, BUY, q, limit("80")),
         "12.49999999", "12.5", "12.50000001"),
    Edge("order quantity", "order_quantity", of_units(limited(order_quantity_max="10")),
         "9.99999999", "10", "10.00000001"),
    Edge("cap of a long", "position_cap", of_units(CAP), "99.99999999", "100", "100.00000001"),
    Edge("cap of a short", "position_cap", of_units(CAP, SELL), "99.99999999", "100", "100.00000001"),
    Edge("cap of a contract, after slippage", "position_cap",
         of_units(limited(with_costs("100") | {"instruments": DEAR.instruments}, position_pct="10.1")),
         "9.99999999", "10", "10.00000001"),
    Edge("cap on what results, not on the order", "position_cap", of_units(CAP, book=account(CAP, {"AAA": "60"})),
         "39.99999999", "40", "40.00000001"),
    Edge("cap on a reversal by where it ends", "position_cap", of_units(CAP, SELL, book=account(CAP, {"AAA": "60"})),
         "159.99999999", "160", "160.00000001"),
    Edge("cap with working entries", "position_cap",
         of_units(CAP, book=account(CAP, working=[order_of("AAA", BUY, "30", limit("90"))])),
         "69.99999999", "70", "70.00000001"),
    Edge("cap with a working reversal, which closes too", "position_cap",
         of_units(CAP, book=account(CAP, {"AAA": "-20"}, working=[
             order_of("AAA", BUY, "50", limit("9"), closing="20")])),
         "89.99999999", "90", "90.00000001"),
    Edge("cap of its own", "position_cap", of_units(OWN_CAP), "49.99999999", "50", "50.00000001"),
    Edge("cap of a symbol without its own", "position_cap", of_units(OWN_CAP, symbol="BBB"),
         "99.99999999", "100", "100.00000001"),
    Edge("cap without the entries of other symbols and of the other side", "position_cap",
         of_units(CAP, book=account(CAP, working=[
             order_of("BBB", BUY, "30", limit("90")), order_of("AAA", SELL, "40", limit("110"))])),
         "99.99999999", "100", "100.00000001"),
    Edge("order value after the slippage of its own symbol", "order_value",
         of_units(limited({"overrides": (Override("AAA", Costs(exact("100"), ZERO)),)}, order_value_max="1010")),
         "9.99999999", "10", "10.00000001"),
    Edge("units of a long", "position_quantity", of_units(UNITS, book=account(UNITS, {"AAA": "6"})),
         "3.99999999", "4", "4.00000001"),
    Edge("units of a short", "position_quantity", of_units(UNITS, SELL, book=account(UNITS, {"AAA": "-6"})),
         "3.99999999", "4", "4.00000001"),
    Edge("gross exposure of two symbols", "gross_exposure", of_units(GROSS, book=account(GROSS, {"BBB": "-50"})),
         "149.99999999", "150", "150.00000001"),
    Edge("gross exposure of what is held and bought", "gross_exposure",
         of_units(GROSS, book=account(GROSS, {"AAA": "60", "BBB": "50"})), "89.99999999", "90", "90.00000001"),
    Edge("gross exposure with working entries", "gross_exposure",
         of_units(GROSS, book=account(GROSS, working=[order_of("BBB", SELL, "40", limit("110"))])),
         "155.99999999", "156", "156.00000001"),
    Edge("gross exposure when only one of two contrary entries is filled", "gross_exposure",
         of_units(GROSS, SELL, book=account(GROSS, working=[order_of("AAA", BUY, "150", limit("90"))])),
         "199.99999999", "200", "200.00000001"),
    Edge("gross exposure when either of two contrary entries is filled", "gross_exposure",
         of_units(GROSS, book=account(GROSS, {"BBB": "10"}, working=[
             order_of("BBB", BUY, "50", limit("90")), order_of("BBB", SELL, "80", limit("110"))])),
         "122.99999999", "123", "123.00000001"),
    Edge("gross exposure of a stop that is filled above the market, after slippage", "gross_exposure",
         lambda q: proposed(SLIPPED_GROSS, BUY, q, stop("110")), "179.99999999", "180", "180.00000001"),
    Edge("net exposure of a working stop, after slippage", "net_exposure",
         of_units(SLIPPED_NET, book=account(SLIPPED_NET, working=[order_of("BBB", BUY, "100", stop("110"))])),
         "89.99999999", "90", "90.00000001"),
    Edge("net exposure when only the entries that buy are filled", "net_exposure",
         of_units(NET, book=account(NET, working=[
             order_of("BBB", BUY, "50", limit("90")), order_of("BBB", SELL, "80", limit("110"))])),
         "154.99999999", "155", "155.00000001"),
    Edge("net exposure of two symbols", "net_exposure", of_units(NET, book=account(NET, {"BBB": "-50"})),
         "249.99999999", "250", "250.00000001"),
    Edge("net exposure of shorts", "net_exposure", of_units(NET, SELL, book=account(NET, {"BBB": "-50"})),
         "149.99999999", "150", "150.00000001"),
    Edge("net exposure with working entries that may not be filled", "net_exposure",
         of_units(NET, book=account(NET, working=[order_of("BBB", SELL, "40", limit("110"))])),
         "199.99999999", "200", "200.00000001"),
    Edge("net exposure with working entries that may be filled", "net_exposure",
         of_units(NET, book=account(NET, working=[order_of("BBB", BUY, "40", limit("90"))])),
         "163.99999999", "164", "164.00000001"),
    Edge("loss of the day", "daily_loss", at_price(DAY, {"AAA": "100"}), "50.00001", "50", "49.99999", False),
    Edge("loss of the day on a short", "daily_loss", at_price(DAY, {"AAA": "-100"}), "149.99999", "150", "150.00001",
         False),
    Edge("drawdown", "drawdown", at_price(FALL, {"AAA": "200"}, peak="100000"), "50.00001", "50", "49.99999", False),
    Edge("losses in a row", "cool_down",
         lambda n: proposed(limited(losses_max=3), book=account(limited(), losses=int(n), lost_at=AT)),
         "2", "3", "4", False),
    Edge("bars since the last loss", "cool_down",
         lambda ago: proposed(limited(losses_max=1, cool_down_bars=2),
                              book=account(limited(), losses=1, lost_at=AT - timedelta(seconds=int(ago)))),
         "7201", "7200", "7199"),
    Edge("orders of a step", "orders_per_step",
         lambda n: proposed(limited(orders_per_step=2),
                            book=account(limited(), placed=(AT - SECOND,) + (AT,) * int(n))),
         "1", "2", "3", False),
    Edge("orders of an hour", "orders_per_hour",
         lambda n: proposed(limited(orders_per_hour=3), book=account(limited(), placed=(AT - HOUR,) + (AT,) * int(n))),
         "2", "3", "4", False),
    Edge("an order leaves the hour", "orders_per_hour",
         lambda ago: proposed(limited(orders_per_hour=1),
                              book=account(limited(), placed=(AT - timedelta(seconds=int(ago)),))),
         "3601", "3600", "3599"),
    Edge("collar above, a limit", "price_collar", lambda p: proposed(COLLAR, SELL, "1", limit(p)),
         "101.99999", "102", "102.00001"),
    Edge("collar below, a limit", "price_collar", lambda p: proposed(COLLAR, BUY, "1", limit(p)),
         "98.00001", "98", "97.99999"),
    Edge("collar of a stop", "price_collar", lambda p: proposed(COLLAR, BUY, "1", stop(p)),
         "101.99999", "102", "102.00001"),
    Edge("collar of a stop after slippage", "price_collar", lambda p: proposed(COLLARED_COSTS, BUY, "1", stop(p)),
         "99.99999", "100", "100.00001"),
    Edge("collar of the limit of a stop-limit", "price_collar",
         lambda p: proposed(COLLAR, BUY, "1", OrderTerms(OrderType.STOP_LIMIT, exact(p), exact("101"))),
         "101.99999", "102", "102.00001"),
    Edge("collar of the stop of a stop-limit", "price_collar",
         lambda p: proposed(COLLARED_COSTS, BUY, "1", OrderTerms(OrderType.STOP_LIMIT, exact("98"), exact(p))),
         "101.99999", "102", "102.00001"),
    Edge("collar of slippage alone", "price_collar",
         lambda bps: proposed(limited(with_costs(bps), collar_pct="2")), "199.99", "200", "200.01"),
    Edge("age of the price", "stale_price", older, "10799", "10800", "10801"),
    Edge("quantity", "quantity", of_units(limited()), "0.00000002", "0.00000001", "0"),
    Edge("negative quantity", "quantity", of_units(limited()), "2", "1", "-1"),
    Edge("price", "price", lambda price: proposed(limited(), BUY, "1", prices={"AAA": price}), "1", "1E-12", "0"),
]  # fmt: skip


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
def test_a_limit_holds_to_the_last_tick(edge: Edge) -> None:
    assert failing(edge.made(edge.below)) == []
    assert failing(edge.made(edge.at)) == ([] if edge.at_passes else [edge.rule])
    # Where there is no price, there is no cost either.
    assert [rule for rule in failing(edge.made(edge.above)) if edge.rule != "price" or rule != "cash"] == [edge.rule]


def test_every_rule_with_an_amount_has_its_edge() -> None:
    without = {"wish", "duplicate", "allowed_symbols", "shorts", "incompatible_position", "trading_hours", "halt"}
    assert {edge.rule for edge in EDGES} == set(RULES) - without


# --- Rules that are no amount -------------------------------------------------------------------------------------


def test_a_flawed_wish_is_denied_and_says_what_is_wrong() -> None:
    proposal = proposed(limited(), BUY, "1", flaw="stop 120 is not on the losing side of 100")
    assert ruled(proposal) == (Verdict.DENIED, 0)
    assert rule_check(proposal, "wish") == (
        False, "prices and numbers that can be meant", "stop 120 is not on the losing side of 100",
    )  # fmt: skip
    assert failing(proposal) == ["wish"]


@pytest.mark.parametrize(
    ("working", "same"),
    [(order_of("AAA", BUY, "1", limit("90"), at=AT), True),
     (order_of("AAA", BUY, "1", limit("90"), at=AT - SECOND), False),
     (order_of("AAA", BUY, "5", AT_MARKET, at=AT - SECOND), True),
     (order_of("AAA", SELL, "1", AT_MARKET, at=AT), False),
     (order_of("BBB", BUY, "1", AT_MARKET, at=AT), False),
     (order_of("AAA", BUY, "1", AT_MARKET, at=AT, closing="1", role="target"), False)],
)  # fmt: skip
def test_an_order_is_a_duplicate_of_one_at_the_same_step_or_with_the_same_terms(
    working: OrderPlaced, same: bool
) -> None:
    proposal = proposed(limited(), book=account(limited(), working=[working]))
    assert failing(proposal) == (["duplicate"] if same else [])
    assert rule_check(proposal, "duplicate") == (
        not same, "one of its kind at a time", working.order_id if same else "none",
    )  # fmt: skip


def test_an_amendment_is_judged_without_the_order_it_replaces() -> None:
    config = limited({"cash": exact("1000")}, position_pct="100", gross_exposure_pct="100")
    working = order_of("AAA", BUY, "10", limit("90"), at=AT, reserved="900")
    book = account(config, working=[working])
    again = proposed(config, BUY, "10", limit("95"), book=book, replaces=working)
    assert ruled(again) == (Verdict.APPROVED, 10)
    assert rule_check(again, "cash") == (True, "1000", "950")
    beside = proposed(config, BUY, "10", limit("95"), book=book)
    assert failing(beside) == ["cash", "position_cap", "gross_exposure", "duplicate"]


@pytest.mark.parametrize(
    ("allowed", "passes"), [(("AAA",), True), (("BBB", "AAA"), True), (("BBB",), False), ((), False)]
)
def test_only_allowed_symbols_are_entered(allowed: tuple[str, ...], passes: bool) -> None:
    proposal = proposed(limited(symbols=allowed))
    assert failing(proposal) == ([] if passes else ["allowed_symbols"])
    assert rule_check(proposal, "allowed_symbols") == (passes, ",".join(allowed), "AAA")


def test_without_shorts_nothing_is_sold_that_is_not_held() -> None:
    book = account(NO_SHORTS, {"AAA": "10"})
    assert rule_check(proposed(NO_SHORTS, SELL, "1E-8"), "shorts") == (False, "none", "would hold -1E-8")
    assert ruled(proposed(NO_SHORTS, SELL, "10.00000001", book=book)) == (Verdict.REDUCED, 10)
    assert ruled(proposed(NO_SHORTS, SELL, "10", book=book)) == (Verdict.APPROVED, 10)
    assert failing(proposed(NO_SHORTS, BUY, "10", book=book)) == []
    assert failing(proposed(NO_SHORTS, BUY, "0.5")) == []
    assert failing(proposed(NO_SHORTS, BUY, "0")) == ["quantity"]
    assert rule_check(proposed(limited(), SELL, "1"), "shorts") == (True, "allowed", "would hold -1")
    covering = proposed(NO_SHORTS, BUY, "11", book=account(NO_SHORTS, {"AAA": "-11.5"}))
    assert ruled(covering) == (Verdict.APPROVED, 11)


def test_a_forbidden_reversal_is_denied_whole() -> None:
    config = limited(reversal=False)
    book = account(config, {"AAA": "10"})
    proposal = proposed(config, SELL, "20", book=book)
    assert ruled(proposal) == (Verdict.DENIED, 0)
    assert rule_check(proposal, "incompatible_position") == (False, "no reversal", "holds 10")
    assert failing(proposed(config, BUY, "20", book=book)) == []
    allowed = proposed(limited(), SELL, "20", book=book)
    assert rule_check(allowed, "incompatible_position") == (True, "reversal allowed", "holds 10")


def test_a_position_that_is_being_left_takes_no_order_beside_the_one_that_leaves_it() -> None:
    leaving = order_of("AAA", SELL, "10", closing="10", role="exit")
    book = account(limited(), {"AAA": "10"}, working=[leaving])
    for side, quantity in ((BUY, "1"), (SELL, "20"), (SELL, "10"), (SELL, "4")):
        proposal = proposed(limited(), side, quantity, book=book)
        assert ruled(proposal) == (Verdict.DENIED, 0)
        assert failing(proposal) == ["incompatible_position"]
        assert check(proposal).reason.startswith(f"incompatible_position: is left by {leaving.order_id} against ")
        assert rule_check(proposal, "incompatible_position")[2] == f"is left by {leaving.order_id}"
    assert failing(proposed(limited(), symbol="BBB", book=book)) == []
    amended = proposed(limited(), SELL, "4", book=book, replaces=leaving)
    assert ruled(amended) == (Verdict.APPROVED, 4)


def test_only_an_exit_at_the_market_leaves_a_position() -> None:
    stops = order_of("AAA", SELL, "10", stop("90"), closing="10", role="stop")
    waits = order_of("AAA", SELL, "9", limit("110"), closing="9", role="exit")
    entry = order_of("AAA", BUY, "1")
    leaves = order_of("AAA", SELL, "8", closing="8", role="exit")
    assert pending_exit(account(limited(), working=[stops, waits, entry]), "AAA") is None
    assert pending_exit(account(limited(), working=[stops, waits, entry, leaves]), "AAA") is leaves
    assert pending_exit(account(limited(), working=[leaves]), "BBB") is None


@pytest.mark.parametrize(
    ("begin", "end", "hour", "minute", "passes"),
    [(540, 1020, 8, 59, False), (540, 1020, 9, 0, True), (540, 1020, 9, 1, True),
     (540, 1020, 16, 59, True), (540, 1020, 17, 0, False), (540, 1020, 17, 1, False),
     (1320, 120, 21, 59, False), (1320, 120, 22, 0, True), (1320, 120, 23, 59, True), (1320, 120, 0, 0, True),
     (1320, 120, 1, 59, True), (1320, 120, 2, 0, False), (1320, 120, 12, 0, False),
     (0, 1439, 0, 0, True), (0, 1439, 23, 58, True), (0, 1439, 23, 59, False), (615, 616, 10, 15, True)],
)  # fmt: skip
def test_entries_are_made_inside_the_trading_hours(begin: int, end: int, hour: int, minute: int, passes: bool) -> None:
    config = limited(trading_from=begin, trading_to=end)
    proposal = proposed(config, at=AT.replace(hour=hour, minute=minute), closed_at=None)
    assert failing(proposal) == ([] if passes else ["trading_hours"])
    assert rule_check(proposal, "trading_hours") == (
        passes,
        f"from {begin // 60:02}:{begin % 60:02} before {end // 60:02}:{end % 60:02}",
        f"{hour:02}:{minute:02}",
    )


@pytest.mark.parametrize(
    ("calendar", "latency", "hour", "minute", "passes"),
    [("24/7", 0, 22, 59, True), ("24/7", 0, 23, 0, False), ("24/7", 0, 0, 0, True), ("24/7", 2, 20, 59, True),
     ("24/7", 2, 21, 0, False), ("XNYS", 0, 19, 59, True), ("XNYS", 0, 20, 0, False), ("XNYS", 0, 21, 0, True)],
)  # fmt: skip
def test_what_must_be_left_before_its_session_ends_is_not_entered_in_its_last_bars(
    calendar: Calendar, latency: int, hour: int, minute: int, passes: bool
) -> None:
    one = (Instrument("AAA", calendar=calendar), Instrument("BBB"))
    changes = {"instruments": one, "costs": Costs(ZERO, ZERO, latency_bars=latency)}
    stays, leaves = limited(changes), limited(changes | {"exits": Exits(None, session_end=True)})
    at = AT.replace(hour=hour, minute=minute)
    assert failing(proposed(stays, at=at, closed_at=None)) == []
    assert failing(proposed(leaves, at=at, closed_at=None)) == ([] if passes else ["trading_hours"])
    assert failing(proposed(leaves, symbol="BBB", at=AT, closed_at=None)) == []
    own = Override("AAA", Costs(ZERO, ZERO, latency_bars=latency), exits=Exits(None, session_end=True))
    overridden = limited({"instruments": one, "costs": Costs(ZERO, ZERO), "overrides": (own,)})
    assert failing(proposed(overridden, at=at, closed_at=None)) == ([] if passes else ["trading_hours"])
    if not passes:
        reversal = proposed(leaves, SELL, "5", book=account(leaves, {"AAA": "3"}), at=at, closed_at=None)
        assert ruled(reversal) == (Verdict.REDUCED, 3)
        assert rule_check(reversal, "trading_hours") == (
            False,
            "time to leave before the session ends",
            "its last bars",
        )


@pytest.mark.parametrize(
    ("held", "side", "quantity", "passes"),
    [("0", BUY, "2", True), ("0", BUY, "1", False), ("0", SELL, "3", False), ("1", BUY, "2", True),
     ("1", SELL, "3", True), ("1", SELL, "2", False), ("-0.5", BUY, "2.5", True), ("-0.5", BUY, "2", False)],
)  # fmt: skip
def test_what_an_order_opens_is_in_whole_lots(held: str, side: Side, quantity: str, passes: bool) -> None:
    config = limited({"instruments": (Instrument("AAA", quantity_step=exact("2")), Instrument("BBB"))})
    proposal = proposed(config, side, quantity, book=account(config, {"AAA": held} if held != "0" else {}))
    assert failing(proposal) == ([] if passes else ["quantity"])
    assert rule_check(proposal, "quantity") == (passes, "above 0, in lots of 2", quantity)


def test_a_short_is_capped_at_the_price_before_slippage() -> None:
    config = limited(with_costs("200") | {"cash": exact("1000")}, position_pct="50")
    assert rule_check(proposed(config, SELL, "5"), "position_cap") == (True, "500", "500")
    assert rule_check(proposed(config, SELL, "5.01"), "position_cap") == (False, "500", "501")
    assert rule_check(proposed(config, SELL, "5.01", limit("50")), "position_cap") == (False, "500", "501")
    assert rule_check(proposed(config, BUY, "5"), "position_cap") == (False, "500", "510")
    assert rule_check(proposed(config, BUY, "5", stop("50")), "position_cap") == (False, "500", "510")


def test_a_halt_of_entries_denies_entries_and_leaves_the_closing_half() -> None:
    book = account(limited(), {"AAA": "10"}, halts=[ENTRIES])
    assert ruled(proposed(limited(), BUY, "1", book=book)) == (Verdict.DENIED, 0)
    assert ruled(proposed(limited(), SELL, "15", book=book)) == (Verdict.REDUCED, 10)
    proposal = proposed(limited(), SELL, "10", book=book)
    assert ruled(proposal) == (Verdict.APPROVED, 10)
    assert rule_check(proposed(limited(), BUY, "1", book=book), "halt") == (
        False, "no halt", "entries halted by daily_loss: lost too much",
    )  # fmt: skip


def test_a_halt_of_everything_denies_exits_and_closing_halves_too() -> None:
    book = account(limited(), {"AAA": "10"}, halts=[ENTRIES, EVERYTHING])
    for side, quantity in ((BUY, "1"), (SELL, "15"), (SELL, "10")):
        assert ruled(proposed(limited(), side, quantity, book=book)) == (Verdict.DENIED, 0)
    assert rule_check(proposed(limited(), SELL, "10", book=book), "halt") == (
        False,
        "no halt of everything",
        "entries halted by daily_loss: lost too much; everything halted by operator: the operator says stop",
    )


# --- What is known of an account ----------------------------------------------------------------------------------


def test_the_days_loss_is_measured_from_the_equity_at_the_roll() -> None:
    book = account(DAY, {"AAA": "200"}, day_equity=exact("80000"))
    assert rule_check(proposed(DAY, symbol="BBB", book=book), "daily_loss") == (True, "below 4000", "-20000")
    assert rule_check(proposed(DAY, symbol="BBB", book=book, prices={"AAA": "-20"}), "daily_loss") == (
        False, "below 4000", "4000",
    )  # fmt: skip
    assert daily_loss_limit(book, DAY) == 4000
    assert daily_loss_limit(book, limited()) is None


def test_a_new_height_of_equity_is_no_fall() -> None:
    book = account(FALL, {"AAA": "100"})
    risen = proposed(FALL, symbol="BBB", book=book, prices={"AAA": "200"}, peak="90000")
    assert rule_check(risen, "drawdown") == (True, "below 11000", "0")
    fallen = proposed(FALL, symbol="BBB", book=book, prices={"AAA": "50"}, peak="110000")
    assert rule_check(fallen, "drawdown") == (False, "below 11000", "15000")


def test_a_rest_ends_a_row_of_losses_and_a_loss_that_was_never_made_is_none() -> None:
    config = limited(losses_max=2, cool_down_bars=3)
    resting = account(config, losses=5, lost_at=AT - 3 * HOUR + SECOND)
    assert rule_check(proposed(config, book=resting), "cool_down") == (
        False, "below 2 losses in a row, or 3 bars after the last", "5 in a row",
    )  # fmt: skip
    assert failing(proposed(config, book=account(config, losses=5, lost_at=AT - 3 * HOUR))) == []
    assert failing(proposed(config, book=account(config))) == []


def test_a_price_may_be_fresh_in_long_bars_and_stale_in_short_ones() -> None:
    assert rule_check(older("10801"), "stale_price") == (False, "3:00:00", "3:00:01")
    assert rule_check(proposed(FRESH, closed_at=AT - HOUR), "stale_price") == (True, "3:00:00", "1:00:00")


@pytest.mark.parametrize(
    ("side", "terms", "reference"),
    [(BUY, AT_MARKET, "100"), (SELL, AT_MARKET, "100"), (BUY, limit("90"), "90"), (BUY, limit("110"), "110"),
     (SELL, limit("110"), "110"), (BUY, stop("110"), "110"), (SELL, stop("90"), "90"), (SELL, stop("110"), "110"),
     (BUY, stop_limit("112", "110"), "110"), (SELL, stop_limit("88", "90"), "90"),
     # The next open fills these at once, at the market's price.
     (SELL, limit("90"), "100"), (BUY, stop("90"), "100"), (BUY, stop_limit("92", "90"), "100")],
)  # fmt: skip
def test_an_order_is_reckoned_at_its_stop_else_its_limit_else_the_last_close_and_never_below_what_it_meets(
    side: Side, terms: OrderTerms, reference: str
) -> None:
    assert reference_of(side, terms, Decimal(100)) == exact(reference)
    assert proposed(limited(), side, terms=terms).reference == exact(reference)
    own = terms.limit_price if terms.stop_price is None else terms.stop_price
    assert reference_of(side, terms, None) == own


def test_slippage_by_volume_is_reckoned_with_the_volume_of_the_last_bar() -> None:
    config = limited(with_costs("0", volume_bps="100"))
    assert rule_check(proposed(config, BUY, "10", volume="20"), "price")[2] == "100.25"
    assert rule_check(proposed(config, BUY, "10", closed_at=None), "price")[2] == "101"


EUR = limited(
    {
        "instruments": (Instrument("AAA", "EUR"), Instrument("BBB")),
        "rates": (Instrument("EUR-USD", "USD", 5),),
    },
    order_value_max="1100",
    position_pct="10",
    gross_exposure_pct="20",
    net_exposure_pct="20",
)


def test_limits_are_in_the_accounts_currency() -> None:
    book = account(EUR, {"BBB": "50"})
    proposal = proposed(EUR, BUY, "10", book=book, prices={"EUR-USD": "1.1"})
    assert rule_check(proposal, "order_value") == (True, "1100", "1100")
    assert rule_check(proposal, "cash") == (True, "95000", "1100")
    assert rule_check(proposal, "position_cap") == (True, "10000", "1100")
    assert rule_check(proposal, "gross_exposure") == (True, "20000", "6100")
    assert rule_check(proposal, "net_exposure") == (True, "20000", "6100")
    assert failing(proposed(EUR, BUY, "10", book=book, prices={"EUR-USD": "1.10001"})) == ["order_value"]


# --- Nothing unknown passes ---------------------------------------------------------------------------------------

ALL: dict[str, Any] = {
    "position_pct": "100", "daily_loss_pct": "50", "position_quantity_max": "1000", "order_value_max": "100000",
    "order_quantity_max": "1000", "gross_exposure_pct": "100", "net_exposure_pct": "100", "drawdown_pct": "50",
    "losses_max": 3, "orders_per_step": 3, "orders_per_hour": 9, "collar_pct": "5", "stale_bars": 3,
    "symbols": ("AAA", "BBB"), "trading_from": 0, "trading_to": 1439,
}  # fmt: skip
EVERY = limited(**ALL)
EVERY_EUR = limited({"instruments": EUR.instruments, "rates": EUR.rates}, **ALL)
OF_COST = ["price", "cash", "order_value", "position_cap"]
OF_EXPOSURE = ["gross_exposure", "net_exposure"]
OF_EQUITY = ["position_cap", "gross_exposure", "net_exposure", "daily_loss", "drawdown"]


@pytest.mark.parametrize("mark", [None, NAN, Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity")])
def test_without_a_price_of_its_own_nothing_is_entered(mark: Decimal | None) -> None:
    proposal = proposed(EVERY, prices={"AAA": mark}, peak="100000")
    assert failing(proposal) == [*OF_COST, *OF_EXPOSURE, "price_collar"]
    assert ruled(proposal) == (Verdict.DENIED, 0)
    assert rule_check(proposal, "price") == (False, "a price above 0", "unknown")
    assert rule_check(proposal, "cash") == (False, "100000", "unknown")
    assert rule_check(proposal, "gross_exposure") == (False, "100000", "unknown")
    assert rule_check(proposal, "price_collar") == (False, "5", "unknown")


@pytest.mark.parametrize("mark", [Decimal(0), Decimal(-37), Decimal("1E-13")])
def test_a_price_that_is_none_is_no_price(mark: Decimal) -> None:
    assert failing(proposed(EVERY, prices={"AAA": mark}, peak="100000")) == [*OF_COST, *OF_EXPOSURE, "price_collar"]


def test_a_limit_of_nothing_is_no_price_either() -> None:
    assert failing(proposed(limited(), BUY, "1", limit("0"))) == ["price"]
    assert rule_check(proposed(limited(), BUY, "1", limit("0")), "price") == (False, "a price above 0", "0")


@pytest.mark.parametrize("mark", [None, NAN, Decimal("Infinity")])
def test_a_limit_of_its_own_does_not_replace_the_price_of_the_market(mark: Decimal | None) -> None:
    proposal = proposed(EVERY, BUY, "1", limit("100"), prices={"AAA": mark}, peak="100000")
    assert failing(proposal) == [*OF_EXPOSURE, "price_collar"]
    assert ruled(proposal) == (Verdict.DENIED, 0)


@pytest.mark.parametrize("mark", [None, NAN, Decimal("Infinity")])
def test_without_a_price_of_what_is_held_equity_is_unknown_and_no_share_of_it_is_spent(mark: Decimal | None) -> None:
    proposal = proposed(EVERY, symbol="BBB", book=account(EVERY, {"AAA": "1"}), prices={"AAA": mark}, peak="100000")
    assert failing(proposal) == OF_EQUITY
    assert rule_check(proposal, "position_cap") == (False, "unknown", "100")
    assert rule_check(proposal, "gross_exposure") == (False, "unknown", "unknown")
    assert rule_check(proposal, "daily_loss") == (False, "below 50000", "unknown")
    assert rule_check(proposal, "drawdown") == (False, "unknown", "unknown")


@pytest.mark.parametrize("rate", [None, NAN, Decimal("Infinity"), Decimal(0), Decimal(-1)])
def test_without_a_rate_nothing_is_entered(rate: Decimal | None) -> None:
    proposal = proposed(EVERY_EUR, prices={"EUR-USD": rate}, peak="100000")
    assert failing(proposal) == [*OF_COST, *OF_EXPOSURE, "price_collar"]
    assert ruled(proposal) == (Verdict.DENIED, 0)


def test_without_a_bar_its_limit_allows_nothing() -> None:
    proposal = proposed(EVERY, closed_at=None, peak="100000")
    assert failing(proposal) == ["stale_price"]
    assert rule_check(proposal, "stale_price") == (False, "3:00:00", "unknown")


@pytest.mark.parametrize("quantity", ["NaN", "sNaN", "Infinity", "-Infinity", "1E+30", "1E-13", "1.10"])
def test_a_quantity_that_is_no_amount_is_denied(quantity: str) -> None:
    for book in (account(EVERY), account(EVERY, {"AAA": "-5"})):
        proposal = proposed(EVERY, BUY, quantity, book=book, peak="100000")
        assert ruled(proposal) == (Verdict.DENIED, 0)
        assert failing(proposal) == ["wish", "quantity"]
        assert rule_check(proposal, "wish")[2] == f"quantity {quantity} is no amount"


HUGE = "9" * 30
OF_AMOUNTS = ["cash", "order_value", "order_quantity", "position_cap", "position_quantity", *OF_EXPOSURE]


def test_amounts_too_large_to_reckon_with_are_denied_whatever_the_limits() -> None:
    assert failing(proposed(limited(), BUY, HUGE)) == ["price", "cash"]
    assert failing(proposed(EVERY, BUY, HUGE, peak="100000")) == ["price", *OF_AMOUNTS, "price_collar"]
    rich = msgspec.structs.replace(
        account(EVERY), positions={"AAA": Position("AAA", exact(HUGE), exact(HUGE), AT, None)}
    )
    proposal = proposed(EVERY, BUY, HUGE, book=rich, peak="100000")
    assert rule_check(proposal, "position_quantity") == (False, "unknown", "unknown")
    assert ruled(proposal) == (Verdict.DENIED, 0)


def test_equity_that_is_gone_has_no_shares() -> None:
    book = account(CAP, {"BBB": "-2000"})
    proposal = proposed(CAP, BUY, "0.00000001", book=book, prices={"BBB": "200"})
    assert rule_check(proposal, "position_cap") == (False, "0", "0.000001")


# --- All checks, in their order and in words ----------------------------------------------------------------------


def test_an_order_inside_every_limit_is_approved_with_every_check() -> None:
    ruling = check(proposed(EVERY, BUY, "100", peak="100000", book=account(EVERY, {"BBB": "-10"})))
    assert (ruling.verdict, ruling.quantity, ruling.reason) == (Verdict.APPROVED, 100, "all checks passed")
    assert [tuple(getattr(each, name) for name in each.__struct_fields__) for each in ruling.checks] == [
        ("wish", True, "prices and numbers that can be meant", "so they are"),
        ("quantity", True, "above 0, in lots of 0.00000001", "100"),
        ("price", True, "a price above 0", "100"),
        ("cash", True, "99000", "10000"),
        ("order_value", True, "100000", "10000"),
        ("order_quantity", True, "1000", "100"),
        ("position_cap", True, "100000", "10000"),
        ("position_quantity", True, "1000", "100"),
        ("gross_exposure", True, "100000", "11000"),
        ("net_exposure", True, "100000", "9000"),
        ("daily_loss", True, "below 50000", "0"),
        ("drawdown", True, "below 50000", "0"),
        ("cool_down", True, "below 3 losses in a row, or 24 bars after the last", "0 in a row"),
        ("orders_per_step", True, "below 3", "0"),
        ("orders_per_hour", True, "below 9", "0"),
        ("price_collar", True, "5", "0"),
        ("duplicate", True, "one of its kind at a time", "none"),
        ("stale_price", True, "3:00:00", "0:00:00"),
        ("allowed_symbols", True, "AAA,BBB", "AAA"),
        ("shorts", True, "allowed", "would hold 100"),
        ("incompatible_position", True, "reversal allowed", "holds 0"),
        ("trading_hours", True, "from 00:00 before 23:59", "12:00"),
        ("halt", True, "no halt", "no halt"),
    ]


def test_limits_that_are_switched_off_say_so_and_pass() -> None:
    checks = check(proposed(limited())).checks
    assert [(each.rule, each.passed) for each in checks if each.limit == "none"] == [
        ("order_value", True), ("order_quantity", True), ("position_cap", True), ("position_quantity", True),
        ("gross_exposure", True), ("net_exposure", True), ("daily_loss", True), ("drawdown", True),
        ("cool_down", True), ("orders_per_step", True), ("orders_per_hour", True), ("price_collar", True),
        ("stale_price", True), ("allowed_symbols", True), ("trading_hours", True),
    ]  # fmt: skip
    assert {each.observed for each in checks if each.limit == "none"} == {""}


def test_the_reason_names_every_rule_that_failed() -> None:
    config = limited({"cash": exact("1000")}, order_quantity_max="5", reduce=False)
    ruling = check(proposed(config, BUY, "11"))
    assert (ruling.verdict, ruling.quantity) == (Verdict.DENIED, 0)
    assert ruling.reason == "cash: 1100 against 1000; order_quantity: 11 against 5"


def test_an_exit_passes_whatever_the_state_of_the_account() -> None:
    limits = dict.fromkeys(
        ("position_pct", "daily_loss_pct", "position_quantity_max", "order_value_max", "order_quantity_max",
         "gross_exposure_pct", "net_exposure_pct", "drawdown_pct", "collar_pct"), "0",
    ) | {
        "losses_max": 1, "orders_per_step": 1, "orders_per_hour": 1, "stale_bars": 1, "symbols": (), "shorts": False,
        "reversal": False, "trading_from": 0, "trading_to": 1,
    }  # fmt: skip
    config = limited(with_costs("200", "10"), **limits)
    for held, side in (("10", SELL), ("-10", BUY)):
        working = order_of("AAA", side, "1", at=AT)
        poor = account(
            config, {"AAA": held}, losses=9, lost_at=AT, placed=(AT,) * 9, halts=[ENTRIES], working=[working]
        )
        poor = msgspec.structs.replace(poor, cash=exact("-5000"))
        for quantity in ("10", "9.99", "1E-8"):
            proposal = proposed(config, side, quantity, book=poor, prices={"AAA": None}, closed_at=None)
            ruling = check(proposal)
            assert (ruling.verdict, ruling.quantity) == (Verdict.APPROVED, Decimal(quantity))
            assert ruling.reason == "reduces the position"
            assert [each.rule for each in ruling.checks] == list(RULES)
            assert {each.rule: (each.passed, each.limit, each.observed) for each in ruling.checks} == dict.fromkeys(
                RULES, (True, "exits are exempt", "")
            ) | {
                "halt": (True, "no halt of everything", "entries halted by daily_loss: lost too much"),
                "incompatible_position": (True, "one way out at a time", "is not being left"),
            }


def test_an_exit_with_a_flaw_is_held_to_every_rule() -> None:
    book = account(limited(), {"AAA": "10"})
    assert ruled(proposed(limited(), SELL, "10", book=book, flaw="what is meant?")) == (Verdict.DENIED, 0)


def test_an_order_one_unit_beyond_an_exit_is_an_entry() -> None:
    proposal = proposed(limited(position_quantity_max="0"), SELL, "10.01", book=account(limited(), {"AAA": "10"}))
    ruling = check(proposal)
    assert (ruling.verdict, ruling.quantity) == (Verdict.REDUCED, 10)
    assert ruling.reason == "position_quantity: 0.01 against 0"
    assert not proposal.reduces_only
    assert proposal.with_quantity(Decimal(10)).reduces_only
    assert not proposal.with_quantity(ZERO).reduces_only


# --- Made to fit --------------------------------------------------------------------------------------------------

SHARES = ("position_pct", "gross_exposure_pct", "net_exposure_pct", "position_quantity_max", "order_quantity_max")


@pytest.mark.parametrize(
    ("limits", "held", "side", "quantity", "verdict", "fits"),
    [({"order_quantity_max": "5"}, "0", BUY, "9", Verdict.REDUCED, "5"),
     ({"order_value_max": "199"}, "0", SELL, "9", Verdict.REDUCED, "1"),
     ({"order_value_max": "99"}, "0", BUY, "9", Verdict.DENIED, "0"),
     ({"position_quantity_max": "5"}, "3", BUY, "9", Verdict.REDUCED, "2"),
     ({"position_quantity_max": "5"}, "3", SELL, "9", Verdict.REDUCED, "8"),
     ({"position_quantity_max": "0"}, "3", SELL, "9", Verdict.REDUCED, "3"),
     ({"order_quantity_max": "2"}, "3", SELL, "9", Verdict.REDUCED, "3"),
     ({"order_quantity_max": "5"}, "0.5", SELL, "9.5", Verdict.REDUCED, "4.5"),
     ({"order_quantity_max": "5"}, "0.5", SELL, "9.7", Verdict.DENIED, "0"),
     ({"order_quantity_max": "5", "reduce": False}, "0", BUY, "9", Verdict.DENIED, "0"),
     ({"order_quantity_max": "5", "reduce": False}, "3", SELL, "9", Verdict.REDUCED, "3"),
     ({"order_quantity_max": "5", "symbols": ()}, "0", BUY, "9", Verdict.DENIED, "0"),
     ({"order_quantity_max": "5", "symbols": ()}, "3", SELL, "9", Verdict.REDUCED, "3"),
     ({"order_quantity_max": "5", "reversal": False}, "3", SELL, "9", Verdict.DENIED, "0")],
)  # fmt: skip
def test_an_order_that_is_too_large_is_made_to_fit_in_whole_lots(
    limits: dict[str, Any], held: str, side: Side, quantity: str, verdict: Verdict, fits: str
) -> None:
    one = (Instrument("AAA", quantity_step=ONE), Instrument("BBB"))
    config = limited({"instruments": one}, **limits)
    book = account(config, {"AAA": held} if held != "0" else {})
    assert ruled(proposed(config, side, quantity, book=book)) == (verdict, exact(fits))


def test_an_order_may_break_every_rule_of_size_at_once_and_be_made_to_fit() -> None:
    tight = dict.fromkeys(("position_quantity_max", "order_quantity_max"), "2") | {"order_value_max": "200"}
    config = limited({"cash": exact("1000")}, **tight, **dict.fromkeys(SHARES[:3], "50"))
    proposal = proposed(config, BUY, "11")
    assert failing(proposal) == OF_AMOUNTS
    assert ruled(proposal) == (Verdict.REDUCED, 2)


def test_an_order_smaller_than_a_lot_is_not_made_larger_to_fit() -> None:
    config = limited(
        {"instruments": (Instrument("AAA", quantity_step=exact("10")), Instrument("BBB"))}, net_exposure_pct="20"
    )
    book = account(config, {"BBB": "-205"})
    assert ruled(proposed(config, BUY, "4", book=book)) == (Verdict.DENIED, 0)
    assert ruled(proposed(config, BUY, "10", book=book)) == (Verdict.APPROVED, 10)


def test_the_same_order_over_another_quantity_differs_in_nothing_else() -> None:
    working = order_of("BBB", SELL, "5")
    terms, book = limit("90"), account(CAP, {"BBB": "1"})
    proposal = proposed(CAP, SELL, "7", terms, book=book, symbol="BBB", flaw="why?", replaces=working)
    other = proposal.with_quantity(exact("3"))
    assert {field for field in Proposal.__struct_fields__ if getattr(other, field) != getattr(proposal, field)} == {
        "quantity"
    }
    assert (other.terms, other.invalid_reason, other.replaces, other.book) == (terms, "why?", working, book)


maybe = st.sampled_from([None, "0", "1", "3.3", "10", "50"])


@given(
    st.fixed_dictionaries(
        dict.fromkeys(SHARES, maybe) | {"order_value_max": st.sampled_from([None, "0", "99", "1000", "5432.1"])}
    ),
    st.sampled_from(["0", "7", "-7", "12.5", "-0.3"]),
    st.sampled_from(Side),
    st.integers(1, 3000),
    st.sampled_from(["1", "0.1", "0.25"]),
    st.sampled_from(["0", "33.3"]),
    st.integers(1, 4000),
)  # fmt: skip
@settings(max_examples=250)
def test_what_is_left_of_an_order_fits_and_a_lot_more_would_not(
    limits: dict[str, str | None], held: str, side: Side, lots: int, lot: str, bps: str, cents: int
) -> None:
    instruments = (Instrument("AAA", quantity_step=exact(lot)), Instrument("BBB"))
    config = limited(with_costs(bps, bps) | {"instruments": instruments, "cash": exact("4000")}, **limits)
    book = account(config, {"BBB": "4"} | ({"AAA": held} if held != "0" else {}))
    whole = mul(exact(lot), Decimal(lots))
    closes = closing_units(exact(held), side, whole)
    wanted = add(closes, floor_to_step(sub(whole, closes), exact(lot)))
    proposal = proposed(config, side, wanted, book=book, prices={"AAA": exact(Decimal(cents).scaleb(-1))})
    ruling = check(proposal)
    assert [each.rule for each in ruling.checks] == list(RULES)
    assert (ruling.verdict is Verdict.DENIED) is (ruling.quantity == 0)
    if ruling.verdict is Verdict.APPROVED:
        assert ruling.quantity == wanted
        return
    assert proposal.closing <= ruling.quantity < wanted
    assert (ruling.quantity - proposal.closing) % exact(lot) == 0
    if ruling.quantity > 0:
        assert check(proposal.with_quantity(ruling.quantity)).verdict is Verdict.APPROVED
    more = add(max(ruling.quantity, proposal.closing), exact(lot))
    assert more >= wanted or check(proposal.with_quantity(more)).verdict is not Verdict.APPROVED


# --- Cash ---------------------------------------------------------------------------------------------------------

prices = st.integers(1, 10**8).map(lambda ticks: exact(Decimal(ticks).scaleb(-4)))
quantities = st.integers(1, 10**10).map(lambda units: exact(Decimal(units).scaleb(-6)))


@given(quantities, st.sampled_from(Side), quantities, prices, prices, st.sampled_from(["0", "7.5"]),
       st.sampled_from(["0", "30", "100"]))  # fmt: skip
@settings(max_examples=300)
def test_the_cash_an_entry_asks_for_is_what_its_fill_uses(
    held: Decimal, side: Side, quantity: Decimal, bought: Decimal, price: Decimal, bps: str, margin: str
) -> None:
    shorting = Shorting(margin_pct=exact(margin))
    config = limited(with_costs(bps, bps) | {"cash": exact("1000000000"), "shorting": shorting})
    for units in (held, -held):
        position = Position("AAA", exact(units), mul(exact(units), bought), AT, None)
        book = msgspec.structs.replace(account(config), positions={"AAA": position})
        proposal = proposed(config, side, quantity, book=book, prices={"AAA": price})
        if proposal.reduces_only:
            continue
        order = order_of("AAA", side, str(quantity))
        made = fill(order, quantity, price, AT, AT, config.costs, Market(config.instruments[0], ZERO, ONE))
        after = evolve(evolve(book, order), made)
        used = book.free_cash - after.free_cash
        assert abs(entry_cash(proposal) - max(ZERO, used)) < Decimal("0.00001")


def test_a_reversal_asks_only_for_what_closing_does_not_set_free() -> None:
    config = limited({"cash": exact("1000"), "shorting": Shorting(margin_pct=exact("50"))})
    long = account(config, {"AAA": "10"})
    # 20 sold at 120: 1,200 come from the long, a short of 1,200 needs 600.
    assert entry_cash(proposed(config, SELL, "20", book=long, prices={"AAA": "120"})) == 0
    assert entry_cash(proposed(config, SELL, "50", book=long, prices={"AAA": "120"})) == 1200
    short = account(config, {"AAA": "-10"})
    # The short set aside 1,500; closing it costs 1,200, and 10 more cost 1,200.
    assert entry_cash(proposed(config, BUY, "20", book=short, prices={"AAA": "120"})) == 900
    with pytest.raises(AssertionError, match="AAA"):
        entry_cash(proposed(config, prices={"AAA": None}))


shares = st.sampled_from(["1", "5", "10", "33.3", "100"])


@given(
    st.integers(100, 10**10).map(lambda cents: exact(Decimal(cents).scaleb(-2))),
    st.integers(100, 10**11).map(lambda ticks: exact(Decimal(ticks).scaleb(-5))),
    shares,
    st.sampled_from(["0", "5", "3.3", "200"]),
    st.sampled_from(["0.0001", "0.01", "1"]),
    st.sampled_from(["1", "0.1", "50"]),
    st.sampled_from(Side),
)
@example(exact(1000), exact("33.333333333334"), "10", "0", "1", "1", BUY)
@settings(max_examples=300)
def test_a_position_sized_to_the_cap_passes_the_cap(
    equity: Decimal, price: Decimal, pct: str, slippage: str, step: str, multiplier: str, side: Side
) -> None:
    config = config_of(
        base_pct=pct, position_pct=pct, slippage_bps=slippage, step=step, multiplier=multiplier, cash=str(equity)
    )
    probe = proposed(config, side, "1", prices={"AAA": price})
    assert probe.cost is not None
    worth = max(price, probe.cost.price)
    quantity = target_quantity(equity, worth, ONE, config.instruments[0], config, ONE)
    assert rule_check(proposed(config, side, quantity, prices={"AAA": price}), "position_cap")[0]
    # And a step more would break it: no cash is left idle for nothing.
    more = add(quantity, exact(step))
    assert not rule_check(proposed(config, side, more, prices={"AAA": price}), "position_cap")[0]
