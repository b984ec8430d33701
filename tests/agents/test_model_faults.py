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

from analysis.analyst import opinions
from analysis.charting.snapshot import snapshot_of
from analysis.graph import agents as graph_agents
from analysis.graph import clients as graph_models
from analysis.graph import model_middleware
from analysis.graph.agents import TrendAgent, compiled
from analysis.graph.clients import reached
from analysis.graph.context import Attempt, BudgetSpent
from analysis.graph.model_middleware import QUESTIONS_MAX, Fault, ModelFailed
from analysis.graph.recorded_transport import Live
from analysis.llm.call_log import Asked, MemoryCalls
from analysis.llm.presets import ModelPreset
from analysis.variants import RULES, Chain
from engine import clock
from engine.core.errors import StoreUnavailable
from engine.core.events import AnalysisFailed, ModelCall
from tests.conftest import free_port
from tests.support import model_faults
from tests.support.agents_world import BARS, FRAME, SYMBOL, World, preset, work_of
from tests.support.model_answers import Exchange, Response
from tests.support.model_faults import FAULTS
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
FINAL = {name for name in FAULTS if OUTCOME_OF[name] == "rejected"} | {"429_absurd"}
"""Asking again does not help, or would have to wait too long."""

CASES = [
    (form, name)
    for form in ("json_schema", "tool", "prompt")
    for name, fault in FAULTS.items()
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


def after(models: ModelServer, *faults: model_faults.Fault, lasting: bool | None = None, **fields: Any) -> World:
    """A world in which an analysis was made while these things went wrong."""
    models.script(faults, lasting=lasting)
    world = World(models)
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


def check_said_well(failed: AnalysisFailed, world: World) -> None:
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
    assert OUTCOME_OF.keys() == FAULTS.keys()
    assert len(FAULTS) >= 70


@pytest.mark.parametrize(("form", "name"), [case for case in CASES if case[0] != "prompt" and case[1] not in FINAL])
def test_a_fault_that_passes_costs_a_question_and_the_analysis_is_made(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch, form: str, name: str
) -> None:
    outcome = outcome_of(form, name)
    if outcome == "timeout":
        hurry(monkeypatch, 1)
    world = after(models, FAULTS[name], lasting=False, structured_output=form)
    calls = work_of(world.made()).calls
    assert bad(calls) == ([] if outcome in ("harmless", "endless") else [outcome])
    assert len(models.requests) == len(calls) == 5 + len(bad(calls))
    again = [call for call in calls if call.attempt == 2]
    assert [call.outcome for call in again] == ["answered"] * len(bad(calls))


@pytest.mark.parametrize(("form", "name"), CASES)
def test_a_fault_that_stays_is_a_failed_analysis_and_a_hold(models: ModelServer, form: str, name: str) -> None:
    models.script([FAULTS[name]], lasting=True)
    world, slow = World(models), OUTCOME_OF[name] == "timeout"
    limits = {"retries": 0, "timeout_s": 1} if slow else {"retries": 1}
    agents = world.agents(quick(models, structured_output=form, **limits))
    formed = world.analyse(agents)
    outcome = outcome_of(form, name)
    if outcome == "harmless":
        assert bad(work_of(world.made()).calls) == []
        return
    failed, wish = world.failed(), formed.wish(BARS[-1])
    assert (wish.direction, wish.confidence, wish.analysis_id) == ("HOLD", 0, failed.analysis_id)
    assert (formed.failed, formed.made) == (1, 1)
    assert "failed and count as HOLD" in formed.notices[-1]
    check_said_well(failed, world)
    calls = work_of(failed).calls
    assert set(bad(calls)) == ({outcome} if outcome != "endless" else set())
    tries = 1 if slow or name in FINAL else 2
    assert len(bad(calls)) == (tries if outcome != "endless" else 0)
    assert len(models.requests) == len(calls) <= QUESTIONS_MAX


def test_what_a_server_is_not_there_for_is_a_connection_that_failed(models: ModelServer) -> None:
    world = World(models)
    world.analyse(world.agents(quick(models, base_url=f"http://127.0.0.1:{free_port()}/v1")))
    assert bad(work_of(world.failed()).calls) == ["connection", "connection"]
    assert models.connections == 0


def test_a_model_that_calls_its_answer_a_tool_without_being_offered_it_is_asked_again(models: ModelServer) -> None:
    def spoil(completion: Json, exchange: Exchange) -> Json:
        called = {"id": "1", "type": "function", "function": {"name": "IndicatorReading", "arguments": "{}"}}
        completion["choices"][0]["message"] |= {"content": None, "tool_calls": [called]}
        return completion

    world = after(models, model_faults.Fault("answer as a tool", spoil))
    assert bad(work_of(world.made()).calls) == ["unknown_tool"]


@pytest.mark.parametrize("role", ["user", "system", "tool", "nonsense", None])
def test_what_is_not_said_by_an_assistant_is_no_answer(models: ModelServer, role: str | None) -> None:
    def spoil(completion: Json, exchange: Exchange) -> Json:
        completion["choices"][0]["message"]["role"] = role
        return completion

    world = after(models, model_faults.Fault("role", spoil))
    assert bad(work_of(world.made()).calls) == ["invalid"]


def test_a_second_question_says_what_was_wrong_with_the_first_answer(models: ModelServer) -> None:
    after(models, FAULTS["wrong_enum"])
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
        [FAULTS[name]], lasting=True, agent="decision", when=lambda exchange: exchange.body["model"] == "stub"
    )
    world = World(models)
    world.analyse(world.agents(quick(models, retries=0), quick(models, model="second")))
    work = work_of(world.made())
    *before, failed, answered = work.calls
    assert {(call.model, call.outcome) for call in before} == {("stub", "answered")}
    assert (failed.model, failed.outcome, failed.attempt) == ("stub", OUTCOME_OF[name], 1)
    assert (answered.model, answered.outcome, answered.attempt) == ("second", "answered", 2)
    assert work.model_name == "stub"
    assert [asked.preset for asked in world.calls.of(world.made().analysis_id, 1)][-2:] == ["stub", "stub-1"]


