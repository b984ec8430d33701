"""Asks a model one question: within its time and budget, noted whatever comes of it, and again where that may help.

This is the only layer that tries again: the client, the agents and the graph do not. A question that fails with one
model goes to the next; when none is left `ModelFailed` ends the analysis, which then is a failed one and a HOLD.
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

from analysis.graph.answer_schemas import Reading
from analysis.graph.context import Attempt, BudgetSpent, Model, Within, given, tokens_of
from analysis.graph.recorded_transport import CURRENT, AnswerTooLarge, Exchange, key_of
from analysis.graph.response_parsing import Answer, Unusable, Usage, read_answer, shown, strict_json, usage_of
from engine.core.errors import QuantagentError
from engine.core.events import ModelCall
from engine.core.money import ZERO

QUESTIONS_MAX = 6
FIRST_PAUSE_S = 0.5
ANSWERED = "answered"
_UNHEARD = frozenset(("timeout", "cancelled", "too_large"))
_CORRECTABLE = frozenset(("invalid", "unknown_tool", "truncated"))

Handler = Callable[[ModelRequest[Attempt]], Awaitable[ModelResponse[Any]]]


class ModelFailed(QuantagentError):
    """An agent got no answer that it can use. `node` names it, `outcome` the kind of the last fault."""

    def __init__(self, node: str, outcome: str, what: str, attempts: int) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"the {node} agent got no usable answer, asked {times}: {what}")
        self.node, self.outcome = node, outcome


class Fault(NamedTuple):
    """Why a question has no usable answer. again: whether asking again may help; wait_s: what the server asked for."""

    outcome: str
    what: str
    again: bool = True
    wait_s: float | None = None


class Asking(AgentMiddleware[Any, Attempt, Any]):
    """The middleware around every model call of an agent. `offered`: the tools it may call."""

    def __init__(
        self, node: str, reading: type[Reading], offered: Sequence[str], show: Show, within: Within = given
    ) -> None:
        super().__init__()
        self._within = within
        self.node, self._reading = node, reading
        self._offered = frozenset(offered)
        self._show = show

    async def awrap_model_call(self, request: ModelRequest[Attempt], handler: Handler) -> ModelResponse[Any]:
        attempt = self._within(request.runtime.context)
        seq = 1 + sum(isinstance(message, AIMessage) for message in request.messages)
        if seq > QUESTIONS_MAX:
            raise ModelFailed(self.node, "endless", f"it came to no end in {QUESTIONS_MAX} questions", seq - 1)
        asked, fault = 0, Fault("invalid", "there is no model to ask", again=False)
        for model in attempt.models:
            shown = self._show(request, model)
            ends = _clock() + model.preset.patience_s
            for n in range(1, model.preset.retries + 2):
                asked += 1
                # To wait for one's turn takes nothing from the patience with a model.
                ends += await _turn(model)
                try:
                    answer = await self._ask(_corrected(shown, fault, n), handler, model, (seq, asked), ends)
                except BudgetSpent:
                    if model is attempt.models[-1]:
                        raise
                    break
                if not isinstance(answer, Fault):
                    return answer
                fault = answer
                wait = _pause(fault, n)
                if not fault.again or _clock() + wait >= ends:
                    break
                if n <= model.preset.retries:
                    await attempt.pause(wait)
        raise ModelFailed(self.node, fault.outcome, fault.what, asked)

    async def _ask(
        self, request: ModelRequest[Attempt], handler: Handler, model: Model, place: tuple[int, int], ends: float
    ) -> ModelResponse[Any] | Fault:
        """One attempt: the answer, or what was wrong with it. Both are noted."""
        attempt = self._within(request.runtime.context)
        offered = self._offered_by(model)
        exchange = Exchange(secret=model.secret)
        held = _Held(model)
        exchange.allow = held.hold
        CURRENT.set(exchange)
        try:
            try:
                async with asyncio.timeout(min(model.preset.timeout_s, max(0.0, ends - _clock()))):
                    response = await handler(request)
            except (Exception, asyncio.CancelledError) as error:
                _reraise_what_is_ours(error)
                result: ModelResponse[Any] | Fault = _fault(exchange, error, offered, model.preset.key_env)
                if isinstance(error, asyncio.CancelledError):
                    held.cost = await self._note(attempt, model, place, exchange, "cancelled")
                    raise
            else:
                result = _judged(exchange, response, offered, self._reading)
            outcome = result.outcome if isinstance(result, Fault) else ANSWERED
            held.cost = await self._note(attempt, model, place, exchange, outcome)
            return result
        finally:
            held.release()

    def _offered_by(self, model: Model) -> frozenset[str]:
        """The tools that a model may call; the answer is one of them only where it is asked for as one."""
        if model.preset.structured_output == "tool":
            return self._offered | {self._reading.__name__}
        return self._offered

    async def _note(
        self, attempt: Attempt, model: Model, place: tuple[int, int], exchange: Exchange, outcome: str
    ) -> Decimal:
        """Records the question; returns what it cost."""
        if not exchange.request:
            return ZERO
        recorded, usage = exchange.recorded, usage_of(exchange.answer)
        if exchange.status == 200:
            tokens = tokens_of(usage, exchange.request, exchange.answer)
        elif outcome in _UNHEARD:
            # Nobody heard the end of it, and the server may have worked on it to the end.
            tokens = (*tokens_of(Usage(), exchange.request, "")[:1], model.preset.max_output_tokens)
        else:
            # A refusal by status costs no tokens.
            tokens = (0, 0)
        call = ModelCall(
            node=self.node,
            seq=place[0],
            attempt=place[1],
            model=model.preset.model,
            outcome=outcome,
            request=key_of(exchange.request),
            response=key_of(recorded) if recorded else "",
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cost=model.cost(*tokens),
            latency_ms=exchange.latency_ms,
            answered_by=usage.answered_by,
            system_fingerprint=usage.system_fingerprint,
        )
        await asyncio.to_thread(attempt.note, model, call, exchange.request, recorded)
        return call.cost


Show = Callable[[ModelRequest[Attempt], Model], ModelRequest[Attempt]]
"""The question as one model is asked it: with pictures, or with the same facts as text."""


class _Held:
    """What is set aside in every budget while one question is under way, and what it cost in the end."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._undo: list[Callable[[Decimal], None]] = []
        self.cost = ZERO

    def hold(self, request: str) -> None:
        most = self._model.cost_at_most(request)
        for budget in self._model.budgets:
            budget.hold(most)
            self._undo.append(partial(budget.settle, most))

    def release(self) -> None:
        for undo in self._undo:
            undo(self.cost)


