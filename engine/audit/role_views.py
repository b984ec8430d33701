"""Checks that all roles read the same log.

A view in place of a table, or row security on it, can show an auditor other rows than the other roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, LiteralString

import psycopg

from engine.audit.chain import AuditFinding
from engine.store.guards import schema_differences

# Covers all rows and columns. The seed is drawn for each comparison, so that forged rows cannot be prepared for it.
_FINGERPRINT: LiteralString = """
SELECT (SELECT (count(*), bit_xor(hash_record_extended(e, %(seed)s)))::text FROM quantagent.events e)
    || (SELECT (count(*), bit_xor(hash_record_extended(s, %(seed)s)))::text FROM quantagent.seals s)
    || (SELECT (count(*), bit_xor(hash_record_extended(i, %(seed)s)))::text FROM quantagent.log_identity i)
"""
_SEED: LiteralString = "SELECT (random() * 9e18)::bigint"


def guard_findings(conn: psycopg.Connection[Any]) -> Iterator[AuditFinding]:
    """Yield a finding if triggers, functions, owners, rights, row security or kinds differ from the migrations."""
    found = schema_differences(conn)
    if found:
        yield AuditFinding(0, f"the objects that guard the log in the database were changed: {found}")


def role_findings(conn: psycopg.Connection[Any], others: Mapping[str, str]) -> Iterator[AuditFinding]:
    """Yield a finding for each role that reads another log than the auditor.

    conn: the auditor's, in a transaction that sees one state of the log; others: connection string by role.
    """
    (seed,) = conn.execute(_SEED).fetchone() or (0,)
    (snapshot,) = conn.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
    ours = conn.execute(_FINGERPRINT, {"seed": seed}).fetchone()
    for role, dsn in others.items():
        with psycopg.connect(dsn) as other:
            other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            other.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
            other.execute("SET LOCAL statement_timeout = 0")
            theirs = other.execute(_FINGERPRINT, {"seed": seed}).fetchone()
        if theirs != ours:
            yield AuditFinding(0, f"the {role} reads another log in this database than the auditor does")
