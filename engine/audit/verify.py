"""Verification of the log: detects events that were changed, removed, added or moved.

Checks every row and every link of the chain, then the anchors, and stops at the first defect. No seal is trusted: every
hash is recomputed from the rows, every seal must continue the previous one, and every anchor must match its seal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from engine.audit.anchors import Anchor, key_findings, signature_findings, sort_by_seal
from engine.audit.chain import AuditFinding, LogIdentity, genesis_seal, link_findings, read_lineage, seals_after
from engine.audit.timestamps import RecordingTimes
from engine.core.errors import UnreadableEvent
from engine.core.events import AnchoringRestarted, Event, LogAdopted
from engine.store.codec import decode_entry
from engine.store.hash_chain import COPY_BEGIN, COPY_END, Seal, SealBuilder

_ROWS = (
    "COPY (SELECT originator_id, originator_version, topic, state, notification_id FROM quantagent.events "
    "WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id) TO STDOUT (FORMAT binary)"
)

# Offset of the event name in a row, and prefixes of the events that name the log.
_NAME_AT = 38
_IDENTITY_EVENTS = (b"LogAdopted.", b"AnchoringRestarted.")

# Positions begin at 1, but a forged row may have any.
_BELOW_ALL = -(2**63)


class VerificationReport(NamedTuple):
    """Result of a verification up to the head.

    anchored_to: the last position that an anchor vouches for, or 0. notices: observations that are not changes of the
    log, such as a server clock that went back.
    """

    log: UUID
    events: int
    last_position: int
    seals: int
    head: str
    anchors: int
    anchored_to: int
    finding: AuditFinding | None
    notices: tuple[str, ...] = ()


def verify_log(
    conn: psycopg.Connection[Any],
    anchors: Sequence[Anchor] = (),
    trusted_key: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> VerificationReport:
    """Verify the whole log, on a connection whose transaction sees one state of it.

    trusted_key: public key, in hexadecimal, that must belong to the succession of keys that signed the anchors; without
    it, an anchor only has to be signed by the key it names. progress: called with the number of events done and in
    total.
    """
    walk = _LogWalk(conn, anchors, trusted_key, progress)
    with closing(walk.findings()) as findings:
        finding = next(findings, None)
    last = walk.last
    return VerificationReport(
        walk.log_id,
        walk.events,
        last.last_position,
        last.seal,
        last.hash.hex(),
        len(anchors),
        walk.anchored_to,
        finding,
        tuple(walk.notices()),
    )


class _LogWalk:
    """One pass over the log, seal by seal; `last` is the last seal that was verified."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        anchors: Sequence[Anchor],
        trusted_key: str | None,
        progress: Callable[[int, int], None],
    ) -> None:
        self._conn, self._trusted_key, self._progress = conn, trusted_key, progress
        self._anchors = sort_by_seal(anchors)
        self._lineage = read_lineage(conn)
        self.log_id = self._lineage[-1].log
        self.last = genesis_seal(self._lineage)
        self.events = self.anchored_to = 0
        self._times = RecordingTimes()
        self._adopted: list[LogAdopted] = []
        self._restarts: list[str] = []

    def findings(self) -> Generator[AuditFinding]:
        """Yield every defect, in log order. Defects after the first may be consequences of it."""
        for anchor in self._anchors:
            yield from signature_findings(anchor, self._lineage)
        yield from key_findings(self._anchors, self._trusted_key)
        (total,) = self._conn.execute("SELECT count(*) FROM quantagent.events").fetchone() or (0,)
        waiting = iter(self._anchors)
        anchor = next(waiting, None)
        for seal, rows in _sealed_rows(self._conn):
            yield from link_findings(seal, self.last)
            yield from row_findings(seal, rows)
            while anchor is not None and anchor.seal == seal.seal:
                yield from anchor_findings(anchor, seal, self.anchored_to)
                self.anchored_to = anchor.position
                anchor = next(waiting, None)
            self._times.add(seal, rows)
            for row in [row for row in rows if row.startswith(_IDENTITY_EVENTS, _NAME_AT)]:
                self._record_identity_event(row)
            self.last = seal
            self.events += len(rows)
            self._progress(self.events, total)
        yield from unsealed_findings(self._conn, self.last)
        if anchor is not None:
            yield from tail_findings(anchor, self.last)
        yield from adoption_findings(self._lineage, self._adopted)

    def _record_identity_event(self, row: bytes) -> None:
        position = _position_of(row)
        match _decode_event(row):
            case LogAdopted() as adopted:
                self._adopted.append(adopted)
            case AnchoringRestarted(position=before, reason=reason):
                self._restarts.append(
                    f"anchoring was restarted at position {position:,}, after an anchor of position {before:,}: "
                    f"{reason}"
                )
            case _:
                pass

    def notices(self) -> Iterator[str]:
        """Yield observations that are not changes of the log."""
        yield from self._times.notices()
        yield from self._restarts


