"""Slots of the scheduler: due instants of an account, claimed once and completed once, as events in the log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from engine.core.events import SlotClaimed, SlotCompleted, SlotFailed
from engine.core.market import Symbol, instant_text
from engine.core.upcasters import event_names
from engine.store import Batch, Cause, Store, read_from


class Slot(NamedTuple):
    """One due instant of an account and timeframe: all symbols with a bar that closes then."""

    account: str
    timeframe: str
    due_at: datetime
    symbols: tuple[Symbol, ...]

    @property
    def stream(self) -> str:
        return f"slot:{self.account}:{self.timeframe}:{instant_text(self.due_at)}"


def completed_slots(store: Store, run_id: str) -> dict[datetime, datetime]:
    """Return the completion time of each slot of a run, by due instant."""
    return {
        row.event.due_at: row.meta.recorded_at
        for row in read_from(store, event_names([SlotCompleted]))
        if isinstance(row.event, SlotCompleted) and row.meta.correlation == run_id
    }


def claim(store: Store, slot: Slot, run_id: str, instance: str, cause: Cause) -> bool:
    """Claim a slot; return false if it is already completed. An uncompleted claim is taken over.

    Raise `VersionConflict` if another process claims the slot at the same time.
    """
    events = [row.event for row in store.read(slot.stream)]
    if events and isinstance(events[-1], SlotCompleted):
        return False
    claimed = SlotClaimed(slot.account, slot.timeframe, slot.due_at, slot.symbols, run_id, instance)
    if not events or events[-1] != claimed:
        store.append([Batch(slot.stream, len(events), [claimed])], cause)
    return True


def complete(store: Store, slot: Slot, outcomes: Sequence[tuple[Symbol, str]], cause: Cause) -> None:
    """Record the outcome of each symbol, once; a slot that another claimant completed is left unchanged."""
    events = [row.event for row in store.read(slot.stream)]
    if not any(isinstance(event, SlotCompleted) for event in events):
        completed_event = SlotCompleted(slot.account, slot.due_at, tuple(outcomes))
        store.append([Batch(slot.stream, len(events), [completed_event])], cause)


def fail(store: Store, slot: Slot, reason: str, cause: Cause) -> None:
    """Record the failure of a slot; a later claim retries it."""
    failed = SlotFailed(slot.account, slot.due_at, reason)
    store.append([Batch(slot.stream, sum(1 for _ in store.read(slot.stream)), [failed])], cause)
