"""The page runs without an exception over every state a database can be in, and says what to do when it is empty."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from engine.core.errors import StoreUnavailable
from engine.core.events import Environment, RunFailed
from engine.core.market import Timeframe, instrument_for
from engine.runtime import runs
from engine.store import Batch, Cause
from engine.store.postgres import PostgresStore
from projections.queries import Queries
from tests.support.databases import log_of_its_own
from tests.support.paths import ROOT
from tests.support.seeded import END, START
from tests.support.waiting import WAIT_TIMEOUT_S
from ui.app import open_app
from ui.dashboard import read_access
from ui.dashboard import run_page as run_page
from ui.services import profile_files
from ui.services.data import import_sample
from ui.services.replay import run_replay
from ui.settings import Settings

ENTRY = ROOT / "ui/dashboard/entry.py"


@pytest.fixture(scope="module")
def seeded(server: str, seeded_template: tuple[str, str]) -> Iterator[str]:
    with log_of_its_own(server, seeded_template[0]) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def replayed(server: str, seeded_template: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """A database with a backtest and its replay under another profile, and the replay's id."""
    name, run_id = seeded_template
    with log_of_its_own(server, name) as dsn, open_app(Settings(None, dsn, "tester")) as app:
        yield dsn, run_replay(app, run_id, "classic").result.request.run_id


@pytest.fixture(autouse=True)
def _connections_are_closed() -> Iterator[None]:
    yield
    st.cache_resource.clear()


def page(monkeypatch: pytest.MonkeyPatch, dsn: str) -> AppTest:
    monkeypatch.setenv("QUANTAGENT_DSN", dsn)
    return AppTest.from_file(str(ENTRY), default_timeout=WAIT_TIMEOUT_S)


def words(shown: AppTest) -> str:
    """All that is written on the page."""
    elements = [*shown.markdown, *shown.info, *shown.error, *shown.warning, *shown.caption]
    return "\n".join(str(element.value) for element in elements)


def labels(shown: AppTest) -> list[str]:
    return [metric.label for metric in shown.metric]


@pytest.mark.parametrize(
    ("environment", "command"),
    [("backtest", "quantagent backtest"), ("paper", "quantagent paper start"), ("replay", "quantagent replay")],
)
def test_an_environment_without_runs_names_the_command_to_run(
    monkeypatch: pytest.MonkeyPatch, dsn: str, environment: str, command: str
) -> None:
    prepare_read_models(dsn)
    shown = page(monkeypatch, dsn)
    shown.query_params["env"] = environment
    shown.run()
    assert not shown.exception
    assert command in words(shown)
    assert environment.upper() in words(shown)


