"""Rate limit of calls to a provider: token bucket, backoff after refusals, and a circuit breaker.

Clock and sleep are arguments. The jitter of the backoff is derived from request and time instead of random numbers.
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
from engine.data.bar_rules import format_instant

ATTEMPTS = 4
BACKOFF_S = 2.0
BACKOFF_MAX_S = 60.0
HOUR = timedelta(hours=1)

ResultT = TypeVar("ResultT")


class RetryLater(Exception):
    """Temporary failure of a call, which may succeed later; the message is the reason."""


class RateLimiter:
    """Rate limit of one provider; `str` describes its state."""

    def __init__(
        self,
        provider: str,
        *,
        calls_per_s: float = 1.0,
        burst: int = 1,
        calls_per_hour: int = 1_000,
        refusals_max: int = 8,
        cooldown: timedelta = timedelta(minutes=15),
        now: Callable[[], datetime] = clock.now,
        sleep: Callable[[float], None] = sleep,
    ) -> None:
        self._provider, self._now, self._sleep = provider, now, sleep
        self._calls_per_s, self._burst, self._calls_per_hour = calls_per_s, burst, calls_per_hour
        self._refusals_max, self._cooldown = refusals_max, cooldown
        self._tokens, self._filled_at = float(burst), now()
        self._calls: deque[datetime] = deque()
        self._refusals = 0
        self._cooldown_until: datetime | None = None
        self._lock = Lock()

    @property
    def calls_left(self) -> int:
        """Number of calls left in the present hour, which is the last 60 minutes."""
        while self._calls and self._calls[0] <= self._now() - HOUR:
            self._calls.popleft()
        return self._calls_per_hour - len(self._calls)

    def __str__(self) -> str:
        left = f"{self._provider}: {self.calls_left:,} of {self._calls_per_hour:,} calls left this hour"
        refused = f", refused {self._refusals} times in a row" if self._refusals else ""
        cooldown = f", called again from {format_instant(self._cooldown_until)}" if self._cooldown_until else ""
        return left + refused + cooldown

    def call(self, request: Callable[[], ResultT], what: str) -> ResultT:
        """Return the result of `request`, called up to `ATTEMPTS` times while it raises `RetryLater`.

        Raise `ProviderUnavailable` after the last attempt, when the calls of this hour are used up, and without a call
        during the cooldown after repeated refusals.
        """
        refusal: RetryLater | None = None
        for attempt in range(ATTEMPTS):
            if refusal is not None:
                self._sleep(backoff_s(attempt, what, self._now()))
            with self._lock:
                self._acquire(what)
            try:
                answer = request()
            except RetryLater as error:
                refusal = error
                self._record_refusal()
            else:
                self._refusals, self._cooldown_until = 0, None
                return answer
        raise ProviderUnavailable(
            f"{self._provider} did not answer for {what} in {ATTEMPTS} attempts ({refusal}): retry in some minutes; "
            "bars stored so far are kept."
        )

    def _acquire(self, what: str) -> None:
        if self._cooldown_until is not None and self._now() < self._cooldown_until:
            raise ProviderUnavailable(
                f"{self._provider} refused {self._refusals} calls in a row and is not called for {what}: retry after "
                f"{format_instant(self._cooldown_until)}."
            )
        if self.calls_left <= 0:
            raise ProviderUnavailable(
                f"the {self._calls_per_hour:,} calls an hour to {self._provider} are used up, and {what} were not "
                f"requested: retry after {format_instant(self._calls[0] + HOUR)}."
            )
        self._refill()
        if self._tokens < 1:
            self._sleep((1 - self._tokens) / self._calls_per_s)
            self._refill()
        # Negative if the clock was set back during the sleep, which did take place.
        self._tokens = max(0.0, self._tokens - 1)
        self._calls.append(self._now())

    def _refill(self) -> None:
        now = self._now()
        passed_s = max(0.0, (now - self._filled_at).total_seconds())
        self._tokens = min(float(self._burst), self._tokens + passed_s * self._calls_per_s)
        self._filled_at = now

    def _record_refusal(self) -> None:
        self._refusals += 1
        if self._refusals >= self._refusals_max:
            self._cooldown_until = self._now() + self._cooldown


def backoff_s(attempt: int, what: str, at: datetime) -> float:
    """Return the seconds to wait before an attempt: exponential backoff with full jitter, up to `BACKOFF_MAX_S`."""
    return min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt) * hash_fraction(what, str(attempt), at.isoformat())


def hash_fraction(*parts: str) -> float:
    """Return a pseudorandom number from 0 up to, but not including, 1, derived from texts."""
    return int.from_bytes(sha256("\n".join(parts).encode()).digest()[:6]) / 2**48
