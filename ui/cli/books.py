"""`runs`, `orders`, `trades`, `positions`, `why`: what happened, and why."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ui.cli.output import (
    AsCsv,
    AsJson,
    On,
    OneSymbol,
    Run,
    cell,
    day_of,
    err,
    errors_in_words,
    out,
    print_csv,
    print_facts,
    print_json,
    print_rows,
)

if TYPE_CHECKING:
    from engine.audit.why import Link

# Fewer columns fit below this.
WIDE = 130

runs_app = typer.Typer(name="runs", help="Backtests, replays and paper runs.", no_args_is_help=True)
orders_app = typer.Typer(name="orders", help="Orders of a run.", no_args_is_help=True)
trades_app = typer.Typer(name="trades", help="Round trips of a run.", no_args_is_help=True)
positions_app = typer.Typer(name="positions", help="Open positions of a run.", no_args_is_help=True)


@runs_app.command("list")
def runs_list(as_json: AsJson = False) -> None:
    """All runs, newest first."""
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened, opened.queries() as queries:
        rows = queries.runs()
    if as_json:
        print_json(runs=rows)
    elif rows:
        shown = [{**row, "run": row["run_id"][:8], "pnl": _cents(row["total_pnl"])} for row in rows]
        question = "environment profile variant symbols" if out.width >= WIDE else "environment profile"
        names = f"run {question} status total_trades win_rate sharpe_ratio max_drawdown pnl"
        print_rows("Runs", shown, names.split())
    else:
        err.print("There is no run yet: `quantagent backtest` makes one.")


def _cents(amount: Decimal | None) -> str | None:
    """Money as a list shows it; `runs show` and --json have it exactly."""
    return None if amount is None else f"{amount:,.2f}"


@runs_app.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The beginning of a run's id, or `latest`.")],
    as_json: AsJson = False,
) -> None:
    """One run: its question, digests and metrics."""
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened, opened.queries() as queries:
        row = queries.run(run)
        metrics, portfolio = queries.metrics(row["run_id"]), queries.portfolio(row["run_id"])
        if as_json:
            print_json(run=row, metrics=metrics, portfolio=portfolio)
            return
        print_facts(f"Run {row['run_id']}", row)
        for title, facts in (("Portfolio", portfolio), ("Metrics", metrics)):
            if facts:
                print_facts(title, {k: v for k, v in facts.items() if k not in ("run_id", "environment")})


@runs_app.command("days")
def runs_days(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The beginning of a run's id, or `latest`.")] = "latest",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """The account at the end of each session, with the day's profit or loss."""
    _list("days", run, None, None, ["at", "equity", "pnl", "cash", "unrealised_pnl"], as_json, as_csv)


@orders_app.command("list")
def orders_list(
    run: Run = "latest", symbol: OneSymbol = None, on: On = None, as_json: AsJson = False, as_csv: AsCsv = False
) -> None:
    """Orders with their latest state."""
    prices = "limit_price stop_price" if out.width >= WIDE else ""
    columns = f"order_id symbol placed_at side role order_type quantity {prices} status filled_at reason"
    _list("orders", run, symbol, on, columns.split(), as_json, as_csv)


@trades_app.command("list")
def trades_list(
    run: Run = "latest", symbol: OneSymbol = None, on: On = None, as_json: AsJson = False, as_csv: AsCsv = False
) -> None:
    """Round trips, open ones included."""
    columns = "trade_id direction status entry_at exit_at quantity entry_price exit_price net_pnl exit_reason"
    _list("trades", run, symbol, on, columns.split(), as_json, as_csv)


@positions_app.command("list")
def positions_list(
    run: Run = "latest", symbol: OneSymbol = None, on: On = None, as_json: AsJson = False, as_csv: AsCsv = False
) -> None:
    """Open positions."""
    _list("positions", run, symbol, on, ["symbol", "quantity", "average_price", "cost", "opened_at"], as_json, as_csv)


def _list(
    what: str, run: str, symbol: str | None, on: str | None, columns: Sequence[str], as_json: bool, as_csv: bool
) -> None:
    from ui.compose import open_app

    with errors_in_words():
        day = day_of(on)
        with open_app() as opened, opened.queries() as queries:
            found = queries.run(run)
            rows: list[dict[str, Any]] = getattr(queries, what)(found["run_id"], symbol, day)
        if as_json:
            print_json(run_id=found["run_id"], environment=found["environment"], **{what: rows})
        elif as_csv:
            print_csv(rows)
        elif rows:
            print_rows(f"{what.capitalize()} of run {found['run_id'][:8]} ({found['environment']}, UTC)", rows, columns)
        else:
            err.print(f"Run {found['run_id'][:8]} has no {what} there.")


def why(
    key: Annotated[str, typer.Argument(metavar="ID", help="Order, trade, signal, analysis, or SYMBOL@TIME.")],
    run: Run = "latest",
    as_json: AsJson = False,
) -> None:
    """Why it was done, or not: the chain from the opinion to the fill, from the log alone."""
    from engine.audit.why import why as ask
    from ui.compose import find_run, open_app

    with errors_in_words(), open_app() as opened:
        requested = find_run(opened, run)
        links = ask(opened.store, requested, key)
    if as_json:
        print_json(run_id=requested.run_id, chain=[_as_json(link) for link in links])
    else:
        show_chain(links)


def show_chain(links: Sequence[Link]) -> None:
    """The chain, then what every risk check of an entry saw, then the reasons of the analysis."""
    from engine.audit.why import checks_of

    for link in links:
        out.print(f"[bold]{cell(link.at)}  {link.kind}[/bold]  {escape(link.says)}")
        place = f"event {link.position:,}" if link.position else "no event of its own"
        out.print(f"                  [dim]{escape(link.key)}, {place}[/dim]")
    checks = [{"rule": r, "passed": p, "limit": limit, "observed": o} for r, p, limit, o in checks_of(links)]
    if checks:
        print_rows("Risk checks", checks, ["rule", "passed", "limit", "observed"])
    for reasons in filter(None, (_reasons(link) for link in links)):
        out.print("Reasons of the analysis: " + "; ".join(reasons), markup=False)


def _reasons(link: Link) -> list[str]:
    from engine.audit.why import reasons_of

    return reasons_of(link)


def _as_json(link: Link) -> dict[str, Any]:
    import msgspec

    facts = link._asdict()
    recorded = facts.pop("event")
    if recorded is not None:
        facts["name"] = recorded.name
        facts["stream"], facts["version"] = recorded.stream, recorded.version
        facts["payload"] = msgspec.json.decode(recorded.payload)
        facts["recorded_at"], facts["actor"] = recorded.meta.recorded_at, recorded.meta.actor
    return facts
