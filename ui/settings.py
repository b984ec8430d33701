"""Where things are: read from the environment once, at the way in."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import NamedTuple

from engine.core.errors import BadInput, StoreUnavailable
from engine.store.embedded.files import make_folder


class Settings(NamedTuple):
    """home: folder of the embedded server; dsn: a server to use instead; actor: who is named in the log."""

    home: Path | None
    dsn: str | None
    actor: str

    def __repr__(self) -> str:
        # A DSN may hold a password.
        return f"Settings(home={self.home!r}, dsn={'set' if self.dsn else None}, actor={self.actor!r})"


def from_environment() -> Settings:
    """QUANTAGENT_HOME, QUANTAGENT_DSN, QUANTAGENT_ACTOR (else the login name).

    Raises `BadInput` where QUANTAGENT_ENVIRONMENT names an environment that cannot be.
    """
    check_environment(os.environ.get("QUANTAGENT_ENVIRONMENT") or "paper")
    home = os.environ.get("QUANTAGENT_HOME")
    return Settings(
        home=Path(home).expanduser().absolute() if home else None,
        dsn=os.environ.get("QUANTAGENT_DSN") or None,
        actor=os.environ.get("QUANTAGENT_ACTOR") or _login(),
    )


def check_home(home: Path, embedded: bool) -> None:
    """Raises `StoreUnavailable` for a file. embedded: the database is there too; the folder is made where it is
    missing, and must be writable."""
    if not embedded:
        if home.exists() and not home.is_dir():
            raise _unusable(home, "is a file")
        return
    try:
        make_folder(home)
    except OSError as error:
        blocking = next((each for each in (home, *home.parents) if each.exists() and not each.is_dir()), None)
        reason = f"lies under {blocking}, which is a file" if blocking not in (None, home) else f"{error.strerror}"
        raise _unusable(home, f"cannot be made ({reason})") from None
    if not home.is_dir():
        raise _unusable(home, "is a file")
    if not os.access(home, os.W_OK | os.X_OK):
        raise _unusable(home, "cannot be written")


def _unusable(home: Path, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"the home folder {home} {reason}: set QUANTAGENT_HOME to a folder that you may write.")


def check_environment(name: str) -> None:
    """Raises `BadInput` for anything but `backtest` and `paper`; `prod` is the name of what does not exist yet."""
    if name == "prod":
        raise BadInput("environment prod cannot start: there is no real broker, use paper.")
    if name not in ("backtest", "paper"):
        raise BadInput(f"environment {name!r} is unknown: use backtest or paper.")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
