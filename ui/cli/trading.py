"""`backtest`, `replay`, `compare`: runs over stored bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import (
    AsJson,
    EndOption,
    StartOption,
    SymbolsOption,
    TimeframeOption,
    Wide,
    err,
    open_queries,
    out,
    parse_dollars,
    parse_instant,
    parse_symbols,
    print_facts,
    print_json,
    print_rows,
    report_errors,
    show_progress,
)
from ui.cli.profile import ProfileOption, RiskProfileOption
from ui.cli.results import outcome_facts, show_outcome
from ui.cli.run_selection import resolve_run, resolve_source
from ui.cli.tables import TableColumn, format_cell
from ui.formats import format_figures

if TYPE_CHECKING:
    from ui.services.backtest import RunReport

METRICS = (
    "final_equity",
    "total_pnl",
    "total_return",
    "fees",
    "total_trades",
    "open_trades",
    "win_rate",
    "profit_factor",
    "expectancy",
    "sharpe_ratio",
    "sortino_ratio",
    "volatility",
    "max_drawdown",
    "cagr",
    "calmar_ratio",
    "days",
    "annualisation",
)


VariantOption = Annotated[
    str,
    typer.Option(
        "--variant",
        metavar="V",
        help="Whose analyses: `rules`, a strategy's name, your own as FILE.py:CLASS, a model's name, or A,B to ask B "
        "where A fails. Default: the active model, else `rules`.",
    ),
]


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
    label: Annotated[str, typer.Option(help="Ask the same question again under a name.")] = "",
    fetch: Annotated[
        str,
        typer.Option(
            "--fetch", metavar="PROVIDER", help="Fetch first what is missing of --symbols: yahoo, synthetic..."
        ),
    ] = "",
    budget: Annotated[
        str, typer.Option("--budget", metavar="USD", help="What the model may cost for this; it stops before more.")
    ] = "",
    retry: Annotated[bool, typer.Option("--retry", help="Ask the model again where it failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the rules over stored bars. The same question is the same run: asking twice stores nothing twice."""
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
            for notice in report.notices:
                err.print(notice, markup=False)
            with open_queries(opened) as queries:
                run_id = report.result.request.run_id
                metrics, missing = queries.metrics(run_id) or {}, queries.missing_metrics([run_id])
                outcome = outcome_facts(opened, queries, report.result.request)
        if as_json:
            print_json(**run_facts(report), metrics=_select_metrics(metrics), **outcome)
        else:
            show_run_report(report, metrics)
            show_outcome(outcome)
        err.print(f"Decided by {report.profile_description}.")
        if missing:
            raise MetricsMissing(missing)


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The beginning of a run's id, or `latest`.")],
    profile: Annotated[
        list[str] | None, typer.Option("--profile", help="Another profile to replay under; may be given again.")
    ] = None,
    risk_profile: RiskProfileOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Run a run's stored analyses again, under its own configuration or others. Makes no analysis, calls no model."""
    from engine.runtime.replay import describe_divergence
    from projections.queries import MetricsMissing
    from ui.app import open_app
    from ui.services.replay import run_replay as run_again

    with report_errors(), open_app() as opened:
        source = resolve_source(opened, run)
        with show_progress() as on_progress:
            names: list[str | None] = [*profile] if profile else [None]
            reports = [run_again(opened, source.run_id, name, on_progress, risk_profile) for name in names]
        with open_queries(opened) as queries:
            original = queries.run(source.run_id)
            rows = [original, *(queries.run(answer.result.request.run_id) for answer in reports)]
            metrics = [queries.metrics(row["run_id"]) or {} for row in rows]
            outcomes = [outcome_facts(opened, queries, answer.result.request) for answer in reports]
            missing = queries.missing_metrics([answer.result.request.run_id for answer in reports])
        same_config = [a for a in reports if a.result.request.config_digest == source.config_digest]
        equal = all(a.result.ended.book_digest == original["book_digest"] for a in same_config)
        if as_json:
            print_json(
                source=source.run_id,
                source_digest=original["book_digest"],
                equal=equal if same_config else None,
                replays=[run_facts(answer) | facts for answer, facts in zip(reports, outcomes, strict=True)],
            )
        else:
            for answer in same_config:
                show_digests(str(original["book_digest"]), answer)
                if difference := describe_divergence(opened.store, source, answer.result.request):
                    out.print(difference)
            show_comparison("Side by side", rows, metrics, wide)
            for answer, facts in zip(reports, outcomes, strict=True):
                if any(facts.values()):
                    out.print(f"Run {answer.result.request.run_id[:8]}, {answer.result.request.profile}:", markup=False)
                    show_outcome(facts)
            err.print(f"{sum(a.analyses_read for a in reports):,} analyses read, 0 made.")
        if not equal:
            raise typer.Exit(3)
        if missing:
            raise MetricsMissing(missing)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two or more runs.")],
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Put the metrics of runs side by side."""
    from projections.queries import MetricsMissing
    from ui.app import open_app

    with report_errors(), open_app() as opened, open_queries(opened) as queries:
        rows = [queries.run(resolve_run(opened, run).run_id) for run in runs]
        metrics = [queries.metrics(row["run_id"]) or {} for row in rows]
        if as_json:
            print_json(runs=[{"run_id": r["run_id"], **_select_metrics(m)} for r, m in zip(rows, metrics, strict=True)])
        else:
            show_comparison("Side by side", rows, metrics, wide)
        if missing := queries.missing_metrics([row["run_id"] for row in rows if row["status"] == "ended"]):
            raise MetricsMissing(missing)


def show_comparison(
    title: str,
    runs: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    wide: bool | None = None,
) -> None:
    """One row per figure, one column per run, each in the currency of its account."""
    heads = [f"{run['environment']} {run['profile']} {run['run_id'][:8]}" for run in runs]
    currencies = [str(run["currency"]) for run in runs]
    rows: list[dict[str, Any]] = [{"figure": name.replace("_", " "), "name": name} for name in METRICS]
    for row in rows:
        row |= {head: of_run.get(row["name"]) for head, of_run in zip(heads, metrics, strict=True)}
    texts = [
        format_figures(_select_metrics(of_run), currency) for of_run, currency in zip(metrics, currencies, strict=True)
    ]
    columns = [_figures_column(*each) for each in zip(heads, texts, strict=True)]
    print_rows(f"{title} ({', '.join(dict.fromkeys(currencies))})", rows, ["figure", *columns], wide=wide)


def _figures_column(head: str, texts: Mapping[str, str]) -> TableColumn:
    # How many returns and trades a ratio rests on is a row of its own here.
    return TableColumn(head, lambda row: texts.get(row["name"], format_cell(row[head])).split(" (n = ")[0])


def run_facts(report: RunReport) -> dict[str, Any]:
    """What a run says of itself."""
    request, ended = report.result
    return {
        "run_id": request.run_id,
        "environment": request.environment.value,
        "profile": request.profile,
        "variant": request.variant,
        "symbols": list(request.config.symbols),
        "bars": ended.bars,
        "analyses_made": report.analyses_made,
        "analyses_read": report.analyses_read,
        "analyses_failed": report.analyses_failed,
        "cost_usd": report.cost,
        "signals": ended.signals,
        "orders": ended.orders,
        "fills": ended.fills,
        "book_events": ended.book_events,
        "book_digest": ended.book_digest,
    }


def show_run_report(report: RunReport, metrics: Mapping[str, Any]) -> None:
    facts, currency = run_facts(report), report.result.request.config.currency
    print_facts(f"Run {facts['run_id']}", {**facts, "symbols": ", ".join(facts["symbols"])})
    print_facts(f"Metrics ({currency})", _select_metrics(metrics), format_figures(_select_metrics(metrics), currency))


def show_digests(source_digest: str, report: RunReport) -> None:
    ours = report.result.ended.book_digest
    out.print(f"stored digest   {source_digest}")
    out.print(f"replayed digest {ours}")
    out.print("equal" if ours == source_digest else "DIFFERENT")


def _select_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metrics.get(name) for name in METRICS}