def test_rules_answer_for_agents_that_failed_and_a_run_names_whose_opinion_it_took(models: ModelServer) -> None:
    # The indicator agent fails on one window of two.
    last = f"{BARS[-1].close:f}"
    models.script([FAULTS["401"]], when=lambda exchange: exchange.body["messages"][-1]["content"].count(last) > 0)
    world = World(models)
    agents = world.agents(quick(models))
    formed = world.analyse(Chain((agents, RULES)), last=2)
    assert formed.failed == 0
    by_agents, by_rules = (formed.wish(bar).analysis_id for bar in BARS[-2:])
    assert f".{agents.name}." in by_agents
    assert f".{RULES.name}." in by_rules
    assert sorted(fact.variant for fact in world.facts()) == sorted([agents.name, agents.name, RULES.name])


def test_a_stored_failure_is_asked_again_only_where_that_is_wanted(models: ModelServer) -> None:
    world = after(models, FAULTS["401"])
    agents = world.agents(quick(models))
    models.reset()
    assert world.analyse(agents).wish(BARS[-1]).direction == "HOLD"
    assert models.requests == []
    read_at = clock.now()
    formed = world.analyse(agents, retry=True)
    failed, opinion = world.facts()
    wish = formed.wish(BARS[-1])
    assert (wish.analysis_id, wish.analysis_version) == (failed.analysis_id, 2)
    assert [row.version for row in world.rows()] == [1, 2]
    assert len(models.requests) == 5
    assert work_of(opinion).thread_id != work_of(failed).thread_id
    # A run that has read the failure goes on with it.
    start = BARS[-1].opened_at
    held = opinions(
        world.store, world.catalogue, [SYMBOL], FRAME, start, None, actor="tester", variant=agents,
        retry=True, until=lambda at: read_at,
    ).wish(BARS[-1])  # fmt: skip
    assert (held.direction, held.analysis_version) == ("HOLD", 1)
    assert world.analyse(agents).wish(BARS[-1]) == wish


