"""Makes many analyses at the same time, within a preset's limits; each is stored as soon as it is made.

What is stored is never asked again: a generation that was stopped, killed or out of budget goes on where it was. A
model that fails many times in a row ends it, for the rest would fail too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import httpx2

from analysis.analyst import settled
from analysis.charting.chart_store import Artefacts
from analysis.graph.checkpoints import Checkpoints, Gone, checkpoints
from analysis.graph.clients import reached
from analysis.graph.context import Attempt, Budget, Model
from analysis.graph.graph import Graph, build
from analysis.graph.recorded_transport import Live
from analysis.graph.run_analysis import Author, Job, Opinion, beginning, make
from analysis.llm.call_log import Calls
from analysis.llm.presets import ModelPreset
from analysis.variants import Stored, Unavailable
from engine.core.errors import BookMoved, QuantagentError, StoreUnavailable
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.money import ZERO, add
from engine.store import Batch, Cause, Recorded, Store
from engine.store.connections import reason_of

FAILURES_IN_A_ROW = 10
DAY = timedelta(days=1)


class ModelUnavailable(Unavailable):
    """A model failed so often that asking on makes no sense."""


class Resources(NamedTuple):
    """What analyses are made with: the log and whose name is put to it, the recorded calls, where pictures are kept,
    the database of the checkpoints, and the wall clock."""

    store: Store
    actor: str
    calls: Calls
    now: Callable[[], datetime]
    pictures: Artefacts | None = None
    checkpoints: str | None = None
    transport: Callable[[], httpx2.AsyncBaseTransport] = Live


class Progress(NamedTuple):
    """How far a generation is: analyses done (failed ones among them), and what they have cost in US dollars."""

    done: int
    failed: int
    cost: Decimal


Heard = Callable[[Stored, Progress], None]


async def generate(
    presets: Sequence[tuple[str, ModelPreset]],
    author: Author,
    jobs: Sequence[Job],
    resources: Resources,
    heard: Heard,
    *,
    budget: Budget | None = None,
    forget: datetime | None = None,
) -> None:
    """Makes and stores the opinion on every job; `heard` is told of each, as they come.

    presets: the variant's own, then its fallbacks. budget: for all of this, beside each preset's own by the day.
    forget: until when what was last written of checkpoints and charts is deleted.
    Raises `BudgetSpent` before a question that could cost more than is left, and `ModelUnavailable`; what was made
    until then is stored.
    """
    if not jobs:
        return
    async with AsyncExitStack() as stack:
        models = await stack.enter_async_context(reached(presets, resources.transport))
        models = tuple(_budgeted(model, resources, budget) for model in models)
        desk = _Desk(resources, author, models, heard)
        workers = min(presets[0][1].concurrency, len(jobs))
        waiting = iter(jobs)
        savers = [await stack.enter_async_context(_MaybeCheckpoints(resources.checkpoints)) for _ in range(workers)]
        async with asyncio.TaskGroup() as group:
            for saver in savers:
                group.create_task(_work(desk, waiting, saver))
        if forget is not None:
            await _forget(resources, savers[0], forget)
    if desk.stopped is not None:
        raise desk.stopped


async def _forget(resources: Resources, kept: Checkpoints | None, before: datetime) -> None:
    if kept is not None:
        await kept.forget(before)
    if resources.pictures is not None:
        await asyncio.to_thread(resources.pictures.forget, before)


def _budgeted(model: Model, resources: Resources, budget: Budget | None) -> Model:
    """The model with what may be spent on it today, and on all of them together here."""

    def spent_today() -> Decimal:
        day = beginning(resources.now())
        return resources.calls.spent(model.name, day, day + DAY)

    daily = Budget(model.preset.budget_usd, f"model {model.name} today", spent_today)
    return model._replace(budgets=(daily,) if budget is None else (daily, budget))


class _MaybeCheckpoints:
    """The checkpoints of one worker, or None where there are none."""

    def __init__(self, dsn: str | None) -> None:
        self._dsn, self._stack = dsn, AsyncExitStack()

    async def __aenter__(self) -> Checkpoints | None:
        return None if self._dsn is None else await self._stack.enter_async_context(checkpoints(self._dsn))

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()


class _Desk:
    """What the workers share: the graph, the log, the progress, and why to stop."""

    def __init__(self, resources: Resources, author: Author, models: tuple[Model, ...], heard: Heard) -> None:
        self.resources, self.author, self.models = resources, author, models
        self.graph: Graph = build()
        self.stopped: QuantagentError | None = None
        self._heard, self._log = heard, asyncio.Lock()
        self._progress, self._in_a_row = Progress(0, 0, ZERO), 0

    async def stored(self, analysis: str) -> list[Recorded]:
        async with self._log:
            return await asyncio.to_thread(lambda: list(self.resources.store.read(analysis_stream(analysis))))

    async def store(self, fact: Opinion, after: int) -> Stored:
        """Appends a fact, or finds the opinion that somebody else has stored meanwhile."""
        batch = Batch(analysis_stream(fact.analysis_id), after, [fact])
        try:
            async with self._log:
                await asyncio.to_thread(self.resources.store.append, [batch], Cause(self.resources.actor))
        except BookMoved:
            rows = await self.stored(fact.analysis_id)
            theirs = _opinion(rows)
            return theirs if theirs is not None else await self.store(fact, len(rows))
        return Stored(fact, after + 1)

    def hear(self, stored: Stored, *, made: bool) -> None:
        failed = isinstance(stored.fact, AnalysisFailed)
        cost = stored.fact.work.cost if made and stored.fact.work is not None else ZERO
        before = self._progress
        self._progress = Progress(before.done + 1, before.failed + failed, add(before.cost, cost))
        self._in_a_row = self._in_a_row + 1 if failed else 0
        if isinstance(stored.fact, AnalysisFailed) and self._in_a_row >= FAILURES_IN_A_ROW:
            self.stopped = ModelUnavailable(
                f"{self._in_a_row} analyses in a row failed with {self.author.preset}, the last one because "
                f"{stored.fact.reason}: see that the model can be reached, and give the same command again with "
                "--retry."
            )
        self._heard(stored, self._progress)


async def _work(desk: _Desk, waiting: Iterable[Job], saver: Checkpoints | None) -> None:
    for job in waiting:
        if desk.stopped is not None:
            return
        try:
            await _settle(desk, job, saver)
        except QuantagentError as error:
            # A spent budget, or a database that is gone. The others may finish what they have paid for.
            desk.stopped = error
            return
        except Gone as error:
            desk.stopped = StoreUnavailable(
                f"the checkpoints cannot be used: {reason_of(error)}. Check that the server runs, and give the same "
                "command again: what was made is kept."
            )
            return


async def _settle(desk: _Desk, job: Job, kept: Checkpoints | None) -> None:
    """Makes and stores one opinion, unless somebody has; waits for who is at it."""
    analysis = job.id_for(desk.author.variant)
    before = await desk.stored(analysis)
    async with nullcontext() if kept is None else kept.alone(analysis):
        rows = await desk.stored(analysis)
        known = settled(rows) if len(rows) > len(before) else _opinion(rows)
        if known is not None:
            desk.hear(known, made=False)
            return
        resources, keep = desk.resources, desk.models[0].preset.checkpoints
        attempt = Attempt(
            analysis_id=analysis,
            version=len(rows) + 1,
            variant=desk.author.variant,
            models=desk.models,
            calls=resources.calls,
            pictures=resources.pictures,
            now=resources.now,
        )
        saver = None if keep == "none" else kept
        fact = await make(desk.graph, job, attempt, desk.author, saver)
        stored = await desk.store(fact, len(rows))
        if saver is not None and fact.work is not None and stored.fact is fact:
            await saver.settle(fact.work.thread_id, keep)
    desk.hear(stored, made=True)


def _opinion(rows: Iterable[Recorded]) -> Stored | None:
    found = settled(rows)
    return found if found is not None and isinstance(found.fact, AnalysisMade) else None
