"""Bars: where they are kept, what may enter, and what a set of them is called.

`Bars` is the protocol; `catalogue` keeps bars in PostgreSQL and `memory` in dictionaries, both behind the rules in
`checks`; `files` reads bars from disk. No network here, and the time at which bars were learned is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.market import Bar, Instrument, Symbol, Timeframe

if TYPE_CHECKING:
    import polars as pl


class Added(NamedTuple):
    """What `Bars.add` did: how many bars were new, and how many were stored already with the same values."""

    new: int
    known: int


class Held(NamedTuple):
    """What a catalogue holds of one symbol and timeframe, from the first open to the last close."""

    symbol: Symbol
    timeframe: Timeframe
    first: datetime
    last: datetime
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - what a person would call it


class Refused(NamedTuple):
    """A row of a file that is no usable bar: its number in the file from 1, its text, and why."""

    row: int
    line: str
    reason: str


class Import(NamedTuple):
    """One import that brought something new: who brought what from where, and what was refused."""

    symbol: Symbol
    timeframe: Timeframe
    source: str
    actor: str
    learned_at: datetime
    digest: str
    rows: int
    refused: tuple[Refused, ...]


class Bars(Protocol):
    """A catalogue of bars. A range holds the bars that open at or after `start` and close at or before `end`.

    Reading nothing is an error: `NotFound` for a symbol without bars, `BadInput` for a range without any, naming
    what there is.
    """

    def add(
        self,
        symbol: Symbol,
        timeframe: Timeframe,
        bars: Sequence[Bar],
        *,
        source: str,
        learned_at: datetime,
        actor: str = "",
        refused: Sequence[Refused] = (),
    ) -> Added:
        """Stores all bars or none, and may be repeated: bars stored already with the same values are counted as known.

        Raises `BadInput` for a bar that is impossible, not yet closed at `learned_at`, overlaps another one, or is
        stored with other values.
        """
        ...

    def frame(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        """Bars for analysis, in order: opened_at, closed_at (UTC, microseconds), open, high, low, close, volume
        (floats)."""
        ...

    def bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Bar]:
        """Bars for deciding and filling, in order, with exact prices."""
        ...

    def digest(
        self,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> str:
        """The name of a dataset: SHA-256, in hexadecimal, of the lines (`checks.bar_line`) of exactly these bars,
        one symbol after the other in the given order."""
        ...

    def listing(self) -> list[Held]:
        """What there is, by symbol and timeframe."""
        ...

    def imports(self) -> list[Import]:
        """Every import that brought something new, oldest first."""
        ...

    def instrument(self, symbol: Symbol) -> Instrument:
        """The saved instrument of a symbol, else the built-in or usual one."""
        ...

    def save_instrument(self, instrument: Instrument) -> None:
        """Saves an instrument in place of the one that had its symbol."""
        ...
