"""What an analysis by agents takes beside its models: waiting in parallel, the framework's work, checkpoints."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import END, START, StateGraph
from pydantic import Field

from analysis.charting import chart_text, charts, indicators, trend
from analysis.charting.indicators import Windows
from analysis.charting.snapshot import frame_from_snapshot, snapshot_of
from analysis.charting.tools import TOOLS
from analysis.graph import checkpoints
from analysis.graph.agents import AGENTS, BARS_SHOWN, compile_agent
from analysis.graph.clients import open_models
from analysis.graph.context import AnalysisContext, Model
from analysis.graph.graph import Graph, build_graph
from analysis.graph.recorded_transport import CURRENT_EXCHANGE, LiveTransport
from analysis.graph.run_analysis import AnalysisAuthor, Job, run_analysis, thread_id_of
from analysis.graph.states import GraphInput, GraphState
from analysis.graph.variant import Agents
from analysis.llm.call_log import MemoryCallLog
from analysis.llm.presets import ModelPreset
from engine import clock
from engine.core.events import AnalysisMade
from tests.support.agents_world import BARS, FRAME, AgentsWorld, preset
from tests.support.bench_log import Figure
from tests.support.model_faults import DEFECTS
from tests.support.model_server import ModelServer

ANALYSES = 30
CALL_S = 1.0
SLOW_CALL_S = 2.0
AUTHOR = AnalysisAuthor("bench@0", "bench", "bench", "0" * 64)
ANSWERS: dict[str, dict[str, Any]] = {
    "IndicatorReading": {"trend_direction": "up", "confidence": 6, "reason": "rising"},
    "PatternReading": {
        "primary_pattern": None,
        "second_pattern": None,
        "confidence": 3,
        "breakout_probability": 2,
        "reason": "none",
    },
    "TrendReading": {"trend_direction": "up", "trend_strength": 5, "reason": "rising"},
    "DecisionReading": {
        "decision": "LONG",
        "confidence": 6,
        "horizon_bars": 4,
        "risk_reward": "1.5",
        "reason": "rising",
    },
}


class Instant(BaseChatModel):
    """A model in this process that answers at once: what is left is the framework's work and ours."""

    bound: dict[str, Any] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "instant"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        del tools
        return Instant(bound=kwargs)

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        name = self.bound["response_format"]["json_schema"]["name"]
        calls: list[Any] = []
        if name == "IndicatorReading" and not any(isinstance(message, ToolMessage) for message in messages):
            calls = [{"name": tool.name, "args": {}, "id": tool.name} for tool in TOOLS]
        content = "" if calls else json.dumps(ANSWERS[name])
        wire = [{"id": call["id"], "function": {"name": call["name"], "arguments": "{}"}} for call in calls]
        message = {"content": content, "tool_calls": wire}
        exchange = CURRENT_EXCHANGE.get()
        exchange.request, exchange.status = json.dumps([name, len(messages)]), 200
        exchange.answer = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content, tool_calls=calls))])


def measure(dsn: str) -> Iterator[Figure]:
    checkpoints.create_schema(dsn, dsn)
    side_by_side, in_a_row = waited(build_graph(), CALL_S), waited(chain(), CALL_S)
    yield Figure(
        "analysis with calls of 1 s",
        60 / side_by_side,
        "analyses/min",
        f"{side_by_side:.2f} s side by side, {in_a_row:.2f} s one after another",
    )
    slow = waited(build_graph(), SLOW_CALL_S, retried=True)
    yield Figure("analysis with calls of 2 s and a retry", 60 / slow, "analyses/min", f"{slow:.1f} s")
    ours = cpu(lambda: computing(sighted=False))
    without, _ = asyncio.run(framework(None))
    kept, size = asyncio.run(framework(dsn))
    yield Figure("our own computing", 1000 / ours, "analyses/s", f"{ours:.0f} ms CPU an analysis, without images")
    yield Figure("framework", 1000 / without, "analyses/s", f"{without - ours:.0f} ms CPU an analysis in addition")
    yield Figure(
        "framework with checkpoints",
        1000 / kept,
        "analyses/s",
        f"{kept - ours:.0f} ms CPU an analysis in addition; {size[0]} rows, {size[1] / 1024:.0f} KiB before pruning",
    )
    pictures = cpu(lambda: computing(sighted=True)) - ours
    yield Figure("two charts", 1000 / pictures, "analyses/s", f"{pictures:.0f} ms CPU an analysis")


