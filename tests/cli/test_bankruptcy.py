"""A run whose account is gone ends early, says so everywhere, and can be replayed, regenerated and bundled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import answer, env, run
from tests.support.databases import database

__all__ = ["env"]
pytestmark = pytest.mark.slow

# Sold short at 100 with 100,000: gone at 300 and more.
PROFILE: dict[str, Any] = {
    "sizing": {"mode": "fixed_quantity", "quantity": "500"},
    "limits": {"position_pct": 100, "daily_loss_pct": None, "collar_pct": None, "stale_bars": None},
    "exits": {"holding_bars": None, "stop_ranges": None, "risk_reward": None},
    "shorting": {"maintenance_pct": None, "margin_pct": 0},
}
STRATEGY = """
from quantagent import Decision

class Short:
    variant = "short"
    version = "1"
    bars = 1

    def decide(self, bars):
        return Decision("SHORT", reason="a test")
"""
PRICES = [*["100,101,99,100"] * 4, "100,350,100,120", *["120,121,119,120"] * 4]


@pytest.fixture
def squeezed(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    rows = [f"2024-01-01T{hour:02}:00:00Z,{prices},1000" for hour, prices in enumerate(PRICES)]
    (tmp_path / "a.csv").write_text("\n".join(["timestamp,open,high,low,close,volume", *rows, ""]))
    (tmp_path / "short.py").write_text(STRATEGY)
    (tmp_path / "all.json").write_text(json.dumps(PROFILE))
    (tmp_path / "less.json").write_text(json.dumps(PROFILE | {"sizing": {"mode": "fixed_quantity", "quantity": "1"}}))
    run(env, "data", "import", tmp_path / "a.csv", "--symbol", "AAA")
    return env


def test_it_ends_early_says_so_and_is_made_again_everywhere(
    squeezed: dict[str, str], server: str, template: str, tmp_path: Path
) -> None:
    variant = ("--variant", f"{tmp_path / 'short.py'}:Short")
    made = answer(squeezed, "backtest", "--symbols", "AAA", *variant, "--profile", tmp_path / "all.json")
    assert made["bars"] == 5
    assert made["ended_early"].startswith("BANKRUPT: the account had no equity left at 2024-01-01 05:00 UTC")
    assert answer(squeezed, "audit", "regenerate", made["run_id"])["equal"] is True

    said = run(squeezed, "replay", made["run_id"])
    assert "BANKRUPT" in said.stdout
    again = answer(squeezed, "replay", made["run_id"], "--profile", tmp_path / "less.json")["replays"]
    assert [(each["bars"], each["ended_early"], each["fills"]) for each in again] == [(5, "", 1)]

    packed = tmp_path / "run.zip"
    assert answer(squeezed, "audit", "bundle", made["run_id"], packed)["book_digest"] == made["book_digest"]
    with database(server, template) as other:
        there = {**squeezed, "QUANTAGENT_DSN": other, "QUANTAGENT_HOME": str(tmp_path / "there")}
        assert answer(there, "audit", "reproduce", packed)["equal"] is True

    shown = run(squeezed, "runs", "show", made["run_id"]).stdout
    assert "BANKRUPT: the account had no equity left" in shown
    assert "liquidation" in run(squeezed, "trades", "list", "--run", made["run_id"]).stdout
    chain = answer(squeezed, "why", "order-2", "--run", made["run_id"])["chain"]
    assert [link["kind"] for link in chain] == ["end of trading", "order", "fill"]


def test_a_paper_run_ends_with_the_backtests_digest_and_no_later_start_goes_on(
    squeezed: dict[str, str], tmp_path: Path
) -> None:
    asked = ("--symbols", "AAA", "--variant", f"{tmp_path / 'short.py'}:Short", "--profile", tmp_path / "all.json")
    made = answer(squeezed, "backtest", *asked)
    alone = answer(squeezed, "paper", "start", *asked)
    assert (alone["ended"], alone["book_digest"]) == (True, made["book_digest"])
    assert alone["ended_early"].startswith("BANKRUPT")
    assert answer(squeezed, "paper", "start", *asked)["book_digest"] == made["book_digest"]
    assert answer(squeezed, "audit", "regenerate", alone["run_id"])["equal"] is True
