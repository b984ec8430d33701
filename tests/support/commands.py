"""Commands typed in a process of their own, and how their output is read."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.forks import run_command
from tests.support.workloads import walk


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}


def run(env: dict[str, str], *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_command([*map(str, arguments)], env)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def answer(env: dict[str, str], *arguments: object) -> dict[str, Any]:
    """The JSON a command prints; everything else it says goes to stderr."""
    document = json.loads(run(env, *arguments, "--json").stdout)
    assert document["schema_version"] == 1
    return document


def refusal(env: dict[str, str], *arguments: object, code: int = 2) -> str:
    """What a refused command says: one sentence on stderr, nothing on stdout, no traceback."""
    done = run(env, *arguments, code=code)
    said = [line for line in done.stderr.splitlines() if line.strip() and not re.search(r" \d+/\d+ +\d:", line)]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return said[0]


def rows_in(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return row[0] if row else 0


def write_bars(path: Path, *, count: int = 400, edit: dict[int, str] | None = None) -> Path:
    """A CSV of synthetic bars; `edit` replaces whole lines by number (0 is the header)."""
    bars = walk("AAA", 100, count, 100.0, 0.005)
    rows = [f"{b.opened_at.isoformat()},{b.open},{b.high},{b.low},{b.close},{b.volume}" for b in bars]
    lines = ["opened_at,open,high,low,close,volume", *rows]
    for number, line in (edit or {}).items():
        lines[number] = line
    path.write_text("\n".join(lines) + "\n")
    return path
