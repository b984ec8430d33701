"""Every tampering of the table is played, and every check ends with the exit code that the table shows."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import NamedTuple

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from engine.audit.signing import sign_head
from engine.store.embedded.binaries import find_binaries
from engine.store.roles import set_up_roles
from tests.support import tamperings
from tests.support.anchoring import AT
from tests.support.commands import refusal, run, write_bars
from tests.support.databases import database, log_of_its_own
from tests.support.exports import bare
from tests.support.forks import run_command
from tests.support.tamperings import TAMPERINGS, Lab, Tampering
from tests.support.workloads import walk, write_signals

pytestmark = pytest.mark.slow


class Original(NamedTuple):
    """The log that is tampered with: its newest state and an older one as databases, its home, and copies of the
    anchors and the public key elsewhere."""

    newest: str
    older: str
    home: Path
    kept: Path
    runs: tuple[str, ...]


def environment(dsn: str, home: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(home), "QUANTAGENT_ACTOR": "anna"}


@pytest.fixture(scope="session")
def original(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    folder = tmp_path_factory.mktemp("original")
    home, kept = folder / "home", folder / "kept"
    with log_of_its_own(server, template) as newest:
        env = environment(newest, home)
        run(env, "data", "import", write_bars(folder / "a.csv"), "--symbol", "AAA")
        signals = write_signals(folder / "signals.csv", [walk("AAA", 100, 400, 100.0, 0.005)])
        run(env, "backtest", "--symbols", "AAA", "--signals", signals)
        run(env, "replay", "latest", "--profile", "classic")
        with database(server, name_of(newest)) as older:
            run(env, "backtest", "--symbols", "AAA", "--label", "rules")
            run(env, "audit", "anchor", "--copy", kept)
            listed = json.loads(run(env, "runs", "list", "--json").stdout)["runs"]
            assert len(listed) == 3
            yield Original(newest, older, home, kept, tuple(row["run_id"] for row in listed))


def name_of(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["dbname"])


@contextmanager
def laboratory(server: str, original: Original, start: str, folder: Path) -> Generator[Lab]:
    """A copy of the log's database and home; unless a copy is what it is about, the copy passes as the original."""
    copytree(original.home, folder / "home")
    with (
        database(server, name_of(original.older if start == "older" else original.newest)) as made,
        psycopg.connect(made, autocommit=True) as conn,
    ):
        lab = Lab(made, folder / "home", conn)
        if start == "newest":
            lab.sql(
                "INSERT INTO quantagent.log_databases (log_id, database) "
                "SELECT log_id, quantagent.this_database() FROM quantagent.log_identity"
            )
            sign_head(conn, lab.home, AT)
        set_up_roles(conn, logins=False)
        yield lab


class Checks:
    """The checks of the table as commands against a laboratory; each returns an exit code."""

    def __init__(self, lab: Lab, original: Original, folder: Path) -> None:
        self._env, self._lab = environment(lab.dsn, lab.home), lab
        self._original, self._folder = original, folder
        self._kept = ("--anchor", original.kept / "anchors.jsonl", "--public-key", original.kept / "anchor.pub")

    def code_of(self, check: str) -> int:
        checks: dict[str, Callable[[], int]] = {
            tamperings.VERIFY: lambda: self._typed("audit", "verify"),
            tamperings.COPIES: lambda: self._typed("audit", "verify", *self._kept),
            tamperings.ANCHOR: lambda: self._typed("audit", "anchor"),
            tamperings.DOCTOR: self._doctor,
            tamperings.REGENERATE: self._regenerate,
            tamperings.EXPORT: self._export,
            tamperings.READ_MODELS: lambda: self._typed("projections", "verify"),
            tamperings.NEXT: lambda: self._typed("halt", "--reason", "the next command"),
        }
        return checks[check]()

    def _typed(self, *arguments: object) -> int:
        return run_command([*map(str, arguments)], self._env).returncode

    def _doctor(self) -> int:
        """The suite's server does not flush to disk, which the doctor names, too: here it is about the log."""
        said = json.loads(run_command(["doctor", "--json"], self._env).stdout)
        about = [check["ok"] for check in said["checks"] if check["check"] in ("anchored", "guards")]
        assert len(about) == 2
        return 0 if all(about) else 3

    def _regenerate(self) -> int:
        return max(self._typed("audit", "regenerate", each) for each in self._original.runs)

    def _export(self) -> int:
        folder = self._folder / "export"
        assert self._typed("audit", "export", folder) == 0
        return bare(folder / "verify.py", *self._kept).returncode


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda each: f"{each.number} {each.apply.__name__}")
def test_a_tampering_is_noticed_by_the_checks_that_the_table_names(
    server: str, original: Original, tampering: Tampering, tmp_path: Path
) -> None:
    anchored = {path: path.read_bytes() for path in original.home.rglob("*") if path.is_file()}
    with laboratory(server, original, tampering.start, tmp_path) as lab:
        tampering.apply(lab)
        checks = Checks(lab, original, tmp_path)
        assert {check: checks.code_of(check) for check in tampering.codes} == dict(tampering.codes)
    assert {path: path.read_bytes() for path in original.home.rglob("*") if path.is_file()} == anchored


