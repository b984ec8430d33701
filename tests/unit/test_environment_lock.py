"""The digest of what is installed: the same for the same versions, another for others, blind to development tools."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from email.message import Message
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version

import pytest

from ui import environment_lock
from ui.environment_lock import lock_digest, lock_lines


class Package:
    """As much of an installed distribution as is asked for."""

    def __init__(self, number: str, *requires: str) -> None:
        self.version, self.requires, self.metadata = number, list(requires), Message()


def install(monkeypatch: pytest.MonkeyPatch, packages: Mapping[str, Package]) -> None:
    def find(name: str) -> Package:
        if name not in packages:
            raise PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(environment_lock, "distribution", find)


def fresh_digest() -> str:
    lock_digest.cache_clear()
    try:
        return lock_digest()
    finally:
        lock_digest.cache_clear()


def test_every_line_is_an_installed_distribution_with_its_version() -> None:
    lines = lock_lines()
    assert lines == sorted(set(lines))
    assert {f"{name}=={version(name)}" for name in ("quantagent", "msgspec", "psycopg", "psycopg-binary")} <= set(lines)
    assert all(version(name) == number for name, _, number in (line.partition("==") for line in lines))


def test_development_tools_are_not_part_of_it() -> None:
    assert not {"pytest", "ruff", "hypothesis", "pip"} & {line.partition("==")[0] for line in lock_lines()}


def test_the_digest_covers_the_lines() -> None:
    assert fresh_digest() == sha256(("\n".join(lock_lines()) + "\n").encode()).hexdigest()


def test_another_process_finds_the_same_digest() -> None:
    code = "from ui.environment_lock import lock_digest; print(lock_digest())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == lock_digest()


def test_requirements_are_followed_with_their_extras_and_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ("My_Driver[fast]>=2", "absent", "other; sys_platform == 'none'", "pytest; extra == 'dev'")
    packages = {
        "quantagent": Package("1", *required),
        "my-driver": Package("2.1", "quick; extra == 'fast'", "slow; extra == 'slow'", "quantagent"),
        "quick": Package("3"),
        **{name: Package("9") for name in ("other", "pytest", "slow", "unrelated")},
    }
    install(monkeypatch, packages)
    assert lock_lines() == ["my-driver==2.1", "quantagent==1", "quick==3"]
    before = fresh_digest()
    packages["quick"].version = "3.0.1"
    assert fresh_digest() != before


def test_without_metadata_the_digest_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"msgspec": Package("1")})
    assert lock_lines() == []
    assert fresh_digest() == ""
