"""How often a provider may be asked: a bucket of tokens, pauses after refusals, and a breaker when it keeps refusing.

The clock and the sleep are arguments. Pauses take their jitter from what is asked and when, not from chance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from threading import Lock
from time import sleep
from typing import TypeVar

from engine import clock
from engine.core.errors import ProviderUnavailable
from engine.data.bar_rules import time_text

ATTEMPTS = 4
PAUSE_S = 2.0
PAUSE_MAX_S = 60.0
HOUR = timedelta(hours=1)

Answer = TypeVar("Answer")


class TryAgain(Exception):
    """The provider refused or was not heard, and may well answer a little later. The message says how."""


class Budget:
    """The calls that one provider grants. `str` of it says how many are left."""

    def __init__(
        self,
        provider: str,
        *,
        calls_per_s: float = 1.0,
        burst: int = 1,
        calls_per_hour: int = 1_000,
        refusals_max: int = 8,
        rest: timedelta = timedelta(minutes=15),
        now: Callable[[], datetime] = clock.now,
        sleep: Callable[[float], None] = sleep,
    ) -> None:
        self._provider, self._now, self._sleep = provider, now, sleep
        self._calls_per_s, self._burst, self._calls_per_hour = calls_per_s, burst, calls_per_hour
        self._refusals_max, self._rest = refusals_max, rest
        self._tokens, self._filled_at = float(burst), now()
        self._spent: deque[datetime] = deque()
        self._refusals = 0
        self._rests_until: datetime | None = None
        self._turn = Lock()

    @property
    def left(self) -> int:
        """How many calls are left of this hour's, where an hour is the last 60 minutes."""
        while self._spent and self._spent[0] <= self._now() - HOUR:
            self._spent.popleft()
        return self._calls_per_hour - len(self._spent)

    def __str__(self) -> str:
        left = f"{self._provider}: {self.left:,} of {self._calls_per_hour:,} calls left this hour"
        refused = f", refused {self._refusals} times in a row" if self._refusals else ""
        rests = f", asked again from {time_text(self._rests_until)}" if self._rests_until else ""
        return left + refused + rests

    def call(self, ask: Callable[[], Answer], what: str) -> Answer:
        """What `ask` returns, asked up to `ATTEMPTS` times while it raises `TryAgain`.

        Raises `ProviderUnavailable` when it still refuses, when this hour's calls are spent, and without asking while
        the provider is given a rest.
        """
        refusal: TryAgain | None = None
        for attempt in range(ATTEMPTS):
            if refusal is not None:
                self._sleep(pause_s(attempt, what, self._now()))
            with self._turn:
                self._spend(what)
            try:
                answer = ask()
            except TryAgain as error:
                refusal = error
                self._refused()
            else:
                self._refusals, self._rests_until = 0, None
                return answer
        raise ProviderUnavailable(
            f"{self._provider} did not answer for {what} in {ATTEMPTS} attempts ({refusal}): try again in some "
            "minutes; what is stored already stays."
        )

    def _spend(self, what: str) -> None:
        if self._rests_until is not None and self._now() < self._rests_until:
            raise ProviderUnavailable(
                f"{self._provider} refused {self._refusals} calls in a row and is not asked for {what}: try again "
                f"after {time_text(self._rests_until)}."
            )
        if self.left <= 0:
            raise ProviderUnavailable(
                f"the {self._calls_per_hour:,} calls an hour to {self._provider} are spent, and {what} was not asked "
                f"for: try again after {time_text(self._spent[0] + HOUR)}."
            )
        self._refill()
        if self._tokens < 1:
            self._sleep((1 - self._tokens) / self._calls_per_s)
            self._refill()
        # Below nothing for a clock that was set back while we slept: the wait was real.
        self._tokens = max(0.0, self._tokens - 1)
        self._spent.append(self._now())

    def _refill(self) -> None:
        now = self._now()
        passed_s = max(0.0, (now - self._filled_at).total_seconds())
        self._tokens = min(float(self._burst), self._tokens + passed_s * self._calls_per_s)
        self._filled_at = now

    def _refused(self) -> None:
        self._refusals += 1
        if self._refusals >= self._refusals_max:
            self._rests_until = self._now() + self._rest


def pause_s(attempt: int, what: str, at: datetime) -> float:
    """Seconds before an attempt: anything from none to twice as long as before, so that many who were refused
    together do not come back together ("full jitter")."""
    return min(PAUSE_MAX_S, PAUSE_S * 2**attempt) * share(what, str(attempt), at.isoformat())


def share(*parts: str) -> float:
    """A number from 0 up to, not including, 1 that follows from texts and looks like chance."""
    return int.from_bytes(sha256("\n".join(parts).encode()).digest()[:6]) / 2**48
