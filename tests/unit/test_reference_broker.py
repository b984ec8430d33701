"""The manual account and its paper broker against tests/support/reference_broker.py, step by step.

What the gate allows has tests of its own: the model is told which orders were placed, amended and canceled by decision,
and foretells everything that becomes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from engine.broker.paper import BEYOND_COLLAR, PAIR_FILLED, PaperBroker
from engine.core.config import Costs, Exits, RiskLimits, RunConfig, Shorting, Sizing
from engine.core.events import (
    BookEvent,
    HaltScope,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    OrderTerms,
    Protection,
    TradingHalted,
    TradingResumed,
)
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Instrument, OrderType, Side, Timeframe, TimeInForce
from engine.core.money import exact
from engine.runtime.manual import ManualAccount
from engine.trading import fills
from engine.trading.book import Book, evolve
from engine.trading.tickets import OrderTicket
from tests.support.reference_broker import OrderReport, ReferenceBroker, find_differences, is_close

SYMBOLS = ("AAA", "BBB")
RATE = "EUR-USD"
HOUR = timedelta(hours=1)
RUNS, STEPS = 300, 50
# The day's session ends three bars later.
FIRST = datetime(2024, 1, 8, 21, tzinfo=UTC)
# The engine rounds to 12 decimals, the model never: shares of a volume, of a cost and of a reserve may differ by that,
# a handful of times an order. What no division enters is far below a lot or a tick in either.
DUST = Fraction(1, 10**6)


def _of(*numbers: str) -> st.SearchStrategy[Decimal]:
    return st.sampled_from([exact(number) for number in numbers])


# --- What is drawn ------------------------------------------------------------------------------------------------


@st.composite
def accounts(draw: st.DrawFn) -> RunConfig:
    """An account of two symbols, one of them perhaps in a currency of its own; no limits but cash."""
    quote = draw(st.sampled_from(["USD", "USD", "EUR"]))
    stop_pct = draw(st.none() | _of("5", "10"))
    return RunConfig(
        cash=draw(_of("2000", "20000", "100000")),
        currency="USD",
        timeframe=Timeframe.H1,
        instruments=tuple(
            Instrument(
                symbol, each, 2, draw(_of("1", "0.5")), draw(_of("1", "1", "5")), tick=draw(st.none() | _of("0.5"))
            )
            for symbol, each in zip(SYMBOLS, ("USD", quote), strict=True)
        ),
        rates=(Instrument(RATE),) if quote == "EUR" else (),
        costs=Costs(
            slippage_bps=draw(_of("0", "0", "25")),
            commission_bps=draw(_of("0", "10")),
            slippage_volume_bps=draw(_of("0", "0", "10")),
            commission_per_unit=draw(_of("0", "0.05")),
            commission_min=draw(_of("0", "0", "2")),
            volume_cap_pct=draw(st.none() | _of("10", "50")),
            latency_bars=draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2])),
            round_to_tick=draw(st.booleans()),
        ),
        sizing=draw(
            st.sampled_from([Sizing("confidence", exact("97"))] * 2 + [Sizing("fixed_quantity", quantity=exact("10"))])
        ),
        limits=RiskLimits(
            None,
            None,
            draw(st.sampled_from([True, True, False])),
            reduce=draw(st.booleans()),
            collar_pct=draw(st.none() | _of("6", "12")),
        ),
        exits=Exits(
            None,
            stop_pct=stop_pct,
            risk_reward=None if stop_pct is None else draw(st.none() | _of("1", "2")),
            trail_pct=draw(st.none() | _of("5", "15")),
        ),
        periods_per_year=365,
        pyramid=draw(st.booleans()),
        shorting=Shorting(margin_pct=draw(_of("100", "50"))),
    )


# In halves of a unit: gap from the close before, rise above and fall below the body, body; and the volume.
Shape = tuple[int, int, int, int, int]
Hour = tuple[Shape | None, Shape | None, int]
_shapes = st.tuples(
    st.sampled_from([0, 0, 0, 0, 1, -1, 1, -1, 3, -3, 12, -12, 24]),
    st.sampled_from([0, 0, 0, 1, 2, 4, 10]),
    st.sampled_from([0, 0, 0, 1, 2, 4, 10]),
    st.sampled_from([0, 1, -1, 2, -2, 7, -7]),
    st.sampled_from([1000, 100, 40, 15, 0]),
)
_offsets = st.sampled_from([0, 0, 1, -1, 1, -1, 2, -2, 4, -4, 8, -8])
_hours = st.tuples(st.none() | _shapes | _shapes | _shapes, st.none() | _shapes | _shapes, _offsets)
_ends = st.sampled_from([(TimeInForce.GTC, 0), (TimeInForce.GTC, 0), (TimeInForce.DAY, 0), (TimeInForce.GTD, 30),
                         (TimeInForce.GTD, 60), (TimeInForce.GTD, 120), (TimeInForce.GTD, 210)])  # fmt: skip
_types = st.sampled_from([OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT, OrderType.LIMIT])
_symbols = st.sampled_from(SYMBOLS)
# Distances of a stop, a target and a trailing stop.
Distances = tuple[str | None, str | None, str | None]
_protections: st.SearchStrategy[Distances] = st.sampled_from(
    [
        ("1", "1.5", None),
        (None, None, "2"),
        (None, None, "3"),
        (None, "6", "4"),
        ("4.5", None, "2"),
        ("0.05", "4", None),
    ]
)


class Desks(RuleBasedStateMachine):
    """A desk and a model, side by side. An hour is a bar of either symbol, or of none."""

    def __init__(self) -> None:
        super().__init__()
        self.at = FIRST

    @initialize(config=accounts())
    def begin(self, config: RunConfig) -> None:
        self.config = config
        self.desk, self.model = ManualAccount(config, self.at), ReferenceBroker(config)
        self.book, self.seen, self.ids = Book(), 0, [""]
        self.last: dict[str, int] = dict.fromkeys((*SYMBOLS, RATE), 80)
        self.hour(((0, 0, 0, 0, 100), (0, 0, 0, 0, 100), 0))

    @rule(shapes=_hours)
    def hour(self, shapes: Hour) -> None:
        opened_at, self.at = self.at, self.at + HOUR
        bars = [
            _bar(symbol, opened_at, max(4, self.last[symbol] + shape[0]), shape)
            for symbol, shape in zip(SYMBOLS, shapes[:2], strict=True)
            if shape is not None
        ]
        for bar in bars:
            told = self.desk.open(bar.symbol, bar.open, opened_at)
            self._compare(told, lambda bar=bar: self.model.open(bar.symbol, Fraction(bar.open), opened_at))
        if self.config.rates:
            bars.insert(0, _bar(RATE, opened_at, max(4, self.last[RATE] + shapes[2]), (0, 0, 0, 0, 0)))
        for bar in bars:
            self._compare(self.desk.close(bar), lambda bar=bar: self._close(bar))
            self.last[bar.symbol] = int(bar.close * 2)

    def _close(self, bar: Bar) -> None:
        self.model.close(bar)
        self.model.expire(bar.closed_at)

    @rule(
        symbol=_symbols,
        direction=st.sampled_from([Direction.LONG, Direction.SHORT, Direction.LONG, Direction.SHORT, *Direction]),
        confidence=_of("1", "1", "0.5"),
        kind=st.none() | _types,
        ends=_ends,
        offsets=st.tuples(_offsets, _offsets),
        loses=st.none() | _offsets,
        wins=st.none() | _offsets,
        then=st.none() | _hours | _hours,
    )
    def wish(
        self, symbol: str, direction: Direction, confidence: Decimal, kind: OrderType | None,
        ends: tuple[TimeInForce, int], offsets: tuple[int, int], loses: int | None, wins: int | None, then: Hour | None,
    ) -> None:  # fmt: skip
        """A wish, its stop and target where they can be meant."""
        sign = -1 if direction is Direction.SHORT else 1
        entry = None if kind is None else self._terms(symbol, kind, ends, offsets)
        near = 0 if kind in (None, OrderType.MARKET) else offsets[0 if kind is OrderType.LIMIT else 1]
        wished = Intent(
            symbol, direction, confidence, "opinion",
            stop=None if loses is None else self._price(symbol, near - sign * (abs(loses) + 1)),
            target=None if wins is None else self._price(symbol, near + sign * (abs(wins) + 1)),
            entry=entry,
        )  # fmt: skip
        self._decided(self.desk.submit_intent(wished, self._price(symbol, 0), self.at))
        if then is not None:
            self.hour(then)

    @rule(
        symbol=_symbols,
        side=st.sampled_from(Side),
        quantity=_of("1", "5", "7.5", "10", "24", "45"),
        kind=_types,
        ends=_ends,
        offsets=st.tuples(_offsets, _offsets),
        protected=st.none() | _protections,
        fixed=st.sampled_from([None] * 8 + [0, 1, -1, 4, -4, 8, -8]),
        amends=st.none() | st.integers(0, 9),
        then=st.none() | _hours,
    )
    def ticket(
        self, symbol: str, side: Side, quantity: Decimal, kind: OrderType, ends: tuple[TimeInForce, int],
        offsets: tuple[int, int], protected: Distances | None, fixed: int | None, amends: int | None,
        then: Hour | None,
    ) -> None:  # fmt: skip
        """A person's order, or the amendment of one that works; where none does, of one that has ended."""
        works = [order.order_id for order in self.book.orders_of(symbol)]
        names = works or [name for name in self.ids if f"-{symbol}-" in name][-10:]
        replaces = names[amends % len(names)] if amends is not None and names else ""
        stop, target, trail = (None if each is None else exact(each) for each in protected or (None, None, None))
        protection = Protection(
            stop=None if fixed is None else self._price(symbol, fixed),
            stop_distance=stop if fixed is None else None,
            target_distance=target,
            trail=trail,
        )
        terms = self._terms(symbol, kind, ends, offsets)
        asked = OrderTicket(symbol, side, quantity, terms, protection, replaces)
        self._decided(self.desk.submit(asked, self._price(symbol, 0), self.at))
        if then is not None:
            self.hour(then)

    @rule(which=st.integers(0, 9), scope=st.sampled_from(["entries", "everything", *[None] * 8]), then=_hours)
    def interfere(self, which: int, scope: HaltScope | None, then: Hour) -> None:
        """One of the latest orders is canceled, whether it still works or not; or all trading pauses for an hour."""
        if scope is None:
            name = self.ids[-10:][which % len(self.ids[-10:])]
            assert self.desk.cancel(name, self.at) is (name in self.book.working)
            self.model.cancel(name)
            self._check()
        else:
            self._decided(self.desk.command(TradingHalted(self.at, scope, "a pause", "person")))
            self.hour(then)
            self._decided(self.desk.command(TradingResumed(self.at, "again", "person")))

    # --- Comparing ---

    def _price(self, symbol: str, halves: int) -> Decimal:
        return exact(Decimal(max(1, self.last[symbol] + halves)) / 2)

    def _terms(
        self, symbol: str, kind: OrderType, ends: tuple[TimeInForce, int], offsets: tuple[int, int]
    ) -> OrderTerms:
        limit = self._price(symbol, offsets[0]) if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None
        stop = self._price(symbol, offsets[1]) if kind in (OrderType.STOP, OrderType.STOP_LIMIT) else None
        in_force, minutes = ends
        expires_at = self.at + timedelta(minutes=minutes) if in_force is TimeInForce.GTD else None
        return OrderTerms(kind, limit, stop, None, in_force, expires_at)

    def _decided(self, events: Sequence[BookEvent]) -> None:
        for event in events:
            if isinstance(event, OrderPlaced):
                self.model.place(event)
                self.ids.append(event.order_id)
            elif isinstance(event, OrderCanceled | OrderReplaced):
                self.model.cancel(event.order_id)
        self._check()

    def _compare(self, events: Sequence[BookEvent], foretell: Callable[[], None]) -> None:
        self.model.reports = []
        foretell()
        told = [_told_by(event) for event in events]
        assert find_differences(told, self.model.reports, DUST) == []
        self.ids += [event.order_id for event in events if isinstance(event, OrderPlaced)]
        reached.update(each.status for each in told)
        self._check()

    def _check(self) -> None:
        """Both records of the engine are what the model says, and no event has made or lost money."""
        for event in self.desk.events[self.seen :]:
            self.book = evolve(self.book, event)
            _balances(self.book, self.config)
        self.seen = len(self.desk.events)
        assert self.desk.book == self.book
        self._is_the_models(self.desk.book)
        self._is_the_models(self.desk.broker.account)

    def _is_the_models(self, book: Book) -> None:
        account = self.model.account
        ours, theirs = _numbers(book), (account.cash, account.fees, account.realised, self.model.free_cash)
        assert is_close(ours, theirs, DUST), (ours, theirs)
        held = {symbol: Fraction(position.quantity) for symbol, position in book.positions.items()}
        assert held == account.held
        for symbol, position in book.positions.items():
            each = Fraction(position.cost) / held[symbol], account.cost[symbol] / held[symbol]
            assert is_close(each[:1], each[1:], DUST), each
        working = {o.order_id: (Fraction(o.quantity), Fraction(o.closing), o.pair) for o in book.working.values()}
        assert working == {o.order_id: (o.quantity, o.closing, o.pair) for o in self.model.orders}


