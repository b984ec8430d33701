"""Market data for commands, the page and Python: providers of symbols, and fetching of missing bars."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from analysis.variants import members
from engine import clock
from engine.core.errors import BadInput
from engine.core.events import Environment
from engine.core.market import SYNTHETIC, Symbol, Timeframe, check_symbol
from engine.data import providers
from engine.data.calendars import Span, grid
from engine.data.fetch import FetchResult, fetch_bars
from ui.app import App, ProgressCallback, no_progress
from ui.services.analysts import find_analyst
from ui.services.backtest import BacktestRequest

if TYPE_CHECKING:
    import polars as pl

    from engine.data.providers import Provider

SYMBOLS_TABLE = "symbols.toml"
DEFAULT_FETCH_SPAN = timedelta(days=365)
"""Span of a fetch without a start, if the provider reaches that far back."""


class SymbolSource(NamedTuple):
    """A symbol and its provider."""

    symbol: Symbol
    provider: Provider


def resolve_symbol(app: App, text: str, provider: str) -> SymbolSource:
    """Return the symbol and provider of `SYMBOL` or `PROVIDER:SYMBOL`; a symbol of synthetic bars gets their prefix."""
    named, colon, symbol = text.rpartition(":")
    symbol = symbol.upper()
    name = named if colon else provider
    if not name:
        raise BadInput(
            f"no provider is named for {symbol}: write PROVIDER:{symbol} with one of "
            f"{', '.join(providers.provider_names())}, or set QUANTAGENT_PROVIDER.",
            "PROVIDER_MISSING",
        )
    found_provider = providers.load_provider(name, app.home / SYMBOLS_TABLE)
    if found_provider.synthetic and not symbol.startswith(SYNTHETIC):
        symbol = f"{SYNTHETIC}{symbol}"
    return SymbolSource(check_symbol(symbol), found_provider)


def fetch_missing(
    app: App,
    source: SymbolSource,
    timeframe: Timeframe,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    refetch: bool = False,
    on_progress: ProgressCallback = no_progress,
) -> FetchResult:
    """Fetch the missing bars between two instants; without a start, of the provider's latest year."""
    instrument = app.catalogue.instrument(source.symbol)
    end = end or clock.now()
    if start is None:
        reach = source.provider.reach(instrument, timeframe)
        back = DEFAULT_FETCH_SPAN if reach is None or reach.back is None else min(reach.back, DEFAULT_FETCH_SPAN)
        start = end - back
    if start >= end:
        raise BadInput(f"the range from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} is empty: start before the end.")
    return fetch_bars(
        app.catalogue,
        source.provider,
        instrument,
        timeframe,
        Span(start, end),
        actor=app.settings.actor,
        refetch=refetch,
        progress=lambda done, everything: on_progress(f"{source.symbol} {timeframe}", done, everything),
    )


def fetch_for_request(
    app: App, request: BacktestRequest, provider: str, on_progress: ProgressCallback = no_progress
) -> BacktestRequest:
    """Return the request after fetching the missing bars of its symbols."""
    if not request.symbols:
        raise BadInput("bars are fetched only for named symbols.", "SYMBOLS_MISSING")
    sources = [resolve_symbol(app, symbol, provider) for symbol in request.symbols]
    for each in sources:
        fetch_missing(app, each, request.timeframe, request.start, request.end, on_progress=on_progress)
        if request.start is not None and request.signals is None:
            # A provider may not reach that far back; analyses are then marked as warming up.
            with suppress(BadInput):
                first = warm_up_start(app, request, each.symbol, request.start)
                fetch_missing(app, each, request.timeframe, first, request.start, on_progress=on_progress)
    return request._replace(symbols=tuple(each.symbol for each in sources))


def warm_up_start(app: App, request: BacktestRequest, symbol: Symbol, start: datetime) -> datetime:
    """Return the time of the first bar that the first analysis of a range needs: a whole window before it."""
    variant = find_analyst(app, request.variant, Environment.BACKTEST)
    bars = max(each.window_bars for each in members(variant)) - 1
    calendar = app.catalogue.instrument(symbol).calendar
    back = request.timeframe.duration * bars
    while (before := grid(calendar, request.timeframe, Span(start - back, start))).height < bars:
        back *= 2
    return before["opened_at"][before.height - bars].astimezone(UTC)


def get_ohlc(
    app: App,
    text: str,
    timeframe: Timeframe,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    provider: str = "",
) -> pl.DataFrame:
    """Return the bars inside a range after fetching missing ones; without a provider, the stored bars."""
    if not provider and ":" not in text:
        return app.catalogue.frame(check_symbol(text.upper()), timeframe, start, end)
    source = resolve_symbol(app, text, provider)
    fetch_missing(app, source, timeframe, start, end)
    return app.catalogue.frame(source.symbol, timeframe, start, end)


def import_sample(app: App) -> int:
    """Import the bundled sample; return the number of new bars."""
    from engine.data.sample import load_sample as load

    return sum(added.new for added in load(app.catalogue, actor=app.settings.actor).values())
