"""`quantagent analyze`, `analyses` and `--variant MODEL`, typed as a person would, against real servers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import database
from tests.support.forks import run_command
from tests.support.model_answers import lean_decision
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.slow

RANGE = ("--symbols", "BTC-USD", "--start", "2017-12-20T00:00", "--end", "2017-12-20T06:00")
KEY = "sk-never-to-be-seen-0123456789"


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with ModelServer(edit_answer=lean_decision, key=KEY) as made:
        yield made


@pytest.fixture
def env(dsn: str, tmp_path: Path, models: ModelServer) -> dict[str, str]:
    """A home of one's own with the sample, and a model that can be asked."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("QUANTAGENT_")}
    made = {**surroundings, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path / "home"), "OPENAI_API_KEY": KEY}
    run(made, "data", "sample")
    save(made, "mini", models, vision="true", price_input="1", price_output="2")
    return made


def save(env: dict[str, str], name: str, models: ModelServer, **fields: str) -> None:
    said = {"model": "stub", "base_url": models.url, "retries": "0", "timeout_s": "120", "patience_s": "300", **fields}
    run(env, "model", "save", name, *(word for field in said.items() for word in ("--set", "=".join(field))))


def call(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, env)


def run(env: dict[str, str], *arguments: str) -> str:
    done = call(env, *arguments)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    return done.stdout


def told(env: dict[str, str], *arguments: str) -> dict[str, Any]:
    return json.loads(run(env, *arguments, "--json"))


@pytest.mark.slow(12)
def test_a_model_analyses_trades_is_replayed_run_again_and_paid(
    env: dict[str, str], models: ModelServer, tmp_path: Path
) -> None:
    run_ = told(env, "backtest", *RANGE, "--variant", "mini")
    assert (run_["analyses_made"], run_["analyses_failed"]) == (6, 0)
    assert run_["variant"].startswith("mini@")
    assert len(models.requests) == 30
    models.reset()

    again = told(env, "backtest", *RANGE, "--variant", "mini", "--label", "again")
    assert (again["analyses_made"], again["analyses_read"]) == (0, 6)
    assert again["book_digest"] == run_["book_digest"]
    (replayed,) = told(env, "replay", run_["run_id"])["replays"]
    assert replayed["book_digest"] == run_["book_digest"]
    rows = told(env, "analyses", "list", "--variant", "mini")["analyses"]
    assert len(rows) == 6
    assert told(env, "analyses", "rerun", rows[0]["analysis_id"])["equal"] is True
    assert (models.connections, models.requests) == (0, [])

    shown = told(env, "analyses", "show", rows[0]["analysis_id"], "--texts")
    assert {call_["request"] for call_ in shown["work"]["calls"]} < set(shown["texts"])
    (cost,) = told(env, "analyses", "costs", "--by", "variant")["costs"]
    assert (cost["calls"], cost["failures"], cost["analyses"]) == (30, 0, 6)
    assert float(cost["cost"]) == pytest.approx(float(run_["cost_usd"]))  # pyright: ignore[reportUnknownMemberType]

    save(env, "warm", models, temperature="0.7")
    told(env, "analyses", "make", *RANGE, "--variant", "warm")
    (compared,) = told(env, "analyses", "compare", "mini", "warm", "--symbols", "BTC-USD")["comparisons"]
    assert compared["both"] == 6
    assert [record["analyses"] for record in compared["records"]] == [6, 6]

    file = tmp_path / "analyses.jsonl"
    moved = told(env, "analyses", "export", str(file), "--variant", "mini")
    assert moved["analyses"] == 6
    assert told(env, "analyses", "import", str(file))["there"] == 6
    assert KEY not in file.read_text()


