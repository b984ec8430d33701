"""One attempt at one analysis: which models may be asked, within what, and where every question is noted."""

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
"""How a picture begins in a canonical request."""

IMAGE_TOKENS = 2_000
"""More than any server known counts for a picture of our size."""

CHARACTERS_PER_TOKEN = 4
"""For servers that do not tell their usage."""


class BudgetSpent(VariantUnavailable):
    """The next question could cost more than is left."""


class CostBudget:
    """What may be spent, shared by all who ask at the same time.

    spent: what recorded calls have cost, where others spend it too; without it counts what is settled here.
    """

    def __init__(self, limit: Decimal | None, name: str, spent: Callable[[], Decimal] | None = None) -> None:
        self._limit, self._name = limit, name
        self._committed = self._reserved = ZERO
        self._spent = spent or (lambda: self._committed)

    def reserve(self, max_cost: Decimal) -> None:
        """Sets aside what a question can cost at the most. Raises `BudgetSpent` where that could be too much."""
        if self._limit is not None:
            spent = add(self._spent(), self._reserved)
            if add(spent, max_cost) > self._limit:
                raise BudgetSpent(
                    f"{self._name} has spent {spent:f} of {self._limit:f} US dollars, and the next question could cost "
                    f"{max_cost:f}: raise the budget, or go on when it begins anew. What was made is kept."
                )
        self._reserved = add(self._reserved, max_cost)

    def commit(self, max_cost: Decimal, cost: Decimal) -> None:
        """The question is over, and what it cost recorded."""
        self._reserved, self._committed = sub(self._reserved, max_cost), add(self._committed, cost)


class Model(NamedTuple):
    """A model that can be asked: the preset it is asked by, the client, and who holds back how often."""

    name: str
    preset: ModelPreset
    chat: BaseChatModel
    secret: str = ""
    pace: BaseRateLimiter | None = None
    budgets: tuple[CostBudget, ...] = ()

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        """US dollars."""
        parts = (
            mul(exact(input_tokens), self.preset.price_input),
            mul(exact(output_tokens), self.preset.price_output),
        )
        return div(total(parts), MILLION)

    def max_cost(self, request: str) -> Decimal:
        """What a question can cost: no token is shorter than a character, and the answer's length is limited."""
        images = request.count(IMAGE_MARKER)
        return self.cost(len(request) + images * IMAGE_TOKENS, self.preset.max_output_tokens)


@dataclass(frozen=True)
class AnalysisContext:
    """The context of one run of the graph.

    version: that the analysis's event will have in its stream; models: the preset's own, then its fallbacks; pictures:
    where charts are kept; now: the wall clock, for the ledger; pause: waits between attempts.
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
        """Whether any of its models looks at pictures."""
        return any(model.preset.vision for model in self.models)

    def store_chart(self, image: bytes) -> str:
        """Stores a chart as the preset wants it kept, and returns its SHA-256."""
        if self.artefacts is None:
            return sha256(image).hexdigest()
        return self.artefacts.store_chart(self.models[0].preset.charts, image)

    def record_call(self, model: Model, call: ModelCall, request: str, response: str) -> None:
        self.calls.record(
            RecordedCall(self.analysis_id, self.version, model.name, self.variant, self.now(), call), request, response
        )


ContextGetter = Callable[[Any], AnalysisContext]
"""From the context that a graph is run with to the attempt in it."""


def same_context(context: AnalysisContext) -> AnalysisContext:
    """The context is the attempt itself."""
    return context


def count_tokens(usage: Usage, request: str, answer: str) -> tuple[int, int]:
    """Tokens in and out; estimated from the texts where the server does not tell them."""
    read, written = usage.input_tokens, usage.output_tokens
    return (
        len(request) // CHARACTERS_PER_TOKEN + 1 if read is None else read,
        (len(answer) // CHARACTERS_PER_TOKEN + 1 if answer else 0) if written is None else written,
    )
