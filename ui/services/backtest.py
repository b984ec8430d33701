"""Backtests: from a request to a finished run with current read models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from analysis.analyst import ensure_analyses
from engine.core.config import RunConfig
from engine.core.errors import NotFound
from engine.core.events import Environment, RunRequested, RunStarted
from engine.core.market import Bar, Instrument, Symbol, Timeframe
from engine.core.money import ZERO
from engine.data.signals import ImportedAnalyst, check_signals_fit, read_signals, save_signals
from engine.runtime import runs
from engine.runtime.session import Analyst
from engine.trading.circuit_breakers import Command
from ui.app import App, ProgressCallback, no_progress
from ui.environment_lock import lock_digest
from ui.services import profile_files, profiles
from ui.services.analysts import SpendingTracker, find_analyst
from ui.suggestions import did_you_mean


class BacktestRequest(NamedTuple):
    """Parameters of a backtest. Without bounds: all bars.

    Without symbols: the profile's universe, or all that the catalogue holds in the timeframe. Without profiles: the
    active ones. Without a variant: the active model, else the rules. budget: limit of the
    cost of model calls in US dollars. retry: call models again for analyses that failed.
    """

    symbols: Sequence[Symbol] = ()
    timeframe: Timeframe = Timeframe.H1
    start: datetime | None = None
    end: datetime | None = None
    profile: str | None = None
    variant: str = ""
    signals: Path | None = None
    label: str = ""
    risk_profile: str | None = None
    budget: Decimal | None = None
    retry: bool = False


class RunReport(NamedTuple):
    """A finished run, the numbers of its analyses made and found stored, and the origin of its profile.

    analyses_failed: number of failed ones among both; cost: of those made, in US dollars; notices: facts that a user
    should know of the analyses, such as too few bars for more than a HOLD.
    """

    result: runs.RunResult
    analyses_made: int
    analyses_read: int
    profile_description: str
    notices: tuple[str, ...] = ()
    analyses_failed: int = 0
    cost: Decimal = ZERO


class ResolvedRequest(NamedTuple):
    """A request resolved against the catalogue: bars, their digest and range, the time by which all was known, and the
    frozen configuration."""

    selected: profiles.SelectedProfile
    config: RunConfig
    bars: list[list[Bar]]
    dataset_digest: str
    start: datetime
    end: datetime
    known_at: datetime


def run_backtest(app: App, request: BacktestRequest, on_progress: ProgressCallback = no_progress) -> RunReport:
    """Make the missing analyses, run the session over the bars, and update the read models."""
    resolved = resolve(app, request)
    if request.signals is not None:
        file = read_signals(request.signals)
        check_signals_fit(file, resolved.bars[: len(resolved.config.symbols)])
        save_signals(app.store, app.dsn, file, app.settings.actor)
        requested = _record_request(app, resolved, file.variant, request.label)
        result = run_session(app, requested, resolved.bars, ImportedAnalyst(file), on_progress)
        return RunReport(result, 0, 0, resolved.selected.description)
    total, spent = sum(map(len, resolved.bars)), SpendingTracker()
    variant = find_analyst(app, request.variant, Environment.BACKTEST, budget=request.budget, progress=spent.update)
    requested = _record_request(app, resolved, variant.name, request.label)
    analyses = ensure_analyses(
        app.store,
        app.catalogue.as_known_at(requested.known_at),
        resolved.config.symbols,
        resolved.config.timeframe,
        request.start,
        request.end,
        actor=app.settings.actor,
        variant=variant,
        progress=lambda done: on_progress(spent.label, done, total),
        retry=request.retry,
        read_time=_analyses_read_at(app, requested),
    )
    result = run_session(app, requested, resolved.bars, analyses, on_progress)
    return RunReport(
        result,
        analyses.made,
        analyses.already_stored,
        resolved.selected.description,
        tuple(analyses.notices),
        analyses.failed,
        spent.cost,
    )


def _analyses_read_at(app: App, requested: RunRequested) -> Callable[[datetime], datetime | None]:
    """Return the time at which analyses were read: the start of the run, also for its continuation."""
    rows = app.store.read(runs.run_stream(requested.run_id))
    at = next((row.meta.recorded_at for row in rows if isinstance(row.event, RunStarted)), None)
    return lambda close: at


def _record_request(app: App, resolved: ResolvedRequest, variant: str, label: str) -> RunRequested:
    """Return the run of a request, recorded once. A repeated request keeps the known-at time of the first: bars before
    its range, which are not part of its name, may have been learned since."""
    requested = runs.request(
        Environment.BACKTEST,
        resolved.config,
        profile=resolved.selected.name,
        dataset_digest=resolved.dataset_digest,
        variant=variant,
        start=resolved.start,
        end=resolved.end,
        label=label,
        known_at=resolved.known_at,
    )
    return runs.stored_request(app.store, requested)


def resolve(app: App, request: BacktestRequest, environment: Environment = Environment.BACKTEST) -> ResolvedRequest:
    selected = profiles.select_profile(app.store, request.profile, request.risk_profile, environment)
    symbols = tuple(request.symbols) or selected.profile.universe or all_symbols(app, request.timeframe)
    instruments = [app.catalogue.instrument(symbol) for symbol in symbols]
    config = resolve_config(app, selected.profile, instruments, request.timeframe)
    fed = config.data_symbols
    _check_bars_exist(app, fed, request.timeframe)
    known_at = app.catalogue.known_at()
    known = app.catalogue.as_known_at(known_at)
    bars = [known.bars(symbol, request.timeframe, request.start, request.end) for symbol in fed]
    return ResolvedRequest(
        selected=selected,
        config=config,
        bars=bars,
        dataset_digest=known.digest(fed, request.timeframe, request.start, request.end),
        start=request.start or min(series[0].opened_at for series in bars),
        end=request.end or max(series[-1].closed_at for series in bars),
        known_at=known_at,
    )


def _check_bars_exist(app: App, symbols: Sequence[Symbol], timeframe: Timeframe) -> None:
    """Raise `NotFound` for the first symbol without bars, with a similar stored one."""
    listing = app.catalogue.list_series()
    stored = {each.symbol for each in listing if each.timeframe is timeframe}
    for symbol in symbols:
        if symbol not in stored:
            wanted = f"{timeframe} bars of {symbol}{did_you_mean(symbol, stored)}"
            available = ", ".join(f"{each.symbol} {each.timeframe}" for each in listing) or "no bars yet"
            raise NotFound(f"there are no {wanted}; the catalogue holds {available}.", "SERIES_MISSING")


def resolve_config(
    app: App, profile: profile_files.Profile, instruments: Sequence[Instrument], timeframe: Timeframe
) -> RunConfig:
    rates = [app.catalogue.instrument(rate) for rate in profile_files.rates_needed(profile, instruments)]
    return profile_files.resolve_profile(profile, instruments, timeframe, rates)


def all_symbols(app: App, timeframe: Timeframe) -> tuple[Symbol, ...]:
    """Return the symbols with bars of a timeframe. Raise `NotFound` if there are none."""
    symbols = tuple(series.symbol for series in app.catalogue.list_series() if series.timeframe is timeframe)
    if not symbols:
        raise NotFound(f"the catalogue holds no {timeframe} bars.", "CATALOGUE_EMPTY", timeframe=timeframe)
    return symbols


def run_session(
    app: App,
    requested: RunRequested,
    bars: Sequence[Sequence[Bar]],
    analyst: Analyst,
    on_progress: ProgressCallback,
    commands: Sequence[Command] = (),
) -> runs.RunResult:
    total = sum(map(len, bars))
    result = runs.execute_run(
        app.store,
        requested,
        bars,
        analyst,
        actor=app.settings.actor,
        lock_digest=lock_digest(),
        on_progress=lambda done: on_progress("bars", done, total),
        commands=commands,
    )
    app.runner().catch_up(lambda done, total: on_progress("read models", done, total))
    return result
