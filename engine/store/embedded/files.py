"""Files of a database cluster, and the locks on them.

Every lock is a `flock`: the kernel releases it when its holder dies, so locks cannot go stale. A lock is released by
closing its descriptor, never by unlocking: a forked or executed child that shares the descriptor keeps the lock.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.core.errors import StoreUnavailable

SYSTEM_STATE = Path("/var/lib/quantagent")
MUTEX_WAIT_S = 120.0


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return `QUANTAGENT_HOME`, else the platform's folder for user data; for root, one that other users can reach."""
    if named := environ.get("QUANTAGENT_HOME"):
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return SYSTEM_STATE
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "quantagent"
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "quantagent"


@dataclass(frozen=True)
class Home:
    """Folder of quantagent's persistent data."""

    root: Path

    def cluster(self, major: int) -> Cluster:
        return Cluster(self.root / "pg" / str(major), major)

    def majors(self) -> list[int]:
        """Return the major versions of PostgreSQL that have a data folder here, in ascending order."""
        folders = (file.parents[1].name for file in self.root.glob("pg/*/data/PG_VERSION"))
        return sorted(int(name) for name in folders if name.isdigit())


@dataclass(frozen=True)
class Cluster:
    """Files of one PostgreSQL cluster: PostgreSQL's folder `data`, and `sup` with the files of quantagent.

    mutex: held while the server is started or stopped, and otherwise only briefly.
    users: lock shared by all processes that use the server; it can be held exclusively only if no process does.
    watch_lock: held by the watchdog; server_lock: inherited by every process of the server.
    keep: exists while the server is to keep running without users.
    """

    folder: Path
    major: int

    @property
    def home(self) -> Home:
        return Home(self.folder.parents[1])

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def sup(self) -> Path:
        return self.folder / "sup"

    @property
    def mutex(self) -> Path:
        return self.sup / "mutex"

    @property
    def users(self) -> Path:
        return self.sup / "users"

    @property
    def watch_lock(self) -> Path:
        return self.sup / "watch.lock"

    @property
    def server_lock(self) -> Path:
        return self.sup / "server.lock"

    @property
    def keep(self) -> Path:
        return self.sup / "keep"

    @property
    def log(self) -> Path:
        return self.sup / "server.log"

    @property
    def watch_log(self) -> Path:
        return self.sup / "watch.log"

    def exists(self) -> bool:
        return (self.data / "PG_VERSION").exists()


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents; existing folders keep their modes.

    Folders of root can be entered by other users, because the server runs as one; those of other users are private.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # the umask would restrict the mode given to mkdir


def try_lock(path: Path, shared: bool = False) -> int | None:
    """Return a descriptor that holds the lock, or None if another process holds it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def wait_lock(path: Path, shared: bool = False) -> int:
    """Wait for the lock and return a descriptor that holds it."""
    descriptor = _open(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    return descriptor


def is_free(path: Path) -> bool:
    """Return True if no process holds the lock at this moment."""
    if not path.exists():
        return True
    descriptor = try_lock(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


@contextmanager
def mutex(cluster: Cluster, wait_s: float = MUTEX_WAIT_S) -> Generator[int]:
    """Hold the cluster's mutex. Raise `StoreUnavailable`, naming the holder, after waiting `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    while (descriptor := try_lock(cluster.mutex)) is None:
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"process {cluster.mutex.read_text().strip() or 'unknown'} has been starting or stopping the database "
                f"in {cluster.folder} for over {wait_s:.0f} s: wait for it or end it, then retry."
            )
        time.sleep(0.02)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def holders(path: Path) -> list[int] | None:
    """Return the pids of the processes that took the lock; None where the kernel does not report them (not on Linux).

    A forked child counts as its parent.
    """
    try:
        text, status = Path("/proc/locks").read_text(), path.stat()
    except OSError:
        return None
    key = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    fields = (line.split() for line in text.splitlines())
    return sorted({int(f[4]) for f in fields if len(f) > 5 and f[1] == "FLOCK" and f[5] == key})


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
