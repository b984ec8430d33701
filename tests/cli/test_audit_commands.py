"""`audit regenerate` and `audit diff` as an auditor types them, on logs that are whole and on some that are not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.store import ENGINE_VERSION
from tests.support.commands import answer, refusal, run
from tests.support.databases import log_of_its_own
from tests.support.seeded import START


@pytest.fixture
def env(server: str, seeded_template: tuple[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    with log_of_its_own(server, seeded_template[0]) as dsn:
        yield {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "auditor"}


def change(env: dict[str, str], statement: str, *values: object) -> None:
    """What only the owner of the server can do: triggers are asleep."""
    with psycopg.connect(env["QUANTAGENT_DSN"]) as conn:
        conn.execute("SET session_replication_role = replica")
        assert conn.execute(statement.encode(), values).rowcount == 1


EDIT = (
    "UPDATE quantagent.events SET state = convert_to(replace(convert_from(state, 'UTF8'), %s, %s), 'UTF8') "
    "WHERE notification_id = %s"
)


def heads(env: dict[str, str]) -> tuple[Any, ...] | None:
    with psycopg.connect(env["QUANTAGENT_DSN"]) as conn:
        return conn.execute("SELECT max(notification_id), count(*) FROM quantagent.events").fetchone()


@pytest.mark.slow
def test_backtest_replay_and_paper_run_are_made_again_and_compared(env: dict[str, str]) -> None:
    backtest = answer(env, "runs", "show", "latest")["run"]["run_id"]
    replayed = answer(env, "replay", backtest, "--profile", "cautious")["replays"][0]["run_id"]
    paper = answer(env, "paper", "start", "--start", f"{START:%Y-%m-%d}", "--end", "2017-11-04")["run_id"]
    before = heads(env)
    for run_id, environment in ((backtest, "backtest"), (replayed, "replay"), (paper, "paper")):
        found = answer(env, "audit", "regenerate", run_id)
        assert (found["environment"], found["equal"], found["difference"]) == (environment, True, None)
    shown = run(env, "audit", "regenerate", backtest).stdout.splitlines()
    assert shown[0] == f"engine version  {ENGINE_VERSION} recorded, {ENGINE_VERSION} now"
    assert shown[-1] == "equal"
    parted = json.loads(run(env, "audit", "diff", backtest, replayed, "--json", code=3).stdout)
    assert parted["equal"] is False
    asked = {each["field"]: (each["ours"], each["theirs"]) for each in parted["asked_differently"]}
    assert asked["environment"] == ("backtest", "replay")
    assert asked["config.limits.reversal"][0] == "false"
    assert "config.limits.reversal" in run(env, "audit", "diff", backtest, replayed, code=3).stdout
    assert "The books are equal." in run(env, "audit", "diff", backtest, backtest).stdout
    assert heads(env) == before


def test_what_was_changed_in_the_database_is_named_with_its_position(env: dict[str, str]) -> None:
    fill = json.loads(run(env, "log", "--name", "trades", "--limit", "1", "--json").stdout)
    price = fill["payload"]["price"]
    change(env, EDIT, f'"price":"{price}"', '"price":"1"', fill["position"])
    shown = run(env, "audit", "regenerate", "latest", code=3).stdout
    assert f"OrderFilled.v2 at position {fill['position']:,}" in shown
    assert "DIFFERENT" in shown
    told = json.loads(run(env, "audit", "regenerate", "latest", "--json", code=3).stdout)
    assert told["difference"]["stored"]["position"] == fill["position"]
    assert told["difference"]["fields"] == [{"field": "price", "ours": "1", "theirs": price}]
    change(env, EDIT, '"price":"1"', f'"price":"{price}"', fill["position"])
    change(env, EDIT, '"price":', '"prise":', fill["position"])
    assert f"position {fill['position']}" in run(env, "audit", "regenerate", "latest", code=3).stderr


def test_bars_that_are_other_or_missing_are_told_in_one_sentence(env: dict[str, str]) -> None:
    last = "WHERE opened_at = '2017-11-15 22:00+00' AND symbol = 'BTC-USD'"
    change(env, f"UPDATE quantagent.bars SET volume = volume + 1 {last}")
    shown = run(env, "audit", "regenerate", "latest", code=3).stdout
    assert "The bars differ from those of the run: at least one bar has other values." in shown
    change(env, f"DELETE FROM quantagent.bars {last}")
    assert re.search(r"1 of \d+ bars missing", run(env, "audit", "regenerate", "latest", code=3).stdout)
    with psycopg.connect(env["QUANTAGENT_DSN"]) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("DELETE FROM quantagent.bars WHERE symbol = 'EUR-USD'")
    said = run(env, "audit", "regenerate", "latest", code=3).stderr
    assert "cannot be regenerated: there are no bars of EUR-USD" in said


def test_a_run_that_does_not_exist_is_one_sentence(env: dict[str, str]) -> None:
    assert "'abc'" in refusal(env, "audit", "diff", "latest", "abc")
    assert "'abc'" in refusal(env, "audit", "regenerate", "abc")
