"""Analyses made without a run: those missing in a range, and that of the latest bar."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from analysis.analyst import ensure_analyses
from engine.core.events import Environment
from engine.core.market import Symbol, Timeframe
from ui.app import App, ProgressCallback, no_progress
from ui.services.analysts import SpendingTracker, find_analyst
from ui.services.backtest import BacktestRequest, all_symbols


class GenerationReport(NamedTuple):
    """Counts of analyses made, found stored and failed (of both), and the cost in US dollars of those made; notices as
    in `RunReport`."""

    variant: str
    made: int
    found: int
    failed: int
    cost: Decimal
    notices: tuple[str, ...]


def create_missing_analyses(
    app: App, request: BacktestRequest, on_progress: ProgressCallback = no_progress
) -> GenerationReport:
    """Make the missing analyses of a request's bars, without a run."""
    spent, known = SpendingTracker(), app.catalogue.as_known_at(app.catalogue.known_at())
    symbols = tuple(request.symbols) or all_symbols(app, request.timeframe)
    total = sum(len(known.bars(symbol, request.timeframe, request.start, request.end)) for symbol in symbols)
    variant = find_analyst(app, request.variant, Environment.BACKTEST, budget=request.budget, progress=spent.update)
    analyses = ensure_analyses(
        app.store,
        known,
        symbols,
        request.timeframe,
        request.start,
        request.end,
        actor=app.settings.actor,
        variant=variant,
        progress=lambda done: on_progress(spent.label, done, total),
        retry=request.retry,
    )
    app.runner().catch_up(lambda done, total: on_progress("read models", done, total))
    return GenerationReport(
        variant.name, analyses.made, analyses.already_stored, analyses.failed, spent.cost, tuple(analyses.notices)
    )


def analyse_latest_bar(
    app: App,
    symbol: Symbol,
    timeframe: Timeframe,
    end: datetime | None = None,
    variant: str = "",
    *,
    retry: bool = False,
    environment: Environment = Environment.BACKTEST,
) -> dict[str, Any]:
    """Return the analysis of a symbol's latest bar, made now unless stored. A failure is a HOLD with its reason."""
    known = app.catalogue.as_known_at(app.catalogue.known_at())
    bar = known.bars(symbol, timeframe, None, end)[-1]
    analyses = ensure_analyses(
        app.store,
        known,
        [symbol],
        timeframe,
        bar.opened_at,
        end,
        actor=app.settings.actor,
        variant=find_analyst(app, variant, environment),
        retry=retry,
    )
    intent = analyses.intent(bar)
    return {
        "symbol": symbol,
        "at": bar.closed_at,
        "decision": intent.direction.value,
        "confidence": intent.confidence,
        "horizon_bars": intent.horizon_bars,
        "analysis_id": intent.analysis_id,
        "made": analyses.made == 1,
        "failed": analyses.failed == 1,
    }
