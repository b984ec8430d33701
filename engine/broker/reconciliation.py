"""Reconciliation of an account's book, folded from the log, with its broker's record.

Cash, every position and every working order are compared exactly. A missing amount is a difference, not zero. A
difference halts the account through its control stream, like a halt by an operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from engine.broker.blotter import AccountState
from engine.trading.book import Book


class ReconciliationLine(NamedTuple):
    """One amount in both records; None where it is missing."""

    what: str
    book: Decimal | None
    broker: Decimal | None

    @property
    def equal(self) -> bool:
        return self.book == self.broker


def compare_account(book: Book, broker: AccountState) -> list[ReconciliationLine]:
    """Compare all amounts of both records: cash, then positions, then remaining quantities of working orders."""
    ours = account_state_of(book)
    return [
        ReconciliationLine("cash", ours.cash, broker.cash),
        *_pair_amounts("position", ours.positions, broker.positions),
        *_pair_amounts("order", ours.working, broker.working),
    ]


def account_state_of(book: Book) -> AccountState:
    """Return the state of an account according to its book."""
    return AccountState(
        book.cash,
        {symbol: position.quantity for symbol, position in book.positions.items()},
        {order.order_id: order.quantity for order in book.working.values()},
    )


def _pair_amounts(kind: str, ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]) -> list[ReconciliationLine]:
    return [ReconciliationLine(f"{kind} {name}", ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs})]


SHOWN_MAX = 5


def describe_discrepancies(lines: Sequence[ReconciliationLine]) -> str:
    """Describe the lines that differ in one sentence; empty if none does."""
    differing = [line for line in lines if not line.equal]
    described = [
        f"{line.what} is {_text(line.book)} in the book and {_text(line.broker)} at the broker"
        for line in differing[:SHOWN_MAX]
    ]
    more = len(differing) - len(described)
    return "; ".join([*described, f"and {more} more"] if more else described)


def _text(amount: Decimal | None) -> str:
    return "missing" if amount is None else f"{amount:,f}"
