"""An exported log, read without this project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.support.waiting import WAIT_TIMEOUT_S

Line = TypeVar("Line", bound=msgspec.Struct)


def decoded(path: Path, kind: type[Line]) -> list[Line]:
    return [msgspec.json.decode(line, type=kind) for line in path.read_bytes().splitlines()]


def bare(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Python as it comes: no site packages, no environment, another working folder."""
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    command = [str(python), "-I", "-S", *map(str, arguments)]
    return subprocess.run(command, env={}, cwd="/", capture_output=True, text=True, timeout=WAIT_TIMEOUT_S, check=False)
