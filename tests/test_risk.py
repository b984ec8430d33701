"""The gate, rule by rule: at its limit, and a tick to either side."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.book import Book, evolve, fold
from engine.config import RunConfig
from engine.decide import open_book
from engine.events import BookEvent, OrderPlaced, PositionsMarked, TradingHalted, Verdict
from engine.fills import fill, slipped
from engine.market import Side
from engine.money import add, exact
from engine.risk import RULES, Ruling, entry_cash, judge, propose
from engine.sizing import target_quantity
from tests.strategies import config_of

AT = datetime(2024, 1, 1, tzinfo=UTC)
BUY, SELL = Side.BUY, Side.SELL
HALT = TradingHalted(AT, "entries", "lost too much", "daily_loss")


def holding(config: RunConfig, quantity: str = "0", price: str = "100") -> Book:
    """A book that holds a signed quantity of the first symbol, bought without costs."""
    events: list[BookEvent] = [open_book(config, "digest", AT)]
    units = exact(quantity)
    if units:
        events += filled(config, BUY if units > 0 else SELL, abs(units), exact(price))
    return fold(events)


def filled(config: RunConfig, side: Side, quantity: Decimal, price: Decimal) -> list[BookEvent]:
    order = OrderPlaced("o", "s", "", config.symbols[0], AT, side, "MARKET", quantity, price, Decimal(0))
    return [order, fill(order, quantity, price, AT, config_of().costs, config.instruments[0])]


def ruled(
    config: RunConfig, book: Book, side: Side, quantity: str, price: str = "100", equity: str | None = None
) -> Ruling:
    symbol = config.symbols[0]
    worth = exact(equity) if equity else book.equity({symbol: exact(price)})
    return judge(propose(book, config, config.instruments[0], side, exact(quantity), exact(price), worth))


def failures(ruling: Ruling) -> list[str]:
    return [check.rule for check in ruling.checks if not check.passed]


def check(ruling: Ruling, rule: str) -> tuple[bool, str, str]:
    return next((found.passed, found.limit, found.observed) for found in ruling.checks if found.rule == rule)


def test_an_order_inside_every_limit_is_approved_with_every_check() -> None:
    config = config_of(position_pct="10", daily_loss_pct="5")
    ruling = ruled(config, holding(config), BUY, "100")
    assert (ruling.verdict, ruling.quantity, ruling.reason) == (Verdict.APPROVED, 100, "all checks passed")
    assert [(c.rule, c.passed, c.limit, c.observed) for c in ruling.checks] == [
        ("quantity", True, "above 0", "100"),
        ("cash", True, "100000", "10000"),
        ("position_cap", True, "10000", "10000"),
        ("daily_loss", True, "below 5000", "0"),
        ("breaker", True, "no halt", "no halt"),
        ("incompatible_position", True, "reversal allowed", "holds 0"),
        ("working_order", True, "one working order per symbol", "none"),
    ]


def test_limits_that_are_switched_off_say_so_and_pass() -> None:
    config = config_of()
    ruling = ruled(config, holding(config), BUY, "1000", equity="1")
    assert check(ruling, "position_cap") == (True, "none", "100000")
    assert check(ruling, "daily_loss") == (True, "none", "99999")


def test_nothing_to_order_is_denied() -> None:
    config = config_of(position_pct="10")
    assert failures(ruled(config, holding(config), BUY, "0")) == ["quantity"]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(("price", "passes"), [("99.99999", True), ("100", True), ("100.00001", False)])
def test_cash_may_be_spent_to_the_last_tick(side: Side, price: str, passes: bool) -> None:
    config = config_of(cash="1000")
    ruling = ruled(config, holding(config), side, "10", price)
    assert ruling.verdict is (Verdict.APPROVED if passes else Verdict.DENIED)
    assert failures(ruling) == ([] if passes else ["cash"])


def test_slippage_and_commission_are_part_of_what_must_be_there() -> None:
    config = config_of(cash="1021.02", slippage_bps="200", commission_bps="10")
    assert failures(ruled(config, holding(config), BUY, "10")) == []
    config = config_of(cash="1021.01999", slippage_bps="200", commission_bps="10")
    ruling = ruled(config, holding(config), BUY, "10")
    assert check(ruling, "cash") == (False, "1021.01999", "1021.02")
    assert ruling.reason == "cash: 1021.02 against 1021.01999"


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(("quantity", "passes"), [("99.99", True), ("100", True), ("100.01", False)])
def test_the_cap_is_a_share_of_equity(side: Side, quantity: str, passes: bool) -> None:
    config = config_of(position_pct="10")
    assert failures(ruled(config, holding(config), side, quantity)) == ([] if passes else ["position_cap"])


@pytest.mark.parametrize(("quantity", "passes"), [("40", True), ("40.00000001", False)])
def test_the_cap_is_on_the_resulting_position_not_on_the_order(quantity: str, passes: bool) -> None:
    config = config_of(position_pct="10")
    assert failures(ruled(config, holding(config, "60"), BUY, quantity)) == ([] if passes else ["position_cap"])
    assert failures(ruled(config, holding(config, "-60"), SELL, quantity)) == ([] if passes else ["position_cap"])


@pytest.mark.parametrize(("quantity", "passes"), [("160", True), ("160.01", False)])
def test_a_reversal_is_capped_by_where_it_ends(quantity: str, passes: bool) -> None:
    config = config_of(position_pct="10")
    ruling = ruled(config, holding(config, "60"), SELL, quantity)
    assert (ruling.verdict, ruling.quantity) == (
        (Verdict.APPROVED, exact(quantity)) if passes else (Verdict.REDUCED, 60)
    )
    assert failures(ruling) == ([] if passes else ["position_cap"])


@pytest.mark.parametrize(
    ("equity", "passes"), [("105000", True), ("95000.00001", True), ("95000", False), ("94999.99999", False)]
)
def test_the_days_loss_must_stay_below_its_limit(equity: str, passes: bool) -> None:
    config = config_of(daily_loss_pct="5")
    assert failures(ruled(config, holding(config), BUY, "1", equity=equity)) == ([] if passes else ["daily_loss"])


def test_the_days_loss_is_measured_from_the_equity_at_the_roll() -> None:
    config = config_of(daily_loss_pct="5")
    book = evolve(holding(config), PositionsMarked(AT, "roll", Decimal(80_000), Decimal(80_000), ()))
    assert check(ruled(config, book, BUY, "1", equity="76000"), "daily_loss") == (False, "below 4000", "4000")
    assert check(ruled(config, book, BUY, "1", equity="76001"), "daily_loss") == (True, "below 4000", "3999")


def test_a_halt_denies_entries_reduces_reversals_and_lets_exits_pass() -> None:
    config = config_of()
    book = evolve(holding(config, "10"), HALT)
    assert failures(ruled(config, book, BUY, "1")) == ["breaker"]
    assert (ruled(config, book, SELL, "15").verdict, ruled(config, book, SELL, "15").quantity) == (Verdict.REDUCED, 10)
    assert ruled(config, book, SELL, "10").verdict is Verdict.APPROVED


def test_a_forbidden_reversal_is_denied_whole() -> None:
    config = config_of(reversal=False)
    ruling = ruled(config, holding(config, "10"), SELL, "20")
    assert (ruling.verdict, ruling.quantity) == (Verdict.DENIED, 0)
    assert check(ruling, "incompatible_position") == (False, "no reversal", "holds 10")
    assert failures(ruled(config, holding(config, "10"), BUY, "20")) == []


def test_a_second_order_beside_a_working_one_is_denied_whatever_it_does() -> None:
    config = config_of()
    book = evolve(holding(config, "10"), filled(config, SELL, Decimal(10), Decimal(100))[0])
    for side, quantity in ((BUY, "1"), (SELL, "10"), (SELL, "20")):
        ruling = ruled(config, book, side, quantity)
        assert (ruling.verdict, failures(ruling)) == (Verdict.DENIED, ["working_order"])


@pytest.mark.parametrize(("held", "side"), [("10", SELL), ("-10", BUY)])
def test_an_exit_passes_whatever_the_state_of_the_account(held: str, side: Side) -> None:
    config = config_of(cash="1000", position_pct="1", daily_loss_pct="1", reversal=False, commission_bps="10")
    book = evolve(holding(config, held), HALT)
    for quantity in ("10", "9.99"):
        ruling = ruled(config, book, side, quantity, "190" if side is BUY else "1")
        assert (ruling.verdict, ruling.quantity) == (Verdict.APPROVED, exact(quantity))
        assert [found.rule for found in ruling.checks] == list(RULES)
        assert {found.limit for found in ruling.checks} == {"exits are exempt"}


def test_an_order_one_unit_beyond_an_exit_is_an_entry() -> None:
    config = config_of(daily_loss_pct="1")
    book = holding(config, "10")
    ruling = ruled(config, book, SELL, "10.01", equity="1")
    assert (ruling.verdict, ruling.quantity, failures(ruling)) == (Verdict.REDUCED, 10, ["daily_loss"])


prices = st.integers(1, 10**8).map(lambda ticks: exact(Decimal(ticks).scaleb(-4)))
quantities = st.integers(1, 10**10).map(lambda units: exact(Decimal(units).scaleb(-6)))


@given(quantities, st.sampled_from(Side), quantities, prices, prices, st.sampled_from(["0", "7.5"]))
@settings(max_examples=300)
def test_the_cash_an_entry_asks_for_is_what_its_fill_uses(
    held: Decimal, side: Side, quantity: Decimal, bought: Decimal, price: Decimal, bps: str
) -> None:
    config = config_of(cash="1000000000", slippage_bps=bps, commission_bps=bps)
    for sign in ("", "-"):
        book = holding(config, f"{sign}{held}", str(bought))
        proposal = propose(book, config, config.instruments[0], side, quantity, price, Decimal(1))
        order = filled(config, side, quantity, price)[0]
        assert isinstance(order, OrderPlaced)
        after = evolve(evolve(book, order), fill(order, quantity, price, AT, config.costs, config.instruments[0]))
        used = book.free_cash - after.free_cash
        if proposal.closing == 0 or proposal.closing < proposal.quantity:
            assert abs(entry_cash(proposal) - max(Decimal(0), used)) < Decimal("0.00001")


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
@settings(max_examples=400)
def test_a_position_sized_to_the_cap_passes_the_cap(
    equity: Decimal, price: Decimal, pct: str, slippage: str, step: str, multiplier: str, side: Side
) -> None:
    config = config_of(
        base_pct=pct, position_pct=pct, slippage_bps=slippage, step=step, multiplier=multiplier, cash=str(equity)
    )
    instrument = config.instruments[0]
    quantity = target_quantity(equity, slipped(side, price, config.costs), Decimal(1), instrument, config)
    ruling = ruled(config, holding(config), side, str(quantity), str(price))
    assert check(ruling, "position_cap")[0]
    # And a step more would break it: no cash is left idle for nothing.
    more = ruled(config, holding(config), side, str(add(quantity, exact(step))), str(price))
    assert not check(more, "position_cap")[0]


@pytest.mark.parametrize(("equity", "confidence"), [("0", "1"), ("-5", "1"), ("1000", "0")])
def test_without_equity_or_confidence_nothing_is_wanted(equity: str, confidence: str) -> None:
    config = config_of()
    assert target_quantity(exact(equity), Decimal(1), exact(confidence), config.instruments[0], config) == 0


def test_confidence_never_leads_beyond_the_cap() -> None:
    config = config_of(base_pct="40", position_pct="10")
    quantities = [
        target_quantity(Decimal(1000), Decimal(1), exact(confidence), config.instruments[0], config)
        for confidence in ("0.1", "0.25", "0.5", "1")
    ]
    assert quantities == [40, 100, 100, 100]


def test_a_fixed_quantity_does_not_ask_for_confidence() -> None:
    config = config_of(quantity="7", position_pct="1")
    assert target_quantity(Decimal(1000), Decimal(1), exact("0.1"), config.instruments[0], config) == 7
