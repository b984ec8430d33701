"""What the graph and each of its agents remember while they work.

Only JSON, so that a checkpoint is data and nothing else; pictures are named by their digest. Each agent answers under
a key of its own, so that two of them can work at the same time.
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
    """What an analysis begins with: the window, and nothing that a model could have said."""

    snapshot: Snapshot


class GraphState(TypedDict):
    """One analysis under way. `pattern_chart`, `trend_chart`: SHA-256 of the pictures shown, if any were."""

    snapshot: Snapshot
    indicator: NotRequired[ReportJson]
    pattern: NotRequired[ReportJson]
    trend: NotRequired[ReportJson]
    decision: NotRequired[ReportJson]
    pattern_chart: NotRequired[str]
    trend_chart: NotRequired[str]


class DecisionInput(TypedDict):
    """What a decision is made from: the reports, and of the window no more than its last close."""

    snapshot: Snapshot
    indicator: ReportJson
    pattern: ReportJson
    trend: ReportJson


# What an agent was given it does not give back: two that work at the same time would both write it.
InputOnly = OmitFromOutput
# What it answers it cannot be given.
OutputOnly = OmitFromInput


class IndicatorSubgraphState(AgentState[Any]):
    """Messages stay in here; `indicator` is the report."""

    snapshot: Annotated[Snapshot, InputOnly]
    indicator: NotRequired[Annotated[ReportJson, OutputOnly]]


class PatternSubgraphState(AgentState[Any]):
    """`picture`: the chart as base64, for the model's eyes only."""

    snapshot: Annotated[Snapshot, InputOnly]
    picture: NotRequired[Annotated[str, PrivateStateAttr]]
    pattern: NotRequired[Annotated[ReportJson, OutputOnly]]
    pattern_chart: NotRequired[Annotated[str, OutputOnly]]


class TrendSubgraphState(AgentState[Any]):
    """`picture`: the chart as base64, for the model's eyes only."""

    snapshot: Annotated[Snapshot, InputOnly]
    picture: NotRequired[Annotated[str, PrivateStateAttr]]
    trend: NotRequired[Annotated[ReportJson, OutputOnly]]
    trend_chart: NotRequired[Annotated[str, OutputOnly]]


class DecisionSubgraphState(AgentState[Any]):
    """Sees the reports of the others."""

    snapshot: Annotated[Snapshot, InputOnly]
    indicator: Annotated[ReportJson, InputOnly]
    pattern: Annotated[ReportJson, InputOnly]
    trend: Annotated[ReportJson, InputOnly]
    decision: NotRequired[Annotated[ReportJson, OutputOnly]]
