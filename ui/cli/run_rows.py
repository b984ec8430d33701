"""Rows of a run as lists: filters, columns and formats shared by several commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ui.cli.output import err, open_queries, parse_day, parse_symbol, print_csv, print_json, print_rows, report_errors
from ui.cli.run_selection import RUN_HELP, resolve_run
from ui.cli.tables import TableColumn
from ui.formats import format_amount, format_number, format_price

if TYPE_CHECKING:
    from engine.core.events import RunRequested
    from projections.queries import Queries


LatestRunArgument = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]


class ListFormat(NamedTuple):
    """Output options of a list."""

    wide: bool
    as_json: bool
    as_csv: bool


def print_listing(
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
            err.print(f"Run {requested.run_id[:8]} has no such {what}.")


def _rows_of(
    what: str, queries: Queries, run: RunRequested, symbol: str | None, on: date | None
) -> list[dict[str, Any]]:
    """Return the rows of a list: trades and orders with their number in the run, open trades and positions at mark."""
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
    """Return the symbol of an option in capitals. Raise `BadInput` for one that the run does not trade."""
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


def money_column(run: RunRequested, name: str) -> TableColumn:
    return TableColumn(name, lambda row: format_amount(row[name], run.config.currency))


def price_column(run: RunRequested, name: str) -> TableColumn:
    """Return a column of prices with the decimals of their instrument."""
    return TableColumn(name, lambda row: format_price(row[name], run.config.instrument(row["symbol"]).price_decimals))


def quantity_column(name: str) -> TableColumn:
    return TableColumn(name, lambda row: format_number(row[name]))


KINDS = {"trade": "trades", "order": "orders", "signal": "signals"}


def short_id(kind: str, row: Mapping[str, Any]) -> str:
    """Return `trade-12` for the twelfth trade of its run."""
    return f"{kind}-{row['number']}"
