"""`quantagent model` as a user types it; a key is seen nowhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest

from tests.support.commands import answer, env, refusal, run

__all__ = ["env"]

SECRET = "correct-horse-battery"


def test_a_model_goes_from_fields_to_version_to_default(env: dict[str, str], tmp_path: Path) -> None:
    assert "No model is saved" in run(env, "model", "list").stderr
    (tmp_path / "gpt.toml").write_text('model = "gpt-x"\nprice_input = 2.5\nseed = "none"')
    assert answer(env, "model", "save", "gpt", "--file", tmp_path / "gpt.toml")["version"] == 1
    # Fields that are not named stay as they were last saved.
    assert answer(env, "model", "save", "gpt", "--set", "seed=7", "--set", "vision=true")["version"] == 2
    assert answer(env, "model", "save", "gpt", "--set", "seed=7")["version"] == 2
    run(env, "model", "save", "local", "--set", "model=tiny", "--set", "base_url=http://127.0.0.1:8000/v1/",
        "--set", "fallback=gpt", "--set", "key_env=LOCAL_TOKEN")  # fmt: skip
    assert answer(env, "model", "activate", "gpt@1", "--environment", "paper")["scope"] == "paper"
    assert "Model local is active globally" in run(env, "model", "activate", "local").stderr

    listed = answer(env, "model", "list")
    assert listed["versions"] == {"gpt": 2, "local": 1}
    assert [(each["scope"], each["name"]) for each in listed["active"]] == [("paper", "gpt"), ("global", "local")]
    assert (listed["models"]["gpt"]["price_input"], listed["models"]["gpt"]["vision"]) == ("2.5", True)
    table = run(env, "model", "list").stdout
    assert re.search(r"gpt +2 +paper \(version 1\) +gpt-x", table)

    assert answer(env, "model", "show", "gpt", "--version", 1)["model"]["seed"] is None
    assert answer(env, "model", "show", "gpt")["model"]["seed"] == 7
    told = answer(env, "model", "versions", "gpt")
    assert [(row["version"], row["actor"]) for row in told["versions"]] == [(1, "tester"), (2, "tester")]
    assert [(row["scope"], row["active"]) for row in told["activations"]] == [("paper", True)]
    assert "Another version stays active (paper)" in run(env, "model", "save", "gpt", "--set", "seed=9").stderr
    assert answer(env, "model", "deactivate", "--environment", "paper")["ended"] == "gpt"
    assert "paper" not in {each["scope"] for each in answer(env, "model", "list")["active"]}


def test_what_is_shown_can_be_saved(env: dict[str, str], tmp_path: Path) -> None:
    first = answer(env, "model", "save", "gpt", "--set", "model=gpt-x", "--set", "budget_usd=1.50")
    (tmp_path / "shown.json").write_text(run(env, "model", "show", "gpt").stdout)
    again = answer(env, "model", "save", "gpt", "--file", tmp_path / "shown.json")
    assert (again["version"], again["digest"]) == (1, first["digest"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("model", "show", "nobody"), "model 'nobody' does not exist"),
        (("model", "save", "gpt"), "nothing to save"),
        (("model", "save", "gpt", "--set", "seed=1"), "model: Field required"),
        (("model", "save", "gpt", "--set", "seed"), "FIELD=VALUE"),
        (("model", "save", "gpt", "--file", "gone.toml"), "gone.toml cannot be read"),
        (("model", "save", "rules", "--set", "model=m"), "the name of an installed analyst"),
        (("model", "save", "gpt", "--set", "model=m", "--set", "base_url=http://example.org"), "unencrypted"),
        (("model", "activate", "nobody"), "nobody"),
        (("model", "activate", "nobody", "--environment", "prod"), "no real broker"),
        (("model", "deactivate"), "no model is active globally"),
        (("model", "versions", "nobody"), "nobody"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(env: dict[str, str], arguments: tuple[str, ...], named: str) -> None:
    assert named in refusal(env, *arguments)
    with psycopg.connect(env["QUANTAGENT_DSN"]) as conn:
        assert conn.execute("SELECT to_regclass('quantagent.events') IS NOT NULL").fetchone() == (True,)
        assert conn.execute("SELECT count(*) FROM quantagent.events").fetchone() == (0,)


@pytest.mark.slow
def test_whether_a_key_is_set_is_told_and_the_key_is_nowhere(env: dict[str, str], tmp_path: Path) -> None:
    with_key = {**env, "OPENAI_API_KEY": SECRET}
    without = {name: value for name, value in env.items() if name != "OPENAI_API_KEY"}
    heard: list[str] = []

    def hear(*arguments: object, code: int = 0) -> str:
        done = run(with_key, *arguments, code=code)
        heard.extend((done.stdout, done.stderr))
        return done.stdout + done.stderr

    hear("model", "save", "gpt", "--set", "model=gpt-x")
    assert "Its key, OPENAI_API_KEY, is set in the environment." in hear("model", "show", "gpt")
    assert "is not set in the environment" in run(without, "model", "show", "gpt").stderr
    assert json.loads(run(with_key, "model", "show", "gpt", "--json").stdout)["key_set"] is True
    assert answer(without, "model", "show", "gpt")["key_set"] is False
    assert answer(without, "model", "list")["keys_set"] == {"gpt": False}
    assert "OPENAI_API_KEY, set" in hear("model", "list")
    (tmp_path / "leaky.toml").write_text(f'model = "m"\nbase_url = "https://example.org/{SECRET}"')
    for arguments in (
        ("model", "save", "gpt", "--set", f"model={SECRET}"),
        ("model", "save", "gpt", "--set", f"base_url=https://{SECRET}@example.org"),
        ("model", "save", "gpt", "--set", f"base_url=https://example.org/?key={SECRET}"),
        ("model", "save", "gpt", "--set", f"key_env={SECRET}"),
        ("model", "save", "gpt", "--set", f"{SECRET}=1"),
        ("model", "save", "gpt", "--set", SECRET),
        ("model", "save", "gpt", "--file", tmp_path / "leaky.toml"),
        ("model", "save", SECRET, "--set", "model=m"),
        ("model", "show", SECRET),
        ("model", "activate", SECRET),
        ("model", "versions", SECRET),
    ):
        hear(*arguments, code=2)
    hear("model", "list", "--json")
    hear("log")
    hear("log", "--json")
    assert not [text for text in heard if SECRET in text]
    with psycopg.connect(env["QUANTAGENT_DSN"]) as conn:
        found = conn.execute("SELECT count(*), max(position(%s in convert_from(state, 'UTF8'))) FROM quantagent.events",
                             (SECRET,)).fetchone()  # fmt: skip
        assert found == (1, 0)
