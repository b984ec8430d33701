"""Upgrade to another major version of PostgreSQL: dump, restore, compare, and only then switch.

The old data folder is not changed; the new one gets its final name when it is complete.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine.core.errors import StoreUnavailable
from engine.store.embedded.binaries import find_old_binaries, reachable
from engine.store.embedded.files import Cluster, make_folder, mutex, try_lock, wait_lock
from engine.store.embedded.server import SUPERUSER, Server, ServerState
from engine.store.embedded.watchdog import ensure_watchdog

_RECORD_DATABASE = """
do $$
begin
    if to_regclass('quantagent.log_databases') is not null then
        insert into quantagent.log_databases (log_id, database)
        select log_id, quantagent.this_database() from quantagent.log_databases order by n desc limit 1;
    end if;
end
$$
"""


@dataclass(frozen=True)
class MajorUpgrade:
    """Result of an upgrade. kept: the old data folder, which is no longer used."""

    old_major: int
    new_major: int
    tables: int
    rows: int
    kept: Path


def upgrade_major(new: Server, environ: Mapping[str, str], on_progress: Callable[[str], None]) -> MajorUpgrade | None:
    """Copy the newest older data folder of a home to the server's version; return None if there is none.

    Raise `StoreUnavailable` if the programs of the old version are missing, the old database is in use, or the copy
    differs. Can be repeated after any failure, since nothing was switched.
    """
    majors = new.cluster.home.majors()
    if not majors or majors[-1] >= new.binaries.major:
        return None
    old = _old_server(new, majors[-1], environ)
    make_folder(new.cluster.sup)
    with mutex(new.cluster):
        if new.cluster.exists():  # another upgrade was faster
            return None
        draft = replace(new, cluster=Cluster(new.cluster.folder.with_suffix(".upgrade"), new.binaries.major))
        _discard(draft)
        on_progress(f"Copying the database of PostgreSQL {majors[-1]} to {new.binaries.major}.")
        with _running(old), _running(draft):
            _copy(old, draft)
            counts = _check_row_counts(old, draft)
            # The log moves to the new database, which must not count as a copy.
            draft.query(_RECORD_DATABASE)
        draft.cluster.data.rename(new.cluster.data)
        _discard(draft)
    marker = old.cluster.folder / f"upgraded-to-{new.binaries.major}"
    marker.write_text("".join(f"{rows} {table}\n" for table, rows in counts.items()))
    return MajorUpgrade(majors[-1], new.binaries.major, len(counts), sum(counts.values()), old.cluster.data)


def _old_server(new: Server, major: int, environ: Mapping[str, str]) -> Server:
    binaries = find_old_binaries(environ, major)
    cluster = new.cluster.home.cluster(major)
    if binaries is None:
        raise StoreUnavailable(
            f"the database in {cluster.data} was written by PostgreSQL {major}, whose programs are needed once to read "
            "it and were not found; nothing was changed.",
            "OLD_PROGRAMS_MISSING",
            major=major,
        )
    return replace(new, cluster=cluster, binaries=reachable(binaries, new.user))


@contextmanager
def _running(server: Server) -> Generator[None]:
    """Run the server inside the context, for this process alone; the watchdog stops it if this process dies."""
    make_folder(server.cluster.sup)
    with mutex(server.cluster) as held:
        users = try_lock(server.cluster.users)
        if users is None:
            raise StoreUnavailable(f"the database in {server.cluster.data} is in use: end its users, then retry.")
        fcntl.flock(users, fcntl.LOCK_SH)  # from the exclusive lock to that of a user, which the watchdog waits for
        try:
            server.cluster.keep.unlink(missing_ok=True)
            ensure_watchdog(server, linger_s=0)
            if not server.cluster.exists():
                server.initialise(inherited_fds=[held])
            if server.wait_until_stable() is ServerState.DOWN:
                server.launch()
            yield
        finally:
            server.stop()
            os.close(users)


def _copy(old: Server, new: Server) -> None:
    """Copy the roles and the database, with the tools of the new version, as the PostgreSQL manual requires."""
    folder = new.cluster.folder / "dump"
    folder.mkdir(mode=0o700)
    if new.user:
        new.user.own(folder)
    roles, database = folder / "roles.sql", folder / "database"
    new.run_tool("pg_dumpall", "-w", "--roles-only", "-f", str(roles), "-d", old.dsn())
    text = roles.read_text().replace(f"CREATE ROLE {SUPERUSER};\n", "")  # exists since initdb
    roles.write_text(text)
    new.run_tool("psql", "-Xqw", "-v", "ON_ERROR_STOP=1", "-f", str(roles), new.dsn("postgres"))
    new.ensure_database()
    new.run_tool("pg_dump", "-w", "-Fc", "-f", str(database), "-d", old.dsn())
    new.run_tool("pg_restore", "-w", "--exit-on-error", "-d", new.dsn(), str(database))


def _check_row_counts(old: Server, new: Server) -> dict[str, int]:
    before, after = _row_counts(old), _row_counts(new)
    if before != after:
        table = min(t for t in before.keys() | after.keys() if before.get(t) != after.get(t))
        raise StoreUnavailable(
            f"the copied table {table} has {after.get(table)} rows, the old one {before.get(table)}: "
            f"the database stays in {old.cluster.data}; report this with both logs."
        )
    return after


def _row_counts(server: Server) -> dict[str, int]:
    tables = server.query(
        "select format('%I.%I', schemaname, tablename) from pg_tables "
        "where schemaname not in ('pg_catalog', 'information_schema') order by 1"
    )
    return {table: int(server.query(f"select count(*) from {table}")[0]) for table in tables}  # noqa: S608 - quoted by %I


def _discard(draft: Server) -> None:
    """Remove a draft cluster with all its files, after the end of its last process."""
    if not draft.cluster.sup.exists():
        return
    with mutex(draft.cluster):
        draft.stop()
    os.close(wait_lock(draft.cluster.watch_lock))
    shutil.rmtree(draft.cluster.folder)
