"""Appends that the database refuses, and a database that drops rows of an append."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.audit.verify import verify_log
from engine.core.errors import StoreUnavailable
from engine.core.events import RunFailed
from engine.core.market import Timeframe
from engine.data.catalogue import PostgresCatalogue
from engine.data.signals import read_signals, save_signals
from engine.store import Batch, Cause
from engine.store.codec import stream_id
from engine.store.hash_chain import SealBuilder, format_sealed_at, row_bytes
from engine.store.postgres import PostgresStore
from tests.support.tampering import INSERT_SEAL
from tests.support.workloads import walk, write_signals

Connection = psycopg.Connection[Any]
ME = Cause("test")
STATE = b'[{"run_id":"r","reason":"w"},{"stream":"book:r","recorded_at":"2019-01-01T00:00:00Z","actor":"alice"}]'
INSERT_EVENT = "INSERT INTO quantagent.events VALUES (%s, %s, 'RunFailed.v1', %s, %s)"
HIGHEST = 2**63 - 1
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(dsn: str) -> Iterator[Connection]:
    """A log of three appends, and a connection as the writer role."""
    with PostgresStore(dsn) as store:
        for n in range(3):
            store.append([Batch("run:x", n, [RunFailed("x", str(n))])], ME)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET ROLE quantagent_writer")
        yield conn


class Append:
    """An append by hand: its turn, and the seal that fits the events that were written."""

    def __init__(self, conn: Connection, events: int = 1) -> None:
        self.conn = conn
        turn = conn.execute("SELECT * FROM quantagent.begin_append(%s)", (events,)).fetchone()
        assert turn is not None
        self.first, self.seal, self.previous, self.at, self.by = turn
        self.events = events

    def write(self, position: int | None = None, version: int = 1) -> None:
        position = self.first if position is None else position
        self.conn.execute(INSERT_EVENT, (stream_id("run:y"), version, STATE, position))

    def sealed(self, **changes: Any) -> tuple[Any, ...]:
        rows = [
            row_bytes(stream_id("run:y").bytes, n + 1, b"RunFailed.v1", STATE, self.first + n)
            for n in range(self.events)
        ]
        place = (self.seal + 1, self.first, self.first + self.events - 1, self.events, self.previous)
        sealing = SealBuilder(*place, format_sealed_at(self.at), self.by)
        sealing.add(rows)
        return tuple(sealing.build()._replace(**changes))

    def close(self, **changes: Any) -> None:
        self.conn.execute(INSERT_SEAL, self.sealed(**changes))


def write_far_ahead(conn: Connection) -> None:
    Append(conn).write(HIGHEST)


def write_in_a_gap(conn: Connection) -> None:
    Append(conn).write(-5)


def write_without_a_turn(conn: Connection) -> None:
    conn.execute("SELECT set_config('quantagent.append', pg_current_xact_id()::text, true)")
    conn.execute(INSERT_EVENT, (stream_id("run:y"), 1, STATE, 4))


def write_one_event_more(conn: Connection) -> None:
    append = Append(conn)
    append.write()
    append.write(append.first + 1, 2)


def write_after_the_seal(conn: Connection) -> None:
    append = Append(conn)
    append.write()
    append.close()
    append.write(append.first + 1, 2)


def write_fewer_than_were_begun(conn: Connection) -> None:
    append = Append(conn, 2)
    append.write()
    append.close()


def write_without_a_seal(conn: Connection) -> None:
    Append(conn).write()


def begin_and_write_nothing(conn: Connection) -> None:
    Append(conn)


def hide_an_append_behind_another(conn: Connection) -> None:
    Append(conn).write()
    second = Append(conn)
    second.write(version=2)
    second.close()


def seal_without_a_turn(conn: Connection) -> None:
    conn.execute(
        "INSERT INTO quantagent.seals SELECT 99, 1, 1, 1, hash, hash, checks, now(), 'me' FROM quantagent.seals LIMIT 1"
    )


def sealing_with(**changes: Any) -> Callable[[Connection], None]:
    def act(conn: Connection) -> None:
        append = Append(conn)
        append.write()
        append.close(**changes)

    return act


def shadow_the_operators(conn: Connection) -> None:
    """Names of the writer's own in front of the system's, for whoever looks them up on the path."""
    conn.execute("CREATE SCHEMA mine")
    conn.execute(
        "CREATE FUNCTION mine.always(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';"
        "CREATE OPERATOR mine.>= (leftarg = bigint, rightarg = bigint, function = mine.always);"
        "CREATE OPERATOR mine.<= (leftarg = bigint, rightarg = bigint, function = mine.always);"
        "SET LOCAL search_path = mine, pg_catalog"
    )
    Append(conn).write(HIGHEST)


ACTS: list[Callable[[Connection], None]] = [
    *(write_far_ahead, write_in_a_gap, write_without_a_turn, write_one_event_more, write_after_the_seal),
    *(write_fewer_than_were_begun, write_without_a_seal, begin_and_write_nothing, hide_an_append_behind_another),
    *(seal_without_a_turn, shadow_the_operators),
]
CHANGED_SEALS: dict[str, Any] = {
    "seal": 99,
    "first_position": 1,
    "last_position": HIGHEST,
    "events": 7,
    "previous": b"\0" * 32,
    "hash": b"\0" * 32,
    "checks": b"\0" * 4,
    "sealed_at": "2019-01-01T00:00:00.000000Z",
    "sealed_by": "alice",
}


def refused(conn: Connection, act: Callable[[Connection], None]) -> None:
    def at_once(conn: Connection) -> None:
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        act(conn)

    for each in (act, at_once):
        with pytest.raises(psycopg.errors.RaiseException), conn.transaction():
            each(conn)
    conn.execute("RESET ROLE")
    verdict = verify_log(conn)
    assert (verdict.finding, verdict.events, verdict.seals) == (None, 3, 3)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_a_writer_cannot_leave_an_append_that_does_not_verify(
    log: Connection, act: Callable[[Connection], None]
) -> None:
    refused(log, act)


@pytest.mark.parametrize("column", CHANGED_SEALS)
def test_a_seal_with_another_value_in_any_column_is_refused(log: Connection, column: str) -> None:
    refused(log, sealing_with(**{column: CHANGED_SEALS[column]}))


def test_a_seal_of_the_first_format_is_refused(log: Connection) -> None:
    refused(log, sealing_with(sealed_at="", sealed_by=""))


def test_an_append_by_hand_that_keeps_the_rules_is_an_append_like_any_other(log: Connection, dsn: str) -> None:
    with log.transaction():
        append = Append(log, 2)
        append.write()
        append.write(append.first + 1, 2)
        append.close()
    with log.transaction():
        append = Append(log)
        log.execute(INSERT_EVENT, (stream_id("run:z"), 1, STATE, append.first))
        row = row_bytes(stream_id("run:z").bytes, 1, b"RunFailed.v1", STATE, append.first)
        sealing = SealBuilder(
            append.seal + 1, append.first, append.first, 1, append.previous, format_sealed_at(append.at), append.by
        )
        sealing.add([row])
        log.execute(INSERT_SEAL, sealing.build())
    log.execute("RESET ROLE")
    verdict = verify_log(log)
    assert (verdict.finding, verdict.events, verdict.seals) == (None, 6, 5)
    # Its time and its actor are the client's word; the seal holds the server's time and the login.
    assert [notice for notice in verdict.notices if "have a recording time more than" in notice]
    (notice,) = verdict.notices
    assert "3 event(s)" in notice
    assert "position 4 has 2019-01-01T00:00:00" in notice
    assert f"by {log.info.user}" in notice


def test_a_seal_holds_the_servers_time_and_the_login(log: Connection) -> None:
    before, after = datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC)
    rows = log.execute("SELECT sealed_at, sealed_by FROM quantagent.seals ORDER BY seal").fetchall()
    assert [by for _, by in rows] == [log.info.user] * 3
    assert before < rows[0][0] < rows[1][0] < rows[2][0] < after


def test_a_clock_of_the_server_that_goes_back_is_reported_and_no_change(log: Connection) -> None:
    from tests.support.tampering import forge

    log.execute("RESET ROLE")
    with log.transaction(force_rollback=True):
        log.execute("SET LOCAL session_replication_role = replica")
        log.execute("UPDATE quantagent.seals SET sealed_at = sealed_at - interval '1 minute' WHERE seal = 2")
        forge(log)
        verdict = verify_log(log)
        assert verdict.finding is None
        assert [notice for notice in verdict.notices if notice.startswith("the server's clock went back 1 time(s)")]


# --- A database that drops rows -----------------------------------------------------------------------------------

SWALLOW = (
    "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "CREATE TRIGGER a_swallow BEFORE INSERT ON quantagent.{} FOR EACH ROW EXECUTE FUNCTION public.swallow()"
)
IGNORE = "CREATE RULE ignore AS ON INSERT TO quantagent.{} DO INSTEAD NOTHING"


@pytest.mark.parametrize(("change", "table"), [(SWALLOW, "events"), (SWALLOW, "seals"), (IGNORE, "seals")])
def test_rows_that_the_database_drops_fail_the_append(dsn: str, change: str, table: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(change.format(table).encode())
    with PostgresStore(dsn) as store:
        with pytest.raises(StoreUnavailable, match=f"rows were sent to the table quantagent.{table} and it stored 0"):
            store.append([Batch("run:x", 0, [RunFailed("x", "y")])], ME)
        assert store.last_position() == 0


def test_a_database_that_drops_some_rows_fails_the_append(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(
            SWALLOW.format("events").replace("FOR EACH ROW", "FOR EACH ROW WHEN (NEW.originator_version = 2)").encode()
        )
    with PostgresStore(dsn) as store, pytest.raises(StoreUnavailable, match=r"3 rows were sent .* it stored 2"):
        store.append([Batch("run:x", 0, [RunFailed("x", str(n)) for n in range(3)])], ME)


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("table", ["bars", "bar_imports"])
def test_bars_that_the_database_drops_fail_the_import(dsn: str, table: str, known: int) -> None:
    bars = walk("AAA", 100, 20, 100.0, 0.005)
    catalogue = PostgresCatalogue(dsn)
    if known:
        catalogue.add("AAA", Timeframe.H1, bars[:known], source="test", learned_at=NOW)
    with psycopg.connect(dsn) as conn:
        conn.execute(SWALLOW.format(table).encode())
    with pytest.raises(
        StoreUnavailable, match=f"the table quantagent.{table} and it stored {known * (table == 'bars')}:"
    ):
        catalogue.add("AAA", Timeframe.H1, bars, source="test", learned_at=NOW)
    assert sum(held.count for held in catalogue.list_series()) == known


def test_signals_that_the_database_drops_fail_the_import(dsn: str, tmp_path: Path) -> None:
    file = read_signals(write_signals(tmp_path / "signals.csv", [walk("AAA", 100, 400, 100.0, 0.005)]))
    with psycopg.connect(dsn) as conn:
        conn.execute(SWALLOW.format("imported_signals").encode())
    with PostgresStore(dsn) as store:
        with pytest.raises(StoreUnavailable, match=r"table quantagent\.imported_signals and it stored 0"):
            save_signals(store, dsn, file, "test")
        assert store.last_position() == 0
