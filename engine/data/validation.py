"""Validation of bars from files and providers: each row is accepted, flagged or refused.

Obviously valid rows are found by operations on whole columns. Every other row is checked individually by the rules of
`engine.data.bar_rules`, which give the reason for refusing it. A flagged bar is accepted, but needs a review before its
results are trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from engine.core.market import Bar, Instrument, Timeframe
from engine.core.money import PLACES, exact
from engine.data import RefusedRow
from engine.data.bar_rules import (
    InvalidRow,
    invalid_bar_reason,
    market_closed_reason,
    misaligned_reason,
    out_of_order_reason,
    parse_number,
    still_forming_reason,
)
from engine.data.calendars import locate_in_grid
from engine.data.encoding import NUMBERS, PRICES

if TYPE_CHECKING:
    import polars as pl

JUMP = 10
"""A bar is flagged if its true range is more than this many times the mean of the true ranges before it."""
RANGE_BARS = 14
"""Number of bars of that mean, as in Wilder (1978)."""

# Plain decimal text that a Decimal(38, 12) holds without rounding; other text is checked individually.
_PLAIN = rf"^[0-9]{{1,15}}(\.[0-9]{{1,{PLACES}}})?$"
_TOO_LARGE = Decimal(10) ** (38 - PLACES)


class ValidatedBars(NamedTuple):
    """Accepted bars of a source, in order, and the refused rows.

    frame: opened_at, closed_at (UTC, microseconds), open, high, low, close, volume (exact Decimals) and `flags`, the
    reasons for a review as text, empty if there are none.
    """

    instrument: Instrument
    timeframe: Timeframe
    frame: pl.DataFrame
    refused: list[RefusedRow]

    def bars(self) -> list[Bar]:
        symbol, columns = self.instrument.symbol, self.frame.select("opened_at", "closed_at", *NUMBERS)
        return [
            Bar(symbol, opened_at.astimezone(UTC), closed_at.astimezone(UTC), *map(exact, numbers))
            for opened_at, closed_at, *numbers in columns.iter_rows()
        ]


def exact_frame(bars: Sequence[Bar]) -> pl.DataFrame:
    """Return bars as an exact frame: opened_at, closed_at, open, high, low, close, volume (Decimals)."""
    import polars as pl

    times = pl.Datetime("us", "UTC")
    schema = {"opened_at": times, "closed_at": times} | dict.fromkeys(NUMBERS, pl.Decimal(38, PLACES))
    return pl.DataFrame([[getattr(bar, name) for name in schema] for bar in bars], schema=schema, orient="row")


def validate_bars(
    raw: pl.DataFrame, instrument: Instrument, timeframe: Timeframe, learned_at: datetime | None = None
) -> ValidatedBars:
    """Validate rows of a file or provider.

    raw: `opened_at` (UTC, microseconds; null in a row without a usable time), open, high, low, close and volume, as
    text or floats; floats are converted to their shortest text and rounded to 12 decimals. Optional columns: `row`
    (number in the source, by default counted from 1), `line` (original text) and `fault` (reason for refusing the row,
    else null). Bars that close after `learned_at` are refused, because they were still forming.
    """
    import polars as pl

    rows = _texts(raw)
    decimals = rows.with_columns(pl.col(name).cast(pl.Decimal(38, PLACES), strict=False) for name in NUMBERS)
    plain = rows.select(_is_plain()).to_series() & decimals.select(_is_possible()).to_series().fill_null(False)
    valid, refused = _check_individually(rows.filter(~plain), instrument, timeframe)
    validated = pl.concat([decimals.filter(plain).select("row", "opened_at", *NUMBERS), valid]).sort("row")
    validated, unfit = _align_to_grid(validated, instrument, timeframe, learned_at)
    lines = dict(rows.filter(pl.col("row").is_in([row for row, _ in unfit])).select("row", "line").iter_rows())
    refused += [RefusedRow(row, lines[row], reason) for row, reason in unfit]
    frame = validated.select("opened_at", "closed_at", *NUMBERS)
    return ValidatedBars(instrument, timeframe, frame.with_columns(flags(frame, instrument)), sorted(refused))


# --- Single rows --------------------------------------------------------------------------------------------------


def _texts(raw: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with numbers as text, floats in their shortest exact text, and with all optional columns."""
    import polars as pl

    rows = raw if "row" in raw.columns else raw.with_row_index("row", offset=1)
    if "fault" not in rows.columns:
        rows = rows.with_columns(fault=pl.lit(None, pl.String))
    rows = rows.with_columns(pl.col("row").cast(pl.Int64), *(_text(rows.schema[name], name) for name in NUMBERS))
    if "line" not in rows.columns:
        times = pl.col("opened_at").dt.to_string("%Y-%m-%dT%H:%M:%SZ").fill_null("")
        rows = rows.with_columns(line=pl.concat_str(times, *NUMBERS, separator=","))
    return rows.select("row", "opened_at", *NUMBERS, "fault", "line")


def _text(kind: pl.DataType, name: str) -> pl.Expr:
    """Return a column as text; floats are rounded to the decimals that are kept."""
    import polars as pl

    text = pl.col(name).cast(pl.String)
    if kind.is_float():
        rounded = text.cast(pl.Decimal(38, PLACES), strict=False).cast(pl.String)
        text = pl.when(text.str.contains(_PLAIN)).then(text).otherwise(pl.coalesce(rounded, text))
    return text.fill_null("").alias(name)


def _is_plain() -> pl.Expr:
    import polars as pl

    readable = [pl.col(name).str.contains(_PLAIN) for name in NUMBERS]
    timed = pl.col("opened_at").is_not_null() & (pl.col("opened_at").dt.microsecond() == 0)
    return pl.all_horizontal(*readable, timed, pl.col("fault").is_null())


