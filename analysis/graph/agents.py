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
from analysis.charting.snapshot import Snapshot, frame_of
from analysis.charting.tools import TOOLS
from analysis.graph import states
from analysis.graph.answer_schemas import (
    DecisionReading,
    IndicatorReading,
    PatternReading,
    Reading,
    TrendReading,
    indicator_report,
    pattern_report,
    trade_decision,
    trend_report,
)
from analysis.graph.context import Attempt, Model, Within, given
from analysis.graph.model_middleware import Asking
from analysis.graph.placeholder_model import UNBOUND
from analysis.graph.prompts import told
from analysis.reports import Report

BARS_TOLD = 45
"""How many bars an agent reads; indicators are computed over the whole window."""


class Agent(AgentMiddleware[Any, Attempt, Any]):
    """One agent's own part: the question before its first call, and the report after its last."""

    node: ClassVar[str]
    reading: ClassVar[type[Reading]]
    state: ClassVar[type[Any]]
    may_use: ClassVar[tuple[BaseTool, ...]] = ()

    def __init__(self, within: Within = given) -> None:
        super().__init__()
        self._within = within

    def question(self, state: dict[str, Any]) -> str:
        """What every model is asked."""
        raise NotImplementedError

    def chart(self, snapshot: Snapshot) -> bytes | None:
        """The picture for models with eyes, if there is one."""
        del snapshot
        return None

    def instead_of_chart(self, snapshot: Snapshot) -> str:
        """The same facts as text, for models without."""
        del snapshot
        return ""

    def report(self, snapshot: Snapshot, said: Any) -> Report:
        raise NotImplementedError

    async def abefore_agent(self, state: Any, runtime: Runtime[Attempt]) -> dict[str, Any]:
        update: dict[str, Any] = {"messages": [HumanMessage(self.question(state))]}
        attempt = self._within(runtime.context)
        picture = await asyncio.to_thread(self.chart, state["snapshot"]) if attempt.sighted else None
        if picture is not None:
            digest = await asyncio.to_thread(attempt.keep, picture)
            update |= {"picture": b64encode(picture).decode(), f"{self.node}_chart": digest}
        return update

    async def aafter_agent(self, state: Any, runtime: Runtime[Attempt]) -> dict[str, Any]:
        del runtime
        report = await asyncio.to_thread(self.report, state["snapshot"], state["structured_response"])
        return {self.node: report.model_dump(mode="json")}

    def show(self, request: ModelRequest[Attempt], model: Model) -> ModelRequest[Attempt]:
        """The question as one model is asked it."""
        preset, state = model.preset, cast("dict[str, Any]", request.state)
        first, *others = request.messages
        text, system = str(first.content), told(self.node, preset.vision)
        if preset.structured_output == "prompt":
            system += _form_of(self.reading)
        if preset.vision and "picture" in state:
            picture = {"type": "image", "base64": state["picture"], "mime_type": "image/png"}
            shown = HumanMessage(content_blocks=cast("Any", [{"type": "text", "text": text}, picture]))
        else:
            shown = HumanMessage(f"{text}\n{self.instead_of_chart(state['snapshot'])}".strip())
        messages: list[AnyMessage] = [shown, *others]
        return request.override(
            model=model.chat,
            system_message=SystemMessage(system),
            messages=messages,
            response_format=_format(preset.structured_output, self.reading),
        )


@cache
def _format(form: str, reading: type[Reading]) -> Any:
    """How the library holds a model to the shape of an answer; None where the prompt does it. Made once: it is dear."""
    match form:
        case "json_schema":
            return ProviderStrategy(reading, strict=True)
        case "tool":
            return ToolStrategy(reading, handle_errors=False)
        case _:
            return None


@cache
def _form_of(reading: type[Reading]) -> str:
    schema = json.dumps(reading.model_json_schema(), indent=1)
    return f"\nAnswer with one JSON object and nothing else. It has to fit this JSON schema:\n```json\n{schema}\n```\n"


