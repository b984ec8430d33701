"""The read tables made anew beside the present ones, compared row for row, and put in their place."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from engine.feed import Bars
from engine.store import Store
from projections.runner import Progress, Runner, progress_of, take_turns, unheard
from projections.tables import SCHEMA, TABLES

BESIDE, BEFORE = f"{SCHEMA}_next", f"{SCHEMA}_before"


class Rebuilt(NamedTuple):
    """rows: by table; differing: by table, how many rows were in one of the two schemas only."""

    events: int
    rows: dict[str, int]
    differing: dict[str, int]

    @property
    def same(self) -> bool:
        return not any(self.differing.values())


def rebuild(store: Store, catalogue: Bars, dsn: str, progress: Progress = unheard) -> Rebuilt:
    """Rebuilds while events may arrive and pages are read; two rebuilds take turns."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtextextended('quantagent rebuild', 0))")
        for left_over in (BESIDE, BEFORE):
            conn.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(left_over)))
        present, beside = Runner(store, catalogue, dsn), Runner(store, catalogue, dsn, BESIDE)
        events = beside.catch_up(progress)
        while True:
            present.catch_up()
            events += beside.catch_up()
            compared = _switch(conn)
            if compared is not None:
                conn.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(BEFORE)))
                return Rebuilt(events, *compared)


def _switch(conn: psycopg.Connection[Any]) -> tuple[dict[str, int], dict[str, int]] | None:
    """Compares and switches while nobody writes; None when the two schemas are not at the same position.

    Schemas are renamed, not dropped: that locks no table, so that a reader never waits nor meets a deadlock.
    """
    with conn.transaction():
        take_turns(conn)
        if progress_of(conn, SCHEMA) != progress_of(conn, BESIDE):
            return None
        compared = _compare(conn, SCHEMA, BESIDE)
        conn.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(SCHEMA), Identifier(BEFORE)))
        conn.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(BESIDE), Identifier(SCHEMA)))
        return compared


def _compare(conn: psycopg.Connection[Any], ours: str, theirs: str) -> tuple[dict[str, int], dict[str, int]]:
    rows: dict[str, int] = {}
    differing: dict[str, int] = {}
    for table in TABLES:
        a, b = Identifier(ours, table.name), Identifier(theirs, table.name)
        found = conn.execute(
            SQL(
                "SELECT (SELECT count(*) FROM {b}), "
                "(SELECT count(*) FROM ((TABLE {a} EXCEPT ALL TABLE {b}) UNION ALL (TABLE {b} EXCEPT ALL TABLE {a})) d)"
            ).format(a=a, b=b)
        ).fetchone()
        rows[table.name], differing[table.name] = found or (0, 0)
    return rows, differing