def _is_possible() -> pl.Expr:
    """Return an expression for rows with valid prices, equivalent to `bar_rules.invalid_bar_reason`."""
    import polars as pl

    tops = (pl.col("high") >= pl.col(name) for name in PRICES)
    bottoms = (pl.col("low") <= pl.col(name) for name in PRICES)
    return pl.all_horizontal(*tops, *bottoms, pl.col("low") > 0, pl.col(NUMBERS).is_not_null())


def _check_individually(
    rows: pl.DataFrame, instrument: Instrument, timeframe: Timeframe
) -> tuple[pl.DataFrame, list[RefusedRow]]:
    """Check rows one by one; return the valid ones, and the refused ones with their reasons."""
    import polars as pl

    valid: list[tuple[object, ...]] = []
    refused: list[RefusedRow] = []
    for at, opened_at, *texts, reason, line in rows.iter_rows():
        try:
            if reason is not None:
                raise InvalidRow(reason)
            bar = _bar(opened_at, texts, instrument, timeframe)
            valid.append((at, bar.opened_at, *(getattr(bar, name) for name in NUMBERS)))
        except InvalidRow as why:
            refused.append(RefusedRow(at, line, str(why)))
    schema = {"row": pl.Int64(), "opened_at": pl.Datetime("us", "UTC")} | dict.fromkeys(NUMBERS, pl.Decimal(38, PLACES))
    return pl.DataFrame(valid, schema=schema, orient="row"), refused


def _bar(opened_at: datetime | None, texts: Iterable[str], instrument: Instrument, timeframe: Timeframe) -> Bar:
    if opened_at is None:
        raise InvalidRow("the row has no time")
    at = opened_at.astimezone(UTC)
    numbers = [parse_number(name, text) for name, text in zip(NUMBERS, texts, strict=True)]
    for name, value in zip(NUMBERS, numbers, strict=True):
        if abs(value) >= _TOO_LARGE:
            raise InvalidRow(f"{name} {value} has more than {38 - PLACES} digits before the point")
    try:
        closed_at = at + timeframe.duration
    except OverflowError:
        raise InvalidRow("its time is beyond the calendar") from None
    bar = Bar(instrument.symbol, at, closed_at, *numbers)
    reason = invalid_bar_reason(bar, timeframe)
    if reason is not None:
        raise InvalidRow(reason)
    return bar


# --- Sequences of rows --------------------------------------------------------------------------------------------


def _align_to_grid(
    rows: pl.DataFrame, instrument: Instrument, timeframe: Timeframe, learned_at: datetime | None
) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
    """Return the bars with their closes, and the rows that are off the grid, still forming, or out of order."""
    import polars as pl

    if rows.is_empty():
        return rows.with_columns(closed_at=pl.col("opened_at")), []
    calendar = instrument.calendar
    places = locate_in_grid(calendar, timeframe, rows["opened_at"])
    rows = rows.join(places, on="opened_at", how="left", maintain_order="left")
    off = rows.filter(pl.col("closed_at").is_null()).select("row", "opened_at", "trades")
    unfit = [
        (row, (misaligned_reason if trades else market_closed_reason)(at, timeframe, calendar))
        for row, at, trades in off.iter_rows()
    ]
    rows = rows.filter(pl.col("closed_at").is_not_null())
    if learned_at is not None:
        forming = pl.col("closed_at") > learned_at
        unfit += [
            (row, still_forming_reason(closed_at))
            for row, closed_at in rows.filter(forming).select("row", "closed_at").iter_rows()
        ]
        rows = rows.filter(~forming)
    rows = rows.with_columns(before=pl.col("opened_at").cum_max().shift(1))
    late = (pl.col("opened_at") <= pl.col("before")).fill_null(False)
    unfit += [
        (row, out_of_order_reason(at, before))
        for row, at, before in rows.filter(late).select("row", "opened_at", "before").iter_rows()
    ]
    rows = rows.filter(~late)
    return rows, unfit


# --- Flags --------------------------------------------------------------------------------------------------------


def flags(frame: pl.DataFrame, instrument: Instrument) -> pl.Series:
    """Return the reasons for a review of each bar of a series in order, as text that is empty if there are none."""
    import polars as pl

    prices = frame.select(pl.col(PRICES).cast(pl.Float64))
    reach = pl.max_horizontal("high", "before") - pl.min_horizontal("low", "before")
    jumps = prices.with_columns(before=pl.col("close").shift(1)).select(reach.alias("reach"))
    usual = pl.col("reach").rolling_mean(RANGE_BARS, min_samples=RANGE_BARS).shift(1)
    jumps = jumps.select(pl.when(usual > 0).then(pl.col("reach") / usual).alias("jump"))
    repeats = prices.select(pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in PRICES)).to_series()
    marks = jumps.with_columns(repeats=repeats.fill_null(False), off_tick=_off_tick(frame, instrument.tick))
    times = pl.col("jump").round(1).cast(pl.String)
    words = (
        pl.when(pl.col("jump") > JUMP).then(pl.format("its range is {} times the usual one", times)),
        pl.when("repeats").then(pl.lit("it repeats the prices of the bar before")),
        pl.when("off_tick").then(pl.lit(f"a price is off the tick of {instrument.tick}")),
    )
    return marks.select(pl.concat_str(words, separator="; ", ignore_nulls=True).alias("flags")).to_series()


def _off_tick(frame: pl.DataFrame, tick: Decimal | None) -> pl.Series:
    import polars as pl

    if tick is None:
        return pl.repeat(False, frame.height, eager=True)
    return frame.select(pl.any_horizontal(pl.col(name) % pl.lit(tick) != 0 for name in PRICES)).to_series()
