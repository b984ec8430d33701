"""Schemas of the read tables: one for each version, and views of the published one.

Readers query the views in schema `read_models`. Each version has its own schema, so that a new version, or a rebuild,
can catch up while the present tables are in use. Schemas are switched by renaming, which locks no table: the switch is
short, and readers neither wait for it nor deadlock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from engine.core.errors import BadInput
from projections.tables import TABLES, VERSION

Connection = psycopg.Connection[Any]

VIEWS_SCHEMA = "read_models"
CURRENT_SCHEMA = f"{VIEWS_SCHEMA}_v{VERSION}"
RETIRED = -1


class Checkpoint(NamedTuple):
    """Position of one projection; stopped_at, reason: the event that could not be projected, if any, and the cause."""

    projection: str
    position: int
    updated_at: datetime
    stopped_at: int | None
    reason: str | None


def prepare_tables(conn: Connection, schema: str, last_position: Callable[[], int]) -> None:
    """Create the tables of a schema if they are missing, and publish them if no other version is published.

    Raise `BadInput` if a newer program has published its version, because only one program may write.
    """
    if _is_ready(conn, schema, last_position):
        return
    with conn.transaction():
        _lock_schemas(conn)
        if _is_ready(conn, schema, last_position):
            return
        drop_schema(conn, schema)
        conn.execute(_tables(schema).encode())
        if schema == CURRENT_SCHEMA and (published_version(conn) or VERSION) == VERSION:
            # No other version has been published, so that pages can open at once and fill while projecting.
            _point_views_to(conn, schema)
    drop_retired(conn)


def _is_ready(conn: Connection, schema: str, last_position: Callable[[], int]) -> bool:
    check_version(conn)
    if not _exists(conn, f"{schema}.progress") or (schema == CURRENT_SCHEMA and published_version(conn) is None):
        return False
    position = max(checkpoint.position for checkpoint in read_checkpoints(conn, schema))
    # Tables beyond the end of the log belong to another log: it was restored from a copy, or created again. The end is
    # read last, because other runners may advance the tables meanwhile.
    return position <= last_position()


def check_version(conn: Connection) -> None:
    """Raise `BadInput` if a newer version than ours is published."""
    found = published_version(conn)
    if found is not None and found > VERSION:
        raise BadInput(
            f"the read models are those of a newer program (version {found}, this one writes {VERSION}): "
            "update quantagent here, or use the newer one."
        )


def published_version(conn: Connection) -> int | None:
    """Return the version that readers see; None if there is none, or only tables from before versions existed."""
    if not _exists(conn, f"{VIEWS_SCHEMA}.published"):
        return None
    row = conn.execute(SQL("SELECT version FROM {}").format(Identifier(VIEWS_SCHEMA, "published"))).fetchone()
    return None if row is None else int(row[0])


def publish_version(conn: Connection) -> None:
    """Point the views to our version once it has caught up with the older one that readers see."""
    if published_version(conn) == VERSION:
        return
    with conn.transaction():
        _lock_schemas(conn)
        found = published_version(conn)
        if found is None or found >= VERSION or _would_regress(conn, f"{VIEWS_SCHEMA}_v{found}"):
            return
        _point_views_to(conn, CURRENT_SCHEMA)
        for version in range(1, VERSION):
            _retire(conn, f"{VIEWS_SCHEMA}_v{version}")
    drop_retired(conn)


def _would_regress(conn: Connection, older: str) -> bool:
    """Return True if one of our projections has stopped at an event that the older version has passed."""
    if not _exists(conn, f"{older}.progress"):
        return False
    before = {checkpoint.projection: checkpoint.position for checkpoint in read_checkpoints(conn, older)}
    ours = read_checkpoints(conn, CURRENT_SCHEMA)
    return any(each.stopped_at is not None and each.position < before.get(each.projection, 0) for each in ours)


def switch_tables(conn: Connection, candidate: str) -> None:
    """Replace the present tables by those of another schema, inside the caller's transaction."""
    _lock_schemas(conn)
    # A runner that waits for these rows would otherwise write into the new tables based on the old position.
    conn.execute(SQL("UPDATE {} SET position = %s").format(Identifier(CURRENT_SCHEMA, "progress")), (RETIRED,))
    _retire(conn, CURRENT_SCHEMA)
    conn.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(candidate), Identifier(CURRENT_SCHEMA)))
    _point_views_to(conn, CURRENT_SCHEMA)


