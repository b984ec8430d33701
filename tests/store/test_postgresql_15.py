"""The oldest server that is supported: roles over TCP, guards, and a log that moves to the newest one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from engine.audit.signing import anchoring_state, sign_head
from engine.audit.verify import verify_log
from engine.core.events import RunFailed
from engine.store import Batch, Cause
from engine.store.embedded import server
from engine.store.embedded.upgrade import upgrade_major
from engine.store.guards import schema_differences
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from engine.store.roles import ROLES, access, missing_setup
from tests.support.anchoring import AT
from tests.support.commands import run
from tests.support.databases import free_port
from tests.support.embedded_home import embedded, new_home

BINARIES = Path("/usr/lib/postgresql/15/bin")
PASSWORD = "for the suite only"
ME = Cause("test")

pytestmark = pytest.mark.skipif(not BINARIES.exists(), reason=f"no PostgreSQL 15 in {BINARIES}")


@pytest.fixture(scope="session")
def superuser() -> Iterator[str]:
    """A server of version 15 that listens on the loopback and asks for passwords there."""
    with new_home() as home:
        postgres = embedded(home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QUANTAGENT_PG_BINDIR", str(BINARIES))
            patch.setitem(server.SETTINGS, "listen_addresses", "127.0.0.1")
            patch.setitem(server.SETTINGS, "port", str(free_port()))
            dsn = postgres.start()
        with psycopg.connect(dsn, autocommit=True) as conn:
            (file,) = conn.execute("SHOW hba_file").fetchone() or ("",)
            rules = Path(file)
            rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
            conn.execute("SELECT pg_reload_conf()")
            conn.execute(f"CREATE ROLE keeper LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}'".encode())
            conn.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'".encode())
        yield dsn
        postgres.stop(force=True)


def over_tcp(superuser: str, user: str, database: str) -> str:
    with psycopg.connect(superuser) as conn:
        port = conn.info.port
    return make_conninfo(host="127.0.0.1", port=port, user=user, password=PASSWORD, dbname=database)


@pytest.fixture
def owned(superuser: str) -> Iterator[str]:
    """A new database of a user who may create roles and is no superuser."""
    with psycopg.connect(superuser, autocommit=True) as conn:
        conn.execute("CREATE DATABASE trading OWNER keeper")
        yield over_tcp(superuser, "keeper", "trading")
        conn.execute("DROP DATABASE trading WITH (FORCE)")
        for role in ROLES:
            conn.execute(f"DROP ROLE IF EXISTS {role}".encode())


def test_an_owner_who_may_create_roles_uses_them(owned: str) -> None:
    migrate(owned)
    by_role = access(owned, logins=False)
    for dsn, role in zip(by_role[1:], ROLES, strict=True):
        with psycopg.connect(dsn) as conn:
            assert conn.execute("SELECT session_user, current_user").fetchone() == ("keeper", role)
    with PostgresStore(by_role.writer) as store:
        store.append([Batch("run:x", 0, [RunFailed("x", "y")])], ME)
    with psycopg.connect(by_role.auditor) as conn:
        assert verify_log(conn).finding is None
        assert not schema_differences(conn)
        assert conn.execute("SELECT sealed_by FROM quantagent.seals").fetchone() == ("keeper",)


def test_roles_that_an_earlier_version_made_and_did_not_use_are_used(owned: str, superuser: str) -> None:
    migrate(owned)
    with psycopg.connect(superuser, autocommit=True) as conn:
        for role in ROLES:
            conn.execute(f"REVOKE {role} FROM keeper".encode())
    assert set(access(owned, logins=False)) == {owned}
    assert migrate(owned) == []
    assert access(owned, logins=False).writer != owned


def test_a_user_without_the_roles_is_told_which_grant_is_missing(owned: str, superuser: str, tmp_path: Path) -> None:
    migrate(owned)
    with psycopg.connect(superuser, autocommit=True) as conn:
        for role in ROLES:
            conn.execute(f"REVOKE {role} FROM keeper".encode())
        conn.execute("ALTER ROLE keeper NOCREATEROLE")
    try:
        with psycopg.connect(owned) as conn:
            missing = missing_setup(conn)
        assert missing is not None
        assert missing.grant.startswith("GRANT quantagent_writer, quantagent_reader, quantagent_auditor TO")
        assert "keeper" in missing.grant
        env = {**os.environ, "QUANTAGENT_DSN": owned, "QUANTAGENT_HOME": str(tmp_path)}
        checks = json.loads(run(env, "doctor", "--json", code=3).stdout)["checks"]
        (roles,) = (check["says"] for check in checks if check["check"] == "roles")
        assert f"have an administrator run `{missing.grant}` once" in roles
        with psycopg.connect(superuser, autocommit=True) as conn:
            conn.execute(missing.grant.encode())
        assert access(owned, logins=False).writer != owned
    finally:
        with psycopg.connect(superuser, autocommit=True) as conn:
            conn.execute("ALTER ROLE keeper CREATEROLE")


def test_guards_are_listed_as_by_the_newest_version(owned: str, superuser: str) -> None:
    migrate(make_conninfo(superuser, dbname="trading"))
    with psycopg.connect(superuser, dbname="trading") as conn:
        assert not schema_differences(conn)


def test_a_log_that_moves_to_the_newest_version_is_no_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with new_home() as home:
        with monkeypatch.context() as patch:
            patch.setenv("QUANTAGENT_PG_BINDIR", str(BINARIES))
            old = embedded(home)
            dsn = old.start()
            migrate(dsn, logins=True)
            with PostgresStore(dsn) as store:
                store.append([Batch("run:x", 0, [RunFailed("x", "y")])], ME)
            with psycopg.connect(dsn, autocommit=True) as conn:
                made = sign_head(conn, tmp_path, AT)
            old.release()
        assert upgrade_major(embedded(home).server(), {"QUANTAGENT_PG_OLD_BINDIR": str(BINARIES)}, print) is not None
        with embedded(home) as dsn:
            migrate(dsn, logins=True)
            with psycopg.connect(dsn, autocommit=True) as conn:
                assert anchoring_state(conn, tmp_path).defect is None
                assert sign_head(conn, tmp_path, AT) == made
                assert verify_log(conn).finding is None
                assert not schema_differences(conn)
