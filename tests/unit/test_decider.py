"""Decisions as given, when, then: the shortest way to read what follows from an intent."""

from __future__ import annotations

from engine.core.events import (
    OrderCanceled,
    OrderPlaced,
    RiskDecided,
    SignalRaised,
    TradingHalted,
    Verdict,
)
from engine.core.market import Direction, Side
from tests.support.decider import HOUR, START, given, intent
from tests.support.strategies import config_of

LONG, FLAT, HOLD = Direction.LONG, Direction.FLAT, Direction.HOLD
CONFIG = config_of(quantity="10")


def test_an_intent_becomes_a_signal_a_risk_decision_and_an_order() -> None:
    decided = given(CONFIG).when(intent("AAA", LONG), closes={"AAA": "100"})
    decided.then(SignalRaised, RiskDecided, OrderPlaced)
    assert decided.the(RiskDecided).verdict is Verdict.APPROVED
    order = decided.the(OrderPlaced)
    assert (order.side, order.quantity, order.at) == (Side.BUY, 10, START + HOUR)


def test_hold_leads_to_no_event() -> None:
    given(CONFIG).when(intent("AAA", HOLD), closes={"AAA": "100"}).then()


def test_an_order_beyond_the_cash_is_reduced_with_limit_and_observed_value() -> None:
    decided = given(CONFIG).when(intent("AAA", LONG), closes={"AAA": "20000"})
    decided.then(SignalRaised, RiskDecided, OrderPlaced)
    cash = next(check for check in decided.the(RiskDecided).checks if check.rule == "cash")
    assert (cash.passed, cash.limit, cash.observed) == (False, "100000", "200000")
    assert (decided.the(RiskDecided).verdict, decided.the(OrderPlaced).quantity) == (Verdict.REDUCED, 5)


def test_a_halt_cancels_entries_and_denies_new_ones() -> None:
    entered = given(CONFIG).when(intent("AAA", LONG), closes={"AAA": "100"})
    halt = TradingHalted(START + 2 * HOUR, "entries", "a pause", "anna")
    at = START + 2 * HOUR
    given(CONFIG, *entered.events).when(intent("AAA", LONG), closes={"AAA": "100"}, at=at, commands=[halt]).then(
        TradingHalted, OrderCanceled, SignalRaised, RiskDecided
    )
