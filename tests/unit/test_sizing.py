"""How much a wish is worth, in whole lots."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from engine.core.config import Override, RunConfig, Sizing
from engine.core.money import ONE, exact
from engine.trading.sizing import position_cap, target_quantity
from tests.support.strategies import config_of


def quantity(
    config: RunConfig, equity: str = "1000", price: str = "1", confidence: str = "1", rate: str = "1", n: int = 0
) -> Decimal:
    amounts = exact(equity), exact(price), exact(confidence)
    return target_quantity(*amounts, config.instruments[n], config, exact(rate))


@pytest.mark.parametrize(
    ("equity", "price", "confidence", "rate", "multiplier", "lot", "units"),
    [("1000", "1", "1", "1", "1", "1", "50"),
     ("1000", "1", "0.5", "1", "1", "1", "25"),
     ("1000", "2", "1", "1", "1", "1", "25"),
     ("1000", "1", "1", "2", "1", "1", "25"),
     ("1000", "1", "1", "1", "5", "1", "10"),
     ("1000", "3", "1", "1", "1", "1", "16"),
     ("1000", "3", "1", "1", "1", "0.1", "16.6"),
     ("1000", "3", "0.7", "1.25", "2", "0.1", "4.6"),
     ("1000", "50", "1", "1", "1", "1", "1"),
     ("1000", "50.00001", "1", "1", "1", "1", "0")],
)  # fmt: skip
def test_a_wish_is_worth_a_share_of_equity_by_its_confidence(
    equity: str, price: str, confidence: str, rate: str, multiplier: str, lot: str, units: str
) -> None:
    config = config_of(base_pct="5", multiplier=multiplier, step=lot)
    assert quantity(config, equity, price, confidence, rate) == exact(units)


def test_confidence_never_leads_beyond_the_cap() -> None:
    config = config_of(base_pct="40", position_pct="10")
    assert [quantity(config, confidence=each) for each in ("0.1", "0.25", "0.250001", "1")] == [40, 100, 100, 100]


def test_a_fixed_quantity_asks_neither_for_confidence_nor_for_the_cap() -> None:
    config = config_of(quantity="7", position_pct="1")
    assert quantity(config, confidence="0.1") == 7
    assert quantity(config, equity="-1", confidence="0") == 7


@pytest.mark.parametrize(("lot", "units"), [("1", "7"), ("0.5", "7.5"), ("0.01", "7.75"), ("8", "0")])
def test_a_fixed_quantity_is_cut_to_whole_lots(lot: str, units: str) -> None:
    assert quantity(config_of(quantity="7.75", step=lot)) == exact(units)


@pytest.mark.parametrize(("equity", "confidence"), [("0", "1"), ("-5", "1"), ("1000", "0")])
def test_without_equity_or_confidence_nothing_is_wanted(equity: str, confidence: str) -> None:
    assert quantity(config_of(), equity, confidence=confidence) == 0
    assert quantity(config_of(position_pct="1"), equity, confidence=confidence) == 0


@pytest.mark.parametrize(("price", "rate"), [("0", "1"), ("1", "0"), ("0.000000000001", "0.1")])
def test_of_what_is_worth_nothing_nothing_is_wanted(price: str, rate: str) -> None:
    assert quantity(config_of(), price=price, rate=rate) == 0
    assert quantity(config_of(), price="0.000000000001") == exact("50000000000000")


def test_a_symbol_may_have_a_size_and_a_cap_of_its_own() -> None:
    own = Override("BBB", sizing=Sizing("confidence", exact("20")), position_pct=exact("15"))
    config = msgspec.structs.replace(config_of(("AAA", "BBB"), position_pct="10"), overrides=(own,))
    assert (quantity(config), quantity(config, n=1), quantity(config, confidence="0.5", n=1)) == (50, 150, 100)
    assert position_cap(exact("1000"), "AAA", config) == 100
    assert position_cap(exact("1000"), "BBB", config) == 150
    assert position_cap(exact("1000"), "AAA", config_of()) is None
    assert position_cap(ONE, "AAA", config_of(position_pct="0.5")) == exact("0.005")
