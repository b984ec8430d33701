"""Variant of a model preset: analyses by the agents of the graph."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import NamedTuple

import msgspec

from analysis.analyst import build_analysis_event
from analysis.graph.batch import GenerationProgress, Resources, generate
from analysis.graph.context import CostBudget
from analysis.graph.graph import AGENT_VERSION, graph_version, prompt_digests
from analysis.graph.run_analysis import AnalysisAuthor, Job
from analysis.llm.presets import SHAPING, ModelPreset, preset_digest, preset_text
from analysis.strategy import Decision
from analysis.variants import FormedAnalysis, StoredOutcome, Window
from engine.core.ids import analysis_stream
from engine.core.market import Bar, Symbol, Timeframe
from engine.store import Batch, Cause

WINDOW_BARS = 250
WARM_UP_BARS = 100
STILL_BARS = 3


class NamedPreset(NamedTuple):
    """A preset and its name in the log."""

    name: str
    preset: ModelPreset


class Agents:
    """Variant that creates analyses with the graph, a preset and its fallbacks.

    Its name contains a digest of all that shapes an answer: preset fields in `SHAPING`, prompts, agents and graph.
    Other fields, such as address, price or budget, may change within a variant.
    """

    version = AGENT_VERSION
    window_bars = WINDOW_BARS
    warm_up_bars = WARM_UP_BARS

    def __init__(
        self,
        presets: Sequence[NamedPreset],
        resources: Resources,
        *,
        budget: Decimal | None = None,
        progress: Callable[[GenerationProgress], None] = lambda progress: None,
    ) -> None:
        first = presets[0]
        self.name = f"{first.name}@{variant_digest(presets)[:12]}"
        self.preset = first.preset
        self.presets, self._resources, self._progress = presets, resources, progress
        self._last_cleanup: date | None = None
        self._budget = None if budget is None else CostBudget(budget, "this command")
        (main, *fallbacks) = ((each.name, preset_digest(preset_text(each.preset))) for each in presets)
        self._author = AnalysisAuthor(self.name, self.version, *main, tuple(fallbacks))

    def create_analyses(
        self,
        symbol: Symbol,
        timeframe: Timeframe,
        bars: Sequence[Bar],
        windows: Sequence[Window],
        on_result: Callable[[StoredOutcome], None],
    ) -> None:
        """Create and store the analysis of each window; call `on_result` with each outcome as it is stored.

        Windows that are too short or without price movement get a HOLD without a model call.
        """
        jobs = [self._job(symbol, timeframe, bars, window) for window in windows]
        skipped = {job.window: why for job in jobs if (why := skip_reason(job.bars))}
        for job in jobs:
            if job.window in skipped:
                on_result(self._hold(job, skipped[job.window]))

        def on_generated(stored: StoredOutcome, progress: GenerationProgress) -> None:
            on_result(stored)
            self._progress(progress)

        waiting = [job for job in jobs if job.window not in skipped]
        for each in self.presets if waiting else ():
            # The presets are part of the recording.
            self._resources.calls.store_body(preset_text(each.preset))
        asyncio.run(
            generate(
                self.presets,
                self._author,
                waiting,
                self._resources,
                on_generated,
                budget=self._budget,
                delete_before=self._expiry_due(),
            )
        )

    def _expiry_due(self) -> datetime | None:
        """Return the instant before which checkpoints and charts are to be deleted; None if done today or never."""
        now = self._resources.now()
        if self.preset.keep_days is None or self._last_cleanup == now.date():
            return None
        self._last_cleanup = now.date()
        return now - timedelta(days=self.preset.keep_days)

    def _job(self, symbol: Symbol, timeframe: Timeframe, bars: Sequence[Bar], window: Window) -> Job:
        return Job(symbol, timeframe, window, bars[window.row + 1 - window.bars : window.row + 1])

    def _hold(self, job: Job, reason: str) -> StoredOutcome:
        """Store a HOLD without calling a model."""
        analysis = FormedAnalysis(
            Decision("HOLD", reason=reason), msgspec.json.encode({"decision": {"reasons": [reason]}}).decode()
        )
        event = build_analysis_event(job.symbol, job.timeframe, job.window, self, analysis)
        stream = analysis_stream(event.analysis_id)
        self._resources.store.append([Batch(stream, 0, [event])], Cause(self._resources.actor))
        return StoredOutcome(event, 1)


def skip_reason(bars: Sequence[Bar]) -> str:
    """Return the reason for a HOLD without a model call; empty if the window needs a model."""
    if len(bars) < WARM_UP_BARS:
        return f"warm-up: {len(bars)} of {WARM_UP_BARS} bars"
    last = bars[-STILL_BARS:]
    if all(bar.high == bar.low == last[0].close for bar in last):
        return f"the market stands still: no price has changed for {STILL_BARS} bars"
    return ""


def variant_digest(presets: Sequence[NamedPreset]) -> str:
    """Return the SHA-256 of all that shapes an analysis: presets, prompts, agents and graph."""
    shaping = [
        {name: value for name, value in json.loads(preset_text(each.preset)).items() if name in SHAPING}
        for each in presets
    ]
    shape = json.dumps([shaping, prompt_digests(), AGENT_VERSION, graph_version()], sort_keys=True)
    return sha256(shape.encode()).hexdigest()
