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
    """Monitor of one account: reconciles its book with the broker's record and provides operator commands per slot.

    Slots are processed in order, from the first one after every start. `warn` receives each new alert.
    """

    def __init__(
        self, store: Store, account: str, blotter: PostgresBlotter, cause: Cause, warn: Callable[[str], None]
    ) -> None:
        self._store, self._account, self._blotter, self._cause, self._warn = store, account, blotter, cause, warn
        self._applied_version: int | None = None

    def reconcile(self, book: Book, until: datetime) -> None:
        """Compare the book with the broker's record at an instant; raise an alert and halt on a difference."""
        discrepancies = describe_discrepancies(compare_account(book, self._blotter.account_state(until)))
        if discrepancies and halts.raise_alert(self._store, self._account, discrepancies, self._cause):
            self._warn(f"account {self._account} is halted: {discrepancies}")

    def commands(self, due_at: datetime, book: Book, until: datetime | None) -> list[Command]:
        """Return the commands since the previous slot, which left `book` at `until`; None before the first slot.

        The commands of a slot are fixed before it begins. Repeated after a crash, a slot gets the same commands, even
        if more have been issued since, because the broker may already have acted on them.
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
