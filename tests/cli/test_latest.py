"""`latest`, short ids, filters and lists: which run a command takes, and what it says of it."""

from __future__ import annotations

import csv
import io
import os
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.commands import answer, refusal, run, write_bars
from tests.support.workloads import walk, write_signals

pytestmark = pytest.mark.slow


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    """An environment in which one backtest `made` has been run over 400 bars of AAA."""
    env = {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    write_signals(tmp_path / "signals.csv", [walk("AAA", 100, 400, 100.0, 0.005)])
    return env


def backtest(env: dict[str, str], *more: str) -> str:
    signals = Path(env["QUANTAGENT_HOME"]) / "signals.csv"
    return str(answer(env, "backtest", "--symbols", "AAA", "--signals", signals, *more)["run_id"])


def hold(env: dict[str, str]) -> None:
    """A backtest that goes long once, and still is at its end."""
    signals = Path(env["QUANTAGENT_HOME"]) / "long.csv"
    at = walk("AAA", 100, 400, 100.0, 0.005)[397].closed_at.isoformat()
    signals.write_text(f"symbol,at,decision,confidence\nAAA,{at},LONG,1\n")
    run(env, "backtest", "--symbols", "AAA", "--signals", signals)


def test_replay_latest_takes_the_newest_backtest_and_lists_the_newest_run_of_all(env: dict[str, str]) -> None:
    made = backtest(env)
    first = answer(env, "replay", "latest", "--profile", "classic")
    again = answer(env, "replay", "latest", "--profile", "cautious")
    assert first["source"] == again["source"] == made
    assert answer(env, "trades", "list")["run_id"] == again["replays"][0]["run_id"]


def test_replays_of_the_demo_are_not_the_latest_run(env: dict[str, str], dsn: str) -> None:
    from ui.app import open_app
    from ui.services.replay import run_replay
    from ui.services.run_lookup import DEMO
    from ui.settings import Settings

    made = backtest(env)
    with open_app(Settings(None, dsn, "tester")) as app:
        run_replay(app, made, label=DEMO)
    assert answer(env, "trades", "list")["run_id"] == made
    assert answer(env, "runs", "list", "--label", DEMO)["runs"][0]["of_run"] == made


@pytest.mark.parametrize(
    "command",
    [
        ("trades", "list"),
        ("orders", "list"),
        ("runs", "show", "latest"),
        ("runs", "days"),
        ("replay", "latest"),
        ("compare", "latest", "latest"),
        ("audit", "regenerate", "latest"),
        ("why", "trade-1"),
    ],
)
def test_a_command_that_takes_latest_says_which_run_that_is(env: dict[str, str], command: tuple[str, ...]) -> None:
    made = backtest(env)
    assert f"latest is run {made[:8]}: backtest, realistic, AAA." in run(env, *command).stderr
    assert (
        "latest is run"
        not in run(env, *[made if word == "latest" else word for word in command], *_named(command, made)).stderr
    )


def _named(command: tuple[str, ...], made: str) -> tuple[str, ...]:
    if "latest" in command:
        return ()
    return (made,) if command == ("runs", "days") else ("--run", made)


def test_a_refusal_stays_one_sentence(env: dict[str, str]) -> None:
    backtest(env)
    assert "trade-9999" in refusal(env, "why", "trade-9999")
    assert "order-0" in refusal(env, "why", "order-0")


def test_a_trade_is_explained_by_its_number(env: dict[str, str]) -> None:
    made = backtest(env)
    trades = answer(env, "trades", "list")["trades"]
    assert [row["number"] for row in trades] == list(range(1, len(trades) + 1))
    whole = answer(env, "why", trades[2]["trade_id"], "--run", made)
    assert answer(env, "why", "trade-3")["chain"] == whole["chain"]
    assert "trade-3" in run(env, "trades", "list").stdout


def test_runs_are_filtered_by_environment_label_date_and_number(env: dict[str, str]) -> None:
    named, made = backtest(env, "--label", "mine"), backtest(env)
    run(env, "replay", "latest")
    listed = [row["run_id"] for row in answer(env, "runs", "list", "--environment", "backtest")["runs"]]
    assert listed == [made, named]
    assert [row["run_id"] for row in answer(env, "runs", "list", "--label", "mine")["runs"]] == [named]
    assert len(answer(env, "runs", "list", "--limit", "2")["runs"]) == 2
    assert answer(env, "runs", "list", "--until", "2020-01-01")["runs"] == []
    assert len(answer(env, "runs", "list", "--since", "2020-01-01")["runs"]) == 3
    rows = list(csv.DictReader(io.StringIO(run(env, "runs", "list", "--csv").stdout)))
    assert {row["run_id"] for row in rows} >= {named, made}
    assert "demo-run" in refusal(env, "runs", "list", "--environment", "demo-run")
    assert "No run matches" in run(env, "runs", "list", "--label", "other").stderr


def test_positions_are_listed_with_mark_value_and_unrealised_result(env: dict[str, str]) -> None:
    hold(env)
    metrics = answer(env, "runs", "show", "latest")
    (held,) = answer(env, "positions", "list")["positions"]
    last = walk("AAA", 100, 400, 100.0, 0.005)[-1]
    assert Decimal(held["mark"]) == last.close
    assert Decimal(held["value"]) == Decimal(held["quantity"]) * last.close
    assert Decimal(held["unrealised_pnl"]) == Decimal(held["value"]) - Decimal(held["cost"])
    assert Decimal(metrics["portfolio"]["cash"]) + Decimal(held["value"]) == Decimal(metrics["metrics"]["final_equity"])
    trades = answer(env, "trades", "list")["trades"]
    assert [row["unrealised_pnl"] for row in trades if row["status"] == "open"] == [held["unrealised_pnl"]]
    assert all(row["unrealised_pnl"] is None for row in trades if row["status"] == "closed")


@pytest.mark.parametrize("width", [80, 120])
def test_lists_keep_to_the_width_and_name_what_they_leave_out(env: dict[str, str], width: int) -> None:
    hold(env)
    for command in (("runs", "list"), ("trades", "list"), ("orders", "list"), ("positions", "list"), ("runs", "days")):
        lines = run({**env, "COLUMNS": str(width)}, *command).stdout.splitlines()
        assert max(map(len, lines)) <= width
        whole = run({**env, "COLUMNS": str(width)}, *command, "--wide").stdout.splitlines()
        dropped = (
            lines[-1].removeprefix("Not shown: ").partition(";")[0].split(", ") if "Not shown" in lines[-1] else []
        )
        assert [name for name in dropped if name in lines[1].split("  ")] == []
        assert all(name in whole[1] for name in dropped)
        assert ("--wide shows them" in lines[-1]) is bool(dropped)
    assert "Not shown" in run({**env, "COLUMNS": "80"}, "trades", "list").stdout


def test_symbols_are_found_in_small_letters_and_the_one_that_was_meant_is_named(env: dict[str, str]) -> None:
    backtest(env)
    assert answer(env, "trades", "list", "--symbol", "aaa")["trades"]
    assert "did you mean AAA?" in refusal(env, "trades", "list", "--symbol", "AAAA")
