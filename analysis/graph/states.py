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

Told = dict[str, Any]
"""A report as JSON."""


class Asked(TypedDict):
    """What an analysis begins with: the window, and nothing that a model could have said."""

    snapshot: Snapshot


class GraphState(TypedDict):
    """One analysis under way. `pattern_chart`, `trend_chart`: SHA-256 of the pictures shown, if any were."""

    snapshot: Snapshot
    indicator: NotRequired[Told]
    pattern: NotRequired[Told]
    trend: NotRequired[Told]
    decision: NotRequired[Told]
    pattern_chart: NotRequired[str]
    trend_chart: NotRequired[str]


class Reports(TypedDict):
    """What a decision is made from: the reports, and of the window no more than its last close."""

    snapshot: Snapshot
    indicator: Told
    pattern: Told
    trend: Told


# What an agent was given it does not give back: two that work at the same time would both write it.
Given = OmitFromOutput
# What it answers it cannot be given.
Made = OmitFromInput


class IndicatorSubgraphState(AgentState[Any]):
    """Messages stay in here; `indicator` is the report."""

    snapshot: Annotated[Snapshot, Given]
    indicator: NotRequired[Annotated[Told, Made]]


class PatternSubgraphState(AgentState[Any]):
    """`picture`: the chart as base64, for the model's eyes only."""

    snapshot: Annotated[Snapshot, Given]
    picture: NotRequired[Annotated[str, PrivateStateAttr]]
    pattern: NotRequired[Annotated[Told, Made]]
    pattern_chart: NotRequired[Annotated[str, Made]]


class TrendSubgraphState(AgentState[Any]):
    """`picture`: the chart as base64, for the model's eyes only."""

    snapshot: Annotated[Snapshot, Given]
    picture: NotRequired[Annotated[str, PrivateStateAttr]]
    trend: NotRequired[Annotated[Told, Made]]
    trend_chart: NotRequired[Annotated[str, Made]]


class DecisionSubgraphState(AgentState[Any]):
    """Sees the reports of the others."""

    snapshot: Annotated[Snapshot, Given]
    indicator: Annotated[Told, Given]
    pattern: Annotated[Told, Given]
    trend: Annotated[Told, Given]
    decision: NotRequired[Annotated[Told, Made]]