def test_every_check_is_quiet_where_nothing_was_done() -> None:
    nothing = next(each for each in TAMPERINGS if each.apply is tamperings.nothing and each.start == "newest")
    assert dict(nothing.codes) == dict.fromkeys(tamperings.CHECKS, 0)


def test_an_invented_run_is_reported_with_the_time_and_the_login_of_its_seal(
    server: str, original: Original, tmp_path: Path
) -> None:
    with laboratory(server, original, "newest", tmp_path) as lab:
        tamperings.invent_a_run(lab)
        (notice,) = json.loads(run(environment(lab.dsn, lab.home), "audit", "verify", "--json").stdout)["notices"]
        assert "has 2019-01-01T00:00:00 and was sealed at 20" in notice
        assert f"by {lab.conn.info.user}" in notice


def test_what_was_dropped_is_made_again_by_the_upgrade(server: str, original: Original, tmp_path: Path) -> None:
    with laboratory(server, original, "newest", tmp_path) as lab:
        tamperings.drop_the_guards(lab)
        checks = Checks(lab, original, tmp_path)
        assert checks.code_of(tamperings.VERIFY) == 3
        run(environment(lab.dsn, lab.home), "db", "upgrade")
        assert [checks.code_of(check) for check in (tamperings.VERIFY, tamperings.DOCTOR)] == [0, 0]


def test_a_fork_in_a_home_of_its_own_is_not_signed_either(server: str, original: Original, tmp_path: Path) -> None:
    with laboratory(server, original, "fork", tmp_path) as lab:
        env = environment(lab.dsn, tmp_path / "elsewhere")
        run(env, "halt", "--reason", "the fork goes on")
        assert not (tmp_path / "elsewhere" / "anchors").exists()
        assert "is a copy of log" in " ".join(run(env, "audit", "anchor", code=2).stderr.split())
        run(env, "db", "adopt", "--reason", "a drill")
        run(env, "audit", "verify")


def test_a_backup_that_is_restored_is_a_copy_until_it_is_adopted(
    server: str, original: Original, tmp_path: Path
) -> None:
    with database(server, "template0") as made:
        dump = tmp_path / "quantagent.dump"
        programs = find_binaries(os.environ).folder
        backup = ["-w", "-Fc", "-N", "read_models*", "-f", dump, "-d", original.newest]
        restore = ["-w", "--exit-on-error", "--no-owner", "--no-privileges", "-d", made, dump]
        for program, arguments in (("pg_dump", backup), ("pg_restore", restore)):
            subprocess.run([programs / program, *map(str, arguments)], check=True, capture_output=True)
        copytree(original.home, tmp_path / "home")
        env = environment(made, tmp_path / "home")
        run(env, "runs", "list")
        found = json.loads(run(env, "audit", "verify", "--json", code=3).stdout)
        assert found["finding"].startswith("this database is a copy of log")
        adopted = json.loads(run(env, "db", "adopt", "--reason", "a drill", "--json").stdout)
        assert json.loads(run(env, "audit", "verify", "--json").stdout)["log"] == adopted["log"]
        assert "a drill" in run(env, "log", "--name", "LogAdopted").stdout
        # The original, in the same home, is what it was.
        found = json.loads(run(environment(original.newest, tmp_path / "home"), "audit", "verify", "--json").stdout)
        assert (found["intact"], found["log"]) == (True, adopted["parent"])


def test_a_file_of_anchors_that_is_lost_is_begun_anew_with_its_reason(
    server: str, original: Original, tmp_path: Path
) -> None:
    with laboratory(server, original, "newest", tmp_path) as lab:
        env = environment(lab.dsn, lab.home)
        tamperings.delete_the_anchors(lab)
        assert "belong together" in refusal(env, "audit", "anchor", "--begin-anew")
        assert "is empty" in refusal(env, "audit", "anchor", "--begin-anew", "--reason", " ")
        said = run(env, "halt", "--reason", "appended and not signed").stderr
        assert "was not anchored" in said
        assert not (lab.home / "anchors").exists()
        run(env, "audit", "anchor", "--begin-anew", "--reason", "the disk failed")
        found = json.loads(run(env, "audit", "verify", "--json").stdout)
        assert found["anchored_to"] == found["last_position"]
        assert ["the disk failed" in notice for notice in found["notices"]] == [True]
        assert "are complete" in refusal(env, "audit", "anchor", "--begin-anew", "--reason", "again")


def test_a_rotated_key_is_copied_and_the_one_before_it_still_verifies(
    server: str, original: Original, tmp_path: Path
) -> None:
    with laboratory(server, original, "newest", tmp_path) as lab:
        env, before = environment(lab.dsn, lab.home), original.kept / "anchor.pub"
        copytree(original.kept, tmp_path / "kept")
        run(env, "audit", "rotate-key", "--copy", tmp_path / "kept")
        run(env, "halt", "--reason", "signed by the new key")
        assert (tmp_path / "kept" / "anchor.pub").read_text() != before.read_text()
        for key in (before, tmp_path / "kept" / "anchor.pub"):
            run(env, "audit", "verify", "--public-key", key)
            run(env, "audit", "verify", "--public-key", key, "--anchor", tmp_path / "kept" / "anchors.jsonl")
