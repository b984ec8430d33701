"""Analyses made without a run: those of a range that are missing, and the one of the latest bar."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from analysis.analyst import opinions
from engine.core.events import Environment
from engine.core.market import Symbol, Timeframe
from ui.app import App, Question, Tell, all_symbols, silent
from ui.services.analysts import Spending, analyst_of


class Analysed(NamedTuple):
    """What a generation came to: analyses made, found stored, failed among both, and the cost of those made in US
    dollars; notices as of an `Answer`."""

    variant: str
    made: int
    found: int
    failed: int
    cost: Decimal
    notices: tuple[str, ...]


def make_analyses(app: App, question: Question, tell: Tell = silent) -> Analysed:
    """Makes the analyses of a question's bars that are missing, and runs nothing."""
    spent, known = Spending(), app.catalogue.as_known_at(app.catalogue.known_at())
    symbols = tuple(question.symbols) or all_symbols(app, question.timeframe)
    total = sum(len(known.bars(symbol, question.timeframe, question.start, question.end)) for symbol in symbols)
    variant = analyst_of(app, question.variant, Environment.BACKTEST, budget=question.budget, progress=spent.hear)
    formed = opinions(
        app.store,
        known,
        symbols,
        question.timeframe,
        question.start,
        question.end,
        actor=app.settings.actor,
        variant=variant,
        progress=lambda done: tell(spent.told, done, total),
        retry=question.retry,
    )
    app.runner().catch_up(lambda done, total: tell("read models", done, total))
    return Analysed(variant.name, formed.made, formed.found, formed.failed, spent.cost, tuple(formed.notices))


def latest_opinion(
    app: App,
    symbol: Symbol,
    timeframe: Timeframe,
    end: datetime | None = None,
    variant: str = "",
    *,
    retry: bool = False,
    environment: Environment = Environment.BACKTEST,
) -> dict[str, Any]:
    """The analysis of the latest bar of a symbol, made now unless it is stored. A failure is a HOLD with its reason."""
    known = app.catalogue.as_known_at(app.catalogue.known_at())
    bar = known.bars(symbol, timeframe, None, end)[-1]
    formed = opinions(
        app.store,
        known,
        [symbol],
        timeframe,
        bar.opened_at,
        end,
        actor=app.settings.actor,
        variant=analyst_of(app, variant, environment),
        retry=retry,
    )
    wish = formed.wish(bar)
    return {
        "symbol": symbol,
        "at": bar.closed_at,
        "decision": wish.direction.value,
        "confidence": wish.confidence,
        "horizon_bars": wish.horizon_bars,
        "analysis_id": wish.analysis_id,
        "made": formed.made == 1,
        "failed": formed.failed == 1,
    }
