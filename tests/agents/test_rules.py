"""The rules analyst: a pure, symmetric function of one window."""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import rules
from analysis.charting.indicators import Windows
from analysis.reports import Analysis, IndicatorReport, PatternName, PatternReport, TradeDecision, TrendReport
from analysis.rules import CHUNK_WINDOWS, WARM_UP_BARS, analyse, analyse_many, decide_trade
from tests.support.frames import corrupted_after, frame_of, mirrored, walk_frame
from tests.support.paths import ROOT

OPPOSITE = {"LONG": "SHORT", "SHORT": "LONG", "HOLD": "HOLD"}

RISING: dict[str, Any] = {
    "macd_histogram": "0.3",
    "atr": "1",
    "rsi": "66",
    "rsi_level": "neutral",
    "roc": "1.2",
    "stoch_k": "75",
    "stoch_d": "70",
    "willr": "-20",
    "trend_direction": "up",
    "confidence": "0.75",
}
TURNING_UP: dict[str, Any] = RISING | {
    "rsi": "24",
    "rsi_level": "oversold",
    "stoch_k": "15",
    "stoch_d": "9",
    "willr": "-88",
    "roc": "-2",
    "macd_histogram": "-0.2",
    "trend_direction": "sideways",
    "confidence": "0.1",
}
TREND_UP: dict[str, Any] = {"trend_direction": "up", "trend_strength": "0.6"}
SIDEWAYS: dict[str, Any] = {"trend_direction": "sideways", "trend_strength": "0.1"}


def decided(
    indicator: dict[str, Any], line: dict[str, Any], pattern: PatternName | None = None, bars: int = 500
) -> TradeDecision:
    chart = {
        "patterns_detected": [pattern] if pattern else [],
        "primary_pattern": pattern,
        "confidence": "0.8" if pattern else "0",
        "breakout_probability": "0.9" if pattern else None,
    }
    return decide_trade(
        bars,
        IndicatorReport.model_validate(indicator),
        PatternReport.model_validate(chart),
        TrendReport.model_validate(line),
    )


@given(seed=st.integers(0, 10**6), end=st.integers(0, 640))
@settings(max_examples=40)
def test_bars_after_the_last_one_change_nothing(seed: int, end: int) -> None:
    frame = walk_frame(seed, 650)
    assert analyse(Windows.of(corrupted_after(frame, end), [end])) == analyse(Windows.of(frame, [end]))


@given(seed=st.integers(0, 10**6), ends=st.lists(st.integers(0, 649), min_size=1, max_size=25))
@settings(max_examples=20)
def test_many_at_once_are_what_each_is_alone_to_the_last_byte(seed: int, ends: list[int]) -> None:
    frame = walk_frame(seed, 650)
    together = [analysis.model_dump_json() for analysis in analyse_many(frame, ends)]
    alone: list[str] = []
    for end in ends:
        window = frame.slice(max(0, end - 499), min(end + 1, 500))
        alone += [analysis.model_dump_json() for analysis in analyse(Windows.of(window, [window.height - 1]))]
    assert together == alone


def test_prices_upside_down_turn_long_into_short() -> None:
    decisions: set[str] = set()
    for seed in range(8):
        frame = walk_frame(seed, 700)
        ends = range(200, 700, 3)
        for a, b in zip(analyse_many(frame, ends), analyse_many(mirrored(frame), ends), strict=True):
            assert b.decision.decision == OPPOSITE[a.decision.decision]
            assert b.decision.horizon_bars == a.decision.horizon_bars
            # Eight digits of 5.1 are finer than eight digits of 94.9, its mirror image.
            assert float(b.decision.confidence) == pytest.approx(float(a.decision.confidence), abs=1.01e-4)
            decisions.add(a.decision.decision)
    assert decisions == {"LONG", "SHORT", "HOLD"}


def test_the_sizes_of_a_decision_stay_in_their_ranges() -> None:
    entries = [
        analysis.decision
        for seed in range(6)
        for analysis in analyse_many(walk_frame(seed, 700), range(250, 700, 2))
        if analysis.decision.decision != "HOLD"
    ]
    assert len(entries) > 100
    assert {entry.horizon_bars for entry in entries} <= set(range(3, 9))
    assert all(Decimal("0.5") <= entry.confidence <= 1 for entry in entries)
    assert min(entry.risk_reward or 0 for entry in entries) >= Decimal("1.2")
    assert len({entry.risk_reward for entry in entries}) > 10


@pytest.mark.parametrize("bars", [1, 100, WARM_UP_BARS - 1])
def test_fewer_than_250_bars_are_a_warm_up(bars: int) -> None:
    decision = analyse(Windows.of(walk_frame(1, 300), [bars - 1]))[0].decision
    assert (decision.decision, decision.confidence) == ("HOLD", 0)
    assert decision.reasons == (f"warm-up: {bars} of 250 bars",)


