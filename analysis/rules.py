"""The `rules` analyst: a technical strategy without a model, a key or a network. docs/strategy.md explains its design.

The decision is computed in Decimals from the reports as stored, so that float noise cannot change it and the reports
explain it completely. Inverted prices swap LONG and SHORT: the rule has no directional bias. Costs, sizes and the
current position are not considered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

import polars as pl

from analysis.charting import indicators, patterns, trend
from analysis.charting.indicators import Windows
from analysis.reports import Analysis, IndicatorReport, PatternReport, TradeDecision, TrendDirection, TrendReport
from engine.core.money import ONE, ZERO, add, div, exact, floor_to_step, mul, neg, sub, total

VARIANT = "rules"
AGENT_VERSION = "rules.1"

WARM_UP_BARS = 250
CHUNK_WINDOWS = 500

ENTRY_SCORE = exact("0.5")
FULL_SCORE = exact("0.7")  # Horizon and target reach their maximum here.
TREND_WEIGHT, MOMENTUM_WEIGHT, PATTERN_WEIGHT = exact("0.55"), exact("0.3"), exact("0.15")
FADE_WEIGHT, FADE_PATTERN_WEIGHT = exact("0.7"), exact("0.3")
FADE_HORIZON_BARS, TREND_HORIZON_BARS, TREND_HORIZON_EXTRA_BARS = 3, 4, 4
RISK_REWARD_MIN, RISK_REWARD_RANGE = exact("1.2"), exact("0.6")

_MIDDLE, _HALF_RANGE = exact(50), exact(50)
_RSI_FULL = exact(20)  # An RSI of 30 or 70 is full momentum, and fully oversold or overbought.
_HISTOGRAM_FULL = exact("0.35")  # A MACD histogram of this many ATR is full momentum.
_STOCH_OVERSOLD, _STOCH_OVERBOUGHT = exact(20), exact(80)


def analyse(windows: Windows) -> list[Analysis]:
    """Return the analysis of each window, a function of that window's bars alone. Use `analyse_many` for many."""
    reports = zip(
        windows.lengths.tolist(),
        indicators.report_indicators(windows),
        patterns.report_patterns(windows),
        trend.report_trends(windows),
        strict=True,
    )
    return [
        Analysis(
            indicator=indicator, pattern=pattern, trend=line, decision=decide_trade(bars, indicator, pattern, line)
        )
        for bars, indicator, pattern, line in reports
    ]


def analyse_many(
    frame: pl.DataFrame, ends: Sequence[int], progress: Callable[[int], None] | None = None
) -> Iterator[Analysis]:
    """Yield the analysis at each of `ends` (row numbers of a frame of bars), in order, in bounded memory.

    progress: called with the number of analyses so far. Raise `BadInput` for an invalid frame.
    """
    windows = Windows.of(frame, ends)
    for start in range(0, len(windows), CHUNK_WINDOWS):
        analyses = analyse(windows.part(start, start + CHUNK_WINDOWS))
        if progress is not None:
            progress(start + len(analyses))
        yield from analyses


def decide_trade(bars: int, indicator: IndicatorReport, pattern: PatternReport, line: TrendReport) -> TradeDecision:
    """Return the decision for three reports on a window of `bars` bars."""
    if bars < WARM_UP_BARS:
        return _hold(f"warm-up: {bars} of {WARM_UP_BARS} bars")
    unknown = [name for name in _NEEDED if getattr(indicator, name) is None]
    if unknown or not indicator.atr:
        return _hold(f"the market stands still: no value for {', '.join(unknown) or 'atr'}")
    slow = _signed(indicator.trend_direction, indicator.confidence)
    fast = _signed(line.trend_direction, line.trend_strength or ZERO)
    agreement = mul(slow, fast)
    if agreement < 0:
        return _hold(
            "regime: mixed",
            f"trends disagree: EMA 50/200 {_format_score(slow)}, line over 50 bars {_format_score(fast)}",
        )
    if agreement > 0:
        return _follow(div(add(slow, fast), exact(2)), indicator, pattern)
    return _fade(indicator, pattern)


_NEEDED = ("macd_histogram", "rsi", "roc", "stoch_k", "stoch_d", "willr", "atr")


def _follow(strength: Decimal, indicator: IndicatorReport, pattern: PatternReport) -> TradeDecision:
    """Follow two trends that agree, if momentum confirms them; a pattern strengthens or weakens the score."""
    momentum = _momentum(indicator)
    if mul(strength, momentum) <= 0:
        return _hold(
            "regime: trending",
            f"trend {_format_score(strength)} is not confirmed by momentum {_format_score(momentum)}",
        )
    chart = _pattern_vote(pattern)
    score = total((mul(TREND_WEIGHT, strength), mul(MOMENTUM_WEIGHT, momentum), mul(PATTERN_WEIGHT, chart)))
    reasons = (
        "regime: trending",
        f"trend {_format_score(strength)}",
        f"momentum {_format_score(momentum)}",
        _pattern_reason(pattern, chart),
    )
    return _decide_by_score(score, TREND_HORIZON_BARS, TREND_HORIZON_EXTRA_BARS, reasons)


