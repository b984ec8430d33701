"""Middleware of model calls: limits, retries, fallbacks and recording of each attempt.

This is the only layer that retries: client, agents and graph do not. A call that fails with one model goes to the next;
after the last one `ModelFailed` ends the analysis, which counts as failed and as HOLD.

The reasons of failures are stored in failed analyses and sent to models as corrections, so their wording is part of
recordings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from pydantic import ValidationError

from analysis.graph.answer_schemas import AnswerSchema
from analysis.graph.context import AnalysisContext, BudgetSpent, ContextGetter, Model, count_tokens, same_context
from analysis.graph.recorded_transport import CURRENT_EXCHANGE, AnswerTooLarge, Exchange, request_key
from analysis.graph.response_parsing import (
    ParsedAnswer,
    UnusableAnswer,
    Usage,
    parse_answer,
    parse_usage,
    printable,
    strict_json,
)
from engine.core.errors import QuantagentError
from engine.core.events import ModelCall
from engine.core.money import ZERO

MODEL_CALLS_MAX = 6
FIRST_PAUSE_S = 0.5
ANSWERED = "answered"
_INCOMPLETE = frozenset(("timeout", "cancelled", "too_large"))
_CORRECTABLE = frozenset(("invalid", "unknown_tool", "truncated"))

Handler = Callable[[ModelRequest[AnalysisContext]], Awaitable[ModelResponse[Any]]]


class ModelFailed(QuantagentError):
    """An agent without a usable answer; `node` is its name, `outcome` the kind of the last fault."""

    def __init__(self, node: str, outcome: str, reason: str, attempts: int) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"the {node} agent got no usable answer, asked {times}: {reason}")
        self.node, self.outcome = node, outcome


class CallFailure(NamedTuple):
    """Failure of one attempt.

    outcome: kind of the fault; reason: its description; retryable: a retry may help; wait_s: delay requested by the
    server in seconds.
    """

    outcome: str
    reason: str
    retryable: bool = True
    wait_s: float | None = None


class ModelCallMiddleware(AgentMiddleware[Any, AnalysisContext, Any]):
    """Middleware around every model call of an agent. offered: names of the tools the model may call."""

    def __init__(
        self,
        node: str,
        answer_schema: type[AnswerSchema],
        offered: Sequence[str],
        render: RequestRenderer,
        get_context: ContextGetter = same_context,
    ) -> None:
        super().__init__()
        self._get_context = get_context
        self.node, self._answer_schema = node, answer_schema
        self._offered = frozenset(offered)
        self._render = render

    async def awrap_model_call(self, request: ModelRequest[AnalysisContext], handler: Handler) -> ModelResponse[Any]:
        context = self._get_context(request.runtime.context)
        seq = 1 + sum(isinstance(message, AIMessage) for message in request.messages)
        if seq > MODEL_CALLS_MAX:
            raise ModelFailed(self.node, "endless", f"it came to no end in {MODEL_CALLS_MAX} questions", seq - 1)
        attempts, failure = 0, CallFailure("invalid", "there is no model to ask", retryable=False)
        for model in context.models:
            rendered = self._render(request, model)
            deadline = _clock() + model.preset.patience_s
            for n in range(1, model.preset.retries + 2):
                attempts += 1
                # Waiting for the rate limiter does not count towards the time limit of the model.
                deadline += await _wait_for_rate_limit(model)
                try:
                    result = await self._attempt_call(
                        _with_correction(rendered, failure, n), handler, model, (seq, attempts), deadline
                    )
                except BudgetSpent:
                    if model is context.models[-1]:
                        raise
                    break
                if not isinstance(result, CallFailure):
                    return result
                failure = result
                wait = _pause(failure, n)
                if not failure.retryable or _clock() + wait >= deadline:
                    break
                if n <= model.preset.retries:
                    await context.pause(wait)
        raise ModelFailed(self.node, failure.outcome, failure.reason, attempts)

    async def _attempt_call(
        self,
        request: ModelRequest[AnalysisContext],
        handler: Handler,
        model: Model,
        seq_and_attempt: tuple[int, int],
        deadline: float,
    ) -> ModelResponse[Any] | CallFailure:
        """Make one attempt and record it; return the response, or its failure."""
        context = self._get_context(request.runtime.context)
        offered = self._offered_by(model)
        exchange = Exchange(secret=model.secret)
        reservation = _BudgetReservation(model)
        exchange.allow = reservation.reserve
        CURRENT_EXCHANGE.set(exchange)
        try:
            try:
                async with asyncio.timeout(min(model.preset.timeout_s, max(0.0, deadline - _clock()))):
                    response = await handler(request)
            except (Exception, asyncio.CancelledError) as error:
                _reraise_own_errors(error)
                result: ModelResponse[Any] | CallFailure = _classify_failure(
                    exchange, error, offered, model.preset.key_env
                )
                if isinstance(error, asyncio.CancelledError):
                    reservation.cost = await self._record(context, model, seq_and_attempt, exchange, "cancelled")
                    raise
            else:
                result = _evaluate_response(exchange, response, offered, self._answer_schema)
            outcome = result.outcome if isinstance(result, CallFailure) else ANSWERED
            reservation.cost = await self._record(context, model, seq_and_attempt, exchange, outcome)
            return result
        finally:
            reservation.release()

    def _offered_by(self, model: Model) -> frozenset[str]:
        """Return the tools a model may call, including the answer's schema if the preset requests it as a tool."""
        if model.preset.structured_output == "tool":
            return self._offered | {self._answer_schema.__name__}
        return self._offered

    async def _record(
        self, context: AnalysisContext, model: Model, seq_and_attempt: tuple[int, int], exchange: Exchange, outcome: str
    ) -> Decimal:
        """Record an attempt and return its cost."""
        if not exchange.request:
            return ZERO
        recorded, usage = exchange.recorded, parse_usage(exchange.answer)
        if exchange.status == 200:
            tokens = count_tokens(usage, exchange.request, exchange.answer)
        elif outcome in _INCOMPLETE:
            # The server may have completed the answer, so the maximum is charged.
            tokens = (*count_tokens(Usage(), exchange.request, "")[:1], model.preset.max_output_tokens)
        else:
            # A refusal by status costs no tokens.
            tokens = (0, 0)
        call = ModelCall(
            node=self.node,
            seq=seq_and_attempt[0],
            attempt=seq_and_attempt[1],
            model=model.preset.model,
            outcome=outcome,
            request=request_key(exchange.request),
            response=request_key(recorded) if recorded else "",
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cost=model.cost(*tokens),
            latency_ms=exchange.latency_ms,
            answered_by=usage.answered_by,
            system_fingerprint=usage.system_fingerprint,
        )
        await asyncio.to_thread(context.record_call, model, call, exchange.request, recorded)
        return call.cost


