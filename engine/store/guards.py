"""Database objects that protect the log: functions, triggers, owners and rights.

`objects.txt` lists every object of the schema as the migrations, `guards.sql` and `engine.store.roles` create it, one
per line; `schema_differences` compares a database with it. The list names no owners: an owner is a difference if it
is not the owner of the schema.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg.rows import scalar_row
from psycopg.sql import SQL, Identifier

from engine.core.errors import StoreUnavailable
from engine.store.roles import ROLES

_FILES = files("engine.store")

_TRIGGERS: LiteralString = """
SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'quantagent'::regnamespace AND NOT t.tgisinternal
"""

# Internal triggers belong to foreign keys; the lines of the constraints cover them unless they are disabled. The first
# word of a line is its kind; the second word of a grant is the grantee.
_OBJECTS: LiteralString = r"""
WITH space AS (SELECT oid, nspowner, nspacl FROM pg_namespace WHERE nspname = 'quantagent'),
relations AS (
    SELECT c.* FROM pg_class c, space WHERE c.relnamespace = space.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
),
functions AS (SELECT p.* FROM pg_proc p, space WHERE p.pronamespace = space.oid),
rights AS (
    SELECT 'schema quantagent' AS object, a.grantee, a.privilege_type, a.is_grantable
    FROM space, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a WHERE a.grantee <> nspowner
    UNION ALL
    SELECT relname, a.grantee, a.privilege_type, a.is_grantable
    FROM relations,
        aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner))) a
    WHERE a.grantee <> relowner
    UNION ALL
    SELECT relname || '.' || attname, a.grantee, a.privilege_type, a.is_grantable
    FROM relations JOIN pg_attribute ON attrelid = relations.oid, aclexplode(attacl) a
    UNION ALL
    SELECT proname || '()', a.grantee, a.privilege_type, a.is_grantable
    FROM functions, aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE a.grantee <> proowner
    UNION ALL
    SELECT 'database', a.grantee, a.privilege_type, a.is_grantable
    FROM pg_database d, space, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    WHERE d.datname = current_database() AND a.privilege_type = 'CREATE' AND a.grantee NOT IN (d.datdba, nspowner)
)
SELECT 'relation ' || relname || ' kind ' || relkind::text FROM relations
UNION ALL
SELECT 'row-security ' || relname FROM relations WHERE relrowsecurity OR relforcerowsecurity
UNION ALL
SELECT 'unlogged ' || relname FROM relations WHERE relpersistence <> 'p'
UNION ALL
SELECT 'owner ' || relname || ' ' || relowner::regrole FROM relations, space WHERE relowner <> nspowner
UNION ALL
SELECT 'owner ' || proname || '() ' || proowner::regrole FROM functions, space WHERE proowner <> nspowner
UNION ALL
SELECT 'owner schema quantagent ' || nspowner::regrole FROM space WHERE nspowner::regrole::text = ANY(%(roles)s)
UNION ALL
SELECT 'inherits ' || inhparent::regclass || ' ' || inhrelid::regclass FROM pg_inherits
WHERE inhparent IN (SELECT oid FROM relations) OR inhrelid IN (SELECT oid FROM relations)
UNION ALL
SELECT 'rule ' || relname || ' ' || rulename FROM pg_rewrite JOIN relations ON relations.oid = ev_class
WHERE rulename <> '_RETURN'
UNION ALL
SELECT 'policy ' || relname || ' ' || polname FROM pg_policy JOIN relations ON relations.oid = polrelid
UNION ALL
-- Before version 16 every column is spelled with its table.
SELECT 'view ' || relname
    || regexp_replace(regexp_replace(pg_get_viewdef(oid), '\m(events|bars)\.', '', 'g'), '\s+', ' ', 'g')
FROM relations
WHERE relkind IN ('v', 'm')
UNION ALL
SELECT 'column ' || relname || '.' || attname || ' ' || format_type(atttypid, atttypmod)
    || CASE WHEN attnotnull THEN ' not null' ELSE '' END || CASE WHEN attidentity <> '' THEN ' identity' ELSE '' END
    || CASE WHEN attgenerated <> '' THEN ' generated' ELSE '' END
    || coalesce(' default ' || pg_get_expr(adbin, adrelid), '')