def _sealed_rows(conn: psycopg.Connection[Any]) -> Iterator[tuple[Seal, list[bytes]]]:
    """Yield every seal in order, with the rows between the previous seal and it, in the format of binary COPY."""
    number, position = 0, _BELOW_ALL
    while page := seals_after(conn, number):
        rows = _rows_between(conn, position, max(seal.last_position for seal in page))
        row = next(rows, None)
        for seal in page:
            covered: list[bytes] = []
            while row is not None and _position_of(row) <= seal.last_position:
                covered.append(row)
                row = next(rows, None)
            yield seal, covered
        number, position = page[-1].seal, page[-1].last_position


def _rows_between(conn: psycopg.Connection[Any], after: int, last: int) -> Iterator[bytes]:
    """Yield rows in the format of binary COPY, without the header before the first row and without the trailer.

    libpq returns COPY data one row at a time.
    """
    with conn.cursor().copy(_ROWS, (after, last)) as copy:
        for chunk in copy:
            row = bytes(chunk).removeprefix(COPY_BEGIN)
            if row not in (b"", COPY_END):
                yield row


def _position_of(row: bytes) -> int:
    return int.from_bytes(row[-8:], signed=True)


def _decode_event(row: bytes) -> Event | None:
    """Return the event of a row, or None if it cannot be read."""
    at, parts = _NAME_AT - 4, list[bytes]()
    for _ in range(2):
        end = at + 4 + int.from_bytes(row[at : at + 4])
        parts.append(row[at + 4 : end])
        at = end
    try:
        return decode_entry(_position_of(row), 0, parts[0].decode(), parts[1]).event
    except UnreadableEvent:
        return None


# --- Checks -------------------------------------------------------------------------------------------------------


def row_findings(seal: Seal, rows: Sequence[bytes]) -> Iterator[AuditFinding]:
    """Check the rows of an append against its seal."""
    sealing = SealBuilder(*seal[:5], seal.sealed_at, seal.sealed_by)
    sealing.add(rows)
    computed = sealing.build()
    if (computed.hash, computed.checks, len(rows)) == (seal.hash, seal.checks, seal.events):
        return
    place = _first_difference(computed.checks, seal.checks)
    among = f"seal {seal.seal} of positions {seal.first_position} to {seal.last_position}"
    if len(rows) < seal.events:
        at = _position_of(rows[place]) if place < len(rows) else seal.last_position
        yield AuditFinding(at, f"{seal.events - len(rows)} event(s) of {among} are missing, at or before this position")
    elif len(rows) > seal.events:
        at = _position_of(rows[min(place, len(rows) - 1)])
        yield AuditFinding(at, f"{len(rows) - seal.events} event(s) were added to {among}")
    elif place < len(rows):
        yield AuditFinding(_position_of(rows[place]), f"the event was changed: it does not match {among}")
    else:
        yield AuditFinding(seal.first_position, f"the hash of {among} does not match its events")


def _first_difference(ours: bytes, theirs: bytes) -> int:
    """Return the index of the first row that differs, by the 4 bytes kept of each row."""
    pairs = zip(range(0, len(ours), 4), range(0, len(theirs), 4), strict=False)
    return next((a // 4 for a, b in pairs if ours[a : a + 4] != theirs[b : b + 4]), min(len(ours), len(theirs)) // 4)


def anchor_findings(anchor: Anchor, seal: Seal, good_until: int) -> Iterator[AuditFinding]:
    if (anchor.hash, anchor.position) != (seal.hash.hex(), seal.last_position):
        yield AuditFinding(
            good_until + 1,
            f"the chain was rewritten: seal {seal.seal} is not the one anchored at {anchor.at}, so an event "
            f"between positions {good_until + 1} and {seal.last_position} was changed",
        )


def unsealed_findings(conn: psycopg.Connection[Any], last: Seal) -> Iterator[AuditFinding]:
    after = last.last_position if last.seal else _BELOW_ALL
    row = conn.execute(
        "SELECT min(notification_id) FROM quantagent.events WHERE notification_id > %s", (after,)
    ).fetchone()
    if row is not None and row[0] is not None:
        yield AuditFinding(row[0], "the event has no seal: it was not written by an append")


def tail_findings(anchor: Anchor, last: Seal) -> Iterator[AuditFinding]:
    yield AuditFinding(
        last.last_position + 1,
        f"the log ends at seal {last.seal}, but seal {anchor.seal} was anchored at {anchor.at}: its tail was cut off",
    )


def adoption_findings(lineage: Sequence[LogIdentity], adopted: Sequence[LogAdopted]) -> Iterator[AuditFinding]:
    """Check that the names of the log are those recorded by its events."""
    named = [(str(each.log), str(each.parent)) for each in lineage if each.parent is not None]
    if named != [(each.log_id, each.parent) for each in adopted]:
        yield AuditFinding(0, f"the log was renamed: its events do not name it {lineage[-1].log}")
