"""`quantagent profile` as a user types it, and the runs that are decided by what was saved and activated."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from engine.core.events import RunRequested
from engine.store.postgres import PostgresStore
from tests.support.commands import answer, env, refusal, run, write_bars
from tests.support.workloads import walk, write_signals

__all__ = ["env"]


@pytest.fixture
def signals(env: dict[str, str], tmp_path: Path) -> Path:
    """Two symbols in the catalogue, and signals for one of them."""
    for symbol in ("AAA", "BBB"):
        run(env, "data", "import", write_bars(tmp_path / "bars.csv", count=120), "--symbol", symbol)
    return write_signals(tmp_path / "signals.csv", [walk("AAA", 100, 120, 100.0, 0.005)])


def save(env: dict[str, str], folder: Path, name: str, document: str, ending: str = "json") -> None:
    (folder / f"{name}.{ending}").write_text(document)
    run(env, "profile", "save", name, "--file", folder / f"{name}.{ending}")


@pytest.mark.slow
def test_a_profile_goes_from_file_to_version_to_default_and_is_compared(env: dict[str, str], tmp_path: Path) -> None:
    save(env, tmp_path, "strict", 'kind = "risk"\n[limits]\ndaily_loss_pct = 2', "toml")
    save(env, tmp_path, "strict", '{"kind": "risk", "limits": {"daily_loss_pct": 1}}')
    assert answer(env, "profile", "copy", "cautious", "careful")["version"] == 1
    assert answer(env, "profile", "activate", "strict", "--environment", "paper")["scope"] == "paper"
    assert answer(env, "profile", "activate", "careful@1")["scope"] == "global"
    listed = answer(env, "profile", "list")
    assert listed["versions"] == {"realistic": 0, "classic": 0, "cautious": 0, "strict": 2, "careful": 1}
    assert listed["profiles"]["careful"] == listed["profiles"]["cautious"]
    active = [(each["scope"], each["half"], each["name"]) for each in listed["active"]]
    assert active == [("paper", "risk", "strict"), ("global", "portfolio", "careful"), ("global", "risk", "careful")]
    table = run(env, "profile", "list").stdout
    assert [line.split()[:4] for line in table.splitlines() if line.startswith(("strict", "careful"))] == [
        ["strict", "risk", "2", "paper"], ["careful", "combined", "1", "global"],
    ]  # fmt: skip
    assert answer(env, "profile", "show", "strict", "--version", 1)["profile"]["limits"]["daily_loss_pct"] == "2"
    assert json.loads(run(env, "profile", "show", "strict").stdout)["limits"]["daily_loss_pct"] == "1"
    assert answer(env, "profile", "diff", "strict@1", "strict@2")["differences"] == [
        {"field": "limits.daily_loss_pct", "one": "2", "other": "1"}
    ]
    assert run(env, "profile", "diff", "careful", "cautious").stdout == ""
    assert "limits.losses_max" in run(env, "profile", "diff", "careful", tmp_path / "strict.toml").stdout
    told = answer(env, "profile", "versions", "strict")
    assert [(row["version"], row["actor"]) for row in told["versions"]] == [(1, "tester"), (2, "tester")]
    assert [(row["scope"], row["active"]) for row in told["activations"]] == [("paper", True)]
    assert answer(env, "profile", "deactivate")["ended"] == ["careful"]
    assert "careful" not in {each["name"] for each in answer(env, "profile", "list")["active"]}
    (tmp_path / "strict.json").write_text('{"kind": "risk"}')
    assert "stays active (paper)" in run(env, "profile", "save", "strict", "--file", tmp_path / "strict.json").stderr


def test_what_is_shown_can_be_saved(env: dict[str, str], tmp_path: Path) -> None:
    for name in ("classic", "cautious"):
        save(env, tmp_path, f"my-{name}", run(env, "profile", "show", name).stdout)
        assert answer(env, "profile", "diff", name, f"my-{name}")["differences"] == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("profile", "show", "realistic", "--version", "1"), "no versions"),
        (("profile", "copy", "nobody", "me"), "nobody"),
        (("profile", "copy", "classic", "realistic"), "built in"),
        (("profile", "activate", "nobody"), "nobody"),
        (("profile", "activate", "classic", "--environment", "prod"), "no real broker"),
        (("profile", "activate", "classic", "--environment", "moon"), "moon"),
        (("profile", "deactivate"), "no profile is active"),
        (("profile", "diff", "classic", "gone.toml"), "gone.toml"),
        (("profile", "versions", "nobody"), "nobody"),
        (("paper", "start", "--environment", "prod"), "no real broker"),
        (("paper", "start", "--environment", "backtest"), "backtest"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(env: dict[str, str], arguments: tuple[str, ...], named: str) -> None:
    assert named in refusal(env, *arguments)
    with psycopg.connect(env["QUANTAGENT_DSN"]) as conn:
        assert conn.execute("SELECT count(*) FROM quantagent.events").fetchone() == (0,)


@pytest.mark.parametrize("arguments", [("runs", "list"), ("backtest",), ("paper", "start"), ("profile", "list")])
def test_no_command_works_in_prod(env: dict[str, str], arguments: tuple[str, ...]) -> None:
    assert "no real broker" in refusal({**env, "QUANTAGENT_ENVIRONMENT": "prod"}, *arguments)


def test_a_run_takes_the_profile_in_force_and_its_universe_and_says_so(
    env: dict[str, str], signals: Path, tmp_path: Path
) -> None:
    ask = ("backtest", "--signals", signals)
    save(env, tmp_path, "mine", '{"kind": "portfolio", "cash": 50000, "universe": ["AAA"]}')
    save(env, tmp_path, "strict", '{"kind": "risk", "limits": {"reversal": false}}')
    run(env, "profile", "activate", "mine")
    run(env, "profile", "activate", "strict", "--environment", "backtest")
    first = run(env, *ask, "--json")
    assert "profile mine (active globally) with the risk of strict (active for backtest)" in first.stderr
    made = json.loads(first.stdout)
    assert (made["profile"], made["symbols"]) == ("mine+strict", ["AAA"])
    named = answer(env, *ask, "--symbols", "BBB,AAA", "--profile", "mine", "--risk-profile", tmp_path / "strict.json")
    assert (named["profile"], named["symbols"]) == ("mine+strict.json", ["BBB", "AAA"])
    everything = answer(env, *ask, "--profile", "classic")
    assert (everything["profile"], everything["symbols"]) == ("classic", ["AAA", "BBB"])
    assert "strict is a risk profile" in refusal(env, *ask, "--profile", "strict")


@pytest.mark.slow
def test_nothing_that_is_saved_or_activated_later_changes_an_old_run(
    env: dict[str, str], signals: Path, tmp_path: Path
) -> None:
    ask = ("backtest", "--signals", signals, "--symbols", "AAA")
    save(env, tmp_path, "mine", '{"cash": 50000}')
    run(env, "profile", "activate", "mine")
    made = answer(env, *ask)
    assert made["fills"] > 0
    before = requested(env, made["run_id"])
    save(env, tmp_path, "mine", '{"cash": 90000, "costs": {"slippage_bps": 100}}')
    # Saved is not active: the same question is still the same run.
    assert answer(env, *ask)["run_id"] == made["run_id"]
    run(env, "profile", "activate", "mine")
    later = answer(env, *ask)
    assert later["run_id"] != made["run_id"]
    assert requested(env, later["run_id"]).config.cash == 90_000
    assert requested(env, made["run_id"]) == before
    replayed = answer(env, "replay", made["run_id"])
    assert replayed["equal"] is True
    assert [each["book_digest"] for each in replayed["replays"]] == [made["book_digest"]]
    under_another = answer(env, "replay", made["run_id"], "--profile", "mine")
    assert [each["book_digest"] for each in under_another["replays"]] == [later["book_digest"]]
    save(env, tmp_path, "half", '{"kind": "portfolio"}')
    assert (
        "the risk half of the profile is missing: give a combined profile, or --profile and --risk-profile"
        in refusal(env, "replay", made["run_id"], "--profile", "half")
    )


def requested(env: dict[str, str], run_id: str) -> RunRequested:
    with PostgresStore(env["QUANTAGENT_DSN"]) as store:
        fact = next(iter(store.read(f"run:{run_id}"))).event
    assert isinstance(fact, RunRequested)
    return fact


def test_the_daemon_takes_the_profile_of_its_environment(env: dict[str, str], signals: Path, tmp_path: Path) -> None:
    del signals
    save(env, tmp_path, "mine", '{"cash": 50000, "universe": ["BBB"]}')
    run(env, "profile", "activate", "mine", "--environment", "paper")
    done = run(env, "paper", "start", "--json")
    assert "profile mine (active for paper)" in done.stderr
    config = requested(env, json.loads(done.stdout)["run_id"]).config
    assert (config.symbols, config.cash) == (("BBB",), 50_000)
