"""The four agents, each a compiled graph with its user message, tools and report.

They are built with `create_agent`. `ModelCallMiddleware` wraps the model calls. An agent builds its message before the
first call and turns the answer into a report after the last one; market numbers in reports are computed, not taken
from the model.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from functools import cache
from typing import Any, ClassVar, cast

import langchain.agents
from langchain.agents.middleware import AgentMiddleware, ModelRequest
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from analysis.charting import chart_text, charts, indicators, trend
from analysis.charting.indicators import Windows
from analysis.charting.snapshot import Snapshot, frame_from_snapshot
from analysis.charting.tools import TOOLS
from analysis.graph import states
from analysis.graph.answer_schemas import (
    AnswerSchema,
    DecisionReading,
    IndicatorReading,
    PatternReading,
    TrendReading,
    indicator_report,
    pattern_report,
    trade_decision,
    trend_report,
)
from analysis.graph.context import AnalysisContext, ContextGetter, Model, same_context
from analysis.graph.model_middleware import ModelCallMiddleware
from analysis.graph.placeholder_model import PLACEHOLDER_MODEL
from analysis.graph.prompts import system_prompt
from analysis.reports import AnalysisReport

BARS_SHOWN = 45
"""Number of bars in a message; indicators are computed over the whole window."""


class Agent(AgentMiddleware[Any, AnalysisContext, Any]):
    """Base class of the agents: builds the message before the first call, and the report after the last one."""

    node: ClassVar[str]
    answer_schema: ClassVar[type[AnswerSchema]]
    state: ClassVar[type[Any]]
    allowed_tools: ClassVar[tuple[BaseTool, ...]] = ()

    def __init__(self, get_context: ContextGetter = same_context) -> None:
        super().__init__()
        self._get_context = get_context

    def user_message(self, state: dict[str, Any]) -> str:
        """Return the text sent to every model."""
        raise NotImplementedError

    def chart(self, snapshot: Snapshot) -> bytes | None:
        """Return the chart for models with vision as a PNG; None if the agent uses none."""
        del snapshot
        return None

    def chart_text(self, snapshot: Snapshot) -> str:
        """Return the data of the chart as text, for models without vision."""
        del snapshot
        return ""

    def report(self, snapshot: Snapshot, answer: Any) -> AnalysisReport:
        raise NotImplementedError

    async def abefore_agent(self, state: Any, runtime: Runtime[AnalysisContext]) -> dict[str, Any]:
        update: dict[str, Any] = {"messages": [HumanMessage(self.user_message(state))]}
        context = self._get_context(runtime.context)
        image = await asyncio.to_thread(self.chart, state["snapshot"]) if context.has_vision else None
        if image is not None:
            digest = await asyncio.to_thread(context.store_chart, image)
            update |= {"picture": b64encode(image).decode(), f"{self.node}_chart": digest}
        return update

    async def aafter_agent(self, state: Any, runtime: Runtime[AnalysisContext]) -> dict[str, Any]:
        del runtime
        report = await asyncio.to_thread(self.report, state["snapshot"], state["structured_response"])
        return {self.node: report.model_dump(mode="json")}

    def render(self, request: ModelRequest[AnalysisContext], model: Model) -> ModelRequest[AnalysisContext]:
        """Return the request adapted to one model: prompt, chart or text, and response format."""
        preset, state = model.preset, cast("dict[str, Any]", request.state)
        first, *others = request.messages
        text, system = str(first.content), system_prompt(self.node, preset.vision)
        if preset.structured_output == "prompt":
            system += _schema_instructions(self.answer_schema)
        if preset.vision and "picture" in state:
            image = {"type": "image", "base64": state["picture"], "mime_type": "image/png"}
            message = HumanMessage(content_blocks=cast("Any", [{"type": "text", "text": text}, image]))
        else:
            message = HumanMessage(f"{text}\n{self.chart_text(state['snapshot'])}".strip())
        messages: list[AnyMessage] = [message, *others]
        return request.override(
            model=model.chat,
            system_message=SystemMessage(system),
            messages=messages,
            response_format=_response_format(preset.structured_output, self.answer_schema),
        )


@cache
def _response_format(mode: str, answer_schema: type[AnswerSchema]) -> Any:
    """Return the library's strategy for structured output; None if the prompt states the schema. Cached: expensive."""
    match mode:
        case "json_schema":
            return ProviderStrategy(answer_schema, strict=True)
        case "tool":
            return ToolStrategy(answer_schema, handle_errors=False)
        case _:
            return None


