"""The private folder of a server's Unix socket. Whoever can enter it is the superuser: nobody but its owner may.

A socket's path is limited to about 100 bytes by the kernel, whatever the folder of the data is called.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from engine.core.errors import StoreUnavailable
from engine.store.embedded.files import Cluster
from engine.store.embedded.user import ServiceUser

SOCKET_PORT = 5432  # names the socket's file; there is no TCP port
PATH_BYTES_MAX = 100  # Linux takes 107, macOS 103


def make_socket_folder(cluster: Cluster, user: ServiceUser | None) -> Path:
    """The first candidate whose paths are short enough, made with mode 0700 for the server's user."""
    folder = socket_folder(cluster, user)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    owner = user.uid if user else os.geteuid()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (owner, os.geteuid()):
        raise StoreUnavailable(f"{folder} is not ours: remove it, or set TMPDIR to a private folder with a short path.")
    if user:
        user.own(folder)
    folder.chmod(0o700)
    return folder


def socket_folder(cluster: Cluster, user: ServiceUser | None) -> Path:
    """Where a server started now would put its socket; one that runs says in its pid file where it did."""
    return next(folder for folder in _candidates(cluster, user) if _fits(folder))


def clear_socket(cluster: Cluster, user: ServiceUser | None) -> None:
    """Removes what a dead server left: its socket's lock file names the dead pid too."""
    for leftover in socket_folder(cluster, user).glob(".s.PGSQL.*"):
        leftover.unlink(missing_ok=True)


def _candidates(cluster: Cluster, user: ServiceUser | None) -> Iterator[Path]:
    yield cluster.sup / "s"
    uid = user.uid if user else os.geteuid()
    name = f"quantagent-{uid}-{sha256(os.fsencode(cluster.data)).hexdigest()[:12]}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and user is None and Path(runtime).is_dir():
        yield Path(runtime) / name
    yield Path(tempfile.gettempdir()) / name
    yield Path("/tmp") / name  # noqa: S108 - checked by make_socket_folder: a real folder, ours, 0700


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / f".s.PGSQL.{SOCKET_PORT}.lock")) < PATH_BYTES_MAX
