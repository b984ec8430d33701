"""`quantagent dashboard`: the Streamlit page on the loopback interface."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from engine.core.errors import QuantagentError
from ui.cli.output import AsJson, err, open_queries, print_json, report_errors

LOOPBACK = "127.0.0.1"


DASHBOARD = Path(__file__).parent.parent / "dashboard/entry.py"


class PageUnavailable(QuantagentError):
    """The page cannot be served, or its server has ended."""


def dashboard(
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; keep the loopback unless a proxy protects the page.")
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

        # A child process, not exec: this process keeps the embedded database in use while the page is served.
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
            raise PageUnavailable(f"the page's server ended with code {code}: its messages above show the reason.")


def _check_free(address: str, port: int) -> None:
    """Raise `PageUnavailable` if the port cannot be used; the server would report it late and at length."""
    import socket

    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in found[:1]:
            with socket.socket(family, kind, protocol) as probe:
                # A port that was in use a moment ago can be used again.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        raise PageUnavailable(f"port {port} of {address} {reason}: name another with --port or --address.") from None
