"""No word of a connection string is repeated, whatever is wrong with it; a server that restarts is waited for."""

from __future__ import annotations

import logging
import os
import traceback
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool

from engine.core.errors import BadInput, QuantagentError, StoreUnavailable
from engine.store import connections
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from engine.store.roles import access
from tests.support.databases import database, free_port
from tests.support.forks import run_command
from tests.support.proxies import CuttingProxy
from tests.support.waiting import wait_until
from ui.app import open_app, open_audit
from ui.settings import Settings

SECRET = "c4n4ry"

# Each is what a person may have meant as a URL or as keywords, with the secret in some place.
NO_CONNECTION_STRINGS = [
    f"postgres//user:{SECRET}@127.0.0.1/db",
    f"postgres:/user:{SECRET}@127.0.0.1/db",
    f"user:{SECRET}@127.0.0.1/db",
    f"mysql://user:{SECRET}@127.0.0.1/db",
    f"postgresql+psycopg://user:{SECRET}@127.0.0.1/db",
    f"postgresql://user:{SECRET}%zz@127.0.0.1/db",
    f"postgresql://user:{SECRET}%@127.0.0.1/db",
    f"postgresql://user@127.0.0.1/db?pasword={SECRET}",
    f"postgresql://user@127.0.0.1/db?{SECRET}",
    f"postgresql://[{SECRET}/db",
    f"host=127.0.0.1 pasword={SECRET}",
    f"host=127.0.0.1 {SECRET}=x",
    f"host=127.0.0.1 password='{SECRET}",
    f"host=127.0.0.1 password=two {SECRET}",
    f"host = 127.0.0.1, password: {SECRET}",
    f"'{SECRET}'",
]
NO_CONNECTIONS = [
    f"postgresql://user:{SECRET}/more@127.0.0.1/db",
    f"postgresql://user:{SECRET}?more@127.0.0.1/db=x",
    f"postgresql://user:more@{SECRET}@127.0.0.1/db",
    f"postgresql://user:more%40{quote(SECRET)}@no.such.host.invalid:{SECRET}/db",
    f"postgresql://{SECRET}.invalid/db",
    f"postgresql://127.0.0.1:{SECRET}/db",
    f"postgresql://u@127.0.0.1/db?sslmode={SECRET}",
    f"postgresql://u@127.0.0.1/db?connect_timeout={SECRET}",
    f"host={SECRET}.{'x' * 80}.invalid",
    f"host=127.0.0.1,{SECRET} port=1,2,3",
    f"service={SECRET}",
    f"host=127.0.0.1 target_session_attrs={SECRET}",
]
COMMANDS = [
    ("runs", "list"), ("doctor", "--json"), ("db", "status"), ("db", "status", "--json"), ("db", "upgrade"),
    ("db", "psql", "-c", "SELECT 1"), ("projections", "status"), ("projections", "rebuild"), ("audit", "verify"),
    ("log", "--limit", "1"), ("backtest",), ("data", "list"), ("paper", "status"), ("profile", "list"), ("halts",),
]  # fmt: skip


def environment(tmp_path: Path, dsn: str, **more: str) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_DSN": dsn, **more}


def everything_in(error: BaseException) -> str:
    """What anybody may see of an error: itself, and its traceback with everything that led to it."""
    return repr(error) + "".join(traceback.format_exception(error))


