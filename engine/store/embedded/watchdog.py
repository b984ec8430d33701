"""Watchdog: a separate process that stops the server after its last user, even if that user was killed.

It outlives the command and the terminal that started it. It does not poll: it blocks until it holds the users' lock
exclusively. Lock order everywhere: first the mutex, then the users.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from engine.store.embedded.binaries import Binaries
from engine.store.embedded.files import Cluster, mutex, try_lock, wait_lock
from engine.store.embedded.server import Server
from engine.store.embedded.user import ServiceUser

SOURCES = Path(__file__).parents[3]


def ensure_watchdog(server: Server, linger_s: float) -> None:
    """Start the watchdog unless one runs. Callers hold the mutex and are users, so that it does not end at once.

    The new process inherits its lock, so that no second one can be started in the meantime.
    """
    lock = try_lock(server.cluster.watch_lock)
    if lock is None:
        return
    try:
        with server.cluster.watch_log.open("ab") as log:
            subprocess.run(
                _command(server, linger_s, lock),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=os.environ | {"PYTHONPATH": _python_path()},
                pass_fds=[lock],
                start_new_session=True,
                check=True,
            )
    finally:
        os.close(lock)


def watch(server: Server, linger_s: float, lock: int) -> None:
    """Wait for the end of the last user, then `linger_s`; stop the server if it has no user and need not be kept."""
    while True:
        os.close(wait_lock(server.cluster.users))
        time.sleep(linger_s)
        with mutex(server.cluster, math.inf):
            alone = try_lock(server.cluster.users)
            if alone is None:
                continue
            try:
                if not server.cluster.keep.exists():
                    server.stop()
            finally:
                os.close(alone)
                os.close(lock)  # before the mutex: its next holder must find no watchdog and start one
            return


def main() -> None:
    """Run the watchdog in a forked process, so that its starter waits only briefly and keeps no zombie."""
    options = argparse.ArgumentParser(prog="quantagent database watchdog")
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--bin", type=Path, required=True)
    options.add_argument("--version", required=True)
    options.add_argument("--user", default="")
    options.add_argument("--linger-s", type=float, required=True)
    options.add_argument("--lock", type=int, required=True)
    given = options.parse_args()
    if os.fork():
        os._exit(0)
    fcntl.fcntl(given.lock, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    binaries = Binaries(given.bin, given.version)
    cluster = Cluster(given.folder, binaries.major)
    server = Server(cluster, binaries, ServiceUser.named(given.user) if given.user else None)
    # Deleting the folder deletes the locks; PostgreSQL checks its pid file every minute, and ends without it.
    with suppress(FileNotFoundError):
        watch(server, given.linger_s, given.lock)


def _command(server: Server, linger_s: float, lock: int) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "engine.store.embedded.watchdog"),
        *("--folder", str(server.cluster.folder)),
        *("--bin", str(server.binaries.folder), "--version", server.binaries.version),
        *("--user", server.user.name if server.user else ""),
        *("--linger-s", str(linger_s), "--lock", str(lock)),
    ]


def _python_path() -> str:
    """Return PYTHONPATH with the folder of these sources first."""
    return os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))


if __name__ == "__main__":
    main()
