"""Forward-only SQL for what cannot be rebuilt from the log. Read models are not here: they are dropped and rebuilt."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from engine.core.errors import StoreUnavailable
from engine.store.connections import connect, failure_reason
from engine.store.guards import SchemaDifferences, create_guards, restore_objects, schema_differences
from engine.store.hash_chain import SealBuilder, row_bytes
from engine.store.roles import set_up_roles

# One number, known to nobody else: two processes that migrate at once take turns.
_LOCK = 7_303_041_176

EVENTS_PER_SEAL = 10_000
_PAGE = (
    "SELECT originator_id, originator_version, topic, state, notification_id FROM quantagent.events "
    "WHERE notification_id > %s ORDER BY notification_id LIMIT %s"
)


def migrate(dsn: str, *, logins: bool = False) -> list[str]:
    """Applies what is missing, each file in a transaction of its own; returns the names applied.

    Then the roles get their rights, as far as the user may give them. `logins`: roles one can connect as, which only
    a server that lets nobody else in may have.
    """
    with _as_owner(dsn) as conn:
        applied = _apply_missing(conn)
        if applied:
            create_guards(conn)
        set_up_roles(conn, logins=logins, force=bool(applied))
        return applied


def restore_guards(dsn: str, *, logins: bool = False) -> SchemaDifferences:
    """Takes back what was changed of triggers, functions, owners and rights; returns what differed.

    Raises `StoreUnavailable` for what cannot be taken back, by this user or at all.
    """
    with _as_owner(dsn) as conn:
        found = restore_objects(conn)
        if found:
            set_up_roles(conn, logins=logins, force=True)
            if left := schema_differences(conn):
                raise StoreUnavailable(
                    f"not all that guards the log could be restored ({left}): have the owner of the database or a "
                    "superuser run `quantagent db upgrade`, or take away what was added by hand."
                )
        return found


@contextmanager
def _as_owner(dsn: str) -> Generator[psycopg.Connection[Any]]:
    """A connection that alone changes the schema; its refusals in words."""
    try:
        with connect(dsn, autocommit=True) as conn:
            conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            yield conn
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreUnavailable(
            f"the database refused to set up the schema quantagent: {str(error).strip()}. Grant the user CREATE on the "
            "database, or run `quantagent db upgrade` once as its owner."
        ) from None
    except psycopg.OperationalError as error:
        raise StoreUnavailable(
            f"the database cannot be reached: {failure_reason(error)}. Check QUANTAGENT_DSN and that the server runs."
        ) from None


def _apply_missing(conn: psycopg.Connection) -> list[str]:
    if conn.execute("SELECT to_regclass('quantagent.migrations')").fetchone() == (None,):
        conn.execute("CREATE SCHEMA IF NOT EXISTS quantagent")
        conn.execute(
            "CREATE TABLE IF NOT EXISTS quantagent.migrations "
            "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    done = {name for (name,) in conn.execute("SELECT name FROM quantagent.migrations")}
    missing = [name for name in _all() if name not in done]
    for name in missing:
        with conn.transaction():
            conn.execute(files(__name__).joinpath(name).read_bytes())
            conn.execute("INSERT INTO quantagent.migrations (name) VALUES (%s)", (name,))
            if name == "0005_seals.sql":
                _seal_existing_events(conn)
    return missing


def _seal_existing_events(conn: psycopg.Connection[Any]) -> None:
    """Seals a log that is older than its seals. They prove what was there when sealing began."""
    with conn.cursor(binary=True, row_factory=tuple_row) as curs:
        curs.execute("LOCK TABLE quantagent.events IN EXCLUSIVE MODE")
        curs.execute(
            "SELECT sha256(convert_to('quantagent log ' || log_id || E'\\n', 'UTF8')) FROM quantagent.log_identity"
        )
        (previous,) = curs.fetchone() or (b"",)
        last = seal = 0
        while page := curs.execute(_PAGE, (last, EVENTS_PER_SEAL)).fetchall():
            # One for every stretch of one stream, as appends leave them: a run's seals are its own.
            for _, stretch in groupby(page, itemgetter(0)):
                rows = list(stretch)
                first, last, seal = rows[0][4], rows[-1][4], seal + 1
                sealing = SealBuilder(seal, first, last, len(rows), previous)
                sealing.add([row_bytes(key.bytes, n, name.encode(), state, at) for key, n, name, state, at in rows])
                # In the first format: the columns of the second come with a later migration.
                curs.execute("INSERT INTO quantagent.seals VALUES (%s, %s, %s, %s, %s, %s, %s)", sealing.build()[:7])
                previous = sealing.build().hash


def _all() -> list[str]:
    return sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".sql"))
