"""Provider of bars from files named SYMBOL_TIMEFRAME.csv or .parquet, such as BTC-USD_1h.csv.

Rows are returned unvalidated. Times need an offset or a Z; a date without a time names a session, week or month. Files
with local times must be imported instead, where their zone can be given.
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
    """Files of a folder, or one file, which are read again for each request."""

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
        """Return the files by symbol and timeframe. Raise `BadInput` for duplicates and for a missing folder."""
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
                    f"{found[series]} and {path.name} hold the same bars: remove one of them from the folder."
                )
            found[series] = path
        return found


def read_rows(path: Path, instrument: Instrument, timeframe: Timeframe) -> pl.DataFrame:
    """Return all rows of a file, with numbers as text; volumes are 0 in a file without them.

    Raise `BadInput` for a file that is no table of bars, and for a row without a valid time.
    """
    rows = read_table_rows(path, instrument, timeframe)
    for row, reason in rows.filter(pl.col("fault").is_not_null()).select("row", "fault").head(1).iter_rows():
        raise BadInput(f"{path}, row {row}: {reason}.", "FILE_ROW_UNUSABLE")
    return rows.select(COLUMNS)
