"""An analysis that failed is a HOLD for the runs that consulted it, for ever, whatever is made of it later."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg
import pytest

from engine.audit.bundle import pack_run
from engine.audit.capsule import open_capsule
from engine.audit.regenerate import dataset_digest, regenerate_run, stored_analyst
from engine.audit.reproduce import reproduce_run
from engine.audit.verify import verify_log
from engine.audit.why import analyst_reasons, causal_chain
from engine.core.errors import BadInput
from engine.core.events import (
    AnalysisFailed,
    AnalysisMade,
    AnalysisOutcome,
    Environment,
    GraphWork,
    ModelCall,
    RunRequested,
)
from engine.core.ids import analysis_stream
from engine.core.intents import Intent, intent_of
from engine.core.market import Bar, Direction, Timeframe, instant_text
from engine.core.money import ZERO, exact
from engine.core.upcasters import NAMES, AnalysisMadeV2
from engine.data.catalogue import PostgresCatalogue
from engine.data.signals import SignalFile
from engine.runtime import replay, runs
from engine.store import Batch, Cause, Store
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from projections.queries import Queries
from projections.rebuild import rebuild_read_models
from tests.support.databases import database
from tests.support.stored_runs import ANALYSIS
from tests.support.worlds import BARS, BOLD, PATTERN, World, world_in
from ui.dashboard.causal_chain import build_chains

ME = Cause("test")
VARIANT = "gpt@0123456789ab"
DATASET = dataset_digest(BARS, Timeframe.H1)
EVERY = [bar for series in BARS for bar in series]
SHA = "3f5a" * 16


def call(n: int, outcome: str, cost: str = "0", model: str = "a-model") -> ModelCall:
    response = SHA if outcome == "answered" else ""
    return ModelCall("decision", 1, n, model, outcome, SHA, response, 7, 2 * n, Decimal(cost), 20)


def work(*calls: ModelCall) -> GraphWork:
    cost = exact(sum((each.cost for each in calls), ZERO))
    tokens = sum(each.input_tokens for each in calls), sum(each.output_tokens for each in calls)
    return GraphWork("gpt", SHA, "openai", "a-model", "graph.1", (), calls, *tokens, cost, 90)


TRIED = work(call(1, "rate_limited"), call(2, "server_error", "0.001"))
ANSWERED = work(call(1, "answered", "0.25"))


def made(bar: Bar, direction: Direction) -> AnalysisMade:
    return msgspec.structs.replace(
        ANALYSIS,
        analysis_id=f"{bar.symbol}.1h@{instant_text(bar.closed_at)}.{VARIANT}.0",
        symbol=bar.symbol,
        as_of=bar.closed_at,
        variant=VARIANT,
        decision=direction,
        confidence=exact(1),
        reports='{"decision":{"reasons":["why"]}}',
        work=ANSWERED,
    )


def failed(bar: Bar) -> AnalysisFailed:
    opinion = made(bar, Direction.HOLD)
    return AnalysisFailed(opinion.analysis_id, bar.symbol, "1h", bar.closed_at, VARIANT, "no answer", SHA, TRIED)


def fails(n: int) -> bool:
    return n % 5 == 2


FAILING = [bar for n, bar in enumerate(EVERY) if fails(n)]


class Tried:
    """An analyst whose facts are in the log: every fifth analysis failed, the others follow a pattern."""

    def __init__(self, store: Store) -> None:
        self._wishes: dict[tuple[str, object], Intent] = {}
        facts: list[AnalysisOutcome] = [
            failed(bar) if fails(n) else made(bar, PATTERN[n % len(PATTERN)]) for n, bar in enumerate(EVERY)
        ]
        store.append([Batch(analysis_stream(each.analysis_id), 0, [each]) for each in facts], ME)
        for each in facts:
            self._wishes[each.symbol, each.as_of] = intent_of(each, 1)

    def intent(self, bar: Bar) -> Intent:
        return self._wishes[bar.symbol, bar.closed_at]


class Latest:
    """Whoever asks later is told the newest fact of each analysis."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def intent(self, bar: Bar) -> Intent:
        *_, row = self._store.read(analysis_stream(made(bar, Direction.HOLD).analysis_id))
        assert isinstance(row.event, AnalysisOutcome)
        return intent_of(row.event, row.version)


def asked(label: str = "", of_run: str = "") -> RunRequested:
    return runs.request(
        Environment.REPLAY if of_run else Environment.BACKTEST, BOLD, profile="test", dataset_digest=DATASET,
        variant=VARIANT, start=BARS[0][0].opened_at, end=BARS[0][-1].closed_at, label=label, of_run=of_run,
    )  # fmt: skip


