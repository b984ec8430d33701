"""Suggestions of a similar name, for messages about a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ` (did you mean BTC-USD?)`, or nothing if no known name is close; ignore case and punctuation."""
    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(given), plain, n=1, cutoff=0.6)
    return f" (did you mean {plain[found[0]]}?)" if found else ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
