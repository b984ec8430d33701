"""Many analyses at once: within a preset's limits, going on after every kind of end, and never asking twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from langchain_core import rate_limiters
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from analysis.charting.chart_store import Artefacts
from analysis.graph import model_middleware, run_analysis
from analysis.graph.batch import FAILURES_IN_A_ROW, GenerationProgress, ModelUnavailable, ResultCallback, generate
from analysis.graph.checkpoints import Checkpoints, create_schema, open_checkpoints, thread_config
from analysis.graph.context import BudgetSpent
from analysis.graph.graph import graph_version
from analysis.graph.run_analysis import AnalysisAuthor
from analysis.graph.states import GraphState
from analysis.graph.variant import Agents
from analysis.llm.presets import preset_digest, preset_text
from analysis.variants import StoredOutcome
from engine import clock
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.money import ZERO, exact, total
from tests.support.agents_world import BARS, AgentsWorld, blind, preset, work_of, world_in
from tests.support.model_answers import ServedRequest
from tests.support.model_faults import DEFECTS, NO_DEFECT, Defect
from tests.support.model_server import ModelServer
from tests.support.paths import ROOT
from tests.support.schema_values import Json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

QUESTIONS = 5
"""Of one analysis where all goes well."""


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_middleware, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def kept(dsn: str) -> str:
    """A database with a place for checkpoints."""
    create_schema(dsn, dsn)
    return dsn


def spent(world: AgentsWorld) -> Any:
    """What all recorded questions of the preset have cost."""
    return world.calls.spent("stub", clock.now() - timedelta(days=2), clock.now() + timedelta(days=2))


def most_analyses_at_once(exchanges: Sequence[ServedRequest]) -> int:
    """Of an analysis only the pattern and the trend agent ask at the same time."""
    most = 0
    for each in exchanges:
        at_once = Counter(
            other.agent for other in exchanges if other.began <= each.began < (other.ended or float("inf"))
        )
        most = max(most, at_once["indicator"] + at_once["decision"] + max(at_once["pattern"], at_once["trend"]))
    return most


# --- Limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_analyses_are_made_at_the_same_time_as_the_preset_allows(concurrency: int) -> None:
    with ModelServer() as models:
        # No analysis gets its first answer before as many have asked: with fewer at the same time none is made.
        models.hold(concurrency, "indicator")
        world = AgentsWorld(models)
        world.analyse(world.agents(blind(models, concurrency=concurrency)), last=6)
        assert all(isinstance(fact, AnalysisMade) for fact in world.outcomes())
        assert most_analyses_at_once(models.requests) == concurrency
        assert models.most_at_once <= 2 * concurrency
        assert len(models.requests) == 6 * QUESTIONS


def test_questions_are_no_more_frequent_than_the_preset_says(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, turns = [0.0], list[float]()
    acquire = rate_limiters.InMemoryRateLimiter.aacquire

    async def sleep(seconds: float) -> None:
        now[0] += seconds
        await asyncio.sleep(0)

    async def noted(limiter: rate_limiters.InMemoryRateLimiter, *, blocking: bool = True) -> bool:
        assert await acquire(limiter, blocking=blocking)
        turns.append(now[0])
        return True

    monkeypatch.setattr(rate_limiters, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(rate_limiters, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(rate_limiters.InMemoryRateLimiter, "aacquire", noted)
    world = AgentsWorld(models)
    world.analyse(world.agents(blind(models, requests_per_minute=600, concurrency=3)), last=3)
    assert len(turns) == len(models.requests) == 3 * QUESTIONS
    for first in range(len(turns)):
        for last in range(first + 1, len(turns)):
            # A tenth of a second each, and one that had been saved up.
            assert turns[last] - turns[first] >= (last - first - 1) * 0.1 - 1e-9


def test_progress_is_told_in_order_with_failures_and_cost(models: ModelServer) -> None:
    last = f"{BARS[-3].close:f}"
    models.script([DEFECTS["401"]], when=lambda exchange: exchange.body["messages"][-1]["content"].endswith(last))
    models.script([DEFECTS["401"]], lasting=False)
    world, done = AgentsWorld(models), list[int]()
    world.analyse(world.agents(blind(models)), last=5, on_progress=done.append)
    assert [each.done for each in world.progress] == [1, 2, 3, 4, 5]
    failed = sum(isinstance(fact, AnalysisFailed) for fact in world.outcomes())
    assert failed >= 1
    assert [each.failed for each in world.progress] == sorted(each.failed for each in world.progress)
    assert world.progress[-1].failed == failed
    costs = [each.cost for each in world.progress]
    assert costs == sorted(costs)
    assert costs[-1] == total(work_of(fact).cost for fact in world.outcomes()) > 0
    assert done == sorted(done)
    assert done[-1] == 5


def test_what_exists_is_skipped_and_what_is_new_is_made(models: ModelServer) -> None:
    world = AgentsWorld(models)
    world.analyse(world.agents(blind(models)), last=2)
    models.reset()
    formed = world.analyse(world.agents(blind(models)), last=4)
    assert (formed.already_stored, formed.made, len(models.requests)) == (2, 2, 2 * QUESTIONS)
    models.reset()
    assert world.analyse(world.agents(blind(models)), last=4).already_stored == 4
    assert (models.requests, models.connections) == ([], 0)


def test_what_somebody_else_has_made_meanwhile_is_taken_and_not_asked(models: ModelServer) -> None:
    world = AgentsWorld(models)
    agents = world.agents(blind(models))
    world.analyse(agents)
    models.reset()
    heard: list[tuple[StoredOutcome, GenerationProgress]] = []
    author = AnalysisAuthor(agents.name, agents.version, "stub", preset_digest(preset_text(agents.preset)))
    listen: ResultCallback = lambda stored, progress: heard.append((stored, progress))  # noqa: E731
    asyncio.run(generate(agents.presets, author, [world.job()], world.resources, listen))
    assert heard == [(StoredOutcome(world.only_analysis(), 1), GenerationProgress(1, 0, ZERO))]
    assert models.requests == []


def test_processes_that_begin_at_the_same_time_set_the_checkpoints_up_once(dsn: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(create_schema, dsn, dsn) for _ in range(8)]:
            done.result()
    with psycopg.connect(dsn) as conn:
        versions = conn.execute("SELECT array_agg(v ORDER BY v) FROM langgraph.checkpoint_migrations").fetchone()
        assert versions == (list(range(len(AsyncPostgresSaver.MIGRATIONS))),)
        # A process that ended in between is made up for.
        conn.execute("DROP INDEX langgraph.checkpoints_thread_id_idx")
        conn.execute("DELETE FROM langgraph.checkpoint_migrations WHERE v >= 6")
    create_schema(dsn, dsn)
    with psycopg.connect(dsn) as conn:
        there = conn.execute("SELECT to_regclass('langgraph.checkpoints_thread_id_idx') IS NOT NULL").fetchone()
    assert there == (True,)


@pytest.mark.parametrize("checkpointed", ["latest", "none"])
def test_two_generations_at_the_same_time_end_with_one_opinion_on_each_bar(kept: str, checkpointed: str) -> None:
    def generation(models: ModelServer) -> list[Any]:
        with world_in(kept, models) as world:
            formed = world.analyse(world.agents(blind(models, checkpoints=checkpointed, concurrency=2)), last=6)
            return [formed.intent(bar) for bar in BARS[-6:]]

    with ModelServer(delay=0.02) as models:
        with ThreadPoolExecutor(2) as threads:
            one, other = threads.map(generation, [models, models])
        assert one == other
        with world_in(kept, models) as world:
            assert Counter(row.stream for row in world.rows()) == Counter({row.stream: 1 for row in world.rows()})
            assert len(world.outcomes()) == 6
            assert all(isinstance(fact, AnalysisMade) for fact in world.outcomes())
        # The second waits for the first, and takes what it made.
        assert len(models.requests) == 6 * 5


# --- Money --------------------------------------------------------------------------------------------------------


@pytest.mark.slow(8)
@pytest.mark.parametrize("limit", ["0.011", "0.02", "0.05"])
@pytest.mark.parametrize("by_day", [True, False])
def test_a_generation_stops_before_its_budget_is_exceeded_and_goes_on_with_a_larger_one(
    models: ModelServer, limit: str, *, by_day: bool
) -> None:
    world = AgentsWorld(models)

    def agents(budget: str) -> Agents:
        if by_day:
            return world.agents(blind(models, budget_usd=budget))
        return world.agents(blind(models), budget=budget)

    with pytest.raises(BudgetSpent, match=r"raise the budget") as stopped:
        world.analyse(agents(limit), last=12)
    assert str(stopped.value).isprintable()
    assert ("today" if by_day else "this command") in str(stopped.value)
    assert 0 < spent(world) <= exact(limit)
    made = len(world.outcomes())
    assert made < 12
    assert all(isinstance(fact, AnalysisMade) for fact in world.outcomes())
    models.reset()
    formed = world.analyse(agents("10"), last=12)
    assert (formed.already_stored, formed.made) == (made, 12 - made)
    assert len(models.requests) <= (12 - made) * QUESTIONS


def test_questions_under_way_count_as_if_they_cost_what_they_can() -> None:
    def dear(completion: Json, exchange: ServedRequest) -> Json:
        return {**completion, "usage": {"prompt_tokens": 0, "completion_tokens": 1_000}}

    with ModelServer(delay=0.05) as models:
        models.script([Defect("dear", dear)], lasting=True)
        world = AgentsWorld(models)
        # Each question costs a dollar, and that is the most it can cost.
        agents = world.agents(blind(models, concurrency=4, price_input=0, price_output=1_000), budget="7")
        with pytest.raises(BudgetSpent):
            world.analyse(agents, last=6)
        assert 4 <= spent(world) <= 7


def test_a_day_s_budget_begins_anew_on_the_next_day(models: ModelServer) -> None:
    world, day = AgentsWorld(models), timedelta(0)
    world.resources = world.resources._replace(now=lambda: clock.now() + day)
    asking_for = blind(models, budget_usd="0.03", concurrency=1)
    with pytest.raises(BudgetSpent):
        world.analyse(world.agents(asking_for), last=10)
    models.reset()
    with pytest.raises(BudgetSpent):
        world.analyse(world.agents(asking_for), last=10)
    assert len(models.requests) < QUESTIONS
    before, day = len(world.outcomes()), timedelta(days=1)
    with pytest.raises(BudgetSpent):
        world.analyse(world.agents(asking_for), last=10)
    assert len(world.outcomes()) > before


# --- Ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_model_that_is_down_ends_a_generation(models: ModelServer, concurrency: int) -> None:
    models.script([DEFECTS["503"]], lasting=True)
    world = AgentsWorld(models)
    agents = world.agents(blind(models, retries=0, concurrency=concurrency))
    with pytest.raises(ModelUnavailable) as down:
        world.analyse(agents, last=16)
    assert FAILURES_IN_A_ROW <= len(world.outcomes()) < FAILURES_IN_A_ROW + concurrency
    assert all(isinstance(fact, AnalysisFailed) for fact in world.outcomes())
    said = str(down.value)
    assert said.isprintable()
    assert len(said) < 400
    assert "503" in said
    assert down.value.code == "MODEL_UNAVAILABLE"
    models.reset()
    formed = world.analyse(agents, last=16, retry=True)
    assert (formed.failed, formed.made) == (0, 16)


def test_a_model_that_fails_now_and_then_does_not_end_a_generation(models: ModelServer) -> None:
    world = AgentsWorld(models)
    failures = [DEFECTS["503"]] * (FAILURES_IN_A_ROW - 1)
    models.script([*failures, *[NO_DEFECT] * QUESTIONS, *failures])
    formed = world.analyse(world.agents(blind(models, retries=0, concurrency=1)), last=2 * FAILURES_IN_A_ROW)
    assert formed.failed == 2 * len(failures)


def whole(world: AgentsWorld) -> bool:
    """Whether each stored fact is an opinion with all of its questions, and those that were cut off before."""
    needed = Counter({"indicator": 2, "pattern": 1, "trend": 1, "decision": 1})
    return all(
        isinstance(fact, AnalysisMade)
        and Counter(call.node for call in work_of(fact).calls if call.outcome == "answered") >= needed
        for fact in world.outcomes()
    )


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a program has it from the start, whatever other tests have left behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_generation_leaves_whole_opinions_and_the_next_one_goes_on() -> None:
    with ModelServer(delay=0.02) as models:
        world = AgentsWorld(models)

        def interrupt(done: int) -> None:
            if done == 2:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            world.analyse(world.agents(blind(models, concurrency=3)), last=8, on_progress=interrupt)
        made = len(world.outcomes())
        assert 2 <= made < 8
        assert whole(world)
        models.reset()
        formed = world.analyse(world.agents(blind(models)), last=8)
        assert (formed.already_stored, formed.made) == (made, 8 - made)
        assert len(models.requests) == (8 - made) * QUESTIONS
        assert whole(world)


def test_a_canceled_generation_notes_what_it_had_asked(models: ModelServer) -> None:
    world = AgentsWorld(models)
    for agent in ("pattern", "trend"):
        models.script([DEFECTS["hang"]], agent=agent)
    agents = world.agents(blind(models))
    author = AnalysisAuthor(agents.name, agents.version, "stub", preset_digest(preset_text(agents.preset)))

    async def run() -> None:
        heard: ResultCallback = lambda stored, progress: None  # noqa: E731
        task = asyncio.create_task(generate(agents.presets, author, [world.job()], world.resources, heard))
        while sum(exchange.agent in ("pattern", "trend") for exchange in models.requests) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert world.outcomes() == []
    asked = world.calls.calls_for(world.job().id_for(agents.name), 1)
    assert sorted((each.call.node, each.call.outcome) for each in asked) == [
        ("indicator", "answered"),
        ("indicator", "answered"),
        ("pattern", "cancelled"),
        ("trend", "cancelled"),
    ]


KILLED = """
import sys
import time
from tests.support.model_server import ModelServer
from tests.support.agents_world import blind, world_in

