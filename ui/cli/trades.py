"""`quantagent trades`: the round trips of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from ui.cli.output import AsCsv, AsJson, DayOption, RunOption, SymbolOption, Wide
from ui.cli.run_rows import ListFormat, price_column, print_listing, quantity_column, short_id
from ui.cli.tables import TableColumn
from ui.formats import format_amount, format_source

if TYPE_CHECKING:
    from engine.core.events import RunRequested

trades_app = typer.Typer(name="trades", help="Round trips of a run.", no_args_is_help=True)


@trades_app.command("list")
def trades_list(
    run: RunOption = "latest",
    symbol: SymbolOption = None,
    on: DayOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List round trips, open ones with unrealized P&L; `why TRADE` explains one, by its id or as trade-N."""
    keep = ("trade", "symbol", "direction", "entry_at", "exit_at", "pnl", "status", "exit_reason", "quantity")
    print_listing("trades", run, symbol, on, ListFormat(wide, as_json, as_csv), _trade_columns, keep)


def _trade_columns(run: RunRequested) -> list[str | TableColumn]:
    def pnl(row: Mapping[str, Any]) -> str:
        """Return the net P&L; for an open trade the unrealized one at the mark."""
        if row["status"] == "open":
            return f"{format_amount(row['unrealised_pnl'], run.config.currency)} open"
        return format_amount(row["net_pnl"], run.config.currency)

    return [
        TableColumn("trade", lambda row: short_id("trade", row)),
        *("symbol", "direction", "status", "entry_at", "exit_at"),
        quantity_column("quantity"),
        price_column(run, "entry_price"),
        price_column(run, "exit_price"),
        TableColumn("pnl", pnl, right=True),
        TableColumn("exit_reason", lambda row: format_source(row["exit_reason"], run.variant)),
    ]
