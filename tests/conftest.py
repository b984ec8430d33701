"""Fixtures: a real PostgreSQL server, and a fresh database on it for each test that asks.

`QUANTAGENT_TEST_DSN` points the suite at another server (its user must be allowed to create databases); without it
the embedded server runs in a temporary folder.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from engine.data.catalogue import PostgresCatalogue
from engine.data.sample import load_sample
from engine.store import Store
from engine.store.embedded import server as embedded_server
from engine.store.embedded.postgres import EmbeddedPostgres
from engine.store.memory import MemoryStore
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from tests.support.databases import database, free_port, log_of_its_own
from tests.support.seeded import seed
from tests.support.waiting import WAIT_TIMEOUT_S

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("slow") if mark.args), default=0))


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of the suite's own: keys and anchors of its databases belong to nobody's real ones."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("QUANTAGENT_HOME", str(folder))
        # Workers of xdist have the width of the terminal; commands write to pipes here, which have none.
        patch.delenv("COLUMNS", raising=False)
        yield folder


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A DSN of a running server, as a user who may create databases and roles."""
    given = os.environ.get("QUANTAGENT_TEST_DSN")
    if given:
        yield given
        return
    # A short path of its own: a unix socket's path has some 100 characters at the most.
    with tempfile.TemporaryDirectory(prefix="qa", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        postgres = EmbeddedPostgres(Path(folder), linger_s=0.2, fsync=False)
        with pytest.MonkeyPatch.context() as patch:
            # Ours listens on no port; the suite's does, so that the store is tested as it is used with QUANTAGENT_DSN.
            patch.setitem(embedded_server.SETTINGS, "listen_addresses", "127.0.0.1")
            patch.setitem(embedded_server.SETTINGS, "port", str(free_port()))
            dsn = postgres.start()
        yield dsn
        postgres.stop(force=True)


@pytest.fixture(scope="session")
def tcp_server(server: str) -> str:
    """The same server over TCP with a password, as a user who is no superuser but may create databases."""
    if "QUANTAGENT_TEST_DSN" in os.environ:
        pytest.skip("QUANTAGENT_TEST_DSN names a server that is used as it is")
    name, password = f"suite_{uuid4().hex[:8]}", secrets.token_urlsafe(16)
    with psycopg.connect(server, autocommit=True) as conn:
        create = SQL("CREATE ROLE {} LOGIN CREATEDB NOSUPERUSER PASSWORD {}").format(
            Identifier(name), Literal(password)
        )
        conn.execute(create)
        port = conn.info.port
        (hba_file,) = conn.execute("SHOW hba_file").fetchone() or ("",)
        rules = Path(hba_file)
        rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        conn.execute("SELECT pg_reload_conf()")
    dsn = make_conninfo(host="127.0.0.1", port=port, user=name, password=password, dbname="postgres")
    deadline = time.monotonic() + WAIT_TIMEOUT_S
    while True:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            # The server reads its rules again in its own time.
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return dsn


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a migrated database that others are copied from."""
    name = f"template_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    migrate(make_conninfo(server, dbname=name))
    yield name
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(scope="session")
def sample_template(server: str, template: str) -> Iterator[str]:
    """The name of a database that holds the bundled sample's bars, and no event, for others to be copied from."""
    with database(server, template) as made:
        load_sample(PostgresCatalogue(made))
        yield str(conninfo_to_dict(made)["dbname"])


@pytest.fixture(scope="session")
def seeded_template(
    server: str, sample_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Name of a template database that holds the run of `tests.support.seeded`, and the id of that run."""
    with log_of_its_own(server, sample_template) as made:
        run_id = seed(made, tmp_path_factory.mktemp("seeded"))
        yield str(conninfo_to_dict(made)["dbname"]), run_id


@pytest.fixture
def dsn(server: str, template: str) -> Iterator[str]:
    """A fresh, migrated database."""
    with log_of_its_own(server, template) as made:
        yield made


@pytest.fixture
def sample_dsn(server: str, sample_template: str) -> Iterator[str]:
    """A fresh database in which somebody has loaded the bundled sample."""
    with log_of_its_own(server, sample_template) as made:
        yield made


@pytest.fixture(params=["memory", "postgres", "postgres over TCP"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each kind of store in turn, empty; over TCP with a password and without a superuser's rights."""
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "postgres":
        with PostgresStore(request.getfixturevalue("dsn")) as opened:
            yield opened
    else:
        with database(request.getfixturevalue("tcp_server"), "template0") as made:
            migrate(made)
            with PostgresStore(made) as opened:
                yield opened
