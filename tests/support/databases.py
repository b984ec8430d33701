"""Databases and ports for tests."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from engine.store.roles import set_up_roles
from tests.support.waiting import WAIT_TIMEOUT_S


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def log_of_its_own(server: str, template: str) -> Generator[str]:
    with database(server, template) as made:
        with psycopg.connect(made) as conn:
            # A copy of a log has its name; here each is a log of its own.
            conn.execute("SET session_replication_role = replica")
            conn.execute("UPDATE quantagent.log_identity SET log_id = gen_random_uuid()")
            # Nor has it the rights that the database it was copied from had given as a whole.
            set_up_roles(conn, logins=False)
        yield made


@contextmanager
def database(server: str, template: str) -> Generator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
    yield make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as conn:
        drop_database(conn, name)


def drop_database(conn: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    """Who is no superuser cannot end the server's own vacuuming, and has to wait for it."""
    deadline = time.monotonic() + WAIT_TIMEOUT_S
    while True:
        try:
            conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return
