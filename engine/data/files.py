"""Reader of bars from CSV and Parquet files, exact: a price keeps its digits.

Both formats are converted to rows of text first, so that the same checks apply. Nothing is stored here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.core.errors import BadInput
from engine.core.market import Calendar, Instrument, Symbol, Timeframe, check_symbol, instrument_for
from engine.data.bar_rules import InvalidRow, no_session_reason
from engine.data.calendars import bar_of_day
from engine.data.encoding import NUMBERS, PRICES
from engine.data.validation import ValidatedBars, validate_bars

if TYPE_CHECKING:
    import polars as pl

TIME_COLUMNS = ("opened_at", "ts", "ts_utc", "datetime", "timestamp", "date", "time")

_TIME = re.compile(r"(19|20|21)\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.0+)?)?(?P<zone>Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class _Table(NamedTuple):
    """Contents of a file as text: its column names, and its rows with their numbers in the file.

    unit: the word for these numbers, line or row.
    """

    name: str
    unit: str
    columns: list[str]
    rows: Iterator[tuple[int, list[str]]]


class _Columns(NamedTuple):
    """Places of the time and of `NUMBERS` in a row; None for the volume of a file without volumes."""

    time: int
    numbers: tuple[int | None, ...]
    width: int


class _TimeReader(NamedTuple):
    """Parser of times; local: the zone of times without an offset."""

    calendar: Calendar
    timeframe: Timeframe
    local: tzinfo | None

    def opened_at(self, text: str) -> datetime:
        """Return the open of a row. Raise `InvalidRow` for an invalid time, or a day without a bar."""
        if _DAY.fullmatch(text) and not self.timeframe.is_intraday:
            day = _parse_time(text).date()
            bar = bar_of_day(self.calendar, self.timeframe, day)
            if bar is None:
                raise InvalidRow(no_session_reason(day, self.timeframe, self.calendar))
            return bar.start
        return _parse_instant(text, self.local)


def read_bars(
    path: Path | str,
    symbol: Symbol | Instrument,
    timeframe: Timeframe,
    *,
    zone: str | None = None,
    learned_at: datetime | None = None,
    accept_valid: bool = False,
) -> ValidatedBars:
    """Read the bars of a CSV or Parquet file whose times are the opens of the bars.

    Columns, in any case and order: a time (`opened_at`, `ts`, `ts_utc`, `datetime`, `timestamp`, `date` or `time`),
    open, high, low, close, and optionally volume (0 if missing); others are ignored. zone: the IANA name of the zone of
    times without an offset; for bars of a day or longer, a date without a time names the session. Bars that close after
    `learned_at` are unusable, because they were still forming. A symbol means its built-in or default instrument.

    Raise `BadInput` for a file that is no table of bars and for the first unusable row. With `accept_valid`, unusable
    rows are omitted and returned instead.
    """
    instrument = symbol if isinstance(symbol, Instrument) else instrument_for(check_symbol(symbol))
    table = _table(Path(path))
    validated = validate_bars(
        _parse_rows(table, _TimeReader(instrument.calendar, timeframe, _zone(zone))), instrument, timeframe, learned_at
    )
    if validated.refused and not accept_valid:
        row, _, reason = validated.refused[0]
        others = f" ({len(validated.refused)} rows are unusable in all)" if len(validated.refused) > 1 else ""
        raise BadInput(f"{table.name}, {table.unit} {row}: {reason}{others}. Nothing was imported.", "ROWS_UNUSABLE")
    if validated.frame.is_empty():
        raise BadInput(
            f"{table.name} holds no usable bar: it has {len(validated.refused)} rows below its header, none usable."
        )
    return validated


def read_table_rows(path: Path, instrument: Instrument, timeframe: Timeframe) -> pl.DataFrame:
    """Return all rows of a file, valid or not, as input of `engine.data.validation.validate_bars`.

    Raise `BadInput` for a file that is no table of bars.
    """
    return _parse_rows(_table(path), _TimeReader(instrument.calendar, timeframe, None))


def _parse_rows(table: _Table, clock: _TimeReader) -> pl.DataFrame:
    """Return the rows with parsed times, numbers as text, and the reason for rows that cannot be parsed."""
    import polars as pl

    columns = _find_columns(table)
    parsed: list[tuple[object, ...]] = []
    for row, cells in table.rows:
        opened_at, numbers, reason = None, [""] * len(NUMBERS), None
        try:
            if len(cells) != columns.width:
                raise InvalidRow(f"the row has {len(cells)} cells, the header {columns.width}")
            numbers = ["0" if at is None else cells[at] for at in columns.numbers]
            opened_at = clock.opened_at(cells[columns.time])
        except InvalidRow as why:
            reason = str(why)
        parsed.append((row, opened_at, *numbers, reason, ",".join(cells)))
    texts = dict.fromkeys((*NUMBERS, "fault", "line"), pl.String())
    schema = {"row": pl.Int64(), "opened_at": pl.Datetime("us", "UTC")} | texts
    return pl.DataFrame(parsed, schema=schema, orient="row")


def _parse_instant(text: str, local: tzinfo | None) -> datetime:
    """Return the UTC instant of a time as text; whole seconds from 1900 to 2199."""
    at = _parse_time(text)
    if at.tzinfo is not None:
        return at.astimezone(UTC)
    if local is None:
        raise InvalidRow(
            f"time {text!r} has no zone; end it with Z or an offset, or name the zone where it was written, "
            "for example UTC"
        )
    return _from_local(text, at, local)


def _parse_time(text: str) -> datetime:
    """Parse a time, with its offset if it has one."""
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise InvalidRow(f"time {text!r} is not one like 2024-01-31T09:00:00Z (whole seconds, 1900 to 2199)")


def _from_local(text: str, at: datetime, local: tzinfo) -> datetime:
    """Return the instant of a local time. Raise `InvalidRow` if it occurs twice or never in that zone."""
    first, second = (at.replace(tzinfo=local, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    occurrence = "twice" if first < second else "never"
    raise InvalidRow(
        f"time {text!r} came {occurrence} in {local}, where the clocks were changed; write it with its offset"
    )


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    try:
        return UTC if name.upper() == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"zone {name!r} is unknown: use UTC or an IANA name like America/New_York.") from None


def _find_columns(table: _Table) -> _Columns:
    names = [name.strip().lower() for name in table.columns]
    for name in (*TIME_COLUMNS, *PRICES, "volume"):
        if names.count(name) > 1:
            raise BadInput(f"{table.name} has {names.count(name)} columns named {name}: keep the right one.")
    times = [name for name in names if name in TIME_COLUMNS]
    if len(times) > 1:
        raise BadInput(f"{table.name} has several time columns ({', '.join(times)}): keep the one of the bar's open.")
    missing = [name for name in PRICES if name not in names]
    if missing or not times:
        lacking = ", ".join((["a time"] if not times else []) + missing)
        raise BadInput(
            f"{table.name} is no table of bars: it lacks {lacking}; its columns are {', '.join(names)[:200]}. "
            "Name them opened_at,open,high,low,close,volume, separated by commas."
        )
    places = tuple(names.index(name) if name in names else None for name in NUMBERS)
    return _Columns(names.index(times[0]), places, len(names))


def _table(path: Path) -> _Table:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror or error}. Give the path of a CSV or Parquet file."
        ) from None
    if not content.strip():
        raise BadInput(f"{path.name} is empty: it needs a header and at least one bar.")
    return _parquet(path.name, content) if content.startswith(b"PAR1") else _csv(path.name, content)


def _csv(name: str, content: bytes) -> _Table:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadInput(f"{name} is neither CSV text in UTF-8 nor a Parquet file: export the bars as one of them.")
    rows = _csv_rows(name, text)
    for _, columns in rows:
        return _Table(name, "line", columns, rows)
    raise AssertionError("unreachable: the content is not blank")


def _csv_rows(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise BadInput(f"{name}, line {reader.line_num}: not CSV ({error}). Correct the quotes of that line.") from None


def _parquet(name: str, content: bytes) -> _Table:
    """Return a Parquet file as text: floats in their shortest exact text, times in UTC or without a zone."""
    import polars as pl

    try:
        frame = pl.read_parquet(io.BytesIO(content))
        texts = [
            _time_texts(frame[column]) if frame[column].dtype.is_temporal() else frame[column].cast(pl.String)
            for column in frame.columns
            if column.strip().lower() in (*TIME_COLUMNS, *PRICES, "volume")
        ]
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise BadInput(f"{name} is not a readable Parquet file: {reason}. Export it again, or as CSV.") from None
    rows = zip(*(column.fill_null("").to_list() for column in texts), strict=True)
    return _Table(
        name, "row", [column.name for column in texts], ((at, list(cells)) for at, cells in enumerate(rows, 1))
    )


def _time_texts(column: pl.Series) -> pl.Series:
    import polars as pl

    if column.dtype == pl.Date:
        return column.dt.to_string("%Y-%m-%d")
    if isinstance(column.dtype, pl.Datetime):
        zoned = column.dtype.time_zone is not None
        column = column.dt.convert_time_zone("UTC") if zoned else column
        return column.dt.to_string("%Y-%m-%dT%H:%M:%S%.f" + ("Z" if zoned else ""))
    return column.cast(pl.String)
