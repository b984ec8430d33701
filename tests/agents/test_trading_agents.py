"""Agents trade as everybody else: backtests, paper runs and replays, whatever their model does meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from analysis.graph import batch, model_middleware
from analysis.graph.context import BudgetSpent
from engine.audit.regenerate import RegenerationResult, regenerate_run, run_bars, stored_analyst
from engine.core.events import AnalysisFailed, AnalysisMade, OrderPlaced, RunEnded
from engine.core.money import exact
from engine.core.upcasters import event_names
from engine.data.signals import SignalFile
from engine.runtime import runs
from engine.store import read_from
from tests.support.agents_world import preset
from tests.support.model_answers import lean_decision
from tests.support.model_server import ModelServer
from ui.app import App, open_app
from ui.daemon.paper import PaperDaemon, PaperPlan
from ui.services import models as model_versions
from ui.services.analyses import create_missing_analyses
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.data import import_sample
from ui.services.replay import run_replay
from ui.settings import Settings

pytestmark = pytest.mark.slow

START, END = datetime(2017, 8, 15, tzinfo=UTC), datetime(2017, 8, 16, tzinfo=UTC)
ASKED = BacktestRequest(("BTC-USD",), start=START, end=END, variant="mini")


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with ModelServer(edit_answer=lean_decision) as made:
        yield made


@pytest.fixture
def app(dsn: str, models: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setattr(model_middleware, "FIRST_PAUSE_S", 0.001)
    with open_app(Settings(None, dsn, "tester")) as opened:
        import_sample(opened)
        saved = preset(models, vision=False, retries=0, checkpoints="latest")
        model_versions.save_model(opened.store, "mini", saved, "tester")
        yield opened


def paper(app: App, **plan: Any) -> RunEnded:
    ended = PaperDaemon(app, PaperPlan(symbols=("BTC-USD",), variant="mini", start=START, end=END, **plan)).run()
    assert ended is not None
    return ended


def facts(app: App, *kinds: type[Any]) -> list[Any]:
    return [row.event for row in read_from(app.store, event_names(list(kinds)))]


def regenerated(app: App, run_id: str) -> RegenerationResult:
    source = runs.find_run_by_prefix(app.store, run_id)
    bars = run_bars(app.catalogue, app.store, source)
    return regenerate_run(app.store, bars, stored_analyst(app.store, source, nobody), source)


def nobody(variant: str) -> SignalFile:
    raise AssertionError(f"{variant} is no imported file")


def test_a_paper_run_decides_as_the_backtest_and_asks_nothing_twice(app: App, models: ModelServer) -> None:
    alone = paper(app)
    assert len(models.requests) == 24 * 5
    assert alone.fills > 0
    models.reset()
    again = run_backtest(app, ASKED).result.ended
    assert (again.book_digest, again.analyses_digest) == (alone.book_digest, alone.analyses_digest)
    assert models.requests == []


def test_symbols_of_one_slot_are_analysed_at_the_same_time(app: App, models: ModelServer) -> None:
    # Pattern and trend of each: none is answered before all four are asked.
    models.hold(4, "pattern", "trend")
    plan = PaperPlan(symbols=("BTC-USD", "EUR-USD"), variant="mini", start=START, end=START.replace(hour=3))
    ended = PaperDaemon(app, plan).run()
    assert ended is not None
    assert len(facts(app, AnalysisMade)) == 6
    assert models.most_at_once == 4


def test_a_model_that_dies_in_the_middle_leaves_holds_and_a_whole_run(app: App, models: ModelServer) -> None:
    dies = START.replace(hour=12)
    create_missing_analyses(app, ASKED._replace(end=dies))
    models.close()
    ended = paper(app)
    assert len(facts(app, AnalysisMade)) == len(facts(app, AnalysisFailed)) == 12
    assert ended.bars == 24
    entries = [order for order in facts(app, OrderPlaced) if not order.is_exit]
    assert entries
    assert all(order.at <= dies for order in entries)


@pytest.mark.slow
def test_a_run_that_has_read_a_failure_keeps_it_whatever_is_made_of_it_later(
    app: App, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = models.url
    models.close()
    monkeypatch.setattr(batch, "FAILURES_IN_A_ROW", 1_000)
    plan = PaperPlan("half", ("BTC-USD",), variant="mini", start=START, end=END)
    before, half = run_backtest(app, ASKED), PaperDaemon(app, plan)
    assert (before.analyses_failed, before.result.ended.orders) == (24, 0)
    # A paper run is stopped half-way, before the first roll of the session.
    tick = half._do  # pyright: ignore[reportPrivateUsage]

    def stop_at_noon(due: Any) -> None:
        tick(due)
        if due.slot.due_at >= START.replace(hour=12):
            half.request_stop()

    monkeypatch.setattr(half, "_do", stop_at_noon)
    assert half.run() is None
    with ModelServer(port=int(url.split(":")[2].split("/")[0]), edit_answer=lean_decision):
        retried = create_missing_analyses(app, ASKED._replace(retry=True))
        assert (retried.made, retried.failed) == (24, 0)
        assert run_backtest(app, ASKED).result == before.result
        assert run_replay(app, before.result.request.run_id).result.ended.book_digest == before.result.ended.book_digest
        assert regenerated(app, before.result.request.run_id).equal
        resumed = PaperDaemon(app, plan).run()
        assert resumed is not None
        assert resumed.orders > 0
        fresh = run_backtest(app, ASKED._replace(label="again")).result.ended
    assert fresh.orders > 0
    assert fresh.book_digest not in (before.result.ended.book_digest, resumed.book_digest)


def test_a_chain_goes_on_as_it_began_when_its_first_link_has_come_back(app: App, models: ModelServer) -> None:
    port, asked = models.port, ASKED._replace(variant="mini,rules")
    models.close()
    before = run_backtest(app, asked)
    assert (before.analyses_failed, before.result.ended.bars) == (0, 24)
    # It gave up after some failures: of the other bars it was never asked.
    tried = len(facts(app, AnalysisFailed))
    assert batch.FAILURES_IN_A_ROW <= tried < 24
    with ModelServer(port=port, edit_answer=lean_decision):
        assert create_missing_analyses(app, ASKED._replace(retry=True)).failed == 0
        assert run_backtest(app, asked).result == before.result
        fresh = run_backtest(app, asked._replace(label="again"))
    assert fresh.result.ended.analyses_digest != before.result.ended.analyses_digest


@pytest.mark.slow
def test_what_one_run_of_an_account_has_read_binds_no_other(app: App, models: ModelServer) -> None:
    port = models.port
    models.close()
    plan = PaperPlan("shared", ("BTC-USD",), variant="rules", start=START, end=END)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "FAILURES_IN_A_ROW", 1_000)
        create_missing_analyses(app, ASKED)
    PaperDaemon(app, plan).run()
    with ModelServer(port=port, edit_answer=lean_decision):
        create_missing_analyses(app, ASKED._replace(retry=True))
        ended = PaperDaemon(app, plan._replace(variant="mini")).run()
    assert ended is not None
    assert ended.orders > 0


def test_a_spent_budget_is_a_hold_on_paper_and_the_rules_turn_where_they_stand_by(
    app: App, models: ModelServer
) -> None:
    dear = preset(models, vision=False, price_input="100", budget_usd="1.5", checkpoints="none")
    model_versions.save_model(app.store, "dear", dear, "tester")
    plan = PaperPlan("dear", ("BTC-USD",), variant="dear", start=START, end=START.replace(hour=6))
    ended = PaperDaemon(app, plan).run()
    assert ended is not None
    failed = facts(app, AnalysisFailed)
    assert 0 < len(failed) < 6
    assert all("has spent" in fact.reason for fact in failed)
    made = create_missing_analyses(app, ASKED._replace(variant="dear,rules", end=START.replace(hour=8), retry=True))
    assert (made.failed, made.made + made.found) == (0, 8)


def test_a_budget_holds_for_all_symbols_of_a_command_and_its_cost_is_told(app: App) -> None:
    asked = BacktestRequest(("BTC-USD", "EUR-USD"), start=START, end=START.replace(hour=4), variant="mini")
    with pytest.raises(BudgetSpent, match="this command has spent"):
        create_missing_analyses(app, asked._replace(budget=exact("0.03")))
    first = sum(fact.work.cost for fact in facts(app, AnalysisMade))
    assert 0 < first <= exact("0.03")
    rest = create_missing_analyses(app, asked)
    assert rest.cost == sum(fact.work.cost for fact in facts(app, AnalysisMade)) - first
    assert rest.made + rest.found == 8


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_five_hundred_bars_replay_to_the_same_digest_without_a_connection(app: App, models: ModelServer) -> None:
    asked = BacktestRequest(("BTC-USD",), start=START, variant="mini", end=datetime(2017, 9, 4, 20, tzinfo=UTC))
    made = run_backtest(app, asked)
    assert made.analyses_made == 500
    assert len(models.requests) == 2_500
    models.reset()
    reached: list[Any] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and watching:
            reached.append(arguments[1])

    watching = True
    sys.addaudithook(watch)
    again = run_replay(app, made.result.request.run_id)
    watching = False
    assert again.result.ended.book_digest == made.result.ended.book_digest
    assert again.result.ended.analyses_digest == made.result.ended.analyses_digest
    assert (models.connections, models.requests) == (0, [])
    assert all(address != ("127.0.0.1", models.port) for address in reached)
