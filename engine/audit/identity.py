"""Changes of a log's name and of its file of anchors, recorded as events: adoption of a copy, restart of anchoring."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from engine.audit.anchors import Anchor
from engine.audit.signing import AnchoringDefect, AnchoringState, anchoring_state, archive_anchors, sign_head
from engine.audit.verify import verify_log
from engine.core.errors import BadInput
from engine.core.events import AnchoringRestarted, Event, LogAdopted
from engine.core.upcasters import event_names
from engine.store import Batch, Cause, LogEntry, Store, read_from


def log_stream(log_id: str) -> str:
    return f"log:{log_id}"


def restart_anchoring(
    store: Store, conn: psycopg.Connection[Any], home: Path, at: datetime, cause: Cause, reason: str
) -> Anchor:
    """Begin a new file of anchors for a log whose head can no longer be signed, and record that as an event.

    The present file is kept under another name. Raise `BadInput` if the head can be signed, and for a copy, which has
    to be adopted instead.
    """
    state = anchoring_state(conn, home)
    if state.defect is AnchoringDefect.COPY:
        raise state.error()
    if state.defect is None:
        raise BadInput(
            f"the anchors of this log are complete ({len(state.anchors)} in {state.file}), so no new file is begun.",
            "ANCHORING_INTACT",
        )
    _record(store, str(state.log), _restart_event(state, reason), cause)
    archive_anchors(home, state, at)
    signed = sign_head(conn, home, at)
    assert signed is not None
    return signed


def _restart_event(state: AnchoringState, reason: str) -> AnchoringRestarted:
    """Build the event from the record of the last anchor, which is at least as new as the rest of the file."""
    known = state.last_anchor or (state.anchors[-1] if state.anchors else None)
    seal, position, hashed = (known.seal, known.position, known.hash) if known else (0, 0, "")
    return AnchoringRestarted(str(state.log), seal, position, hashed, reason)


def adopt_copy(
    store: Store, owner: psycopg.Connection[Any], home: Path, at: datetime, cause: Cause, reason: str
) -> tuple[LogAdopted, Anchor]:
    """Make a copy of a log a log of its own, recorded as an event that names its parent, and sign its head.

    owner: a connection that may write to the tables of the log's identity. The copy must match the local anchors of the
    parent up to its end. Raise `BadInput` for a database that is not a copy, and for a copy that was changed.
    """
    state = anchoring_state(owner, home)
    parent = str(state.log)
    if state.defect is not AnchoringDefect.COPY:
        raise BadInput(f"this database holds log {parent} itself, not a copy of it: there is nothing to adopt.")
    row = _find_adoption(store, parent)
    if row is None:
        _check_copy(owner, state)
        (log_id,) = owner.execute("SELECT gen_random_uuid()::text").fetchone() or ("",)
        _record(store, str(log_id), LogAdopted(str(log_id), parent, state.database, reason), cause)
        row = _find_adoption(store, parent)
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
            "INSERT INTO quantagent.log_databases (log_id, database) VALUES (%s, %s)", (adopted.log_id, state.database)
        )
    signed = sign_head(owner, home, at)
    assert signed is not None
    return adopted, signed


def _find_adoption(store: Store, parent: str) -> LogEntry | None:
    """Return the event that names the copy; it exists already if an earlier adoption was interrupted after it."""
    for row in read_from(store, event_names([LogAdopted])):
        if isinstance(row.event, LogAdopted) and row.event.parent == parent:
            return row
    return None


def _check_copy(conn: psycopg.Connection[Any], state: AnchoringState) -> None:
    """Check that the copy matches its parent's anchors up to its end."""
    (head,) = conn.execute("SELECT coalesce(max(seal), 0) FROM quantagent.seals").fetchone() or (0,)
    finding = verify_log(conn, [each for each in state.anchors if each.seal <= head]).finding
    if finding is not None:
        raise BadInput(
            f"the copy was changed at position {finding.position:,} ({finding.what}) and is not adopted: restore it "
            "from a backup again."
        )


def _record(store: Store, log_id: str, event: Event, cause: Cause) -> None:
    stream = log_stream(log_id)
    store.append([Batch(stream, sum(1 for _ in store.read(stream)), [event])], cause)
