"""What protects the log inside the database is what the migrations make, and is made again where it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from engine.audit.role_views import role_findings
from engine.core.errors import StoreUnavailable
from engine.core.events import RunFailed
from engine.store import Batch, Cause
from engine.store.guards import SchemaDifferences, create_guards, list_objects, restore_objects, schema_differences
from engine.store.migrations import migrate, restore_guards
from engine.store.postgres import PostgresStore
from engine.store.roles import access
from tests.support.commands import env, run
from tests.support.databases import database
from tests.support.guarded_objects import OBJECTS_FILE

__all__ = ["env"]
Connection = psycopg.Connection[Any]


@pytest.fixture
def conn(dsn: str) -> Iterator[Connection]:
    with PostgresStore(dsn) as store:
        store.append([Batch("run:x", 0, [RunFailed("x", "y")])], Cause("test"))
    with psycopg.connect(dsn, autocommit=True) as made:
        yield made


def test_the_list_is_what_the_migrations_make(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        assert list_objects(conn) == OBJECTS_FILE.read_text(encoding="utf-8").splitlines(), (
            "run `python -m tests.support.guarded_objects`"
        )
        assert not schema_differences(conn)


def test_a_database_without_roles_lacks_nothing(tcp_server: str) -> None:
    with database(tcp_server, "template0") as made:
        migrate(made)
        with psycopg.connect(made) as conn:
            assert schema_differences(conn) == SchemaDifferences((), ())


# A change, and a part of the line that names it. The last ones hold rows, and cannot be reverted.
CHANGES = {
    "DROP TRIGGER append_only ON quantagent.events": "trigger events append_only",
    "ALTER TABLE quantagent.seals DISABLE TRIGGER append_only": "trigger seals append_only",
    "ALTER TABLE quantagent.bars ENABLE REPLICA TRIGGER append_only": "trigger bars append_only",
    "DROP TRIGGER check_seal ON quantagent.seals": "trigger seals check_seal",
    "DROP TRIGGER check_sealed ON quantagent.append_turn": "trigger append_turn check_sealed",
    "ALTER TABLE quantagent.llm_calls DISABLE TRIGGER ALL": "trigger llm_calls",
    "CREATE OR REPLACE FUNCTION quantagent.refuse_change() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN RETURN NULL; END'": "function refuse_change()",
    "ALTER FUNCTION quantagent.begin_append SECURITY INVOKER": "function begin_append",
    "ALTER FUNCTION quantagent.begin_append SET search_path = public": "function begin_append",
    "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "CREATE TRIGGER z BEFORE INSERT ON quantagent.events FOR EACH ROW EXECUTE FUNCTION public.f()": "trigger events z",
    "GRANT ALL ON ALL TABLES IN SCHEMA quantagent TO PUBLIC": "grant PUBLIC DELETE on events",
    "GRANT UPDATE (state) ON quantagent.events TO quantagent_writer": "grant quantagent_writer UPDATE on events.state",
    "GRANT INSERT ON quantagent.events TO quantagent_writer WITH GRANT OPTION": "with grant option",
    "GRANT ALL ON SEQUENCE quantagent.events_notification_id_seq TO quantagent_writer": "events_notification_id_seq",
    "GRANT EXECUTE ON FUNCTION quantagent.begin_append TO PUBLIC": "grant PUBLIC EXECUTE on begin_append()",
    "GRANT CREATE ON SCHEMA quantagent TO quantagent_writer": "grant quantagent_writer CREATE on schema quantagent",
    "REVOKE INSERT ON quantagent.events FROM quantagent_writer": "grant quantagent_writer INSERT on events",
    "REVOKE SELECT ON quantagent.seals FROM quantagent_auditor": "grant quantagent_auditor SELECT on seals",
    "ALTER TABLE quantagent.events OWNER TO quantagent_writer": "owner events quantagent_writer",
    "ALTER FUNCTION quantagent.begin_append OWNER TO quantagent_reader": "owner begin_append() quantagent_reader",
    "ALTER TABLE quantagent.events ENABLE ROW LEVEL SECURITY": "row-security events",
    "ALTER TABLE quantagent.bars FORCE ROW LEVEL SECURITY": "row-security bars",
    "CREATE POLICY p ON quantagent.events USING (true)": "policy events p",
    "CREATE RULE r AS ON INSERT TO quantagent.seals DO INSTEAD NOTHING": "rule seals r",
    "CREATE TABLE public.child () INHERITS (quantagent.events)": "inherits quantagent.events public.child",
    "ALTER TABLE quantagent.seals SET UNLOGGED": "unlogged seals",
    "CREATE OR REPLACE VIEW quantagent.event_log AS SELECT notification_id AS position, ''::text AS stream, "
    "originator_version AS version, topic AS name, NULL::jsonb AS payload, NULL::jsonb AS metadata "
    "FROM quantagent.events": "view event_log",
    "DROP VIEW quantagent.current_bars": "view current_bars",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', "
    "current_database()); END $$": "setting session_replication_role=replica",
}
NOT_RESTORED = {
    "ALTER TABLE quantagent.events RENAME TO hidden;"
    "CREATE VIEW quantagent.events AS SELECT * FROM quantagent.hidden": "relation events kind r",
    "ALTER TABLE quantagent.events DROP CONSTRAINT events_pkey": "constraint events events_pkey",
    "ALTER TABLE quantagent.bars DROP CONSTRAINT bars_check": "constraint bars bars_check",
    "ALTER TABLE quantagent.events ALTER state TYPE text USING ''": "column events.state bytea",
    "DROP TABLE quantagent.asked_bars": "relation asked_bars kind r",
    "DROP SEQUENCE quantagent.events_notification_id_seq CASCADE": "relation events_notification_id_seq kind S",
}


def change(conn: Connection, statements: str) -> None:
    if "events ALTER state" in statements:
        conn.execute("DROP VIEW quantagent.event_log CASCADE")
    conn.execute(statements.encode())


@pytest.mark.parametrize(("statements", "line"), CHANGES.items(), ids=CHANGES.values())
def test_a_change_is_named_and_taken_back(conn: Connection, dsn: str, statements: str, line: str) -> None:
    change(conn, statements)
    found = schema_differences(conn)
    assert any(line in each for each in (*found.missing, *found.unexpected)), found
    assert restore_guards(dsn) == found
    assert not schema_differences(conn)
    assert not restore_guards(dsn)


@pytest.mark.parametrize(("statements", "line"), NOT_RESTORED.items(), ids=NOT_RESTORED.values())
def test_what_holds_rows_is_not_made_again(conn: Connection, dsn: str, statements: str, line: str) -> None:
    change(conn, statements)
    assert any(line in each for each in schema_differences(conn).missing)
    before = list_objects(conn)
    with pytest.raises(StoreUnavailable, match="cannot be reverted") as refused:
        restore_guards(dsn)
    assert line in str(refused.value)
    assert list_objects(conn) == before


def test_what_an_owner_cannot_take_back_is_named(conn: Connection, dsn: str) -> None:
    conn.execute("CREATE TABLE quantagent.mine (x integer)")
    with pytest.raises(StoreUnavailable, match="relation mine kind r"):
        restore_guards(dsn)


def test_guards_are_made_again_without_a_change(conn: Connection) -> None:
    before = list_objects(conn)
    create_guards(conn)
    assert list_objects(conn) == before
    assert restore_objects(conn) == SchemaDifferences((), ())


def test_a_long_list_is_cut_short() -> None:
    many = SchemaDifferences(("a" * 300,), tuple("bcdef"))
    assert str(many) == "unexpected: b; unexpected: c; unexpected: d and 3 more"
    assert str(many._replace(unexpected=())) == f"missing: {'a' * 147} ..."
    assert str(many._replace(unexpected=("column x", "relation y kind v"))).startswith("unexpected: relation y kind v")


# --- As commands ----------------------------------------------------------------------------------------------------


def test_verify_and_doctor_say_no_until_the_upgrade_has_restored_the_guards(env: dict[str, str], dsn: str) -> None:
    run(env, "halt", "--reason", "something to verify")
    with psycopg.connect(dsn) as conn:
        conn.execute("DROP TRIGGER append_only ON quantagent.events")
        conn.execute("GRANT ALL ON ALL TABLES IN SCHEMA quantagent TO PUBLIC")
    found = json.loads(run(env, "audit", "verify", "--json", code=3).stdout)
    assert "the objects that guard the log in the database were changed" in found["finding"]
    assert "trigger events append_only" in found["finding"]
    checks = json.loads(run(env, "doctor", "--json", code=3).stdout)["checks"]
    (guards,) = (check for check in checks if check["check"] == "guards")
    assert (guards["ok"], "`quantagent db upgrade` restores them" in guards["says"]) == (False, True)
    restored = json.loads(run(env, "db", "upgrade", "--json").stdout)["restored"]
    assert any("trigger events append_only" in line for line in restored["missing"])
    assert json.loads(run(env, "audit", "verify", "--json").stdout)["intact"] is True


VIEW = """
ALTER TABLE quantagent.events RENAME TO hidden;
CREATE VIEW quantagent.events AS
SELECT originator_id, originator_version,
    CASE WHEN current_user = 'quantagent_auditor' THEN topic ELSE 'RunFailed.v9' END AS topic, state, notification_id
