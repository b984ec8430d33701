"""Bars: where they are kept, what may enter, and what a set of them is called.

`Bars` is the protocol; `catalogue` keeps bars in PostgreSQL and `memory` in dictionaries, both behind the rules in
`checks`; `files` reads bars from disk. No network here, and the time at which bars were learned is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.core.market import Bar, Instrument, Symbol, Timeframe

if TYPE_CHECKING:
    import polars as pl

    from engine.data.calendars import Span
    from engine.data.validation import ValidatedBars


NOTHING_KNOWN = datetime.min.replace(tzinfo=UTC)
"""The instant by which an empty catalogue has learned everything in it."""


class Added(NamedTuple):
    """What adding did: how many bars were new, stored already with the same values, or stored with other ones and
    corrected."""

    new: int
    known: int
    corrected: int = 0


class StoredSeries(NamedTuple):
    """What a catalogue holds of one symbol and timeframe, from the first open to the last close."""

    symbol: Symbol
    timeframe: Timeframe
    first: datetime
    last: datetime
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - what a person would call it


class RefusedRow(NamedTuple):
    """A row of a file that is no usable bar: its number in the file from 1, its text, and why."""

    row: int
    line: str
    reason: str


class ImportRecord(NamedTuple):
    """One import that brought something new: who brought what from where, and what was refused."""

    symbol: Symbol
    timeframe: Timeframe
    source: str
    actor: str
    learned_at: datetime
    digest: str
    rows: int
    refused: tuple[RefusedRow, ...]


class Revision(NamedTuple):
    """A bar as it was learned at an instant; the first revision has number 1."""

    bar: Bar
    revision: int
    learned_at: datetime
    source: str


class ProviderRequest(NamedTuple):
    """What a provider was asked for, and how many rows it had."""

    provider: str
    span: Span
    requested_at: datetime
    rows: int


class BarCatalogue(Protocol):
    """A catalogue of bars. A range holds the bars that open at or after `start` and close at or before `end`.

    Bars are never overwritten: a corrected bar is a revision beside the one before, and the latest is what is read.
    Whatever is stored is learned later than all that was stored before it: where the clock says otherwise, a
    microsecond later.

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
        refused: Sequence[RefusedRow] = (),
        correct: bool = False,
    ) -> Added:
        """Stores all bars or none, and may be repeated: bars stored already with the same values are counted as known.

        `correct`: a bar that is stored with other values becomes its next revision. Raises `BadInput` for a bar that is
        impossible, not yet closed at `learned_at`, overlaps another one, or, without `correct`, is stored with other
        values.
        """
        ...

    def add_validated(
        self, validated: ValidatedBars, *, source: str, learned_at: datetime, actor: str = "", correct: bool = False
    ) -> Added:
        """Add many bars that `engine.data.validation.judge` accepted, as known at `learned_at`."""
        ...

    def known_at(self) -> datetime:
        """An instant by which all was learned that is there now: whatever comes is learned later."""
        ...

    def as_known_at(self, at: datetime | None) -> BarCatalogue:
        """The same catalogue without what was learned after an instant; all of it for None. Nothing can be added."""
        ...

    def history(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        """Every revision of the bars of a range, by open and then by revision; none is no error here."""
        ...

    def revised_bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        """What `history` says of the bars that were corrected; a series that never was costs no objects."""
        ...

    def record_request(self, symbol: Symbol, timeframe: Timeframe, request: ProviderRequest) -> None:
        """Remembers what a provider was asked."""
        ...

    def provider_requests(self, symbol: Symbol, timeframe: Timeframe) -> list[ProviderRequest]:
        """What providers were asked, in the order it was remembered."""
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

    def list_series(self) -> list[StoredSeries]:
        """What there is, by symbol and timeframe."""
        ...

    def imports(self) -> list[ImportRecord]:
        """Every import that brought something new, oldest first."""
        ...

    def instrument(self, symbol: Symbol) -> Instrument:
        """The saved instrument of a symbol, else the built-in or usual one."""
        ...

    def save_instrument(self, instrument: Instrument) -> None:
        """Saves an instrument in place of the one that had its symbol."""
        ...