def succeed_later(store: Store) -> None:
    """Every analysis that had failed is tried again, and has an opinion now."""
    opinions = [made(bar, Direction.LONG) for bar in FAILING]
    store.append([Batch(analysis_stream(each.analysis_id), 1, [each]) for each in opinions], ME)


def no_file(variant: str) -> SignalFile:
    raise AssertionError(f"{variant} is no imported file")


class Ran(NamedTuple):
    store: Store
    result: runs.RunResult


@contextmanager
def ran_in(store: Store) -> Generator[Ran]:
    """A run that consulted failures, which are opinions by now."""
    result = runs.execute_run(store, asked(), BARS, Tried(store), actor="test")
    assert result.ended.fills > 20
    succeed_later(store)
    yield Ran(store, result)


@pytest.fixture
def ran(store: Store) -> Iterator[Ran]:
    with ran_in(store) as made_so:
        yield made_so


# --- The same digest ----------------------------------------------------------------------------------------------


def test_a_replay_reads_the_failure_that_was_consulted_and_not_what_was_made_later(ran: Ran) -> None:
    store, source = ran
    analyst = replay.load_stored_analyses(store, source.request, no_file)
    assert analyst.intent(FAILING[0]) == intent_of(failed(FAILING[0]), 1)
    again = runs.execute_run(store, asked(of_run=source.request.run_id), BARS, analyst, actor="test")
    assert (again.ended.book_digest, again.ended.analyses_digest) == (
        source.ended.book_digest,
        source.ended.analyses_digest,
    )
    assert list(replay.consulted_analyses(store, again.request.run_id)) == list(
        replay.consulted_analyses(store, source.request.run_id)
    )


def test_a_run_that_is_asked_again_consults_what_there_is_now_and_is_another(ran: Ran) -> None:
    store, source = ran
    later = runs.execute_run(store, asked("again"), BARS, Latest(store), actor="test")
    assert later.ended.book_digest != source.ended.book_digest
    assert later.ended.analyses_digest != source.ended.analyses_digest
    versions = {version for _, version in replay.consulted_analyses(store, later.request.run_id)}
    assert versions == {1, 2}


def test_a_run_made_again_from_the_log_has_the_same_digests(ran: Ran) -> None:
    store, source = ran
    found = regenerate_run(store, BARS, stored_analyst(store, source.request, no_file), source.request)
    assert found.equal
    assert found.analyses.regenerated == source.ended.analyses_digest


def test_a_run_that_consulted_failures_is_told_apart_from_one_that_held() -> None:
    """The digest of what was consulted covers the versions, not only the names."""
    store = MemoryStore()
    with ran_in(store) as (_, source):
        held = runs.execute_run(store, asked("held"), BARS, Held(store), actor="test")
    assert held.ended.book_digest != source.ended.book_digest
    assert held.ended.fills == source.ended.fills


class Held(Latest):
    """Names the later opinion where the earlier run consulted a failure, and holds there all the same."""

    def intent(self, bar: Bar) -> Intent:
        wish = super().intent(bar)
        if wish.analysis_version == 1:
            return wish
        return msgspec.structs.replace(wish, direction=Direction.HOLD, confidence=ZERO)


# --- In a capsule, in another log ---------------------------------------------------------------------------------


def test_a_capsule_holds_what_was_consulted_and_gives_the_same_run_elsewhere(
    dsn: str, server: str, template: str, tmp_path: Path
) -> None:
    with PostgresStore(dsn) as store, ran_in(store) as (_, source), psycopg.connect(dsn) as conn:
        assert verify_log(conn, ()).finding is None
        capsule = pack_run(store, conn, source.request, BARS, None, tmp_path / "run.zip")
    rows = list(capsule.analyses())
    assert {row.version for row in rows} == {1}
    assert sum(isinstance(row.event, AnalysisFailed) for row in rows) == len(FAILING)
    with database(server, template) as there, PostgresStore(there) as store:
        for _ in range(2):
            found = reproduce_run(store, PostgresCatalogue(there), there, open_capsule(capsule.path), actor="auditor")
            assert found.equal
        succeed_later(store)
        assert reproduce_run(store, PostgresCatalogue(there), there, capsule, actor="auditor").equal


