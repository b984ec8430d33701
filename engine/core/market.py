"""Values of the market: what is traded, in which units, and what a bar says. No I/O, no clock."""

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
"""How the symbols of made-up bars begin, followed by the market they imitate: SYNTHETIC.BTC-USD."""
INSTANT_FORMAT = "%Y%m%dT%H%M%SZ"
SYMBOL_PATTERN = re.compile(r"[A-Z0-9][A-Z0-9.^=_-]{0,23}")


def check_symbol(text: str) -> Symbol:
    """The symbol, if it is one: capitals, digits and `. ^ = _ -`, at most 24 characters."""
    if not SYMBOL_PATTERN.fullmatch(text):
        raise BadInput(
            f"symbol {text!r} is not usable: write capitals, digits and . ^ = _ - only, at most 24 characters, "
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
    """Where a wish wants the position to be; HOLD is no opinion."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"
    HOLD = "HOLD"


class OrderType(StrEnum):
    """How an order's price is found: at the market, at a limit or better, or at the market once a price is reached."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"
    STOP_LIMIT = "STOP_LIMIT"
    TRAILING_STOP = "TRAILING_STOP"


class TimeInForce(StrEnum):
    """How long an order works: to the end of its session, until canceled, or until an instant it names."""

    DAY = "DAY"
    GTC = "GTC"
    GTD = "GTD"


class Timeframe(StrEnum):
    """What a bar covers: a length of time counted from the open of a session, a session, or a week or month of them."""

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
        """The longest that a bar of it can last. One that the close of its session cuts off lasts less, and so do most
        sessions, weeks and months of a market that closes at all."""
        return _DURATIONS[self]

    @property
    def is_intraday(self) -> bool:
        """Whether a bar of it is a part of a session; else it is one session, or all of a week or month."""
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
    # Before 2007 New York set its clocks back in October.
    Timeframe.MO1: timedelta(days=31, hours=1),
}


class Bar(msgspec.Struct, frozen=True, gc=False):
    """Prices of one symbol from `opened_at` up to, not including, `closed_at` (both UTC).

    Knowable only at `closed_at`; its open alone is knowable at `opened_at`.
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
    """What one unit of a symbol is.

    quote: currency of its prices; price_decimals: decimals of its quotes, for display; quantity_step: the lot, the
    smallest tradable difference in quantity; multiplier: money per unit of price and quantity; calendar: when it
    trades; tick: the smallest difference between two prices, None where any price can be.
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
# Nobody can trade an index; a unit of it in a backtest is what pays its points in dollars. The dollar index is reckoned
# from six rates of exchange as long as these are quoted.
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
    """The built-in instrument of a symbol; else one that trades at any hour, quoted in what follows the dash (BTC-EUR)
    or in USD. A made-up symbol has the instrument of the market it imitates."""
    known = BUILT_IN_INSTRUMENTS.get(symbol)
    if known is not None:
        return known
    if symbol.startswith(SYNTHETIC):
        return msgspec.structs.replace(instrument_for(symbol.split(".")[1]), symbol=symbol)
    _, _, quote = symbol.rpartition("-")
    return Instrument(symbol, quote if re.fullmatch(r"[A-Z]{3}", quote) and quote != symbol else "USD", 5)


class SessionHours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sessions of one calendar that end from `first` to `last`, both included.

    sessions: (opened_at, closed_at) of each in UTC, in order; a day without one has no session.
    """

    calendar: Calendar
    first: date
    last: date
    sessions: tuple[tuple[datetime, datetime], ...]


def periods_per_year(instruments: Iterable[Instrument]) -> int:
    """Days a year that returns are annualised with: 365 if any symbol trades around the clock, else 252."""
    return 365 if any(i.calendar == "24/7" for i in instruments) else 252


def instant_text(at: datetime) -> str:
    """An instant in ids and messages: 20170703T010000Z."""
    return at.astimezone(UTC).strftime(INSTANT_FORMAT)


def parse_instant(text: str) -> datetime:
    """The instant that `instant_text` wrote."""
    return datetime.strptime(text, INSTANT_FORMAT).replace(tzinfo=UTC)