@pytest.mark.slow
def test_a_dead_model_is_a_hold_and_the_rules_answer_where_they_stand_by(
    env: dict[str, str], models: ModelServer
) -> None:
    models.close()
    failed_now = call(env, "analyze", "BTC-USD", "--variant", "mini", "--json")
    assert failed_now.returncode == 1
    assert "the connection failed" in json.loads(failed_now.stdout)["reason"]
    assert failed_now.stderr.startswith("error: the analysis failed: ")
    run_ = told(env, "backtest", *RANGE, "--variant", "mini,rules")
    assert run_["variant"].split("@")[0] == "mini"
    assert run_["variant"].endswith(",rules")
    assert run_["analyses_failed"] == 0
    failed = told(env, "analyses", "list", "--failed")["analyses"]
    assert len(failed) == 7
    assert all(row["status"] == "failed" for row in failed)
    alone = told(env, "backtest", *RANGE, "--variant", "mini")
    assert (alone["analyses_failed"], alone["orders"]) == (6, 0)
    (replayed,) = told(env, "replay", alone["run_id"])["replays"]
    assert replayed["book_digest"] == alone["book_digest"]


def test_of_a_failed_analysis_a_missing_key_is_named_first(env: dict[str, str], models: ModelServer) -> None:
    save(env, "keyless", models, key_env="QUANTAGENT_NO_SUCH_KEY")
    models.close()
    done = call(env, "analyze", "BTC-USD", "--variant", "keyless")
    assert done.returncode == 1
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert sentence.startswith(
        "error: the environment variable QUANTAGENT_NO_SUCH_KEY, which holds the key, is not set;"
    )


@pytest.mark.slow
def test_the_active_model_is_asked_where_no_variant_is_given(env: dict[str, str], models: ModelServer) -> None:
    assert told(env, "analyze", "BTC-USD")["variant"] == "rules"
    assert "The latest stored bar closed 2017-12-29 22:00" in call(env, "analyze", "BTC-USD").stderr
    assert "The latest stored bar" not in call(env, "analyze", "BTC-USD", "--end", "2017-12-29").stderr
    run(env, "model", "activate", "mini")
    assert told(env, "analyze", "BTC-USD")["variant"].startswith("mini@")
    assert len(models.requests) == 5
    assert told(env, "analyze", "BTC-USD", "--variant", "rules")["variant"] == "rules"
    run(env, "model", "deactivate")
    assert told(env, "analyze", "BTC-USD")["variant"] == "rules"


@pytest.mark.slow
def test_a_budget_stops_before_it_is_exceeded_and_what_was_made_is_kept(
    env: dict[str, str], models: ModelServer
) -> None:
    done = call(env, "analyses", "make", *RANGE, "--variant", "mini", "--budget", "0.03")
    assert done.returncode == 1
    assert "this command has spent" in done.stderr
    rows = told(env, "analyses", "list")["analyses"]
    spent = sum(float(row["cost"]) for row in rows)
    assert 0 < spent <= 0.03
    assert 0 < len(rows) < 6
    made = told(env, "analyses", "make", *RANGE, "--variant", "mini")
    assert (made["found"], made["made"]) == (len(rows), 6 - len(rows))


