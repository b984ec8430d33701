"""Commands as processes of their own, without the half second that each would spend on imports.

`ended` runs a command as `subprocess.run` does, with an environment, files and an exit code of its own; but the
process is forked from one that has imported the project and done nothing else. Where that could make a difference,
as in another environment than names of the project's own, a home with a server to start, a system other than Linux,
or under the coverage tool, the console script itself is started.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

from tests.support.waiting import WAIT_TIMEOUT_S

QUANTAGENT = Path(sys.executable).with_name("quantagent")
# What commands import when they begin to work; none of it starts anything when it is imported.
PRELOADED = (
    *("ui.cli.commands", "ui.cli.audit", "ui.cli.demo", "ui.app", "ui.daemon.paper", "analysis.graph.agents"),
    *("engine.audit.reproduce", "engine.audit.bundle", "engine.audit.narration", "engine.data.validation", "numpy"),
)
# Names that mean nothing to Python and its libraries while they are loaded.
IGNORED_PREFIXES = ("QUANTAGENT_", "PYTEST_", "HOME", "PATH", "COLUMNS", "MODEL_SERVER", "OPENAI_API_KEY", "MPLBACKEND")
# Libraries add names of their own when they are imported: what is compared is what is there from then on.
for _name in ("polars", "analysis.graph"):
    importlib.import_module(_name)
INITIAL_ENVIRONMENT = dict(os.environ)


def run_command(
    arguments: Sequence[str], env: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command that has run to its end, with what it said; its input is empty."""
    if not may_fork(env):
        return subprocess.run(
            [str(QUANTAGENT), *arguments],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_TIMEOUT_S,
            check=False,
        )
    with TemporaryFile() as out, TemporaryFile() as err:
        code = _run_forked(arguments, env, folder or Path.cwd(), out.fileno(), err.fileno())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read().decode(), err.read().decode())


def may_fork(env: Mapping[str, str]) -> bool:
    """Whether the command cannot tell the difference."""
    if sys.platform != "linux" or "QUANTAGENT_DSN" not in env or any(name.startswith("COVERAGE") for name in env):
        return False
    return all(name.startswith(IGNORED_PREFIXES) for name, _ in env.items() ^ INITIAL_ENVIRONMENT.items())


def _run_forked(arguments: Sequence[str], env: Mapping[str, str], folder: Path, out: int, err: int) -> int:
    request = json.dumps({"arguments": [str(QUANTAGENT), *arguments], "env": dict(env), "folder": str(folder)})
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket.send_fds(_parent(), [b"."], [theirs.fileno(), out, err])
        ours.settimeout(WAIT_TIMEOUT_S)
        ours.sendall(request.encode())
        ours.shutdown(socket.SHUT_WR)
        return int(ours.recv(16))


@cache
def _parent() -> socket.socket:
    """The way to this process's own parent of commands, which ends when the way is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        # The parent forks itself away from its caller, who so has no child to wait for.
        command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({theirs.fileno()})"]
        subprocess.run(command, pass_fds=[theirs.fileno()], env=INITIAL_ENVIRONMENT, check=True)
    return ours


# --- In the parent of the commands --------------------------------------------------------------------------------


def serve(request_fd: int) -> None:
    """Imports the project, leaves its caller, and forks a keeper for each command; ends when nobody can ask more."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()
    if os.fork():
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=request_fd) as requests:
        while descriptors := socket.recv_fds(requests, 1, 3)[1]:
            if not os.fork():
                requests.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                supervise(*descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def supervise(result_fd: int, out: int, err: int) -> NoReturn:
    """Forks the command and tells its exit code as `subprocess` would."""
    with socket.socket(fileno=result_fd) as conn:
        request = json.loads(b"".join(iter(lambda: conn.recv(1 << 16), b"")))
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            conn.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["arguments"]
    from ui.cli import main

    sys.exit(main())
