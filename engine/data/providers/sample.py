"""Provider of the bundled sample: hourly bars of two symbols, from July to December 2017."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from engine.core.errors import NotFound, ProviderUnavailable
from engine.core.market import Instrument, Timeframe
from engine.data.calendars import Span
from engine.data.providers import Reach
from engine.data.providers.folder import read_rows
from engine.data.providers.rows import closed_rows
from engine.data.sample import SAMPLE_FILES, SAMPLE_TIMEFRAME


class Sample:
    """Bars of the two bundled files."""

    name = "sample"
    synthetic = False
    remembers = False

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        return Reach() if instrument.symbol in SAMPLE_FILES and timeframe is SAMPLE_TIMEFRAME else None

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        path = SAMPLE_FILES.get(instrument.symbol)
        if path is None:
            raise NotFound(f"the sample has no {instrument.symbol}: it has {' and '.join(SAMPLE_FILES)}.")
        if timeframe is not SAMPLE_TIMEFRAME:
            raise ProviderUnavailable(f"the sample has {SAMPLE_TIMEFRAME} bars only: make {timeframe} bars of them.")
        return closed_rows(read_rows(path, instrument, timeframe), instrument, timeframe, span, now)
