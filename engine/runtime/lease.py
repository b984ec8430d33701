"""Lease of an account: only one daemon trades it at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from engine import clock
from engine.core.errors import BadInput


class Lease:
    """Lease of one daemon: a session lock that ends with its connection, and a row with its heartbeat.

    The lock only avoids duplicate work. The log ensures safety: two daemons that both write get a version conflict.
    """

    def __init__(self, dsn: str, account: str, run_id: str, instance: str) -> None:
        self._dsn, self._account, self._run_id, self._instance = dsn, account, run_id, instance
        self._conn = self._acquire()
        now = clock.now()
        self._conn.execute(
            "INSERT INTO quantagent.daemons VALUES (%s, %s, %s, %s, %s, NULL, 'starting', false) "
            "ON CONFLICT (account) DO UPDATE SET run_id = EXCLUDED.run_id, instance = EXCLUDED.instance, "
            "started_at = EXCLUDED.started_at, heartbeat_at = EXCLUDED.heartbeat_at, state = 'starting', "
            "stop_requested = false",
            (account, run_id, instance, now, now),
        )

    def heartbeat(self, market_at: datetime | None, state: str = "running") -> bool:
        """Record a heartbeat; return true if a stop was requested.

        While the database is unavailable nothing is recorded; the next heartbeat acquires the lock again.
        """
        try:
            if self._conn.closed:
                self._conn = self._acquire()
            row = self._conn.execute(
                "UPDATE quantagent.daemons SET heartbeat_at = %s, market_at = coalesce(%s, market_at), state = %s "
                "WHERE account = %s RETURNING stop_requested",
                (clock.now(), market_at, state, self._account),
            ).fetchone()
        except psycopg.OperationalError:
            self._conn.close()
            return False
        return row is not None and bool(row["stop_requested"])

    def close(self) -> None:
        self.heartbeat(None, "stopped")
        self._conn.close()

    def _acquire(self) -> psycopg.Connection[dict[str, Any]]:
        conn = psycopg.Connection[dict[str, Any]].connect(self._dsn, autocommit=True, row_factory=dict_row)
        lock = conn.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS mine", (f"daemon {self._account}",)
        ).fetchone()
        if lock is None or not lock["mine"]:
            conn.close()
            raise BadInput(
                f"account {self._account} is in use by another daemon.", "ACCOUNT_IN_USE", account=self._account
            )
        return conn


@contextmanager
def lease(dsn: str, account: str, run_id: str, instance: str) -> Generator[Lease]:
    """Hold the lease of an account. Raise `BadInput` if another daemon holds it."""
    acquired = Lease(dsn, account, run_id, instance)
    try:
        yield acquired
    finally:
        acquired.close()


def list_daemons(dsn: str) -> list[dict[str, Any]]:
    """Return every account that a daemon has used; `alive`: a daemon uses it now."""
    with psycopg.Connection[dict[str, Any]].connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        return conn.execute(
            "SELECT d.*, EXISTS (SELECT 1 FROM pg_locks l, "
            "LATERAL (SELECT hashtextextended('daemon ' || d.account, 0) AS key) k "
            "WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND ((l.classid::bigint << 32) | l.objid::bigint) = k.key) AS alive "
            "FROM quantagent.daemons d ORDER BY d.account"
        ).fetchall()


def request_stop(dsn: str, account: str) -> bool:
    """Request the daemon of an account to stop after its current slot; return false if none was ever started."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        done = conn.execute("UPDATE quantagent.daemons SET stop_requested = true WHERE account = %s", (account,))
        return done.rowcount > 0
