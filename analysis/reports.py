"""The four typed reports of an analysis, the same for rules and language models.

Every number is a Decimal with one spelling, so that equal reports have equal bytes: shares have 4 decimals, market
values 8 significant digits and at most 12 decimals. In JSON they are strings without an exponent. Unknown values are
`None` or "unknown", never 0: an RSI of 0 would read as oversold.
"""

from __future__ import annotations

import math
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from engine.core.money import exact

SIGNIFICANT_DIGITS = 8
VALUE_MAX = 10**15


def significant(x: float, digits: int = SIGNIFICANT_DIGITS) -> Decimal | None:
    """Return a market value rounded for reports; `None` if it is not finite, as during an indicator's warm-up."""
    return exact(f"{x:.{digits - 1}e}") if math.isfinite(x) else None


def proportion(x: float) -> Decimal:
    """Return a share of one rounded for reports: 4 decimals, clipped to 0..1. Raise `ValueError` for NaN."""
    return exact(f"{min(max(x, 0.0), 1.0):.4f}") if not math.isnan(x) else exact("nan")


def _significant_digits(value: Decimal) -> Decimal:
    # Converted to float first: formatting a Decimal depends on the thread's decimal context.
    return exact(f"{float(value):.{SIGNIFICANT_DIGITS - 1}e}")


def _four_places(value: Decimal) -> Decimal:
    return exact(f"{float(value):.4f}")


def _two_places(value: Decimal) -> Decimal:
    return exact(f"{float(value):.2f}")


def _plain(value: Decimal) -> str:
    return format(value, "f")


_AsText = PlainSerializer(_plain, return_type=str, when_used="json")
_Finite = Field(allow_inf_nan=False)
_Value = Annotated[Decimal, _Finite, AfterValidator(_significant_digits), _AsText]

Value = Annotated[_Value, Field(ge=-VALUE_MAX, le=VALUE_MAX)]
Price = Annotated[_Value, Field(gt=0, le=VALUE_MAX)]
Percent = Annotated[_Value, Field(ge=0, le=100)]
WilliamsPercent = Annotated[_Value, Field(ge=-100, le=0)]
Share = Annotated[Decimal, _Finite, Field(ge=0, le=1), AfterValidator(_four_places), _AsText]
RiskReward = Annotated[
    Decimal, _Finite, Field(ge=Decimal("1.2"), le=Decimal("1.8")), AfterValidator(_two_places), _AsText
]
Reason = Annotated[str, Field(min_length=1, max_length=200)]

TrendDirection = Literal["up", "down", "sideways", "unknown"]
Bias = Literal["bullish", "bearish", "neutral"]
RsiLevel = Literal["oversold", "neutral", "overbought", "unknown"]


class PatternName(StrEnum):
    """Classical chart patterns: QuantAgent's catalogue, completed so that each bullish one has its bearish twin."""

    # This docstring is part of the answer schemas: a change of it renames every model variant.

    INVERSE_HEAD_AND_SHOULDERS = "inverse_head_and_shoulders"
    HEAD_AND_SHOULDERS = "head_and_shoulders"
    DOUBLE_BOTTOM = "double_bottom"
    DOUBLE_TOP = "double_top"
    ROUNDED_BOTTOM = "rounded_bottom"
    ROUNDED_TOP = "rounded_top"
    HIDDEN_BASE = "hidden_base"
    DISTRIBUTION_TOP = "distribution_top"
    FALLING_WEDGE = "falling_wedge"
    RISING_WEDGE = "rising_wedge"
    ASCENDING_TRIANGLE = "ascending_triangle"
    DESCENDING_TRIANGLE = "descending_triangle"
    BULLISH_FLAG = "bullish_flag"
    BEARISH_FLAG = "bearish_flag"
    ISLAND_BOTTOM = "island_bottom"
    ISLAND_TOP = "island_top"
    V_BOTTOM = "v_bottom"
    V_TOP = "v_top"
    RECTANGLE = "rectangle"
    SYMMETRICAL_TRIANGLE = "symmetrical_triangle"
    EXPANDING_TRIANGLE = "expanding_triangle"

    @property
    def bias(self) -> Bias:
        """Direction in which the pattern usually resolves."""
        return "bullish" if self in _BEARISH_TWINS else "bearish" if self in _BULLISH_TWINS else "neutral"

    @property
    def twin(self) -> PatternName:
        """The same pattern on inverted prices; a neutral pattern is its own twin."""
        return _BEARISH_TWINS.get(self) or _BULLISH_TWINS.get(self) or self


