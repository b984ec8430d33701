"""What makes a bar usable, its canonical text, and the words for every refusal. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256

from engine.core.errors import BadInput, NotFound
from engine.core.market import Bar, Calendar, Symbol, Timeframe, check_symbol
from engine.core.money import PLACES, exact, is_exact
from engine.data import RefusedRow, StoredSeries


class InvalidRow(Exception):
    """Why a row is no bar, as the end of a sentence."""


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def parse_number(name: str, text: str) -> Decimal:
    """The exact number that is written. Raises `Unusable` for what is none, or would have to be rounded."""
    if not _NUMBER.fullmatch(text):
        raise InvalidRow(f"{name} {text!r} is not a number")
    parsed = Decimal(text)
    try:
        value = exact(parsed)
    except ValueError as error:
        raise InvalidRow(f"{name}: {error}") from None
    if value != parsed:
        raise InvalidRow(f"{name} {text} has more than {PLACES} decimals; round it")
    return value


def bar_line(bar: Bar, timeframe: Timeframe) -> str:
    """The canonical text of a bar; equal bars have equal lines. Digests and the catalogue's own imports use it.

    A bar that its session's end cuts short says when it closes; of the others that is known.
    """
    numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
    cut = () if bar.closed_at == bar.opened_at + timeframe.duration else (format_instant(bar.closed_at),)
    return (
        ",".join((bar.symbol, timeframe, format_instant(bar.opened_at), *(format(n, "f") for n in numbers), *cut))
        + "\n"
    )


def import_digest(lines: str, refused: Sequence[RefusedRow]) -> str:
    """The name of an import: its accepted bars' lines and its refused rows."""
    sha = sha256(lines.encode())
    for row in refused:
        sha.update(f"refused {row.row} {row.line}\n".encode())
    return sha.hexdigest()


