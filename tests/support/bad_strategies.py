"""Strategies of which each breaks one rule of its contract: the checks have to find every one of them.

They are loaded from this file as a user's would be, `tests/support/bad_strategies.py:Counting`, and offer 0.0001 to 1
as their confidence, so that no difference is missed by luck.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from quantagent import Bar, Decision
from tests.support.workloads import walk

NUMBER = ("AAA", 3, 300, 100.0, 0.01)
"""The walk whose future `Tape` knows."""


def share(number: int) -> str:
    return f"0.{number % 10_000:04}"


class Sound:
    """Breaks nothing."""

    variant = "sound"
    version = "1"
    bars = 3

    def decide(self, bars: Sequence[Bar]) -> Decision:
        return Decision("LONG" if bars[-1].close > bars[0].close else "SHORT", reason="against two bars before")


class Counting(Sound):
    """Remembers how often it was asked."""

    calls: ClassVar[list[Bar]] = []

    def decide(self, bars: Sequence[Bar]) -> Decision:
        self.calls.append(bars[-1])
        return Decision("LONG", share(len(self.calls)))


class Remembering(Sound):
    """Remembers every bar, and looks up the one that follows."""

    seen: ClassVar[dict[datetime, Bar]] = {}

    def decide(self, bars: Sequence[Bar]) -> Decision:
        self.seen.update((bar.opened_at, bar) for bar in bars)
        following = self.seen.get(bars[-1].closed_at)
        return Decision("LONG" if following and following.close > bars[-1].close else "SHORT")


class Tape(Sound):
    """Has read the future when it was made, and looks it up by time."""

    def __init__(self) -> None:
        self._tape = {bar.opened_at: bar for bar in walk(*NUMBER)}

    def decide(self, bars: Sequence[Bar]) -> Decision:
        following = self._tape.get(bars[-1].closed_at)
        return Decision("LONG" if following and following.close > bars[-1].close else "SHORT")


class Library(Sound):
    """Reads a file whenever it is asked."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        return Decision("LONG", share(len(Path(__file__).read_text())))


class Clock(Sound):
    """Trades by the wall clock, which may well say the same all through a check."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        return Decision("LONG" if datetime.now().year < 3000 else "SHORT")  # noqa: DTZ005


class Chance(Sound):
    """Throws dice."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        return Decision("LONG", share(random.randrange(10_000)))


class Seeded(Sound):
    """Throws dice of its own, seeded by what it sees: no chance at all, and allowed."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        return Decision("LONG", share(random.Random(str(bars[-1].close)).randrange(10_000)))


class Hashing(Sound):
    """Depends on the hash seed of its process."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        return Decision("LONG", share(hash(str(bars[-1].close))))


class Sorting(Sound):
    """Changes its window."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        window: Any = bars
        window.reverse()
        return Decision("LONG")


class Silent(Sound):
    """Says nothing where it has no opinion."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        nothing: Any = None
        return nothing


class Unsure(Sound):
    """Offers a confidence that is no number."""

    def decide(self, bars: Sequence[Bar]) -> Decision:
        return Decision("LONG", "NaN")
