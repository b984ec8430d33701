"""Catalogue of bars in memory, equivalent to the one in PostgreSQL; for tests and experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.core.errors import BadInput
from engine.core.market import Bar, Instrument, Symbol, Timeframe, instrument_for
from engine.data import NOTHING_KNOWN, Added, ImportRecord, ProviderRequest, RefusedRow, Revision, StoredSeries
from engine.data.bar_rules import (
    bar_line,
    check_range,
    check_series,
    conflicting_values_error,
    import_digest,
    no_bars_error,
    overlap_error,
)

if TYPE_CHECKING:
    import polars as pl

    from engine.data.validation import ValidatedBars

RevisionsByOpen = dict[datetime, list[Revision]]


class MemoryCatalogue:
    """`BarCatalogue` in dictionaries."""

    def __init__(self) -> None:
        self._known_at: datetime | None = None
        self._series: dict[tuple[Symbol, Timeframe], RevisionsByOpen] = {}
        self._instruments: dict[Symbol, Instrument] = {}
        self._imports: list[ImportRecord] = []
        self._requests: dict[tuple[Symbol, Timeframe], list[ProviderRequest]] = {}

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
        assert self._known_at is None, "a view of the past is read-only"
        check_series(symbol, timeframe, bars, learned_at)
        if self._imports:
            learned_at = max(learned_at, self._imports[-1].learned_at + timedelta(microseconds=1))
        series = dict(self._series.get((symbol, timeframe), {}))
        new = corrected = 0
        for bar in bars:
            stored = series.get(bar.opened_at, [])
            if stored and stored[-1].bar == bar:
                continue
            if stored and not correct:
                raise conflicting_values_error(stored[-1].bar, bar, timeframe)
            new, corrected = new + (not stored), corrected + bool(stored)
            series[bar.opened_at] = [*stored, Revision(bar, len(stored) + 1, learned_at, source)]
        ordered = dict(sorted(series.items()))
        for (_, earlier), (opened_at, _) in pairwise(ordered.items()):
            if opened_at < earlier[-1].bar.closed_at:
                raise overlap_error(symbol, timeframe, earlier[-1].bar.opened_at, opened_at)
        if ordered:
            self._series[symbol, timeframe] = ordered
        digest = import_digest("".join(bar_line(bar, timeframe) for bar in bars), refused)
        record = ImportRecord(symbol, timeframe, source, actor, learned_at, digest, len(bars), tuple(refused))
        if new or corrected or (refused and not self._is_known(record)):
            self._imports.append(record)
        return Added(new, len(bars) - new - corrected, corrected)

    def _is_known(self, record: ImportRecord) -> bool:
        key = record.symbol, record.timeframe, record.digest
        return any((each.symbol, each.timeframe, each.digest) == key for each in self._imports)

    def add_validated(
        self, validated: ValidatedBars, *, source: str, learned_at: datetime, actor: str = "", correct: bool = False
    ) -> Added:
        return self.add(
            validated.instrument.symbol,
            validated.timeframe,
            validated.bars(),
            source=source,
            learned_at=learned_at,
            actor=actor,
            refused=validated.refused,
            correct=correct,
        )

    def known_at(self) -> datetime:
        return max((each.learned_at for each in self.imports()), default=NOTHING_KNOWN)

    def as_known_at(self, at: datetime | None) -> MemoryCatalogue:
        known = MemoryCatalogue()
        # The view can share the dictionaries, because later additions have a later time of learning.
        known._series, known._instruments = self._series, self._instruments
        known._imports, known._requests = self._imports, self._requests
        known._known_at = min((each for each in (at, self._known_at) if each is not None), default=None)
        return known

    def _is_learned(self, learned_at: datetime) -> bool:
        return self._known_at is None or learned_at <= self._known_at

    def _known(self, symbol: Symbol, timeframe: Timeframe) -> Iterator[Bar]:
        """Yield the latest known revision of each bar, in order."""
        for revisions in self._series.get((symbol, timeframe), {}).values():
            learned = [each.bar for each in revisions if self._is_learned(each.learned_at)]
            if learned:
                yield learned[-1]

    def frame(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        import polars as pl

        bars = self.bars(symbol, timeframe, start, end)
        times = pl.Datetime("us", "UTC")
        names = ("open", "high", "low", "close", "volume")
        return pl.DataFrame(
            {"opened_at": [bar.opened_at for bar in bars], "closed_at": [bar.closed_at for bar in bars]}
            | {name: [float(getattr(bar, name)) for bar in bars] for name in names},
            schema={"opened_at": times, "closed_at": times} | dict.fromkeys(names, pl.Float64()),
        )

    def bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Bar]:
        check_range(start, end)
        selected = [bar for bar in self._known(symbol, timeframe) if _is_within(bar, start, end)]
        if not selected:
            raise no_bars_error(symbol, timeframe, start, end, self.list_series())
        return selected

    def digest(
        self,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> str:
        if not symbols:
            raise BadInput("a dataset needs at least one symbol.", "SYMBOLS_MISSING")
        sha = sha256()
        for symbol in symbols:
            for bar in self.bars(symbol, timeframe, start, end):
                sha.update(bar_line(bar, timeframe).encode())
        return sha.hexdigest()

    def list_series(self) -> list[StoredSeries]:
        known = {key: list(self._known(*key)) for key in sorted(self._series)}
        return [
            StoredSeries(*key, bars[0].opened_at, bars[-1].closed_at, len(bars)) for key, bars in known.items() if bars
        ]

    def history(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        check_range(start, end)
        return [
            each
            for revisions in self._series.get((symbol, timeframe), {}).values()
            for each in revisions
            if self._is_learned(each.learned_at) and _is_within(each.bar, start, end)
        ]

    def revised_bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        history = self.history(symbol, timeframe, start, end)
        several = {each.bar.opened_at for each in history if each.revision > 1}
        return [each for each in history if each.bar.opened_at in several]

    def record_request(self, symbol: Symbol, timeframe: Timeframe, request: ProviderRequest) -> None:
        self._requests.setdefault((symbol, timeframe), []).append(request)

    def provider_requests(self, symbol: Symbol, timeframe: Timeframe) -> list[ProviderRequest]:
        return list(self._requests.get((symbol, timeframe), ()))

    def imports(self) -> list[ImportRecord]:
        return [each for each in self._imports if self._is_learned(each.learned_at)]

    def instrument(self, symbol: Symbol) -> Instrument:
        return self._instruments.get(symbol) or instrument_for(symbol)

    def save_instrument(self, instrument: Instrument) -> None:
        self._instruments[instrument.symbol] = instrument


def _is_within(bar: Bar, start: datetime | None, end: datetime | None) -> bool:
    return (start is None or bar.opened_at >= start) and (end is None or bar.closed_at <= end)