def _bar(symbol: str, opened_at: datetime, open_: int, shape: Shape) -> Bar:
    """A bar in halves of a unit."""
    _, rise, fall, body, volume = shape
    ends = max(2, open_ + body)
    high, low = max(open_, ends) + rise, max(1, min(open_, ends) - fall)
    prices = [exact(Decimal(halves) / 2) for halves in (open_, high, low, ends)]
    return Bar(symbol, opened_at, opened_at + HOUR, prices[0], prices[1], prices[2], prices[3], Decimal(volume))


def _told_by(event: BookEvent) -> OrderReport:
    match event:
        case OrderFilled():
            signed = Fraction(event.quantity) * event.side.sign
            numbers = (signed, Fraction(event.price), Fraction(event.commission), Fraction(event.slippage))
            return OrderReport("filled", event.order_id, event.at, numbers)
        case OrderPlaced():
            signed = Fraction(event.quantity) * event.side.sign
            prices = Fraction(event.terms.stop_price or 0), Fraction(event.terms.limit_price or 0)
            return OrderReport("placed", event.order_id, event.at, (signed, *prices))
        case OrderCanceled():
            if event.reason.startswith(BEYOND_COLLAR):
                return OrderReport("beyond", event.order_id, event.at)
            return OrderReport("outpaired" if event.reason == PAIR_FILLED else "canceled", event.order_id, event.at)
        case OrderExpired():
            return OrderReport("expired", event.order_id, event.at)
        case OrderRejected():
            assert event.required > event.available
            return OrderReport("rejected", event.order_id, event.at)
        case _:
            raise AssertionError(event)


