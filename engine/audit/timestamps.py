"""When things were recorded: the server's time in every seal, and the time that each event says it was recorded at.

The first comes from the database, the second from the machine of whoever appended. Neither proves that the log was
changed, so that what is odd about them is a notice and no finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from engine.store.hash_chain import Seal, format_sealed_at

# An append may wait for its turn and be repeated after an outage, for a minute together.
TOLERANCE = timedelta(minutes=10)

_RECORDED_AT = b'"recorded_at":"'
_META_LENGTH = 400


class RecordingTimes:
    """Compares the times of a log, seal by seal."""

    def __init__(self) -> None:
        self._last = Seal(0, 0, 0, 0, b"", b"", b"")
        self._backwards = self._apart = 0
        self._first_backwards = self._first_apart = ""

    def add(self, seal: Seal, rows: Sequence[bytes]) -> None:
        """Takes in the next seal, and its rows as `engine.store.hash_chain.row_bytes` spells them."""
        if not seal.sealed_at:
            return
        if seal.sealed_at < self._last.sealed_at:
            self._backwards += 1
            self._first_backwards = self._first_backwards or (
                f"from {self._last.sealed_at} to {seal.sealed_at} at position {seal.first_position:,}"
            )
        self._last = seal
        try:
            at = datetime.fromisoformat(seal.sealed_at)
            earliest, latest = (format_sealed_at(each)[:19].encode() for each in (at - TOLERANCE, at + TOLERANCE))
        except (ValueError, OverflowError):
            return
        first = _recorded_at(rows[0]) if rows else b""
        # The events of one append are recorded at one time: most rows are passed by a look at their ends.
        same_time, is_near = _RECORDED_AT + first, earliest <= first <= latest
        for row in [row for row in rows if row.find(same_time, -_META_LENGTH) < 0] if is_near else rows:
            if not earliest <= _recorded_at(row) <= latest:
                self._apart += 1
                position = int.from_bytes(row[-8:], signed=True)
                self._first_apart = self._first_apart or (
                    f"position {position:,} says {_recorded_at(row).decode('ascii', 'replace')} and was sealed at "
                    f"{seal.sealed_at} by {seal.sealed_by}"
                )

    def notices(self) -> Iterator[str]:
        """A sentence for each kind of oddity that there was, without its full stop."""
        if self._backwards:
            yield f"the server's clock went back {self._backwards:,} time(s), first {self._first_backwards}"
        if self._apart:
            minutes = TOLERANCE // timedelta(minutes=1)
            yield (
                f"{self._apart:,} event(s) say that they were recorded more than {minutes} minutes from the server's "
                f"time: {self._first_apart}"
            )


def _recorded_at(row: bytes) -> bytes:
    """The time that the event in a row says it was recorded at, to the second."""
    place = row.rfind(_RECORDED_AT) + len(_RECORDED_AT)
    return row[place : place + 19]
