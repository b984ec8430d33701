"""Supervision of a traded account: reconciliation of each slot, and the commands of operators for its run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from engine.broker.blotter import PostgresBlotter
from engine.broker.reconciliation import compare_account, describe_discrepancies
from engine.runtime import halts
from engine.store import Cause, Store
from engine.trading.book import Book
from engine.trading.circuit_breakers import Command


class AccountMonitor:
    """What an account is told while a run trades it: halts and resumes by persons, and the drifts that are found.

    Slots come in order, from the first one at every start. `warn` hears of each new alarm.
    """

    def __init__(
        self, store: Store, account: str, blotter: PostgresBlotter, cause: Cause, warn: Callable[[str], None]
    ) -> None:
        self._store, self._account, self._blotter, self._cause, self._warn = store, account, blotter, cause, warn
        self._applied_version: int | None = None

    def reconcile(self, book: Book, until: datetime) -> None:
        """Compares a book with the record as both stood at an instant; where they differ, alerts and halts."""
        discrepancies = describe_discrepancies(compare_account(book, self._blotter.account_state(until)))
        if discrepancies and halts.raise_alert(self._store, self._account, discrepancies, self._cause):
            self._warn(f"account {self._account} is halted: {discrepancies}")

    def commands(self, due_at: datetime, book: Book, until: datetime | None) -> list[Command]:
        """What was told since the slot before; `book` is how that one left it, `until` when, None before the first.

        What a slot is told is settled before it begins. Done again after a crash it is told the same, though more
        may have been said since: the broker may have acted on it already.
        """
        upto = self._blotter.slot_version(due_at)
        if upto is None:
            if until is not None:
                self.reconcile(book, until)
            upto = self._blotter.record_slot_version(
                due_at, halts.control_version(self._store, self._account, self._applied_version or 0)
            )
        commands, self._applied_version = (
            halts.commands_between(self._store, self._account, self._applied_version, upto),
            upto,
        )
        return commands
