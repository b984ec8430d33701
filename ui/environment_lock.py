"""What is installed: the distributions this program runs with, and one digest that names them all.

A run records the digest when it starts, so that whoever reproduces it elsewhere sees whether the same versions are
there. Development tools do not count, nor does anything else that merely lies in the same environment.
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
    """SHA-256, in hexadecimal, of `lock_lines`; empty where this program's own metadata is not installed."""
    lines = lock_lines()
    return sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest() if lines else ""


def lock_lines() -> list[str]:
    """`name==version` of this distribution and of all that it requires here, directly or not; sorted."""
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
        # A container leaves out what it never starts.
        return None


def _required(installed: Distribution, extra: str) -> list[tuple[str, str]]:
    """What a distribution requires on this machine, with one of its extras or (empty) without: names and extras."""
    requirements = map(Requirement, installed.requires or ())
    return [
        (canonicalize_name(requirement.name), wanted)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        for wanted in ("", *sorted(requirement.extras))
    ]