RequestRenderer = Callable[[ModelRequest[AnalysisContext], Model], ModelRequest[AnalysisContext]]
"""Adapt a request to one model: with images, or with the same data as text."""


class _BudgetReservation:
    """Reservation of the maximum cost of one call in all budgets, replaced by the actual cost on release."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._undo: list[Callable[[Decimal], None]] = []
        self.cost = ZERO

    def reserve(self, request: str) -> None:
        max_cost = self._model.max_cost(request)
        for budget in self._model.budgets:
            budget.reserve(max_cost)
            self._undo.append(partial(budget.commit, max_cost))

    def release(self) -> None:
        for undo in self._undo:
            undo(self.cost)


# --- Evaluation of responses --------------------------------------------------------------------------------------


def _evaluate_response(
    exchange: Exchange, response: ModelResponse[Any], offered: frozenset[str], answer_schema: type[AnswerSchema]
) -> ModelResponse[Any] | CallFailure:
    """Return the response if it calls offered tools or fits the answer's schema, else the failure."""
    try:
        answer = parse_answer(exchange.answer, offered)
        if response.structured_response is not None:
            _read_strictly(answer, answer_schema)
            return response
        if answer.tool_calls:
            return response
        # Servers without schemas or forced tools return the JSON as text.
        parsed = answer_schema.model_validate(strict_json(_object_in(answer.content)))
        return ModelResponse(result=response.result, structured_response=parsed)
    except UnusableAnswer as unusable:
        return CallFailure(unusable.outcome, str(unusable))
    except ValueError as error:
        return CallFailure("invalid", _validation_summary(error))


def _read_strictly(answer: ParsedAnswer, answer_schema: type[AnswerSchema]) -> None:
    """Validate an answer strictly: the library's parser accepts duplicate keys, among other faults."""
    texts = [arguments for name, arguments in answer.tool_calls if name == answer_schema.__name__] or [answer.content]
    answer_schema.model_validate(strict_json(texts[0]))


