"""The fold: what every event does to cash, cost and profit. No rule is asked here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.core.config import Costs
from engine.core.events import (
    BookEvent,
    BookOpened,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    PositionsMarked,
)
from engine.core.market import Direction, Instrument, Side
from engine.core.money import exact
from engine.trading.book import Book, evolve, fold
from engine.trading.fills import Market, fill

AT = datetime(2024, 1, 1, tzinfo=UTC)
AAA = Instrument("AAA", "USD", 2, Decimal(1), Decimal(1))
FREE = Costs(Decimal(0), Decimal(0))


def opened(cash: str = "10000", *instruments: Instrument) -> BookOpened:
    return BookOpened(AT, exact(cash), "USD", instruments or (AAA,), "digest", Decimal(100))


def placed(n: int, side: Side, quantity: str, price: str, reserved: str = "0", hold: int | None = None) -> OrderPlaced:
    return OrderPlaced(
        f"order-{n}", f"signal-{n}", "", "AAA", AT + timedelta(hours=n), side, exact(quantity), exact(price),
        exact(reserved), holding_bars=hold,
    )  # fmt: skip


def traded(*orders: tuple[Side, str, str], costs: Costs = FREE, instrument: Instrument = AAA) -> list[BookEvent]:
    """Orders that are filled whole at their price, one after the other."""
    events: list[BookEvent] = []
    for n, (side, quantity, price) in enumerate(orders):
        order = placed(n, side, quantity, price)
        events += [order, filled(order, order.quantity, costs, instrument)]
    return events


def filled(order: OrderPlaced, quantity: Decimal, costs: Costs = FREE, instrument: Instrument = AAA) -> OrderFilled:
    market = Market(instrument, Decimal(0), Decimal(1))
    return fill(order, quantity, order.reference_price, order.at, order.at, costs, market)


BUY, SELL = Side.BUY, Side.SELL


def test_a_long_is_bought_added_to_reduced_and_sold() -> None:
    book = fold([opened(), *traded((BUY, "10", "100"), (BUY, "10", "110"))])
    assert (book.cash, book.held("AAA"), book.positions["AAA"].cost, book.realised) == (7900, 20, 2100, 0)
    assert book.positions["AAA"].opened_at == AT
    book = fold([opened(), *traded((BUY, "10", "100"), (BUY, "10", "110"), (SELL, "5", "125"))])
    assert (book.held("AAA"), book.positions["AAA"].cost, book.realised) == (15, 1575, 100)
    book = fold([opened(), *traded((BUY, "10", "100"), (BUY, "10", "110"), (SELL, "5", "125"), (SELL, "15", "90"))])
    assert (book.cash, book.positions, book.realised) == (9875, {}, -125)
    assert book.direction("AAA") is Direction.FLAT
    assert book.held("AAA") == 0


def test_a_short_is_opened_added_to_covered_in_part_and_reversed() -> None:
    book = fold([opened(), *traded((SELL, "10", "100"), (SELL, "10", "90"))])
    assert (book.cash, book.held("AAA"), book.positions["AAA"].cost) == (11_900, -20, -1900)
    assert book.direction("AAA") is Direction.SHORT
    book = fold([opened(), *traded((SELL, "10", "100"), (SELL, "10", "90"), (BUY, "5", "80"))])
    assert (book.held("AAA"), book.positions["AAA"].cost, book.realised) == (-15, -1425, 75)
    book = fold([opened(), *traded((SELL, "10", "100"), (SELL, "10", "90"), (BUY, "5", "80"), (BUY, "20", "110"))])
    assert (book.held("AAA"), book.positions["AAA"].cost, book.realised) == (5, 550, 75 - 225)
    assert book.positions["AAA"].opened_at == AT + timedelta(hours=3)


def test_fees_are_paid_from_cash_and_are_no_part_of_cost_or_profit() -> None:
    ten_bps = Costs(Decimal(0), Decimal(10))
    book = fold([opened(), *traded((BUY, "10", "100"), (SELL, "10", "120"), costs=ten_bps)])
    assert (book.fees, book.realised, book.cash) == (exact("2.2"), 200, exact("10197.8"))


def test_a_multiplier_scales_money_and_not_units() -> None:
    future = Instrument("AAA", "USD", 2, Decimal(1), Decimal(50))
    book = fold([opened("100000", future), *traded((BUY, "2", "100"), instrument=future)])
    assert (book.cash, book.held("AAA"), book.positions["AAA"].cost) == (90_000, 2, 10_000)
    assert book.equity({"AAA": Decimal(101)}) == 100_100


def test_a_short_ties_up_as_much_free_cash_as_a_long() -> None:
    long = fold([opened(), *traded((BUY, "10", "100"))])
    short = fold([opened(), *traded((SELL, "10", "100"))])
    assert long.free_cash == short.free_cash == 9000
    assert long.equity({"AAA": Decimal(100)}) == short.equity({"AAA": Decimal(100)}) == 10_000


def test_a_working_order_reserves_cash_until_it_ends() -> None:
    order = placed(0, BUY, "10", "100", reserved="1001")
    working = fold([opened(), order])
    assert working.free_cash == 8999
    assert working.orders_of("AAA") == [order]
    assert working.orders_of("BBB") == []
    canceled = evolve(working, OrderCanceled("order-0", "AAA", AT, "asked to"))
    rejected = evolve(working, OrderRejected("order-0", "AAA", AT, "no cash", Decimal(2), Decimal(1)))
    expired = evolve(working, OrderExpired("order-0", "AAA", AT))
    replaced = evolve(working, OrderReplaced("order-0", "AAA", AT, "order-1"))
    assert canceled == rejected == expired == replaced == msgspec.structs.replace(fold([opened()]), placed=(order.at,))
    assert canceled.free_cash == 10_000


def test_a_fill_in_part_leaves_the_rest_of_the_order_working() -> None:
    order = placed(0, BUY, "10", "100", reserved="1000", hold=3)
    book = fold([opened(), order, filled(order, Decimal(4))])
    (rest,) = book.orders_of("AAA")
    assert (rest.reserved, rest.quantity, book.held("AAA"), book.positions["AAA"].holding_bars) == (600, 6, 4, 3)


def test_only_a_mark_at_the_roll_begins_a_new_day() -> None:
    book = fold([opened()])
    assert book.day_equity == 10_000
    for occasion, day_equity in (("roll", 9000), ("halt", 10_000), ("end", 10_000)):
        mark = PositionsMarked(AT, occasion, Decimal(9000), Decimal(9000), ())  # type: ignore[arg-type]
        assert evolve(book, mark).day_equity == day_equity


orders = st.lists(
    st.tuples(
        st.sampled_from(Side),
        st.integers(1, 10**12).map(lambda units: str(exact(Decimal(units).scaleb(-8)))),
        st.integers(1, 10**9).map(lambda ticks: str(exact(Decimal(ticks).scaleb(-4)))),
    ),
    max_size=30,
)


@given(orders, st.sampled_from(["1", "0.01", "50"]).map(exact), st.sampled_from(["0", "3.3"]).map(exact))
def test_any_chain_of_fills_balances_exactly(
    chain: list[tuple[Side, str, str]], multiplier: Decimal, bps: Decimal
) -> None:
    instrument = Instrument("AAA", "USD", 2, Decimal(1), multiplier)
    cash, held, book = Fraction(10_000), Fraction(0), Book()
    for event in [opened("10000", instrument), *traded(*chain, costs=Costs(bps, bps), instrument=instrument)]:
        book = evolve(book, event)
        if isinstance(event, OrderFilled):
            cash -= event.side.sign * Fraction(event.notional) + Fraction(event.commission)
            held += event.side.sign * Fraction(event.quantity)
        position = book.positions.get("AAA")
        cost = Fraction(position.cost) if position else Fraction(0)
        assert Fraction(book.cash) == cash
        assert Fraction(book.held("AAA")) == held
        assert cash + cost + Fraction(book.fees) - Fraction(book.realised) == 10_000
        if position is None:
            assert held == 0
    assert book.working == {}
