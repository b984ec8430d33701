"""Was anything in the log changed, removed, added or moved? Every row and every link, then the anchors.

Stops at the first thing that is wrong and names its position. It trusts no seal: every hash is computed anew from the
rows, every seal must continue the one before it, and every anchor must meet its seal.
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

# Where the name of an event begins in a row, and how the names begin that say which log this is.
_NAME_AT = 38
_IDENTITY_EVENTS = (b"LogAdopted.", b"AnchoringRestarted.")

# Positions begin at 1, but somebody who adds a row may give it any.
_BELOW_ALL = -(2**63)


class VerificationReport(NamedTuple):
    """What was checked, up to the head. `anchored_to` is the last position that an anchor vouches for, else 0.

    notices: what is no change to the log but should be known, such as a server's clock that went back.
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
    """Checks the whole log, on a connection whose transaction sees one state of it.

    `trusted_key`: the public key, in hexadecimal, that the anchors must be signed with, or a key that it follows or
    that follows it; without it an anchor only has to be signed by the key it names. `progress` gets how many events are
    done, and of how many.
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
    """One way through the log, seal by seal; `last` is the seal that was found good last."""

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
        """Everything that is wrong, in the order of the log. What comes after the first may only follow from it."""
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
                    f"anchoring began anew at position {position:,}, after an anchor of position {before:,}: {reason}"
                )
            case _:
                pass

    def notices(self) -> Iterator[str]:
        """What is no change and should be known."""
        yield from self._times.notices()
        yield from self._restarts


def _sealed_rows(conn: psycopg.Connection[Any]) -> Iterator[tuple[Seal, list[bytes]]]:
    """Every seal in order, with the rows, spelled as in binary COPY, that lie after the seal before it and up to it."""
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
    """libpq hands out COPY data one row at a time; the first comes behind the header, the trailer comes alone."""
    with conn.cursor().copy(_ROWS, (after, last)) as copy:
        for chunk in copy:
            row = bytes(chunk).removeprefix(COPY_BEGIN)
            if row not in (b"", COPY_END):
                yield row


def _position_of(row: bytes) -> int:
    return int.from_bytes(row[-8:], signed=True)


def _decode_event(row: bytes) -> Event | None:
    """The fact in a row, None where it cannot be read."""
    at, parts = _NAME_AT - 4, list[bytes]()
    for _ in range(2):
        end = at + 4 + int.from_bytes(row[at : at + 4])
        parts.append(row[at + 4 : end])
        at = end
    try:
        return decode_entry(_position_of(row), 0, parts[0].decode(), parts[1]).event
    except UnreadableEvent:
        return None


# --- The checks: each yields what it finds -------------------------------------------------------------------------


def row_findings(seal: Seal, rows: Sequence[bytes]) -> Iterator[AuditFinding]:
    """The content: every row of the append, whole."""
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
        yield AuditFinding(at, f"{len(rows) - seal.events} event(s) were added that {among} does not know")
    elif place < len(rows):
        yield AuditFinding(_position_of(rows[place]), f"the event is not the one that {among} closed: it was changed")
    else:
        yield AuditFinding(seal.first_position, f"the events and the hash of {among} do not belong together")


def _first_difference(ours: bytes, theirs: bytes) -> int:
    """Which row differs first, by the 4 bytes that each has."""
    pairs = zip(range(0, len(ours), 4), range(0, len(theirs), 4), strict=False)
    return next((a // 4 for a, b in pairs if ours[a : a + 4] != theirs[b : b + 4]), min(len(ours), len(theirs)) // 4)


def anchor_findings(anchor: Anchor, seal: Seal, good_until: int) -> Iterator[AuditFinding]:
    if (anchor.hash, anchor.position) != (seal.hash.hex(), seal.last_position):
        yield AuditFinding(
            good_until + 1,
            f"the chain was made anew: seal {seal.seal} is not the one anchored at {anchor.at}, so that something "
            f"between positions {good_until + 1} and {seal.last_position} was changed",
        )


def unsealed_findings(conn: psycopg.Connection[Any], last: Seal) -> Iterator[AuditFinding]:
    after = last.last_position if last.seal else _BELOW_ALL
    row = conn.execute(
        "SELECT min(notification_id) FROM quantagent.events WHERE notification_id > %s", (after,)
    ).fetchone()
    if row is not None and row[0] is not None:
        yield AuditFinding(row[0], "the event has no seal: it did not come through an append")


def tail_findings(anchor: Anchor, last: Seal) -> Iterator[AuditFinding]:
    yield AuditFinding(
        last.last_position + 1,
        f"the log ends at seal {last.seal}, but seal {anchor.seal} was anchored at {anchor.at}: its tail was cut off",
    )


def adoption_findings(lineage: Sequence[LogIdentity], adopted: Sequence[LogAdopted]) -> Iterator[AuditFinding]:
    """The names of the log are those that its events gave it."""
    named = [(str(each.log), str(each.parent)) for each in lineage if each.parent is not None]
    if named != [(each.log_id, each.parent) for each in adopted]:
        yield AuditFinding(0, f"the log is called {lineage[-1].log}, and its events do not say so: it was renamed")
