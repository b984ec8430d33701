"""Market data for commands, the page and Python: who provides it, and bars that are fetched where they are missing."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from analysis.variants import links
from engine import clock
from engine.core.errors import BadInput
from engine.core.events import Environment
from engine.core.market import SYNTHETIC, Symbol, Timeframe, check_symbol
from engine.data import providers
from engine.data.calendars import Span, grid
from engine.data.fetch import Fetched, fetch
from ui.app import App, Question, Tell, silent
from ui.services.analysts import analyst_of

if TYPE_CHECKING:
    import polars as pl

    from engine.data.providers import Provider

SYMBOLS_TABLE = "symbols.toml"
USUAL_STRETCH = timedelta(days=365)
"""How far back a fetch goes that says nothing of it, where the provider has so much."""


class Wanted(NamedTuple):
    """A symbol, and the provider that is asked for it."""

    symbol: Symbol
    provider: Provider


def wanted(app: App, text: str, provider: str) -> Wanted:
    """What `SYMBOL` or `PROVIDER:SYMBOL` names; made-up bars bear that in their symbol."""
    named, colon, symbol = text.rpartition(":")
    symbol = symbol.upper()
    name = named if colon else provider
    if not name:
        raise BadInput(
            f"no provider is named for {symbol}: write PROVIDER:{symbol} or --provider with one of "
            f"{', '.join(providers.names())}, or set QUANTAGENT_PROVIDER."
        )
    found = providers.find(name, app.home / SYMBOLS_TABLE)
    if found.synthetic and not symbol.startswith(SYNTHETIC):
        symbol = f"{SYNTHETIC}{symbol}"
    return Wanted(check_symbol(symbol), found)


def fetch_missing(
    app: App,
    asked: Wanted,
    timeframe: Timeframe,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    again: bool = False,
    tell: Tell = silent,
) -> Fetched:
    """Fetches what the catalogue lacks between two instants; without a start, of the latest year the provider has."""
    instrument = app.catalogue.instrument(asked.symbol)
    end = end or clock.now()
    if start is None:
        reach = asked.provider.reach(instrument, timeframe)
        back = USUAL_STRETCH if reach is None or reach.back is None else min(reach.back, USUAL_STRETCH)
        start = end - back
    if start >= end:
        raise BadInput(f"the range from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} is empty: start before the end.")
    return fetch(
        app.catalogue,
        asked.provider,
        instrument,
        timeframe,
        Span(start, end),
        actor=app.settings.actor,
        again=again,
        progress=lambda done, everything: tell(f"{asked.symbol} {timeframe}", done, everything),
    )


def with_bars(app: App, question: Question, provider: str, tell: Tell = silent) -> Question:
    """The same question, about bars that are there now: what its symbols lack is fetched first."""
    if not question.symbols:
        raise BadInput("bars are fetched of symbols that are named: say which with --symbols A,B.")
    asked = [wanted(app, symbol, provider) for symbol in question.symbols]
    for each in asked:
        fetch_missing(app, each, question.timeframe, question.start, question.end, tell=tell)
        if question.start is not None and question.signals is None:
            # A provider may not reach so far back: analyses then say that they are warming up.
            with suppress(BadInput):
                first = warm_up_start(app, question, each.symbol, question.start)
                fetch_missing(app, each, question.timeframe, first, question.start, tell=tell)
    return question._replace(symbols=tuple(each.symbol for each in asked))


def warm_up_start(app: App, question: Question, symbol: Symbol, start: datetime) -> datetime:
    """From when on bars are needed for the first analysis of a range: as many before it as its variant looks at."""
    variant = analyst_of(app, question.variant, Environment.BACKTEST)
    bars = max(each.window_bars for each in links(variant)) - 1
    calendar = app.catalogue.instrument(symbol).calendar
    back = question.timeframe.duration * bars
    while (before := grid(calendar, question.timeframe, Span(start - back, start))).height < bars:
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
    """Bars inside a range, after fetching what is missing of them; without a provider, what is stored."""
    if not provider and ":" not in text:
        return app.catalogue.frame(check_symbol(text.upper()), timeframe, start, end)
    asked = wanted(app, text, provider)
    fetch_missing(app, asked, timeframe, start, end)
    return app.catalogue.frame(asked.symbol, timeframe, start, end)
