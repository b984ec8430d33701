"""`projections verify`: what readers see is compared with what follows from the log, and both sides are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from projections import schemas
from projections.queries import Queries
from projections.rebuild import rebuild_read_models
from projections.schemas import CURRENT_SCHEMA, VIEWS_SCHEMA
from projections.tables import TABLES
from projections.verify import REBUILT_SCHEMA, verify_read_models
from tests.support.commands import run as command
from tests.support.worlds import BOLD, CAREFUL, World, run_request, world_in


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with world_in(dsn) as made:
        made.run(run_request(BOLD))
        made.run(run_request(CAREFUL))
        made.analyse(2)
        made.runner().catch_up()
        yield made


def execute(world: World, statement: str) -> None:
    with psycopg.connect(world.dsn, autocommit=True) as conn:
        conn.execute(statement.encode())


def schemas_in(world: World) -> set[str]:
    with psycopg.connect(world.dsn) as conn:
        return {name for (name,) in conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'read%'")}


def test_read_models_that_are_right_are_found_to_be(world: World) -> None:
    before = world.rows()
    assert world.runner().status().verified is None
    found = verify_read_models(world.store, world.catalogue, world.dsn)
    assert found.same
    assert (found.examples, found.evidence) == ((), ())
    assert found.rows == {name: len(rows) for name, rows in before.items()}
    assert world.rows() == before
    assert schemas_in(world) == {VIEWS_SCHEMA, CURRENT_SCHEMA}
    noted = world.runner().status().verified
    assert noted is not None
    assert (noted.position, noted.differing) == (world.store.last_position(), 0)


def test_a_changed_row_is_named_with_its_run_key_column_and_both_values_and_kept(world: World) -> None:
    run_id = run_request(BOLD).run_id
    with Queries(world.dsn) as queries:
        trade = queries.trades(run_id)[3]
    execute(world, f"UPDATE {CURRENT_SCHEMA}.trades SET net_pnl = 999 WHERE run_id = '{run_id}' "
            f"AND trade_id = '{trade['trade_id']}'")  # fmt: skip
    tampered = world.rows()
    found = verify_read_models(world.store, world.catalogue, world.dsn)
    assert not found.same
    assert {name: n for name, n in found.differing.items() if n} == {"trades": 2}
    (row,) = found.examples
    assert (row.table, row.kind, row.run_id) == ("trades", "changed", run_id)
    assert row.key == {"run_id": run_id, "trade_id": trade["trade_id"]}
    (cell,) = row.cells
    assert (cell.column, cell.shown, cell.from_the_log) == ("net_pnl", "999", str(trade["net_pnl"]))
    # Nothing is mended, and both sides can be looked at.
    assert world.rows() == tampered
    assert found.evidence == (CURRENT_SCHEMA, REBUILT_SCHEMA)
    assert world.rows(REBUILT_SCHEMA) != tampered
    status = world.runner().status()
    assert status.verified is not None
    assert status.verified.differing == 2
    rebuild_read_models(world.store, world.catalogue, world.dsn)
    assert world.runner().status().verified is None
    assert verify_read_models(world.store, world.catalogue, world.dsn).same


@pytest.mark.parametrize("table", [table.name for table in TABLES if table.name in ("metrics", "fills", "analyses")])
def test_rows_added_removed_or_doubled_are_found(world: World, table: str) -> None:
    (key,) = [each.key for each in TABLES if each.name == table]
    execute(world, f"DELETE FROM {CURRENT_SCHEMA}.{table} WHERE ctid = "
            f"(SELECT max(ctid) FROM {CURRENT_SCHEMA}.{table})")  # fmt: skip
    found = verify_read_models(world.store, world.catalogue, world.dsn)
    assert [(each.table, each.kind) for each in found.examples] == [(table, "missing")]
    assert set(found.examples[0].key) == set(key)
    rebuild_read_models(world.store, world.catalogue, world.dsn)
    with psycopg.connect(world.dsn, autocommit=True) as conn:
        conn.execute(SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
            Identifier(CURRENT_SCHEMA, table), Identifier(f"{table}_pkey")))  # fmt: skip
        conn.execute(SQL("INSERT INTO {t} SELECT * FROM {t} LIMIT 1").format(t=Identifier(CURRENT_SCHEMA, table)))
    found = verify_read_models(world.store, world.catalogue, world.dsn)
    assert [(each.table, each.kind) for each in found.examples] == [(table, "added")]


def test_a_view_that_shows_other_rows_than_the_table_is_found(world: World) -> None:
    columns = next(table.names for table in TABLES if table.name == "metrics")
    shown = ", ".join("total_pnl + 1 AS total_pnl" if name == "total_pnl" else name for name in columns)
    execute(world, f"CREATE OR REPLACE VIEW {VIEWS_SCHEMA}.metrics AS SELECT {shown} FROM {CURRENT_SCHEMA}.metrics")
    found = verify_read_models(world.store, world.catalogue, world.dsn)
    assert {each.table for each in found.examples} == {"metrics"}
    assert {cell.column for each in found.examples for cell in each.cells} == {"total_pnl"}


def test_the_commands_tell_the_last_result(world: World, tmp_path: Path) -> None:
    env = {**os.environ, "QUANTAGENT_DSN": world.dsn, "QUANTAGENT_HOME": str(tmp_path)}
    # The commands' catalogue holds none of this world's bars: what they project is what they verify.
    execute(world, f"DROP SCHEMA {CURRENT_SCHEMA}, {VIEWS_SCHEMA} CASCADE")
    command(env, "runs", "list")
    assert json.loads(command(env, "projections", "verify", "--json").stdout)["same"] is True
    status = json.loads(command(env, "projections", "status", "--json", code=3).stdout)
    assert status["verified"]["differing"] == 0
    execute(world, f"UPDATE {CURRENT_SCHEMA}.trades SET fees = fees + 1 WHERE run_id = '{run_request(BOLD).run_id}'")
    refused = command(env, "projections", "verify", code=3)
    assert f"trades: changed, run_id {run_request(BOLD).run_id}, trade_id " in refused.stdout
    assert "fees is " in refused.stdout
    assert f"{CURRENT_SCHEMA} and {REBUILT_SCHEMA}" in refused.stderr
    shown = command(env, "projections", "status", code=3)
    assert "rows differ" in shown.stdout
    doctor = json.loads(command(env, "doctor", "--json", code=3).stdout)
    (check,) = (each for each in doctor["checks"] if each["check"] == "read models")
    assert (check["ok"], "rows differed from the log" in check["says"]) == (False, True)


def test_a_check_is_of_the_present_tables(world: World) -> None:
    with psycopg.connect(world.dsn, autocommit=True) as conn:
        schemas.record_verification(conn, 5, 0)
        schemas.record_verification(conn, 9, 3)
        found = schemas.last_verification(conn, CURRENT_SCHEMA)
    assert found is not None
    assert (found.position, found.differing) == (9, 3)
