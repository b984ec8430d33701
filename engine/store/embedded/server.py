"""A PostgreSQL server on one data folder: its state, creation, start and stop.

Callers hold the cluster's mutex. Every process of the server inherits the descriptor of `server.lock`, so that the
kernel knows if one of them is alive. Pids do not show this: a dead process may remain a zombie, and pids are reused
after a reboot.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote

from engine.core.errors import StoreUnavailable
from engine.store.embedded.binaries import Binaries
from engine.store.embedded.files import Cluster, is_free, wait_lock
from engine.store.embedded.socket import SOCKET_PORT, clear_socket, make_socket_folder
from engine.store.embedded.user import RunAs, ServiceUser

SUPERUSER = DATABASE = "quantagent"
START_WAIT_S = 300
STOP_WAIT_S = 60.0
LOG_BYTES_MAX = 10_000_000
LOG_LINES_SHOWN = 20

# No TCP. Few connections, because only the tools of one user share the server; the memory suits a small machine.
SETTINGS = {
    "listen_addresses": "",
    "port": str(SOCKET_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "synchronous_commit": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
HINTS = {
    "No space left on device": "the disk is full",
    "Permission denied": "a folder is not accessible for the server's user",
    "error while loading shared libraries": "a library is missing on this machine",
    "could not create shared memory": "the machine's shared memory is used up",
    "incompatible with server": "the data folder is of another version",
}


class ServerState(Enum):
    DOWN = auto()
    BUSY = auto()  # starting, recovering or stopping
    READY = auto()


@dataclass(frozen=True)
class PidFile:
    """Contents of `postmaster.pid`. The file may be incomplete, and its pid may belong to another process by now."""

    pid: int | None = None
    port: str = ""
    socket_folder: str = ""
    status: str = ""

    @staticmethod
    def read(path: Path) -> PidFile:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return PidFile()
        lines = [line.strip() for line in lines] + [""] * 8
        return PidFile(int(lines[0]) if lines[0].isdecimal() else None, lines[3], lines[4], lines[7])


@dataclass(frozen=True)
class Server:
    """Files, programs and user of a server. Its state is read from the kernel and the data folder, not kept here."""

    cluster: Cluster
    binaries: Binaries
    user: ServiceUser | None
    fsync: bool = True
    on_progress: Callable[[str], None] = lambda message: None

    def state(self) -> ServerState:
        file = self.pid_file()
        if is_free(self.cluster.server_lock) and not self._is_postmaster(file.pid):
            return ServerState.DOWN
        return ServerState.READY if file.status == "ready" and self._answers(file) else ServerState.BUSY

    def wait_until_stable(self, wait_s: float = START_WAIT_S) -> ServerState:
        """Wait until the server is up or down, and return its state. A recovery after a crash may take minutes.

        Raise `StoreUnavailable` after `wait_s` seconds.
        """
        began = time.monotonic()
        reported = False
        while (state := self.state()) is ServerState.BUSY:
            waited = time.monotonic() - began
            if waited > wait_s:
                raise StoreUnavailable(
                    f"the database in {self.cluster.folder} has been starting or stopping for {wait_s:.0f} s.",
                    "DATABASE_BUSY",
                    log=self.cluster.log,
                )
            if waited > 3 and not reported:
                reported = True
                self.on_progress(
                    f"Waiting for the database in {self.cluster.folder}, which is starting, recovering or stopping."
                )
            time.sleep(0.1)
        return state

    def pid_file(self) -> PidFile:
        return PidFile.read(self.cluster.data / "postmaster.pid")

    def dsn(self, database: str = DATABASE) -> str:
        """Return the connection string of the running server; it contains no password."""
        file = self.pid_file()
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(file.socket_folder, safe='')}&port={file.port}"

    def query(self, sql: str, database: str = DATABASE) -> list[str]:
        """Run a statement and return its rows as unaligned text."""
        return self.run_tool("psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-c", sql, self.dsn(database)).splitlines()

    def initialise(self, inherited_fds: Sequence[int] = ()) -> None:
        """Create the data folder, completely or not at all: the next call removes the folder of a killed initdb.

        inherited_fds: descriptors that initdb inherits. With the mutex among them, no second initdb can start while
        the first one runs, even if this process dies.
        """
        self.on_progress(f"Creating the database in {self.cluster.data} (once, a few seconds).")
        staging = self.cluster.folder / "data.init"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        if self.user:
            self.user.own(staging)
        self.run_tool("initdb", *self._initdb_options(), "-D", str(staging), inherited_fds=inherited_fds)
        with (staging / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude_if_exists 'quantagent.conf'\n")
        staging.rename(self.cluster.data)

    def launch(self) -> None:
        """Start the server and wait until it answers. Raise `StoreUnavailable` with the last lines of its log."""
        self._clear_stale_files()
        self._configure(make_socket_folder(self.cluster, self.user))
        logged = self._open_log()
        lock = wait_lock(self.cluster.server_lock)  # no server process is alive; `status` holds the lock only briefly
        try:
            wait = ("-w", "-t", str(START_WAIT_S))
            files = ("-D", str(self.cluster.data), "-l", str(self.cluster.log))
            self.run_tool("pg_ctl", "start", "-s", *wait, *files, inherited_fds=[lock])
        except StoreUnavailable as error:
            raise StoreUnavailable(self._describe_start_failure(str(error), logged)) from None
        finally:
            os.close(lock)

    def ensure_database(self) -> None:
        if DATABASE not in self.query("select datname from pg_database", "postgres"):
            self.query(f"create database {DATABASE}", "postgres")

    def stop(self) -> bool:
        """Stop the server and wait for its last process; return False if there was none.

        Connections are closed first; if that does not help, the server stops immediately and recovers at the next
        start. Raise `StoreUnavailable` if it does not stop.
        """
        if self.state() is ServerState.DOWN:
            return False
        for stop_signal in (signal.SIGINT, signal.SIGQUIT):
            if self._stop_with(stop_signal):
                return True
        raise StoreUnavailable(
            f"the database server {self.pid_file().pid} does not stop: read {self.cluster.log}, then end it yourself."
        )

    def run_tool(self, program: str, *arguments: str, inherited_fds: Sequence[int] = ()) -> str:
        """Run a PostgreSQL program as the server's user and return its output. Raise `StoreUnavailable` if it fails."""
        command = [str(self.binaries.folder / program), *arguments]
        run_as: RunAs = self.user.run_as if self.user else {}
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            env=tool_environment(os.environ),
            umask=0o077,
            pass_fds=inherited_fds,
            **run_as,
        )
        if done.returncode != 0:
            output = "\n".join((done.stderr or done.stdout).strip().splitlines()[-LOG_LINES_SHOWN:])
            raise StoreUnavailable(f"`{' '.join(command)}` failed with code {done.returncode}:\n{output}")
        return done.stdout

    def _is_postmaster(self, pid: int | None) -> bool:
        """Return True if the process is a live server in this data folder, even if it was started by other means."""
        if pid is None:
            return False
        import psutil  # slow to import, and only needed if the lock is free

        try:
            process = psutil.Process(pid)
            alive = process.status() != psutil.STATUS_ZOMBIE and process.name().startswith("postgres")
            return alive and os.path.samefile(process.cwd(), self.cluster.data)
        except (psutil.Error, OSError):
            return False

    def _answers(self, file: PidFile) -> bool:
        if not (Path(file.socket_folder) / f".s.PGSQL.{file.port}").exists():
            return False
        try:
            return self.query("select 1", "postgres") == ["1"]
        except StoreUnavailable:
            return False

    def _initdb_options(self) -> list[str]:
        # The builtin locale sorts alike on every machine; the order of the C library changes with its upgrades.
        locale = ["--locale=C"]
        if self.binaries.major >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["-U", SUPERUSER, "--auth-local=trust", "--auth-host=reject"]
        return [*access, *locale, "-E", "UTF8", "--data-checksums", *([] if self.fsync else ["--no-sync"])]

    def _clear_stale_files(self) -> None:
        """Remove files of a killed server: its socket, and its pid file if the pid is a zombie or another program.

        PostgreSQL only checks if the pid exists, and would refuse to start. A file with a pid that does not exist is
        kept: PostgreSQL uses it to find shared memory that orphaned processes may still use.
        """
        clear_socket(self.cluster, self.user)
        pid = self.pid_file().pid
        if pid is None or _exists(pid):
            (self.cluster.data / "postmaster.pid").unlink(missing_ok=True)

    def _configure(self, socket_folder: Path) -> None:
        values = SETTINGS | {
            "unix_socket_directories": f'"{socket_folder}"',
            "fsync": "on" if self.fsync else "off",
        }
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in values.items()]
        conf = self.cluster.data / "quantagent.conf"
        conf.write_text("# Written at every start by quantagent; put settings of your own into postgresql.conf.\n")
        with conf.open("a") as file:
            file.writelines(lines)
        if self.user:
            self.user.own(conf)

    def _open_log(self) -> int:
        """Create or rotate the log, and return its size before this start, in bytes."""
        log = self.cluster.log
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        log.touch(mode=0o600)
        if self.user:
            self.user.own(log)
        return log.stat().st_size

    def _describe_start_failure(self, output: str, logged: int) -> str:
        log = self.cluster.log
        tail = log.read_bytes()[logged:].decode(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        hint = next((hint for sign, hint in HINTS.items() if sign in "\n".join([output, *tail])), "see the log")
        lines = "\n".join(f"  {line}" for line in tail)
        return f"PostgreSQL did not start in {self.cluster.data}: {hint}. {output}\nLast lines of {log}:\n{lines}"

    def _stop_with(self, stop_signal: signal.Signals) -> bool:
        deadline = time.monotonic() + STOP_WAIT_S
        signalled: int | None = None
        while time.monotonic() < deadline:
            pid = self.pid_file().pid
            if pid != signalled and self._is_postmaster(pid) and pid is not None:
                os.kill(pid, stop_signal)
                signalled = pid
            if is_free(self.cluster.server_lock) and not self._is_postmaster(pid):
                return True
            time.sleep(0.02)
        return False


def tool_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: without PG* variables, and with English messages."""
    return {k: v for k, v in environ.items() if not k.startswith("PG")} | {"LC_ALL": "C", "PGCONNECT_TIMEOUT": "10"}


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
