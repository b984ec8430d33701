"""`quantagent runs`: the list of runs, one run, its days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import (
    AsCsv,
    AsJson,
    Wide,
    err,
    open_queries,
    parse_instant,
    print_csv,
    print_facts,
    print_json,
    print_rows,
    report_errors,
)
from ui.cli.results import outcome_facts, show_outcome
from ui.cli.run_rows import LatestRunArgument, ListFormat, money_column, print_listing
from ui.cli.run_selection import RunArgument, resolve_run
from ui.cli.tables import TableColumn
from ui.formats import format_amount, format_figures, format_percent, format_ratio

if TYPE_CHECKING:
    from engine.core.events import RunRequested

runs_app = typer.Typer(name="runs", help="Backtests, replays and paper runs.", no_args_is_help=True)


@runs_app.command("list")
def runs_list(
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="E", help="Only backtest, paper or replay.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="L", help="Only runs with this label.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Requested at or after this (UTC, wall clock).")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Requested before this.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many, newest first.")] = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List runs, newest first."""
    from engine.core.errors import BadInput
    from engine.core.events import Environment
    from ui.app import open_app

    with report_errors():
        if environment is not None and environment not in list(Environment):
            raise BadInput(f"environment {environment!r} is unknown: use one of {', '.join(Environment)}.")
        first, last = parse_instant(since), parse_instant(until)
        with open_app() as opened, open_queries(opened) as queries:
            rows = queries.runs(environment, label, first, last, limit)
    if as_json:
        print_json(runs=rows)
    elif as_csv:
        print_csv(rows)
    elif rows:
        columns = [
            TableColumn("run", lambda row: row["run_id"][:8]),
            *("environment", "profile", "variant", "symbols", "status", "total_trades"),
            TableColumn("win_rate", lambda row: format_percent(row["win_rate"], 1)),
            TableColumn("sharpe_ratio", lambda row: format_ratio(row["sharpe_ratio"])),
            TableColumn("max_drawdown", lambda row: format_percent(row["max_drawdown"])),
            TableColumn("total_pnl", lambda row: format_amount(row["total_pnl"], row["currency"])),
            *("currency", "label"),
        ]
        keep = ["run", "environment", "status", "total_pnl", "profile", "total_trades", "max_drawdown", "symbols"]
        print_rows("Runs", rows, columns, keep=keep, wide=wide)
        print_set_aside(rows)
    elif any(each is not None for each in (environment, label, since, until)):
        err.print("No run matches these filters: `quantagent runs list` lists all.")
    else:
        err.print("There is no run yet: `quantagent backtest` makes one.")


def print_set_aside(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print on stderr which runs have missing figures or rows, and why."""
    for row in rows:
        if row["set_aside"]:
            err.print(f"run {row['run_id'][:8]} is set aside: {row['set_aside']}", markup=False)


@runs_app.command("show")
def runs_show(run: RunArgument, as_json: AsJson = False) -> None:
    """Show a run: its request, digests and metrics, denied signals by rule, and notes on its bars."""
    from ui.app import open_app

    with report_errors(), open_app() as opened, open_queries(opened) as queries:
        request = resolve_run(opened, run)
        row = queries.run(request.run_id)
        metrics, portfolio = queries.metrics(row["run_id"]), queries.portfolio(row["run_id"])
        outcome = outcome_facts(opened, queries, request)
        if as_json:
            print_json(run=row, metrics=metrics, portfolio=portfolio, **outcome)
            return
        currency = row["currency"]
        print_facts(f"Run {row['run_id']}", row, format_figures(row, currency))
        for title, facts in (("Portfolio", portfolio), ("Metrics", metrics)):
            if facts:
                shown = {k: v for k, v in facts.items() if k not in ("run_id", "environment")}
                print_facts(f"{title} ({currency})", shown, format_figures(shown, currency))
        show_outcome(outcome)


@runs_app.command("days")
def runs_days(
    run: LatestRunArgument = "latest", wide: Wide = False, as_json: AsJson = False, as_csv: AsCsv = False
) -> None:
    """List the account at the end of each session, with the day's profit or loss."""
    print_listing("days", run, None, None, ListFormat(wide, as_json, as_csv), _day_columns)


def _day_columns(run: RunRequested) -> list[str | TableColumn]:
    return ["at", *(money_column(run, name) for name in ("equity", "pnl", "cash", "unrealised_pnl"))]