def _fade(indicator: IndicatorReport, pattern: PatternReport) -> TradeDecision:
    """Trade against an extreme that has begun to turn, without a common trend; a pattern changes the score."""
    fade, chart = _turning_extreme(indicator), _pattern_vote(pattern)
    score = add(mul(FADE_WEIGHT, fade), mul(FADE_PATTERN_WEIGHT, chart))
    reasons = ("regime: ranging", f"turn from an extreme {_format_score(fade)}", _pattern_reason(pattern, chart))
    return _decide_by_score(score, FADE_HORIZON_BARS, 0, reasons)


def _momentum(indicator: IndicatorReport) -> Decimal:
    """Return the momentum, -1..1: the mean of MACD histogram in ATR, RSI around 50, and sign of the rate of change."""
    votes = (
        _clamped(div(div(_require(indicator.macd_histogram), _require(indicator.atr)), _HISTOGRAM_FULL)),
        _clamped(div(sub(_require(indicator.rsi), _MIDDLE), _RSI_FULL)),
        # Only the sign: percentage moves up and down are not symmetrical.
        _sign(_require(indicator.roc)),
    )
    return div(total(votes), exact(len(votes)))


def _extension(indicator: IndicatorReport) -> Decimal:
    """Return the place of the close in the 14-bar range, -1..1: mean of stochastic oscillator and Williams' %R."""
    stochastic = div(sub(_require(indicator.stoch_k), _MIDDLE), _HALF_RANGE)
    williams = div(add(_require(indicator.willr), _MIDDLE), _HALF_RANGE)
    return div(add(stochastic, williams), exact(2))


def _turning_extreme(indicator: IndicatorReport) -> Decimal:
    """Return a score above 0 for an oversold market with %K above %D, below 0 for the opposite, else 0."""
    k, d = _require(indicator.stoch_k), _require(indicator.stoch_d)
    oversold = indicator.rsi_level == "oversold" and d < _STOCH_OVERSOLD and k > d
    overbought = indicator.rsi_level == "overbought" and d > _STOCH_OVERBOUGHT and k < d
    if not oversold and not overbought:
        return ZERO
    stretch = _clamped(div(sub(_MIDDLE, _require(indicator.rsi)), _RSI_FULL))
    return div(sub(stretch, _extension(indicator)), exact(2))


def _pattern_vote(pattern: PatternReport) -> Decimal:
    """Return the vote of the primary pattern, -1..1: confidence times breakout probability, signed by its bias."""
    name = pattern.primary_pattern
    if name is None or pattern.breakout_probability is None:
        return ZERO
    weight = mul(pattern.confidence, pattern.breakout_probability)
    return {"bullish": weight, "bearish": neg(weight), "neutral": ZERO}[name.bias]


def _pattern_reason(pattern: PatternReport, vote: Decimal) -> str:
    return f"pattern {pattern.primary_pattern} {_format_score(vote)}" if pattern.primary_pattern else "no pattern"


def _decide_by_score(score: Decimal, horizon: int, extra: int, reasons: tuple[str, ...]) -> TradeDecision:
    """Enter when the score reaches the entry score; its excess lengthens the horizon and widens the target."""
    magnitude = floor_to_step(max(score, neg(score)), exact("0.0001"))
    confidence = min(magnitude, ONE)
    # Rounded like the confidence, so that both show the same number.
    verdict = f"score {_format_score(magnitude if score > 0 else neg(magnitude))}, entry at {ENTRY_SCORE}"
    if confidence < ENTRY_SCORE:
        return _hold(*reasons, verdict)
    excess = min(ONE, div(sub(confidence, ENTRY_SCORE), sub(FULL_SCORE, ENTRY_SCORE)))
    return TradeDecision(
        decision="LONG" if score > 0 else "SHORT",
        confidence=confidence,
        horizon_bars=horizon + int(mul(excess, exact(extra))),
        risk_reward=floor_to_step(add(RISK_REWARD_MIN, mul(RISK_REWARD_RANGE, excess)), exact("0.01")),
        reasons=(*reasons, verdict),
    )


def _hold(*reasons: str) -> TradeDecision:
    # HOLD carries no direction, hence confidence 0.
    return TradeDecision(decision="HOLD", confidence=ZERO, reasons=reasons)


def _format_score(value: Decimal) -> str:
    # Converted to float first: formatting a Decimal depends on the thread's decimal context.
    return f"{float(value):+.4f}"


def _require(value: Decimal | None) -> Decimal:
    assert value is not None, "decide_trade() returns HOLD for unknown values"
    return value


def _signed(direction: TrendDirection, weight: Decimal) -> Decimal:
    return weight if direction == "up" else neg(weight) if direction == "down" else ZERO


def _sign(value: Decimal) -> Decimal:
    return ONE if value > 0 else neg(ONE) if value < 0 else ZERO


def _clamped(value: Decimal) -> Decimal:
    return max(neg(ONE), min(ONE, value))
