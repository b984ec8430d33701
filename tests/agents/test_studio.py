"""LangGraph Studio finds the graph where `langgraph.json` says, without a checkpointer, and can run it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from typing import Any, cast

import pytest
from langgraph.graph.state import CompiledStateGraph

from analysis.charting.snapshot import snapshot_of
from analysis.graph import studio
from analysis.graph.graph import NODES, build_graph
from analysis.reports import Analysis
from tests.support.agents_world import BARS, FRAME
from tests.support.model_server import ModelServer
from tests.support.paths import ROOT


def graph() -> Any:
    """The graph that the file names, loaded as Studio does it."""
    said = json.loads((ROOT / "langgraph.json").read_text())
    path, _, name = said["graphs"]["analysis"].partition(":")
    spec = importlib.util.spec_from_file_location("studio_of_test", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_the_file_names_a_graph_without_a_checkpointer() -> None:
    found = graph()
    assert type(found) is CompiledStateGraph
    assert graph().checkpointer is None
    assert set(found.get_graph().nodes) == set(build_graph().get_graph().nodes)


def test_studio_can_ask_for_its_input_and_its_configuration_and_draw_every_agent() -> None:
    found = graph()
    assert found.get_input_jsonschema()["required"] == ["snapshot"]
    assert set(found.get_context_jsonschema()["properties"]) == {"model", "base_url"}
    drawn = set(found.get_graph(xray=True).nodes)
    assert {f"{node}:model" for node in NODES} | {"indicator:tools"} <= drawn


def test_a_conversation_in_studio_is_a_whole_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer() as server:
        monkeypatch.setenv("QUANTAGENT_STUDIO_URL", server.url)
        asked = {"snapshot": snapshot_of(BARS[-250:], FRAME)}

        async def run() -> dict[str, Any]:
            told = await cast("Any", studio.graph).ainvoke(asked, context={"model": "stub"})
            (model,) = studio.studio_context({"model": "stub"}).models
            await cast("Any", model.chat).http_async_client.aclose()
            return told

        told = asyncio.run(run())
        assert len(server.requests) == 5
        assert {exchange.body["model"] for exchange in server.requests} == {"stub"}
    assert Analysis.model_validate({name: told[name] for name in Analysis.model_fields})
