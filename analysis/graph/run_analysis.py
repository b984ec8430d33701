"""Run of the graph on one window of bars, with the event of its analysis or failure as result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

import msgspec
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError

from analysis.analyst import Window, analysis_id
from analysis.charting.snapshot import snapshot_of
from analysis.graph.checkpoints import Checkpoints, CheckpointsUnavailable, thread_config
from analysis.graph.context import IMAGE_MARKER, AnalysisContext
from analysis.graph.graph import Graph, graph_version, prompt_digests
from analysis.graph.model_middleware import ANSWERED, ModelFailed
from analysis.reports import Analysis
from engine.core.errors import QuantagentError
from engine.core.events import AnalysisFailed, AnalysisMade, GraphWork, ModelCall
from engine.core.market import Bar, Direction, Symbol, Timeframe
from engine.core.money import ZERO, total

STEPS_MAX = 40
"""Step limit of the graph and each agent; no valid analysis reaches it."""

AnalysisResult = AnalysisMade | AnalysisFailed


class Job(NamedTuple):
    """One window to analyze: its bars, oldest first, and its identity."""

    symbol: Symbol
    timeframe: Timeframe
    window: Window
    bars: Sequence[Bar]

    def id_for(self, variant: str) -> str:
        return analysis_id(self.symbol, self.timeframe, self.window, variant)


class AnalysisAuthor(NamedTuple):
    """Author of analyses: variant, name and digest of its preset, and those of the fallbacks."""

    variant: str
    agent_version: str
    preset: str
    preset_digest: str
    fallbacks: tuple[tuple[str, str], ...] = ()


def thread_id_of(context: AnalysisContext) -> str:
    """Return the thread of an analysis: run / analysis / graph version / version of the event.

    Only the same analysis can resume it. The run is `shared`, as analyses belong to no run: any process may finish one.
    Symbol, timeframe, instant, variant and window are in the analysis's id.
    """
    return f"shared/{context.analysis_id}/{graph_version()}/{context.version}"


async def run_analysis(
    graph: Graph, job: Job, context: AnalysisContext, author: AnalysisAuthor, checkpoints: Checkpoints | None = None
) -> AnalysisResult:
    """Return the event of a window's analysis; a failed model results in `AnalysisFailed`.

    Raise `BudgetSpent` and errors of the store: they do not concern the window.
    """
    began = asyncio.get_running_loop().time()
    try:
        state, checkpoint = await _run(graph, job, context, checkpoints)
        reports = Analysis.model_validate({name: state[name] for name in Analysis.model_fields})
    except ModelFailed as error:
        return _failure_event(job, context, author, str(error), began)
    except (QuantagentError, CheckpointsUnavailable):
        raise
    except GraphRecursionError:
        return _failure_event(job, context, author, f"the graph came to no end in {STEPS_MAX} steps", began)
    except Exception as error:
        # An unexpected error of a library must not end a whole run.
        return _failure_event(job, context, author, f"the graph failed: {type(error).__name__}", began)
    decision = reports.decision
    work = _graph_work(context, author, state, began)
    return AnalysisMade(
        **_identity_fields(job, context, author),
        decision=Direction(decision.decision),
        confidence=decision.confidence,
        horizon_bars=decision.horizon_bars,
        risk_reward=decision.risk_reward,
        reports=reports.model_dump_json(),
        window_digest=job.window.digest,
        window_bars=job.window.bars,
        agent_version=author.agent_version,
        work=msgspec.structs.replace(
            work, checkpoint_id=checkpoint, state_snapshot="" if checkpoint else _snapshot_of(state)
        ),
    )


async def _run(
    graph: Graph, job: Job, context: AnalysisContext, checkpoints: Checkpoints | None
) -> tuple[dict[str, Any], str]:
    """Return the final state and the id of its checkpoint; continue the thread of a killed process."""
    config: Any = {**thread_config(thread_id_of(context)), "recursion_limit": STEPS_MAX}
    graph_input = {"snapshot": snapshot_of(job.bars, job.timeframe)}
    if checkpoints is None:
        return await cast("Any", graph).ainvoke(graph_input, config, context=context), ""
    saved: Any = graph.copy({"checkpointer": checkpoints.saver})
    before = await saved.aget_state(config)
    if before.values and not before.next:
        # An earlier process completed it and was killed before storing it.
        return before.values, _checkpoint_id(before.config)
    state = await saved.ainvoke(None if before.next else graph_input, config, context=context, durability="async")
    after = await checkpoints.saver.aget_tuple(config)
    return state, _checkpoint_id(after.config) if after else ""


def _checkpoint_id(config: RunnableConfig) -> str:
    return config.get("configurable", {})["checkpoint_id"]


def _failure_event(
    job: Job, context: AnalysisContext, author: AnalysisAuthor, reason: str, began: float
) -> AnalysisFailed:
    return AnalysisFailed(
        **_identity_fields(job, context, author),
        reason=reason,
        window_digest=job.window.digest,
        work=_graph_work(context, author, {}, began),
    )


def _identity_fields(job: Job, context: AnalysisContext, author: AnalysisAuthor) -> dict[str, Any]:
    return {
        "analysis_id": context.analysis_id,
        "symbol": job.symbol,
        "timeframe": job.timeframe.value,
        "as_of": job.window.at,
        "variant": author.variant,
    }


def _graph_work(context: AnalysisContext, author: AnalysisAuthor, state: dict[str, Any], began: float) -> GraphWork:
    first = context.models[0].preset
    calls = tuple(recorded_call.call for recorded_call in context.calls.calls_for(context.analysis_id, context.version))
    nodes = dict.fromkeys(call.node for call in calls)
    seen = [name for name in ("pattern", "trend") if _saw_chart(context, calls, name)]
    charts = ((name, state.get(f"{name}_chart", "")) for name in seen)
    return GraphWork(
        preset=author.preset,
        preset_digest=author.preset_digest,
        fallbacks=author.fallbacks,
        model_provider=first.provider,
        model_name=first.model,
        graph_version=graph_version(),
        prompt_digests=prompt_digests(),
        calls=calls,
        input_tokens=sum(call.input_tokens for call in calls),
        output_tokens=sum(call.output_tokens for call in calls),
        cost=total([ZERO, *(call.cost for call in calls)]),
        latency_ms=round((asyncio.get_running_loop().time() - began) * 1000),
        node_latency_ms=tuple((node, _node_latency_ms(calls, node)) for node in nodes),
        temperature=first.temperature,
        seed=first.seed,
        sighted=len(seen) == 2,
        artefacts=tuple((name, digest) for name, digest in charts if digest),
        knowledge_cutoff="" if first.knowledge_cutoff is None else first.knowledge_cutoff.isoformat(),
        thread_id=thread_id_of(context),
    )


def _saw_chart(context: AnalysisContext, calls: Sequence[ModelCall], node: str) -> bool:
    """Return True if the answered request of an agent contained a chart; a fallback may have no vision."""
    answered = [call for call in calls if (call.node, call.outcome) == (node, ANSWERED)]
    return bool(answered) and IMAGE_MARKER in context.calls.body(answered[-1].request)


def _node_latency_ms(calls: Sequence[ModelCall], node: str) -> int:
    """Return the milliseconds that a node waited for its models."""
    return sum(call.latency_ms for call in calls if call.node == node)


def _snapshot_of(state: dict[str, Any]) -> str:
    """Return the state without the bars as JSON, for analyses without a checkpoint."""
    kept = {name: value for name, value in state.items() if name != "snapshot"}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def start_of_day(now: datetime) -> datetime:
    """Return the beginning of an instant's UTC day, the period of daily budgets."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
