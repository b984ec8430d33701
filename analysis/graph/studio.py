"""The graph as LangGraph Studio opens it: `langgraph.json` names this module.

Studio brings its own checkpointer and shows every agent with its messages. Which model is asked, its configuration says
(a preset's `model` and `base_url`), else QUANTAGENT_STUDIO_MODEL and QUANTAGENT_STUDIO_URL; the key is in
OPENAI_API_KEY. Nothing is stored. The input is a snapshot of bars, as `snapshot_of` makes it.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import httpx2
from typing_extensions import TypedDict

from analysis.graph.clients import model_of
from analysis.graph.context import Attempt
from analysis.graph.graph import Graph, assembled
from analysis.graph.recorded_transport import Live
from analysis.llm.call_log import MemoryCalls
from analysis.llm.presets import ModelPreset
from engine import clock

ADDRESS = "https://api.openai.com/v1"
MODEL = "gpt-4o-mini"


class Configuration(TypedDict, total=False):
    """Which model Studio asks."""

    model: str
    base_url: str


def attempt(context: Any) -> Attempt:
    """The attempt of a conversation in Studio."""
    said: Configuration = context or {}
    return _attempt(
        said.get("model") or os.environ.get("QUANTAGENT_STUDIO_MODEL", MODEL),
        said.get("base_url") or os.environ.get("QUANTAGENT_STUDIO_URL", ADDRESS),
    )


@cache
def _attempt(model: str, base_url: str) -> Attempt:
    """One client for as long as Studio runs: it has one event loop."""
    preset = ModelPreset(model=model, base_url=base_url, vision=True)
    http = httpx2.AsyncClient(transport=Live(), trust_env=False)
    return Attempt("studio", 1, "studio", (model_of("studio", preset, http),), MemoryCalls(), None, clock.now)


graph: Graph = assembled(Configuration, attempt, shown=True)
