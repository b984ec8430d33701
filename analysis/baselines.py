"""Well-known strategies as baselines for comparison with other variants.

They are registered by entry points in pyproject.toml, like user strategies.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.strategy import Decision
from engine.core.market import Bar
from engine.core.money import exact, mul, total


class AlwaysLong:
    """LONG at every close."""

    variant = "always_long"
    version = "1"
    bars = 1

    def decide(self, bars: Sequence[Bar]) -> Decision:
        del bars
        return Decision("LONG", reason="always")


class Crossover:
    """LONG while the mean of the last 10 closes is above the mean of the last 20, else FLAT."""

    variant = "crossover"
    version = "1"
    bars = 20

    def decide(self, bars: Sequence[Bar]) -> Decision:
        # Compares sums instead of means: no division, no rounding.
        slow = total(bar.close for bar in bars)
        fast = mul(exact(2), total(bar.close for bar in bars[-10:]))
        if fast > slow:
            return Decision("LONG", reason="the mean of 10 closes is above that of 20")
        return Decision("FLAT", reason="the mean of 10 closes is not above that of 20")


class Momentum:
    """LONG when the close is above the one 10 bars before, else SHORT."""

    variant = "momentum"
    version = "1"
    bars = 11

    def decide(self, bars: Sequence[Bar]) -> Decision:
        then, now = bars[0].close, bars[-1].close
        if now > then:
            return Decision("LONG", reason=f"close {now:f} is above {then:f}, 10 bars before")
        return Decision("SHORT", reason=f"close {now:f} is not above {then:f}, 10 bars before")