# --- Time ---------------------------------------------------------------------------------------------------------


def retry_after(value: str, **headers: str) -> model_faults.Fault:
    def respond(_: Response) -> Response:
        return Response(429, {"retry-after": value, **headers}, (b"{}",))

    return model_faults.Fault("retry-after", respond=respond)


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

    def noted(fault: Fault, n: int) -> float:
        asked_for.append(pause(fault, n))
        return asked_for[-1] if asked_for[-1] > 120 else 0

    monkeypatch.setattr(model_middleware, "_pause", noted)
    world = after(models, retry_after(said, **headers))
    if waited is None:
        assert bad(work_of(world.failed()).calls) == ["rate_limited"]
    else:
        assert asked_for == [waited]
        assert bad(work_of(world.made()).calls) == ["rate_limited"]


def trend(preset: ModelPreset, calls: MemoryCalls, **given: Any) -> dict[str, Any]:
    """The trend agent alone, with what else an attempt is given."""

    async def run() -> dict[str, Any]:
        async with reached([("stub", preset)], Live) as reach:
            attempt = Attempt("id", 1, "stub@1", reach, calls, None, clock.now, **given)
            graph: Any = compiled(TrendAgent)
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
    calls, pauses = MemoryCalls(), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    models.script([FAULTS["500"]], lasting=True)
    with pytest.raises(ModelFailed, match="asked 4 times"):
        trend(quick(models, retries=3), calls, pause=pause)
    assert pauses == [0.01, 0.02, 0.04]
    assert [asked.call.attempt for asked in calls.of("id", 1)] == [1, 2, 3, 4]


def test_all_tries_together_take_no_longer_than_ones_patience(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_middleware, "FIRST_PAUSE_S", 0.0)
    limits = Limits(monkeypatch)
    models.script([FAULTS["500"]], lasting=True)
    with pytest.raises(ModelFailed, match="asked 3 times"):
        trend(quick(models, timeout_s=2, patience_s=5, retries=5), MemoryCalls())
    assert limits.given == [2, 2, 1]
    assert len(models.requests) == 3


