"""What a run's result says besides its figures: denials by rule, runs without a trade, gaps and flagged bars."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.core.market import Bar
from tests.support.commands import answer, run
from tests.support.workloads import walk, write_signals


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}


def write_bars(path: Path, bars: list[Bar]) -> Path:
    rows = [f"{b.opened_at.isoformat()},{b.open},{b.high},{b.low},{b.close},{b.volume}" for b in bars]
    path.write_text("\n".join(["opened_at,open,high,low,close,volume", *rows]) + "\n")
    return path


def bring(env: dict[str, str], tmp_path: Path, bars: list[Bar], *options: str) -> Path:
    """Imports bars of AAA, and writes signals for them."""
    file = write_bars(tmp_path / "bars.csv", bars)
    run(env, "data", "import", file, "--symbol", "AAA", *options)
    return write_signals(tmp_path / "signals.csv", [bars])


def one_lot_costs_more_than_there_is(env: dict[str, str], tmp_path: Path) -> Path:
    (tmp_path / "small.json").write_text('{"cash": 50}')
    return bring(env, tmp_path, walk("AAA", 100, 400, 100.0, 0.005), "--step", "1")


def test_a_run_whose_signals_were_all_denied_names_the_rule_and_its_numbers(
    env: dict[str, str], tmp_path: Path
) -> None:
    signals = one_lot_costs_more_than_there_is(env, tmp_path)
    question = ("backtest", "--symbols", "AAA", "--signals", signals, "--profile", tmp_path / "small.json")
    made = answer(env, *question)
    (rule,) = [row for row in made["denials"] if row["rule"] == "quantity"]
    assert made["orders"] == 0
    assert rule == {
        "rule": "quantity",
        "signals": made["signals"],
        "symbols": "AAA",
        "limit": "above 0, in lots of 1",
        "observed": "0",
    }
    assert made["no_trades"].startswith(f"No trade: all {made['signals']} signals were denied, most often by the rule")
    shown = run(env, *question).stdout
    assert "Denied signals by rule" in shown
    assert "above 0, in lots of 1" in shown
    assert "No trade: all" in shown
    (replayed,) = answer(env, "replay", "latest")["replays"]
    assert replayed["denials"] == made["denials"]
    for later in (run(env, "replay", "latest").stdout, run(env, "runs", "show", "latest").stdout):
        assert "No trade: all" in later


def test_a_run_without_a_signal_says_what_the_decisions_were(env: dict[str, str], tmp_path: Path) -> None:
    bring(env, tmp_path, walk("AAA", 100, 60, 100.0, 0.005))
    made = answer(env, "backtest", "--symbols", "AAA", "--variant", "rules")
    assert made["signals"] == 0
    assert made["no_trades"] == "No trade: there was no signal, the decisions were 60 HOLD."


def test_a_run_that_trades_has_no_such_sentence(env: dict[str, str], tmp_path: Path) -> None:
    signals = bring(env, tmp_path, walk("AAA", 100, 400, 100.0, 0.005))
    made = answer(env, "backtest", "--symbols", "AAA", "--signals", signals)
    assert (made["no_trades"], made["data_notes"]) == ("", [])


def test_orders_that_were_never_filled_are_counted_with_their_ends(env: dict[str, str], tmp_path: Path) -> None:
    signals = bring(env, tmp_path, walk("AAA", 100, 60, 100.0, 0.005))
    # A decision on the last bar: its order waits for a bar that never comes.
    last = walk("AAA", 100, 60, 100.0, 0.005)[-1].closed_at.isoformat()
    signals.write_text(f"symbol,at,decision\nAAA,{last},LONG\n")
    made = answer(env, "backtest", "--symbols", "AAA", "--signals", signals)
    assert (made["signals"], made["fills"]) == (1, 0)
    assert made["no_trades"].startswith("No trade: no order was filled; orders: 1 ")


def test_gaps_refused_rows_and_jumps_in_the_range_are_named_with_their_dates(
    env: dict[str, str], tmp_path: Path
) -> None:
    bars = walk("AAA", 100, 400, 100.0, 0.005)
    without = [*bars[:100], *bars[103:]]
    split = without[:200] + [_tenth(bar) for bar in without[200:]]
    file = write_bars(tmp_path / "bars.csv", split)
    lines = file.read_text().splitlines()
    opened = bars[50].opened_at
    lines[51] = f"{opened.isoformat()},100,90,101,100,1"
    file.write_text("\n".join(lines) + "\n")
    run(env, "data", "import", file, "--symbol", "AAA", "--calendar", "24/7", "--accept-valid")
    signals = write_signals(tmp_path / "signals.csv", [[*split[:50], *split[51:]]])
    made = answer(env, "backtest", "--symbols", "AAA", "--signals", signals)
    notes: dict[str, list[dict[str, Any]]] = {}
    for note in made["data_notes"]:
        notes.setdefault(note["kind"], []).append(note)
    assert [(each["start"], each["bars"]) for each in notes["gap"]] == [
        (_text(bars[50].opened_at), 1),
        (_text(bars[100].opened_at), 3),
    ]
    assert [each["start"] for each in notes["refused row"]] == [_text(opened)]
    assert _text(split[200].opened_at) in [each["start"] for each in notes["flagged bar"]]
    assert "times the usual one" in notes["flagged bar"][0]["reason"]
    shown = run(env, "runs", "show", "latest").stdout
    for at in (bars[50].opened_at, bars[100].opened_at, split[200].opened_at):
        assert f"{at:%Y-%m-%d %H:%M}" in shown
    before = answer(env, "backtest", "--symbols", "AAA", "--variant", "rules", "--end", bars[40].closed_at.isoformat())
    assert before["data_notes"] == []


def _tenth(bar: Bar) -> Bar:
    prices = {name: getattr(bar, name) / 10 for name in ("open", "high", "low", "close")}
    return msgspec.structs.replace(bar, **prices)


def _text(at: Any) -> str:
    return json.loads(json.dumps(at.isoformat().replace("+00:00", "Z")))
