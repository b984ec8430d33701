"""The commands as a user types them: real processes, a real database, results on stdout, errors in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import answer, env, refusal, rows_in, run, write_bars
from tests.support.forks import run_command
from tests.support.waiting import WAIT_TIMEOUT_S
from tests.support.workloads import walk, write_signals

__all__ = ["env"]


@pytest.mark.slow
def test_a_file_goes_from_import_to_trades_and_their_reasons(env: dict[str, str], tmp_path: Path) -> None:
    bars = [walk("AAA", 100, 400, 100.0, 0.005)]
    assert answer(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")["new"] == 400
    assert answer(env, "data", "import", tmp_path / "a.csv", "--symbol", "AAA")["known"] == 400
    assert [row["bars"] for row in answer(env, "data", "list")["bars"]] == [400]
    signals = write_signals(tmp_path / "signals.csv", bars)
    made = answer(env, "backtest", "--symbols", "AAA", "--signals", signals)
    assert made["analyses_made"] == 0
    assert made["fills"] > 10
    again = answer(env, "backtest", "--symbols", "AAA", "--signals", signals)
    assert (again["run_id"], again["book_digest"]) == (made["run_id"], made["book_digest"])
    replayed = answer(env, "replay", "latest", "--profile", "realistic", "--profile", "classic")
    assert replayed["equal"] is True
    assert [each["analyses_made"] for each in replayed["replays"]] == [0, 0]
    assert replayed["replays"][0]["book_digest"] == made["book_digest"]
    assert replayed["replays"][1]["book_digest"] != made["book_digest"]
    runs = answer(env, "runs", "list")["runs"]
    assert sorted(row["environment"] for row in runs) == ["backtest", "replay", "replay"]
    trades = answer(env, "trades", "list", "--run", made["run_id"])["trades"]
    orders = answer(env, "orders", "list", "--run", made["run_id"], "--on", "2024-01-02")["orders"]
    assert all(row["placed_at"].startswith("2024-01-02") for row in orders)
    chain = answer(env, "why", trades[0]["trade_id"], "--run", made["run_id"])["chain"]
    kinds = [link["kind"] for link in chain]
    assert kinds[:5] == ["imported signal", "signal", "risk decision", "order", "fill"]
    assert kinds.count("fill") == 2
    assert chain[0]["at"] == chain[1]["at"]
    shown = run(env, "runs", "show", made["run_id"][:8]).stdout
    assert made["book_digest"] in shown
    assert "sharpe ratio" in run(env, "compare", made["run_id"][:8], replayed["replays"][1]["run_id"][:8]).stdout
    csv_rows = run(env, "trades", "list", "--run", made["run_id"], "--csv").stdout.splitlines()
    assert len(csv_rows) == len(trades) + 1
    assert answer(env, "projections", "rebuild")["same"] is True
    assert answer(env, "projections", "status")["lag"] == 0


def test_the_sample_is_loaded_once(env: dict[str, str]) -> None:
    assert answer(env, "data", "sample")["new"] == 7426
    assert answer(env, "data", "sample")["new"] == 0


def test_a_saved_profile_is_found_by_name(env: dict[str, str], tmp_path: Path) -> None:
    document = json.loads(run(env, "profile", "show", "realistic").stdout)
    document["exits"]["holding_bars"] = None
    (tmp_path / "mine.json").write_text(json.dumps(document))
    saved = answer(env, "profile", "save", "patient", "--file", tmp_path / "mine.json")
    assert answer(env, "profile", "save", "patient", "--file", tmp_path / "mine.json")["digest"] == saved["digest"]
    assert answer(env, "profile", "show", "patient")["profile"]["exits"]["holding_bars"] is None
    assert answer(env, "profile", "list")["profiles"]["patient"]["exits"]["holding_bars"] is None
    assert rows_in(env["QUANTAGENT_DSN"], "quantagent.events") == 1


def test_the_doctor_finds_nothing_wrong_but_says_what_it_sees(env: dict[str, str]) -> None:
    done = run_command(["doctor", "--json"], env)
    checks = {check["check"]: check["ok"] for check in json.loads(done.stdout)["checks"]}
    # The suite's own server runs without fsync, which is exactly what the doctor must not pass over.
    assert checks["database"] is (done.returncode == 0)
    assert all(ok for name, ok in checks.items() if name != "database")


def test_help_is_quick_to_load(env: dict[str, str]) -> None:
    code = (
        "import sys; import ui.cli.commands; heavy = {'polars', 'pandas', 'streamlit', 'numpy', 'plotly', "
        "'eventsourcing', 'apscheduler', 'pydantic', 'yfinance', 'exchange_calendars'} & set(sys.modules); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=WAIT_TIMEOUT_S)
    assert "backtest" in run(env, "--help").stdout


BROKEN_LINES = {
    "not a number": ("2024-01-01T01:00:00+00:00,100,101,99,banana,1", "banana"),
    "nan": ("2024-01-01T01:00:00+00:00,100,nan,99,100,1", "nan"),
    "infinite": ("2024-01-01T01:00:00+00:00,100,inf,99,100,1", "inf"),
    "zero": ("2024-01-01T01:00:00+00:00,0,101,0,100,1", "0"),
    "negative": ("2024-01-01T01:00:00+00:00,100,101,-99,100,1", "-99"),
    "high below low": ("2024-01-01T01:00:00+00:00,100,99,101,100,1", "high"),
    "naive time": ("2024-01-01T01:00:00,100,101,99,100,1", "2024-01-01T01:00:00"),
    "no time": ("yesterday,100,101,99,100,1", "yesterday"),
    "duplicate": ("2024-01-01T00:00:00+00:00,100,101,99,100,1", "2024-01-01"),
    "overlap": ("2024-01-01T00:30:00+00:00,100,101,99,100,1", "2024-01-01"),
    "too few cells": ("2024-01-01T01:00:00+00:00,100", "cells"),
}


@pytest.mark.parametrize("fault", BROKEN_LINES)
def test_a_broken_bar_refuses_the_whole_file_and_names_its_place(
    env: dict[str, str], tmp_path: Path, fault: str
) -> None:
    line, named = BROKEN_LINES[fault]
    file = write_bars(tmp_path / "bars.csv", edit={2: line})
    said = refusal(env, "data", "import", file, "--symbol", "AAA")
    assert "bars.csv" in said
    assert named in said
    assert rows_in(env["QUANTAGENT_DSN"], "quantagent.bars") == 0


def test_accept_valid_keeps_the_good_bars_and_records_the_refused(env: dict[str, str], tmp_path: Path) -> None:
    file = write_bars(tmp_path / "bars.csv", edit={2: "2024-01-01T01:00:00+00:00,100,99,101,100,1"})
    done = answer(env, "data", "import", file, "--symbol", "AAA", "--accept-valid")
    assert (done["new"], len(done["refused"])) == (399, 1)
    assert rows_in(env["QUANTAGENT_DSN"], "quantagent.refused_bars") == 1


def test_other_prices_for_a_stored_bar_are_refused(env: dict[str, str], tmp_path: Path) -> None:
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    other = write_bars(tmp_path / "b.csv", edit={2: "2024-01-01T01:00:00+00:00,100,101,99,100.5,1"})
    said = refusal(env, "data", "import", other, "--symbol", "AAA")
    assert "AAA" in said
    assert rows_in(env["QUANTAGENT_DSN"], "quantagent.bars") == 400


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("backtest",), "data sample"),
        (("backtest", "--symbols", "NOPE"), "NOPE"),
        (("backtest", "--symbols", "bad symbol"), "bad symbol"),
        (("backtest", "--timeframe", "7h"), "7h"),
        (("backtest", "--start", "soon"), "soon"),
        (("backtest", "--signals", "missing.csv", "--symbols", "AAA"), "AAA"),
        (("replay", "latest"), "no run yet"),
        (("replay", "abc"), "abc"),
        (("runs", "show", "abc"), "abc"),
        (("why", "order-1", "--run", "abc"), "abc"),
        (("trades", "list", "--run", "abc"), "abc"),
        (("trades", "list", "--on", "never"), "never"),
        (("profile", "show", "nobody"), "nobody"),
        (("profile", "save", "Bad Name", "--file", "x.json"), "x.json"),
        (("paper", "start", "--feed", "carrier-pigeon"), "carrier-pigeon"),
        (("paper", "stop", "--account", "ghost"), "ghost"),
        (("data", "import", "missing.csv", "--symbol", "AAA"), "missing.csv"),
    ],
)
def test_what_does_not_exist_is_named_with_the_remedy(
    env: dict[str, str], arguments: tuple[str, ...], named: str
) -> None:
    assert named in refusal(env, *arguments)
    assert rows_in(env["QUANTAGENT_DSN"], "quantagent.events") == 0


def test_symbols_of_two_currencies_are_refused_in_words(env: dict[str, str], tmp_path: Path) -> None:
    for symbol in ("AAA-EUR", "AAA-USD"):
        run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", symbol)
    assert "AAA-EUR is quoted in EUR" in refusal(env, "backtest", "--symbols", "AAA-USD,AAA-EUR")


def test_signals_for_other_symbols_than_the_runs_are_refused(env: dict[str, str], tmp_path: Path) -> None:
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    signals = write_signals(tmp_path / "signals.csv", [walk("BBB", 100, 40, 100.0, 0.005)])
    assert "BBB" in refusal(env, "backtest", "--symbols", "AAA", "--signals", signals)


def test_an_empty_range_says_what_there_is(env: dict[str, str], tmp_path: Path) -> None:
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    assert "2024-01-01" in refusal(env, "backtest", "--symbols", "AAA", "--start", "2030-01-01", "--end", "2030-02-01")


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("{", "broken.json"),
        ('{"cash": "NaN"}', "cash"),
        ('{"cash": -1}', "cash"),
        ('{"unknown": 1}', "unknown"),
        ('{"sizing": {"mode": "fixed_quantity"}}', "quantity"),
        ('{"exits": {"holding_bars": 0}}', "holding_bars"),
        ('{"costs": {"slippage_bps": 20000}}', "slippage_bps"),
    ],
)
def test_a_broken_profile_names_the_field(env: dict[str, str], tmp_path: Path, document: str, named: str) -> None:
    (tmp_path / "broken.json").write_text(document)
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    assert named in refusal(env, "backtest", "--symbols", "AAA", "--profile", tmp_path / "broken.json")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a folder")
def test_a_home_that_cannot_be_made_is_one_sentence(env: dict[str, str]) -> None:
    homeless = {name: value for name, value in env.items() if name != "QUANTAGENT_DSN"}
    assert "/proc/nope" in refusal({**homeless, "QUANTAGENT_HOME": "/proc/nope"}, "runs", "list", code=1)


def test_a_connection_string_that_is_none_is_one_sentence(env: dict[str, str]) -> None:
    assert "postgresql://" in refusal({**env, "QUANTAGENT_DSN": "garbage"}, "runs", "list")


def test_a_server_that_cannot_be_reached_is_one_sentence(env: dict[str, str]) -> None:
    unreachable = {**env, "QUANTAGENT_DSN": "postgresql://nobody@none.invalid/none"}
    assert "QUANTAGENT_DSN" in refusal(unreachable, "runs", "list", code=1)
