"""The agents of a model preset as a variant, beside the rules and everybody's own strategies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import NamedTuple

import msgspec

from analysis.analyst import fact
from analysis.graph.batch import Progress, Resources, generate
from analysis.graph.context import Budget
from analysis.graph.graph import AGENT_VERSION, prompt_digests, version
from analysis.graph.run_analysis import Author, Job
from analysis.llm.presets import SHAPING, ModelPreset, digest_of, text_of
from analysis.strategy import Opinion
from analysis.variants import Formed, Stored, Window
from engine.core.ids import analysis_stream
from engine.core.market import Bar, Symbol, Timeframe
from engine.store import Batch, Cause

WINDOW_BARS = 250
WARM_UP_BARS = 100
STILL_BARS = 3


class Named(NamedTuple):
    """A preset and the name it has in the log."""

    name: str
    preset: ModelPreset


class Agents:
    """Makes analyses with the graph, by a preset and its fallbacks.

    The name says which opinions are its own: those of the same preset (as far as it shapes answers), prompts, agents
    and graph. An address, a price or a budget may change without making another variant.
    """

    version = AGENT_VERSION
    window_bars = WINDOW_BARS
    warm_up_bars = WARM_UP_BARS

    def __init__(
        self,
        presets: Sequence[Named],
        resources: Resources,
        *,
        budget: Decimal | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        first = presets[0]
        self.name = f"{first.name}@{variant_digest(presets)[:12]}"
        self.preset = first.preset
        self.presets, self._resources, self._progress = presets, resources, progress
        self._tidied: date | None = None
        self._budget = None if budget is None else Budget(budget, "this command")
        (main, *standing_by) = ((each.name, digest_of(text_of(each.preset))) for each in presets)
        self._author = Author(self.name, self.version, *main, tuple(standing_by))

    def make(
        self,
        symbol: Symbol,
        timeframe: Timeframe,
        bars: Sequence[Bar],
        windows: Sequence[Window],
        heard: Callable[[Stored], None],
    ) -> None:
        """Makes and stores the opinion on each window, and tells each to `heard` as it comes.

        No model is asked about a window that is too short, or in which the market stands still.
        """
        jobs = [self._job(symbol, timeframe, bars, window) for window in windows]
        settled = {job.window: why for job in jobs if (why := unasked(job.bars))}
        for job in jobs:
            if job.window in settled:
                heard(self._hold(job, settled[job.window]))

        def told(stored: Stored, progress: Progress) -> None:
            heard(stored)
            self._progress(progress)

        waiting = [job for job in jobs if job.window not in settled]
        for each in self.presets if waiting else ():
            # What the presets say is part of the recording.
            self._resources.calls.keep(text_of(each.preset))
        asyncio.run(
            generate(
                self.presets,
                self._author,
                waiting,
                self._resources,
                told,
                budget=self._budget,
                forget=self._forgettable(),
            )
        )

    def _forgettable(self) -> datetime | None:
        """Until when checkpoints and charts are forgotten, once a day."""
        now = self._resources.now()
        if self.preset.keep_days is None or self._tidied == now.date():
            return None
        self._tidied = now.date()
        return now - timedelta(days=self.preset.keep_days)

    def _job(self, symbol: Symbol, timeframe: Timeframe, bars: Sequence[Bar], window: Window) -> Job:
        return Job(symbol, timeframe, window, bars[window.row + 1 - window.bars : window.row + 1])

    def _hold(self, job: Job, why: str) -> Stored:
        """A HOLD that no model was asked for."""
        formed = Formed(Opinion("HOLD", reason=why), msgspec.json.encode({"decision": {"reasons": [why]}}).decode())
        made = fact(job.symbol, job.timeframe, job.window, self, formed)
        stream = analysis_stream(made.analysis_id)
        self._resources.store.append([Batch(stream, 0, [made])], Cause(self._resources.actor))
        return Stored(made, 1)


def unasked(bars: Sequence[Bar]) -> str:
    """Why no model is asked about a window, empty where one is."""
    if len(bars) < WARM_UP_BARS:
        return f"warm-up: {len(bars)} of {WARM_UP_BARS} bars"
    last = bars[-STILL_BARS:]
    if all(bar.high == bar.low == last[0].close for bar in last):
        return f"the market stands still: no price has changed for {STILL_BARS} bars"
    return ""


def variant_digest(presets: Sequence[Named]) -> str:
    """SHA-256 over all that shapes an opinion: presets, prompts, agents and graph."""
    shaping = [
        {name: value for name, value in json.loads(text_of(each.preset)).items() if name in SHAPING} for each in presets
    ]
    shape = json.dumps([shaping, prompt_digests(), AGENT_VERSION, version()], sort_keys=True)
    return sha256(shape.encode()).hexdigest()
