"""Concurrent generation of many analyses within a preset's limits; each is stored as soon as it is complete.

Stored analyses are not repeated: a generation that was stopped, killed or ran out of budget continues where it ended.
It stops after many consecutive failures of a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import httpx2

from analysis.analyst import latest_outcome
from analysis.charting.chart_store import Artefacts
from analysis.graph.checkpoints import Checkpoints, CheckpointsUnavailable, open_checkpoints
from analysis.graph.clients import open_models
from analysis.graph.context import AnalysisContext, CostBudget, Model
from analysis.graph.graph import Graph, build_graph
from analysis.graph.recorded_transport import LiveTransport
from analysis.graph.run_analysis import AnalysisAuthor, AnalysisResult, Job, run_analysis, start_of_day
from analysis.llm.call_log import CallLog
from analysis.llm.presets import ModelPreset
from analysis.variants import StoredOutcome, VariantUnavailable
from engine.core.errors import QuantagentError, StoreUnavailable, VersionConflict
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.money import ZERO, add
from engine.store import Batch, Cause, LogEntry, Store
from engine.store.connections import failure_reason

FAILURES_IN_A_ROW = 10
DAY = timedelta(days=1)


class ModelUnavailable(VariantUnavailable):
    """A model that failed `FAILURES_IN_A_ROW` times in a row."""

    default_code = "MODEL_UNAVAILABLE"


class Resources(NamedTuple):
    """Dependencies of a generation.

    store, actor: event store and the name recorded with events; calls: log of model calls; now: wall clock; artefacts:
    store of charts, None keeps none; checkpoints: connection string of the checkpoint database, None keeps none.
    """

    store: Store
    actor: str
    calls: CallLog
    now: Callable[[], datetime]
    artefacts: Artefacts | None = None
    checkpoints: str | None = None
    transport: Callable[[], httpx2.AsyncBaseTransport] = LiveTransport


class GenerationProgress(NamedTuple):
    """Progress of a generation: analyses done (including failed ones), failed, and their cost in US dollars."""

    done: int
    failed: int
    cost: Decimal


ResultCallback = Callable[[StoredOutcome, GenerationProgress], None]


async def generate(
    presets: Sequence[tuple[str, ModelPreset]],
    author: AnalysisAuthor,
    jobs: Sequence[Job],
    resources: Resources,
    on_result: ResultCallback,
    *,
    budget: CostBudget | None = None,
    delete_before: datetime | None = None,
) -> None:
    """Create and store the analysis of every job; call `on_result` with each outcome as it is stored.

    presets: the variant's own, then its fallbacks; budget: for this generation, in addition to the presets' daily
    budgets; delete_before: delete checkpoints and charts last written before this instant.
    Raise `BudgetSpent` before a call that could exceed a budget, and `ModelUnavailable` after repeated failures;
    completed analyses stay stored.
    """
    if not jobs:
        return
    async with AsyncExitStack() as stack:
        models = await stack.enter_async_context(open_models(presets, resources.transport))
        models = tuple(_with_budgets(model, resources, budget) for model in models)
        generation = _Generation(resources, author, models, on_result)
        workers = min(presets[0][1].concurrency, len(jobs))
        waiting = iter(jobs)
        savers = [await stack.enter_async_context(_OptionalCheckpoints(resources.checkpoints)) for _ in range(workers)]
        async with asyncio.TaskGroup() as group:
            for saver in savers:
                group.create_task(_work(generation, waiting, saver))
        if delete_before is not None:
            await _delete_expired(resources, savers[0], delete_before)
    if generation.stopped is not None:
        raise generation.stopped


async def _delete_expired(resources: Resources, kept: Checkpoints | None, before: datetime) -> None:
    if kept is not None:
        await kept.delete_before(before)
    if resources.artefacts is not None:
        await asyncio.to_thread(resources.artefacts.delete_before, before)


def _with_budgets(model: Model, resources: Resources, budget: CostBudget | None) -> Model:
    """Return the model with its daily budget and the budget of the generation."""

    def spent_today() -> Decimal:
        day = start_of_day(resources.now())
        return resources.calls.spent(model.name, day, day + DAY)

    daily = CostBudget(model.preset.budget_usd, f"model {model.name} today", spent_today)
    return model._replace(budgets=(daily,) if budget is None else (daily, budget))


class _OptionalCheckpoints:
    """Context manager of one worker's checkpoints; None without a connection string."""

    def __init__(self, dsn: str | None) -> None:
        self._dsn, self._stack = dsn, AsyncExitStack()

    async def __aenter__(self) -> Checkpoints | None:
        return None if self._dsn is None else await self._stack.enter_async_context(open_checkpoints(self._dsn))

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()


