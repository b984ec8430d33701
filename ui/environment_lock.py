"""Installed distributions that this program runs with, and one digest of them all.

A run records the digest when it starts, so that a reproduction elsewhere can compare the versions. Development tools
and unrelated distributions in the same environment do not count.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "quantagent"


@cache
def lock_digest() -> str:
    """Return the SHA-256 in hexadecimal of `lock_lines`; empty if this program's own metadata is not installed."""
    lines = lock_lines()
    return sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest() if lines else ""


def lock_lines() -> list[str]:
    """Return `name==version` of this distribution and of all its direct and indirect requirements, sorted."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(ROOT, "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        installed = _installed(name)
        if installed is not None:
            found[name] = installed.version
            waiting += _required(installed, extra)
    return sorted(f"{name}=={version}" for name, version in found.items())


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        # A container omits the parts that it never starts.
        return None


def _required(installed: Distribution, extra: str) -> list[tuple[str, str]]:
    """Return (name, extra) of the requirements of a distribution on this machine, with one extra or (empty) without."""
    requirements = map(Requirement, installed.requires or ())
    return [
        (canonicalize_name(requirement.name), wanted)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        for wanted in ("", *sorted(requirement.extras))
    ]
