"""Locations and identity, read from the environment once at startup."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import NamedTuple

from engine.core.errors import BadInput, StoreUnavailable
from engine.store.embedded.files import make_folder


class Settings(NamedTuple):
    """Settings. home: folder of the embedded server; dsn: server to use instead; actor: name in the log."""

    home: Path | None
    dsn: str | None
    actor: str

    def __repr__(self) -> str:
        # A DSN may hold a password.
        return f"Settings(home={self.home!r}, dsn={'set' if self.dsn else None}, actor={self.actor!r})"


def from_environment() -> Settings:
    """Return the settings of QUANTAGENT_HOME, QUANTAGENT_DSN and QUANTAGENT_ACTOR (else the login name).

    Raise `BadInput` if QUANTAGENT_ENVIRONMENT names an unknown environment.
    """
    check_environment(os.environ.get("QUANTAGENT_ENVIRONMENT") or "paper")
    home = os.environ.get("QUANTAGENT_HOME")
    return Settings(
        home=Path(home).expanduser().absolute() if home else None,
        dsn=os.environ.get("QUANTAGENT_DSN") or None,
        actor=os.environ.get("QUANTAGENT_ACTOR") or _login(),
    )


def check_home(home: Path, embedded: bool) -> None:
    """Raise `StoreUnavailable` if the home folder cannot be used.

    embedded: the database is inside it, so that the folder is created if missing and must be writable.
    """
    if not embedded:
        if home.exists() and not home.is_dir():
            raise _unusable(home, "is a file")
        return
    try:
        make_folder(home)
    except OSError as error:
        blocking = next((each for each in (home, *home.parents) if each.exists() and not each.is_dir()), None)
        reason = f"is below {blocking}, which is a file" if blocking not in (None, home) else f"{error.strerror}"
        raise _unusable(home, f"cannot be created ({reason})") from None
    if not home.is_dir():
        raise _unusable(home, "is a file")
    if not os.access(home, os.W_OK | os.X_OK):
        raise _unusable(home, "cannot be written")


def _unusable(home: Path, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"the home folder {home} {reason}: set QUANTAGENT_HOME to a writable folder.")


def check_environment(name: str) -> None:
    """Raise `BadInput` for anything but `backtest` and `paper`; `prod` is reserved for a real broker."""
    if name == "prod":
        raise BadInput("environment prod cannot start: there is no real broker, use paper.")
    if name not in ("backtest", "paper"):
        raise BadInput(f"environment {name!r} is unknown: use backtest or paper.")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