FROM relations JOIN pg_attribute ON attrelid = relations.oid
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'constraint ' || relname || ' ' || conname || ' ' || pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN relations ON relations.oid = conrelid WHERE contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT 'trigger ' || relname || ' ' || tgname || ' ' || CASE WHEN tgisinternal THEN '' ELSE pg_get_triggerdef(t.oid) END
    || CASE tgenabled WHEN 'O' THEN '' ELSE ' enabled ' || tgenabled::text END
FROM pg_trigger t JOIN relations ON relations.oid = tgrelid WHERE NOT tgisinternal OR tgenabled <> 'O'
UNION ALL
SELECT 'function ' || proname || '(' || pg_get_function_arguments(oid) || ') ' || pg_get_function_result(oid)
    || CASE WHEN prosecdef THEN ' security definer' ELSE '' END || ' ' || provolatile::text
    || coalesce(' ' || array_to_string(proconfig, ' '), '') || ' ' || encode(sha256(convert_to(prosrc, 'UTF8')), 'hex')
FROM functions
UNION ALL
SELECT 'grant ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END || ' ' || privilege_type || ' on '
    || object || CASE WHEN is_grantable THEN ' with grant option' ELSE '' END
FROM rights
UNION ALL
SELECT 'setting ' || value || ' of role ' || coalesce(nullif(setrole, 0)::regrole::text, 'any')
FROM pg_db_role_setting, unnest(setconfig) value
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND value LIKE 'session_replication_role=%%'
"""


class SchemaDifferences(NamedTuple):
    """Lines of `objects.txt` that a database lacks, and lines it has in addition; both sorted."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected)

    def __str__(self) -> str:
        lines = [(line, "unexpected") for line in self.unexpected] + [(line, "missing") for line in self.missing]
        described = [f"{how}: {line}" for line, how in sorted(lines, key=lambda each: _rank(each[0]))]
        more = f" and {len(described) - _SHOWN} more" if len(described) > _SHOWN else ""
        return "; ".join(_short(line) for line in described[:_SHOWN]) + more


_SHOWN, _LONGEST = 3, 160
_BY_SEVERITY = (
    "relation",
    "row-security",
    "policy",
    "rule",
    "inherits",
    "setting",
    "trigger",
    "function",
    "owner",
    "grant",
)


def _rank(line: str) -> int:
    """Return the sort key of a line: the most severe change first, such as a table replaced by a view."""
    kind = line.split(" ")[0]
    return _BY_SEVERITY.index(kind) if kind in _BY_SEVERITY else len(_BY_SEVERITY)


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else line[: _LONGEST - 4] + " ..."


def list_objects(conn: psycopg.Connection[Any]) -> list[str]:
    """Return every object of the schema, one line each, sorted."""
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=scalar_row) as curs:
        # With this path, all names except those of pg_catalog include their schema.
        curs.execute("SET LOCAL search_path = pg_catalog")
        lines = curs.execute(_OBJECTS, {"roles": list(ROLES)}).fetchall()
    return sorted(lines)


def schema_differences(conn: psycopg.Connection[Any]) -> SchemaDifferences:
    """Compare the database with `objects.txt`. Missing grants are ignored where the roles could not be created."""
    expected = set(_FILES.joinpath("objects.txt").read_text(encoding="utf-8").splitlines())
    found = set(list_objects(conn))
    if not any(line.startswith(f"grant {role} ") for role in ROLES for line in found):
        expected = {line for line in expected if not line.startswith("grant ")}
    return SchemaDifferences(tuple(sorted(expected - found)), tuple(sorted(found - expected)))


def create_guards(conn: psycopg.Connection[Any]) -> None:
    """Create every trigger and function of `guards.sql` in one transaction, and drop all other triggers."""
    with conn.transaction():
        for table, trigger in conn.execute(_TRIGGERS).fetchall():
            conn.execute(SQL("DROP TRIGGER {} ON quantagent.{}").format(Identifier(trigger), Identifier(table)))
        conn.execute(_FILES.joinpath("guards.sql").read_bytes())


