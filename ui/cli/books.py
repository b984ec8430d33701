"""`runs`, `orders`, `trades`, `positions`, `why`: what happened, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.markup import escape

from ui.cli.output import (
    AsCsv,
    AsJson,
    DayOption,
    RunOption,
    SymbolOption,
    Wide,
    err,
    format_cell,
    open_queries,
    out,
    parse_day,
    parse_instant,
    parse_symbol,
    print_csv,
    print_facts,
    print_json,
    print_rows,
    report_errors,
)
from ui.cli.results import outcome_facts, show_outcome
from ui.cli.run_selection import RUN_HELP, RunArgument, resolve_run
from ui.cli.tables import TableColumn
from ui.formats import (
    format_amount,
    format_figures,
    format_number,
    format_percent,
    format_price,
    format_ratio,
    format_source,
    tidy,
)

if TYPE_CHECKING:
    from engine.audit.why import ChainLink
    from engine.core.events import RunRequested
    from projections.queries import Queries
    from ui.app import App

runs_app = typer.Typer(name="runs", help="Backtests, replays and paper runs.", no_args_is_help=True)
orders_app = typer.Typer(name="orders", help="Orders of a run.", no_args_is_help=True)
trades_app = typer.Typer(name="trades", help="Round trips of a run.", no_args_is_help=True)
positions_app = typer.Typer(name="positions", help="Open positions of a run.", no_args_is_help=True)

LatestRunArgument = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]


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
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many, the newest first.")] = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Runs, newest first."""
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
        err.print("No run fits these filters: `quantagent runs list` has all.")
    else:
        err.print("There is no run yet: `quantagent backtest` makes one.")


def print_set_aside(rows: Sequence[Mapping[str, Any]]) -> None:
    """Why figures or rows of runs are missing, one run a line on stderr."""
    for row in rows:
        if row["set_aside"]:
            err.print(f"run {row['run_id'][:8]} is set aside: {row['set_aside']}", markup=False)


@runs_app.command("show")
def runs_show(run: RunArgument, as_json: AsJson = False) -> None:
    """One run: its question, digests and metrics, denied signals by rule, and what to know of its bars."""
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


class ListFormat(NamedTuple):
    """How a list is to be printed."""

    wide: bool
    as_json: bool
    as_csv: bool


@runs_app.command("days")
def runs_days(
    run: LatestRunArgument = "latest", wide: Wide = False, as_json: AsJson = False, as_csv: AsCsv = False
) -> None:
    """The account at the end of each session, with the day's profit or loss."""
    _list("days", run, None, None, ListFormat(wide, as_json, as_csv), _day_columns)


