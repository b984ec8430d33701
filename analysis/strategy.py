"""Interface of user strategies: the `Strategy` protocol and its `Decision`. docs/own-strategies.md has an example.

A strategy is a pure function from a window of bars to a decision. It sees neither position nor account: the profile
determines size and exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from engine.core.events import OrderTerms
from engine.core.market import Bar, Direction
from engine.core.money import ONE, ZERO, exact

HORIZON_BARS_MAX = 10_000
REASON_LENGTH_MAX = 500

DecimalLike = Decimal | int | str


@dataclass(frozen=True, init=False, slots=True)
class Decision:
    """Decision of a strategy at the close of the last bar of its window.

    direction: LONG, SHORT, FLAT, or HOLD to leave the position unchanged; confidence: 0 to 1, by default 1, and 0 for
    HOLD; reason: one line; horizon_bars: bars until the position is closed; stop, target: prices at which the position
    is closed; risk_reward: distance of the target in units of the distance of the stop; entry: terms of the entry
    order. The profile supplies omitted fields. Amounts are Decimals, whole numbers or text, never floats.

    Raise `ValueError` with one sentence for invalid values.
    """

    direction: Direction
    confidence: Decimal
    reason: str
    horizon_bars: int | None
    risk_reward: Decimal | None
    stop: Decimal | None
    target: Decimal | None
    entry: OrderTerms | None

    def __init__(
        self,
        direction: Direction | str,
        confidence: DecimalLike | None = None,
        *,
        reason: str = "",
        horizon_bars: int | None = None,
        risk_reward: DecimalLike | None = None,
        stop: DecimalLike | None = None,
        target: DecimalLike | None = None,
        entry: OrderTerms | None = None,
    ) -> None:
        wanted = _direction(direction)
        share = _amount("confidence", confidence)
        fields = {
            "direction": wanted,
            "confidence": share if share is not None else ZERO if wanted is Direction.HOLD else ONE,
            "reason": reason,
            "horizon_bars": horizon_bars,
            "risk_reward": _amount("risk_reward", risk_reward),
            "stop": _amount("stop", stop),
            "target": _amount("target", target),
            "entry": entry,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if not ZERO <= self.confidence <= ONE:
            raise ValueError(f"confidence {self.confidence} is outside 0 to 1")
        if self.horizon_bars is not None and not 1 <= self.horizon_bars <= HORIZON_BARS_MAX:
            raise ValueError(f"horizon_bars {self.horizon_bars} is outside 1 to {HORIZON_BARS_MAX}")
        for name in ("risk_reward", "stop", "target"):
            value: Decimal | None = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} {value} is not above 0")
        if len(self.reason) > REASON_LENGTH_MAX or not self.reason.isprintable():
            raise ValueError(f"reason is not one line of at most {REASON_LENGTH_MAX} printable characters")
        if self.stop is not None and self.target is not None:
            self._check_sides(self.stop, self.target)

    def _check_sides(self, stop: Decimal, target: Decimal) -> None:
        upside_down = {Direction.LONG: stop >= target, Direction.SHORT: stop <= target}
        if upside_down.get(self.direction, False):
            raise ValueError(f"stop {stop} and target {target} are on the wrong sides for {self.direction}")


def _direction(text: Direction | str) -> Direction:
    try:
        return Direction(text)
    except ValueError:
        raise ValueError(f"direction {text!r} is none of {', '.join(Direction)}") from None


def _amount(name: str, value: DecimalLike | None) -> Decimal | None:
    if value is None:
        return None
    # User code may not be type-checked.
    if not isinstance(value, Decimal | int | str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{name} is a {type(value).__name__}: use a Decimal, a whole number or text")
    try:
        return exact(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class Strategy(Protocol):
    """A pure function from a window of bars to a decision.

    variant: its name on the command line and in the store; version: a new one for every change of the strategy; bars:
    length of its window.
    """

    @property
    def variant(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def bars(self) -> int: ...

    def decide(self, bars: Sequence[Bar]) -> Decision:
        """Return the decision on a window of exactly `self.bars` bars, oldest first; the last one has just closed.

        It must depend on the window alone: the same bars give the same decision, in whatever order windows come.
        """
        ...
