"""The demo: complete, repeatable, and not to be spoilt by ending it at any moment."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from engine.data.sample import SAMPLE_FILES
from tests.support.databases import log_of_its_own
from tests.support.embedded_home import new_home
from tests.support.forks import QUANTAGENT
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until

BARS = 7426


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path)}


class Shown(NamedTuple):
    """A demo that nobody disturbed: its environment, what it told, and how many events and bars it stored."""

    env: dict[str, str]
    told: dict[str, Any]
    stored: tuple[int, int]


@pytest.fixture(scope="session")
def undisturbed(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with log_of_its_own(server, template) as dsn:
        env = {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path_factory.mktemp("undisturbed"))}
        yield Shown(env, demo(env), counts(dsn))


def unmeasured(env: dict[str, str]) -> dict[str, str]:
    """Without the coverage tool in the child, which would only make it slow: one demo of the file is measured."""
    return {name: value for name, value in env.items() if not name.startswith("COVERAGE")}


def demo(env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run([str(QUANTAGENT), "demo", "--json"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def counts(dsn: str) -> tuple[int, int]:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT (SELECT count(*) FROM quantagent.events), (SELECT count(*) FROM quantagent.bars)")
        events, bars = row.fetchone() or (0, 0)
    return events, bars


def kill_when(env: dict[str, str], events: int, number: signal.Signals) -> None:
    """Begins a demo and ends it once the log holds so many events."""
    process = subprocess.Popen([str(QUANTAGENT), "demo"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    dsn = env["QUANTAGENT_DSN"]
    wait_until(lambda: counts_or_nothing(dsn) >= events or process.poll() is not None, "the demo does not go on")
    process.send_signal(number)
    process.wait(WAIT_TIMEOUT_S)


def counts_or_nothing(dsn: str) -> int:
    try:
        return counts(dsn)[0]
    except psycopg.errors.UndefinedTable:
        return 0


@pytest.mark.slow(23)
def test_the_demo_shows_equal_digests_and_running_it_twice_duplicates_nothing(undisturbed: Shown) -> None:
    first = undisturbed.told
    assert (first["bars_new"], first["analyses_made"], first["replay_analyses_made"]) == (BARS, BARS, 0)
    assert first["replay_equal"] is True
    assert first["classic_digest"] != first["book_digest"]
    assert first["read_models_same"] is True
    second = demo(unmeasured(undisturbed.env))
    assert (second["bars_new"], second["analyses_made"]) == (0, 0)
    same = ("run_id", "book_digest", "replay_digest", "classic_digest", "trade", "read_model_rows")
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    assert counts(undisturbed.env["QUANTAGENT_DSN"]) == undisturbed.stored


@pytest.mark.slow(15)
def test_the_demo_ends_with_five_sentences_and_its_digests_stand_apart(undisturbed: Shown) -> None:
    env = unmeasured(undisturbed.env)
    done = subprocess.run([str(QUANTAGENT), "demo"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-5:] == undisturbed.told["sentences"]
    digest = undisturbed.told["book_digest"]
    assert next(n for n, line in enumerate(lines) if digest in line) > lines.index("Reproducibility")
    # From the bundled files themselves: the first open and the last close.
    alone = {symbol: last_close(symbol) / first_open(symbol) - 1 for symbol in SAMPLE_FILES}
    held = undisturbed.told["buy_and_hold"]
    assert held["symbols"] == pytest.approx(alone)
    assert held["equal_weight"] == pytest.approx(sum(alone.values()) / 2)
    for share in (*alone.values(), held["equal_weight"]):
        assert f"+{share * 100:.2f} %" in lines[-4]
    assert "not a profitable strategy" in lines[-3]
    assert "`classic` fills 2 % worse" in lines[-2]
    assert "quantagent dashboard" in lines[-1]


def rows_of(symbol: str) -> list[dict[str, str]]:
    with SAMPLE_FILES[symbol].open(newline="") as file:
        return list(csv.DictReader(file))


def first_open(symbol: str) -> float:
    return float(rows_of(symbol)[0]["open"])


def last_close(symbol: str) -> float:
    return float(rows_of(symbol)[-1]["close"])


@pytest.mark.slow(40)
def test_ended_at_any_moment_the_next_demo_completes_with_the_same_digests(
    env: dict[str, str], undisturbed: Shown
) -> None:
    env = unmeasured(env)
    # Events stored so far: while bars load, while analyses are made, in the backtest's book, in the replays.
    moments = ((0, signal.SIGKILL), (700, signal.SIGINT), (4_100, signal.SIGKILL), (7_600, signal.SIGKILL))
    for events, number in (*moments, (9_700, signal.SIGTERM), (12_000, signal.SIGKILL)):
        kill_when(env, events, number)
    spoilt = demo(env)
    assert counts(env["QUANTAGENT_DSN"]) == undisturbed.stored
    same = ("run_id", "book_digest", "replay_digest", "classic_digest", "read_model_rows")
    assert {name: spoilt[name] for name in same} == {name: undisturbed.told[name] for name in same}


@pytest.mark.long
def test_two_demos_at_once_on_a_new_home_both_complete() -> None:
    with new_home() as home:
        complete_twice_at_once(home)


def complete_twice_at_once(home: Path) -> None:
    env = unmeasured({name: value for name, value in os.environ.items() if name != "QUANTAGENT_DSN"})
    env |= {"QUANTAGENT_HOME": str(home), "QUANTAGENT_PG_LINGER_S": "0.2"}
    command = [str(QUANTAGENT), "demo", "--json"]
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    said = [process.communicate(timeout=WAIT_TIMEOUT_S) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    digests = {json.loads(out)["book_digest"] for out, _ in said}
    assert len(digests) == 1