class _Generation:
    """State shared by the workers: graph, store, progress, and the error that stops them."""

    def __init__(
        self, resources: Resources, author: AnalysisAuthor, models: tuple[Model, ...], on_result: ResultCallback
    ) -> None:
        self.resources, self.author, self.models = resources, author, models
        self.graph: Graph = build_graph()
        self.stopped: QuantagentError | None = None
        self._on_result, self._store_lock = on_result, asyncio.Lock()
        self._progress, self._consecutive_failures = GenerationProgress(0, 0, ZERO), 0

    async def read_entries(self, analysis: str) -> list[LogEntry]:
        async with self._store_lock:
            return await asyncio.to_thread(lambda: list(self.resources.store.read(analysis_stream(analysis))))

    async def store(self, event: AnalysisResult, after: int) -> StoredOutcome:
        """Append an event, or return the analysis that another process stored meanwhile."""
        batch = Batch(analysis_stream(event.analysis_id), after, [event])
        try:
            async with self._store_lock:
                await asyncio.to_thread(self.resources.store.append, [batch], Cause(self.resources.actor))
        except VersionConflict:
            rows = await self.read_entries(event.analysis_id)
            existing = _stored_analysis(rows)
            return existing if existing is not None else await self.store(event, len(rows))
        return StoredOutcome(event, after + 1)

    def report(self, stored: StoredOutcome, *, is_new: bool) -> None:
        failed = isinstance(stored.event, AnalysisFailed)
        cost = stored.event.work.cost if is_new and stored.event.work is not None else ZERO
        before = self._progress
        self._progress = GenerationProgress(before.done + 1, before.failed + failed, add(before.cost, cost))
        self._consecutive_failures = self._consecutive_failures + 1 if failed else 0
        if isinstance(stored.event, AnalysisFailed) and self._consecutive_failures >= FAILURES_IN_A_ROW:
            self.stopped = ModelUnavailable(
                f"{self._consecutive_failures} analyses in a row failed with {self.author.preset}; the last reason "
                f"was: {stored.event.reason}."
            )
        self._on_result(stored, self._progress)


async def _work(generation: _Generation, waiting: Iterable[Job], saver: Checkpoints | None) -> None:
    for job in waiting:
        if generation.stopped is not None:
            return
        try:
            await _process_job(generation, job, saver)
        except QuantagentError as error:
            # A spent budget or an unavailable database. Other workers finish analyses they already paid for.
            generation.stopped = error
            return
        except CheckpointsUnavailable as error:
            generation.stopped = StoreUnavailable(
                f"the checkpoints cannot be used: {failure_reason(error)}. Check that the server runs and retry; "
                "completed analyses are kept."
            )
            return


async def _process_job(generation: _Generation, job: Job, kept: Checkpoints | None) -> None:
    """Create and store one analysis unless it is stored; wait for another process that works on it."""
    analysis = job.id_for(generation.author.variant)
    before = await generation.read_entries(analysis)
    async with nullcontext() if kept is None else kept.exclusive(analysis):
        rows = await generation.read_entries(analysis)
        known = latest_outcome(rows) if len(rows) > len(before) else _stored_analysis(rows)
        if known is not None:
            generation.report(known, is_new=False)
            return
        resources, keep = generation.resources, generation.models[0].preset.checkpoints
        context = AnalysisContext(
            analysis_id=analysis,
            version=len(rows) + 1,
            variant=generation.author.variant,
            models=generation.models,
            calls=resources.calls,
            artefacts=resources.artefacts,
            now=resources.now,
        )
        saver = None if keep == "none" else kept
        event = await run_analysis(generation.graph, job, context, generation.author, saver)
        stored = await generation.store(event, len(rows))
        if saver is not None and event.work is not None and stored.event is event:
            await saver.prune(event.work.thread_id, keep)
    generation.report(stored, is_new=True)


def _stored_analysis(rows: Iterable[LogEntry]) -> StoredOutcome | None:
    outcome = latest_outcome(rows)
    return outcome if outcome is not None and isinstance(outcome.event, AnalysisMade) else None