def waited(graph: Graph, delay: float, *, retried: bool = False) -> float:
    """Wall time of one analysis over HTTP, after one that is not counted."""
    with ModelServer() as server:
        world = AgentsWorld(server)

        async def one() -> float:
            async with open_models([("bench", preset(server, timeout_s=10, patience_s=30))], LiveTransport) as models:
                await run_analysis(graph, world.job(), attempt_of(models), AUTHOR)
                server.delay = delay
                if retried:
                    server.script([DEFECTS["429"]], agent="pattern")
                began = time.perf_counter()
                fact = await run_analysis(graph, world.job(), attempt_of(models), AUTHOR)
                assert isinstance(fact, AnalysisMade), fact.reason
                return time.perf_counter() - began

        return asyncio.run(one())


def chain() -> Graph:
    """The same agents one after another, as those did it from which the idea comes."""
    parent: Any = StateGraph(GraphState, context_schema=AnalysisContext, input_schema=GraphInput)
    nodes = [agent.node for agent in AGENTS]
    for agent in AGENTS:
        parent.add_node(agent.node, compile_agent(agent))
    for one, other in zip([START, *nodes], [*nodes, END], strict=True):
        parent.add_edge(one, other)
    return parent.compile()


async def framework(dsn: str | None) -> tuple[float, tuple[int, int]]:
    """CPU milliseconds of an analysis whose models answer at once, and the size of its checkpoints."""
    with ModelServer() as server:
        job = AgentsWorld(server).job()
    model = Model("bench", ModelPreset(model="instant", checkpoints="all"), Instant())
    attempts = [attempt_of((model,), str(n)) for n in range(ANALYSES)]
    if dsn is None:
        return statistics.median([await _timed(job, attempt, None) for attempt in attempts]), (0, 0)
    async with checkpoints.open_checkpoints(dsn) as kept:
        spent = [await _timed(job, attempt, kept) for attempt in attempts]
        last = thread_id_of(attempts[-1])
        return statistics.median(spent), await kept.size(last)


async def _timed(job: Job, attempt: AnalysisContext, kept: checkpoints.Checkpoints | None) -> float:
    gc.collect()
    began = time.process_time()
    fact = await run_analysis(build_graph(), job, attempt, AUTHOR, kept)
    spent = (time.process_time() - began) * 1000
    assert isinstance(fact, AnalysisMade), fact.reason
    return spent


def attempt_of(models: tuple[Model, ...], analysis: str = "bench") -> AnalysisContext:
    return AnalysisContext(analysis, 1, "bench@0", models, MemoryCallLog(), None, clock.now)


def computing(*, sighted: bool) -> None:
    """What an analysis computes itself: tools, texts, lines and reports, and pictures where they are shown."""
    snapshot = snapshot_of(BARS[-Agents.window_bars :], FRAME)
    frame = frame_from_snapshot(snapshot)
    window = Windows.of(frame, [frame.height - 1])
    runtime = type("State", (), {"state": {"snapshot": snapshot}})()
    for tool in TOOLS:
        tool.func(runtime)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    indicators.report_indicators(window)
    trend.report_trends(window)
    chart_text.bars_table(snapshot, BARS_SHOWN)
    chart_text.lines_text(frame)
    chart_text.swings_text(frame)
    if sighted:
        charts.pattern_chart(frame)
        charts.trend_chart(frame)


def cpu(work: Callable[[], object]) -> float:
    """CPU milliseconds: the median of some rounds, after one that is not counted."""
    work()
    spent: list[float] = []
    for _ in range(ANALYSES):
        began = time.process_time()
        work()
        spent.append((time.process_time() - began) * 1000)
    return statistics.median(spent)