# --- Judging what came --------------------------------------------------------------------------------------------


def _judged(
    exchange: Exchange, response: ModelResponse[Any], offered: frozenset[str], reading: type[Reading]
) -> ModelResponse[Any] | Fault:
    """The response if it is one tool call after another, or an answer of the right shape."""
    try:
        answer = read_answer(exchange.answer, offered)
        if response.structured_response is not None:
            _read_strictly(answer, reading)
            return response
        if answer.tool_calls:
            return response
        # Servers that know neither schemas nor forced tools write their answer down.
        said = reading.model_validate(strict_json(_object_in(answer.content)))
        return ModelResponse(result=response.result, structured_response=said)
    except Unusable as unusable:
        return Fault(unusable.outcome, str(unusable))
    except ValueError as error:
        return Fault("invalid", _first_line(error))


def _read_strictly(answer: Answer, reading: type[Reading]) -> None:
    """The library's reader takes the last of two equal keys, among other things."""
    texts = [arguments for name, arguments in answer.tool_calls if name == reading.__name__] or [answer.content]
    reading.model_validate(strict_json(texts[0]))


def _object_in(content: str) -> str:
    """The JSON object in a text, with or without a fence around it."""
    begin, end = content.find("{"), content.rfind("}")
    if begin < 0 or end < begin:
        raise Unusable("invalid", "there is no JSON object in it")
    return content[begin : end + 1]


def _fault(exchange: Exchange, error: BaseException, offered: frozenset[str], key_env: str) -> Fault:
    """What went wrong, by what went over the wire: classes of errors change, status codes do not."""
    status = exchange.status
    if isinstance(_first_cause(error, AnswerTooLarge), AnswerTooLarge):
        return Fault("too_large", "its answer was too large to be read")
    if status == 0:
        if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
            return Fault("timeout", "no answer came in time")
        return Fault("connection", "the connection failed, or was closed before an answer came")
    if status == 429:
        return Fault("rate_limited", "the server asked for patience (429)", wait_s=_retry_after(exchange))
    if status >= 500 or status in (408, 409):
        return Fault("server_error", f"the server failed ({status})", wait_s=_retry_after(exchange))
    if status != 200:
        remedy = f": see the key in {key_env}" if status in (401, 403) else ""
        return Fault("rejected", f"the server rejected the request ({status}){remedy}", again=False)
    if isinstance(error, TimeoutError):
        return Fault("timeout", "no answer came in time")
    try:
        read_answer(exchange.answer, offered)
    except Unusable as unusable:
        return Fault(unusable.outcome, str(unusable))
    return Fault("invalid", _first_line(error))


def _reraise_what_is_ours(error: BaseException) -> None:
    """A spent budget or a missing recording is no fault of the model, however deep a client has wrapped it."""
    ours = _first_cause(error, QuantagentError)
    if ours is not None and not isinstance(ours, AnswerTooLarge):
        raise ours


def _first_cause(error: BaseException | None, kind: type[QuantagentError]) -> QuantagentError | None:
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    """What a validator found first, short, and without what the model wrote."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, ValidationError):
        found = getattr(found, "source", None) or found.__cause__
    if found is None:
        return "it is not in the form that was asked for"
    first = found.errors(include_url=False, include_input=False)[0]
    # A field that was not asked for is named by the model.
    where = shown(".".join(str(part) for part in first["loc"]), 40)
    return f"{where}: {first['msg']}"[:200].removeprefix(": ")


# --- Asking again -------------------------------------------------------------------------------------------------


def _corrected(request: ModelRequest[Attempt], fault: Fault, n: int) -> ModelRequest[Attempt]:
    """The same question, told what was wrong with the answer: the same words would get the same answer."""
    if n == 1 or fault.outcome not in _CORRECTABLE:
        return request
    told = f"Your last answer could not be used: {fault.what}. Answer again, in exactly the form that was asked for."
    messages: list[AnyMessage] = [*request.messages, HumanMessage(told)]
    return request.override(messages=messages)


async def _turn(model: Model) -> float:
    """Waits until the model may be asked; seconds."""
    began = _clock()
    if model.pace is not None:
        await model.pace.aacquire()
    return _clock() - began


def _pause(fault: Fault, n: int) -> float:
    """Twice as long each time, or as long as the server asks for."""
    own = 0.0 if fault.outcome in _CORRECTABLE else FIRST_PAUSE_S * 2 ** (n - 1)
    return max(own, fault.wait_s or 0.0)


def _retry_after(exchange: Exchange) -> float | None:
    """Seconds, or a date; None for what is neither."""
    said = exchange.headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(said)
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
