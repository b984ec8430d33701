"""Everything that can go wrong with a model: each fault once and for ever, through the real client over real HTTP.

What passes costs another question; what stays is an `AnalysisFailed` and a HOLD, never an order and never a dead run.
"""

from __future__ import annotations

import asyncio
import json
import resource
import zlib
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import msgspec
import pytest

from analysis.analyst import ensure_analyses
from analysis.charting.snapshot import snapshot_of
from analysis.graph import agents as graph_agents
from analysis.graph import clients as graph_models
from analysis.graph import model_middleware
from analysis.graph.agents import TrendAgent, compile_agent
from analysis.graph.clients import open_models
from analysis.graph.context import AnalysisContext, BudgetSpent
from analysis.graph.model_middleware import MODEL_CALLS_MAX, CallFailure, ModelFailed
from analysis.graph.recorded_transport import LiveTransport
from analysis.llm.call_log import MemoryCallLog, RecordedCall
from analysis.llm.presets import ModelPreset
from analysis.variants import RULES, VariantChain
from engine import clock
from engine.core.errors import StoreUnavailable
from engine.core.events import AnalysisFailed, ModelCall
from tests.support import model_faults
from tests.support.agents_world import BARS, FRAME, SYMBOL, AgentsWorld, preset, work_of
from tests.support.databases import free_port
from tests.support.model_answers import Response, ServedRequest
from tests.support.model_faults import DEFECTS
from tests.support.model_server import ModelServer
from tests.support.schema_values import Json

KEY = "sk-0123456789abcdefghij"

OUTCOMES = {
    "rate_limited": "429 429_bare 429_date 429_absurd 429_negative 429_garbage 429_quota",
    "server_error": "500 502 503 504",
    "rejected": "400 400_schema 401 403 404 redirect redirect_307",
    "timeout": "slow hang trickle",
    "connection": "dropped cut_head cut_body reset",
    "refused": "refusal content_filter",
    "truncated": "length",
    "too_large": "huge",
    "unknown_tool": "unknown_tool",
    "invalid": (
        "empty html truncated array null nested_body gzip_bomb choices_empty choices_missing choices_null message_null "
        "error_inside content_null content_empty cut_content prose fenced twice duplicate_keys nested raw_surrogate "
        "surrogate wrong_enum out_of_range nan infinity missing_field extra_field tool_arguments_prose "
        "tool_arguments_list tool_arguments_nested tool_nameless tool_ids_equal tool_id_missing tool_flood"
    ),
    "endless": "tool_arguments_prices tools_for_ever",
    "harmless": "content_type gzip_garbage wrong_model usage_missing usage_negative usage_absurd usage_words",
}
OUTCOME_OF = {name: outcome for outcome, names in OUTCOMES.items() for name in names.split()}
FINAL = {name for name in DEFECTS if OUTCOME_OF[name] == "rejected"} | {"429_absurd"}
"""Asking again does not help, or would have to wait too long."""

CASES = [
    (form, name)
    for form in ("json_schema", "tool", "prompt")
    for name, fault in DEFECTS.items()
    if form == "json_schema" or fault.turn == "answer"
]


def outcome_of(form: str, name: str) -> str:
    # Who is held to a form by words alone may put a fence around it.
    return "harmless" if (form, name) == ("prompt", "fenced") else OUTCOME_OF[name]


