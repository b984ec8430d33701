"""Fixtures: a real PostgreSQL server, and a fresh database on it for each test that asks.

`QUANTAGENT_TEST_DSN` points the suite at another server (its user must be allowed to create databases); without it
the embedded server runs in a temporary folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from engine.store import Store
from engine.store.memory import MemoryStore
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A DSN of a running server, as a user who may create databases."""
    given = os.environ.get("QUANTAGENT_TEST_DSN")
    if given:
        yield given
        return
    from engine.store.embedded import EmbeddedPostgres

    # A short path of its own: a unix socket's path has some 100 characters at the most.
    with tempfile.TemporaryDirectory(prefix="qa", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder), linger_s=0.2, fsync=False) as dsn:
            yield dsn


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


@pytest.fixture
def dsn(server: str, template: str) -> Iterator[str]:
    """A fresh, migrated database."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
    yield make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each kind of store in turn, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    with PostgresStore(request.getfixturevalue("dsn")) as opened:
        yield opened
