"""`quantagent doctor`: checks of the installation, the database and the log."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ui.cli.output import AsJson, print_json, print_rows, report_errors

if TYPE_CHECKING:
    from engine.store.roles import MissingSetup
    from ui.app import App


def doctor(as_json: AsJson = False) -> None:
    """Check the requirements of quantagent; exit code 3 if any is not met."""
    from ui.app import open_app

    with report_errors():
        checks = [_python()]
        with open_app() as opened:
            checks += [_check(name, check) for name, check in _checks(opened)]
        healthy = all(check["ok"] for check in checks)
        if as_json:
            print_json(healthy=healthy, checks=checks)
        else:
            print_rows("Doctor", checks, ["check", "ok", "says"])
        if not healthy:
            raise typer.Exit(3)


def _python() -> dict[str, Any]:
    version = ".".join(map(str, sys.version_info[:3]))
    return {"check": "python", "ok": sys.version_info >= (3, 11), "says": version}


def _check(name: str, check: Callable[[], tuple[bool, str]]) -> dict[str, Any]:
    ok, text = check()
    return {"check": name, "ok": ok, "says": text}


def _setup_remedy(missing: MissingSetup | None) -> str:
    """The steps that an administrator must do before the database roles can be used; empty if there are none."""
    if missing is None:
        return ""
    if missing.has_roles:
        return f"the roles are made, but not given to this user: have an administrator run `{missing.grant}` once"
    return (
        "the roles are not set up and this user may not do it: have an administrator run `quantagent db upgrade` once, "
        f"then `{missing.grant}`"
    )


def _checks(opened: App) -> list[tuple[str, Callable[[], tuple[bool, str]]]]:
    import psycopg

    from engine import clock
    from engine.store.guards import schema_differences
    from engine.store.roles import missing_setup
    from ui.cli.remedies import sentence

    def database() -> tuple[bool, str]:
        with psycopg.connect(opened.dsn) as conn:
            version = conn.info.server_version // 10_000
            fsync = conn.execute("SHOW fsync").fetchone()
            where = "QUANTAGENT_DSN" if opened.settings.dsn else "embedded"
            return version >= 15 and fsync == ("on",), f"PostgreSQL {version}, {where}, fsync {(fsync or ('?',))[0]}"

    def skew() -> tuple[bool, str]:
        with psycopg.connect(opened.dsn, autocommit=True) as conn:
            row = conn.execute("SELECT clock_timestamp()").fetchone()
        seconds = abs((clock.now() - row[0]).total_seconds()) if row else 0.0
        return seconds < 1.0, f"{seconds:.3f} s from the database's clock"

    def database_role() -> tuple[bool, str]:
        with psycopg.connect(opened.dsn, autocommit=True) as conn:
            row = conn.execute("SELECT current_user, has_table_privilege('quantagent.events', 'UPDATE')").fetchone()
            user, may_change = row or ("nobody", True)
            missing = missing_setup(conn) if may_change else None
        if not may_change:
            return True, f"working as {user}"
        return True, f"working as {user}, who owns the events; {_setup_remedy(missing)}"

    def log() -> tuple[bool, str]:
        return True, f"{opened.store.last_position():,} is the latest position"

    def anchored() -> tuple[bool, str]:
        status = opened.anchor_status()
        if status.defect is not None:
            return False, sentence(status.error())
        if not status.anchors:
            return True, "not yet: `quantagent audit anchor` signs the head of the log"
        return True, f"to position {status.anchors[-1].position:,} in {status.file}"

    def guards() -> tuple[bool, str]:
        with psycopg.connect(opened.access.auditor, autocommit=True) as conn:
            changes = schema_differences(conn)
        if changes:
            return False, f"changed: {changes}; `quantagent db upgrade` restores them"
        return True, "triggers, functions, owners and rights are those of this version"

    def read_models() -> tuple[bool, str]:
        status = opened.runner().status()
        text = f"version {status.version}, {status.lag:,} events behind"
        stopped = [f"{each.projection} is stopped at event {each.stopped_at:,}" for each in status.stopped]
        runs = len({each.run_id for each in status.set_aside})
        wrong = stopped + ([f"{runs:,} {'run is' if runs == 1 else 'runs are'} set aside"] if runs else [])
        if (check := status.verified) and check.differing:
            wrong.append(f"{check.differing:,} rows differed from the log at event {check.position:,}")
        elif check:
            text += f", verified at event {check.position:,}"
        if wrong:
            text = f"{', '.join([text, *wrong])}: see `quantagent projections status`"
        return not wrong, text

    def bars() -> tuple[bool, str]:
        series = opened.catalogue.list_series()
        text = ", ".join(f"{h.symbol} {h.timeframe} {h.count:,}" for h in series[:6])
        return True, text or "none yet: `quantagent data sample`"

    def disk() -> tuple[bool, str]:
        free = shutil.disk_usage(opened.settings.home if opened.settings.home else Path.home()).free / 2**30
        return free > 1.0, f"{free:.1f} GiB free"

    return [
        ("database", database),
        ("clock", skew),
        ("roles", database_role),
        ("log", log),
        ("anchored", anchored),
        ("guards", guards),
        ("read models", read_models),
        ("bars", bars),
        ("disk", disk),
    ]
