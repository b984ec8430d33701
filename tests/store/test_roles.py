"""Who works with the database can do their work and nothing else: every refusal here is the server's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import psycopg
import pytest
from eventsourcing.persistence import PersistenceError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder
from eventsourcing.tests.persistence import ApplicationRecorderTestCase

from engine.core.errors import StoreUnavailable
from engine.core.events import ProfileSaved, TradingHalted
from engine.store import Batch, Cause
from engine.store.codec import stream_id
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore, Recorder, datastore
from engine.store.roles import AUDITOR, READER, ROLES, WRITER, Access, access
from projections.queries import Queries

AT = datetime(2024, 1, 1, tzinfo=UTC)
HALTED = TradingHalted(AT, "entries", "why", "tester")


@pytest.fixture
def logins(dsn: str) -> Access:
    """The roles as one connects to the embedded server: as users of their own, who cannot become anybody else."""
    migrate(dsn, logins=True)
    by_role = access(dsn, logins=True)
    try:
        psycopg.connect(by_role.writer).close()
    except psycopg.OperationalError as error:
        pytest.skip(f"the server of QUANTAGENT_TEST_DSN lets no role log in without a password: {error}")
    with PostgresStore(by_role.writer) as store:
        store.append([Batch("control:a", 0, [HALTED])], Cause("test"))
    return by_role


CHANGES = [
    "UPDATE quantagent.events SET topic = topic",
    "DELETE FROM quantagent.events",
    "TRUNCATE quantagent.events",
    "ALTER TABLE quantagent.events ADD COLUMN note text",
    "ALTER TABLE quantagent.events DISABLE TRIGGER append_only",
    "DROP TRIGGER append_only ON quantagent.events",
    "DROP TABLE quantagent.events CASCADE",
    "LOCK TABLE quantagent.events IN EXCLUSIVE MODE",
    "DELETE FROM quantagent.asked_bars",
    "UPDATE quantagent.seals SET hash = hash",
    "DELETE FROM quantagent.seals",
    "TRUNCATE quantagent.seals",
    "ALTER TABLE quantagent.seals DISABLE TRIGGER append_only",
    "UPDATE quantagent.log_identity SET log_id = gen_random_uuid()",
    "INSERT INTO quantagent.log_identity DEFAULT VALUES",
    "SELECT setval('quantagent.events_notification_id_seq', 1)",
    "SELECT nextval('quantagent.events_notification_id_seq')",
    "UPDATE quantagent.bars SET close = close",
    "DELETE FROM quantagent.bars",
    "DELETE FROM quantagent.imported_signals",
    "DELETE FROM quantagent.daemons",
    "DELETE FROM quantagent.migrations",
    "CREATE TABLE quantagent.mine (x integer)",
    "CREATE OR REPLACE FUNCTION quantagent.refuse_change() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN RETURN NULL; END'",
    "CREATE OR REPLACE FUNCTION quantagent.begin_append(bigint, OUT bigint, OUT bigint, OUT bytea) "
    "LANGUAGE sql AS 'SELECT 1::bigint, 1::bigint, null::bytea'",
    "SET session_replication_role = replica",
    "SET ROLE OWNER",
    "CREATE ROLE intruder",
    "COPY quantagent.events TO PROGRAM 'cat'",
    "SELECT pg_read_file('postgresql.conf')",
    "UPDATE quantagent.paper_orders SET quantity = quantity",
    "DELETE FROM quantagent.paper_executions",
    "TRUNCATE quantagent.paper_cash",
    "UPDATE quantagent.llm_bodies SET body = body",
    "DELETE FROM quantagent.llm_bodies",
    "UPDATE quantagent.llm_calls SET cost = 0",
    "TRUNCATE quantagent.llm_calls, quantagent.llm_bodies",
]
WRITES = [
    "INSERT INTO quantagent.events SELECT gen_random_uuid(), 1, topic, state, 99 FROM quantagent.events LIMIT 1",
    "INSERT INTO quantagent.seals SELECT 99, 1, 1, 1, hash, hash, checks FROM quantagent.seals LIMIT 1",
    "SELECT * FROM quantagent.begin_append(1)",
    "INSERT INTO quantagent.daemons VALUES ('a', 'r', 'i', now(), now(), NULL, 'running', false)",
    "UPDATE quantagent.daemons SET stop_requested = true",
    "INSERT INTO quantagent.paper_slots VALUES ('r', now(), 0)",
    "INSERT INTO quantagent.instruments VALUES ('A', 'USD', 2, 1, 1, '24/7')",
    "INSERT INTO quantagent.asked_bars (symbol, timeframe, provider, start_at, end_at, asked_at, rows) "
    "VALUES ('A', '1h', 'p', now(), now() + interval '1h', now(), 0)",
    "INSERT INTO quantagent.imported_signals VALUES ('d', 1, 'A', now(), 'LONG', 1)",
    "INSERT INTO quantagent.llm_bodies VALUES (encode(sha256('x'), 'hex'), 'x')",
    "CREATE SCHEMA mine",
    "CREATE TABLE public.mine (x integer)",
    "CREATE TEMPORARY TABLE mine (x integer)",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
]


def allowed(logins: Access, dsn: str, statements: Sequence[str]) -> list[str]:
    """Those of the statements that are refused neither for want of rights nor by a trigger."""
    with psycopg.connect(logins.owner) as conn:
        owner = conn.info.user
    passed: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        # Whoever may, turns the session's guards off first: what is left is what the rights say.
        conn.execute("SET default_transaction_read_only = off")
        for statement in statements:
            try:
                with conn.transaction():
                    conn.execute(statement.replace("OWNER", owner).encode())
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.RaiseException):
                continue
            passed.append(statement)
    return passed


def test_the_writer_cannot_change_what_is_stored_nor_what_keeps_it(logins: Access) -> None:
    assert allowed(logins, logins.writer, CHANGES) == []


@pytest.mark.parametrize("role", ["reader", "auditor"])
def test_reader_and_auditor_cannot_write_anything(logins: Access, role: str) -> None:
    assert allowed(logins, getattr(logins, role), CHANGES + WRITES) == []


def test_the_refusals_are_those_of_rights(logins: Access) -> None:
    # All these statements are well formed: who may, can.
    with psycopg.connect(logins.owner) as conn:
        for statement in CHANGES[3:5] + WRITES[3:6]:
            with conn.transaction(force_rollback=True):
                conn.execute("SELECT * FROM quantagent.begin_append(1)")
                conn.execute(statement.encode())
    assert "CREATE TEMPORARY TABLE mine (x integer)" in allowed(logins, logins.writer, WRITES)


def test_even_the_owner_is_stopped_by_a_trigger_until_it_is_taken_away(dsn: str) -> None:
    for table in ("events", "seals", "log_identity", "imported_signals", "llm_calls"):
        for change in (f"DELETE FROM quantagent.{table}", f"TRUNCATE quantagent.{table}"):
            with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
                conn.execute(change.encode())


@pytest.mark.parametrize("role", ["writer", "reader", "auditor"])
def test_every_role_reads_the_log(logins: Access, role: str) -> None:
    with PostgresStore(getattr(logins, role)) as store:
        assert [row.event for row in store.read("control:a")] == [HALTED]


@pytest.mark.slow
def test_a_screen_that_asks_too_much_is_stopped(logins: Access) -> None:
    with psycopg.connect(logins.reader) as conn, pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
        conn.execute("SELECT pg_sleep(20)")
    with psycopg.connect(logins.auditor) as conn:
        assert conn.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_without_logins_a_session_becomes_the_role(dsn: str) -> None:
    by_role = access(dsn, logins=False)
    for name, role in zip(("writer", "reader", "auditor"), ROLES, strict=True):
        with psycopg.connect(getattr(by_role, name)) as conn:
            assert conn.execute("SELECT current_user").fetchone() == (role,)
    assert (WRITER, READER, AUDITOR) == ROLES


def test_where_roles_cannot_be_made_everybody_is_the_given_user(tcp_server: str, server: str) -> None:
    from tests.support.databases import database

    with database(tcp_server, "template0") as made:
        migrate(made)
        by_role = access(made, logins=False)
        assert set(by_role) == {made}
        with PostgresStore(by_role.writer) as store:
            store.append([Batch("control:a", 0, [HALTED])], Cause("test"))


def test_a_writer_needs_no_right_to_set_the_database_up(logins: Access) -> None:
    # A server where the administrator has migrated, and the program only has the writer's login.
    assert migrate(logins.writer) == []
    with Queries(logins.reader) as queries:
        assert queries.alive()


# --- The library beside us ----------------------------------------------------------------------------------------


def stock(dsn: str) -> PostgresApplicationRecorder:
    return PostgresApplicationRecorder(datastore(dsn), events_table_name="events")


def test_the_stock_recorder_reads_what_we_wrote(logins: Access) -> None:
    events = [TradingHalted(AT, "entries", f"{n}" * n, "tester") for n in range(1, 30)]
    with PostgresStore(logins.writer) as store:
        store.append([Batch("control:b", 0, events[:20])], Cause("test"))
        store.append([Batch("control:b", 20, events[20:])], Cause("test"))
        ours = store.read_all()
    recorder = stock(logins.reader)
    theirs = recorder.select_notifications(None, 100)
    assert [(n.id, n.originator_version, n.topic) for n in theirs] == [(r.position, r.version, r.name) for r in ours]
    stream = recorder.select_events(stream_id("control:b"))
    assert [event.originator_version for event in stream] == list(range(1, 30))
    assert [event.state.startswith(b"[" + row.payload) for event, row in zip(theirs, ours, strict=True)] == [True] * 30
    assert recorder.max_notification_id() == ours[-1].position
    recorder.datastore.close()


def test_the_stock_recorder_cannot_write_beside_us(logins: Access) -> None:
    # It takes another lock than ours: positions would become visible out of order.
    recorder = stock(logins.writer)
    event = StoredEvent(stream_id("control:c"), 1, "TradingHalted.v1", b"{}")
    with pytest.raises(PersistenceError):
        recorder.insert_events([event])
    with psycopg.connect(logins.reader) as conn:
        assert conn.execute("SELECT count(*) FROM quantagent.events").fetchone() == (1,)
    recorder.datastore.close()


class TestTheLibrarysOwnContract(ApplicationRecorderTestCase[Recorder]):
    """What the library asks of a recorder, asked of ours by the library's own tests."""

    EXPECT_CONTIGUOUS_NOTIFICATION_IDS = False

    @pytest.fixture(autouse=True)
    def _given(self, logins: Access) -> Iterator[None]:
        with psycopg.connect(logins.owner) as conn:
            conn.execute("SET session_replication_role = replica")
            conn.execute("TRUNCATE quantagent.events, quantagent.seals RESTART IDENTITY")
        self._datastore = datastore(logins.writer)
        yield
        self._datastore.close()

    def create_recorder(self) -> Recorder:
        return Recorder(self._datastore)

    def test_concurrent_throughput(self) -> None:
        """Measures and asserts nothing."""

    def test_performance(self) -> None:
        """Measures and asserts nothing."""


