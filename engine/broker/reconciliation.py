"""Reconciliation: an account's book, folded from the log, held against the record its broker kept by itself.

Cash, every position and every working order are compared exactly. What one of them lacks is a difference, not zero.
A difference is told to the account like a person's halt, and both reach its run slot by slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from engine.broker.blotter import AccountState
from engine.trading.book import Book


class ReconciliationLine(NamedTuple):
    """One amount by both records; None where one of them has none."""

    what: str
    book: Decimal | None
    broker: Decimal | None

    @property
    def equal(self) -> bool:
        return self.book == self.broker


def compare_account(book: Book, broker: AccountState) -> list[ReconciliationLine]:
    """Every amount that either record has: cash, then positions, then what is left of working orders."""
    ours = account_state_of(book)
    return [
        ReconciliationLine("cash", ours.cash, broker.cash),
        *_pair_amounts("position", ours.positions, broker.positions),
        *_pair_amounts("order", ours.working, broker.working),
    ]


def account_state_of(book: Book) -> AccountState:
    """What an account holds by its book."""
    return AccountState(
        book.cash,
        {symbol: position.quantity for symbol, position in book.positions.items()},
        {order.order_id: order.quantity for order in book.working.values()},
    )


def _pair_amounts(kind: str, ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]) -> list[ReconciliationLine]:
    return [ReconciliationLine(f"{kind} {name}", ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs})]


SHOWN_MAX = 5


def describe_discrepancies(lines: Sequence[ReconciliationLine]) -> str:
    """The lines that differ in one sentence; empty when none does."""
    differing = [line for line in lines if not line.equal]
    described = [
        f"{line.what} is {_text(line.book)} in the book and {_text(line.broker)} at the broker"
        for line in differing[:SHOWN_MAX]
    ]
    more = len(differing) - len(described)
    return "; ".join([*described, f"and {more} more"] if more else described)


def _text(amount: Decimal | None) -> str:
    return "missing" if amount is None else f"{amount:,f}"
