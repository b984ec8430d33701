"""Market data observed by an account: last bars, marks and ranges, and the market views for decisions."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from engine.core.config import RunConfig
from engine.core.market import Bar, Symbol
from engine.core.money import ZERO
from engine.core.session_ends import Schedule
from engine.core.step import MarketView
from engine.trading.book import Book
from engine.trading.exits import RANGE_BARS, true_range


class MarketState:
    """Observed bars of one account's symbols, in the order of their closes.

    marks: the last price of each symbol; latest: its last closed bar; bars: number of closed bars of traded symbols.
    """

    def __init__(self, config: RunConfig, schedule: Schedule) -> None:
        self.schedule = schedule
        self.marks: dict[Symbol, Decimal] = {}
        self.latest: dict[Symbol, Bar] = {}
        self.bars = 0
        self._opens: dict[Symbol, list[datetime]] = {symbol: [] for symbol in config.symbols}
        self._ranges: dict[Symbol, deque[Decimal]] = {
            symbol: deque(maxlen=RANGE_BARS) for symbol in config.symbols if config.exits_of(symbol).stop_ranges
        }

    def observe(self, closed: Iterable[Bar]) -> None:
        """Add closed bars."""
        for bar in closed:
            if bar.symbol in self._ranges:
                self._ranges[bar.symbol].append(true_range(bar, self.latest.get(bar.symbol)))
            self.latest[bar.symbol] = bar
            self.marks[bar.symbol] = bar.close
            if bar.symbol in self._opens:
                self._opens[bar.symbol].append(bar.opened_at)
                self.bars += 1

    def quote(self, symbol: Symbol, price: Decimal, at: datetime) -> None:
        """Add a quoted price, which counts as a close with the volume of the previous bar."""
        before = self.latest.get(symbol)
        if before is None or before.closed_at < at:
            self.latest[symbol] = Bar(symbol, at, at, price, price, price, price, self.volume(symbol))
        self.marks[symbol] = price

    def volume(self, symbol: Symbol) -> Decimal:
        """Return the volume of the last closed bar; 0 before the first."""
        before = self.latest.get(symbol)
        return ZERO if before is None else before.volume

    def is_traded(self, symbol: Symbol) -> bool:
        """Return true for a symbol that the account trades; others only convert currencies."""
        return symbol in self._opens

    def view(self, at: datetime, previous_at: datetime | None, closed: tuple[Bar, ...], book: Book) -> MarketView:
        """Return the market view of an instant, for `engine.trading`."""
        return MarketView(
            at, previous_at, closed, self.latest, self.marks, self._bars_held(book), self._ranges, self.schedule
        )

    def _bars_held(self, book: Book) -> dict[Symbol, int]:
        held: dict[Symbol, int] = {}
        for symbol, position in book.positions.items():
            opens = self._opens[symbol]
            held[symbol] = len(opens) - bisect_left(opens, position.opened_at)
        return held
