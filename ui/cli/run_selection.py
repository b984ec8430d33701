"""Selection of the run of a command; for `latest` the run is named after the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ui.cli.output import print_at_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.core.events import RunRequested
    from ui.app import App

RUN_HELP = "A run by a prefix of its id, or `latest`."

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]


def resolve_run(opened: App, prefix: str) -> RunRequested:
    """Return the run whose id begins with `prefix`; `latest` is the newest one."""
    from ui.services import run_lookup

    return _announce_latest(prefix, run_lookup.find_run(opened, prefix))


def resolve_source(opened: App, prefix: str) -> RunRequested:
    """Return the run to replay; `latest` is the newest backtest or paper run that has ended."""
    from ui.services import run_lookup

    return _announce_latest(prefix, run_lookup.find_source(opened, prefix))


def resolve_runs(opened: App, prefixes: Sequence[str]) -> list[RunRequested]:
    return [resolve_run(opened, prefix) for prefix in prefixes]


def _announce_latest(prefix: str, run: RunRequested) -> RunRequested:
    from ui.services.run_lookup import LATEST

    if prefix == LATEST:
        symbols = ",".join(run.config.symbols)
        print_at_end(f"latest is run {run.run_id[:8]}: {run.environment}, {run.profile}, {symbols}.")
    return run
