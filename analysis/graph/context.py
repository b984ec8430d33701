"""Context of one analysis: its models, budgets and call log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.rate_limiters import BaseRateLimiter

from analysis.charting.chart_store import Artefacts
from analysis.graph.response_parsing import Usage
from analysis.llm.call_log import CallLog, RecordedCall
from analysis.llm.presets import ModelPreset
from analysis.variants import VariantUnavailable
from engine.core.events import ModelCall
from engine.core.money import ZERO, add, div, exact, mul, sub, total

MILLION = exact(1_000_000)
IMAGE_MARKER = '"sha256:'
"""Beginning of an image in a canonical request."""

IMAGE_TOKENS = 2_000
"""Upper bound of the tokens that known servers count for one chart."""

CHARACTERS_PER_TOKEN = 4
"""Estimate for servers that do not report usage."""


class BudgetSpent(VariantUnavailable):
    """A call that could cost more than the rest of a budget."""

    default_code = "BUDGET_SPENT"


class CostBudget:
    """Cost limit shared by concurrent calls.

    spent: returns the cost of recorded calls if other processes use the budget too; by default only `commit` counts.
    """

    def __init__(self, limit: Decimal | None, name: str, spent: Callable[[], Decimal] | None = None) -> None:
        self._limit, self._name = limit, name
        self._committed = self._reserved = ZERO
        self._spent = spent or (lambda: self._committed)

    def reserve(self, max_cost: Decimal) -> None:
        """Reserve the maximum cost of a call. Raise `BudgetSpent` if it could exceed the limit."""
        if self._limit is not None:
            spent = add(self._spent(), self._reserved)
            if add(spent, max_cost) > self._limit:
                # A live analyst stores this sentence as the reason of a failed analysis.
                raise BudgetSpent(
                    f"{self._name} has spent {spent:f} of {self._limit:f} US dollars, and the next question could cost "
                    f"{max_cost:f}: raise the budget, or go on when it begins anew. What was made is kept."
                )
        self._reserved = add(self._reserved, max_cost)

    def commit(self, max_cost: Decimal, cost: Decimal) -> None:
        """Replace the reservation of a finished call by its cost."""
        self._reserved, self._committed = sub(self._reserved, max_cost), add(self._committed, cost)


class Model(NamedTuple):
    """A model ready for calls: preset, client, secret, rate limiter and budgets."""

    name: str
    preset: ModelPreset
    chat: BaseChatModel
    secret: str = ""
    pace: BaseRateLimiter | None = None
    budgets: tuple[CostBudget, ...] = ()

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the cost of a call in US dollars."""
        parts = (
            mul(exact(input_tokens), self.preset.price_input),
            mul(exact(output_tokens), self.preset.price_output),
        )
        return div(total(parts), MILLION)

    def max_cost(self, request: str) -> Decimal:
        """Return the maximum cost of a call in US dollars: one token per character, and the longest answer."""
        images = request.count(IMAGE_MARKER)
        return self.cost(len(request) + images * IMAGE_TOKENS, self.preset.max_output_tokens)


@dataclass(frozen=True)
class AnalysisContext:
    """Context of one run of the graph.

    version: of the analysis's event in its stream; models: the preset's own, then its fallbacks; artefacts: store of
    charts, None keeps none; now: wall clock for the call log; pause: sleeps between attempts.
    """

    analysis_id: str
    version: int
    variant: str
    models: tuple[Model, ...]
    calls: CallLog
    artefacts: Artefacts | None
    now: Callable[[], datetime]
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    @property
    def has_vision(self) -> bool:
        """True if any of the models uses images."""
        return any(model.preset.vision for model in self.models)

    def store_chart(self, image: bytes) -> str:
        """Store a chart according to the preset's policy and return its SHA-256."""
        if self.artefacts is None:
            return sha256(image).hexdigest()
        return self.artefacts.store_chart(self.models[0].preset.charts, image)

    def record_call(self, model: Model, call: ModelCall, request: str, response: str) -> None:
        self.calls.record(
            RecordedCall(self.analysis_id, self.version, model.name, self.variant, self.now(), call), request, response
        )


ContextGetter = Callable[[Any], AnalysisContext]
"""Find the `AnalysisContext` in the context of a graph's run."""


def same_context(context: AnalysisContext) -> AnalysisContext:
    """Return the context itself."""
    return context


def count_tokens(usage: Usage, request: str, answer: str) -> tuple[int, int]:
    """Return input and output tokens, estimated from the texts if the server reports none."""
    read, written = usage.input_tokens, usage.output_tokens
    return (
        len(request) // CHARACTERS_PER_TOKEN + 1 if read is None else read,
        (len(answer) // CHARACTERS_PER_TOKEN + 1 if answer else 0) if written is None else written,
    )
