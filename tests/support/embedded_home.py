"""Homes for embedded servers in tests, and processes that use them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from engine.store.embedded.files import SYSTEM_STATE, wait_lock
from engine.store.embedded.postgres import EmbeddedPostgres
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

SOURCES = ROOT
LINGER_S = 0.2

USER_PROCESS = """
import sys
from pathlib import Path
from engine.store.embedded.postgres import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]), linger_s=float(sys.argv[2]), fsync=False)
print(postgres.start(), flush=True)
sys.stdin.read()
"""


def embedded(home: Path, linger_s: float = LINGER_S, messages: list[str] | None = None) -> EmbeddedPostgres:
    """A server for a test: it forgets quickly, and need not survive a power cut."""
    received: list[str] = [] if messages is None else messages
    return EmbeddedPostgres(home, linger_s=linger_s, fsync=False, progress=received.append)


@contextmanager
def new_home(name: str = "") -> Generator[Path]:
    """A folder with a short path that every user can reach, as pytest's own are not; nothing is left running in it."""
    base = Path(tempfile.mkdtemp(prefix="qa", dir="/tmp"))
    base.chmod(0o755)
    home = base / name
    try:
        yield home
    finally:
        _clean_up(home)
        shutil.rmtree(base)


@contextmanager
def started_process(home: Path) -> Generator[subprocess.Popen[str]]:
    """Another process that is about to use the server; killed on exit."""
    command = [sys.executable, "-P", "-c", USER_PROCESS, str(home), str(LINGER_S)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def dsn_of(process: subprocess.Popen[str]) -> str:
    """The DSN that the process got; waits for it."""
    assert process.stdout is not None
    dsn = process.stdout.readline().strip()
    assert dsn, "the process ended without a server"
    return dsn


@contextmanager
def user_process(home: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Another process that uses the server, and the DSN it got."""
    with started_process(home) as process:
        yield process, dsn_of(process)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("QUANTAGENT_")}
    return kept | {"PYTHONPATH": str(SOURCES)} | more


def wait_until_stopped(home: Path) -> None:
    wait_until(lambda: not embedded(home).status().running, "the server does not stop")


def watchdogs(home: Path) -> list[psutil.Process]:
    """The watchdogs of a home, found by their arguments."""
    folder = str(embedded(home).status().data.parent)
    return [p for p in psutil.process_iter() if {"engine.store.embedded.watchdog", folder} <= set(_arguments(p))]


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _clean_up(home: Path) -> None:
    """Stops the server by force, waits for its watchdog, and removes what lies outside the home."""
    cluster = embedded(home).server().cluster
    if cluster.exists():
        status = embedded(home).status()
        embedded(home).stop(force=True)
        if status.socket and not status.socket.is_relative_to(cluster.folder):
            shutil.rmtree(status.socket, ignore_errors=True)
    if cluster.sup.exists():
        os.close(wait_lock(cluster.watch_lock))
    if cluster.folder.is_relative_to(SYSTEM_STATE / "homes"):
        shutil.rmtree(cluster.home.root, ignore_errors=True)
