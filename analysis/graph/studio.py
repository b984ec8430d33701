"""The graph as LangGraph Studio opens it: `langgraph.json` names this module.

Studio brings its own checkpointer and shows every agent with its messages. Which model is asked, the environment says:
QUANTAGENT_STUDIO_MODEL and QUANTAGENT_STUDIO_URL, and the key in OPENAI_API_KEY. Nothing is stored. The input is a
snapshot of bars, as `snapshot_of` makes it.
"""

from __future__ import annotations

import os

from analysis.calls import MemoryCalls
from analysis.graph.attempt import Attempt
from analysis.graph.graph import Graph, build
from analysis.graph.models import made
from analysis.graph.wire import Live, client
from analysis.presets import ModelPreset
from engine import clock

ADDRESS = "https://api.openai.com/v1"
MODEL = "gpt-4o-mini"


def attempt() -> Attempt:
    """The attempt of a conversation in Studio, with the model that the environment names."""
    preset = ModelPreset(
        model=os.environ.get("QUANTAGENT_STUDIO_MODEL", MODEL),
        base_url=os.environ.get("QUANTAGENT_STUDIO_URL", ADDRESS),
        vision=True,
    )
    models = (made("studio", preset, client(Live())),)
    return Attempt("studio", 1, "studio", models, MemoryCalls(), None, clock.now)


graph: Graph = build()
