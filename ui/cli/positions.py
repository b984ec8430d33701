"""`quantagent positions`: the open positions of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ui.cli.output import AsCsv, AsJson, DayOption, RunOption, SymbolOption, Wide
from ui.cli.run_rows import ListFormat, money_column, price_column, print_listing, quantity_column
from ui.cli.tables import TableColumn

if TYPE_CHECKING:
    from engine.core.events import RunRequested

positions_app = typer.Typer(name="positions", help="Open positions of a run.", no_args_is_help=True)


@positions_app.command("list")
def positions_list(
    run: RunOption = "latest",
    symbol: SymbolOption = None,
    on: DayOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List open positions at the latest prices that the run has seen."""
    keep = ("symbol", "quantity", "mark", "value", "unrealised_pnl", "average_price", "opened_at")
    print_listing("positions", run, symbol, on, ListFormat(wide, as_json, as_csv), _position_columns, keep)


def _position_columns(run: RunRequested) -> list[str | TableColumn]:
    return [
        "symbol",
        quantity_column("quantity"),
        price_column(run, "average_price"),
        price_column(run, "mark"),
        money_column(run, "value"),
        money_column(run, "unrealised_pnl"),
        *("opened_at", "marked_at"),
    ]
