"""Recorded feed of a paper run: its slots, and the bars visible in them, independent of later corrections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from engine.core.events import BookEvent, RunRequested, SlotClaimed
from engine.core.market import Bar, Timeframe
from engine.data import BarCatalogue
from engine.data.timeline import TimeSlice, time_slices
from engine.runtime import runs
from engine.runtime.slots import Slot
from engine.store import PAGE, Cause, Store


class DueSlot(NamedTuple):
    """A slot, and the market's instants up to it."""

    slot: Slot
    time_slices: list[TimeSlice]


def due_slots(account: str, timeframe: Timeframe, bars_by_symbol: Sequence[Sequence[Bar]]) -> Iterator[DueSlot]:
    """Yield one slot for every instant at which bars close."""
    waiting: list[TimeSlice] = []
    for time_slice in time_slices(bars_by_symbol):
        waiting.append(time_slice)
        if time_slice.closed:
            symbols = tuple(bar.symbol for bar in time_slice.closed)
            yield DueSlot(Slot(account, timeframe.value, time_slice.at, symbols), waiting)
            waiting = []


def feed_bars(
    catalogue: BarCatalogue,
    store: Store,
    run: RunRequested,
    account: str,
    end: datetime | None,
    known_at: datetime,
    cause: Cause,
) -> list[list[Bar]]:
    """Return the bars of a paper run at its start or continuation: those it saw and, after its last slot, those known
    now. A run that has ended sees only what it saw."""
    ended = runs.result_of(store, run.run_id)
    if ended is not None:
        return runs.bars_seen(catalogue, store, run, run.config.data_symbols, ended.ended.ended_at)
    seen = runs.bars_seen(catalogue, store, run, run.config.data_symbols, end)
    if runs.lacks_data_known_at(store, run, known_at):
        known = catalogue.as_known_at(known_at)
        until = max(
            known.bars(symbol, run.config.timeframe, run.start, end)[-1].closed_at for symbol in run.config.data_symbols
        )
        runs.resume_feed(store, run, _stopped_at(store, run, account, seen), known_at, cause, until)
        seen = runs.bars_seen(catalogue, store, run, run.config.data_symbols, end)
    return seen


def _stopped_at(store: Store, run: RunRequested, account: str, seen: Sequence[Sequence[Bar]]) -> datetime:
    """Return the last slot that a run has claimed, or its start. Its book never reaches beyond that, unless another run
    of the account claimed those slots: then return the end of its book."""
    book = (row.event for row in store.read(runs.book_stream(run.run_id)))
    until = max((event.at for event in book if isinstance(event, BookEvent)), default=run.start)
    slots = [due.slot for due in due_slots(account, run.config.timeframe, seen) if due.slot.due_at > until]
    for first in range(0, len(slots), PAGE):
        page = slots[first : first + PAGE]
        entries = store.read_many([slot.stream for slot in page])
        claimed = [slot.due_at for slot in page if any(_claims(row.event, run) for row in entries.get(slot.stream, ()))]
        if not claimed:
            break
        until = claimed[-1]
    return until


def _claims(event: object, run: RunRequested) -> bool:
    return isinstance(event, SlotClaimed) and event.run_id == run.run_id