class Elsewhere:
    url = sys.argv[2]

with world_in(sys.argv[1], Elsewhere) as world:
    asking_for = blind(Elsewhere, checkpoints="latest", concurrency=1)
    world.analyse(world.agents(asking_for), last=2)
"""


def wait_until_kept(dsn: str, agents: set[str]) -> None:
    """What agents have answered is written beside the work that follows, not before it."""

    def are_kept() -> bool:
        with psycopg.connect(dsn) as conn:
            rows = conn.execute("SELECT channel FROM langgraph.checkpoint_writes").fetchall()
        channels = Counter(channel for (channel,) in rows)
        # Each of the two that the decision waits for notes that too.
        return agents <= channels.keys() and channels["join:pattern+trend:decision"] == len(agents - {"indicator"})

    wait_until(are_kept, f"the answers of {sorted(agents)} are not kept")


@pytest.mark.slow(9)
@pytest.mark.parametrize("agent", ["pattern", "decision"])
def test_a_generation_that_was_killed_goes_on_and_asks_no_finished_agent_again(
    kept: str, models: ModelServer, agent: str
) -> None:
    models.delays = {agent: 600.0}
    child = subprocess.Popen([sys.executable, "-c", KILLED, kept, models.url], cwd=ROOT)
    finished = {"indicator", "trend"} if agent == "pattern" else {"indicator", "pattern", "trend"}
    wait_until(lambda: any(exchange.agent == agent for exchange in models.requests) or child.poll() is not None)
    wait_until_kept(kept, finished)
    child.kill()
    child.wait()
    assert {exchange.agent for exchange in models.requests} == {*finished, agent}
    models.delays = {}
    with world_in(kept, models) as world:
        assert world.outcomes() == []
        formed = world.analyse(world.agents(blind(models, checkpoints="latest", concurrency=1)), last=2)
        assert formed.made == 2
        assert len(world.outcomes()) == 2
    times = Counter((exchange.agent, exchange.digest) for exchange in models.requests)
    again = {asked: count for asked, count in times.items() if count > 1}
    assert [(name, count) for (name, _), count in again.items()] == [(agent, 2)]
    assert len(times) == 2 * QUESTIONS


# --- Checkpoints --------------------------------------------------------------------------------------------------


def look(dsn: str, work: Any) -> Any:
    """Asks the checkpoints something."""

    async def run() -> Any:
        async with open_checkpoints(dsn) as opened:
            return await work(opened)

    return asyncio.run(run())


def size(dsn: str, thread_id: str) -> tuple[int, int]:
    async def ask(opened: Checkpoints) -> tuple[int, int]:
        return await opened.size(thread_id)

    return look(dsn, ask)


def test_checkpoints_are_few_and_small_and_only_what_the_preset_keeps(
    kept: str, models: ModelServer, tmp_path: Path
) -> None:
    sizes: dict[str, tuple[int, int]] = {}
    with world_in(kept, models, Artefacts(tmp_path)) as world:
        for n, keep in enumerate(("all", "latest", "none")):
            # A preset of another seed is another variant: the same bar again.
            world.analyse(world.agents(preset(models, checkpoints=keep, seed=n)))
            made = world.outcomes()[n]
            assert isinstance(made, AnalysisMade)
            work = work_of(made)
            sizes[keep] = size(kept, work.thread_id)
            assert bool(work.checkpoint_id) == (keep != "none") == (not work.state_snapshot)
            assert len(work.artefacts) == 2
    rows, octets = sizes["all"]
    assert 8 < rows <= 60
    assert octets <= 64 * 1024
    assert 0 < sizes["latest"][0] <= 12
    assert sizes["none"] == (0, 0)
    with psycopg.connect(kept) as conn:
        counted = conn.execute("SELECT thread_id, count(*) FROM langgraph.checkpoints GROUP BY thread_id").fetchall()
    assert sorted(count for _, count in counted)[0] == 1
    assert len(counted) == 2


def test_no_picture_and_nothing_but_json_is_in_a_checkpoint(kept: str, models: ModelServer) -> None:
    with world_in(kept, models) as world:
        world.analyse(world.agents(preset(models, checkpoints="all")))
        made = world.only_analysis()
    work = work_of(made)
    pictures = [image.png for exchange in models.requests for image in exchange.images]
    assert len(pictures) == 2
    with psycopg.connect(kept) as conn:
        stored = b"".join(
            bytes(row[0])
            for query in (
                "SELECT blob FROM langgraph.checkpoint_blobs WHERE blob IS NOT NULL",
                "SELECT blob FROM langgraph.checkpoint_writes",
                "SELECT convert_to(checkpoint::text || metadata::text, 'UTF8') FROM langgraph.checkpoints",
            )
            for row in conn.execute(query)
        )
    assert len(stored) > 10_000
    for picture in pictures:
        assert picture[:200] not in stored
        assert b64encode(picture)[:60] not in stored
        assert b64encode(picture)[300:360] not in stored
    for _, digest in work.artefacts:
        assert digest.encode() in stored
    assert b"secret" not in stored

    async def state(opened: Checkpoints) -> Any:
        found = [each async for each in opened.saver.alist(thread_config(work.thread_id))]
        return [each.checkpoint["channel_values"] for each in found]

    states = look(kept, state)
    assert len(states) > 4
    for each in states:
        told = {name: value for name, value in each.items() if name in GraphState.__annotations__}
        assert json.loads(json.dumps(told)) == told
        # All else is the graph's own: which nodes are done.
        own = {name: value for name, value in each.items() if name not in told and not name.startswith("__")}
        assert all(
            value is None or (isinstance(value, set) and value <= {"pattern", "trend"}) for value in own.values()
        )
    assert states[0]["decision"] == json.loads(made.reports)["decision"]


def test_a_thread_is_named_by_all_that_makes_its_analysis(
    kept: str, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world_in(kept, models) as world:
        agents = world.agents(blind(models, checkpoints="all"))
        world.analyse(agents)
        made = world.only_analysis()
    run, named, graph, event_version = work_of(made).thread_id.split("/")
    assert (run, graph, event_version) == ("shared", graph_version(), "1")
    assert named == made.analysis_id
    for part in ("AAA", "1h", f"{made.as_of:%Y%m%dT%H%M%SZ}", agents.name, made.window_digest[:16]):
        assert part in named


@pytest.mark.parametrize("changed", [False, True])
def test_another_version_of_the_graph_does_not_go_on_with_a_thread(
    kept: str, models: ModelServer, monkeypatch: pytest.MonkeyPatch, *, changed: bool
) -> None:
    asking_for = blind(models, checkpoints="all")
    with world_in(kept, models) as world:
        models.script([DEFECTS["hang"]], agent="decision")
        agents = world.agents(asking_for)
        author = AnalysisAuthor(agents.name, agents.version, "stub", preset_digest(preset_text(agents.preset)))

        async def run() -> None:
            heard: ResultCallback = lambda stored, progress: None  # noqa: E731
            task = asyncio.create_task(generate(agents.presets, author, [world.job()], world.resources, heard))
            while not any(exchange.agent == "decision" for exchange in models.requests):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(wait_until_kept, kept, {"indicator", "pattern", "trend"})
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(run())
        models.reset()
        if changed:
            monkeypatch.setattr(run_analysis, "graph_version", lambda: "another")
        world.analyse(agents)
        again = [exchange.agent for exchange in models.requests]
        assert sorted(again) == (
            ["decision", "indicator", "indicator", "pattern", "trend"] if changed else ["decision"]
        )
        # What was asked before it was cut off is part of what the opinion has cost.
        assert len(work_of(world.only_analysis()).calls) == 5 + len(again)


def test_only_threads_that_are_old_are_forgotten(kept: str, models: ModelServer) -> None:
    with world_in(kept, models) as world:
        world.analyse(world.agents(blind(models, checkpoints="all")))
        between = clock.now()
        world.analyse(world.agents(blind(models, checkpoints="all")), last=2)
        old, new = (work_of(fact).thread_id for fact in world.outcomes())

    async def forget(opened: Checkpoints) -> tuple[int, int]:
        return await opened.delete_before(between - timedelta(hours=1)), await opened.delete_before(between)

    assert look(kept, forget) == (0, 1)
    assert size(kept, old) == (0, 0)
    assert size(kept, new)[0] > 8


@pytest.mark.parametrize(("days", "left"), [(1, 0), (30, 25), (None, 25)])
def test_what_is_older_than_the_preset_keeps_is_forgotten(
    kept: str, models: ModelServer, tmp_path: Path, days: int | None, left: int
) -> None:
    with world_in(kept, models) as world:
        later = world.resources._replace(now=lambda: clock.now() + timedelta(days=10), artefacts=Artefacts(tmp_path))
        world.resources = later
        world.analyse(world.agents(preset(models, checkpoints="all", keep_days=days)))
        rows, _ = size(kept, work_of(world.only_analysis()).thread_id)
    assert rows == left
    assert len(list(tmp_path.rglob("*.png"))) == (2 if left else 0)


def test_a_snapshot_of_the_state_stands_in_for_checkpoints_where_there_are_none(models: ModelServer) -> None:
    world = AgentsWorld(models)
    world.analyse(world.agents(blind(models, checkpoints="all")))
    made = world.only_analysis()
    told = json.loads(work_of(made).state_snapshot)
    assert {name: told[name] for name in ("indicator", "pattern", "trend", "decision")} == json.loads(made.reports)
    assert "snapshot" not in told
