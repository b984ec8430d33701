"""Forward-only SQL for what cannot be rebuilt from the log. Read models are not here: they are dropped and rebuilt."""

from __future__ import annotations

from importlib.resources import files

import psycopg

from engine.errors import StoreUnavailable

# One number, known to nobody else: two processes that migrate at once take turns.
_LOCK = 7_303_041_176


def migrate(dsn: str) -> list[str]:
    """Applies what is missing, each file in a transaction of its own; returns the names applied."""
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            return _apply_missing(conn)
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreUnavailable(
            f"the database refused to set up the schema quantagent: {str(error).strip()}. Grant the user CREATE on the "
            "database, or run `quantagent db upgrade` once as its owner."
        ) from None
    except psycopg.OperationalError as error:
        raise StoreUnavailable(
            f"the database cannot be reached: {_first_line(error)}. Check QUANTAGENT_DSN and that the server runs."
        ) from None


def _apply_missing(conn: psycopg.Connection) -> list[str]:
    conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
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
        return missing
    finally:
        conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _all() -> list[str]:
    return sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".sql"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
