"""The four agents, each a compiled graph of its own: what it is asked, what it may use, and the report it makes.

All of them are `create_agent`'s. Around the model's calls lies `Asking`; before the first one the question is put
together, and after the last one the answer becomes a report, whose numbers are computed here and not said.
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
"""How many bars an agent reads; indicators are computed over the whole window."""


class Agent(AgentMiddleware[Any, AnalysisContext, Any]):
    """One agent's own part: the question before its first call, and the report after its last."""

    node: ClassVar[str]
    answer_schema: ClassVar[type[AnswerSchema]]
    state: ClassVar[type[Any]]
    allowed_tools: ClassVar[tuple[BaseTool, ...]] = ()

    def __init__(self, get_context: ContextGetter = same_context) -> None:
        super().__init__()
        self._get_context = get_context

    def user_message(self, state: dict[str, Any]) -> str:
        """What every model is asked."""
        raise NotImplementedError

    def chart(self, snapshot: Snapshot) -> bytes | None:
        """The picture for models with eyes, if there is one."""
        del snapshot
        return None

    def chart_text(self, snapshot: Snapshot) -> str:
        """The same facts as text, for models without."""
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
        """The question as one model is asked it."""
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
    """How the library holds a model to the shape of an answer; None where the prompt does it. Made once: it is dear."""
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
    """Asks its tools for oscillators over the window, and judges them together."""

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
    """Looks at the candles."""

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
    """Looks at the candles between the fitted lines; the lines are told as numbers too."""

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
    """Reads the three reports as data."""

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
    """An agent as a graph of its own. Its messages, and with them every picture, are in no checkpoint; `shown` lets who
    draws the whole graph, or keeps a conversation, see them.
    """
    agent = kind(get_context)
    model_calls = ModelCallMiddleware(
        agent.node, agent.answer_schema, [tool.name for tool in agent.allowed_tools], agent.render, get_context
    )
    create = cast("Any", langchain.agents).create_agent  # Its types say less than they could.
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