_BEARISH_TWINS = {
    PatternName.INVERSE_HEAD_AND_SHOULDERS: PatternName.HEAD_AND_SHOULDERS,
    PatternName.DOUBLE_BOTTOM: PatternName.DOUBLE_TOP,
    PatternName.ROUNDED_BOTTOM: PatternName.ROUNDED_TOP,
    PatternName.HIDDEN_BASE: PatternName.DISTRIBUTION_TOP,
    PatternName.FALLING_WEDGE: PatternName.RISING_WEDGE,
    PatternName.ASCENDING_TRIANGLE: PatternName.DESCENDING_TRIANGLE,
    PatternName.BULLISH_FLAG: PatternName.BEARISH_FLAG,
    PatternName.ISLAND_BOTTOM: PatternName.ISLAND_TOP,
    PatternName.V_BOTTOM: PatternName.V_TOP,
}
_BULLISH_TWINS = {bearish: bullish for bullish, bearish in _BEARISH_TWINS.items()}


class AnalysisReport(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class IndicatorReport(AnalysisReport):
    """Oscillators at the window's last bar.

    macd, macd_signal, macd_histogram and atr are in units of price; rsi, roc, stoch_k, stoch_d and willr in percent.
    """

    macd: Value | None = None
    macd_signal: Value | None = None
    macd_histogram: Value | None = None
    rsi: Percent | None = None
    rsi_level: RsiLevel = "unknown"
    roc: Value | None = None
    stoch_k: Percent | None = None
    stoch_d: Percent | None = None
    willr: WilliamsPercent | None = None
    atr: Value | None = None
    trend_direction: TrendDirection = "unknown"
    confidence: Share


class PatternReport(AnalysisReport):
    """Chart patterns in the window, most confident first. `breakout_probability` is that of the primary pattern."""

    patterns_detected: Annotated[tuple[PatternName, ...], Field(max_length=len(PatternName))] = ()
    primary_pattern: PatternName | None = None
    confidence: Share
    breakout_probability: Share | None = None

    @model_validator(mode="after")
    def _primary_is_detected(self) -> Self:
        if len(set(self.patterns_detected)) != len(self.patterns_detected):
            raise ValueError("patterns_detected names a pattern twice")
        if self.primary_pattern is not None and self.primary_pattern not in self.patterns_detected:
            raise ValueError("primary_pattern must be one of patterns_detected")
        return self


class TrendReport(AnalysisReport):
    """Recent trend; levels are prices of the support and resistance lines at the window's last bar."""

    support_level: Price | None = None
    resistance_level: Price | None = None
    trend_direction: TrendDirection = "unknown"
    trend_strength: Share | None = None


class TradeDecision(AnalysisReport):
    """Decision at the window's last close; LONG and SHORT require a horizon and a risk-reward ratio.

    horizon_bars: number of bars the decision is valid; risk_reward: distance of the target over distance of the stop.
    """

    decision: Literal["LONG", "SHORT", "HOLD"]
    confidence: Share
    horizon_bars: Annotated[int, Field(ge=1, le=100)] | None = None
    risk_reward: RiskReward | None = None
    reasons: Annotated[tuple[Reason, ...], Field(max_length=8)] = ()

    @model_validator(mode="after")
    def _an_entry_is_complete(self) -> Self:
        if self.decision != "HOLD" and (self.horizon_bars is None or self.risk_reward is None):
            raise ValueError(f"{self.decision} needs horizon_bars and risk_reward")
        return self


class Analysis(AnalysisReport):
    """The four reports on one window of bars."""

    indicator: IndicatorReport
    pattern: PatternReport
    trend: TrendReport
    decision: TradeDecision