def drop_retired(conn: Connection) -> None:
    """Drop retired schemas. Those still being read stay until the next call."""
    query = "SELECT nspname FROM pg_namespace WHERE nspname ~ %s ORDER BY nspname"
    # This order drops views before the tables they depend on.
    for (schema,) in conn.execute(query, (f"^{VIEWS_SCHEMA}(_v[0-9]+(_next)?)?_before_",)).fetchall():
        try:
            with conn.transaction():
                conn.execute("SET LOCAL lock_timeout = '2s'")
                drop_schema(conn, schema)
        except psycopg.errors.LockNotAvailable:
            continue


def drop_schema(conn: Connection, schema: str) -> None:
    conn.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))


# --- Positions ----------------------------------------------------------------------------------------------------


def read_checkpoints(conn: Connection, schema: str) -> list[Checkpoint]:
    query = SQL("SELECT projection, position, updated_at, stopped_at, reason FROM {} ORDER BY projection")
    return [Checkpoint(*row) for row in conn.execute(query.format(Identifier(schema, "progress")))]


def lock_position(conn: Connection, schema: str, projection: str) -> int:
    """Return the position of a projection, locked until the caller's transaction ends."""
    query = SQL("SELECT position FROM {} WHERE projection = %s FOR UPDATE").format(Identifier(schema, "progress"))
    row = conn.execute(query, (projection,)).fetchone()
    return RETIRED if row is None else int(row[0])


def lock_positions(conn: Connection, schema: str) -> dict[str, int]:
    """Return all positions of a schema, locked. Holders of a single lock wait for no other, so there is no deadlock."""
    query = SQL("SELECT projection, position FROM {} ORDER BY projection FOR UPDATE")
    return dict(conn.execute(query.format(Identifier(schema, "progress"))).fetchall())


def advance_checkpoint(conn: Connection, schema: str, projection: str, position: int) -> None:
    query = SQL(
        "UPDATE {} SET position = %s, updated_at = now(), stopped_at = NULL, reason = NULL WHERE projection = %s"
    )
    conn.execute(query.format(Identifier(schema, "progress")), (position, projection))


def stop_checkpoint(conn: Connection, schema: str, projection: str, at: int, reason: str) -> None:
    query = SQL(
        "UPDATE {} SET updated_at = now(), stopped_at = %s, reason = %s "
        "WHERE projection = %s AND (stopped_at, reason) IS DISTINCT FROM (%s, %s)"
    )
    conn.execute(query.format(Identifier(schema, "progress")), (at, reason, projection, at, reason))


class VerificationRecord(NamedTuple):
    """The latest comparison of the present tables with the log: time, position and number of differing rows."""

    at: datetime
    position: int
    differing: int


def record_verification(conn: Connection, position: int, differing: int) -> None:
    query = SQL("INSERT INTO {} (position, differing) VALUES (%s, %s)")
    conn.execute(query.format(Identifier(CURRENT_SCHEMA, "verified")), (position, differing))


def last_verification(conn: Connection, schema: str) -> VerificationRecord | None:
    query = SQL("SELECT at, position, differing FROM {} ORDER BY at DESC LIMIT 1")
    row = conn.execute(query.format(Identifier(schema, "verified"))).fetchone()
    return None if row is None else VerificationRecord(*row)


# --- Schemas ------------------------------------------------------------------------------------------------------