FROM quantagent.hidden;
"""
ROW_SECURITY = """
ALTER TABLE quantagent.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY clean ON quantagent.events TO quantagent_auditor USING (true);
"""


@pytest.mark.parametrize("change_of", ["view", "row security"])
def test_a_log_that_only_the_auditor_sees_clean_does_not_verify(env: dict[str, str], dsn: str, change_of: str) -> None:
    run(env, "halt", "--reason", "something to verify")
    statements = VIEW if change_of == "view" else ROW_SECURITY
    grants = "GRANT SELECT ON quantagent.events TO quantagent_writer, quantagent_reader, quantagent_auditor"
    with psycopg.connect(dsn) as conn:
        conn.execute(statements.encode())
        conn.execute(grants)
    found = json.loads(run(env, "audit", "verify", "--json", code=3).stdout)
    assert ("relation events kind v" if change_of == "view" else "row-security events") in found["finding"]
    by_role = access(dsn, logins=False)
    with psycopg.connect(by_role.auditor) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        others = {"writer": by_role.writer, "reader": by_role.reader}
        assert [finding.what for finding in role_findings(conn, others)] == [
            f"the {role} reads another log in this database than the auditor does" for role in others
        ]


def test_roles_that_read_the_same_log_raise_no_alarm(conn: Connection, dsn: str) -> None:
    by_role = access(dsn, logins=False)
    with psycopg.connect(by_role.auditor) as auditor:
        auditor.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        auditor.execute("SELECT 1 FROM quantagent.events")
        with PostgresStore(dsn) as store:
            store.append([Batch("run:y", 0, [RunFailed("y", "meanwhile")])], Cause("test"))
        assert list(role_findings(auditor, {"writer": by_role.writer, "reader": by_role.reader})) == []
