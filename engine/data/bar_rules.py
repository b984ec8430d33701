"""Validity rules of bars, their canonical text, and the messages about invalid bars. Pure."""

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
    """Row that is no valid bar; the message is the reason, as the end of a sentence."""


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def parse_number(name: str, text: str) -> Decimal:
    """Return the exact number of a text. Raise `InvalidRow` for other text, or if it would have to be rounded."""
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
    """Return the canonical text of a bar, which digests use; equal bars have equal lines.

    The line includes the close only if the end of the session shortens the bar; otherwise the open determines it.
    """
    numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
    cut = () if bar.closed_at == bar.opened_at + timeframe.duration else (format_instant(bar.closed_at),)
    return (
        ",".join((bar.symbol, timeframe, format_instant(bar.opened_at), *(format(n, "f") for n in numbers), *cut))
        + "\n"
    )


def import_digest(lines: str, refused: Sequence[RefusedRow]) -> str:
    """Return the digest of an import, over the lines of its accepted bars and its refused rows."""
    sha = sha256(lines.encode())
    for row in refused:
        sha.update(f"refused {row.row} {row.line}\n".encode())
    return sha.hexdigest()


def format_instant(at: datetime) -> str:
    """Format an instant for bar lines and messages: 2017-07-02T21:00:00Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_values(bar: Bar) -> str:
    """Format the numbers of a bar for messages."""
    names = ("open", "high", "low", "close", "volume")
    return " ".join(f"{name} {getattr(bar, name):f}" for name in names)


def invalid_bar_reason(bar: Bar, timeframe: Timeframe) -> str | None:
    """Return the reason why a bar is invalid, as the end of a sentence; None for a valid bar."""
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
    """Return the reason why a bar cannot follow another one, as the end of a sentence; None if it can."""
    if bar.opened_at <= last.opened_at:
        return out_of_order_reason(bar.opened_at, last.opened_at)
    if bar.opened_at < last.closed_at:
        return f"the bar overlaps the one given before it, which closes at {format_instant(last.closed_at)}"
    return None


def out_of_order_reason(opened_at: datetime, previous: datetime) -> str:
    """Return the reason for refusing a bar after one that opens at the same time or later."""
    if opened_at == previous:
        return f"a bar that opens at {format_instant(opened_at)} was given before"
    return f"the bar opens before the one given before it, at {format_instant(previous)}; sort them by time"


def misaligned_reason(opened_at: datetime, timeframe: Timeframe, calendar: Calendar) -> str:
    """Return the reason for refusing a bar that opens inside another bar of the grid."""
    return f"no {timeframe} bar opens at {format_instant(opened_at)} in the calendar {calendar}: {CALENDAR_REMEDY}"


def market_closed_reason(opened_at: datetime, timeframe: Timeframe, calendar: Calendar) -> str:
    """Return the reason for refusing a bar that opens while the market is closed."""
    return (
        f"the calendar {calendar} has no {timeframe} bar at {format_instant(opened_at)}, it is closed: "
        f"{CALENDAR_REMEDY}"
    )


def no_session_reason(day: date, timeframe: Timeframe, calendar: Calendar) -> str:
    """Return the reason for refusing a bar of a day without a session."""
    return f"the calendar {calendar} has no {timeframe} bar of {day}, it is closed: {CALENDAR_REMEDY}"


CALENDAR_REMEDY = "name the symbol's own calendar if that is another"


def still_forming_reason(closed_at: datetime) -> str:
    """Return the reason for refusing a bar that has not closed."""
    return f"the bar closes only at {format_instant(closed_at)} and is known only then; leave it out"


def check_series(symbol: Symbol, timeframe: Timeframe, bars: Sequence[Bar], learned_at: datetime) -> None:
    """Raise `BadInput` unless these are closed, valid bars of one symbol, in order and without overlap."""
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
    """Raise `BadInput` for a range that does not end after its start."""
    if start is not None and end is not None and start >= end:
        raise BadInput(
            f"the range from {format_instant(start)} to {format_instant(end)} is empty: give a start that is "
            f"before the end."
        )


def conflicting_values_error(stored: Bar, given: Bar, timeframe: Timeframe) -> BadInput:
    """Return the error for a bar that is stored with other values."""
    before, now = format_values(stored), format_values(given)
    if stored.closed_at != given.closed_at:
        before, now = (f"{format_instant(bar.closed_at)} {format_values(bar)}" for bar in (stored, given))
    return BadInput(
        f"{given.symbol} {timeframe} at {format_instant(given.opened_at)} is stored as {before}, and was given as "
        f"{now}. Stored bars are never overwritten.",
        "BAR_CONFLICT",
    )


def overlap_error(symbol: Symbol, timeframe: Timeframe, first: datetime, second: datetime) -> BadInput:
    """Return the error for a bar that would overlap another one."""
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
    """Return the error for a range without bars; its message names the stored series."""
    stored_series = list(stored_series)
    of_symbol = [held for held in stored_series if held.symbol == symbol]
    if not of_symbol:
        known = ", ".join(dict.fromkeys(held.symbol for held in stored_series)) or "no bars yet"
        return NotFound(
            f"there are no bars of {symbol}; the catalogue holds {known}.",
            "BARS_MISSING",
            symbol=symbol,
            timeframe=timeframe,
        )
    holds = ", ".join(
        f"{held.timeframe} from {format_instant(held.first)} to {format_instant(held.last)}" for held in of_symbol
    )
    since = f" from {format_instant(start)}" if start else ""
    until = f" to {format_instant(end)}" if end else ""
    return BadInput(
        f"there are no {timeframe} bars of {symbol}{since}{until}; the catalogue holds {holds}.",
        "RANGE_MISSING",
        symbol=symbol,
        timeframe=timeframe,
    )
