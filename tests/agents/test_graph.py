"""The analysis graph through its real client, over real HTTP: who is asked what, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from analysis.charting import charts, indicators, trend
from analysis.charting.chart_store import Artefacts
from analysis.charting.indicators import Windows
from analysis.charting.snapshot import frame_from_snapshot, snapshot_of
from analysis.charting.tools import TOOLS
from analysis.conformance import poison_bar
from analysis.graph import graph, prompts
from analysis.graph.agents import AGENTS, IndicatorAgent, PatternAgent, TrendAgent, compile_agent
from analysis.graph.clients import open_models
from analysis.graph.context import AnalysisContext
from analysis.graph.recorded_transport import LiveTransport, RecordingMissing
from analysis.graph.rerun import rerun
from analysis.graph.run_analysis import AnalysisAuthor
from analysis.graph.variant import Agents
from analysis.reports import Analysis
from engine import clock
from engine.core.events import AnalysisMade
from tests.support.agents_world import BARS, FRAME, SYMBOL, AgentsWorld, preset, work_of
from tests.support.model_faults import DEFECTS
from tests.support.model_server import ModelServer, ServedRequest
from tests.support.strict_schemas import schema_errors

STRATEGIES = ("json_schema", "tool", "prompt")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as made:
        yield made


def messages(exchange: ServedRequest) -> list[dict[str, Any]]:
    return exchange.body["messages"]


def asked(server: ModelServer) -> list[str]:
    return [exchange.agent for exchange in server.requests]


# --- Who follows whom ---------------------------------------------------------------------------------------------


def test_the_graph_is_indicator_then_pattern_and_trend_then_decision() -> None:
    edges = {(edge.source, edge.target) for edge in graph.build_graph().get_graph().edges}
    assert edges == {
        ("__start__", "indicator"),
        ("indicator", "pattern"),
        ("indicator", "trend"),
        ("pattern", "decision"),
        ("trend", "decision"),
        ("decision", "__end__"),
    }


def test_pattern_and_trend_are_asked_at_the_same_time_and_the_decision_after_both() -> None:
    with ModelServer() as server:
        server.hold(2, "pattern", "trend")
        world = AgentsWorld(server)
        world.analyse(world.agents(preset(server)))
        assert sorted(asked(server)) == ["decision", "indicator", "indicator", "pattern", "trend"]
        times = {exchange.agent: (exchange.began, exchange.ended or 0.0) for exchange in server.requests}
        assert server.most_at_once == 2
    assert times["indicator"][1] <= min(times["pattern"][0], times["trend"][0])
    assert max(times["pattern"][1], times["trend"][1]) <= times["decision"][0]


def test_the_indicator_agent_goes_from_model_to_tools_to_model(server: ModelServer) -> None:
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server)))
    first, second = (exchange for exchange in server.requests if exchange.agent == "indicator")
    assert {tool["function"]["name"] for tool in first.body["tools"]} == {tool.name for tool in TOOLS}
    assert not any(message["role"] == "tool" for message in messages(first))
    called = [call["function"]["name"] for message in messages(second) for call in message.get("tool_calls") or ()]
    results = [message["content"] for message in messages(second) if message["role"] == "tool"]
    assert sorted(called) == sorted(tool.name for tool in TOOLS)
    told = [result for result in results if not result.startswith("No values")]
    assert len(told) >= len(TOOLS) - 1
    assert all(json.loads(result) for result in told)
    nodes = set(compile_agent(IndicatorAgent).get_graph().nodes)
    assert {"model", "tools"} <= nodes


@pytest.mark.parametrize("kind", AGENTS)
def test_each_agent_runs_alone(server: ModelServer, kind: Any) -> None:
    world, given = AgentsWorld(server), {"snapshot": snapshot_of(BARS[-250:], FRAME)}
    world.analyse(world.agents(preset(server)))
    reports = json.loads(world.only_analysis().reports)
    alone = {**given, **{name: reports[name] for name in ("indicator", "pattern", "trend")}}
    server.reset()

    async def run() -> dict[str, Any]:
        async with open_models([("stub", preset(server))], LiveTransport) as models:
            attempt = AnalysisContext("id", 1, "stub@1", models, world.calls, None, clock.now)
            state = alone if kind.node == "decision" else given
            return await cast("Any", compile_agent(kind)).ainvoke(state, context=attempt)

    told = asyncio.run(run())
    assert set(asked(server)) == {kind.node}
    assert told[kind.node] == reports[kind.node]
    assert "snapshot" not in told


# --- What is asked ------------------------------------------------------------------------------------------------


def test_models_are_told_neither_the_symbol_nor_the_date(server: ModelServer) -> None:
    for vision in (True, False):
        world = AgentsWorld(server)
        world.analyse(world.agents(preset(server, vision=vision)))
    text = "".join(json.dumps(exchange.body) for exchange in server.requests)
    text = "".join(part for part in text.split('"') if not part.startswith("data:image"))
    assert SYMBOL not in text
    assert not any(bar.closed_at.strftime(form) in text for bar in BARS for form in ("%Y-%m-%d", "%Y%m%d", "%d.%m."))


def test_the_decision_is_made_from_reports_and_one_price(server: ModelServer) -> None:
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server)))
    (exchange,) = (exchange for exchange in server.requests if exchange.agent == "decision")
    told = json.loads(messages(exchange)[-1]["content"])
    reports = json.loads(world.only_analysis().reports)
    assert told == {
        "timeframe": "1h",
        "last_close": f"{BARS[-1].close:f}",
        **{name: reports[name] for name in ("indicator", "pattern", "trend")},
    }


def test_pictures_are_shown_as_they_are_kept(server: ModelServer, tmp_path: Path) -> None:
    world = AgentsWorld(server, artefacts=Artefacts(tmp_path))
    world.analyse(world.agents(preset(server, charts="thumbnail")))
    work, frame = work_of(world.only_analysis()), frame_from_snapshot(snapshot_of(BARS[-250:], FRAME))
    shown = {exchange.agent: exchange.images for exchange in server.requests if exchange.images}
    assert set(shown) == {"pattern", "trend"}
    drawn = {"pattern": charts.pattern_chart(frame), "trend": charts.trend_chart(frame)}
    for name, digest in work.artefacts:
        (image,) = shown[name]
        assert image.png == drawn[name] == world.resources.artefacts.get(digest)  # pyright: ignore[reportOptionalMemberAccess]
        assert sha256(image.png).hexdigest() == digest
    assert work.sighted
    assert dict(work.artefacts).keys() == shown.keys()


def test_a_model_without_eyes_is_told_the_same_facts_as_text_and_the_analysis_says_so(server: ModelServer) -> None:
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server, vision=False)))
    work = work_of(world.only_analysis())
    assert (work.sighted, work.artefacts) == (False, ())
    assert not any(exchange.images for exchange in server.requests)
    for exchange in server.requests:
        if exchange.agent in ("pattern", "trend"):
            assert f"{BARS[-1].close:f}" in messages(exchange)[-1]["content"]
            assert "{medium}" not in messages(exchange)[0]["content"]


def test_an_analysis_that_a_blind_model_finished_does_not_claim_to_have_seen(server: ModelServer) -> None:
    server.script([DEFECTS["500"]], lasting=True, when=lambda exchange: exchange.body["model"] == "stub")
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server, retries=0), preset(server, model="blind", vision=False)))
    work = work_of(world.only_analysis())
    assert {call.model for call in work.calls if call.outcome == "answered"} == {"blind"}
    assert (work.sighted, work.artefacts) == (False, ())


def test_a_question_whose_answer_nobody_heard_is_paid_at_full_length(server: ModelServer) -> None:
    server.script([DEFECTS["hang"]], agent="indicator")
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server, retries=0, timeout_s=1, max_output_tokens=500)))
    (call,) = work_of(world.only_failure()).calls
    assert (call.outcome, call.output_tokens) == ("timeout", 500)
    assert call.cost * 1_000_000 == call.input_tokens + 2 * 500


def test_numbers_in_reports_are_computed_and_never_a_model_s(server: ModelServer) -> None:
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server)))
    reports = Analysis.model_validate_json(world.only_analysis().reports)
    frame = frame_from_snapshot(snapshot_of(BARS[-250:], FRAME))
    window = Windows.of(frame, [frame.height - 1])
    computed, lines = indicators.report_indicators(window)[0], trend.report_trends(window)[0]
    judged = {"trend_direction", "confidence"}
    assert reports.indicator.model_dump(exclude=judged) == computed.model_dump(exclude=judged)
    assert reports.trend.support_level == lines.support_level
    assert reports.trend.resistance_level == lines.resistance_level


def test_poisoned_future_bars_change_neither_prompt_nor_picture(server: ModelServer) -> None:
    end = 280
    poisoned = [*BARS[:end], *(poison_bar(bar, n) for n, bar in enumerate(BARS[end:]))]
    bodies: list[list[Any]] = []
    for bars in (BARS, poisoned, BARS[:end]):
        server.reset()
        world = AgentsWorld(server, bars)
        job = world.job(end - 1 if len(bars) > end else -1)
        agents = world.agents(preset(server))
        agents.create_analyses(SYMBOL, FRAME, world.bars, [job.window], lambda stored: None)
        bodies.append(sorted(json.dumps(exchange.body, sort_keys=True) for exchange in server.requests))
        assert len(server.requests) == 5
    assert bodies[0] == bodies[1] == bodies[2]


def test_what_agents_are_asked_is_what_their_version_stands_for(server: ModelServer) -> None:
    """Another table, text or question is another opinion: raise `AGENT_VERSION` with this digest."""
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server, vision=False)))
    told = sorted(
        message["content"]
        for exchange in server.requests
        for message in messages(exchange)
        if exchange.agent != "decision" and message["role"] in ("system", "user")
    )
    assert (graph.AGENT_VERSION, sha256("".join(told).encode()).hexdigest()[:12]) == ("graph.1", "102fa1b0ea7e")


# --- What is stored -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("form", STRATEGIES)
def test_every_way_to_hold_a_model_to_a_form_gives_the_same_kind_of_analysis(
    server: ModelServer, form: str, vision: bool
) -> None:
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server, structured_output=form, vision=vision)))
    made = world.only_analysis()
    work = work_of(made)
    assert Analysis.model_validate_json(made.reports).model_dump_json() == made.reports
    assert sorted((call.node, call.seq, call.outcome) for call in work.calls) == [
        ("decision", 1, "answered"),
        ("indicator", 1, "answered"),
        ("indicator", 2, "answered"),
        ("pattern", 1, "answered"),
        ("trend", 1, "answered"),
    ]
    assert len(server.requests) == 5
    # A strict server takes every request.
    assert [fault for exchange in server.requests for fault in schema_errors(exchange.body)] == []


def test_an_analysis_tells_how_it_was_made(server: ModelServer) -> None:
    world = AgentsWorld(server)
    agents = world.agents(preset(server, temperature="0.1", seed=7, knowledge_cutoff="2024-04-30"))
    world.analyse(agents)
    made = world.only_analysis()
    work = work_of(made)
    assert made.variant == agents.name
    assert (made.agent_version, work.graph_version) == (graph.AGENT_VERSION, graph.graph_version())
    assert (work.model_provider, work.model_name, str(work.temperature), work.seed) == ("openai", "stub", "0.1", 7)
    assert work.knowledge_cutoff == "2024-04-30"
    assert work.prompt_digests == tuple((node, prompts.digest(node)) for node in graph.NODES)
    assert work.input_tokens == sum(call.input_tokens for call in work.calls) > 0
    assert work.output_tokens == sum(call.output_tokens for call in work.calls) > 0
    assert work.cost == sum(call.cost for call in work.calls)
    assert work.cost * 1_000_000 == work.input_tokens + 2 * work.output_tokens
    assert dict(work.node_latency_ms).keys() == {"indicator", "pattern", "trend", "decision"}
    assert json.loads(work.state_snapshot).keys() >= {"indicator", "pattern", "trend", "decision"}
    bodies = [exchange.body for exchange in server.requests]
    assert {body["temperature"] for body in bodies} == {0.1}
    assert {body["seed"] for body in bodies} == {7}


def test_every_call_is_recorded_with_both_texts(server: ModelServer) -> None:
    world = AgentsWorld(server)
    world.analyse(world.agents(preset(server)))
    work = work_of(world.only_analysis())
    sent = [exchange.body for exchange in server.requests]
    for call in work.calls:
        request, answer = json.loads(world.calls.body(call.request)), json.loads(world.calls.body(call.response))
        assert answer["status"] == 200
        assert json.loads(answer["body"])["model"] == call.answered_by == "stub"
        # The very request, but for the picture, which is named by its digest.
        assert sum(_without_pictures(body) == _without_pictures(request) for body in sent) == 1
        if call.node in ("pattern", "trend"):
            assert dict(work.artefacts)[call.node] in json.dumps(request)


def _without_pictures(body: Any) -> str:
    text = json.dumps(body, sort_keys=True)
    return "".join(part for part in text.split('"') if not part.startswith(("data:image", "sha256:")))


def test_what_is_stored_is_not_asked_again(server: ModelServer) -> None:
    world = AgentsWorld(server)
    first = world.analyse(world.agents(preset(server)), last=3)
    server.reset()
    again = world.analyse(world.agents(preset(server)), last=3)
    assert (first.made, again.made, again.already_stored) == (3, 0, 3)
    assert server.requests == []
    assert again.intent(BARS[-1]) == first.intent(BARS[-1])


def test_variants_stand_side_by_side_on_the_same_bar(server: ModelServer) -> None:
    world = AgentsWorld(server)
    cool, warm = world.agents(preset(server)), world.agents(preset(server, temperature="0.7"))
    world.analyse(cool)
    world.analyse(warm)
    assert {fact.variant for fact in world.outcomes()} == {cool.name, warm.name}
    assert len({fact.analysis_id for fact in world.outcomes()}) == 2


def test_a_variant_is_what_shapes_its_answers(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentsWorld(server)
    usual = world.agents(preset(server)).name
    same = preset(server, base_url="http://127.0.0.1:1/v1", price_input="7", budget_usd="1", concurrency=1, timeout_s=9)
    assert world.agents(same).name == usual
    assert world.agents(preset(server, knowledge_cutoff="2024-01-01")).name == usual
    shaped = {"model": "other", "temperature": "0.5", "seed": 1, "vision": False, "structured_output": "tool"}
    others = {world.agents(preset(server, **{name: value})).name for name, value in shaped.items()}
    others.add(world.agents(preset(server), preset(server, model="second")).name)
    assert len(others - {usual}) == len(shaped) + 1

    def changed(agent: str) -> str:
        return f"{agent}, but changed"

    monkeypatch.setattr(prompts, "prompt", changed)
    assert world.agents(preset(server)).name != usual


def test_windows_that_are_too_short_or_stand_still_are_not_worth_a_question(server: ModelServer) -> None:
    world = AgentsWorld(server, BARS[: Agents.warm_up_bars])
    formed = world.analyse(world.agents(preset(server)), last=2)
    assert len(server.requests) == 5
    assert formed.intent(BARS[Agents.warm_up_bars - 2]).direction == "HOLD"
    assert "warm-up: 99 of 100 bars" in str(world.outcomes()[0])
    last = BARS[-4].close
    still = [
        msgspec.structs.replace(bar, open=last, high=last, low=last, close=last) if n >= 297 else bar
        for n, bar in enumerate(BARS)
    ]
    server.reset()
    world = AgentsWorld(server, still)
    assert world.analyse(world.agents(preset(server))).intent(still[-1]).direction == "HOLD"
    assert server.requests == []
    assert "the market stands still" in world.only_analysis().reports


# --- Once more, from the recording --------------------------------------------------------------------------------


def author_of(agents: Agents, made: AnalysisMade) -> AnalysisAuthor:
    work = work_of(made)
    return AnalysisAuthor(agents.name, agents.version, work.preset, work.preset_digest)


@pytest.mark.parametrize("form", STRATEGIES)
def test_the_graph_runs_again_from_its_recording_without_a_request(server: ModelServer, form: str) -> None:
    world = AgentsWorld(server)
    asking = preset(server, structured_output=form, requests_per_minute=600)
    agents = world.agents(asking)
    world.analyse(agents)
    server.reset()
    made = world.only_analysis()
    again = rerun(made, [("stub", asking)], author_of(agents, made), world.job(), world.calls, clock.now)
    assert again.equal
    assert (server.connections, server.requests) == (0, [])


def test_a_question_that_was_not_recorded_stops_a_rerun_with_its_key(server: ModelServer) -> None:
    world = AgentsWorld(server)
    agents = world.agents(preset(server))
    world.analyse(agents)
    made = world.only_analysis()
    server.reset()
    other = preset(server, seed=99)
    with pytest.raises(RecordingMissing) as missed:
        rerun(made, [("stub", other)], author_of(agents, made), world.job(), world.calls, clock.now)
    assert len(missed.value.key) == 64
    assert missed.value.key in str(missed.value)
    assert server.connections == 0


def test_a_rerun_of_another_window_is_noticed(server: ModelServer) -> None:
    world = AgentsWorld(server)
    agents = world.agents(preset(server))
    world.analyse(agents)
    made = world.only_analysis()
    with pytest.raises(RecordingMissing):
        rerun(made, [("stub", agents.preset)], author_of(agents, made), world.job(-2), world.calls, clock.now)


# --- Look at it from outside --------------------------------------------------------------------------------------


def test_agents_with_pictures_are_those_that_draw() -> None:
    snapshot = snapshot_of(BARS[-250:], FRAME)
    assert {kind.node for kind in AGENTS if kind().chart(snapshot)} == {PatternAgent.node, TrendAgent.node}
