"""`demo`, `doctor`, `dashboard`: the whole thing in one go, its health, its page."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.core.errors import QuantagentError
from ui.cli.output import AsJson, err, open_queries, out, print_json, print_rows, report_errors

if TYPE_CHECKING:
    from ui.app import App

LOOPBACK = "127.0.0.1"
DASHBOARD = Path(__file__).parent.parent / "dashboard/entry.py"


class PageUnavailable(QuantagentError):
    """The page cannot be served, or is no longer."""


def demo(as_json: AsJson = False) -> None:
    """The whole system in small: real bars, analyses, a backtest, its replay, read models, and one trade's why."""
    from ui.app import open_app
    from ui.cli.demo import run_demo

    with report_errors():
        began = time.monotonic()
        err.print("Starting the database ...")
        with open_app() as opened:
            facts = run_demo(opened, quiet=as_json)
        facts["seconds"] = round(time.monotonic() - began, 1)
        if as_json:
            print_json(**facts)
        else:
            err.print(f"Done in {facts['seconds']} s.")
            out.print()
            for sentence in facts["sentences"]:
                out.print(sentence, markup=False)
        if not (facts["replay_equal"] and facts["read_models_same"]):
            raise typer.Exit(3)


def doctor(as_json: AsJson = False) -> None:
    """Check what quantagent needs; exit 3 when something is not as it should be."""
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


def _checks(opened: App) -> list[tuple[str, Callable[[], tuple[bool, str]]]]:
    import psycopg

    from engine import clock
    from engine.store.guards import schema_differences
    from engine.store.roles import missing_setup

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
            remedy = missing_setup(conn) if may_change else ""
        return True, f"working as {user}" + (f", who owns the events; {remedy}" if may_change else "")

    def log() -> tuple[bool, str]:
        return True, f"{opened.store.last_position():,} is the latest position"

    def anchored() -> tuple[bool, str]:
        status = opened.anchor_status()
        if status.defect is not None:
            return False, status.refusal
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


def dashboard(
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; leave it at the loopback unless a proxy guards it.")
    ] = "127.0.0.1",
    as_json: AsJson = False,
) -> None:
    """Serve the page on http://127.0.0.1:8501 until Ctrl-C."""
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        _check_free(address, port)
        with open_queries(opened):
            pass
        if as_json:
            print_json(url=f"http://{address}:{port}")
        else:
            err.print(f"The page is on http://{address}:{port}; Ctrl-C ends it.")
        arguments = [
            *(sys.executable, "-m", "streamlit", "run", str(DASHBOARD)),
            *("--server.address", address, "--server.port", str(port), "--server.headless", "true"),
            *("--browser.gatherUsageStats", "false", "--client.showErrorDetails", "none"),
            *("--client.toolbarMode", "minimal", "--server.fileWatcherType", "none"),
        ]
        import subprocess

        # A child, not exec: this process stays a user of the embedded database for as long as the page is served.
        environment = {**os.environ, "QUANTAGENT_DSN": opened.access.reader}
        child = subprocess.Popen(arguments, env=environment, stdout=sys.stderr)

        signals: list[int] = []

        def stop_page(number: int, frame: FrameType | None) -> None:
            del frame
            signals.append(number)
            child.terminate()

        signal.signal(signal.SIGTERM, stop_page)
        signal.signal(signal.SIGINT, stop_page)
        code = child.wait()
        if not signals:
            raise PageUnavailable(f"the page has ended by itself with code {code}: its messages above say why.")


def _check_free(address: str, port: int) -> None:
    """Raises `PageUnavailable` where nothing can listen: what serves the page would say so too late and at length."""
    import socket

    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in found[:1]:
            with socket.socket(family, kind, protocol) as probe:
                # A port that was in use a moment ago may be used again.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        raise PageUnavailable(f"port {port} of {address} {reason}: name another with --port or --address.") from None
