"""Bars from files named SYMBOL_TIMEFRAME.csv or .parquet: BTC-USD_1h.csv. Told as they stand, good and bad rows alike.

A time carries its zone, an offset or a Z; a date alone names a session, week or month. Files whose times have none are
for `data import`, which is told where they were written.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl

from engine.core.errors import BadInput, NotFound, ProviderUnavailable
from engine.core.market import Instrument, Symbol, Timeframe
from engine.data.calendars import Span
from engine.data.files import read_table_rows
from engine.data.providers import Reach
from engine.data.providers.rows import COLUMNS, closed_rows

KINDS = (".csv", ".parquet")


class Folder:
    """The files of a folder, or one file. They are read anew for each question."""

    name = "folder"
    synthetic = False
    remembers = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return Reach() if (instrument.symbol, timeframe) in self._files() else None

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        files = self._files()
        path = files.get((instrument.symbol, timeframe))
        if path is not None:
            return closed_rows(read_rows(path, instrument, timeframe), instrument, timeframe, span, now)
        there = ", ".join(sorted(file.name for file in files.values())) or "no file named like BTC-USD_1h.csv"
        missing = f"{self.path} has no {timeframe} bars of {instrument.symbol}: it has {there}."
        if any(symbol == instrument.symbol for symbol, _ in files):
            raise ProviderUnavailable(missing)
        raise NotFound(missing)

    def _files(self) -> dict[tuple[Symbol, Timeframe], Path]:
        """The files by what they hold. Raises `BadInput` for two that hold the same, and when there is no folder."""
        if not self.path.exists():
            raise BadInput(f"there is no folder or file {self.path}: give the path of one as folder:PATH.")
        found: dict[tuple[Symbol, Timeframe], Path] = {}
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]:
            symbol, _, timeframe = path.stem.rpartition("_")
            if path.suffix.lower() not in KINDS or timeframe not in list(Timeframe):
                continue
            series = (symbol, Timeframe(timeframe))
            if series in found:
                raise BadInput(
                    f"{found[series]} and {path.name} hold the same bars: take one of them out of the folder."
                )
            found[series] = path
        return found


def read_rows(path: Path, instrument: Instrument, timeframe: Timeframe) -> pl.DataFrame:
    """All rows of a file, their numbers as they are written. A file without volumes has 0.

    Raises `BadInput` for a file that is no table of bars, and for a row that says no instant.
    """
    rows = read_table_rows(path, instrument, timeframe)
    for row, reason in rows.filter(pl.col("fault").is_not_null()).select("row", "fault").head(1).iter_rows():
        raise BadInput(f"{path}, row {row}: {reason}. Correct it, or take the file with `quantagent data import`.")
    return rows.select(COLUMNS)
