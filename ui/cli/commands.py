"""`quantagent`: all commands. Modules here import typer at the top and heavy packages only inside the commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from engine.store import ENGINE_VERSION
from ui.cli import (
    analyses,
    audit,
    backtest,
    check_lookahead,
    compare,
    dashboard,
    data,
    db,
    demo,
    doctor,
    halts,
    log,
    model,
    orders,
    paper,
    positions,
    profile,
    projections,
    replay,
    runs,
    trades,
    why,
)
from ui.cli.output import report_interrupts


class Commands(TyperGroup):
    """Group of commands; an interruption at any instant ends with one sentence."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with report_interrupts():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with report_interrupts():
            return super().invoke(ctx)


app = typer.Typer(
    name="quantagent",
    cls=Commands,
    help="Event-sourced paper trading on one append-only log. Begin with `quantagent demo`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quantagent {ENGINE_VERSION}")
        raise typer.Exit


@app.callback()
def root_options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(data.app)
app.command()(analyses.analyze)
app.add_typer(analyses.app)
app.command()(backtest.backtest)
app.command()(replay.replay)
app.command()(compare.compare)
app.command()(check_lookahead.check_lookahead)
app.add_typer(runs.runs_app)
app.add_typer(orders.orders_app)
app.add_typer(trades.trades_app)
app.add_typer(positions.positions_app)
app.command()(why.why)
app.command()(log.log)
app.add_typer(audit.app)
app.add_typer(paper.app)
app.command()(halts.halt)
app.command()(halts.resume)
app.command("halts")(halts.halts_list)
app.add_typer(profile.app)
app.add_typer(model.app)
app.add_typer(projections.app)
app.command()(dashboard.dashboard)
app.add_typer(db.app)
