"""Encoding of bars as columns of text, for COPY and for digests: exact, and fast for millions of bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from engine.core.market import Bar, Symbol, Timeframe
from engine.data.bar_rules import format_instant

if TYPE_CHECKING:
    import polars as pl

PRICES = ("open", "high", "low", "close")
NUMBERS = (*PRICES, "volume")
COLUMNS = ("opened_at", "closed_at", *NUMBERS)

# Rows encoded at a time: some megabytes.
_CHUNK_ROWS = 50_000


def encode_bars(bars: Iterable[Bar], timeframe: Timeframe) -> pl.DataFrame:
    """Return the columns of bars as `bar_rules.bar_line` formats them; `cut` is the close if the line includes it."""
    import polars as pl

    rows = [
        (
            format_instant(bar.opened_at),
            format_instant(bar.closed_at),
            *(format(getattr(bar, name), "f") for name in NUMBERS),
            None if bar.closed_at == bar.opened_at + timeframe.duration else format_instant(bar.closed_at),
        )
        for bar in bars
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys((*COLUMNS, "cut"), pl.String), orient="row")


def encode_frame(frame: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Return the columns as `encode_bars` does, from a frame with exact numbers (Decimals of 12 places)."""
    import polars as pl

    times = pl.col("opened_at", "closed_at").dt.to_string("%Y-%m-%dT%H:%M:%SZ")
    numbers = pl.col(NUMBERS).cast(pl.String).str.strip_chars_end("0").str.strip_chars_end(".")
    whole = frame.select(pl.col("closed_at") - pl.col("opened_at") == timeframe.duration).to_series()
    return frame.select(times, numbers).with_columns(cut=pl.when(~whole).then("closed_at"))


def encode_lines(symbol: Symbol, timeframe: Timeframe, texts: pl.DataFrame) -> str:
    """Return the lines of `bar_rules.bar_line`."""
    import polars as pl

    names = (pl.lit(symbol), pl.lit(timeframe.value))
    line = pl.concat_str(*names, "opened_at", *NUMBERS, "cut", separator=",", ignore_nulls=True)
    return texts.select(line).write_csv(include_header=False, quote_style="never")


def encode_copy_rows(
    symbol: Symbol, timeframe: Timeframe, texts: pl.DataFrame, learned_at: datetime, source: str
) -> Iterator[bytes]:
    """Yield CSV for the table of bars: symbol, timeframe, the columns, the time they were learned, and the source."""
    import polars as pl

    names = (pl.lit(symbol).alias("symbol"), pl.lit(timeframe.value).alias("timeframe"))
    origin = (pl.lit(learned_at.isoformat()).alias("learned_at"), pl.lit(source).alias("source"))
    for part in texts.iter_slices(_CHUNK_ROWS):
        yield part.select(*names, *COLUMNS, *origin).write_csv(include_header=False).encode()
