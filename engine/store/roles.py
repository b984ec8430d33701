"""Database roles with least privilege: owner, writer, reader and auditor.

The owner creates tables and does no other work. The writer appends and projects, the reader serves the screens, the
auditor reads everything without a time limit. None of these three can change or remove an event or a seal.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

WRITER, READER, AUDITOR = "quantagent_writer", "quantagent_reader", "quantagent_auditor"
ROLES = (WRITER, READER, AUDITOR)

# Limit for a query of a screen; the auditor has none.
READER_TIMEOUT = "5s"

_GRANTS: LiteralString = """
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA quantagent FROM PUBLIC;
GRANT USAGE ON SCHEMA quantagent TO quantagent_writer, quantagent_reader, quantagent_auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA quantagent TO quantagent_writer, quantagent_reader, quantagent_auditor;
GRANT INSERT ON quantagent.events, quantagent.seals TO quantagent_writer;
GRANT EXECUTE ON FUNCTION quantagent.begin_append TO quantagent_writer;
GRANT EXECUTE ON FUNCTION quantagent.this_database TO quantagent_writer, quantagent_reader, quantagent_auditor;
GRANT INSERT ON quantagent.bars, quantagent.bar_imports, quantagent.refused_bars, quantagent.asked_bars,
    quantagent.imported_signals TO quantagent_writer;
GRANT INSERT ON quantagent.paper_accounts, quantagent.paper_orders, quantagent.paper_executions,
    quantagent.paper_endings, quantagent.paper_cash, quantagent.paper_slots TO quantagent_writer;
GRANT INSERT ON quantagent.llm_calls, quantagent.llm_bodies TO quantagent_writer;
GRANT INSERT, UPDATE ON quantagent.instruments, quantagent.daemons TO quantagent_writer;
"""

_IS_SET_UP = """
SELECT count(*) = 3 AND bool_and(has_table_privilege(rolname, 'quantagent.seals', 'SELECT'))
    AND bool_or(rolname = 'quantagent_writer' AND has_database_privilege(rolname, current_database(), 'CREATE')
        AND has_table_privilege(rolname, 'quantagent.seals', 'INSERT')
        AND has_table_privilege(rolname, 'quantagent.paper_slots', 'INSERT')
        AND has_table_privilege(rolname, 'quantagent.asked_bars', 'INSERT')
        AND has_table_privilege(rolname, 'quantagent.llm_calls', 'INSERT'))
    AND bool_and(rolcanlogin OR NOT %s)
