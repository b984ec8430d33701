"""Changes to a log's name and to its file of anchors, as events: a copy is adopted, a lost file is begun again."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from engine.audit.anchors import Anchor
from engine.audit.signing import Flaw, Standing, anchor, set_aside, standing
from engine.audit.verify import verify
from engine.core.errors import BadInput
from engine.core.events import AnchoringRestarted, Event, LogAdopted
from engine.core.upcasters import event_names
from engine.store import Batch, Cause, Recorded, Store, read_from


def log_stream(log_id: str) -> str:
    return f"log:{log_id}"


def begin_anew(
    store: Store, conn: psycopg.Connection[Any], home: Path, at: datetime, cause: Cause, reason: str
) -> Anchor:
    """Begins a new file of anchors where the head can no longer be signed, and records that as an event.

    The present file is kept under another name. Raises `BadInput` where nothing stands in the way of a signature, and
    for a copy, which is adopted instead.
    """
    found = standing(conn, home)
    if found.flaw is Flaw.COPY:
        raise BadInput(found.refusal)
    if found.flaw is None:
        raise BadInput(
            f"the anchors of this log are whole, the last of {len(found.anchors)} in {found.file}: sign the head with "
            "`quantagent audit anchor`, without --begin-anew."
        )
    _record(store, str(found.log), _restarted(found, reason), cause)
    set_aside(home, found, at)
    made = anchor(conn, home, at)
    assert made is not None
    return made


def _restarted(found: Standing, reason: str) -> AnchoringRestarted:
    """What is remembered counts: it is newer than what is left of the file, or the same."""
    known = found.remembered or (found.anchors[-1] if found.anchors else None)
    seal, position, hashed = (known.seal, known.position, known.hash) if known else (0, 0, "")
    return AnchoringRestarted(str(found.log), seal, position, hashed, reason)


def adopt(
    store: Store, owner: psycopg.Connection[Any], home: Path, at: datetime, cause: Cause, reason: str
) -> tuple[LogAdopted, Anchor]:
    """Makes a copy of a log a log of its own, recorded as an event that names its parent, and signs its head.

    `owner` may write to the tables of the log's identity. What this home holds of the parent's anchors must hold for
    the copy as far as it goes. Raises `BadInput` for what is no copy, and for a copy that was changed.
    """
    found = standing(owner, home)
    parent = str(found.log)
    if found.flaw is not Flaw.COPY:
        raise BadInput(
            f"this database is the one that log {parent} is kept in, and no copy of it: there is nothing to adopt."
        )
    row = _adoption_of(store, parent)
    if row is None:
        _check_copy(owner, found)
        (log_id,) = owner.execute("SELECT gen_random_uuid()::text").fetchone() or ("",)
        _record(store, str(log_id), LogAdopted(str(log_id), parent, found.database, reason), cause)
        row = _adoption_of(store, parent)
    assert row is not None
    adopted = row.event
    assert isinstance(adopted, LogAdopted)
    with owner.transaction():
        owner.execute(
            "INSERT INTO quantagent.log_identity (log_id, parent, after_seal) "
            "SELECT %s, %s, max(seal) - 1 FROM quantagent.seals WHERE first_position <= %s",
            (adopted.log_id, parent, row.position),
        )
        owner.execute(
            "INSERT INTO quantagent.log_databases (log_id, database) VALUES (%s, %s)", (adopted.log_id, found.database)
        )
    made = anchor(owner, home, at)
    assert made is not None
    return adopted, made


def _adoption_of(store: Store, parent: str) -> Recorded | None:
    """The event that gives a copy its name; there already where an adoption was cut off after it."""
    for row in read_from(store, event_names([LogAdopted])):
        if isinstance(row.event, LogAdopted) and row.event.parent == parent:
            return row
    return None


def _check_copy(conn: psycopg.Connection[Any], found: Standing) -> None:
    """The copy holds what its parent's anchors vouch for, up to its end."""
    (head,) = conn.execute("SELECT coalesce(max(seal), 0) FROM quantagent.seals").fetchone() or (0,)
    finding = verify(conn, [each for each in found.anchors if each.seal <= head]).finding
    if finding is not None:
        raise BadInput(
            f"the copy is not adopted, because it was changed at position {finding.position:,} ({finding.what}): "
            "restore it from a backup again."
        )


def _record(store: Store, log_id: str, fact: Event, cause: Cause) -> None:
    stream = log_stream(log_id)
    store.append([Batch(stream, sum(1 for _ in store.read(stream)), [fact])], cause)
