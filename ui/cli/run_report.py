"""Figures and digests of finished runs as commands print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import out, print_facts, print_rows
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
        help="Analyst: `rules`, a strategy's name, your own as FILE.py:CLASS, a model's name, or A,B to use B "
        "where A fails. Default: the active model, else `rules`.",
    ),
]


def show_comparison(
    title: str,
    runs: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    wide: bool | None = None,
) -> None:
    """Print one row per figure and one column per run, each in the currency of its account."""
    heads = [f"{run['environment']} {run['profile']} {run['run_id'][:8]}" for run in runs]
    currencies = [str(run["currency"]) for run in runs]
    rows: list[dict[str, Any]] = [{"figure": name.replace("_", " "), "name": name} for name in METRICS]
    for row in rows:
        row |= {head: of_run.get(row["name"]) for head, of_run in zip(heads, metrics, strict=True)}
    texts = [
        format_figures(select_metrics(of_run), currency) for of_run, currency in zip(metrics, currencies, strict=True)
    ]
    columns = [_figures_column(*each) for each in zip(heads, texts, strict=True)]
    print_rows(f"{title} ({', '.join(dict.fromkeys(currencies))})", rows, ["figure", *columns], wide=wide)


def _figures_column(head: str, texts: Mapping[str, str]) -> TableColumn:
    # The numbers of returns and trades have their own rows here.
    return TableColumn(head, lambda row: texts.get(row["name"], format_cell(row[head])).split(" (n = ")[0])


def run_facts(report: RunReport) -> dict[str, Any]:
    """Return the facts of a run as JSON."""
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
    print_facts(f"Metrics ({currency})", select_metrics(metrics), format_figures(select_metrics(metrics), currency))


def show_digests(source_digest: str, report: RunReport) -> None:
    ours = report.result.ended.book_digest
    out.print(f"stored digest   {source_digest}")
    out.print(f"replayed digest {ours}")
    out.print("equal" if ours == source_digest else "DIFFERENT")


def select_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metrics.get(name) for name in METRICS}