@pytest.mark.slow(11)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("analyze", "BTC-USD", "--variant", "absent"), "variant 'absent' is unknown"),
        (("analyze", "BTC-USD", "--variant", "mini@7"), "mini has version"),
        (("analyses", "show", "absent"), "analysis 'absent' does not exist: `quantagent analyses list`"),
        (("analyses", "rerun", "absent"), "analysis 'absent' does not exist"),
        (("analyses", "costs", "--by", "moon"), "by day, variant, run or analysis"),
        (("analyses", "compare", "mini", "rules", "--symbols", "BTC-USD"), "no 1h analysis of BTC-USD by mini"),
        (("analyses", "make", *RANGE, "--variant", "mini", "--budget", "much"), "is not an amount of dollars"),
        (("check-lookahead", *RANGE, "--variant", "mini"), "variant 'mini' is unknown"),
    ],
)
def test_what_is_wrong_is_one_sentence(env: dict[str, str], arguments: tuple[str, ...], sentence: str) -> None:
    done = call(env, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow(12)
def test_an_analysis_runs_again_elsewhere_whatever_has_been_corrected_since(
    env: dict[str, str], models: ModelServer, tmp_path: Path, server: str, template: str
) -> None:
    run(env, "data", "export", "BTC-USD", str(tmp_path / "bars.csv"), "--timeframe", "1h")
    lines = (tmp_path / "bars.csv").read_text().splitlines()
    # A bar of the warm-up as somebody else had it, learned after the analysis was made.
    times = [line.split(",")[0] for line in lines]
    row = times.index(next(time for time in times if time.startswith("2017-12-25T00")))
    cells = lines[row].split(",")
    volume = lines[0].split(",").index("volume")
    run(env, "analyze", "BTC-USD", "--variant", "mini", "--end", "2017-12-26")
    (made,) = told(env, "analyses", "list")["analyses"]
    cells[volume] = "1"
    (tmp_path / "corrected.csv").write_text("\n".join([lines[0], ",".join(cells)]) + "\n")
    run(env, "data", "import", str(tmp_path / "corrected.csv"), "--symbol", "BTC-USD", "--timeframe", "1h", "--correct")
    assert told(env, "analyses", "rerun", made["analysis_id"])["equal"] is True
    file = tmp_path / "analyses.jsonl"
    run(env, "analyses", "export", str(file))
    with database(server, template) as other:
        there = {**env, "QUANTAGENT_DSN": other, "QUANTAGENT_HOME": str(tmp_path / "there")}
        models.close()
        run(there, "data", "sample")
        save(there, "mini", models, vision="true", price_input="1", price_output="2")
        # Its own attempt failed: the opinion that comes in stands behind it.
        assert call(there, "analyze", "BTC-USD", "--variant", "mini", "--end", "2017-12-26").returncode == 1
        assert told(there, "analyses", "import", str(file))["analyses"] == 1
        assert told(there, "analyses", "rerun", made["analysis_id"])["equal"] is True


@pytest.mark.slow
def test_a_file_with_a_fault_stores_nothing(env: dict[str, str], tmp_path: Path) -> None:
    run(env, "analyze", "BTC-USD", "--variant", "mini")
    file, head = tmp_path / "analyses.jsonl", '{"format": "quantagent-analyses", "version": 1}'
    run(env, "analyses", "export", str(file))
    first, fact, *texts = file.read_text().splitlines()
    assert first == head
    said: dict[str, Any] = json.loads(json.loads(fact)["fact"])
    louder = {**said, "decision": "HOLD" if said["decision"] != "HOLD" else "LONG"}
    forged = json.dumps({"name": "AnalysisMade.v3", "fact": json.dumps(louder)})
    other = json.dumps({"name": "RunFailed.v1", "fact": '{"run_id":"","reason":""}'})
    renamed = {**said, "as_of": "2017-12-01T00:00:00Z"}
    swapped = [texts[0].replace("small", "large").replace("stub", "stab"), *texts[1:]]
    faulty = {
        "not a file of exported analyses: `quantagent analyses export FILE` writes one": "{}\n",
        "line 2: not a JSON object": f"{head}\nnonsense\n",
        "is named": "\n".join([head, json.dumps({"name": "AnalysisMade.v3", "fact": json.dumps(renamed)})]),
        "event 'Moon.v1' is unknown": "\n".join([head, json.dumps({"name": "Moon.v1", "fact": "{}"})]),
        "the text does not match its digest": "\n".join([head, fact, *swapped]),
        "lacks the text": "\n".join([head, fact, *texts[1:]]),
        "the event is not an analysis": f"{head}\n{other}\n",
        "and the report has": "\n".join([head, forged, *texts]),
    }
    before = told(env, "analyses", "list")["analyses"]
    for sentence, text in faulty.items():
        file.write_text(text)
        done = call(env, "analyses", "import", str(file))
        assert done.returncode == 2, sentence
        assert sentence in done.stderr, done.stderr
    assert told(env, "analyses", "list")["analyses"] == before
