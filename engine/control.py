"""The scheduler's facts: slots claimed once, completed once. And who drives an account now."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from engine import clock
from engine.errors import BadInput
from engine.events import SlotClaimed, SlotCompleted, SlotFailed
from engine.market import Symbol, instant_text
from engine.store import Batch, Cause, Store, read_from
from engine.versions import names


class Slot(NamedTuple):
    """One due instant of an account and timeframe: all symbols with a bar that closes then."""

    account: str
    timeframe: str
    due_at: datetime
    symbols: tuple[Symbol, ...]

    @property
    def stream(self) -> str:
        return f"slot:{self.account}:{self.timeframe}:{instant_text(self.due_at)}"


def completed(store: Store, run_id: str) -> dict[datetime, datetime]:
    """When each slot of a run was done, by its due instant."""
    return {
        row.event.due_at: row.meta.recorded_at
        for row in read_from(store, names([SlotCompleted]))
        if isinstance(row.event, SlotCompleted) and row.meta.correlation == run_id
    }


def claim(store: Store, slot: Slot, run_id: str, instance: str, cause: Cause) -> bool:
    """Claims a slot; false when it has been completed before. A claim that was never completed is taken over.

    Raises `BookMoved` when another process claims it at the same moment: the log lets only one of them be first.
    """
    facts = [row.event for row in store.read(slot.stream)]
    if facts and isinstance(facts[-1], SlotCompleted):
        return False
    mine = SlotClaimed(slot.account, slot.timeframe, slot.due_at, slot.symbols, run_id, instance)
    if not facts or facts[-1] != mine:
        store.append([Batch(slot.stream, len(facts), [mine])], cause)
    return True


def complete(store: Store, slot: Slot, outcomes: Sequence[tuple[Symbol, str]], cause: Cause) -> None:
    """Records what came of each symbol, once: whoever had claimed the slot too finds it completed."""
    facts = [row.event for row in store.read(slot.stream)]
    if not any(isinstance(fact, SlotCompleted) for fact in facts):
        done = SlotCompleted(slot.account, slot.due_at, tuple(outcomes))
        store.append([Batch(slot.stream, len(facts), [done])], cause)


def fail(store: Store, slot: Slot, reason: str, cause: Cause) -> None:
    """Records that a slot was given up; a later claim tries it again."""
    failed = SlotFailed(slot.account, slot.due_at, reason)
    store.append([Batch(slot.stream, sum(1 for _ in store.read(slot.stream)), [failed])], cause)


# --- Who drives an account ----------------------------------------------------------------------------------------


class Lease:
    """One daemon per account: a session lock that ends with its connection, and a row that shows it lives.

    The lock only spares work. Safety comes from the log: two daemons that both write meet a version conflict.
    """

    def __init__(self, dsn: str, account: str, run_id: str, instance: str) -> None:
        self._dsn, self._account, self._run_id, self._instance = dsn, account, run_id, instance
        self._conn = self._locked()
        now = clock.now()
        self._conn.execute(
            "INSERT INTO quantagent.daemons VALUES (%s, %s, %s, %s, %s, NULL, 'starting', false) "
            "ON CONFLICT (account) DO UPDATE SET run_id = EXCLUDED.run_id, instance = EXCLUDED.instance, "
            "started_at = EXCLUDED.started_at, heartbeat_at = EXCLUDED.heartbeat_at, state = 'starting', "
            "stop_requested = false",
            (account, run_id, instance, now, now),
        )

    def beat(self, market_at: datetime | None, state: str = "running") -> bool:
        """Shows that we live; true when somebody has asked us to stop.

        While the database is away, nothing can be shown: the next beat takes the lock again.
        """
        try:
            if self._conn.closed:
                self._conn = self._locked()
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
        self.beat(None, "stopped")
        self._conn.close()

    def _locked(self) -> psycopg.Connection[dict[str, Any]]:
        conn = psycopg.Connection[dict[str, Any]].connect(self._dsn, autocommit=True, row_factory=dict_row)
        lock = conn.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS mine", (f"daemon {self._account}",)
        ).fetchone()
        if lock is None or not lock["mine"]:
            conn.close()
            raise BadInput(
                f"account {self._account} is driven by another daemon: `quantagent paper status` shows it, "
                "`quantagent paper stop` ends it."
            )
        return conn


@contextmanager
def lease(dsn: str, account: str, run_id: str, instance: str) -> Generator[Lease]:
    """Drives an account alone for a while. Raises `BadInput` when another daemon drives it."""
    held = Lease(dsn, account, run_id, instance)
    try:
        yield held
    finally:
        held.close()


def daemons(dsn: str) -> list[dict[str, Any]]:
    """Every account that a daemon has driven, and whether one drives it now (`alive`)."""
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
    """Asks the daemon of an account to end after its present slot; false when none was ever started there."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        done = conn.execute("UPDATE quantagent.daemons SET stop_requested = true WHERE account = %s", (account,))
        return done.rowcount > 0
