"""`audit verify` and `audit anchor` as one types them, and the anchors that commands leave behind by themselves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import psycopg
import pytest

from engine.audit.anchors import Anchor, read_anchors
from engine.audit.chain import read_log_id
from engine.audit.verify import VerificationReport, verify_log
from engine.store.postgres import PostgresStore
from tests.support.commands import answer, env, refusal, run, write_bars
from tests.support.forks import QUANTAGENT
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until
from tests.support.workloads import walk, write_signals

__all__ = ["env"]


def traded(env: dict[str, str], folder: Path) -> None:
    """A small log: bars, imported signals, a backtest."""
    run(env, "data", "import", write_bars(folder / "a.csv"), "--symbol", "AAA")
    signals = write_signals(folder / "signals.csv", [walk("AAA", 100, 400, 100.0, 0.005)])
    run(env, "backtest", "--symbols", "AAA", "--signals", signals)


def anchors_of(env: dict[str, str], dsn: str) -> list[Anchor]:
    with psycopg.connect(dsn) as conn:
        return read_anchors(Path(env["QUANTAGENT_HOME"]) / "anchors" / f"{read_log_id(conn)}.jsonl")


def whole(dsn: str) -> VerificationReport:
    with psycopg.connect(dsn) as conn:
        return verify_log(conn)


def test_a_command_that_appended_leaves_an_anchor_of_the_head(env: dict[str, str], dsn: str, tmp_path: Path) -> None:
    traded(env, tmp_path)
    verdict = whole(dsn)
    (*_, last) = anchors_of(env, dsn)
    assert (last.seal, last.hash, last.position) == (verdict.seals, verdict.head, verdict.last_position)
    found = answer(env, "audit", "verify")
    assert (found["intact"], found["anchored_to"]) == (True, verdict.last_position)
    # One that only read leaves none.
    count = len(anchors_of(env, dsn))
    run(env, "runs", "list")
    run(env, "audit", "anchor")
    assert len(anchors_of(env, dsn)) == count


def test_a_changed_event_is_named_with_exit_code_three(env: dict[str, str], dsn: str, tmp_path: Path) -> None:
    traded(env, tmp_path)
    with psycopg.connect(dsn) as conn:
        conn.execute("SET session_replication_role = replica")
        (position,) = conn.execute(
            "UPDATE quantagent.events SET state = state || ' '::bytea "
            "WHERE notification_id = (SELECT max(notification_id) - 3 FROM quantagent.events) RETURNING notification_id"
        ).fetchone() or (0,)
    done = run(env, "audit", "verify", code=3)
    assert f"position {position}:" in done.stderr
    assert "was changed" in done.stderr
    found = json.loads(run(env, "audit", "verify", "--json", code=3).stdout)
    assert (found["intact"], found["position"]) == (False, position)


def test_a_log_cut_off_after_its_anchor_is_found(env: dict[str, str], dsn: str, tmp_path: Path) -> None:
    traded(env, tmp_path)
    with psycopg.connect(dsn) as conn:
        conn.execute("SET session_replication_role = replica")
        (first,) = conn.execute(
            "DELETE FROM quantagent.seals WHERE seal = (SELECT max(seal) FROM quantagent.seals) "
            "RETURNING first_position"
        ).fetchone() or (0,)
        conn.execute("DELETE FROM quantagent.events WHERE notification_id >= %s", (first,))
    assert whole(dsn).finding is None
    assert "its tail was cut off" in run(env, "audit", "verify", code=3).stderr


def test_anchors_and_keys_from_elsewhere_are_used_when_they_are_named(
    env: dict[str, str], dsn: str, tmp_path: Path
) -> None:
    traded(env, tmp_path)
    home = Path(env["QUANTAGENT_HOME"])
    (anchors,) = (home / "anchors").glob("*.jsonl")
    moved = tmp_path / "safe.jsonl"
    anchors.rename(moved)
    found = json.loads(run(env, "audit", "verify", "--json", code=3).stdout)
    assert f"{anchors} holds 0 of the " in found["finding"]
    assert answer(env, "audit", "verify", "--anchor", moved, "--public-key", home / "keys" / "anchor.pub")["intact"]
    (tmp_path / "other.pub").write_text("ab" * 32)
    done = run(env, "audit", "verify", "--anchor", moved, "--public-key", tmp_path / "other.pub", code=3)
    assert "another key" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--anchor", "absent.jsonl"), "absent.jsonl cannot be read"),
        (("--public-key", "absent.pub"), "absent.pub is not a public key"),
    ],
)
def test_a_file_that_is_not_there_is_named(env: dict[str, str], arguments: tuple[str, str], words: str) -> None:
    assert words in refusal(env, "audit", "verify", *arguments)


def test_anchors_that_cannot_be_written_are_told_and_fail_no_backtest(
    env: dict[str, str], dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/anchors").write_text("a file, where the folder should be")
    there = {**env, "QUANTAGENT_HOME": str(tmp_path / "home")}
    run(there, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    signals = write_signals(tmp_path / "signals.csv", [walk("AAA", 100, 400, 100.0, 0.005)])
    done = run(there, "backtest", "--symbols", "AAA", "--signals", signals)
    assert "the log was not anchored" in done.stderr
    assert whole(dsn).finding is None


def test_a_copy_that_says_more_than_the_home_is_never_replaced(env: dict[str, str], dsn: str, tmp_path: Path) -> None:
    traded(env, tmp_path)
    safe = tmp_path / "safe"
    run(env, "audit", "anchor", "--copy", safe)
    run(env, "halt", "--reason", "one anchor more")
    run(env, "audit", "anchor", "--copy", safe)
    kept = (safe / "anchors.jsonl").read_bytes()
    kept += kept.splitlines(keepends=True)[0]
    (safe / "anchors.jsonl").write_bytes(kept)
    assert "has other content than" in refusal(env, "audit", "anchor", "--copy", safe)
    assert (safe / "anchors.jsonl").read_bytes() == kept


@pytest.mark.slow
def test_a_command_told_to_end_anchors_what_it_appended(env: dict[str, str], dsn: str) -> None:
    run(env, "data", "sample")
    begun = subprocess.Popen([str(QUANTAGENT), "backtest"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with begun, PostgresStore(dsn) as store:
        wait_until(lambda: store.last_position() >= 1_000, "the backtest does not go on")
        begun.terminate()
        begun.communicate(timeout=WAIT_TIMEOUT_S)
    assert begun.returncode == 143
    verdict = whole(dsn)
    assert anchors_of(env, dsn)[-1].position == verdict.last_position