def restore_objects(conn: psycopg.Connection[Any]) -> SchemaDifferences:
    """Revert changes to triggers, functions, views, rules, row security, owners and rights.

    Afterwards the roles have no rights until `engine.store.roles.set_up_roles` grants them again. Return the
    differences found. Raise `StoreUnavailable` for a changed table: its rows must be restored from a backup.
    """
    found = schema_differences(conn)
    lost = sorted(filter(_HOLDS_ROWS, found.missing), key=_rank)
    if lost:
        raise StoreUnavailable(
            f"the database was changed in a way that cannot be reverted (missing: {_short(lost[0])}): keep it as "
            "evidence, and restore the log from a backup."
        )
    if found:
        with conn.transaction():
            for (statement,) in conn.execute(_UNDO).fetchall():
                conn.execute(statement.encode())
            create_guards(conn)
    return found


# Lines of objects that hold rows or restrict them.
_HOLDS_ROWS = re.compile("relation .* kind [rS]$|column |constraint ").match

_UNDO: LiteralString = """
WITH space AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = 'quantagent'),
relations AS (
    SELECT c.*, CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
    FROM pg_class c, space WHERE relnamespace = space.oid AND relkind IN ('r', 'v', 'S')
),
functions AS (SELECT p.* FROM pg_proc p, space WHERE pronamespace = space.oid)
SELECT format('ALTER %s %s OWNER TO %s', kind, relations.oid::regclass, nspowner::regrole) FROM relations, space
WHERE relowner <> nspowner AND relkind <> 'S'
UNION ALL
SELECT format('ALTER FUNCTION %s OWNER TO %s', functions.oid::regprocedure, nspowner::regrole) FROM functions, space
WHERE proowner <> nspowner
UNION ALL
SELECT format('DROP RULE %I ON %s', rulename, ev_class::regclass) FROM pg_rewrite
JOIN relations ON relations.oid = ev_class WHERE rulename <> '_RETURN'
UNION ALL
SELECT format('DROP POLICY %I ON %s', polname, polrelid::regclass) FROM pg_policy
JOIN relations ON relations.oid = polrelid
UNION ALL
SELECT format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', oid::regclass) FROM relations
WHERE relrowsecurity OR relforcerowsecurity
UNION ALL
SELECT format('ALTER TABLE %s SET LOGGED', oid::regclass) FROM relations WHERE relpersistence = 'u'
UNION ALL
SELECT format('ALTER TABLE %s NO INHERIT %s', inhrelid::regclass, inhparent::regclass) FROM pg_inherits
WHERE inhparent IN (SELECT oid FROM relations) OR inhrelid IN (SELECT oid FROM relations)
UNION ALL
SELECT DISTINCT format('ALTER TABLE %s ENABLE TRIGGER ALL', tgrelid::regclass) FROM pg_trigger
JOIN relations ON relations.oid = tgrelid WHERE tgenabled <> 'O'
UNION ALL
SELECT DISTINCT format('REVOKE ALL ON %s %s FROM %s CASCADE', CASE kind WHEN 'VIEW' THEN 'TABLE' ELSE kind END,
    oid::regclass, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM (
    SELECT kind, oid, relowner, relacl AS acl FROM relations
    UNION ALL
    SELECT kind, oid, relowner, attacl FROM relations JOIN pg_attribute ON attrelid = oid
) AS given, aclexplode(acl) WHERE grantee <> relowner
UNION ALL
SELECT format('REVOKE ALL ON FUNCTION %s FROM %s CASCADE', oid::regprocedure,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM functions, aclexplode(proacl) WHERE grantee <> proowner
UNION ALL
SELECT format('REVOKE ALL ON SCHEMA quantagent FROM %s CASCADE',
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'quantagent' AND grantee <> nspowner
UNION ALL
SELECT format('REVOKE CREATE ON DATABASE %I FROM %s', datname,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM pg_database, space, aclexplode(datacl)
WHERE datname = current_database() AND privilege_type = 'CREATE' AND grantee NOT IN (datdba, nspowner)
UNION ALL
SELECT CASE WHEN setrole = 0 THEN format('ALTER DATABASE %I RESET session_replication_role', current_database())
    WHEN setdatabase = 0 THEN format('ALTER ROLE %s RESET session_replication_role', setrole::regrole)
    ELSE format('ALTER ROLE %s IN DATABASE %I RESET session_replication_role', setrole::regrole, current_database()) END
FROM pg_db_role_setting, unnest(setconfig) value
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND value LIKE 'session_replication_role=%'
"""
