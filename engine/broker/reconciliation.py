"""Reconciliation: an account's book, folded from the log, held against the record its broker kept by itself.

Cash, every position and every working order are compared exactly. What one of them lacks is a difference, not zero.
A difference is told to the account like a person's halt, and both reach its run slot by slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from engine.broker.blotter import Standing
from engine.trading.book import Book


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
