"""Reconciliation: an account's book, folded from the log, held against the record its broker kept by itself.

Cash, every position and every working order are compared exactly. What one of them lacks is a difference, not zero.
A difference is told to the account like a person's halt, and both reach its run slot by slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from engine import halts
from engine.blotter import PostgresBlotter, Standing
from engine.book import Book
from engine.breakers import Command
from engine.store import Cause, Store


class Line(NamedTuple):
    """One amount by both records; None where one of them has none."""

    what: str
    book: Decimal | None
    broker: Decimal | None

    @property
    def equal(self) -> bool:
        return self.book == self.broker


def compared(book: Book, broker: Standing) -> list[Line]:
    """Every amount that either record has: cash, then positions, then what is left of working orders."""
    ours = standing_of(book)
    return [
        Line("cash", ours.cash, broker.cash),
        *_side_by_side("position", ours.positions, broker.positions),
        *_side_by_side("order", ours.working, broker.working),
    ]


def standing_of(book: Book) -> Standing:
    """What an account holds by its book."""
    return Standing(
        book.cash,
        {symbol: position.quantity for symbol, position in book.positions.items()},
        {order.order_id: order.quantity for order in book.working.values()},
    )


def _side_by_side(kind: str, ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]) -> list[Line]:
    return [Line(f"{kind} {name}", ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs})]


SHOWN_MAX = 5


def in_words(lines: Sequence[Line]) -> str:
    """The lines that differ in one sentence; empty when none does."""
    differing = [line for line in lines if not line.equal]
    said = [
        f"{line.what} is {_text(line.book)} in the book and {_text(line.broker)} at the broker"
        for line in differing[:SHOWN_MAX]
    ]
    more = len(differing) - len(said)
    return "; ".join([*said, f"and {more} more"] if more else said)


def _text(amount: Decimal | None) -> str:
    return "missing" if amount is None else f"{amount:,f}"


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
