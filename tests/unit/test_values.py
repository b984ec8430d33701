"""What configurations, instruments and names refuse, and what the errors tell a person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from engine.core import errors
from engine.core.config import Costs, Entry, Exits, Override, RiskLimits, RunConfig, Shorting, Sizing, digest_of
from engine.core.errors import BadInput
from engine.core.events import AnalysisFailed, AnalysisMade, OrderTerms, PositionsMarked
from engine.core.ids import analysis_stream, entry_order_of, trade_id
from engine.core.intents import Intent, intent_of
from engine.core.market import (
    Direction,
    Instrument,
    OrderType,
    Side,
    Timeframe,
    TimeInForce,
    check_symbol,
    instant_text,
    instrument_for,
    parse_instant,
    periods_per_year,
)
from engine.core.money import ONE, ZERO, exact
from tests.support.strategies import config_of

AT = datetime(2024, 1, 2, 9, tzinfo=UTC)
TEN_THOUSAND = exact("10000")


def costs(**changes: Any) -> Costs:
    given: dict[str, Any] = {"slippage_bps": ZERO, "commission_bps": ZERO} | changes
    return Costs(**given)


def run(**changes: Any) -> RunConfig:
    return msgspec.structs.replace(config_of(), **changes)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: costs(slippage_bps=exact("-1")), "Costs.slippage_bps must be an exact amount of at least 0, not -1"),
    (lambda: costs(commission_bps=Decimal("NaN")), "Costs.commission_bps must be an exact amount .* not NaN"),
    (lambda: costs(commission_min=Decimal("1.10")), "Costs.commission_min must be an exact amount .* not 1.10"),
    (lambda: costs(slippage_bps=TEN_THOUSAND), "slippage must stay below 10000 bps"),
    (lambda: costs(slippage_bps=exact("9999"), slippage_volume_bps=ONE), "slippage must stay below 10000 bps"),
    (lambda: costs(slippage_random_bps=ONE), "slippage_random_bps and seed belong together"),
    (lambda: costs(seed=1), "slippage_random_bps and seed belong together"),
    (lambda: costs(volume_cap_pct=ZERO), "volume_cap_pct must be above 0 and at most 100"),
    (lambda: costs(volume_cap_pct=exact("100.01")), "volume_cap_pct must be above 0 and at most 100"),
    (lambda: costs(latency_bars=-1), "latency_bars must be at least 0"),
    (lambda: Sizing("fixed_quantity"), "needs a quantity above 0"),
    (lambda: Sizing("fixed_quantity", quantity=ZERO), "needs a quantity above 0"),
    (lambda: Sizing("confidence", exact("-1")), "Sizing.base_pct"),
    (lambda: Entry(OrderType.TRAILING_STOP), "cannot be an entry order"),
    (lambda: Entry(OrderType.LIMIT, TEN_THOUSAND), "offset_bps must be below 10000"),
    (lambda: Entry(time_in_force=TimeInForce.GTD), "valid_bars and the time in force GTD belong together"),
    (lambda: Entry(valid_bars=1), "valid_bars and the time in force GTD belong together"),
    (lambda: Entry(time_in_force=TimeInForce.GTD, valid_bars=0), "valid_bars must be at least 1"),
    (lambda: RiskLimits(order_value_max=exact("-1")), "RiskLimits.order_value_max"),
    (lambda: RiskLimits(losses_max=0), "RiskLimits.losses_max must be at least 1"),
    (lambda: RiskLimits(cool_down_bars=0), "RiskLimits.cool_down_bars must be at least 1"),
    (lambda: RiskLimits(orders_per_step=0), "RiskLimits.orders_per_step must be at least 1"),
    (lambda: RiskLimits(orders_per_hour=0), "RiskLimits.orders_per_hour must be at least 1"),
    (lambda: RiskLimits(stale_bars=0), "RiskLimits.stale_bars must be at least 1"),
    (lambda: RiskLimits(trading_from=1), "trading_from and trading_to belong together"),
    (lambda: RiskLimits(trading_to=1), "trading_from and trading_to belong together"),
    (lambda: RiskLimits(trading_from=0, trading_to=1440), "minutes of the day, 0 to 1439"),
    (lambda: RiskLimits(trading_from=-1, trading_to=5), "minutes of the day, 0 to 1439"),
    (lambda: RiskLimits(trading_from=5, trading_to=5), "trading_from and trading_to must differ"),
    (lambda: Exits(0), "holding_bars must be at least 1"),
    (lambda: Exits(stop_pct=ZERO), "stop_pct must be above 0"),
    (lambda: Exits(stop_ranges=ZERO), "stop_ranges must be above 0"),
    (lambda: Exits(stop_pct=ONE, risk_reward=ZERO), "risk_reward must be above 0"),
    (lambda: Exits(trail_pct=ZERO), "trail_pct must be above 0"),
    (lambda: Exits(stop_pct=ONE, stop_ranges=ONE), "both set the stop"),
    (lambda: Exits(risk_reward=ONE), "give stop_pct or stop_ranges too"),
    (lambda: Shorting(margin_pct=exact("-1")), "Shorting.margin_pct"),
    (lambda: Override("AAA", position_pct=exact("-1")), "Override.position_pct"),
    (lambda: run(cash=exact("-1")), "RunConfig.cash"),
    (lambda: run(periods_per_year=0), "periods_per_year must be at least 1"),
    (lambda: run(session_roll_hour=24), "an hour of the day in UTC, 0 to 23"),
    (lambda: run(session_roll_hour=-1), "an hour of the day in UTC, 0 to 23"),
    (lambda: Instrument("AAA", quantity_step=ZERO), "AAA: quantity_step must be an exact amount above 0, not 0"),
    (lambda: Instrument("AAA", multiplier=exact("-1")), "AAA: multiplier must be"),
    (lambda: Instrument("AAA", tick=Decimal("NaN")), "AAA: tick must be"),
    (lambda: OrderTerms(limit_price=Decimal("NaN")), "OrderTerms.limit_price is not an exact amount: NaN"),
    (lambda: OrderTerms(expires_at=AT.replace(tzinfo=None)), "OrderTerms.expires_at is not in UTC"),
    (lambda: PositionsMarked(AT, "end", ONE, ONE, (("AAA", Decimal("NaN")),)), "the mark of AAA is not an exact"),
    (lambda: PositionsMarked(AT, "end", ONE, ONE, (), (("EUR-USD", Decimal("1.0")),)), "the mark of EUR-USD is not"),
]


@pytest.mark.parametrize(("made", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_value_that_cannot_be_meant_is_refused(made: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"instruments": ()}, "a run needs at least one symbol"),
     ({"instruments": (Instrument("AAA", "EUR"),)}, "AAA is quoted in EUR, the account in USD: .* EUR-USD"),
     ({"overrides": (Override("BBB"),)}, "overrides are for BBB: give one at most for each of AAA"),
     ({"overrides": (Override("AAA"), Override("AAA"))}, "overrides are for AAA,AAA")],
)  # fmt: skip
def test_a_run_that_cannot_be_made_names_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run(**changes)


def test_what_lies_at_its_bounds_is_taken() -> None:
    assert costs(slippage_bps=exact("9999.99"), volume_cap_pct=exact("100"), latency_bars=0).volume_cap_pct == 100
    assert Entry(OrderType.LIMIT, exact("9999"), time_in_force=TimeInForce.GTD, valid_bars=1).valid_bars == 1
    assert RiskLimits(trading_from=0, trading_to=1439, losses_max=1, cool_down_bars=1).trading_to == 1439
    assert run(session_roll_hour=23).session_roll_hour == 23
    assert Exits(1, stop_pct=ONE, risk_reward=ONE).holding_bars == 1


def test_one_symbol_may_have_everything_of_its_own() -> None:
    own = Override("BBB", costs(slippage_bps=ONE), Sizing("confidence", ONE), Entry(OrderType.LIMIT), Exits(9), ONE)
    config = msgspec.structs.replace(config_of(("AAA", "BBB")), overrides=(own, Override("AAA")))
    for symbol, has in (("BBB", own), ("AAA", config)):
        assert config.costs_of(symbol) is has.costs
        assert config.sizing_of(symbol) is has.sizing
        assert config.entry_of(symbol) is has.entry
        assert config.exits_of(symbol) is has.exits
    assert (config.position_pct_of("BBB"), config.position_pct_of("AAA")) == (1, None)
    assert config.instrument("BBB").symbol == "BBB"


def test_a_currency_is_converted_by_the_symbol_that_is_named_after_both() -> None:
    rate = Instrument("EUR-USD")
    config = run(instruments=(Instrument("AAA", "EUR"),), rates=(Instrument("GBP-USD"), rate))
    assert (config.rate_symbol("EUR"), config.rate_symbol("USD"), config.rate_symbol("CHF")) == ("EUR-USD", None, None)
    assert config.data_symbols == ("AAA", "GBP-USD", "EUR-USD")


# --- The market's names -------------------------------------------------------------------------------------------


def test_a_symbol_is_capitals_digits_and_a_few_marks() -> None:
    assert [check_symbol(each) for each in ("BTC-USD", "^GSPC", "CL=F")[::2]] == ["BTC-USD", "CL=F"]
    for text in ("", "btc", "^GSPC", "A B", "../A", "A" * 25):
        with pytest.raises(BadInput, match="is not usable"):
            check_symbol(text)


def test_an_unknown_symbol_is_quoted_in_what_follows_its_dash() -> None:
    assert instrument_for("CL=F").multiplier == 1000
    quotes = [instrument_for(each).quote for each in ("BTC-EUR", "BTC", "ABC", "BTC-EURO", "BTC-1NC")]
    assert quotes == ["EUR", "USD", "USD", "USD", "USD"]


def test_a_year_has_365_days_where_anything_trades_around_the_clock() -> None:
    assert periods_per_year([instrument_for("CL=F"), instrument_for("BTC-USD")]) == 365
    assert periods_per_year([instrument_for("CL=F"), instrument_for("EUR-USD")]) == 252


def test_timeframes_have_a_length_and_unknown_ones_are_refused() -> None:
    assert Timeframe.parse("15m").duration == timedelta(minutes=15)
    with pytest.raises(BadInput, match="timeframe '2h' is unknown: use one of 1m, 5m"):
        Timeframe.parse("2h")


def test_names_lead_back_to_what_they_were_made_of() -> None:
    assert parse_instant(instant_text(AT)) == AT
    assert entry_order_of(trade_id("order-AAA-20240102T090000Z-1")) == "order-AAA-20240102T090000Z-1"
    assert (Side.BUY.sign, Side.SELL.sign) == (1, -1)
    assert set(Direction) == {"LONG", "SHORT", "FLAT", "HOLD"}


def test_an_analysis_asks_for_what_it_has_said() -> None:
    made = AnalysisMade(
        "key", "AAA", "1h", AT, "rules", Direction.LONG, ONE, 4, exact("1.5"), "{}", "digest", 9, "1",
        stop=exact("95"), target=exact("120"), entry=OrderTerms(OrderType.LIMIT, exact("99")),
    )  # fmt: skip
    assert intent_of(made, 2) == Intent(
        "AAA", Direction.LONG, ONE, "key", 2, 4, exact("1.5"), exact("95"), exact("120"), made.entry
    )
    assert analysis_stream("key") == "analysis:key"


def test_an_analysis_that_failed_asks_for_nothing() -> None:
    failed = AnalysisFailed("key", "AAA", "1h", AT, "gpt@1", "the server was busy", "digest")
    assert intent_of(failed, 3) == Intent("AAA", Direction.HOLD, exact("0"), "key", 3)


def test_a_digest_is_the_same_for_the_same_configuration_and_for_no_other() -> None:
    assert digest_of(config_of()) == digest_of(config_of())
    assert len({digest_of(config_of(position_pct=pct)) for pct in (None, "10", "11")}) == 3
    assert digest_of({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


# --- Errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "facts"),
    [(errors.VersionConflict("book:1", 2, 3), "book:1 is at version 3, not 2: .* retry", ("book:1", 2, 3)),
     (errors.AnalysisMissing("key"), "analysis key is not stored, and a replay creates none", ("key",)),
     (errors.ReplayDiverged("book:1", 4, "a", "b"), "book:1 diverges at version 4: stored a, regenerated b",
      ("book:1", 4, "a", "b")),
     (errors.RecordDiffers("0123456789", "order 7"), "run 01234567 holds a different order 7",
      ("0123456789", "order 7")),
     (errors.UnknownEvent("X.v9", 5), "event 'X.v9' at position 5 is unknown", ("X.v9", 5)),
     (errors.DamagedEvent("X.v1", 6, "no JSON"), "event 'X.v1' at position 6 cannot be read: no JSON", ("X.v1", 6)),
     (errors.EventMissing("book:1", 1234), "book:1 has no version 1,234", ("book:1", 1234))],
)  # fmt: skip
def test_an_error_says_what_where_and_what_to_do(
    error: errors.QuantagentError, message: str, facts: tuple[object, ...]
) -> None:
    with pytest.raises(type(error), match=message):
        raise error
    code, fields, *values = vars(error).values()
    assert (str(code).isupper(), fields, tuple(values)) == (True, {}, facts)
