"""What an analysis may say, and how it is spelled."""

from __future__ import annotations

import json
import math
from decimal import ROUND_UP, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from analysis.reports import (
    Analysis,
    IndicatorReport,
    PatternName,
    PatternReport,
    TradeDecision,
    TrendReport,
    proportion,
    significant,
)

ENTRY: dict[str, Any] = {"decision": "LONG", "confidence": "0.7", "horizon_bars": 4, "risk_reward": "1.5"}


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (14277.67123456, "14277.671"),
        (-55.0, "-55"),
        (0.000012345678, "0.000012345678"),
        (123456789012.0, "123456790000"),
        (-0.0, "0"),
        (1e-15, "0"),
        (2.5, "2.5"),
    ],
)
def test_a_value_has_8_significant_digits_and_no_trailing_zeros(x: float, text: str) -> None:
    value = significant(x)
    assert value is not None
    assert format(value, "f") == text


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_ready_is_none_and_not_zero(x: float) -> None:
    assert significant(x) is None


@given(st.floats(min_value=1e-3, max_value=1e9))
def test_rounding_a_value_twice_changes_nothing(x: float) -> None:
    once = significant(x)
    assert once is not None
    assert significant(float(once)) == once
    assert abs(float(once) - x) <= 0.5e-7 * x * 1.0001


@pytest.mark.parametrize(("x", "text"), [(0.123449, "0.1234"), (1.0000001, "1"), (-1e-9, "0"), (0.5, "0.5")])
def test_a_proportion_has_4_decimals_between_0_and_1(x: float, text: str) -> None:
    assert str(proportion(x)) == text


def test_a_proportion_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError):
        proportion(math.nan)


def test_numbers_are_plain_decimal_strings_in_json() -> None:
    report = IndicatorReport(macd=Decimal("0.00000012"), rsi=Decimal("61.20000"), confidence=Decimal("0.30000"))
    dumped = report.model_dump(mode="json")
    assert (dumped["macd"], dumped["rsi"], dumped["confidence"]) == ("0.00000012", "61.2", "0.3")
    assert dumped["roc"] is None


def test_however_a_number_was_written_it_is_stored_alike() -> None:
    spellings = [0.7, "0.7", "0.70000", Decimal("0.70001")]
    assert {TradeDecision.model_validate(ENTRY | {"confidence": n}).model_dump_json() for n in spellings} == {
        '{"decision":"LONG","confidence":"0.7","horizon_bars":4,"risk_reward":"1.5","reasons":[]}'
    }


def test_the_decimal_context_of_a_thread_changes_no_report() -> None:
    raw = {"macd": "1.234567891", "rsi": "33.333333333", "confidence": "0.123449"}
    ordinary = IndicatorReport.model_validate(raw)
    with localcontext() as context:
        context.prec, context.rounding = 3, ROUND_UP
        assert IndicatorReport.model_validate(raw).model_dump_json() == ordinary.model_dump_json()


@pytest.mark.parametrize(
    ("report", "fields"),
    [
        (IndicatorReport, {"confidence": "0.5", "rsi": "100.5"}),
        (IndicatorReport, {"confidence": "0.5", "willr": "3"}),
        (IndicatorReport, {"confidence": "0.5", "macd": "NaN"}),
        (IndicatorReport, {"confidence": "0.5", "roc": "1e400"}),
        (IndicatorReport, {"confidence": "1.5"}),
        (IndicatorReport, {"confidence": "Infinity"}),
        (IndicatorReport, {"confidence": "0.5", "rsi_level": "low"}),
        (IndicatorReport, {"confidence": "0.5", "invented": 1}),
        (PatternReport, {"confidence": "0.5", "patterns_detected": ["cup_and_handle"]}),
        (PatternReport, {"confidence": "0.5", "patterns_detected": ["v_top", "v_top"]}),
        (PatternReport, {"confidence": "0.5", "patterns_detected": ["v_top"], "primary_pattern": "v_bottom"}),
        (TrendReport, {"support_level": "0"}),
        (TrendReport, {"trend_strength": "-0.1"}),
        (TradeDecision, ENTRY | {"decision": "BUY"}),
        (TradeDecision, ENTRY | {"decision": "long"}),
        (TradeDecision, ENTRY | {"risk_reward": "1.1"}),
        (TradeDecision, ENTRY | {"risk_reward": "1.81"}),
        (TradeDecision, ENTRY | {"risk_reward": None}),
        (TradeDecision, ENTRY | {"horizon_bars": 0}),
        (TradeDecision, ENTRY | {"horizon_bars": None}),
        (TradeDecision, ENTRY | {"reasons": ["x" * 201]}),
        (TradeDecision, ENTRY | {"reasons": ["x"] * 9}),
    ],
)
def test_a_report_outside_its_bounds_is_refused(report: type[IndicatorReport], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        report.model_validate(fields)


def test_the_word_long_in_a_reason_decides_nothing() -> None:
    decision = TradeDecision(decision="HOLD", confidence=Decimal(0), reasons=("everything says LONG",))
    assert (decision.decision, decision.horizon_bars) == ("HOLD", None)


def test_reports_cannot_be_changed() -> None:
    decision = TradeDecision.model_validate(ENTRY)
    with pytest.raises(ValidationError):
        decision.decision = "SHORT"


def test_an_analysis_survives_json_unchanged() -> None:
    analysis = Analysis(
        indicator=IndicatorReport(rsi=Decimal("28.123456"), rsi_level="oversold", confidence=Decimal("0.25")),
        pattern=PatternReport(
            patterns_detected=(PatternName.DOUBLE_TOP,),
            primary_pattern=PatternName.DOUBLE_TOP,
            confidence=Decimal("0.4"),
            breakout_probability=Decimal("0.6"),
        ),
        trend=TrendReport(support_level=Decimal("1.19714"), trend_direction="up", trend_strength=Decimal("0.4373")),
        decision=TradeDecision.model_validate(ENTRY | {"reasons": ["regime: trending"]}),
    )
    text = analysis.model_dump_json()
    assert Analysis.model_validate_json(text) == analysis
    assert Analysis.model_validate(json.loads(text)).model_dump_json() == text


def test_every_pattern_has_one_twin_and_the_twin_has_the_opposite_bias() -> None:
    opposite = {"bullish": "bearish", "bearish": "bullish", "neutral": "neutral"}
    for name in PatternName:
        assert name.twin.twin is name
        assert name.twin.bias == opposite[name.bias]
        assert (name.twin is name) == (name.bias == "neutral")