FROM pg_roles WHERE rolname = ANY(%s)
"""

# Before version 16, being a member of a role was enough to become it.
_MAY_BECOME = """
SELECT count(*) = 3 AND bool_and(pg_has_role(rolname, CASE WHEN %s THEN 'SET' ELSE 'MEMBER' END))
FROM pg_roles WHERE rolname = ANY(%s)
"""


_READ_MODELS_OF_OTHERS = """
SELECT nspname FROM pg_namespace WHERE nspname ~ '^read_models' AND NOT pg_has_role(%s, nspowner, 'USAGE')
"""


class Access(NamedTuple):
    """Connection strings by role. All four are the same where the roles could not be set up."""

    owner: str
    writer: str
    reader: str
    auditor: str

    def __repr__(self) -> str:
        # A DSN may hold a password.
        return "Access(...)"


def set_up_roles(conn: psycopg.Connection[Any], *, logins: bool, force: bool = False) -> bool:
    """Create the roles and grant their rights; return False if the user lacks the rights to do so.

    force: grant again although the roles are set up, because there are new tables.
    """
    if not force and _are_set_up(conn, logins):
        _grant_membership(conn, logins)
        return True
    try:
        for role in ROLES:
            _create_role(conn, role, logins)
        with conn.transaction():
            conn.execute(_GRANTS)
            # The writer creates and drops the schemas of read models, using temporary tables.
            database, writer = Identifier(conn.info.dbname), Identifier(WRITER)
            conn.execute(SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
            conn.execute(SQL("GRANT CREATE, TEMPORARY ON DATABASE {} TO {}").format(database, writer))
            if _is_superuser(conn):
                # By default, every user may create large objects.
                conn.execute("REVOKE EXECUTE ON FUNCTION lo_creat, lo_create, lo_from_bytea FROM PUBLIC")
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
        return False
    _grant_membership(conn, logins)
    # Grants by a user who does not own the database have no effect and only cause a warning.
    return _are_set_up(conn, logins)


def _are_set_up(conn: psycopg.Connection[Any], logins: bool) -> bool:
    return conn.execute(_IS_SET_UP, (logins, list(ROLES))).fetchone() == (True,)


def drop_read_models_of_others(dsn: str) -> None:
    """Drop read models that the writer does not own, if the user has the right; the writer creates them again."""
    with psycopg.connect(dsn, autocommit=True) as conn, suppress(psycopg.errors.InsufficientPrivilege):
        for (schema,) in conn.execute(_READ_MODELS_OF_OTHERS, (WRITER,)).fetchall():
            conn.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))


def access(dsn: str, *, logins: bool) -> Access:
    """Return the connection string of each role: its own login, or the user's login followed by `SET ROLE`."""
    if logins:
        return Access(dsn, *(make_conninfo(dsn, user=role, options=_options(dsn, role)) for role in ROLES))
    with psycopg.connect(dsn, autocommit=True) as conn:
        if not _may_become(conn) or not _are_set_up(conn, logins=False):
            return Access(dsn, dsn, dsn, dsn)
    return Access(dsn, *(make_conninfo(dsn, options=f"{_options(dsn, role)} -c role={role}".strip()) for role in ROLES))


class MissingSetup(NamedTuple):
    """Steps left to an administrator. has_roles: the roles are set up; grant: SQL that makes the user a member."""

    has_roles: bool
    grant: str


def missing_setup(conn: psycopg.Connection[Any]) -> MissingSetup | None:
    """Return the steps that an administrator must do before this user can use the roles; None if there are none."""
    has_roles = _are_set_up(conn, logins=False)
    if has_roles and _may_become(conn):
        return None
    return MissingSetup(has_roles, f"GRANT {', '.join(ROLES)} TO {Identifier(conn.info.user).as_string(conn)}")


def _may_become(conn: psycopg.Connection[Any]) -> bool:
    is_new = conn.info.server_version >= 160_000
    return conn.execute(_MAY_BECOME, (is_new, list(ROLES))).fetchone() == (True,)


def _grant_membership(conn: psycopg.Connection[Any], logins: bool) -> None:
    """Make the user a member of the roles, if needed and possible: creating a role does not include membership."""
    if logins or _may_become(conn):
        return
    row = conn.execute("SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user").fetchone()
    if row == (True,):
        with suppress(psycopg.errors.InsufficientPrivilege):
            conn.execute(SQL("GRANT {} TO CURRENT_USER").format(SQL(", ").join(map(Identifier, ROLES))))


def _options(dsn: str, role: str) -> str:
    ours = {
        WRITER: "",
        READER: f"-c default_transaction_read_only=on -c statement_timeout={READER_TIMEOUT}",
        AUDITOR: "-c default_transaction_read_only=on",
    }
    return f"{conninfo_to_dict(dsn).get('options') or ''} {ours[role]}".strip()


def _create_role(conn: psycopg.Connection[Any], role: str, logins: bool) -> None:
    """Create a role, unless another database of the server has created it; roles belong to the whole server."""
    name, login = Identifier(role), SQL("LOGIN" if logins else "NOLOGIN")
    if conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is not None:
        if logins:
            conn.execute(SQL("ALTER ROLE {} LOGIN").format(name))
        return
    with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        conn.execute(SQL("CREATE ROLE {} {}").format(name, login))


def _is_superuser(conn: psycopg.Connection[Any]) -> bool:
    return conn.info.parameter_status("is_superuser") == "on"
