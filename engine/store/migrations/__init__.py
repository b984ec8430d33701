"""Forward-only SQL migrations of tables that cannot be rebuilt from the log. Read models have none."""

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

# Key of the advisory lock that serializes concurrent migrations.
_LOCK = 7_303_041_176

EVENTS_PER_SEAL = 10_000
_PAGE = (
    "SELECT originator_id, originator_version, topic, state, notification_id FROM quantagent.events "
    "WHERE notification_id > %s ORDER BY notification_id LIMIT %s"
)


def migrate(dsn: str, *, logins: bool = False) -> list[str]:
    """Apply the missing migrations, each file in its own transaction, and return their names.

    Then grant the roles their rights, as far as the user may. logins: the roles can log in; only for a server that
    no other user can reach.
    """
    with _as_owner(dsn) as conn:
        applied = _apply_missing(conn)
        if applied:
            create_guards(conn)
        set_up_roles(conn, logins=logins, force=bool(applied))
        return applied


def restore_guards(dsn: str, *, logins: bool = False) -> SchemaDifferences:
    """Revert changes to triggers, functions, owners and rights; return the differences found.

    Raise `StoreUnavailable` for a change that cannot be reverted, or not by this user.
    """
    with _as_owner(dsn) as conn:
        found = restore_objects(conn)
        if found:
            set_up_roles(conn, logins=logins, force=True)
            if left := schema_differences(conn):
                raise StoreUnavailable(
                    f"the objects that protect the log could not all be restored ({left}).", "GUARDS_NOT_RESTORED"
                )
        return found


@contextmanager
def _as_owner(dsn: str) -> Generator[psycopg.Connection[Any]]:
    """Yield a connection with the exclusive right to change the schema; raise `StoreUnavailable` if it fails."""
    try:
        with connect(dsn, autocommit=True) as conn:
            conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            yield conn
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreUnavailable(
            f"the database refused to set up the schema quantagent: {str(error).strip()}.", "SCHEMA_REFUSED"
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
    """Seal the events of a log that is older than seals. The seals prove its contents as of this migration."""
    with conn.cursor(binary=True, row_factory=tuple_row) as curs:
        curs.execute("LOCK TABLE quantagent.events IN EXCLUSIVE MODE")
        curs.execute(
            "SELECT sha256(convert_to('quantagent log ' || log_id || E'\\n', 'UTF8')) FROM quantagent.log_identity"
        )
        (previous,) = curs.fetchone() or (b"",)
        last = seal = 0
        while page := curs.execute(_PAGE, (last, EVENTS_PER_SEAL)).fetchall():
            # One seal for each run of rows of one stream, as appends create them.
            for _, stretch in groupby(page, itemgetter(0)):
                rows = list(stretch)
                first, last, seal = rows[0][4], rows[-1][4], seal + 1
                sealing = SealBuilder(seal, first, last, len(rows), previous)
                sealing.add([row_bytes(key.bytes, n, name.encode(), state, at) for key, n, name, state, at in rows])
                # Format 1: the columns of format 2 are added by a later migration.
                curs.execute("INSERT INTO quantagent.seals VALUES (%s, %s, %s, %s, %s, %s, %s)", sealing.build()[:7])
                previous = sealing.build().hash


def _all() -> list[str]:
    return sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".sql"))
