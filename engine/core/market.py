"""Market values: symbols, instruments, order types, timeframes and bars. No I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Literal

import msgspec

from engine.core.errors import BadInput
from engine.core.money import is_exact

Symbol = str
SYNTHETIC = "SYNTHETIC."
"""Prefix of symbols with synthetic bars, followed by the market that they imitate: SYNTHETIC.BTC-USD."""
INSTANT_FORMAT = "%Y%m%dT%H%M%SZ"
SYMBOL_PATTERN = re.compile(r"[A-Z0-9][A-Z0-9.^=_-]{0,23}")


def check_symbol(text: str) -> Symbol:
    """Return a valid symbol: capitals, digits and `. ^ = _ -`, at most 24 characters. Raise `BadInput` otherwise."""
    if not SYMBOL_PATTERN.fullmatch(text):
        raise BadInput(
            f"symbol {text!r} is not usable: use capitals, digits and . ^ = _ - only, at most 24 characters, "
            "like BTC-USD."
        )
    return text


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        return 1 if self is Side.BUY else -1


class Direction(StrEnum):
    """Target direction of a position; HOLD requests no change."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"
    HOLD = "HOLD"


class OrderType(StrEnum):
    """Order type: at the market, at a limit or better, or at the market once a price is reached."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"
    STOP_LIMIT = "STOP_LIMIT"
    TRAILING_STOP = "TRAILING_STOP"


class TimeInForce(StrEnum):
    """Time in force of an order: to the end of its session, until canceled, or until a given instant."""

    DAY = "DAY"
    GTC = "GTC"
    GTD = "GTD"


class Timeframe(StrEnum):
    """Period of a bar: a length of time counted from the session's open, a session, or a week or month of sessions."""

    M1 = "1m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"
    W1 = "1w"
    MO1 = "1mo"

    @property
    def duration(self) -> timedelta:
        """Maximum length of a bar. A bar cut off by the session's close is shorter, as are most sessions, weeks and
        months of a market that closes."""
        return _DURATIONS[self]

    @property
    def is_intraday(self) -> bool:
        """Return true if a bar is part of a session; false if it covers one or more whole sessions."""
        return self.duration < _DURATIONS[Timeframe.D1]

    @staticmethod
    def parse(text: str) -> Timeframe:
        try:
            return Timeframe(text)
        except ValueError:
            raise BadInput(f"timeframe {text!r} is unknown: use one of {', '.join(Timeframe)}.") from None


_DURATIONS = {
    Timeframe.M1: timedelta(minutes=1),
    Timeframe.M5: timedelta(minutes=5),
    Timeframe.M15: timedelta(minutes=15),
    Timeframe.M30: timedelta(minutes=30),
    Timeframe.H1: timedelta(hours=1),
    Timeframe.H4: timedelta(hours=4),
    Timeframe.D1: timedelta(days=1),
    Timeframe.W1: timedelta(days=7),
    # Before 2007 New York ended daylight saving time in October, which made that month an hour longer.
    Timeframe.MO1: timedelta(days=31, hours=1),
}


class Bar(msgspec.Struct, frozen=True, gc=False):
    """Prices of one symbol from `opened_at` up to, not including, `closed_at` (both UTC).

    The bar is known at `closed_at`; only its open is known at `opened_at`.
    """

    symbol: Symbol
    opened_at: datetime
    closed_at: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


Calendar = Literal["24/7", "FX", "XNYS", "CME", "NYMEX"]


class Instrument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contract terms of a symbol.

    quote: quote currency; price_decimals: decimals of displayed prices; quantity_step: smallest quantity increment
    (lot); multiplier: contract size, money per unit of price and quantity; calendar: trading calendar; tick: smallest
    price increment, None if any price is valid.
    """

    symbol: Symbol
    quote: str = "USD"
    price_decimals: int = 2
    quantity_step: Decimal = Decimal("0.00000001")
    multiplier: Decimal = Decimal(1)
    calendar: Calendar = "24/7"
    tick: Decimal | None = None

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        for name in ("quantity_step", "multiplier", "tick"):
            amount: Decimal | None = getattr(self, name)
            if amount is not None and (not is_exact(amount) or amount <= 0):
                raise ValueError(f"{self.symbol}: {name} must be an exact amount above 0, not {amount}")


_ONE, _CENT = Decimal(1), Decimal("0.01")
# Contract sizes and ticks as NYMEX, COMEX and CME publish them; COMEX keeps the hours of NYMEX.
_FUTURES = (
    Instrument("CL", "USD", 2, _ONE, Decimal(1000), "NYMEX", _CENT),
    Instrument("GC", "USD", 1, _ONE, Decimal(100), "NYMEX", Decimal("0.1")),
    Instrument("ES", "USD", 2, _ONE, Decimal(50), "CME", Decimal("0.25")),
    Instrument("NQ", "USD", 2, _ONE, Decimal(20), "CME", Decimal("0.25")),
)
# An index cannot be traded itself; in a backtest one unit pays its points in dollars. The dollar index is computed from
# six exchange rates and has their trading hours.
_INDICES = (
    *(Instrument(symbol, "USD", 2, _ONE, _ONE, "XNYS", _CENT) for symbol in ("SPX", "DJI", "VIX")),
    Instrument("DXY", "USD", 3, _ONE, _ONE, "FX", Decimal("0.001")),
)
_SHARES = tuple(Instrument(symbol, "USD", 2, _ONE, _ONE, "XNYS", _CENT) for symbol in ("QQQ", "AAPL", "TSLA"))
BUILT_IN_INSTRUMENTS = {
    instrument.symbol: instrument
    for instrument in (
        Instrument("BTC-USD", "USD", 2, Decimal("0.00000001"), _ONE, "24/7", _CENT),
        Instrument("EUR-USD", "USD", 5, _ONE, _ONE, "FX", Decimal("0.00001")),
        *_FUTURES,
        *(msgspec.structs.replace(future, symbol=f"{future.symbol}=F") for future in _FUTURES),
        *_INDICES,
        *_SHARES,
    )
}


def instrument_for(symbol: Symbol) -> Instrument:
    """Return the built-in instrument of a symbol, or one that trades around the clock.

    Its quote currency is the part after the dash (BTC-EUR), or USD. A synthetic symbol has the instrument of the
    market that it imitates.
    """
    known = BUILT_IN_INSTRUMENTS.get(symbol)
    if known is not None:
        return known
    if symbol.startswith(SYNTHETIC):
        return msgspec.structs.replace(instrument_for(symbol.split(".")[1]), symbol=symbol)
    _, _, quote = symbol.rpartition("-")
    return Instrument(symbol, quote if re.fullmatch(r"[A-Z]{3}", quote) and quote != symbol else "USD", 5)


class SessionHours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sessions of one calendar that end from `first` to `last`, both included.

    sessions: (opened_at, closed_at) of each in UTC, in order; a day without an entry has no session.
    """

    calendar: Calendar
    first: date
    last: date
    sessions: tuple[tuple[datetime, datetime], ...]


def periods_per_year(instruments: Iterable[Instrument]) -> int:
    """Return the days per year for annualization: 365 if any symbol trades around the clock, otherwise 252."""
    return 365 if any(i.calendar == "24/7" for i in instruments) else 252


def instant_text(at: datetime) -> str:
    """Format an instant for ids and messages: 20170703T010000Z."""
    return at.astimezone(UTC).strftime(INSTANT_FORMAT)


def parse_instant(text: str) -> datetime:
    """Parse an instant written by `instant_text`."""
    return datetime.strptime(text, INSTANT_FORMAT).replace(tzinfo=UTC)
