"""The user that runs the server. PostgreSQL refuses to run as root, so root's server runs as another user.

Modes of folders are never changed: the caller places files that the user cannot reach elsewhere.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from engine.core.errors import BadInput

SYSTEM_USER = "quantagent"


class RunAs(TypedDict, total=False):
    """Arguments of `subprocess.run` that drop root's rights."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class ServiceUser:
    """Ordinary user account that runs the server started by root."""

    name: str
    uid: int
    gid: int

    @staticmethod
    def named(name: str) -> ServiceUser | None:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return ServiceUser(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @staticmethod
    def owner_of(path: Path) -> ServiceUser:
        status = path.stat()
        try:
            name = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            name = str(status.st_uid)
        return ServiceUser(name, status.st_uid, status.st_gid)

    @property
    def run_as(self) -> RunAs:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, path: Path) -> bool:
        """Return True if this user can enter the folder or run the file; for a missing path, its nearest parent."""
        while not path.exists():
            path = path.parent
        return subprocess.run(["test", "-x", path], cwd="/", check=False, **self.run_as).returncode == 0


def service_user(data: Path, environ: Mapping[str, str], on_progress: Callable[[str], None]) -> ServiceUser | None:
    """Return the user for the server of a data folder, which need not exist; None if this process is not root's.

    Raise `BadInput` if there is no suitable user.
    """
    if os.geteuid() != 0:
        return None
    named = _named(environ)
    if data.exists():
        return _owner(data, named)
    if named:
        return named
    user = (
        ServiceUser.named("postgres") or ServiceUser.named(SYSTEM_USER) or create_system_user(SYSTEM_USER, on_progress)
    )
    user = user or ServiceUser.named("nobody")
    if user is None:
        raise BadInput("root needs another user to run PostgreSQL as: create one and name it in QUANTAGENT_PG_USER.")
    return user


def create_system_user(name: str, on_progress: Callable[[str], None]) -> ServiceUser | None:
    """Create a system account without login and report it; return None if that fails."""
    for command in (
        ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", name],
        ["adduser", "-S", "-D", "-H", "-s", "/bin/false", name],
    ):
        if shutil.which(command[0]) and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            on_progress(f"PostgreSQL does not run as root: created the system user {name!r} for it.")
            return ServiceUser.named(name)
    return None


def _named(environ: Mapping[str, str]) -> ServiceUser | None:
    name = environ.get("QUANTAGENT_PG_USER")
    if not name:
        return None
    user = ServiceUser.named(name)
    if user is None or user.uid == 0:
        raise BadInput(f"QUANTAGENT_PG_USER names {name!r}, which is not an ordinary user of this machine.")
    return user


def _owner(data: Path, named: ServiceUser | None) -> ServiceUser:
    owner = ServiceUser.owner_of(data)
    if owner.uid == 0 or (named and named.uid != owner.uid):
        wanted = named.name if named else "postgres"
        raise BadInput(
            f"the data folder {data} belongs to {owner.name}, and PostgreSQL does not start there as {wanted}: "
            f"run `chown -R {wanted} {data}` or set QUANTAGENT_PG_USER to its owner."
        )
    return owner