class IndicatorAgent(Agent):
    """Asks its tools for oscillators over the window, and judges them together."""

    node = "indicator"
    reading = IndicatorReading
    state = states.IndicatorSubgraphState
    may_use = TOOLS

    def question(self, state: dict[str, Any]) -> str:
        snapshot: Snapshot = state["snapshot"]
        return f"Bars of {snapshot['timeframe']}:\n{chart_text.bars_table(snapshot, BARS_TOLD)}"

    def report(self, snapshot: Snapshot, said: IndicatorReading) -> Report:
        return indicator_report(indicators.report(_window(snapshot))[0], said)


class PatternAgent(Agent):
    """Looks at the candles."""

    node = "pattern"
    reading = PatternReading
    state = states.PatternSubgraphState

    def question(self, state: dict[str, Any]) -> str:
        return f"The chart ends with the last closed bar of {state['snapshot']['timeframe']}."

    def chart(self, snapshot: Snapshot) -> bytes:
        return charts.pattern_chart(frame_of(snapshot))

    def instead_of_chart(self, snapshot: Snapshot) -> str:
        return f"{chart_text.bars_table(snapshot, BARS_TOLD)}\n{chart_text.swings_text(frame_of(snapshot))}"

    def report(self, snapshot: Snapshot, said: PatternReading) -> Report:
        del snapshot
        return pattern_report(said)


class TrendAgent(Agent):
    """Looks at the candles between the fitted lines; the lines are told as numbers too."""

    node = "trend"
    reading = TrendReading
    state = states.TrendSubgraphState

    def question(self, state: dict[str, Any]) -> str:
        snapshot: Snapshot = state["snapshot"]
        return f"Bars of {snapshot['timeframe']}. The fitted lines:\n{chart_text.lines_text(frame_of(snapshot))}"

    def chart(self, snapshot: Snapshot) -> bytes:
        return charts.trend_chart(frame_of(snapshot))

    def instead_of_chart(self, snapshot: Snapshot) -> str:
        return chart_text.bars_table(snapshot, BARS_TOLD)

    def report(self, snapshot: Snapshot, said: TrendReading) -> Report:
        return trend_report(trend.report(_window(snapshot))[0], said)


class DecisionAgent(Agent):
    """Reads the three reports as data."""

    node = "decision"
    reading = DecisionReading
    state = states.DecisionSubgraphState

    def question(self, state: dict[str, Any]) -> str:
        snapshot: Snapshot = state["snapshot"]
        facts = {"timeframe": snapshot["timeframe"], "last_close": snapshot["rows"][-1][4]}
        return json.dumps({**facts, **{name: state[name] for name in ("indicator", "pattern", "trend")}}, indent=1)

    def report(self, snapshot: Snapshot, said: DecisionReading) -> Report:
        del snapshot
        return trade_decision(said)


AGENTS: tuple[type[Agent], ...] = (IndicatorAgent, PatternAgent, TrendAgent, DecisionAgent)


def compiled(
    kind: type[Agent], within: Within = given, *, shown: bool = False
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """An agent as a graph of its own. Its messages, and with them every picture, are in no checkpoint; `shown` lets who
    draws the whole graph, or keeps a conversation, see them.
    """
    agent = kind(within)
    asking = Asking(agent.node, agent.reading, [tool.name for tool in agent.may_use], agent.show, within)
    create = cast("Any", langchain.agents).create_agent  # Its types say less than they could.
    return create(
        UNBOUND,
        list(agent.may_use),
        middleware=[agent, asking],
        response_format=ToolStrategy(agent.reading, handle_errors=False),
        state_schema=agent.state,
        context_schema=Attempt,
        checkpointer=None if shown else False,
        name=agent.node,
    )


def _window(snapshot: Snapshot) -> Windows:
    frame = frame_of(snapshot)
    return Windows.of(frame, [frame.height - 1])
