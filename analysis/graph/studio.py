"""Entry point of LangGraph Studio, named by `langgraph.json`.

Studio uses its own checkpointer and shows every agent with its messages. Its configuration selects the model (`model`
and `base_url`, as in a preset), else QUANTAGENT_STUDIO_MODEL and QUANTAGENT_STUDIO_URL; the key is in OPENAI_API_KEY.
Nothing is stored. The input is a snapshot of bars from `snapshot_of`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import httpx2
from typing_extensions import TypedDict

from analysis.graph.clients import build_model
from analysis.graph.context import AnalysisContext
from analysis.graph.graph import Graph, assemble_graph
from analysis.graph.recorded_transport import LiveTransport
from analysis.llm.call_log import MemoryCallLog
from analysis.llm.presets import ModelPreset
from engine import clock

ADDRESS = "https://api.openai.com/v1"
MODEL = "gpt-4o-mini"


class Configuration(TypedDict, total=False):
    """Model of Studio's calls."""

    model: str
    base_url: str


def studio_context(context: Any) -> AnalysisContext:
    """Return the context of an analysis in Studio."""
    configuration: Configuration = context or {}
    return _build_context(
        configuration.get("model") or os.environ.get("QUANTAGENT_STUDIO_MODEL", MODEL),
        configuration.get("base_url") or os.environ.get("QUANTAGENT_STUDIO_URL", ADDRESS),
    )


@cache
def _build_context(model: str, base_url: str) -> AnalysisContext:
    """Return the context for a model; cached, as Studio's one event loop shares one client."""
    preset = ModelPreset(model=model, base_url=base_url, vision=True)
    http = httpx2.AsyncClient(transport=LiveTransport(), trust_env=False)
    return AnalysisContext(
        "studio", 1, "studio", (build_model("studio", preset, http),), MemoryCallLog(), None, clock.now
    )


graph: Graph = assemble_graph(Configuration, studio_context, visible=True)