def test_250_bars_are_enough() -> None:
    assert not analyse(Windows.of(walk_frame(1, 300), [249]))[0].decision.reasons[0].startswith("warm-up")


def test_a_market_that_stands_still_is_held() -> None:
    decision = analyse(Windows.of(frame_of([100.0] * 300, above=0, below=0), [299]))[0].decision
    assert decision.decision == "HOLD"
    assert decision.reasons == ("the market stands still: no value for rsi, stoch_k, stoch_d, willr",)


def test_agreeing_trends_confirmed_by_momentum_are_followed() -> None:
    decision = decided(RISING, TREND_UP)
    # 0.55 x (0.75 + 0.6) / 2 + 0.3 x (0.3 / 0.35 + 16 / 20 + 1) / 3
    assert decision.confidence == Decimal("0.6369")
    assert (decision.decision, decision.horizon_bars, decision.risk_reward) == ("LONG", 6, Decimal("1.61"))
    assert decision.reasons == (
        "regime: trending",
        "trend +0.6750",
        "momentum +0.8857",
        "no pattern",
        "score +0.6369, entry at 0.5",
    )


def test_a_trend_without_momentum_is_not_followed() -> None:
    decision = decided(RISING | {"macd_histogram": "-0.3", "rsi": "44", "roc": "-0.2"}, TREND_UP)
    assert decision.decision == "HOLD"
    assert "not confirmed by momentum" in decision.reasons[-1]


def test_trends_that_disagree_are_held() -> None:
    decision = decided(RISING, TREND_UP | {"trend_direction": "down"})
    assert decision.decision == "HOLD"
    assert decision.reasons[0] == "regime: mixed"


def test_an_extreme_that_turns_is_faded_in_a_range() -> None:
    decision = decided(TURNING_UP, SIDEWAYS)
    assert (decision.decision, decision.horizon_bars) == ("LONG", 3)
    assert decision.reasons[0] == "regime: ranging"


@pytest.mark.parametrize(
    "change", [{"stoch_k": "7"}, {"stoch_d": "25"}, {"rsi": "35", "rsi_level": "neutral"}], ids=["k<d", "d", "rsi"]
)
def test_an_extreme_is_not_faded_before_it_turns(change: dict[str, str]) -> None:
    assert decided(TURNING_UP | change, SIDEWAYS).decision == "HOLD"


def test_a_pattern_strengthens_what_it_agrees_with_and_weakens_the_opposite() -> None:
    bare, with_it, against_it = (
        decided(RISING, TREND_UP, pattern) for pattern in (None, PatternName.BULLISH_FLAG, PatternName.DOUBLE_TOP)
    )
    assert with_it.confidence > bare.confidence > against_it.confidence
    assert decided(RISING, TREND_UP, PatternName.RECTANGLE).confidence == bare.confidence


def test_a_pattern_alone_decides_nothing() -> None:
    neutral = TURNING_UP | {"rsi": "50", "rsi_level": "neutral"}
    assert decided(neutral, SIDEWAYS, PatternName.DOUBLE_BOTTOM).decision == "HOLD"


def test_the_decimal_context_of_a_thread_changes_no_analysis() -> None:
    frame = walk_frame(2, 620)
    ordinary = [analysis.model_dump_json() for analysis in analyse_many(frame, range(400, 620, 5))]
    with localcontext() as context:
        context.prec, context.rounding = 3, ROUND_UP
        assert [analysis.model_dump_json() for analysis in analyse_many(frame, range(400, 620, 5))] == ordinary


def test_analyses_come_in_order_and_progress_is_told_chunk_by_chunk() -> None:
    frame = walk_frame(4, 700)
    ends = list(range(699, 99, -1))
    told: list[int] = []
    made: list[Analysis] = list(analyse_many(frame, ends, told.append))
    assert told == [CHUNK_WINDOWS, 600]
    assert made[0] == analyse(Windows.of(frame, [699]))[0]
    assert made[-1] == analyse(Windows.of(frame, [100]))[0]


def test_the_strategy_page_names_every_pattern_and_the_constants_as_they_are() -> None:
    page = (ROOT / "docs" / "strategy.md").read_text(encoding="utf-8")
    assert {name for name in PatternName if f"`{name}`" not in page} == set()
    constants = dict(re.findall(r"^\| `([A-Z_]+)` \| ([0-9.]+) \|$", page, re.MULTILINE))
    assert len(constants) >= 10
    assert constants == {name: str(getattr(rules, name)) for name in constants}
