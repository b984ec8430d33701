"""Where things are: read from the environment once, at the way in."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import NamedTuple

from engine.errors import BadInput


class Settings(NamedTuple):
    """home: folder of the embedded server; dsn: a server to use instead; actor: who is named in the log."""

    home: Path | None
    dsn: str | None
    actor: str


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