def format_instant(at: datetime) -> str:
    """An instant in bar lines and messages: 2017-07-02T21:00:00Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_values(bar: Bar) -> str:
    """The numbers of a bar in messages."""
    names = ("open", "high", "low", "close", "volume")
    return " ".join(f"{name} {getattr(bar, name):f}" for name in names)


def invalid_bar_reason(bar: Bar, timeframe: Timeframe) -> str | None:
    """Why a bar is impossible, as the end of a sentence; None if it is possible."""
    for name, value in (("open", bar.open), ("high", bar.high), ("low", bar.low), ("close", bar.close)):
        if not is_exact(value) or value <= 0:
            return f"{name} {value} is not a price above 0 with at most 12 decimals"
    if not is_exact(bar.volume) or bar.volume < 0:
        return f"volume {bar.volume} is not a quantity of at least 0 with at most 12 decimals"
    if bar.high < max(bar.open, bar.close, bar.low):
        return f"high {bar.high:f} is below another price of the bar ({format_values(bar)})"
    if bar.low > min(bar.open, bar.close):
        return f"low {bar.low:f} is above another price of the bar ({format_values(bar)})"
    duration = bar.closed_at - bar.opened_at
    if bar.opened_at.microsecond or bar.closed_at.microsecond or not timedelta(0) < duration <= timeframe.duration:
        return f"the bar does not last up to {timeframe} from a whole second to another"
    return None


def invalid_sequence_reason(last: Bar, bar: Bar) -> str | None:
    """Why a bar cannot follow another one, as the end of a sentence; None if it can."""
    if bar.opened_at <= last.opened_at:
        return out_of_order_reason(bar.opened_at, last.opened_at)
    if bar.opened_at < last.closed_at:
        return f"the bar overlaps the one given before it, which closes at {format_instant(last.closed_at)}"
    return None


def out_of_order_reason(opened_at: datetime, previous: datetime) -> str:
    """Why a bar cannot follow one that opens at the same time or later, as the end of a sentence."""
    if opened_at == previous:
        return f"a bar that opens at {format_instant(opened_at)} was given before"
    return f"the bar opens before the one given before it, at {format_instant(previous)}; sort them by time"


def misaligned_reason(opened_at: datetime, timeframe: Timeframe, calendar: Calendar) -> str:
    """Why no bar opens in the middle of another, as the end of a sentence."""
    return f"no {timeframe} bar opens at {format_instant(opened_at)} in the calendar {calendar}: {CALENDAR_REMEDY}"


def market_closed_reason(opened_at: datetime, timeframe: Timeframe, calendar: Calendar) -> str:
    """Why no bar opens while a market is closed, as the end of a sentence."""
    return (
        f"the calendar {calendar} has no {timeframe} bar at {format_instant(opened_at)}, it is closed: "
        f"{CALENDAR_REMEDY}"
    )


def no_session_reason(day: date, timeframe: Timeframe, calendar: Calendar) -> str:
    """Why a day has no bar, as the end of a sentence."""
    return f"the calendar {calendar} has no {timeframe} bar of {day}, it is closed: {CALENDAR_REMEDY}"


CALENDAR_REMEDY = "name the symbol's own with --calendar if that is another"


def still_forming_reason(closed_at: datetime) -> str:
    """Why a bar is not known yet, as the end of a sentence."""
    return f"the bar closes only at {format_instant(closed_at)} and is known only then; leave it out"


def check_series(symbol: Symbol, timeframe: Timeframe, bars: Sequence[Bar], learned_at: datetime) -> None:
    """Raises `BadInput` unless these are closed, possible bars of one symbol, in order, without overlap."""
    check_symbol(symbol)
    last: Bar | None = None
    for bar in bars:
        reason = invalid_bar_reason(bar, timeframe) or (invalid_sequence_reason(last, bar) if last else None)
        if bar.symbol != symbol:
            reason = f"it is a bar of {bar.symbol}"
        elif bar.closed_at > learned_at:
            reason = still_forming_reason(bar.closed_at)
        if reason:
            raise BadInput(f"{symbol} {timeframe} at {format_instant(bar.opened_at)} cannot be stored: {reason}.")
        last = bar


def check_range(start: datetime | None, end: datetime | None) -> None:
    """Raises `BadInput` for a range that ends before it begins."""
    if start is not None and end is not None and start >= end:
        raise BadInput(
            f"the range from {format_instant(start)} to {format_instant(end)} is empty: give a start that is "
            f"before the end."
        )


def conflicting_values_error(stored: Bar, given: Bar, timeframe: Timeframe) -> BadInput:
    """The refusal to overwrite a bar."""
    before, now = format_values(stored), format_values(given)
    if stored.closed_at != given.closed_at:
        before, now = (f"{format_instant(bar.closed_at)} {format_values(bar)}" for bar in (stored, given))
    return BadInput(
        f"{given.symbol} {timeframe} at {format_instant(given.opened_at)} is stored as {before}, and was given "
        f"as {now}: "
        "stored bars are never overwritten. Leave that bar out, keep it as a revision with --correct, or import the "
        "other source under a symbol of its own."
    )


def overlap_error(symbol: Symbol, timeframe: Timeframe, first: datetime, second: datetime) -> BadInput:
    """The refusal of a bar that would lie partly over a stored one."""
    return BadInput(
        f"{symbol} {timeframe} bars would overlap: one opens at {format_instant(first)}, the other at "
        f"{format_instant(second)}. "
        "Leave one of them out, or import the other source under a symbol of its own."
    )


def no_bars_error(
    symbol: Symbol,
    timeframe: Timeframe,
    start: datetime | None,
    end: datetime | None,
    stored_series: Iterable[StoredSeries],
) -> BadInput:
    """The answer to a question about bars that are not there: what is there, and how to get more."""
    stored_series = list(stored_series)
    of_symbol = [held for held in stored_series if held.symbol == symbol]
    if not of_symbol:
        known = ", ".join(dict.fromkeys(held.symbol for held in stored_series)) or "no bars yet"
        return NotFound(
            f"there are no bars of {symbol}; the catalogue holds {known}. Fetch some with `quantagent data fetch "
            f"{symbol} --timeframe {timeframe}`, import some with `quantagent data import FILE --symbol {symbol} "
            f"--timeframe {timeframe}`, or load the bundled sample with `quantagent data sample`."
        )
    holds = ", ".join(
        f"{held.timeframe} from {format_instant(held.first)} to {format_instant(held.last)}" for held in of_symbol
    )
    since = f" from {format_instant(start)}" if start else ""
    until = f" to {format_instant(end)}" if end else ""
    return BadInput(
        f"there are no {timeframe} bars of {symbol}{since}{until}; the catalogue holds {holds}. Ask for a range inside "
        f"it, or bring more with `quantagent data fetch {symbol} --timeframe {timeframe}` or `quantagent data import`."
    )
