"""`quantagent db` as a person or a script meets it: exit codes, JSON on stdout, words on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded_home import LINGER_S, embedded, environment, new_home, user_process, wait_until_stopped
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until

pytestmark = pytest.mark.slow

DB = [sys.executable, "-P", "-c", "from ui.cli.db import app; app()"]


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as folder:
        yield folder


def settings(home: Path) -> dict[str, str]:
    return environment(QUANTAGENT_HOME=str(home), QUANTAGENT_PG_LINGER_S=str(LINGER_S))


def db(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DB, *arguments],
        env=settings(home) | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("schema_version") == 1
    return found


@pytest.mark.slow
def test_a_started_database_runs_until_it_is_stopped(home: Path) -> None:
    assert facts(db(home, "status", "--json"))["running"] is False
    started = facts(db(home, "start", "--json"))
    assert started["running"]
    assert str(home) in started["dsn"].replace("%2F", "/")
    time.sleep(4 * LINGER_S)
    status = facts(db(home, "status", "--json"))
    assert (status["running"], status["kept"], status["users"]) in ((True, True, 0), (True, True, None))
    assert status["size_bytes"] > 1_000_000
    assert facts(db(home, "stop", "--json"))["stopped"] is True
    assert facts(db(home, "stop", "--json"))["stopped"] is False


def test_stop_fails_in_words_while_the_database_is_in_use(home: Path) -> None:
    with user_process(home):
        refused = db(home, "stop")
        assert refused.returncode == 1
        assert "in use" in refused.stderr
        assert refused.stdout == ""
        assert db(home, "stop", "--force").returncode == 0


@pytest.mark.slow
def test_psql_runs_sql_and_hands_on_its_exit_code(home: Path) -> None:
    done = db(home, "psql", "-c", "select 6 * 7 as answer")
    assert done.returncode == 0
    assert "42" in done.stdout
    assert db(home, "psql", "-c", "select nonsense").returncode == 1
    wait_until_stopped(home)


@pytest.mark.slow
def test_an_open_psql_keeps_the_server_up(home: Path) -> None:
    with subprocess.Popen(
        [*DB, "psql"], env=settings(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: embedded(home).status().running)
        time.sleep(4 * LINGER_S)
        assert embedded(home).status().running
        out, _ = process.communicate("select 6 * 7 as answer;\n", timeout=WAIT_TIMEOUT_S)
    assert process.returncode == 0
    assert "42" in out


def test_upgrade_applies_each_migration_once(home: Path) -> None:
    first = facts(db(home, "upgrade", "--json"))
    assert first["migrations"]
    assert first["major"] is None
    assert facts(db(home, "upgrade", "--json"))["migrations"] == []


def test_a_server_of_the_users_own_is_shown_and_used_but_not_controlled(home: Path) -> None:
    with embedded(home) as dsn:
        shown = facts(db(home, "status", "--json", QUANTAGENT_DSN=dsn))
        assert (shown["kind"], shown["database"]) == ("server", "quantagent")
        assert "42" in db(home, "psql", "-c", "select 42", QUANTAGENT_DSN=dsn).stdout
        for command in ("start", "stop"):
            refused = db(home, command, QUANTAGENT_DSN=dsn)
            assert refused.returncode == 2
            assert "QUANTAGENT_DSN" in refused.stderr


def test_an_unreachable_server_is_one_sentence_without_its_password(home: Path) -> None:
    dsn = "postgresql://someone:hush@none.invalid/nowhere"
    for command in (["status"], ["psql", "-c", "select 1"], ["upgrade"]):
        done = db(home, *command, QUANTAGENT_DSN=dsn)
        assert done.returncode == 1
        assert done.stderr
        assert "hush" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_an_unknown_option_is_a_usage_error(home: Path) -> None:
    assert db(home, "start", "--nonsense").returncode == 2
