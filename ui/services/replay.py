"""Replays: the stored analyses of a run through the session again, under its own configuration or another profile."""

from __future__ import annotations

from engine.audit.regenerate import dataset_digest
from engine.core.events import Environment
from engine.data.signals import load_signals
from engine.runtime import runs
from engine.runtime.replay import check_replayable, commands_of_run, load_stored_analyses
from ui.app import App, ProgressCallback, no_progress
from ui.services import profiles
from ui.services.backtest import RunReport, resolve_config, run_session
from ui.services.run_lookup import find_source


def run_replay(
    app: App,
    run: str,
    profile: str | None = None,
    on_progress: ProgressCallback = no_progress,
    risk_profile: str | None = None,
    label: str = "",
) -> RunReport:
    """Replay the stored analyses of a run under its own configuration or another profile. Make no analysis."""
    source = find_source(app, run)
    config, name, description = source.config, source.profile, f"profile {source.profile} (of the run)"
    if profile is not None or risk_profile is not None:
        selected = profiles.select_profile(app.store, profile, risk_profile)
        config = resolve_config(app, selected.profile, config.instruments, config.timeframe)
        name, description = selected.name, selected.description
    result = runs.result_of(app.store, source.run_id)
    # A paper run was requested before its end was known, and may have continued since.
    end = result.ended.ended_at if result and source.environment is Environment.PAPER else source.end
    source_bars = runs.bars_seen(app.catalogue, app.store, source, source.config.data_symbols, end)
    if result and result.ended.reason:
        # It has read no analysis of the bars after its early end.
        end = result.ended.ended_at
    bars = runs.bars_seen(app.catalogue, app.store, source, config.data_symbols, end)
    check_replayable(app.store, source, dataset_digest(source_bars, config.timeframe))
    total = sum(map(len, bars))
    analyst = load_stored_analyses(
        app.store,
        source,
        lambda variant: load_signals(app.store, app.dsn, variant),
        lambda done: on_progress("stored analyses", done, total),
    )
    requested = runs.request(
        Environment.REPLAY,
        config,
        profile=name,
        dataset_digest=dataset_digest(bars, config.timeframe),
        variant=source.variant,
        start=source.start,
        end=end,
        label=label,
        of_run=source.run_id,
        known_at=source.known_at,
        # A run of a version that did not freeze sessions has those known now.
        sessions=runs.hours_of(app.store, source) or None,
    )
    operator_commands = commands_of_run(app.store, source)
    return RunReport(run_session(app, requested, bars, analyst, on_progress, operator_commands), 0, total, description)