@cache
def _schema_instructions(answer_schema: type[AnswerSchema]) -> str:
    schema = json.dumps(answer_schema.model_json_schema(), indent=1)
    return f"\nAnswer with one JSON object and nothing else. It has to fit this JSON schema:\n```json\n{schema}\n```\n"


class IndicatorAgent(Agent):
    """Agent that reads oscillators of the window through its tools."""

    node = "indicator"
    answer_schema = IndicatorReading
    state = states.IndicatorSubgraphState
    allowed_tools = TOOLS

    def user_message(self, state: dict[str, Any]) -> str:
        snapshot: Snapshot = state["snapshot"]
        return f"Bars of {snapshot['timeframe']}:\n{chart_text.bars_table(snapshot, BARS_SHOWN)}"

    def report(self, snapshot: Snapshot, answer: IndicatorReading) -> AnalysisReport:
        return indicator_report(indicators.report_indicators(_window(snapshot))[0], answer)


class PatternAgent(Agent):
    """Agent that looks for chart patterns in the candles."""

    node = "pattern"
    answer_schema = PatternReading
    state = states.PatternSubgraphState

    def user_message(self, state: dict[str, Any]) -> str:
        return f"The chart ends with the last closed bar of {state['snapshot']['timeframe']}."

    def chart(self, snapshot: Snapshot) -> bytes:
        return charts.pattern_chart(frame_from_snapshot(snapshot))

    def chart_text(self, snapshot: Snapshot) -> str:
        return f"{chart_text.bars_table(snapshot, BARS_SHOWN)}\n{chart_text.swings_text(frame_from_snapshot(snapshot))}"

    def report(self, snapshot: Snapshot, answer: PatternReading) -> AnalysisReport:
        del snapshot
        return pattern_report(answer)


class TrendAgent(Agent):
    """Agent that reads the trend from the candles and the fitted lines; its message has the numbers of the lines."""

    node = "trend"
    answer_schema = TrendReading
    state = states.TrendSubgraphState

    def user_message(self, state: dict[str, Any]) -> str:
        snapshot: Snapshot = state["snapshot"]
        return (
            f"Bars of {snapshot['timeframe']}. The fitted "
            f"lines:\n{chart_text.lines_text(frame_from_snapshot(snapshot))}"
        )

    def chart(self, snapshot: Snapshot) -> bytes:
        return charts.trend_chart(frame_from_snapshot(snapshot))

    def chart_text(self, snapshot: Snapshot) -> str:
        return chart_text.bars_table(snapshot, BARS_SHOWN)

    def report(self, snapshot: Snapshot, answer: TrendReading) -> AnalysisReport:
        return trend_report(trend.report_trends(_window(snapshot))[0], answer)


class DecisionAgent(Agent):
    """Agent that decides from the three reports."""

    node = "decision"
    answer_schema = DecisionReading
    state = states.DecisionSubgraphState

    def user_message(self, state: dict[str, Any]) -> str:
        snapshot: Snapshot = state["snapshot"]
        facts = {"timeframe": snapshot["timeframe"], "last_close": snapshot["rows"][-1][4]}
        return json.dumps({**facts, **{name: state[name] for name in ("indicator", "pattern", "trend")}}, indent=1)

    def report(self, snapshot: Snapshot, answer: DecisionReading) -> AnalysisReport:
        del snapshot
        return trade_decision(answer)


AGENTS: tuple[type[Agent], ...] = (IndicatorAgent, PatternAgent, TrendAgent, DecisionAgent)


def compile_agent(
    kind: type[Agent], get_context: ContextGetter = same_context, *, visible: bool = False
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Compile an agent to a graph.

    get_context: finds the `AnalysisContext` in the context of the run; visible: include the agent's messages and charts
    in drawings and checkpoints, as Studio needs, instead of keeping them private.
    """
    agent = kind(get_context)
    model_calls = ModelCallMiddleware(
        agent.node, agent.answer_schema, [tool.name for tool in agent.allowed_tools], agent.render, get_context
    )
    create = cast("Any", langchain.agents).create_agent  # The library's types are too narrow here.
    return create(
        PLACEHOLDER_MODEL,
        list(agent.allowed_tools),
        middleware=[agent, model_calls],
        response_format=ToolStrategy(agent.answer_schema, handle_errors=False),
        state_schema=agent.state,
        context_schema=AnalysisContext,
        checkpointer=None if visible else False,
        name=agent.node,
    )


def _window(snapshot: Snapshot) -> Windows:
    frame = frame_from_snapshot(snapshot)
    return Windows.of(frame, [frame.height - 1])