def wrong_for(server: str) -> list[str]:
    """Connection strings that reach the server, and that it refuses."""
    given = conninfo_to_dict(server)
    return [
        make_conninfo(server, dbname=SECRET),
        make_conninfo(server, dbname=f"db:{SECRET}@somewhere"),
        make_conninfo(server, user=SECRET),
        make_conninfo(server, host=f"/tmp/{SECRET}"),
        make_conninfo(server, port=SECRET),
        make_conninfo(server, options=f"-c {SECRET}=1"),
        f"postgresql:///{SECRET}?host={quote(str(given['host']), safe='')}&port={given['port']}&user={given['user']}",
    ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RECOVERY", timedelta(seconds=0.3))


@pytest.mark.usefixtures("impatient")
def test_no_error_repeats_a_word_of_the_dsn(server: str, capfd: pytest.CaptureFixture[str]) -> None:
    for dsn in [*NO_CONNECTION_STRINGS, *NO_CONNECTIONS, *wrong_for(server)]:
        settings = Settings(None, dsn, "test")
        assert SECRET not in repr(settings) + repr((settings,))
        for attempt in (
            lambda settings=settings: open_app(settings).__enter__(),
            lambda settings=settings: open_audit(settings).__enter__(),
            lambda dsn=dsn: migrate(dsn),
            lambda dsn=dsn: connections.connect(dsn),
        ):
            with pytest.raises(QuantagentError) as refused:
                attempt()
            assert SECRET not in everything_in(refused.value), dsn
            kind = BadInput if dsn in NO_CONNECTION_STRINGS else StoreUnavailable
            assert isinstance(refused.value, kind), (dsn, refused.value)
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_repeats_a_word_of_the_dsn(command: tuple[str, ...], tmp_path: Path, server: str) -> None:
    for dsn in (NO_CONNECTION_STRINGS[0], NO_CONNECTION_STRINGS[7], NO_CONNECTIONS[0], wrong_for(server)[0]):
        done = run_command(command, environment(tmp_path, dsn))
        assert done.returncode in (1, 2), (dsn, done)
        assert SECRET not in done.stdout + done.stderr, dsn
        assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
        assert "Traceback" not in done.stderr


def test_a_password_of_the_environment_is_not_repeated(tcp_server: str, tmp_path: Path) -> None:
    dsn = make_conninfo("", **{**conninfo_to_dict(tcp_server), "password": None})
    for more in ({"PGPASSWORD": SECRET}, {"PGPASSFILE": str(tmp_path / "passwords")}, {"PGSSLMODE": SECRET}):
        (tmp_path / "passwords").write_text(f"*:*:*:*:{SECRET}\n")
        (tmp_path / "passwords").chmod(0o600)
        for command in (("doctor",), ("runs", "list"), ("db", "status")):
            done = run_command(command, environment(tmp_path, dsn, **more))
            assert done.returncode == 1
            assert SECRET not in done.stdout + done.stderr


def test_what_commands_show_of_a_right_dsn_has_no_password(tcp_server: str, tmp_path: Path) -> None:
    password = str(conninfo_to_dict(tcp_server)["password"])
    for command in (("doctor", "--json"), ("db", "status", "--json"), ("runs", "list", "--json"), ("paper", "status")):
        done = run_command(command, environment(tmp_path, tcp_server))
        assert password not in done.stdout + done.stderr
    assert password not in repr(access(tcp_server, logins=False)) + repr(Settings(None, tcp_server, "test"))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or password.encode() not in path.read_bytes()


def test_the_pool_logs_no_word_of_the_dsn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "psycopg.pool"), caplog.at_level(logging.DEBUG, "psycopg"):
        pool = ConnectionPool(f"host={SECRET}.invalid", min_size=1, open=False, reconnect_timeout=0.1)
        pool.open()
        wait_until(lambda: any("error connecting" in record.getMessage() for record in caplog.records))
        pool.close()
    assert SECRET not in caplog.text


@pytest.mark.parametrize("dsn", NO_CONNECTION_STRINGS)
def test_a_store_that_is_opened_by_hand_repeats_nothing(dsn: str) -> None:
    with pytest.raises(BadInput) as refused:
        PostgresStore(dsn)
    assert SECRET not in everything_in(refused.value)


# --- Waiting ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_down_when_a_command_begins_is_waited_for_with_one_line(
    tcp_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    port, proxies = free_port(), list[CuttingProxy]()

    def begin(pause_s: float) -> None:
        waited.append(pause_s)
        if len(waited) == 3:
            given = conninfo_to_dict(tcp_server)
            proxies.append(CuttingProxy(str(given["host"]), int(str(given["port"])), at=port))

    waited: list[float] = []
    monkeypatch.setattr(connections, "sleep", begin)
    with database(tcp_server, "template0") as made:
        with open_app(Settings(tmp_path, make_conninfo(made, port=port), "test")) as opened:
            assert opened.store.last_position() == 0
        proxies[0].close()
    told = [line for line in capfd.readouterr().err.splitlines() if "waiting" in line]
    assert told == [
        "The database server does not answer (connection refused: no server listens at that host and port); "
        "waiting for up to 30 s."
    ]
    assert len(waited) == 3


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_away_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    for dsn in (f"host=127.0.0.1 port={free_port()}", f"host={tmp_path}"):
        with pytest.raises(StoreUnavailable, match=r"cannot be reached: .*no server listens at that"):
            open_app(Settings(None, dsn, "test")).__enter__()


@pytest.mark.parametrize("text", ["starting up", "shutting down", "not yet accepting connections"])
def test_a_server_that_starts_or_stops_is_waited_for(text: str) -> None:
    assert connections.classify_failure(psycopg.OperationalError(f"FATAL:  the database system is {text}")).is_transient


def test_what_waiting_does_not_mend_is_refused_at_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(pause_s: float) -> None:
        raise AssertionError(pause_s)

    monkeypatch.setattr(connections, "sleep", never)
    for dsn in (*NO_CONNECTION_STRINGS, make_conninfo(server, dbname="none"), "host=none.invalid", "service=none"):
        with pytest.raises(QuantagentError):
            connections.wait_for_server(dsn, print)
