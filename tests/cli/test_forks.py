"""A forked command is the command: what it says and how it ends are those of the script that people start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forks import QUANTAGENT, may_fork, run_command

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or any(name.startswith("COVERAGE") for name in os.environ), reason="nothing is forked here"
)


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--version",), 0), (("runs", "list", "--json"), 0), (("profile", "save", "mine", "--file", "mine.json"), 2),
     (("nonsense",), 2)],
)  # fmt: skip
def test_it_says_and_ends_as_the_script_does(
    arguments: tuple[str, ...], code: int, env: dict[str, str], tmp_path: Path
) -> None:
    assert may_fork(env)
    forked = run_command(arguments, env, tmp_path)
    started = subprocess.run(
        [QUANTAGENT, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert forked.returncode == started.returncode == code
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


def test_it_works_in_its_own_folder_and_with_its_own_names(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"cash": 5}')
    saved = run_command(
        ["profile", "save", "mine", "--file", "mine.json"], env | {"QUANTAGENT_ACTOR": "berta"}, tmp_path
    )
    assert saved.returncode == 0, saved.stderr
    assert "berta" in run_command(["log", "--json"], env).stdout


def test_in_surroundings_that_count_while_python_starts_the_script_itself_is_started(env: dict[str, str]) -> None:
    assert may_fork(env | {"QUANTAGENT_ENVIRONMENT": "backtest", "HOME": "/nowhere", "COLUMNS": "80"})
    for name in ("PYTHONHASHSEED", "TZ", "LC_ALL", "COVERAGE_PROCESS_START", "LANGSMITH_TRACING"):
        assert not may_fork(env | {name: "other"}), name
    assert not may_fork({name: value for name, value in env.items() if name != "QUANTAGENT_DSN"})
