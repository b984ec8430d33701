"""Provider of synthetic bars that imitate a market: SYNTHETIC.BTC-USD, or SYNTHETIC.BTC-USD.7 for another path.

A bar depends only on its symbol and time, and not on other requests. The price is a geometric Brownian motion over all
minutes, fixed at midnight of each day. Bars of all timeframes are built from the same minutes, so that smaller bars add
up to larger ones. The calendar of the market determines which minutes trade. The model has no news, no fat tails and no
quiet hours: it serves for trials, and results on it prove nothing about a market.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.core.errors import BadInput, NotFound
from engine.core.market import SYNTHETIC, Instrument, Symbol, Timeframe
from engine.data.calendars import Span, grid
from engine.data.encoding import NUMBERS
from engine.data.providers import Reach
from engine.data.providers.rows import COLUMNS, no_rows
from engine.data.resample import resample


class PriceModel(NamedTuple):
    """Model of a market: its price on `ANCHOR`, its volatility per year, and its mean volume per minute of trading."""

    price: float
    volatility: float
    volume: float


# A comment names the source of a measured volatility: the standard deviation of log returns of closes, per year of
# calendar time. The others, all prices and volumes are round numbers near those of 2024 and 2025.
PRICE_MODELS: dict[Symbol, PriceModel] = {
    "BTC-USD": PriceModel(95_000, 0.75, 20),  # Daily closes from May 2018 to March 2022; 0.44 in 2025.
    "EUR-USD": PriceModel(1.10, 0.07, 100),  # Hourly closes of the bundled sample, second half of 2017.
    "CL": PriceModel(70, 0.34, 200),  # Hourly closes from November 2024 to September 2025.
    "GC": PriceModel(2_600, 0.17, 150),
    "ES": PriceModel(5_900, 0.21, 1_000),  # As CL.
    "NQ": PriceModel(21_000, 0.26, 400),  # As CL.
    "SPX": PriceModel(5_900, 0.14, 1_000_000),  # Hourly closes from November 2022 to September 2025.
    "DJI": PriceModel(43_000, 0.13, 300_000),  # As SPX.
    "QQQ": PriceModel(500, 0.18, 100_000),  # As SPX.
    "VIX": PriceModel(17, 1.10, 1),  # Daily closes from January 1990 on.
    "DXY": PriceModel(105, 0.07, 1),
    "AAPL": PriceModel(220, 0.28, 150_000),
    "TSLA": PriceModel(300, 0.60, 250_000),
}
ANCHOR = np.datetime64("2025-01-01", "D")

_MINUTES = 1_440
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_MINUTES = 365.25 * _MINUTES
_CHUNK_MINUTES = 1_000_000

Float64Array = NDArray[np.float64]
UIntArray = NDArray[np.uint64]


def market_of(symbol: Symbol) -> Symbol:
    """Return the market of a synthetic symbol. Raise `NotFound` for any other symbol."""
    named = re.fullmatch(re.escape(SYNTHETIC) + r"(?P<market>.+?)(\.\d+)?", symbol)
    if named is None or named["market"] not in PRICE_MODELS:
        raise NotFound(
            f"{symbol} is no synthetic symbol: write {SYNTHETIC}MARKET, or {SYNTHETIC}MARKET.NUMBER for another "
            f"path, with one of the markets {', '.join(PRICE_MODELS)}."
        )
    return named["market"]


class Synthetic:
    """Synthetic bars of every timeframe and time."""

    name = "synthetic"
    synthetic = True
    remembers = False

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        try:
            market_of(instrument.symbol)
        except NotFound:
            return None
        return Reach()

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        model = PRICE_MODELS[market_of(instrument.symbol)]
        if span.start < _EPOCH:
            raise BadInput(f"synthetic bars begin on {_EPOCH.date()}: choose a later start.")
        if span.start >= min(span.end, now):
            return no_rows()
        bars = grid(instrument.calendar, timeframe, Span(span.start, min(span.end, now)))
        bars = bars.filter(pl.col("closed_at") <= now)
        if bars.is_empty():
            return no_rows()
        if timeframe.is_intraday or timeframe is Timeframe.D1:
            return _priced_bars(bars, instrument, model).select(COLUMNS)
        days = grid(instrument.calendar, Timeframe.D1, Span(bars["opened_at"][0], bars["closed_at"][-1]))
        daily = _priced_bars(days, instrument, model)
        return resample(daily, instrument.calendar, Timeframe.D1, timeframe).select(COLUMNS)


def _priced_bars(bars: pl.DataFrame, instrument: Instrument, model: PriceModel) -> pl.DataFrame:
    """Add prices and volumes to bars of sessions or of their parts."""
    return pl.concat(_rows(chunk, instrument, model) for chunk in _chunks(bars))


def _chunks(bars: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Split bars into chunks of about two years of minutes, to limit the memory used."""
    since = pl.col("closed_at") - pl.col("opened_at").first()
    numbered = bars.with_columns(chunk=since.dt.total_minutes() // _CHUNK_MINUTES)
    yield from numbered.partition_by("chunk", include_key=False, maintain_order=True)


def _rows(bars: pl.DataFrame, instrument: Instrument, model: PriceModel) -> pl.DataFrame:
    """Return bars with prices on the instrument's ticks."""
    minutes = [bars[edge].dt.epoch("s").to_numpy() // 60 for edge in ("opened_at", "closed_at")]
    first_day, last_day = int(minutes[0][0]) // _MINUTES, (int(minutes[1][-1]) - 1) // _MINUTES
    path = _path(instrument.symbol, model, first_day, last_day)
    begins, ends = (edge - first_day * _MINUTES for edge in minutes)
    # Pairs of begin and end: every second section is a bar, the others are between two bars.
    cuts = np.column_stack((begins, ends)).ravel()
    highs, lows, volumes = (
        reduce.reduceat(np.append(values, values[-1]), cuts)[::2]
        for reduce, values in ((np.maximum, path.high), (np.minimum, path.low), (np.add, path.volume))
    )
    prices = (path.price[begins], highs, lows, path.price[ends])
    columns = dict(zip(NUMBERS, (*(_on_ticks(price, instrument) for price in prices), volumes), strict=True))
    return pl.DataFrame({"opened_at": bars["opened_at"], "closed_at": bars["closed_at"], **columns})


def _on_ticks(prices: Float64Array, instrument: Instrument) -> Float64Array:
    tick = float(instrument.tick) if instrument.tick is not None else 10.0**-instrument.price_decimals
    # Without the second rounding, 3 ticks of 0.1 would be 0.30000000000000004.
    return np.round(np.maximum(1, np.rint(prices / tick)) * tick, 9)


class _Path(NamedTuple):
    """Full days of minutes: the prices at their edges (one more than minutes), extremes and volumes of the minutes."""

    price: Float64Array
    high: Float64Array
    low: Float64Array
    volume: Float64Array


def _path(symbol: Symbol, model: PriceModel, first_day: int, last_day: int) -> _Path:
    """Return the path of a symbol from the start of `first_day` to the end of `last_day` (days since 1970)."""
    days = np.arange(first_day, last_day + 1)
    step = model.volatility / np.sqrt(_YEAR_MINUTES)
    midnights = _midnights(symbol, model, first_day, last_day)
    minutes = np.arange(first_day * _MINUTES, (last_day + 1) * _MINUTES)
    walk = np.cumsum(_normal(symbol, "step", minutes).reshape(len(days), _MINUTES) * step, axis=1)
    # A Brownian bridge: the walk of a day, tilted so that it ends at the price of the next midnight.
    share = np.arange(1, _MINUTES + 1) / _MINUTES
    tilted = walk + share * (midnights[1:] - midnights[:-1] - walk[:, -1])[:, None]
    level = np.concatenate((midnights[:1], (midnights[:-1, None] + tilted).ravel()))
    begin, end = level[:-1], level[1:]
    # The extremes of a Brownian bridge between two known ends: Karatzas and Shreve, Brownian Motion, (4.3.40).
    up, down = (
        np.sqrt((end - begin) ** 2 - 2 * step**2 * np.log(_uniform(symbol, k, minutes))) for k in ("up", "down")
    )
    volume = np.rint(model.volume * np.exp(_normal(symbol, "volume", minutes) - 0.5))
    return _Path(np.exp(level), np.exp((begin + end + up) / 2), np.exp((begin + end - down) / 2), volume)


def _midnights(symbol: Symbol, model: PriceModel, first_day: int, last_day: int) -> Float64Array:
    """Return the logarithm of the price at the midnights from before `first_day` to after `last_day`.

    The walk goes from the anchor in both directions, so that a price does not depend on the length of the walk.
    """
    anchor = int(ANCHOR.astype(np.int64))
    low, high = min(anchor, first_day), max(anchor, last_day + 1)
    steps = _normal(symbol, "day", np.arange(low, high)) * model.volatility / np.sqrt(365.25)
    before, after = steps[: anchor - low], steps[anchor - low :]
    level = np.concatenate((-np.cumsum(before[::-1])[::-1], [0.0], np.cumsum(after))) + np.log(model.price)
    return level[first_day - low : last_day + 2 - low]


# --- Pseudorandom numbers by name and place -----------------------------------------------------------------------


def _normal(symbol: Symbol, purpose: str, at: NDArray[np.int64]) -> Float64Array:
    """Return standard normal numbers (Box and Muller 1958), one for each place."""
    radius = np.sqrt(-2 * np.log(_uniform(symbol, f"{purpose} radius", at)))
    return radius * np.cos(2 * np.pi * _uniform(symbol, f"{purpose} angle", at))


def _uniform(symbol: Symbol, purpose: str, at: NDArray[np.int64]) -> Float64Array:
    """Return uniform numbers above 0 and below 1, one for each place.

    They result from the mixing function of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number
    Generators, 2014) of a key and the place. There is no state, so that any part of a path can be computed alone.
    """
    key = np.uint64(int.from_bytes(sha256(f"{symbol}\n{purpose}".encode()).digest()[:8]))
    with np.errstate(over="ignore"):
        mixed: UIntArray = key + at.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
