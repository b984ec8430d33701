"""Rows returned by providers: their schema, and filtering by span and time."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from engine.core.market import Instrument, Timeframe
from engine.data.calendars import Span, grid
from engine.data.encoding import NUMBERS

TIME = pl.Datetime("us", "UTC")
COLUMNS = ("opened_at", *NUMBERS)


def no_rows() -> pl.DataFrame:
    """Return an empty frame with the columns of rows."""
    return pl.DataFrame(schema={"opened_at": TIME, **dict.fromkeys(NUMBERS, pl.Float64)})


def closed_rows(
    rows: pl.DataFrame, instrument: Instrument, timeframe: Timeframe, span: Span, known_at: datetime
) -> pl.DataFrame:
    """Return the rows that open in the span and had closed at `known_at`, unchanged.

    The close of a row is that of the bar of the grid with the same open; for a row off the grid, open plus timeframe.
    """
    inside = rows.filter(pl.col("opened_at") >= span.start, pl.col("opened_at") < span.end)
    if inside.is_empty():
        return inside
    bars = grid(instrument.calendar, timeframe, span)
    usual = pl.col("opened_at") + timeframe.duration
    return (
        inside.join(bars.select("opened_at", "closed_at"), on="opened_at", how="left", maintain_order="left")
        .filter(pl.coalesce("closed_at", usual) <= known_at)
        .select(COLUMNS)
    )


def invalid_shape(rows: object) -> str:
    """Return the defect of a response in type or columns, as the end of a sentence; empty if there is none."""
    if not isinstance(rows, pl.DataFrame):
        return f"it answered with {type(rows).__name__}, not with a polars DataFrame"
    if tuple(rows.columns) != COLUMNS:
        return f"its columns are {', '.join(rows.columns)}, not {', '.join(COLUMNS)}"
    if rows.schema["opened_at"] != TIME:
        return f"opened_at is {rows.schema['opened_at']}, not {TIME}: convert times to UTC"
    if rows["opened_at"].null_count():
        return f"{rows['opened_at'].null_count()} rows have no time"
    wrong = [name for name in NUMBERS if not isinstance(rows.schema[name], pl.Float64 | pl.String)]
    return f"{wrong[0]} is {rows.schema[wrong[0]]}, not Float64 or String" if wrong else ""