def _lock_schemas(conn: Connection) -> None:
    """Take the lock for creating, publishing and switching schemas, until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('quantagent read models', 0))")


def _point_views_to(conn: Connection, schema: str) -> None:
    _retire(conn, VIEWS_SCHEMA)
    conn.execute(_views(schema).encode())


def _retire(conn: Connection, schema: str) -> None:
    """Rename a schema, if it exists, so that it is out of use and can be dropped later."""
    if conn.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() != (None,):
        (transaction,) = conn.execute("SELECT pg_current_xact_id()::text").fetchone() or ("",)
        aside = Identifier(f"{schema}_before_{transaction}")
        conn.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(schema), aside))


def _exists(conn: Connection, relation: str) -> bool:
    return conn.execute("SELECT to_regclass(%s)", (relation,)).fetchone() != (None,)


def _tables(schema: str) -> str:
    """Return the statements that create a version's tables, with every projection at the beginning of the log."""
    statements = [f"CREATE SCHEMA {schema};"]
    for table in TABLES:
        columns = ", ".join(f"{column.name} {column.kind}" for column in table.columns)
        statements.append(f"CREATE TABLE {schema}.{table.name} ({columns}, PRIMARY KEY ({', '.join(table.key)}));")
    projections = dict.fromkeys(table.projection for table in TABLES)
    statements += [
        f"CREATE INDEX ON {schema}.orders (symbol, placed_at);",
        f"CREATE INDEX ON {schema}.trades (symbol, entry_at);",
        f"CREATE INDEX ON {schema}.signals (analysis_id);",
        f"CREATE INDEX ON {schema}.analyses (symbol, at);",
        f"CREATE INDEX ON {schema}.model_calls (variant);",
        f"CREATE INDEX ON {schema}.decisions (analysis_id);",
        f"CREATE TABLE {schema}.progress (projection text PRIMARY KEY, position bigint NOT NULL DEFAULT 0, "
        "updated_at timestamptz NOT NULL DEFAULT now(), stopped_at bigint, reason text);",
        f"CREATE TABLE {schema}.set_aside (projection text, run_id text, position bigint NOT NULL, "
        "reason text NOT NULL, tried_with text, PRIMARY KEY (projection, run_id));",
        f"CREATE TABLE {schema}.verified (at timestamptz NOT NULL DEFAULT clock_timestamp(), "
        "position bigint NOT NULL, differing bigint NOT NULL);",
        *(f"INSERT INTO {schema}.progress (projection) VALUES ('{name}');" for name in projections),
        grants(schema),
    ]
    return "\n".join(statements)


def _views(schema: str) -> str:
    """Return the statements that create the views and the record of their version."""
    statements = [f"CREATE SCHEMA {VIEWS_SCHEMA};"]
    for table in TABLES:
        columns = ", ".join(table.names)
        statements.append(f"CREATE VIEW {VIEWS_SCHEMA}.{table.name} AS SELECT {columns} FROM {schema}.{table.name};")
    statements += [
        f"CREATE VIEW {VIEWS_SCHEMA}.set_aside AS SELECT projection, run_id, position, reason FROM {schema}.set_aside;",
        f"CREATE VIEW {VIEWS_SCHEMA}.event_log AS SELECT l.*, r.environment, r.run_id FROM quantagent.event_log l "
        f"LEFT JOIN {schema}.runs r ON r.run_id = l.metadata ->> 'correlation';",
        f"CREATE TABLE {VIEWS_SCHEMA}.published AS SELECT {VERSION} AS version;",
        grants(VIEWS_SCHEMA),
    ]
    return "\n".join(statements)


def grants(schema: str) -> str:
    """Return the statement that grants readers and auditors access to a schema, if the roles exist."""
    return (
        "DO $$ DECLARE role text; BEGIN FOR role IN SELECT rolname FROM pg_roles "
        "WHERE rolname IN ('quantagent_reader', 'quantagent_auditor') LOOP "
        f"EXECUTE format('GRANT USAGE ON SCHEMA {schema} TO %I', role); "
        f"EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO %I', role); "
        "END LOOP; END $$;"
    )
