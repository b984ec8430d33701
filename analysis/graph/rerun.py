"""Rerun of a stored analysis: the whole graph runs, with recorded answers instead of models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from analysis.graph.clients import open_models
from analysis.graph.context import AnalysisContext
from analysis.graph.graph import build_graph
from analysis.graph.recorded_transport import RecordedTransport, RecordingMissing
from analysis.graph.run_analysis import AnalysisAuthor, Job, run_analysis
from analysis.llm.call_log import CallLog, MemoryCallLog
from analysis.llm.presets import ModelPreset
from engine.core.events import AnalysisFailed, AnalysisMade, ModelCall

ANSWERED = "answered"


class Rerun(NamedTuple):
    """Result of a rerun: the stored event and the recomputed one."""

    stored: AnalysisMade
    recomputed: AnalysisMade | AnalysisFailed

    @property
    def equal(self) -> bool:
        """True if reports and decision are identical."""
        return not self.difference

    @property
    def difference(self) -> str:
        """Description of the first difference; empty if there is none."""
        if not isinstance(self.recomputed, AnalysisMade):
            return self.recomputed.reason
        for name in ("reports", "decision", "confidence", "horizon_bars", "risk_reward"):
            stored, recomputed = getattr(self.stored, name), getattr(self.recomputed, name)
            if stored != recomputed:
                return f"{name.replace('_', ' ')}: stored {stored}, recomputed {recomputed}"
        return ""


class Recording:
    """Recorded answers of an analysis by request key."""

    def __init__(self, model_calls: Sequence[ModelCall], calls: CallLog) -> None:
        # Of several attempts of one request the answered one counts, otherwise the last.
        self._by_request = {call.request: call for call in model_calls}
        self._by_request |= {call.request: call for call in model_calls if call.outcome == ANSWERED}
        self._calls = calls
        self.served = 0

    def __call__(self, key: str) -> str:
        call = self._by_request.get(key)
        if call is None:
            raise RecordingMissing(key)
        self.served += 1
        return self._calls.body(call.response) if call.response else ""


def rerun(
    stored: AnalysisMade,
    presets: Sequence[tuple[str, ModelPreset]],
    author: AnalysisAuthor,
    job: Job,
    calls: CallLog,
    now: Callable[[], datetime],
) -> Rerun:
    """Run the graph on the analysis's window with answers from its recording; opens no connection to a model.

    Raise `RecordingMissing` with the key for a request that was not recorded.
    """
    return asyncio.run(_rerun(stored, presets, author, job, calls, now))


async def _rerun(
    stored: AnalysisMade,
    presets: Sequence[tuple[str, ModelPreset]],
    author: AnalysisAuthor,
    job: Job,
    calls: CallLog,
    now: Callable[[], datetime],
) -> Rerun:
    assert stored.work is not None, "only analyses of the graph can be rerun"
    recording = Recording(stored.work.calls, calls)
    async with open_models(presets, lambda: RecordedTransport(recording)) as models:
        context = AnalysisContext(
            analysis_id=stored.analysis_id,
            version=1,
            variant=stored.variant,
            # Recorded answers need no rate limit.
            models=tuple(model._replace(pace=None) for model in models),
            calls=MemoryCallLog(),
            artefacts=None,
            now=now,
            pause=_no_pause,
        )
        return Rerun(stored, await run_analysis(build_graph(), job, context, author))


async def _no_pause(seconds: float) -> None:
    del seconds
