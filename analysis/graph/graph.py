"""Graph of an analysis: indicator, then pattern and trend in parallel, then decision.

    indicator -> (pattern || trend) -> decision

The graph is independent of models, store and server: its context (`AnalysisContext`) supplies them. It is built once
in a process and shared by concurrent analyses.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from analysis.graph import prompts
from analysis.graph.agents import AGENTS, compile_agent
from analysis.graph.context import AnalysisContext, ContextGetter, same_context
from analysis.graph.states import DecisionInput, GraphInput, GraphState

AGENT_VERSION = "graph.1"
NODES = tuple(agent.node for agent in AGENTS)

_INPUTS: dict[str, type[Any]] = {
    "indicator": GraphInput,
    "pattern": GraphInput,
    "trend": GraphInput,
    "decision": DecisionInput,
}


Graph = CompiledStateGraph[Any, Any, Any, Any]


@cache
def build_graph() -> Graph:
    """Return the graph without a checkpointer; its agents never have one."""
    return assemble_graph(AnalysisContext, same_context)


def assemble_graph(context: type[Any], get_context: ContextGetter, *, visible: bool = False) -> Graph:
    """Build the graph for a context type; `get_context` and `visible` as in `compile_agent`."""
    # LangGraph's types are too narrow here.
    parent: Any = StateGraph(GraphState, context_schema=context, input_schema=GraphInput)
    for agent in AGENTS:
        parent.add_node(
            agent.node, compile_agent(agent, get_context, visible=visible), input_schema=_INPUTS[agent.node]
        )
    parent.add_edge(START, "indicator")
    parent.add_edge("indicator", "pattern")
    parent.add_edge("indicator", "trend")
    # One edge from both: two edges would run the decision twice if the branches differ in length.
    parent.add_edge(["pattern", "trend"], "decision")
    parent.add_edge("decision", END)
    return parent.compile(name="analysis")


@cache
def graph_version() -> str:
    """Return a digest of the graph's structure: nodes and edges of graph and agents, tools and answer schemas."""
    drawn = [build_graph().get_graph(), *(compile_agent(agent).get_graph() for agent in AGENTS)]
    nodes = [sorted(each.nodes) for each in drawn]
    edges = [sorted((edge.source, edge.target, edge.conditional) for edge in each.edges) for each in drawn]
    forms = {agent.node: agent.answer_schema.model_json_schema() for agent in AGENTS}
    tools = {tool.name: convert_to_openai_tool(tool) for agent in AGENTS for tool in agent.allowed_tools}
    shape = json.dumps([nodes, edges, forms, tools], sort_keys=True)
    return sha256(shape.encode()).hexdigest()[:12]


def prompt_digests() -> tuple[tuple[str, str], ...]:
    """Return (agent, SHA-256 of its prompt) of every agent."""
    return tuple((node, prompts.digest(node)) for node in NODES)
