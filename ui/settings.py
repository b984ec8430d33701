"""Where things are: read from the environment once, at the way in."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import NamedTuple


class Settings(NamedTuple):
    """home: folder of the embedded server; dsn: a server to use instead; actor: who is named in the log."""

    home: Path | None
    dsn: str | None
    actor: str


def from_environment() -> Settings:
    """QUANTAGENT_HOME, QUANTAGENT_DSN, QUANTAGENT_ACTOR (else the login name)."""
    home = os.environ.get("QUANTAGENT_HOME")
    return Settings(
        home=Path(home).expanduser().absolute() if home else None,
        dsn=os.environ.get("QUANTAGENT_DSN") or None,
        actor=os.environ.get("QUANTAGENT_ACTOR") or _login(),
    )


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