def _object_in(content: str) -> str:
    """Return the JSON object in a text, with or without a code fence. Raise `UnusableAnswer` if there is none."""
    begin, end = content.find("{"), content.rfind("}")
    if begin < 0 or end < begin:
        raise UnusableAnswer("invalid", "there is no JSON object in it")
    return content[begin : end + 1]


def _classify_failure(exchange: Exchange, error: BaseException, offered: frozenset[str], key_env: str) -> CallFailure:
    """Return the failure of an attempt by HTTP status and body: the client's error classes change between versions."""
    status = exchange.status
    if isinstance(_first_cause(error, AnswerTooLarge), AnswerTooLarge):
        return CallFailure("too_large", "its answer was too large to be read")
    if status == 0:
        if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
            return CallFailure("timeout", "no answer came in time")
        return CallFailure("connection", "the connection failed, or was closed before an answer came")
    if status == 429:
        return CallFailure("rate_limited", "the server asked for patience (429)", wait_s=_retry_after(exchange))
    if status >= 500 or status in (408, 409):
        return CallFailure("server_error", f"the server failed ({status})", wait_s=_retry_after(exchange))
    if status != 200:
        remedy = f": see the key in {key_env}" if status in (401, 403) else ""
        return CallFailure("rejected", f"the server rejected the request ({status}){remedy}", retryable=False)
    if isinstance(error, TimeoutError):
        return CallFailure("timeout", "no answer came in time")
    try:
        parse_answer(exchange.answer, offered)
    except UnusableAnswer as unusable:
        return CallFailure(unusable.outcome, str(unusable))
    return CallFailure("invalid", _validation_summary(error))


def _reraise_own_errors(error: BaseException) -> None:
    """Raise an error of this project that the client wrapped, such as a spent budget or a missing recording."""
    own_error = _first_cause(error, QuantagentError)
    if own_error is not None and not isinstance(own_error, AnswerTooLarge):
        raise own_error


def _first_cause(error: BaseException | None, kind: type[QuantagentError]) -> QuantagentError | None:
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _validation_summary(error: BaseException) -> str:
    """Return the first error of a validator, shortened and without text of the model."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ValidationError):
        cause = getattr(cause, "source", None) or cause.__cause__
    if cause is None:
        return "it is not in the form that was asked for"
    first = cause.errors(include_url=False, include_input=False)[0]
    # The name of an unexpected field comes from the model.
    where = printable(".".join(str(part) for part in first["loc"]), 40)
    return f"{where}: {first['msg']}"[:200].removeprefix(": ")


# --- Retries ------------------------------------------------------------------------------------------------------


def _with_correction(
    request: ModelRequest[AnalysisContext], failure: CallFailure, n: int
) -> ModelRequest[AnalysisContext]:
    """Return the request with a message about the fault of the last answer; unchanged, it would get the same one."""
    if n == 1 or failure.outcome not in _CORRECTABLE:
        return request
    correction = (
        f"Your last answer could not be used: {failure.reason}. Answer again, in exactly the form that was asked for."
    )
    messages: list[AnyMessage] = [*request.messages, HumanMessage(correction)]
    return request.override(messages=messages)


async def _wait_for_rate_limit(model: Model) -> float:
    """Wait for the model's rate limiter; return the seconds waited."""
    began = _clock()
    if model.pace is not None:
        await model.pace.aacquire()
    return _clock() - began


def _pause(failure: CallFailure, n: int) -> float:
    """Return the pause in seconds before a retry: exponential backoff, at least the server's delay."""
    backoff = 0.0 if failure.outcome in _CORRECTABLE else FIRST_PAUSE_S * 2 ** (n - 1)
    return max(backoff, failure.wait_s or 0.0)


def _retry_after(exchange: Exchange) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date; None if it is invalid."""
    header = exchange.headers.get("retry-after", "")
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
        now = parsedate_to_datetime(exchange.headers["date"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return max(0.0, _seconds(at, now))


def _seconds(later: datetime, earlier: datetime) -> float:
    try:
        return (later - earlier).total_seconds()
    except TypeError:
        return 0.0


def _clock() -> float:
    return asyncio.get_running_loop().time()
