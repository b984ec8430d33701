"""`quantagent orders`: the orders of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ui.cli.output import AsCsv, AsJson, DayOption, RunOption, SymbolOption, Wide
from ui.cli.run_rows import ListFormat, price_column, print_listing, quantity_column, short_id
from ui.cli.tables import TableColumn

if TYPE_CHECKING:
    from engine.core.events import RunRequested

orders_app = typer.Typer(name="orders", help="Orders of a run.", no_args_is_help=True)


@orders_app.command("list")
def orders_list(
    run: RunOption = "latest",
    symbol: SymbolOption = None,
    on: DayOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List orders with their latest state; `why ORDER` explains one, by its id or as order-N."""
    keep = ("order", "placed_at", "side", "status", "quantity", "symbol", "role", "order_type", "filled_at", "reason")
    print_listing("orders", run, symbol, on, ListFormat(wide, as_json, as_csv), _order_columns, keep)


def _order_columns(run: RunRequested) -> list[str | TableColumn]:
    return [
        TableColumn("order", lambda row: short_id("order", row)),
        *("symbol", "placed_at", "side", "role", "order_type"),
        quantity_column("quantity"),
        price_column(run, "limit_price"),
        price_column(run, "stop_price"),
        *("status", "filled_at", "reason"),
    ]
