"""Bars from CSV and Parquet files, checked row by row and exact: a price keeps the digits it is written with.

Both kinds become rows of text first, so that one set of checks judges them. Nothing is stored here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.errors import BadInput
from engine.feed import Refused
from engine.feed.checks import fault_after, fault_in, still_forming
from engine.market import Bar, Symbol, Timeframe, check_symbol
from engine.money import PLACES, ZERO, exact

if TYPE_CHECKING:
    import polars as pl

TIME_COLUMNS = ("opened_at", "ts", "ts_utc", "datetime", "timestamp", "date", "time")
PRICE_COLUMNS = ("open", "high", "low", "close")

_TIME = re.compile(r"(19|20|21)\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.0+)?)?(?P<zone>Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


class FileBars(NamedTuple):
    """The usable bars of a file, in order, and the rows that are none."""

    bars: list[Bar]
    refused: list[Refused]


class _Table(NamedTuple):
    """A file as text: its column names, and its rows with the number a person would look for,
    counted in `unit`s."""

    name: str
    unit: str
    columns: list[str]
    rows: Iterator[tuple[int, list[str]]]


class _Columns(NamedTuple):
    """Where in a row to look; `volume` is None in a file without volumes."""

    time: int
    prices: tuple[int, int, int, int]
    volume: int | None
    width: int


class _Unusable(Exception):
    """Why a row is no bar."""


def read_bars(
    path: Path | str,
    symbol: Symbol,
    timeframe: Timeframe,
    *,
    zone: str | None = None,
    learned_at: datetime | None = None,
    accept_valid: bool = False,
) -> FileBars:
    """The bars of a CSV or Parquet file, stamped with their open.

    Columns: a time (`opened_at`, `ts`, `ts_utc`, `datetime`, `timestamp`, `date` or `time`), open, high, low, close,
    and volume if there is one (else it is 0), in any case and order; others are ignored. `zone` (an IANA name) is
    where times without an offset were written. Bars that close after `learned_at` were still forming: unusable.

    Raises `BadInput` for a file that is no table of bars and for the first unusable row; with `accept_valid`, unusable
    rows are left out and returned.
    """
    check_symbol(symbol)
    local = _zone(zone)
    table = _table(Path(path))
    columns = _find_columns(table)
    bars: list[Bar] = []
    refused: list[Refused] = []
    for number, cells in table.rows:
        try:
            bar = _bar(cells, columns, symbol, timeframe, local)
            fault = fault_in(bar, timeframe) or (fault_after(bars[-1], bar) if bars else None)
            if fault:
                raise _Unusable(fault)
            if learned_at is not None and bar.closed_at > learned_at:
                raise _Unusable(still_forming(bar))
            bars.append(bar)
        except _Unusable as why:
            refused.append(Refused(number, ",".join(cells), str(why)))
    if refused and not accept_valid:
        row, _, reason = refused[0]
        others = f" ({len(refused)} rows are unusable in all)" if len(refused) > 1 else ""
        raise BadInput(
            f"{table.name}, {table.unit} {row}: {reason}{others}. Nothing was taken; correct the file, "
            "or take the usable rows with --accept-valid."
        )
    if not bars:
        raise BadInput(f"{table.name} holds no usable bar: it has {len(refused)} rows below its header, none usable.")
    return FileBars(bars, refused)


def _bar(cells: list[str], columns: _Columns, symbol: Symbol, timeframe: Timeframe, local: tzinfo | None) -> Bar:
    if len(cells) != columns.width:
        raise _Unusable(f"the row has {len(cells)} cells, the header {columns.width}")
    opened_at = _instant(cells[columns.time], local)
    open_, high, low, close = (_number(name, cells[at]) for name, at in zip(PRICE_COLUMNS, columns.prices, strict=True))
    volume = ZERO if columns.volume is None else _number("volume", cells[columns.volume])
    return Bar(symbol, opened_at, opened_at + timeframe.duration, open_, high, low, close, volume)


def _number(name: str, text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise _Unusable(f"{name} {text!r} is not a number")
    written = Decimal(text)
    try:
        value = exact(written)
    except ValueError as error:
        raise _Unusable(f"{name}: {error}") from None
    if value != written:
        raise _Unusable(f"{name} {text} has more than {PLACES} decimals; round it")
    return value


def _instant(text: str, local: tzinfo | None) -> datetime:
    """The UTC instant of a time as written; whole seconds from 1900 to 2199."""
    match = _TIME.fullmatch(text)
    try:
        at = datetime.fromisoformat(text) if match else None
    except ValueError:
        at = None
    if match is None or at is None:
        raise _Unusable(f"time {text!r} is not one like 2024-01-31T09:00:00Z (whole seconds, 1900 to 2199)")
    if at.tzinfo is not None:
        return at.astimezone(UTC)
    if local is None:
        raise _Unusable(
            f"time {text!r} has no zone; end it with Z or an offset, or name where it was written with --zone, "
            "for example --zone UTC"
        )
    return _from_local(text, at, local)


def _from_local(text: str, at: datetime, local: tzinfo) -> datetime:
    """The instant of a clock face; refused when the clocks there showed it twice or never."""
    first, second = (at.replace(tzinfo=local, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    came = "twice" if first < second else "never"
    raise _Unusable(f"time {text!r} came {came} in {local}, where the clocks were changed; write it with its offset")


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    try:
        return UTC if name.upper() == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"zone {name!r} is unknown: use UTC or an IANA name like America/New_York.") from None


def _find_columns(table: _Table) -> _Columns:
    names = [name.strip().lower() for name in table.columns]
    for name in (*TIME_COLUMNS, *PRICE_COLUMNS, "volume"):
        if names.count(name) > 1:
            raise BadInput(f"{table.name} has {names.count(name)} columns named {name}: keep the right one.")
    times = [name for name in names if name in TIME_COLUMNS]
    if len(times) > 1:
        raise BadInput(f"{table.name} has several time columns ({', '.join(times)}): keep the one of the bar's open.")
    missing = [name for name in PRICE_COLUMNS if name not in names]
    if missing or not times:
        lacking = ", ".join((["a time"] if not times else []) + missing)
        raise BadInput(
            f"{table.name} is no table of bars: it lacks {lacking}; its columns are {', '.join(names)[:200]}. "
            "Name them opened_at,open,high,low,close,volume, separated by commas."
        )
    open_, high, low, close = map(names.index, PRICE_COLUMNS)
    volume = names.index("volume") if "volume" in names else None
    return _Columns(names.index(times[0]), (open_, high, low, close), volume, len(names))


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
    """Numbers in the shortest text that is read back as the same number; times in UTC, or as they stand if naive."""
    import polars as pl

    try:
        frame = pl.read_parquet(io.BytesIO(content))
        texts = [
            _time_texts(frame[column]) if frame[column].dtype.is_temporal() else frame[column].cast(pl.String)
            for column in frame.columns
            if column.strip().lower() in (*TIME_COLUMNS, *PRICE_COLUMNS, "volume")
        ]
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise BadInput(f"{name} is not a readable Parquet file: {reason}. Write it anew, or as CSV.") from None
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
