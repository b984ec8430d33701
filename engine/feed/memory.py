"""A catalogue that forgets: the same answers as the one in PostgreSQL, for tests and what-ifs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.errors import BadInput
from engine.feed import Added, Held, Import, Refused
from engine.feed.checks import (
    bar_line,
    check_range,
    check_series,
    import_digest,
    nothing_found,
    other_values,
    overlap,
)
from engine.market import Bar, Instrument, Symbol, Timeframe, instrument_for

if TYPE_CHECKING:
    import polars as pl


class MemoryCatalogue:
    """`engine.feed.Bars` in dictionaries."""

    def __init__(self) -> None:
        self._series: dict[tuple[Symbol, Timeframe], dict[datetime, Bar]] = {}
        self._instruments: dict[Symbol, Instrument] = {}
        self._imports: dict[tuple[Symbol, Timeframe, str], Import] = {}

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
        check_series(symbol, timeframe, bars, learned_at)
        series = dict(self._series.get((symbol, timeframe), {}))
        before = len(series)
        for bar in bars:
            stored = series.setdefault(bar.opened_at, bar)
            if stored != bar:
                raise other_values(stored, bar, timeframe)
        ordered = sorted(series.items())
        for (_, earlier), (opened_at, _) in pairwise(ordered):
            if opened_at < earlier.closed_at:
                raise overlap(symbol, timeframe, earlier.opened_at, opened_at)
        if ordered:
            self._series[symbol, timeframe] = dict(ordered)
        new = len(series) - before
        if new or refused:
            digest = import_digest("".join(bar_line(bar, timeframe) for bar in bars), refused)
            record = Import(symbol, timeframe, source, actor, learned_at, digest, len(bars), tuple(refused))
            self._imports.setdefault((symbol, timeframe, digest), record)
        return Added(new, len(bars) - new)

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
        found = [
            bar
            for bar in self._series.get((symbol, timeframe), {}).values()
            if (start is None or bar.opened_at >= start) and (end is None or bar.closed_at <= end)
        ]
        if not found:
            raise nothing_found(symbol, timeframe, start, end, self.listing())
        return found

    def digest(
        self,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> str:
        if not symbols:
            raise BadInput("a dataset needs at least one symbol: name them with --symbols A,B.")
        sha = sha256()
        for symbol in symbols:
            for bar in self.bars(symbol, timeframe, start, end):
                sha.update(bar_line(bar, timeframe).encode())
        return sha.hexdigest()

    def listing(self) -> list[Held]:
        return [
            Held(symbol, timeframe, min(series), max(bar.closed_at for bar in series.values()), len(series))
            for (symbol, timeframe), series in sorted(self._series.items())
        ]

    def imports(self) -> list[Import]:
        return list(self._imports.values())

    def instrument(self, symbol: Symbol) -> Instrument:
        return self._instruments.get(symbol) or instrument_for(symbol)

    def save_instrument(self, instrument: Instrument) -> None:
        self._instruments[instrument.symbol] = instrument
