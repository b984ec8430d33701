"""Private folder of a server's Unix socket. Access to it gives superuser rights, so only its owner may enter it.

The kernel limits the path of a socket to about 100 bytes, so it cannot always be below the data folder.
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
    """Create the first candidate with a path that is short enough, with mode 0700 for the server's user.

    Raise `StoreUnavailable` if the folder belongs to another user.
    """
    folder = socket_folder(cluster, user)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    owner = user.uid if user else os.geteuid()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (owner, os.geteuid()):
        raise StoreUnavailable(
            f"{folder} belongs to another user or is no folder: remove it, or set TMPDIR to a private folder with a "
            "short path."
        )
    if user:
        user.own(folder)
    folder.chmod(0o700)
    return folder


def socket_folder(cluster: Cluster, user: ServiceUser | None) -> Path:
    """Return the socket folder of a server started now; that of a running server is in its pid file."""
    return next(folder for folder in _candidates(cluster, user) if _fits(folder))


def clear_socket(cluster: Cluster, user: ServiceUser | None) -> None:
    """Remove the socket of a dead server and its lock file, which contains the dead pid."""
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
    yield Path("/tmp") / name  # noqa: S108 - checked by make_socket_folder: a real folder, owned by the user, 0700


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / f".s.PGSQL.{SOCKET_PORT}.lock")) < PATH_BYTES_MAX