def test_the_librarys_unordered_functions_are_refused(dsn: str) -> None:
    unordered = datastore(dsn)
    unordered.enable_db_functions = True
    with pytest.raises(PersistenceError, match="out of order"):
        Recorder(unordered)
    unordered.close()


def test_nobody_appends_but_through_the_one_way_there_is(logins: Access) -> None:
    # A program of the version before knows nothing of seals, and the owner it works as has every right.
    for dsn in (logins.owner, logins.writer):
        with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.RaiseException, match="update the program"):
            conn.execute(WRITES[0].encode())


def test_read_models_that_somebody_else_made_are_made_anew(dsn: str) -> None:
    from ui.app import open_app
    from ui.settings import Settings

    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE SCHEMA read_models")
        conn.execute("CREATE TABLE read_models.runs (x integer)")
    with open_app(Settings(None, dsn, "test")) as app, app.queries() as queries:
        assert queries.runs() == []


def test_a_login_that_may_only_read_lists_what_is_there_and_is_told_how_far_behind(
    logins: Access, capfd: pytest.CaptureFixture[str]
) -> None:
    from ui.app import open_app
    from ui.settings import Settings

    with (
        open_app(Settings(None, logins.reader, "test")) as app,
        pytest.raises(StoreUnavailable, match="no read models"),
    ):
        app.queries()
    with open_app(Settings(None, logins.writer, "test")) as app, app.queries() as queries:
        assert queries.runs() == []
    with PostgresStore(logins.writer) as store:
        saved = ProfileSaved("x", "{}", "0" * 64)
        store.append([Batch(f"profile:{n}", 0, [saved]) for n in range(3)], Cause("test"))
    capfd.readouterr()
    for login in (logins.reader, logins.auditor):
        with open_app(Settings(None, login, "test")) as app, app.queries() as queries:
            assert queries.profile_versions("x") == []
        told = capfd.readouterr().err
        assert told.count("\n") == 1
        assert "this login may not write" in told
        assert "3 events behind the log" in told
    with open_app(Settings(None, logins.writer, "test")) as app, app.queries() as queries:
        assert len(queries.profile_versions("x")) == 3
    with open_app(Settings(None, logins.reader, "test")) as app, app.queries() as queries:
        assert len(queries.profile_versions("x")) == 3
    assert capfd.readouterr().err == ""