@pytest.fixture(scope="module")
def models() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(autouse=True)
def afresh(models: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, the server knows nothing of other tests, and the key is known by its name."""
    monkeypatch.setattr(model_middleware, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    models.reset()


def quick(models: ModelServer, **fields: Any) -> ModelPreset:
    """A preset without eyes, whose patience ends where a server asks for more than seconds."""
    return preset(models, **{"vision": False, "timeout_s": 60, "patience_s": 120, **fields})


def after(models: ModelServer, *faults: model_faults.Defect, lasting: bool | None = None, **fields: Any) -> AgentsWorld:
    """A world in which an analysis was made while these things went wrong."""
    models.script(faults, lasting=lasting)
    world = AgentsWorld(models)
    world.analyse(world.agents(quick(models, **fields)))
    return world


def hurry(monkeypatch: pytest.MonkeyPatch, question: int) -> None:
    """Limit only one question to a second, the one that meets a fault; a busy machine has time for the others."""
    timeout, limits = asyncio.timeout, chain(repeat(60.0, question - 1), [1.0], repeat(60.0))

    def limited(_: float) -> asyncio.Timeout:
        return timeout(next(limits))

    monkeypatch.setattr(asyncio, "timeout", limited)


def bad(calls: tuple[ModelCall, ...]) -> list[str]:
    return [call.outcome for call in calls if call.outcome != "answered"]


def check_said_well(failed: AnalysisFailed, world: AgentsWorld) -> None:
    """A reason is one short line of ours: no stack, no key, and not much of what the server said."""
    reason = failed.reason
    assert reason.isprintable()
    assert len(reason) < 300
    assert "Traceback" not in reason
    stored = [reason, msgspec.json.encode(failed).decode()]
    for call in work_of(failed).calls:
        stored += [body := world.calls.body(call.response) if call.response else ""]
        said = json.loads(body)["body"] if body else ""
        assert not any(reason[at : at + 101] in said for at in range(len(reason) - 100))
    assert not any(KEY in text for text in stored)


# --- Each fault ---------------------------------------------------------------------------------------------------


def test_every_fault_is_looked_at() -> None:
    assert OUTCOME_OF.keys() == DEFECTS.keys()
    assert len(DEFECTS) >= 70


@pytest.mark.parametrize(("form", "name"), [case for case in CASES if case[0] != "prompt" and case[1] not in FINAL])
def test_a_fault_that_passes_costs_a_question_and_the_analysis_is_made(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch, form: str, name: str
) -> None:
    outcome = outcome_of(form, name)
    if outcome == "timeout":
        hurry(monkeypatch, 1)
    world = after(models, DEFECTS[name], lasting=False, structured_output=form)
    calls = work_of(world.only_analysis()).calls
    assert bad(calls) == ([] if outcome in ("harmless", "endless") else [outcome])
    assert len(models.requests) == len(calls) == 5 + len(bad(calls))
    again = [call for call in calls if call.attempt == 2]
    assert [call.outcome for call in again] == ["answered"] * len(bad(calls))


@pytest.mark.parametrize(("form", "name"), CASES)
def test_a_fault_that_stays_is_a_failed_analysis_and_a_hold(models: ModelServer, form: str, name: str) -> None:
    models.script([DEFECTS[name]], lasting=True)
    world, slow = AgentsWorld(models), OUTCOME_OF[name] == "timeout"
    limits = {"retries": 0, "timeout_s": 1} if slow else {"retries": 1}
    agents = world.agents(quick(models, structured_output=form, **limits))
    formed = world.analyse(agents)
    outcome = outcome_of(form, name)
    if outcome == "harmless":
        assert bad(work_of(world.only_analysis()).calls) == []
        return
    failed, wish = world.only_failure(), formed.intent(BARS[-1])
    assert (wish.direction, wish.confidence, wish.analysis_id) == ("HOLD", 0, failed.analysis_id)
    assert (formed.failed, formed.made) == (1, 1)
    assert "failed and count as HOLD" in formed.notices[-1]
    check_said_well(failed, world)
    calls = work_of(failed).calls
    assert set(bad(calls)) == ({outcome} if outcome != "endless" else set())
    tries = 1 if slow or name in FINAL else 2
    assert len(bad(calls)) == (tries if outcome != "endless" else 0)
    assert len(models.requests) == len(calls) <= MODEL_CALLS_MAX


def test_what_a_server_is_not_there_for_is_a_connection_that_failed(models: ModelServer) -> None:
    world = AgentsWorld(models)
    world.analyse(world.agents(quick(models, base_url=f"http://127.0.0.1:{free_port()}/v1")))
    assert bad(work_of(world.only_failure()).calls) == ["connection", "connection"]
    assert models.connections == 0


def test_a_model_that_calls_its_answer_a_tool_without_being_offered_it_is_asked_again(models: ModelServer) -> None:
    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        called = {"id": "1", "type": "function", "function": {"name": "IndicatorReading", "arguments": "{}"}}
        completion["choices"][0]["message"] |= {"content": None, "tool_calls": [called]}
        return completion

    world = after(models, model_faults.Defect("answer as a tool", spoil))
    assert bad(work_of(world.only_analysis()).calls) == ["unknown_tool"]


@pytest.mark.parametrize("role", ["user", "system", "tool", "nonsense", None])
def test_what_is_not_said_by_an_assistant_is_no_answer(models: ModelServer, role: str | None) -> None:
    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        completion["choices"][0]["message"]["role"] = role
        return completion

    world = after(models, model_faults.Defect("role", spoil))
    assert bad(work_of(world.only_analysis()).calls) == ["invalid"]


def test_a_second_question_says_what_was_wrong_with_the_first_answer(models: ModelServer) -> None:
    after(models, DEFECTS["wrong_enum"])
    first, second = (each for each in models.requests if each.agent == "indicator" and len(each.body["messages"]) > 2)
    assert second.body["messages"][:-1] == first.body["messages"]
    said = second.body["messages"][-1]
    assert said["role"] == "user"
    assert "trend_direction: Input should be 'up', 'down' or 'sideways'" in said["content"]


# --- Others to ask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["429_quota", "429_absurd", "500", "401", "hang", "dropped", "html", "refusal", "length", "huge", "unknown_tool"],
)
def test_a_fallback_answers_where_the_first_model_does_not(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "hang":
        hurry(monkeypatch, 5)
    models.script(
        [DEFECTS[name]], lasting=True, agent="decision", when=lambda exchange: exchange.body["model"] == "stub"
    )
    world = AgentsWorld(models)
    world.analyse(world.agents(quick(models, retries=0), quick(models, model="second")))
    work = work_of(world.only_analysis())
    *before, failed, answered = work.calls
    assert {(call.model, call.outcome) for call in before} == {("stub", "answered")}
    assert (failed.model, failed.outcome, failed.attempt) == ("stub", OUTCOME_OF[name], 1)
    assert (answered.model, answered.outcome, answered.attempt) == ("second", "answered", 2)
    assert work.model_name == "stub"
    assert [asked.preset for asked in world.calls.calls_for(world.only_analysis().analysis_id, 1)][-2:] == [
        "stub",
        "stub-1",
    ]


def test_rules_answer_for_agents_that_failed_and_a_run_names_whose_opinion_it_took(models: ModelServer) -> None:
    # The indicator agent fails on one window of two.
    last = f"{BARS[-1].close:f}"
    models.script([DEFECTS["401"]], when=lambda exchange: exchange.body["messages"][-1]["content"].count(last) > 0)
    world = AgentsWorld(models)
    agents = world.agents(quick(models))
    formed = world.analyse(VariantChain((agents, RULES)), last=2)
    assert formed.failed == 0
    by_agents, by_rules = (formed.intent(bar).analysis_id for bar in BARS[-2:])
    assert f".{agents.name}." in by_agents
    assert f".{RULES.name}." in by_rules
    assert sorted(fact.variant for fact in world.outcomes()) == sorted([agents.name, agents.name, RULES.name])


def test_a_stored_failure_is_asked_again_only_where_that_is_wanted(models: ModelServer) -> None:
    world = after(models, DEFECTS["401"])
    agents = world.agents(quick(models))
    models.reset()
    assert world.analyse(agents).intent(BARS[-1]).direction == "HOLD"
    assert models.requests == []
    read_at = clock.now()
    formed = world.analyse(agents, retry=True)
    failed, opinion = world.outcomes()
    wish = formed.intent(BARS[-1])
    assert (wish.analysis_id, wish.analysis_version) == (failed.analysis_id, 2)
    assert [row.version for row in world.rows()] == [1, 2]
    assert len(models.requests) == 5
    assert work_of(opinion).thread_id != work_of(failed).thread_id
    # A run that has read the failure goes on with it.
    start = BARS[-1].opened_at
    held = ensure_analyses(
        world.store, world.catalogue, [SYMBOL], FRAME, start, None, actor="tester", variant=agents,
        retry=True, read_time=lambda at: read_at,
    ).intent(BARS[-1])  # fmt: skip
    assert (held.direction, held.analysis_version) == ("HOLD", 1)
    assert world.analyse(agents).intent(BARS[-1]) == wish


# --- Time ---------------------------------------------------------------------------------------------------------


def retry_after(value: str, **headers: str) -> model_faults.Defect:
    def respond(_: Response) -> Response:
        return Response(429, {"retry-after": value, **headers}, (b"{}",))

    return model_faults.Defect("retry-after", respond=respond)


@pytest.mark.parametrize(
    ("said", "headers", "waited"),
    [
        ("0.05", {}, 0.05),
        ("Mon, 05 Jan 2026 10:00:01 GMT", {"date": "Mon, 05 Jan 2026 10:00:00 GMT"}, 1),
        ("Mon, 05 Jan 2026 09:00:00 GMT", {"date": "Mon, 05 Jan 2026 10:00:00 GMT"}, 0.01),
        ("Mon, 05 Jan 2026 10:00:01 GMT", {"date": "now"}, 0.01),
        ("Mon, 05 Jan 99999999999999999999 10:00:01 GMT", {"date": "Mon, 05 Jan 2026 10:00:00 GMT"}, 0.01),
        ("soon", {}, 0.01),
        ("", {}, 0.01),
        ("-5", {}, 0.01),
        ("nan", {}, 0.01),
        ("1e18", {}, None),
        ("inf", {}, None),
        ("9" * 5_000, {}, None),
        ("121", {}, None),
    ],
)
def test_a_server_is_given_the_time_it_asks_for_within_ones_patience(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch, said: str, headers: dict[str, str], waited: float | None
) -> None:
    asked_for: list[float] = []
    pause = model_middleware._pause  # pyright: ignore[reportPrivateUsage]

    def noted(fault: CallFailure, n: int) -> float:
        asked_for.append(pause(fault, n))
        return asked_for[-1] if asked_for[-1] > 120 else 0

    monkeypatch.setattr(model_middleware, "_pause", noted)
    world = after(models, retry_after(said, **headers))
    if waited is None:
        assert bad(work_of(world.only_failure()).calls) == ["rate_limited"]
    else:
        assert asked_for == [waited]
        assert bad(work_of(world.only_analysis()).calls) == ["rate_limited"]


def trend(preset: ModelPreset, calls: MemoryCallLog, **given: Any) -> dict[str, Any]:
    """The trend agent alone, with what else an attempt is given."""

    async def run() -> dict[str, Any]:
        async with open_models([("stub", preset)], LiveTransport) as reach:
            attempt = AnalysisContext("id", 1, "stub@1", reach, calls, None, clock.now, **given)
            graph: Any = compile_agent(TrendAgent)
            return await graph.ainvoke({"snapshot": snapshot_of(BARS[-250:], FRAME)}, context=attempt)

    return asyncio.run(run())


class Limits:
    """A clock that moves by the whole of each limit that a question is given, and those limits; none is enforced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.given = 0.0, list[float]()
        self._timeout = asyncio.timeout
        monkeypatch.setattr(model_middleware, "_clock", lambda: self.now)
        monkeypatch.setattr(asyncio, "timeout", self._limit)

    def _limit(self, seconds: float) -> asyncio.Timeout:
        self.given.append(seconds)
        self.now += seconds
        return self._timeout(None)


def test_the_pauses_between_tries_grow(models: ModelServer) -> None:
    calls, pauses = MemoryCallLog(), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    models.script([DEFECTS["500"]], lasting=True)
    with pytest.raises(ModelFailed, match="asked 4 times"):
        trend(quick(models, retries=3), calls, pause=pause)
    assert pauses == [0.01, 0.02, 0.04]
    assert [asked.call.attempt for asked in calls.calls_for("id", 1)] == [1, 2, 3, 4]


def test_all_tries_together_take_no_longer_than_ones_patience(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_middleware, "FIRST_PAUSE_S", 0.0)
    limits = Limits(monkeypatch)
    models.script([DEFECTS["500"]], lasting=True)
    with pytest.raises(ModelFailed, match="asked 3 times"):
        trend(quick(models, timeout_s=2, patience_s=5, retries=5), MemoryCallLog())
    assert limits.given == [2, 2, 1]
    assert len(models.requests) == 3


def test_a_model_that_hangs_is_left_when_ones_patience_is_over(models: ModelServer) -> None:
    world = after(models, DEFECTS["hang"], timeout_s=1, patience_s=2, retries=5)
    assert set(bad(work_of(world.only_failure()).calls)) == {"timeout"}
    assert len(models.requests) <= 3


def test_waiting_for_ones_turn_takes_nothing_from_the_patience_with_a_model(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(monkeypatch)

    class Pace:
        def __init__(self, preset: ModelPreset) -> None: ...

        async def aacquire(self) -> bool:
            limits.now += 10
            return True

    monkeypatch.setattr(graph_models, "_pace", Pace)
    assert "trend" in trend(quick(models, timeout_s=60, patience_s=1), MemoryCallLog())
    assert limits.given == [1]
    assert limits.now == 11


# --- What comes over the wire -------------------------------------------------------------------------------------


def bomb() -> bytes:
    """256 MB of spaces in a quarter of one; nobody has had them all in memory."""
    squeeze, spaces = zlib.compressobj(wbits=31), b" " * 2**20
    first, again = (squeeze.compress(spaces) + squeeze.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 255


def test_a_bomb_is_not_unpacked(models: ModelServer) -> None:
    body = bomb()
    bombed = model_faults.Defect("bomb", respond=lambda _: Response(200, {"content-encoding": "gzip"}, (body,)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    world = after(models, bombed, lasting=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128_000
    assert set(bad(work_of(world.only_failure()).calls)) == {"invalid"}


def test_an_answer_without_end_is_not_kept(models: ModelServer) -> None:
    world = after(models, DEFECTS["huge"], lasting=True)
    spoiled = [call for call in work_of(world.only_failure()).calls if call.outcome != "answered"]
    assert [(call.outcome, call.response) for call in spoiled] == [("too_large", "")] * 2


@pytest.mark.parametrize("name", ["redirect", "redirect_307"])
def test_redirects_are_not_followed(models: ModelServer, name: str) -> None:
    after(models, DEFECTS[name])
    assert [exchange.path for exchange in models.requests] == ["/v1/chat/completions"]


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense"])
def test_proxies_of_the_environment_are_not_used(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, proxy: str
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "OPENAI_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    world = after(models)
    assert len(work_of(world.only_analysis()).calls) == len(models.requests) == 5
    assert caplog.records == []


def _echo(completion: Json, exchange: ServedRequest) -> Json:
    answer = json.loads(completion["choices"][0]["message"]["content"] or "{}")
    if "reason" in answer:
        completion["choices"][0]["message"]["content"] = json.dumps({**answer, "reason": f"my key is {KEY}"})
    return {**completion, "model": KEY, "system_fingerprint": f"fp {KEY}"}


def _refuse(completion: Json, exchange: ServedRequest) -> Json:
    completion["choices"][0]["message"]["refusal"] = f"no, {exchange.headers['authorization']}"
    return completion


def _call(completion: Json, exchange: ServedRequest) -> Json:
    called = {"id": KEY, "type": "function", "function": {"name": KEY, "arguments": json.dumps({KEY: KEY})}}
    completion["choices"][0]["message"] |= {"content": None, "tool_calls": [called]}
    return completion


def _field(completion: Json, exchange: ServedRequest) -> Json:
    completion["choices"][0]["message"] |= {"content": json.dumps({KEY: KEY}), "tool_calls": None}
    return completion


@pytest.mark.parametrize("spoil", [_echo, _refuse, _call, _field])
def test_a_key_that_a_server_sends_back_is_kept_nowhere(models: ModelServer, spoil: model_faults.Spoil) -> None:
    world = after(models, model_faults.Defect("echo", spoil), lasting=True)
    assert {exchange.headers["authorization"] for exchange in models.requests} == {f"Bearer {KEY}"}
    (fact,) = world.outcomes()
    texts = [msgspec.json.encode(fact).decode()]
    for call in work_of(fact).calls:
        texts += [world.calls.body(call.request), world.calls.body(call.response)]
    assert not any(KEY in text for text in texts)
    assert "***" in "".join(texts)
    # Nor does the model that is asked again read it.
    assert not any(KEY in json.dumps(exchange.body) for exchange in models.requests)


@pytest.mark.parametrize("fault", [error for error in DEFECTS.values() if OUTCOME_OF[error.name] == "rejected"])
def test_what_a_server_says_to_a_rejected_question_is_kept_and_not_repeated(
    models: ModelServer, fault: model_faults.Defect
) -> None:
    world = after(models, fault)
    (call,) = work_of(world.only_failure()).calls
    assert json.loads(world.calls.body(call.response))["status"] in (302, 307, 400, 401, 403, 404)
    assert (call.input_tokens, call.output_tokens, call.cost) == (0, 0, 0)


def test_a_short_word_for_a_key_is_no_secret(models: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "up")
    world = after(models)
    assert not any("***" in world.calls.body(call.response) for call in work_of(world.only_analysis()).calls)


# --- Tokens and cost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usage_missing", "usage_negative", "usage_absurd", "usage_words"])
def test_tokens_that_cannot_be_are_estimated(models: ModelServer, name: str) -> None:
    world = after(models, DEFECTS[name], lasting=True)
    work = work_of(world.only_analysis())
    for call in work.calls:
        request, answer = len(world.calls.body(call.request)), len(world.calls.body(call.response))
        assert 0 < call.input_tokens <= request
        assert 0 < call.output_tokens <= answer
        assert call.cost * 1_000_000 == call.input_tokens + 2 * call.output_tokens
    assert work.cost == sum(call.cost for call in work.calls)


@pytest.mark.parametrize(
    "usage",
    [[1], {"prompt_tokens": 1.5, "completion_tokens": True}, {"prompt_tokens": 5, "prompt_tokens_details": [-5]}, "x"],
)
def test_odd_usage_is_no_reason_to_ask_again(models: ModelServer, usage: object) -> None:
    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        return {**completion, "usage": usage, "id": 5, "created": "x", "system_fingerprint": {}, "service_tier": [1]}

    world = after(models, model_faults.Defect("odd", spoil), lasting=True)
    calls = work_of(world.only_analysis()).calls
    assert bad(calls) == []
    assert all(call.input_tokens > 0 and call.cost > 0 for call in calls)


# --- What is no fault of a model ----------------------------------------------------------------------------------


def test_an_error_of_ours_ends_the_analysis_and_not_the_run(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(KEY)

    monkeypatch.setattr(graph_agents, "pattern_report", broken)
    world = after(models)
    assert world.only_failure().reason == "the graph failed: ZeroDivisionError"


def test_a_spent_budget_is_no_failure(models: ModelServer) -> None:
    world = AgentsWorld(models)
    with pytest.raises(BudgetSpent, match="could cost"):
        world.analyse(world.agents(quick(models), budget="0"))
    assert (world.outcomes(), models.requests) == ([], [])


def test_a_log_that_is_gone_is_no_failure(models: ModelServer) -> None:
    class Gone(MemoryCallLog):
        def record(self, recorded_call: RecordedCall, request: str, response: str) -> None:
            raise StoreUnavailable("the record of model calls cannot be reached.")

    world = AgentsWorld(models, calls=Gone())
    with pytest.raises(StoreUnavailable):
        world.analyse(world.agents(quick(models)))
    assert world.outcomes() == []