@orders_app.command("list")
def orders_list(
    run: RunOption = "latest",
    symbol: SymbolOption = None,
    on: DayOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Orders with their latest state; `why ORDER` explains one, by its id or as order-N."""
    keep = ("order", "placed_at", "side", "status", "quantity", "symbol", "role", "order_type", "filled_at", "reason")
    _list("orders", run, symbol, on, ListFormat(wide, as_json, as_csv), _order_columns, keep)


@trades_app.command("list")
def trades_list(
    run: RunOption = "latest",
    symbol: SymbolOption = None,
    on: DayOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Round trips, open ones with their unrealised P&L; `why TRADE` explains one, by its id or as trade-N."""
    keep = ("trade", "symbol", "direction", "entry_at", "exit_at", "pnl", "status", "exit_reason", "quantity")
    _list("trades", run, symbol, on, ListFormat(wide, as_json, as_csv), _trade_columns, keep)


@positions_app.command("list")
def positions_list(
    run: RunOption = "latest",
    symbol: SymbolOption = None,
    on: DayOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Open positions at the latest prices that the run has seen."""
    keep = ("symbol", "quantity", "mark", "value", "unrealised_pnl", "average_price", "opened_at")
    _list("positions", run, symbol, on, ListFormat(wide, as_json, as_csv), _position_columns, keep)


def _list(
    what: str,
    run: str,
    symbol: str | None,
    on: str | None,
    list_format: ListFormat,
    columns: Callable[[RunRequested], list[str | TableColumn]],
    keep: Sequence[str] = (),
) -> None:
    from ui.app import open_app

    with report_errors():
        day = parse_day(on)
        with open_app() as opened, open_queries(opened) as queries:
            requested = resolve_run(opened, run)
            only = symbol_in(requested, symbol)
            rows = _rows_of(what, queries, requested, only, day)
        if list_format.as_json:
            print_json(run_id=requested.run_id, environment=requested.environment, **{what: rows})
        elif list_format.as_csv:
            print_csv(rows)
        elif rows:
            title = (
                f"{what.capitalize()} of run {requested.run_id[:8]} ({requested.environment}, UTC, "
                f"{requested.config.currency})"
            )
            print_rows(title, rows, columns(requested), keep=keep, wide=list_format.wide)
        else:
            err.print(f"Run {requested.run_id[:8]} has no {what} there.")


def _rows_of(
    what: str, queries: Queries, run: RunRequested, symbol: str | None, on: date | None
) -> list[dict[str, Any]]:
    """The rows of a list; trades and orders with their number in the run, open trades and positions at their marks."""
    from ui.services.open_positions import marked_positions

    rows: list[dict[str, Any]] = getattr(queries, what)(run.run_id, symbol, on)
    if what not in ("trades", "positions"):
        return rows
    marked = {row["symbol"]: row for row in marked_positions(queries, run, symbol)}
    if what == "positions":
        return [marked[row["symbol"]] for row in rows]
    return [
        row | {"unrealised_pnl": marked[row["symbol"]]["unrealised_pnl"] if row["status"] == "open" else None}
        for row in rows
    ]


def symbol_in(run: RunRequested, text: str | None) -> str | None:
    """The symbol that an option names, in capitals. Raises `BadInput` for one that the run does not trade."""
    from engine.core.errors import BadInput
    from ui.suggestions import did_you_mean

    if text is None:
        return None
    symbol, symbols = parse_symbol(text), run.config.symbols
    if symbol not in symbols:
        raise BadInput(
            f"run {run.run_id[:8]} trades {', '.join(symbols)}, not {symbol}{did_you_mean(symbol, symbols)}: "
            "name one of these with --symbol."
        )
    return symbol


# --- Columns ------------------------------------------------------------------------------------------------------


def _money(run: RunRequested, name: str) -> TableColumn:
    return TableColumn(name, lambda row: format_amount(row[name], run.config.currency))


def _price(run: RunRequested, name: str) -> TableColumn:
    """A price with the decimals of its instrument."""
    return TableColumn(name, lambda row: format_price(row[name], run.config.instrument(row["symbol"]).price_decimals))


def _quantity(name: str) -> TableColumn:
    return TableColumn(name, lambda row: format_number(row[name]))


def _day_columns(run: RunRequested) -> list[str | TableColumn]:
    return ["at", *(_money(run, name) for name in ("equity", "pnl", "cash", "unrealised_pnl"))]


def _order_columns(run: RunRequested) -> list[str | TableColumn]:
    return [
        TableColumn("order", lambda row: short_id("order", row)),
        *("symbol", "placed_at", "side", "role", "order_type"),
        _quantity("quantity"),
        _price(run, "limit_price"),
        _price(run, "stop_price"),
        *("status", "filled_at", "reason"),
    ]


def _trade_columns(run: RunRequested) -> list[str | TableColumn]:
    def pnl(row: Mapping[str, Any]) -> str:
        """What was won or lost; of an open trade what it would be at the mark."""
        if row["status"] == "open":
            return f"{format_amount(row['unrealised_pnl'], run.config.currency)} open"
        return format_amount(row["net_pnl"], run.config.currency)

    return [
        TableColumn("trade", lambda row: short_id("trade", row)),
        *("symbol", "direction", "status", "entry_at", "exit_at"),
        _quantity("quantity"),
        _price(run, "entry_price"),
        _price(run, "exit_price"),
        TableColumn("pnl", pnl, right=True),
        TableColumn("exit_reason", lambda row: format_source(row["exit_reason"], run.variant)),
    ]


def _position_columns(run: RunRequested) -> list[str | TableColumn]:
    return [
        "symbol",
        _quantity("quantity"),
        _price(run, "average_price"),
        _price(run, "mark"),
        _money(run, "value"),
        _money(run, "unrealised_pnl"),
        *("opened_at", "marked_at"),
    ]


# --- Short ids ----------------------------------------------------------------------------------------------------

KINDS = {"trade": "trades", "order": "orders", "signal": "signals"}


def short_id(kind: str, row: Mapping[str, Any]) -> str:
    """`trade-12`: the twelfth of its run."""
    return f"{kind}-{row['number']}"


def full_id(opened: App, run: RunRequested, key: str) -> str:
    """The id that a short one like `trade-12` stands for; any other id as it is."""
    from engine.core.errors import NotFound

    kind, _, n = key.partition("-")
    if kind not in KINDS or not n.isdecimal():
        return key
    with open_queries(opened) as queries:
        rows: list[dict[str, Any]] = getattr(queries, KINDS[kind])(run.run_id)
    numbered_row = next((row for row in rows if row["number"] == int(n)), None)
    if numbered_row is None:
        raise NotFound(
            f"run {run.run_id[:8]} has {len(rows):,} {KINDS[kind]}, so that there is no {key}: "
            f"`quantagent {KINDS[kind]} list` numbers them."
            if kind != "signal"
            else f"run {run.run_id[:8]} has {len(rows):,} signals, so that there is no {key}."
        )
    return str(numbered_row[f"{kind}_id"])


LIMITS = ("limit", "observed")


# --- Why ----------------------------------------------------------------------------------------------------------


def why(
    key: Annotated[
        str, typer.Argument(metavar="ID", help="Order, trade, signal, analysis, or SYMBOL@TIME; short ids will do.")
    ],
    run: RunOption = "latest",
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Why it was done, or not: the chain from the opinion to the fill, from the log alone."""
    from engine.audit.why import causal_chain as ask
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        requested = resolve_run(opened, run)
        links = ask(opened.store, requested, full_id(opened, requested, key))
    if as_json:
        print_json(run_id=requested.run_id, chain=[_link_facts(link) for link in links])
    else:
        print_chain(links, wide=wide)


def print_chain(links: Sequence[ChainLink], *, wide: bool | None = None) -> None:
    """The chain, then what every risk check of an entry saw, then the reasons of the analysis."""
    from engine.audit.why import evaluated_checks

    for link in links:
        out.print(f"[bold]{format_cell(link.at)}  {link.kind}[/bold]  {escape(tidy(link.says))}")
        place = f"event {link.position:,}" if link.position else "no event of its own"
        out.print(f"                  [dim]{escape(link.key)}, {place}[/dim]")
    checks = [{"rule": r, "passed": p, "limit": limit, "observed": o} for r, p, limit, o in evaluated_checks(links)]
    if checks:
        columns = ["rule", "passed", *(TableColumn(name, lambda row, name=name: tidy(row[name])) for name in LIMITS)]
        print_rows("Risk checks", checks, columns, wide=wide)
    for reasons in filter(None, (_reasons(link) for link in links)):
        out.print("Reasons of the analysis: " + "; ".join(reasons), markup=False)


def _reasons(link: ChainLink) -> list[str]:
    from engine.audit.why import analyst_reasons

    return analyst_reasons(link)


def _link_facts(link: ChainLink) -> dict[str, Any]:
    import msgspec

    facts = link._asdict()
    recorded = facts.pop("event")
    if recorded is not None:
        facts["name"] = recorded.name
        facts["stream"], facts["version"] = recorded.stream, recorded.version
        facts["payload"] = msgspec.json.decode(recorded.payload)
        facts["recorded_at"], facts["actor"] = recorded.meta.recorded_at, recorded.meta.actor
    return facts
