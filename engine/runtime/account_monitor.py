"""Supervision of a traded account: reconciliation of each slot, and the commands of operators for its run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from engine.broker.blotter import PostgresBlotter
from engine.broker.reconciliation import compared, in_words
from engine.runtime import halts
from engine.store import Cause, Store
from engine.trading.book import Book
from engine.trading.circuit_breakers import Command


class Oversight:
    """What an account is told while a run trades it: halts and resumes by persons, and the drifts that are found.

    Slots come in order, from the first one at every start. `warn` hears of each new alarm.
    """

    def __init__(
        self, store: Store, account: str, blotter: PostgresBlotter, cause: Cause, warn: Callable[[str], None]
    ) -> None:
        self._store, self._account, self._blotter, self._cause, self._warn = store, account, blotter, cause, warn
        self._told: int | None = None

    def reconcile(self, book: Book, until: datetime) -> None:
        """Compares a book with the record as both stood at an instant; where they differ, alerts and halts."""
        drift = in_words(compared(book, self._blotter.standing(until)))
        if drift and halts.alarm(self._store, self._account, drift, self._cause):
            self._warn(f"account {self._account} is halted: {drift}")

    def commands(self, due_at: datetime, book: Book, until: datetime | None) -> list[Command]:
        """What was told since the slot before; `book` is how that one left it, `until` when, None before the first.

        What a slot is told is settled before it begins. Done again after a crash it is told the same, though more
        may have been said since: the broker may have acted on it already.
        """
        upto = self._blotter.told(due_at)
        if upto is None:
            if until is not None:
                self.reconcile(book, until)
            upto = self._blotter.tell(due_at, halts.version(self._store, self._account, self._told or 0))
        told, self._told = halts.commands(self._store, self._account, self._told, upto), upto
        return told