def test_a_database_without_read_models_names_the_command_that_makes_them(
    monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    shown = page(monkeypatch, dsn).run()
    assert not shown.exception
    assert "quantagent projections" in words(shown)


def test_a_run_shows_six_figures_its_trades_and_the_whole_chain_of_the_newest(
    monkeypatch: pytest.MonkeyPatch, seeded: str
) -> None:
    shown = page(monkeypatch, seeded).run()
    assert not shown.exception
    assert labels(shown) == ["Final equity", "Net P&L", "Return", "Max drawdown", "Win rate", "Profit factor"]
    assert "BACKTEST" in words(shown)
    assert "UTC" in words(shown)
    for step in ("Analysis", "Signal", "Risk decision", "Order", "Fill"):
        assert f"**{step}**" in words(shown)
    assert len(shown.dataframe) == 1


def test_a_denied_signal_is_explained_up_to_where_it_ended(monkeypatch: pytest.MonkeyPatch, seeded: str) -> None:
    shown = page(monkeypatch, seeded)
    shown.session_state["list"] = "Signals"
    shown.session_state["verdict"] = "DENIED"
    shown.run()
    assert not shown.exception
    assert "**Risk decision** DENIED" in words(shown)
    assert "not reached" in words(shown)


def test_an_order_is_explained_from_its_opinion_on(monkeypatch: pytest.MonkeyPatch, seeded: str) -> None:
    shown = page(monkeypatch, seeded)
    shown.session_state["list"] = "Orders"
    shown.run()
    assert not shown.exception
    (table,) = shown.dataframe
    frame: Any = table.value
    assert {"entry", "exit"} <= set(frame["For"])
    assert "**Order**" in words(shown)


def test_another_environment_is_one_click_away(monkeypatch: pytest.MonkeyPatch, seeded: str) -> None:
    shown = page(monkeypatch, seeded).run()
    shown.segmented_control(key="env").set_value("replay").run()
    assert not shown.exception
    assert "quantagent replay" in words(shown)


@pytest.mark.parametrize(("length", "environment"), [(36, None), (8, None), (36, "backtest"), (8, "paper")])
def test_a_link_finds_its_run_by_the_beginning_of_its_id_in_any_environment(
    monkeypatch: pytest.MonkeyPatch, replayed: tuple[str, str], length: int, environment: str | None
) -> None:
    dsn, run_id = replayed
    shown = page(monkeypatch, dsn)
    shown.query_params["run"] = run_id[:length]
    if environment:
        shown.query_params["env"] = environment
    shown.run()
    assert not shown.exception
    assert shown.selectbox(key="run-selected").value == run_id
    assert "REPLAY" in words(shown)
    assert "classic" in words(shown)


def test_a_link_to_an_unknown_run_is_an_error_that_names_it_and_opens_no_other(
    monkeypatch: pytest.MonkeyPatch, replayed: tuple[str, str]
) -> None:
    dsn, run_id = replayed
    shown = page(monkeypatch, dsn)
    shown.query_params["run"] = "0000dead"
    shown.run()
    assert not shown.exception
    assert "0000dead" in " ".join(str(error.value) for error in shown.error)
    assert shown.selectbox(key="run-selected").value is None
    assert not labels(shown)
    shown.segmented_control(key="env").set_value("replay").run()
    assert not shown.error
    assert shown.selectbox(key="run-selected").value == run_id


def test_all_blocks_are_of_one_event_which_the_page_names(monkeypatch: pytest.MonkeyPatch, seeded: str) -> None:
    with PostgresStore(seeded) as store:
        head = store.last_position()
    assert f"event {head:,}" in words(page(monkeypatch, seeded).run())


def test_more_trades_than_a_page_holds_are_reached_by_page(monkeypatch: pytest.MonkeyPatch, seeded: str) -> None:
    monkeypatch.setattr(run_page, "PAGE", 5)
    shown = page(monkeypatch, seeded).run()
    assert not shown.exception
    with Queries(seeded) as queries:
        run_id = queries.run("latest")["run_id"]
        total = queries.count("trades", run_id)
        numbers = [row["number"] for row in queries.latest_trades(run_id, 5, 5)]
    assert total > 10
    assert f"{total} trades, 1 to 5 of them here" in words(shown)
    shown.session_state[f"page-trade-{run_id}"] = 2
    shown.run()
    assert not shown.exception
    (table,) = shown.dataframe
    frame: Any = table.value
    assert list(frame["#"]) == numbers


def test_a_running_paper_run_without_a_bar_shows_dashes(monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    begin_paper_run(dsn)
    shown = page(monkeypatch, dsn)
    shown.query_params["env"] = "paper"
    shown.run()
    assert not shown.exception
    assert "Equity" in labels(shown)
    assert "No bar of this run has closed yet" in words(shown)


def test_a_server_that_does_not_answer_is_one_sentence_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = page(monkeypatch, "postgresql://someone:hush@127.0.0.1:1/nowhere").run()
    assert not shown.exception
    assert "does not answer" in words(shown)
    assert "hush" not in words(shown)


def test_a_page_started_without_its_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTAGENT_DSN", raising=False)
    shown = AppTest.from_file(str(ENTRY), default_timeout=WAIT_TIMEOUT_S).run()
    assert not shown.exception
    assert "quantagent dashboard" in words(shown)


def test_looking_adds_nothing_to_the_log(monkeypatch: pytest.MonkeyPatch, seeded: str) -> None:
    with PostgresStore(seeded) as store:
        before = store.last_position()
        page(monkeypatch, seeded).run()
        assert store.last_position() == before


def test_the_server_keeps_the_pages_log_from_writing(dsn: str) -> None:
    with read_access.open_log(dsn) as log:
        assert log.last_position() == 0
        with pytest.raises(StoreUnavailable, match="read-only"):
            log.append([Batch("run:one", 0, [RunFailed("one", "a test")])], Cause("tester"))


def test_nothing_in_ui_bears_the_name_of_another_package() -> None:
    """Streamlit puts the folder of the entry script first on the path: such a file would hide that package."""
    ours = {path.stem for path in ENTRY.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert "views" in ours
    others = set(sys.stdlib_module_names) | set(packages_distributions())
    assert not (ours - {"__init__"}) & others


def prepare_read_models(dsn: str) -> None:
    with open_app(Settings(None, dsn, "tester")) as app:
        app.runner().catch_up()


def begin_paper_run(dsn: str) -> None:
    with open_app(Settings(None, dsn, "tester")) as app:
        import_sample(app)
        config = profile_files.resolve_profile(
            profile_files.BUILT_IN["realistic"], [instrument_for("BTC-USD")], Timeframe.H1
        )
        requested = runs.request(
            Environment.PAPER,
            config,
            profile="realistic",
            dataset_digest="paper",
            variant="rules",
            start=START,
            end=END,
        )
        runs.start_run(app.store, requested, START, "tester")
        app.runner().catch_up()
