"""States of the graph and its agents.

They hold only JSON, so that a checkpoint is pure data; charts are referred to by digest. Each agent writes its own
key, so that two agents can run in parallel.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from langchain.agents import AgentState
from langchain.agents.middleware.types import OmitFromInput, OmitFromOutput, PrivateStateAttr
from typing_extensions import TypedDict

from analysis.charting.snapshot import Snapshot

ReportJson = dict[str, Any]
"""A report as JSON."""


class GraphInput(TypedDict):
    """Input of the graph: the window of bars alone."""

    snapshot: Snapshot


class GraphState(TypedDict):
    """State of one analysis. pattern_chart, trend_chart: SHA-256 of the charts sent to a model, if any."""

    snapshot: Snapshot
    indicator: NotRequired[ReportJson]
    pattern: NotRequired[ReportJson]
    trend: NotRequired[ReportJson]
    decision: NotRequired[ReportJson]
    pattern_chart: NotRequired[str]
    trend_chart: NotRequired[str]


class DecisionInput(TypedDict):
    """Input of the Decision agent: the three reports, and the window, of which it uses only the last close."""

    snapshot: Snapshot
    indicator: ReportJson
    pattern: ReportJson
    trend: ReportJson


# Agents do not return their input: two parallel agents would both write the same key.
InputOnly = OmitFromOutput
OutputOnly = OmitFromInput


class IndicatorSubgraphState(AgentState[Any]):
    """State of the Indicator agent; its messages stay private."""

    snapshot: Annotated[Snapshot, InputOnly]
    indicator: NotRequired[Annotated[ReportJson, OutputOnly]]


class PatternSubgraphState(AgentState[Any]):
    """State of the Pattern agent. `picture`: the chart as base64, never returned."""

    snapshot: Annotated[Snapshot, InputOnly]
    picture: NotRequired[Annotated[str, PrivateStateAttr]]
    pattern: NotRequired[Annotated[ReportJson, OutputOnly]]
    pattern_chart: NotRequired[Annotated[str, OutputOnly]]


class TrendSubgraphState(AgentState[Any]):
    """State of the Trend agent. `picture`: the chart as base64, never returned."""

    snapshot: Annotated[Snapshot, InputOnly]
    picture: NotRequired[Annotated[str, PrivateStateAttr]]
    trend: NotRequired[Annotated[ReportJson, OutputOnly]]
    trend_chart: NotRequired[Annotated[str, OutputOnly]]


class DecisionSubgraphState(AgentState[Any]):
    """State of the Decision agent, with the reports of the others."""

    snapshot: Annotated[Snapshot, InputOnly]
    indicator: Annotated[ReportJson, InputOnly]
    pattern: Annotated[ReportJson, InputOnly]
    trend: Annotated[ReportJson, InputOnly]
    decision: NotRequired[Annotated[ReportJson, OutputOnly]]
