"""Lock files and their pins."""

from __future__ import annotations

from tests.support.paths import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")


PEERS_LOCK = "requirements-peers.lock"


def pins(lock: str) -> dict[str, str]:
    """Each requirement of a lock file (name, version and marker as written) with its hashes."""
    logical_lines = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
    parts = [line.split("--hash=", 1) for line in logical_lines if line.strip()]
    return {name.strip(): "".join(hashes) for name, *hashes in parts}