def test_a_capsule_is_the_same_before_and_after_a_later_attempt(dsn: str, tmp_path: Path) -> None:
    files = tmp_path / "before.zip", tmp_path / "after.zip"
    with PostgresStore(dsn) as store:
        result = runs.execute_run(store, asked(), BARS, Tried(store), actor="test")
        for file in files:
            with psycopg.connect(dsn) as conn:
                pack_run(store, conn, result.request, BARS, None, file)
            succeed_later(store)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_capsule_comes_into_a_log_that_holds_its_opinions_under_a_former_name(
    dsn: str, server: str, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = EVERY[0]
    opinion = msgspec.structs.replace(made(bar, PATTERN[0]), work=None)
    shared = (name for name in AnalysisMadeV2.__struct_fields__ if hasattr(opinion, name))
    former = AnalysisMadeV2(**{name: getattr(opinion, name) for name in shared})
    monkeypatch.setattr("tests.agents.test_failed_analyses.ANSWERED", None)
    with PostgresStore(dsn) as store, psycopg.connect(dsn) as conn:
        result = runs.execute_run(store, asked(), BARS, Tried(store), actor="test")
        capsule = pack_run(store, conn, result.request, BARS, None, tmp_path / "run.zip")
    with database(server, template) as there, PostgresStore(there) as store:
        with monkeypatch.context() as past:
            past.setitem(NAMES, AnalysisMadeV2, "AnalysisMade.v2")
            store.append([Batch(analysis_stream(opinion.analysis_id), 0, [former])], ME)
        assert reproduce_run(store, PostgresCatalogue(there), there, capsule, actor="auditor").equal
        assert [row.name for row in store.read(analysis_stream(opinion.analysis_id))] == ["AnalysisMade.v2"]


def test_an_opinion_that_stands_where_the_capsule_has_a_failure_stops_it(
    dsn: str, server: str, template: str, tmp_path: Path
) -> None:
    with PostgresStore(dsn) as store, ran_in(store) as (_, source), psycopg.connect(dsn) as conn:
        capsule = pack_run(store, conn, source.request, BARS, None, tmp_path / "run.zip")
    with database(server, template) as there, PostgresStore(there) as store:
        opinion = made(FAILING[0], Direction.LONG)
        store.append([Batch(analysis_stream(opinion.analysis_id), 0, [opinion])], ME)
        with pytest.raises(BadInput, match="differs here from the one in"):
            reproduce_run(store, PostgresCatalogue(there), there, capsule, actor="auditor")


# --- Why, and how it shows ----------------------------------------------------------------------------------------


def test_why_not_tells_which_model_failed_at_what_after_how_many_attempts(ran: Ran) -> None:
    store, source = ran
    bar = FAILING[0]
    links = causal_chain(store, source.request, f"{bar.symbol}@{bar.closed_at.isoformat()}")
    failure, nothing = [link for link in links if link.kind in ("analysis", "nothing")]
    assert failure.says == (f"{VARIANT} failed: no answer (decision called a-model 2 times, last: server error)")
    assert nothing.says == "no signal: the analysis failed"
    assert analyst_reasons(failure) == []
    (step, *_) = [step for chain in build_chains([failure, nothing]) for step in chain]
    assert step.text == "no analysis: no answer"
    assert dict(step.facts) == {
        "by": f"{VARIANT}, openai a-model",
        "asked": "decision called a-model 2 times, last: server error",
    }


def test_an_opinion_made_later_is_why_of_the_run_that_consulted_it_and_of_no_other(ran: Ran) -> None:
    store, source = ran
    later = runs.execute_run(store, asked("again"), BARS, Latest(store), actor="test").request
    bar = FAILING[0]
    at = f"{bar.symbol}@{bar.closed_at.isoformat()}"
    kinds = [
        type(link.event.event) for run in (source.request, later) for link in causal_chain(store, run, at) if link.event
    ]
    assert [kind for kind in kinds if kind in (AnalysisFailed, AnalysisMade)] == [AnalysisFailed, AnalysisMade]


# --- Read tables --------------------------------------------------------------------------------------------------


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made_so:
        yield made_so


def asked_of(world: World) -> Queries:
    """The read tables, caught up with the log."""
    world.runner().catch_up()
    return Queries(world.dsn)


def test_read_models_show_what_each_run_consulted_and_rebuild_to_the_same(world: World) -> None:
    first = runs.execute_run(world.store, asked(), BARS, Tried(world.store), actor="test").request.run_id
    world.runner().catch_up()
    succeed_later(world.store)
    second = runs.execute_run(world.store, asked("again"), BARS, Latest(world.store), actor="test").request.run_id
    world.runner().catch_up()
    with psycopg.connect(world.dsn) as conn:
        query = (
            "SELECT decision, confidence, analysis_version FROM read_models.decisions "
            "WHERE run_id = %s AND analysis_id = %s"
        )
        key = made(FAILING[0], Direction.HOLD).analysis_id
        assert conn.execute(query, (first, key)).fetchall() == [("HOLD", 0, 1)]
        assert conn.execute(query, (second, key)).fetchall() == [("LONG", 1, 2)]
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_a_run_is_shown_the_failure_that_it_consulted_though_its_opinion_came_before_the_run(world: World) -> None:
    analyst = Tried(world.store)
    succeed_later(world.store)
    run_id = runs.execute_run(world.store, asked(), BARS, analyst, actor="test").request.run_id
    with asked_of(world) as queries:
        shown = {row["analysis_id"]: row["decision"] for row in queries.decisions(run_id)}
    assert {shown[failed(bar).analysis_id] for bar in FAILING} == {"HOLD"}


def test_a_failed_analysis_is_a_row_until_its_opinion_is_made(world: World) -> None:
    bar = FAILING[0]
    failure, opinion = failed(bar), made(bar, Direction.LONG)
    stream = analysis_stream(failure.analysis_id)

    def row() -> dict[str, object]:
        with asked_of(world) as queries:
            (found,) = queries.analyses()
        return found

    world.store.append([Batch(stream, 0, [failure])], ME)
    names = ("status", "reason", "version", "decision", "preset", "cost", "sighted", "input_tokens")
    expected = ("failed", "no answer", 1, None, "gpt", Decimal("0.001"), False, 14)
    assert tuple(row()[name] for name in names) == expected
    world.store.append([Batch(stream, 1, [failure])], ME)
    assert row()["version"] == 2
    world.store.append([Batch(stream, 2, [opinion])], ME)
    made_row = ("made", None, 3, "LONG", "gpt", Decimal("0.25"), False, 7)
    assert tuple(row()[name] for name in names) == made_row
    # What is tried after the opinion is not the analysis.
    world.store.append([Batch(stream, 3, [failure, made(bar, Direction.SHORT)])], ME)
    assert tuple(row()[name] for name in names) == made_row
    assert rebuild_read_models(world.store, world.catalogue, world.dsn).same


def test_costs_add_up_by_analysis_run_day_and_variant(world: World) -> None:
    first = runs.execute_run(world.store, asked(), BARS, Tried(world.store), actor="test").request.run_id
    succeed_later(world.store)
    second = runs.execute_run(world.store, asked("again"), BARS, Latest(world.store), actor="test").request.run_id
    answered, failures, retried = len(EVERY) - len(FAILING), 2 * len(FAILING), len(FAILING)
    spent = exact(Decimal("0.25") * answered + Decimal("0.001") * retried)
    with asked_of(world) as queries:
        by_run = {row["run_id"]: row for row in queries.costs("run")}
        names = ("calls", "failures", "analyses", "cost", "environment")
        assert tuple(by_run[first][name] for name in names) == (
            answered + failures, failures, len(EVERY), spent, "backtest",
        )  # fmt: skip
        everything = exact(spent + Decimal("0.25") * retried)
        assert tuple(by_run[second][name] for name in names) == (
            answered + failures + retried, failures, len(EVERY), everything, "backtest",
        )  # fmt: skip
        (by_variant,) = queries.costs("variant")
        assert (by_variant["variant"], by_variant["preset"], by_variant["cost"]) == (VARIANT, "gpt", everything)
        by_day = queries.costs("day")
        assert exact(sum((row["cost"] for row in by_day), ZERO)) == everything
        assert all(row["day"] is not None for row in by_day)
        key = failed(FAILING[0]).analysis_id
        by_analysis = {row["analysis_id"]: row for row in queries.costs("analysis", first)}
        assert len(by_analysis) == len(EVERY)
        tokens = by_analysis[key]["input_tokens"], by_analysis[key]["output_tokens"]
        assert (by_analysis[key]["calls"], by_analysis[key]["cost"], *tokens) == (2, Decimal("0.001"), 14, 6)
        calls = queries.model_calls(key)
        assert [(row["version"], row["n"], row["outcome"], row["attempt"]) for row in calls] == [
            (1, 1, "rate_limited", 1), (1, 2, "server_error", 2), (2, 1, "answered", 1),
        ]  # fmt: skip
        assert calls[0]["request"] == SHA
        assert queries.costs("run", "nobody") == []


def test_analyses_without_a_model_cost_nothing(world: World) -> None:
    world.analyse(3)
    with asked_of(world) as queries:
        assert [row["cost"] for row in queries.analyses()] == [None] * 3
        assert {row["artefacts"] for row in queries.analyses()} == {""}
        assert queries.costs("day") == queries.costs("variant") == []
