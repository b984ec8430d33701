"""Decisions by hand: small markets whose every figure can be checked on paper."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, TypeVar

import msgspec
import pytest

from engine.core.config import Exits, RunConfig, digest_of
from engine.core.errors import BadInput
from engine.core.events import (
    BookEvent,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    PositionsMarked,
    RiskDecided,
    SignalRaised,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Side
from engine.core.money import exact
from engine.core.step import MarketView
from engine.trading.book import fold
from engine.trading.decide import decide, open_book
from tests.support.market_hours import MONDAY, hours
from tests.support.strategies import HOUR, History, config_of, run_history

E = TypeVar("E")
LONG, SHORT, FLAT, HOLD = Direction.LONG, Direction.SHORT, Direction.FLAT, Direction.HOLD


class Wanted(NamedTuple):
    direction: Direction
    confidence: str = "1"
    horizon_bars: int | None = None


def still(symbol: str, price: str, count: int, start: datetime = MONDAY) -> list[Bar]:
    return hours(symbol, [(price, price)] * count, start)


def session(
    config: RunConfig, bars: list[list[Bar]], wishes: Mapping[tuple[str, int], Direction | Wanted]
) -> list[BookEvent]:
    """The events that follow from wishes at the close of the n-th bar of a symbol."""
    script: dict[tuple[str, datetime], Intent] = {}
    for (symbol, n), given in wishes.items():
        wanted = given if isinstance(given, Wanted) else Wanted(given)
        at = bars[config.symbols.index(symbol)][n].closed_at
        script[symbol, at] = Intent(
            symbol, wanted.direction, exact(wanted.confidence), f"wish-{symbol}-{n}", 1, wanted.horizon_bars
        )
    return run_history(History(config, bars, script)).events


def of(kind: type[E], events: list[BookEvent]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def failed(verdict: RiskDecided) -> list[str]:
    return [check.rule for check in verdict.checks if not check.passed]


# --- From wish to fill --------------------------------------------------------------------------------------------


def test_a_wish_at_a_close_is_filled_at_the_next_open_after_slippage_and_commission() -> None:
    config = config_of(slippage_bps="200", commission_bps="10", quantity="10")
    bars = hours("AAA", [("100", "110"), ("120", "125"), ("130", "90")])
    bought, sold = of(OrderFilled, session(config, [bars], {("AAA", 0): LONG, ("AAA", 1): FLAT}))
    assert (bought.decided_at, bought.at) == (MONDAY + HOUR, MONDAY + HOUR)
    assert (bought.side, bought.reference_price, bought.price) == (Side.BUY, 120, exact("122.4"))
    assert (bought.notional, bought.slippage, bought.commission) == (1224, 24, exact("1.224"))
    assert (sold.side, sold.reference_price, sold.price) == (Side.SELL, 130, exact("127.4"))
    assert (sold.notional, sold.slippage, sold.commission) == (1274, 26, exact("1.274"))


def test_a_short_pays_the_slippage_on_both_sides_too() -> None:
    config = config_of(slippage_bps="100", commission_bps="10", quantity="10")
    events = session(config, [still("AAA", "100", 4)], {("AAA", 0): SHORT, ("AAA", 1): FLAT})
    assert [(fill.side, fill.price) for fill in of(OrderFilled, events)] == [(Side.SELL, 99), (Side.BUY, 101)]
    assert fold(events).cash == exact("100000") - 20 - exact("0.99") - exact("1.01")


def test_an_order_made_before_a_weekend_fills_at_the_first_open_after_it() -> None:
    friday = datetime(2024, 1, 5, 20, tzinfo=UTC)
    bars = hours("AAA", [("100", "100"), ("97", "98")], friday, {1: timedelta(hours=49)})
    (fill,) = of(OrderFilled, session(config_of(quantity="1"), [bars], {("AAA", 0): LONG}))
    assert (fill.decided_at, fill.at, fill.price) == (friday + HOUR, friday + 50 * HOUR, 97)


def test_an_order_on_the_last_bar_stays_working() -> None:
    events = session(config_of(quantity="1"), [still("AAA", "100", 2)], {("AAA", 1): LONG})
    assert of(OrderFilled, events) == []
    assert len(fold(events).working) == 1


def test_size_is_equity_times_base_times_confidence_rounded_down_to_the_step() -> None:
    config = config_of(base_pct="5", step="0.01")
    events = session(config, [still("AAA", "30", 3)], {("AAA", 0): Wanted(LONG, "0.5")})
    assert [order.quantity for order in of(OrderPlaced, events)] == [exact("83.33")]


def test_hold_and_silence_and_what_is_held_already_leave_no_signal() -> None:
    wishes = {("AAA", 0): HOLD, ("AAA", 1): FLAT, ("AAA", 2): LONG, ("AAA", 4): LONG}
    events = session(config_of(quantity="1"), [still("AAA", "100", 6)], wishes)
    assert [signal.at for signal in of(SignalRaised, events)] == [MONDAY + 3 * HOUR]


def test_a_wish_without_confidence_opens_nothing_and_says_so() -> None:
    events = session(config_of(), [still("AAA", "100", 2)], {("AAA", 0): Wanted(LONG, "0")})
    (verdict,) = of(RiskDecided, events)
    assert (verdict.verdict, failed(verdict)) == (Verdict.DENIED, ["quantity"])


def test_a_symbol_is_named_once() -> None:
    with pytest.raises(BadInput, match="AAA,BBB,AAA contain a duplicate"):
        config_of(("AAA", "BBB", "AAA"))


# --- Reversal -----------------------------------------------------------------------------------------------------


def test_a_reversal_is_one_order_whose_profit_is_split_at_the_turn() -> None:
    config = config_of(quantity="10", commission_bps="10")
    bars = hours("AAA", [("100", "100"), ("100", "110"), ("112", "112")])
    events = session(config, [bars], {("AAA", 0): LONG, ("AAA", 1): SHORT})
    _, turn = of(OrderFilled, events)
    assert (turn.side, turn.quantity, turn.commission) == (Side.SELL, 20, exact("2.24"))
    book = fold(events)
    assert book.realised == 120
    assert (book.held("AAA"), book.positions["AAA"].cost) == (-10, -1120)
    assert book.positions["AAA"].opened_at == turn.at
    assert book.cash == 100_000 - 1000 - 1 + 2240 - exact("2.24")


def test_the_closing_half_goes_ahead_when_the_entry_half_is_refused() -> None:
    config = config_of(cash="10000", quantity="10", position_pct="10", reduce=False)
    bars = hours("AAA", [("100", "100"), ("100", "101"), ("101", "101")])
    events = session(config, [bars], {("AAA", 0): LONG, ("AAA", 1): SHORT})
    verdict = of(RiskDecided, events)[1]
    assert (verdict.verdict, verdict.requested, verdict.quantity) == (Verdict.REDUCED, 20, 10)
    assert failed(verdict) == ["position_cap"]
    assert verdict.reason == "position_cap: 1010 against 1001"
    assert of(OrderPlaced, events)[1].reserved == 0
    assert fold(events).positions == {}


def test_where_reversal_is_forbidden_the_opposite_wish_is_denied_and_flat_still_works() -> None:
    config = config_of(quantity="10", reversal=False)
    events = session(config, [still("AAA", "100", 5)], {("AAA", 0): LONG, ("AAA", 1): SHORT, ("AAA", 2): FLAT})
    verdicts = of(RiskDecided, events)
    assert [verdict.verdict for verdict in verdicts] == [Verdict.APPROVED, Verdict.DENIED, Verdict.APPROVED]
    assert failed(verdicts[1]) == ["incompatible_position"]
    assert fold(events).positions == {}


# --- Cash ---------------------------------------------------------------------------------------------------------


def test_an_open_that_leaps_above_the_free_cash_is_refused_by_the_broker() -> None:
    config = config_of(cash="1000", quantity="10")
    bars = hours("AAA", [("100", "100"), ("100.01", "100")])
    events = session(config, [bars], {("AAA", 0): LONG})
    (rejected,) = of(OrderRejected, events)
    assert (rejected.required, rejected.available) == (exact("1000.1"), 1000)
    book = fold(events)
    assert (book.cash, book.free_cash, book.positions, book.working) == (1000, 1000, {}, {})


def test_an_open_at_the_free_cash_is_filled() -> None:
    config = config_of(cash="1000", quantity="10")
    events = session(config, [still("AAA", "100", 2)], {("AAA", 0): LONG})
    assert fold(events).free_cash == 0
    assert len(of(OrderFilled, events)) == 1


def test_a_reversal_that_the_open_makes_too_dear_still_closes() -> None:
    config = config_of(cash="1000", quantity="10")
    bars = hours("AAA", [("100", "100"), ("100", "100"), ("110", "110")])
    events = session(config, [bars], {("AAA", 0): SHORT, ("AAA", 1): LONG})
    assert of(RiskDecided, events)[1].verdict is Verdict.APPROVED
    closing, rejected = of(OrderFilled, events)[-1], of(OrderRejected, events)[0]
    assert (closing.quantity, closing.price) == (10, 110)
    assert (rejected.order_id, rejected.required, rejected.available) == (closing.order_id, 1100, 900)
    book = fold(events)
    assert (book.cash, book.realised, book.positions, book.working) == (900, -100, {}, {})


def test_each_order_of_an_instant_leaves_less_cash_to_the_next() -> None:
    config = config_of(("AAA", "BBB"), cash="1500", quantity="10", reduce=False)
    bars = [still("AAA", "100", 3), still("BBB", "100", 3)]
    verdicts = of(RiskDecided, session(config, bars, {("AAA", 0): LONG, ("BBB", 0): SHORT}))
    assert [(v.symbol, v.verdict) for v in verdicts] == [("AAA", Verdict.APPROVED), ("BBB", Verdict.DENIED)]
    assert verdicts[1].reason == "cash: 1000 against 500"


# --- Daily loss and the breaker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "close", "halts"),
    [(LONG, "105", 0), (LONG, "95.00001", 0), (LONG, "95", 1), (LONG, "94.99999", 1),
     (SHORT, "95", 0), (SHORT, "104.99999", 0), (SHORT, "105", 1), (SHORT, "105.00001", 1)],
)  # fmt: skip
def test_the_breaker_trips_at_five_per_cent_lost_and_at_nothing_else(
    direction: Direction, close: str, halts: int
) -> None:
    config = config_of(quantity="1000", daily_loss_pct="5")
    bars = hours("AAA", [("100", "100"), ("100", close), (close, close)])
    events = session(config, [bars], {("AAA", 0): direction})
    assert len(of(TradingHalted, events)) == halts
    assert [mark.occasion for mark in of(PositionsMarked, events)] == ["halt"] * halts + ["end"]


def test_a_halt_says_what_was_lost_and_stands_on_a_mark() -> None:
    config = config_of(quantity="1000", daily_loss_pct="5")
    events = session(config, [hours("AAA", [("100", "100"), ("100", "94")])], {("AAA", 0): LONG})
    halted = of(TradingHalted, events)[0]
    mark = events[events.index(halted) - 1]
    assert isinstance(mark, PositionsMarked)
    assert (mark.equity, mark.cash, mark.marks) == (94_000, 0, (("AAA", Decimal(94)),))
    assert (halted.scope, halted.actor) == ("entries", "daily_loss")
    assert halted.reason == "lost 6000 since the session roll, the limit is 5000"


def test_while_halted_entries_are_denied_exits_pass_and_the_roll_resumes() -> None:
    config = config_of(("AAA", "BBB"), quantity="500", daily_loss_pct="5")
    start = MONDAY + 19 * HOUR
    aaa = hours("AAA", [("100", "100"), ("100", "90"), ("90", "90"), *[("90", "90")] * 5], start)
    bbb = still("BBB", "10", 8, start)
    wishes = {("AAA", 0): LONG, ("BBB", 1): LONG, ("AAA", 2): FLAT, ("BBB", 3): LONG, ("BBB", 4): LONG}
    events = session(config, [aaa, bbb], wishes)
    verdicts = {(verdict.symbol, verdict.at): verdict for verdict in of(RiskDecided, events)}
    assert failed(verdicts["BBB", start + 2 * HOUR]) == ["daily_loss", "halt"]
    assert verdicts["AAA", start + 3 * HOUR].verdict is Verdict.APPROVED
    assert failed(verdicts["BBB", start + 4 * HOUR]) == ["daily_loss", "halt"]
    (resumed,) = of(TradingResumed, events)
    assert (resumed.at, resumed.actor) == (MONDAY + 24 * HOUR, "session_roll")
    # The roll and the wish are of the same instant: a new session has begun.
    assert verdicts["BBB", start + 5 * HOUR].verdict is Verdict.APPROVED


def test_a_loss_that_was_realised_counts_towards_the_day() -> None:
    config = config_of(("AAA", "BBB"), quantity="500", daily_loss_pct="5")
    aaa = hours("AAA", [("100", "100"), ("100", "100"), ("90", "90"), ("90", "90")])
    bbb = still("BBB", "10", 4)
    events = session(config, [aaa, bbb], {("AAA", 0): LONG, ("AAA", 1): FLAT, ("BBB", 2): LONG})
    denied = of(RiskDecided, events)[-1]
    assert (denied.verdict, failed(denied)) == (Verdict.DENIED, ["daily_loss", "halt"])
    assert denied.reason.startswith("daily_loss: 5000 against below 5000; halt: entries halted by daily_loss")


def test_a_halt_from_outside_the_book_denies_entries_and_no_exits() -> None:
    config = config_of(quantity="10")
    opened = fold([open_book(config, digest_of(config), MONDAY)])
    halt = TradingHalted(MONDAY, "entries", "the operator says stop", "operator")
    (bar,) = still("AAA", "100", 1)
    step = MarketView(bar.closed_at, MONDAY, (bar,), {"AAA": bar}, {"AAA": bar.close})
    halted, _, denied = decide(opened, step, [Intent("AAA", LONG, Decimal(1), "w")], config, [halt])
    assert halted == TradingHalted(bar.closed_at, "entries", "the operator says stop", "operator")
    assert isinstance(denied, RiskDecided)
    assert denied.reason == "halt: entries halted by operator: the operator says stop against no halt"
    held = fold(session(config, [still("AAA", "100", 2)], {("AAA", 0): LONG}))
    _, _, passed, order = decide(held, step, [Intent("AAA", FLAT, Decimal(1), "w")], config, [halt])
    assert isinstance(passed, RiskDecided)
    assert passed.verdict is Verdict.APPROVED
    assert isinstance(order, OrderPlaced)


# --- Session roll -------------------------------------------------------------------------------------------------


def test_a_bar_that_closes_at_the_roll_belongs_to_the_day_that_ends() -> None:
    start = MONDAY + 21 * HOUR
    bars = hours("AAA", [("100", "100"), ("100", "100"), ("100", "120"), ("130", "130")], start)
    events = session(config_of(quantity="10"), [bars], {("AAA", 0): LONG})
    roll = of(PositionsMarked, events)[0]
    assert (roll.at, roll.occasion, roll.marks) == (MONDAY + 24 * HOUR, "roll", (("AAA", Decimal(120)),))
    assert roll.equity == 100_200


def test_a_roll_inside_a_hole_knows_only_the_close_before_it() -> None:
    bars = hours("AAA", [("100", "100"), ("100", "110"), ("150", "150")], MONDAY, {2: timedelta(days=1)})
    events = session(config_of(quantity="10"), [bars], {("AAA", 0): LONG})
    roll = of(PositionsMarked, events)[0]
    assert (roll.at, roll.equity) == (MONDAY + 24 * HOUR, 100_100)


def test_the_roll_stands_at_the_configured_hour() -> None:
    config = msgspec.structs.replace(config_of(quantity="10"), session_roll_hour=22)
    events = session(config, [still("AAA", "100", 30)], {})
    assert [mark.at for mark in of(PositionsMarked, events)] == [MONDAY + 22 * HOUR, MONDAY + 30 * HOUR]


# --- Exits --------------------------------------------------------------------------------------------------------


def test_held_for_four_bars_a_position_is_ordered_away_at_the_close_of_the_fourth() -> None:
    config = config_of(quantity="10", holding_bars=4)
    bars = hours("AAA", [(str(100 + n), str(100 + n)) for n in range(8)], MONDAY, {4: timedelta(hours=5)})
    events = session(config, [bars], {("AAA", 0): LONG, ("AAA", 2): LONG})
    entry, leaving = of(OrderFilled, events)
    assert entry.at == bars[1].opened_at
    # Bars 1 to 4 are the four it was held for, the hole in between counts for nothing.
    assert (leaving.decided_at, leaving.at, leaving.price) == (bars[4].closed_at, bars[5].opened_at, 105)
    signal = of(SignalRaised, events)[1]
    assert (signal.direction, signal.source, signal.analysis_id) == (FLAT, "holding_time", "")


def test_the_decisions_own_horizon_is_taken_where_the_account_says_so() -> None:
    config = msgspec.structs.replace(config_of(quantity="10"), exits=Exits(4, from_decision=True))
    bars = still("AAA", "100", 9)
    events = session(config, [bars], {("AAA", 0): Wanted(LONG, "1", 2), ("AAA", 3): LONG})
    assert [order.holding_bars for order in of(OrderPlaced, events)] == [2, None, 4, None]
    assert [fill.at for fill in of(OrderFilled, events)] == [bars[n].opened_at for n in (1, 3, 4, 8)]


def test_a_reversal_at_the_deadline_is_one_order_and_starts_the_clock_anew() -> None:
    config = config_of(quantity="10", holding_bars=2)
    bars = still("AAA", "100", 7)
    events = session(config, [bars], {("AAA", 0): LONG, ("AAA", 2): SHORT})
    assert [(fill.at, fill.side, fill.quantity) for fill in of(OrderFilled, events)] == [
        (bars[1].opened_at, Side.BUY, 10),
        (bars[3].opened_at, Side.SELL, 20),
        (bars[5].opened_at, Side.BUY, 10),
    ]


def test_a_denied_reversal_at_the_deadline_does_not_keep_the_position_alive() -> None:
    config = config_of(quantity="10", holding_bars=2, reversal=False)
    bars = still("AAA", "100", 5)
    events = session(config, [bars], {("AAA", 0): LONG, ("AAA", 2): SHORT})
    assert [signal.source for signal in of(SignalRaised, events)] == ["analysis", "holding_time", "analysis"]
    assert fold(events).positions == {}


def test_a_second_exit_beside_a_working_one_is_denied() -> None:
    config = config_of(holding_bars=2, reversal=False)
    bars = still("AAA", "100", 5)
    events = session(config, [bars], {("AAA", 0): LONG, ("AAA", 2): Wanted(SHORT, "0")})
    denied = of(RiskDecided, events)[-1]
    assert (denied.verdict, failed(denied)) == (Verdict.DENIED, ["incompatible_position"])
    assert fold(events).positions == {}


# --- Pyramid ------------------------------------------------------------------------------------------------------


def test_a_pyramid_adds_up_to_the_cap_and_keeps_its_clock() -> None:
    config = config_of(cash="10000", quantity="10", position_pct="25", holding_bars=4, pyramid=True, reduce=False)
    bars = still("AAA", "100", 7)
    events = session(config, [bars], {("AAA", n): LONG for n in range(4)})
    verdicts = of(RiskDecided, events)
    assert [verdict.verdict for verdict in verdicts[:3]] == [Verdict.APPROVED, Verdict.APPROVED, Verdict.DENIED]
    assert verdicts[2].reason == "position_cap: 3000 against 2500"
    leaving = of(OrderFilled, events)[-1]
    assert (leaving.at, leaving.quantity) == (bars[5].opened_at, 20)


def test_an_addition_beside_the_exit_of_the_same_instant_is_denied_under_its_own_name() -> None:
    config = config_of(quantity="10", holding_bars=1, pyramid=True)
    events = session(config, [still("AAA", "100", 4)], {("AAA", 0): LONG, ("AAA", 1): LONG})
    signals = of(SignalRaised, events)
    assert [signal.signal_id[-2:] for signal in signals] == ["-1", "-1", "-2"]
    assert failed(of(RiskDecided, events)[2]) == ["incompatible_position"]
