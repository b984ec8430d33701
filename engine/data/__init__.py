"""Market data: the catalogue of bars, their validation, and the digests of datasets.

`BarCatalogue` is the protocol; `catalogue` stores bars in PostgreSQL and `memory` in dictionaries, both with the rules
of `bar_rules`; `files` reads bars from disk. Only providers use the network. The time at which bars were learned is
always an argument.
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
"""Value of `BarCatalogue.known_at` for an empty catalogue."""


class Added(NamedTuple):
    """Result of adding bars: how many were new, already stored with the same values, or corrected."""

    new: int
    known: int
    corrected: int = 0


class StoredSeries(NamedTuple):
    """Stored bars of one symbol and timeframe: first open, last close and number."""

    symbol: Symbol
    timeframe: Timeframe
    first: datetime
    last: datetime
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - the natural name


class RefusedRow(NamedTuple):
    """Unusable row of a source: its number in the file, counted from 1, its text, and the reason."""

    row: int
    line: str
    reason: str


class ImportRecord(NamedTuple):
    """Import that changed the catalogue: what was imported by whom and from where, and the refused rows."""

    symbol: Symbol
    timeframe: Timeframe
    source: str
    actor: str
    learned_at: datetime
    digest: str
    rows: int
    refused: tuple[RefusedRow, ...]


class Revision(NamedTuple):
    """Version of a bar, as learned at an instant; the first revision has number 1."""

    bar: Bar
    revision: int
    learned_at: datetime
    source: str


class ProviderRequest(NamedTuple):
    """Request to a provider, and the number of rows returned."""

    provider: str
    span: Span
    requested_at: datetime
    rows: int


class BarCatalogue(Protocol):
    """Catalogue of bars. A range contains the bars that open at or after `start` and close at or before `end`.

    Bars are never overwritten: a correction is stored as a new revision, and reading returns the latest one. The times
    at which bars were learned rise strictly: if the clock does not, the next time is a microsecond after the last.

    An empty result is an error: `NotFound` for a symbol without bars, `BadInput` for a range without bars. The message
    names the stored series.
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
        """Store all bars or none. Can be repeated: bars stored with the same values are counted as known.

        correct: store a bar with other values than the stored ones as its next revision. Raise `BadInput` for a bar
        that is invalid, not closed at `learned_at`, overlaps another one, or, without `correct`, has other values than
        the stored bar.
        """
        ...

    def add_validated(
        self, validated: ValidatedBars, *, source: str, learned_at: datetime, actor: str = "", correct: bool = False
    ) -> Added:
        """Store the bars that `engine.data.validation.validate_bars` accepted, as `add` does."""
        ...

    def known_at(self) -> datetime:
        """Return the instant at which the latest bars were learned; all later additions have a later one."""
        ...

    def as_known_at(self, at: datetime | None) -> BarCatalogue:
        """Return a read-only view of the catalogue as known at an instant; of the whole catalogue for None."""
        ...

    def history(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        """Return all revisions of the bars of a range, by open and then by revision; possibly none."""
        ...

    def revised_bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        """Return the part of `history` that concerns corrected bars; cheap for a series without corrections."""
        ...

    def record_request(self, symbol: Symbol, timeframe: Timeframe, request: ProviderRequest) -> None:
        """Store a request to a provider."""
        ...

    def provider_requests(self, symbol: Symbol, timeframe: Timeframe) -> list[ProviderRequest]:
        """Return the stored requests to providers, oldest first."""
        ...

    def frame(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        """Return the bars of a range in order, as floats for analysis.

        Columns: opened_at, closed_at (UTC, microseconds), open, high, low, close, volume.
        """
        ...

    def bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Bar]:
        """Return the bars of a range in order, with exact prices for decisions and fills."""
        ...

    def digest(
        self,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> str:
        """Return the digest that identifies a dataset: the SHA-256, in hexadecimal, of the lines of its bars.

        The lines (`bar_rules.bar_line`) follow each other symbol by symbol, in the given order. Raise `BadInput`
        without symbols.
        """
        ...

    def list_series(self) -> list[StoredSeries]:
        """Return the stored series, by symbol and timeframe."""
        ...

    def imports(self) -> list[ImportRecord]:
        """Return all imports that changed the catalogue, oldest first."""
        ...

    def instrument(self, symbol: Symbol) -> Instrument:
        """Return the saved instrument of a symbol, else the built-in or default one."""
        ...

    def save_instrument(self, instrument: Instrument) -> None:
        """Save an instrument, replacing the one of the same symbol."""
        ...
