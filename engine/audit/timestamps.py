"""Comparison of recording times: the server's time in every seal, and the time recorded in each event.

The first comes from the database, the second from the machine that appended. Neither proves a change of the log, so
irregularities are notices, not findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from engine.store.hash_chain import Seal, format_sealed_at

# An append may wait for a lock and be repeated after an outage, together for about a minute.
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
        """Add the next seal and its rows, in the format of `engine.store.hash_chain.row_bytes`."""
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
        # The events of one append share a recording time, so most rows pass by comparing their ends.
        same_time, is_near = _RECORDED_AT + first, earliest <= first <= latest
        for row in [row for row in rows if row.find(same_time, -_META_LENGTH) < 0] if is_near else rows:
            if not earliest <= _recorded_at(row) <= latest:
                self._apart += 1
                position = int.from_bytes(row[-8:], signed=True)
                self._first_apart = self._first_apart or (
                    f"position {position:,} has {_recorded_at(row).decode('ascii', 'replace')} and was sealed at "
                    f"{seal.sealed_at} by {seal.sealed_by}"
                )

    def notices(self) -> Iterator[str]:
        """Yield a sentence for each kind of irregularity found, without a full stop."""
        if self._backwards:
            yield f"the server's clock went back {self._backwards:,} time(s), first {self._first_backwards}"
        if self._apart:
            minutes = TOLERANCE // timedelta(minutes=1)
            yield (
                f"{self._apart:,} event(s) have a recording time more than {minutes} minutes from the server's time: "
                f"{self._first_apart}"
            )


def _recorded_at(row: bytes) -> bytes:
    """Return the recording time in the metadata of a row's event, to the second."""
    place = row.rfind(_RECORDED_AT) + len(_RECORDED_AT)
    return row[place : place + 19]
