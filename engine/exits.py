"""When the book gives up a position by its own rules. (An opposite wish closes too: see `decide`.)"""

from __future__ import annotations

from engine.book import Book
from engine.config import Exits
from engine.market import Symbol
from engine.orders import Wish


def holding_bars(exits: Exits, wish: Wish) -> int | None:
    """After how many bars a position opened by this wish is given up; None for never."""
    if exits.from_decision and wish.horizon_bars is not None:
        return wish.horizon_bars
    return exits.holding_bars


def overdue(book: Book, symbol: Symbol, bars_held: int) -> bool:
    """Whether the symbol's position has been held for its number of bars; its entry bar is the first."""
    position = book.positions.get(symbol)
    return position is not None and position.holding_bars is not None and bars_held >= position.holding_bars
