"""`quantagent backtest`: a run over stored bars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.output import (
    AsJson,
    EndOption,
    StartOption,
    SymbolsOption,
    TimeframeOption,
    err,
    open_queries,
    parse_dollars,
    parse_instant,
    parse_symbols,
    print_json,
    report_errors,
    show_notices,
    show_progress,
)
from ui.cli.profile import ProfileOption, RiskProfileOption
from ui.cli.results import outcome_facts, show_outcome
from ui.cli.run_report import VariantOption, run_facts, select_metrics, show_run_report


def backtest(
    symbols: SymbolsOption = "",
    timeframe: TimeframeOption = "1h",
    start: StartOption = None,
    end: EndOption = None,
    profile: ProfileOption = None,
    risk_profile: RiskProfileOption = None,
    variant: VariantOption = "",
    signals: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Trade these signals: symbol,at,decision[,confidence].")
    ] = None,
    label: Annotated[str, typer.Option(help="Name of a separate run of the same request.")] = "",
    fetch: Annotated[
        str,
        typer.Option(
            "--fetch", metavar="PROVIDER", help="Fetch the missing bars of --symbols first: yahoo, synthetic..."
        ),
    ] = "",
    budget: Annotated[str, typer.Option("--budget", metavar="USD", help="Limit of the cost of model calls.")] = "",
    retry: Annotated[bool, typer.Option("--retry", help="Call the model again if it failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Backtest stored bars; the same request is the same run and stores nothing twice."""
    from engine.core.market import Timeframe
    from projections.queries import MetricsMissing
    from ui.app import open_app
    from ui.services.backtest import BacktestRequest
    from ui.services.backtest import run_backtest as run

    with report_errors():
        request = BacktestRequest(
            symbols=parse_symbols(symbols),
            timeframe=Timeframe.parse(timeframe),
            start=parse_instant(start),
            end=parse_instant(end),
            profile=profile,
            risk_profile=risk_profile,
            variant=variant,
            signals=signals,
            label=label,
            budget=parse_dollars(budget),
            retry=retry,
        )
        with open_app() as opened:
            with show_progress() as on_progress:
                if fetch:
                    from ui.services.data import fetch_for_request

                    request = fetch_for_request(opened, request, fetch, on_progress)
                report = run(opened, request, on_progress)
            show_notices(report.notices, report.analyses_failed)
            with open_queries(opened) as queries:
                run_id = report.result.request.run_id
                metrics, missing = queries.metrics(run_id) or {}, queries.missing_metrics([run_id])
                outcome = outcome_facts(opened, queries, report.result.request)
        if as_json:
            print_json(**run_facts(report), metrics=select_metrics(metrics), **outcome)
        else:
            show_run_report(report, metrics)
            show_outcome(outcome)
        err.print(f"Decided by {report.profile_description}.")
        if missing:
            raise MetricsMissing(missing)
