"""Schemas of the answers of models, and the reports made from them.

A model judges and does not calculate. Every market figure of a report is computed from the window by the functions that
the rules use, so that no price, level or oscillator can be invented. A model chooses from short lists: the shape of the
schema bounds an answer, and every server that enforces schemas can enforce it (no ranges and no lengths, which OpenAI's
strict mode and most grammars lack). The docstrings of the schemas go to the model: a change makes a new variant.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from analysis.reports import IndicatorReport, PatternName, PatternReport, TradeDecision, TrendReport
from engine.core.money import ZERO, exact

REASON_LENGTH_MAX = 200


def _one_line(text: object) -> object:
    """Explanations are for people and decide nothing: a longer one is cut, and never a reason to ask again."""
    if not isinstance(text, str):
        return text
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= REASON_LENGTH_MAX else shown[: REASON_LENGTH_MAX - 1] + "…"


def _no_bool(value: object) -> object:
    # True is 1 in Python, and no number of tenths.
    if isinstance(value, bool):
        raise ValueError("true and false are no tenths")
    return value


Tenths = Annotated[
    Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], BeforeValidator(_no_bool), Field(description="in tenths, 0 to 10")
]
Sentence = Annotated[str, BeforeValidator(_one_line), Field(description="one short sentence")]
TrendChoice = Literal["up", "down", "sideways"]


class AnswerSchema(BaseModel):
    """An answer: every field is there, and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class IndicatorReading(AnswerSchema):
    """What the oscillators say together."""

    trend_direction: TrendChoice
    confidence: Tenths
    reason: Sentence


class PatternReading(AnswerSchema):
    """The chart patterns that the window ends with."""

    primary_pattern: PatternName | None
    second_pattern: PatternName | None
    confidence: Tenths
    breakout_probability: Tenths
    reason: Sentence


class TrendReading(AnswerSchema):
    """Which way prices go between their support and their resistance."""

    trend_direction: TrendChoice
    trend_strength: Tenths
    reason: Sentence


def _known_ratio(value: object) -> object:
    # Some servers give the text of a number as a number.
    return f"{value:.1f}" if isinstance(value, float) else value


class DecisionReading(AnswerSchema):
    """What to do at the window's last close; horizon and ratio belong to LONG and SHORT."""

    decision: Literal["LONG", "SHORT", "HOLD"]
    confidence: Tenths
    horizon_bars: Annotated[
        Literal[1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24] | None, BeforeValidator(_no_bool), Field(description="bars")
    ]
    risk_reward: Annotated[
        Literal["1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8"] | None,
        BeforeValidator(_known_ratio),
        Field(description="distance of the target in distances of the stop"),
    ]
    reason: Annotated[Sentence, AfterValidator(lambda line: line or "no reason given")]

    @model_validator(mode="after")
    def _an_entry_is_complete(self) -> Self:
        if self.decision != "HOLD" and (self.horizon_bars is None or self.risk_reward is None):
            raise ValueError(f"{self.decision} needs horizon_bars and risk_reward")
        return self


def share_of(tenths: int) -> Decimal:
    """Tenths as a share of one."""
    return exact(f"{tenths / 10:.1f}")


# --- Reports ------------------------------------------------------------------------------------------------------


def indicator_report(computed: IndicatorReport, answer: IndicatorReading) -> IndicatorReport:
    """The computed oscillators under the model's judgement."""
    return computed.model_copy(
        update={"trend_direction": answer.trend_direction, "confidence": share_of(answer.confidence)}
    )


def pattern_report(answer: PatternReading) -> PatternReport:
    primary = answer.primary_pattern or answer.second_pattern
    if primary is None:
        return PatternReport(confidence=share_of(answer.confidence))
    patterns = dict.fromkeys(each for each in (primary, answer.second_pattern) if each is not None)
    return PatternReport(
        patterns_detected=tuple(patterns),
        primary_pattern=primary,
        confidence=share_of(answer.confidence),
        breakout_probability=share_of(answer.breakout_probability),
    )


def trend_report(computed: TrendReport, answer: TrendReading) -> TrendReport:
    """The fitted lines under the model's judgement."""
    return computed.model_copy(
        update={"trend_direction": answer.trend_direction, "trend_strength": share_of(answer.trend_strength)}
    )


def trade_decision(answer: DecisionReading) -> TradeDecision:
    if answer.decision == "HOLD":
        # HOLD is no opinion, so there is nothing to be confident of.
        return TradeDecision(decision="HOLD", confidence=ZERO, reasons=(answer.reason,))
    return TradeDecision(
        decision=answer.decision,
        confidence=share_of(answer.confidence),
        horizon_bars=answer.horizon_bars,
        risk_reward=None if answer.risk_reward is None else exact(answer.risk_reward),
        reasons=(answer.reason,),
    )