def _numbers(book: Book) -> tuple[Fraction, ...]:
    return tuple(Fraction(each) for each in (book.cash, book.fees, book.realised, book.free_cash))


def _balances(book: Book, config: RunConfig) -> None:
    costs = sum(Fraction(position.cost) for position in book.positions.values())
    made = Fraction(book.realised) + Fraction(book.adjusted)
    assert Fraction(book.cash) + costs + Fraction(book.fees) - made == Fraction(config.cash)


# --- Tests --------------------------------------------------------------------------------------------------------

reached: Counter[str] = Counter()


class MoreDesks(Desks):
    """The same, from another seed."""


@pytest.mark.slow(18)
@pytest.mark.parametrize("desks", [Desks, MoreDesks])
def test_the_broker_does_what_the_model_foretells(desks: type[Desks]) -> None:
    reached.clear()
    run_state_machine_as_test(desks, settings=settings(max_examples=RUNS // 2, stateful_step_count=STEPS))
    kinds = ("filled", "placed", "canceled", "outpaired", "beyond", "expired", "rejected")
    assert min(reached[kind] for kind in kinds) >= 5, reached


def _strictly_within(side: Side, price: Decimal, limit: Decimal) -> bool:
    return price < limit if side is Side.BUY else price > limit


def _per_fill(
    notional: Decimal, quantity: Decimal, costs: Costs, before: fills.FilledSoFar = fills.NOT_FILLED
) -> Decimal:
    return fills_commission(notional, quantity, costs)


def _leave(*_: object) -> None:
    pass


fills_commission = fills.commission_of
FAULTS: dict[str, tuple[object, str, object]] = {
    "a limit that is touched is not filled": (fills, "is_marketable", _strictly_within),
    "the minimum commission is charged for each fill": (fills, "commission_of", _per_fill),
    "the other order of a pair stays": (PaperBroker, "_end_pair", _leave),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_broker_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    quickly = settings(max_examples=RUNS, stateful_step_count=STEPS, phases=[Phase.generate], database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Desks, settings=quickly)
