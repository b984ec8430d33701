"""LangGraph's checkpoints on PostgreSQL, from which an analysis continues after a crash.

They are auxiliary; the event log is authoritative. A checkpoint avoids repeated calls of finished agents and records
the states of an analysis. The preset determines the kept ones: `all`, the `latest`, or `none`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal, LiteralString

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool

SCHEMA: LiteralString = "langgraph"
CONNECTIONS = 4

KeepPolicy = Literal["all", "latest", "none"]

CheckpointsUnavailable = psycopg.Error
"""The database of the checkpoints cannot be used."""

_MAY_USE = """
SELECT current_user::text, coalesce(has_schema_privilege(to_regnamespace('langgraph')::oid, 'USAGE')
    AND has_table_privilege(to_regclass('langgraph.checkpoint_writes')::oid, 'DELETE'), false)
"""
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS mine"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
WAIT_S = 0.1
_MIGRATED = "SELECT max(v) FROM langgraph.checkpoint_migrations"
_TRY_SETUP_LOCK = "SELECT pg_try_advisory_lock(hashtext('langgraph.set_up')) AS mine"
TURN_S = 0.05
_OLD = "SELECT thread_id FROM checkpoints GROUP BY thread_id HAVING max((checkpoint ->> 'ts')::timestamptz) < %s"
_ROWS = """
SELECT (SELECT count(*) FROM checkpoints WHERE thread_id = %(thread)s)
     + (SELECT count(*) FROM checkpoint_blobs WHERE thread_id = %(thread)s)
     + (SELECT count(*) FROM checkpoint_writes WHERE thread_id = %(thread)s) AS rows,
       (SELECT coalesce(sum(octet_length(checkpoint::text) + octet_length(metadata::text)), 0) FROM checkpoints
        WHERE thread_id = %(thread)s)
     + (SELECT coalesce(sum(octet_length(blob)), 0) FROM checkpoint_blobs WHERE thread_id = %(thread)s)
     + (SELECT coalesce(sum(octet_length(blob)), 0) FROM checkpoint_writes WHERE thread_id = %(thread)s) AS bytes
"""


def create_schema(owner: str, worker: str) -> None:
    """Create the schema and its tables, and grant the role of `worker` access; do nothing if they are complete.

    Both arguments are connection strings; the tables belong to `owner`. Concurrent processes take turns.
    """
    role, done = _schema_status(worker)
    if done:
        return
    with psycopg.Connection[DictRow].connect(
        _with_search_path(owner), autocommit=True, row_factory=dict_row, prepare_threshold=0
    ) as conn:
        # Polls instead of waiting for the lock: CREATE INDEX CONCURRENTLY would wait for the waiting sessions.
        while not (conn.execute(_TRY_SETUP_LOCK).fetchone() or {}).get("mine"):
            time.sleep(TURN_S)
        conn.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(SCHEMA)))
        PostgresSaver(conn).setup()
        conn.execute(SQL("GRANT USAGE ON SCHEMA {} TO {}").format(Identifier(SCHEMA), Identifier(role)))
        rights = SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {} TO {}")
        conn.execute(rights.format(Identifier(SCHEMA), Identifier(role)))


def _schema_status(worker: str) -> tuple[str, bool]:
    """Return the role of a connection string, and True if it can use the tables of this version of the library."""
    with psycopg.connect(worker) as conn:
        row = conn.execute(_MAY_USE).fetchone()
        assert row is not None, "a query for one row has one"
        role, may_use = row
        migrated = conn.execute(_MIGRATED).fetchone() if may_use else None
        return role, migrated == (len(PostgresSaver.MIGRATIONS) - 1,)


class Checkpoints:
    """Checkpoints of all threads, for one worker (a saver is not concurrent)."""

    def __init__(self, saver: AsyncPostgresSaver, pool: AsyncConnectionPool[AsyncConnection[DictRow]]) -> None:
        self.saver, self._pool = saver, pool

    async def prune(self, thread_id: str, keep: KeepPolicy) -> None:
        """Reduce the thread of a stored analysis to the checkpoints that the preset keeps."""
        if keep == "latest":
            await self.saver.aprune([thread_id], strategy="keep_latest")
        elif keep == "none":
            await self.saver.adelete_thread(thread_id)

    @asynccontextmanager
    async def exclusive(self, analysis: str) -> AsyncGenerator[None]:
        """Hold the lock of an analysis, after waiting for other processes; a killed process releases it."""
        async with self._pool.connection() as conn:
            while not (await (await conn.execute(_LOCK, (analysis,))).fetchone() or {}).get("mine"):
                await asyncio.sleep(WAIT_S)
            try:
                yield
            finally:
                await conn.execute(_UNLOCK, (analysis,))

    async def delete_before(self, before: datetime) -> int:
        """Delete the threads last written before an instant; return their number."""
        async with self._pool.connection() as conn:
            rows = await (await conn.execute(_OLD, (before,))).fetchall()
        for row in rows:
            await self.saver.adelete_thread(row["thread_id"])
        return len(rows)

    async def size(self, thread_id: str) -> tuple[int, int]:
        """Return the rows and bytes of a thread."""
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_ROWS, {"thread": thread_id})).fetchone()
        assert row is not None, "a query for one row has one"
        return row["rows"], int(row["bytes"])


@asynccontextmanager
async def open_checkpoints(dsn: str) -> AsyncGenerator[Checkpoints]:
    """Open the checkpoints as the role of a connection string."""
    kwargs: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool[AsyncConnection[DictRow]](
        _with_search_path(dsn), min_size=1, max_size=CONNECTIONS, kwargs=kwargs, open=False
    ) as pool:
        yield Checkpoints(AsyncPostgresSaver(pool), pool)


def thread_config(thread_id: str) -> RunnableConfig:
    """Return the configuration that selects a thread of the graph."""
    return {"configurable": {"thread_id": thread_id}}


def _with_search_path(dsn: str) -> str:
    options = conninfo_to_dict(dsn).get("options") or ""
    return make_conninfo(dsn, options=f"{options} -c search_path={SCHEMA}".strip())