def test_a_model_that_hangs_is_left_when_ones_patience_is_over(models: ModelServer) -> None:
    world = after(models, FAULTS["hang"], timeout_s=1, patience_s=2, retries=5)
    assert set(bad(work_of(world.failed()).calls)) == {"timeout"}
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
    assert "trend" in trend(quick(models, timeout_s=60, patience_s=1), MemoryCalls())
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
    bombed = model_faults.Fault("bomb", respond=lambda _: Response(200, {"content-encoding": "gzip"}, (body,)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    world = after(models, bombed, lasting=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128_000
    assert set(bad(work_of(world.failed()).calls)) == {"invalid"}


def test_an_answer_without_end_is_not_kept(models: ModelServer) -> None:
    world = after(models, FAULTS["huge"], lasting=True)
    spoiled = [call for call in work_of(world.failed()).calls if call.outcome != "answered"]
    assert [(call.outcome, call.response) for call in spoiled] == [("too_large", "")] * 2


@pytest.mark.parametrize("name", ["redirect", "redirect_307"])
def test_redirects_are_not_followed(models: ModelServer, name: str) -> None:
    after(models, FAULTS[name])
    assert [exchange.path for exchange in models.requests] == ["/v1/chat/completions"]


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense"])
def test_proxies_of_the_environment_are_not_used(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, proxy: str
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "OPENAI_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    world = after(models)
    assert len(work_of(world.made()).calls) == len(models.requests) == 5
    assert caplog.records == []


def _echo(completion: Json, exchange: Exchange) -> Json:
    answer = json.loads(completion["choices"][0]["message"]["content"] or "{}")
    if "reason" in answer:
        completion["choices"][0]["message"]["content"] = json.dumps({**answer, "reason": f"my key is {KEY}"})
    return {**completion, "model": KEY, "system_fingerprint": f"fp {KEY}"}


def _refuse(completion: Json, exchange: Exchange) -> Json:
    completion["choices"][0]["message"]["refusal"] = f"no, {exchange.headers['authorization']}"
    return completion


def _call(completion: Json, exchange: Exchange) -> Json:
    called = {"id": KEY, "type": "function", "function": {"name": KEY, "arguments": json.dumps({KEY: KEY})}}
    completion["choices"][0]["message"] |= {"content": None, "tool_calls": [called]}
    return completion


def _field(completion: Json, exchange: Exchange) -> Json:
    completion["choices"][0]["message"] |= {"content": json.dumps({KEY: KEY}), "tool_calls": None}
    return completion


@pytest.mark.parametrize("spoil", [_echo, _refuse, _call, _field])
def test_a_key_that_a_server_sends_back_is_kept_nowhere(models: ModelServer, spoil: model_faults.Spoil) -> None:
    world = after(models, model_faults.Fault("echo", spoil), lasting=True)
    assert {exchange.headers["authorization"] for exchange in models.requests} == {f"Bearer {KEY}"}
    (fact,) = world.facts()
    texts = [msgspec.json.encode(fact).decode()]
    for call in work_of(fact).calls:
        texts += [world.calls.body(call.request), world.calls.body(call.response)]
    assert not any(KEY in text for text in texts)
    assert "***" in "".join(texts)
    # Nor does the model that is asked again read it.
    assert not any(KEY in json.dumps(exchange.body) for exchange in models.requests)


@pytest.mark.parametrize("fault", [error for error in FAULTS.values() if OUTCOME_OF[error.name] == "rejected"])
def test_what_a_server_says_to_a_rejected_question_is_kept_and_not_repeated(
    models: ModelServer, fault: model_faults.Fault
) -> None:
    world = after(models, fault)
    (call,) = work_of(world.failed()).calls
    assert json.loads(world.calls.body(call.response))["status"] in (302, 307, 400, 401, 403, 404)
    assert (call.input_tokens, call.output_tokens, call.cost) == (0, 0, 0)


def test_a_short_word_for_a_key_is_no_secret(models: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "up")
    world = after(models)
    assert not any("***" in world.calls.body(call.response) for call in work_of(world.made()).calls)


# --- Tokens and cost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usage_missing", "usage_negative", "usage_absurd", "usage_words"])
def test_tokens_that_cannot_be_are_estimated(models: ModelServer, name: str) -> None:
    world = after(models, FAULTS[name], lasting=True)
    work = work_of(world.made())
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
    def spoil(completion: Json, exchange: Exchange) -> Json:
        return {**completion, "usage": usage, "id": 5, "created": "x", "system_fingerprint": {}, "service_tier": [1]}

    world = after(models, model_faults.Fault("odd", spoil), lasting=True)
    calls = work_of(world.made()).calls
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
    assert world.failed().reason == "the graph failed: ZeroDivisionError"


def test_a_spent_budget_is_no_failure(models: ModelServer) -> None:
    world = World(models)
    with pytest.raises(BudgetSpent, match="could cost"):
        world.analyse(world.agents(quick(models), budget="0"))
    assert (world.facts(), models.requests) == ([], [])


def test_a_log_that_is_gone_is_no_failure(models: ModelServer) -> None:
    class Gone(MemoryCalls):
        def record(self, asked: Asked, request: str, response: str) -> None:
            raise StoreUnavailable("the record of model calls cannot be reached.")

    world = World(models, calls=Gone())
    with pytest.raises(StoreUnavailable):
        world.analyse(world.agents(quick(models)))
    assert world.facts() == []
