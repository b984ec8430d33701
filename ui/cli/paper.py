"""`quantagent paper`: the daemon."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Annotated

import typer

from ui.cli import halts
from ui.cli.halts import AccountOption
from ui.cli.output import (
    AsJson,
    EndOption,
    StartOption,
    SymbolsOption,
    TimeframeOption,
    Wide,
    err,
    open_queries,
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
from ui.cli.run_report import VariantOption
from ui.cli.run_selection import resolve_run

app = typer.Typer(name="paper", help="Paper trading: the daemon that trades as bars close.", no_args_is_help=True)

STOP_WAIT_S = 60


@app.command("start")
def paper_start(
    symbols: SymbolsOption = "",
    timeframe: TimeframeOption = "1h",
    profile: ProfileOption = None,
    risk_profile: RiskProfileOption = None,
    variant: VariantOption = "",
    feed: Annotated[str, typer.Option(help="Source of bars: `recorded` plays stored bars.")] = "recorded",
    start_at: StartOption = None,
    end: EndOption = None,
    speed: Annotated[
        float, typer.Option(help="Market time per wall time: 3600 plays an hour per second; 0 does not wait.", min=0)
    ] = 0.0,
    account: AccountOption = "paper",
    environment: Annotated[str, typer.Option(metavar="E", help="Only `paper`.")] = "paper",
    as_json: AsJson = False,
) -> None:
    """Trade until the feed ends, `paper stop`, Ctrl-C or SIGTERM; started again, continue."""
    from engine.core.errors import BadInput
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.daemon.paper import PaperDaemon, PaperPlan
    from ui.settings import check_environment

    with report_errors():
        check_environment(environment)
        if environment != "paper":
            raise BadInput(f"environment {environment} is not for paper trading: omit --environment.")
        if feed != "recorded":
            raise BadInput(f"feed {feed!r} is unknown: use --feed recorded, which plays stored bars.")
        plan = PaperPlan(
            account=account,
            symbols=parse_symbols(symbols),
            timeframe=Timeframe.parse(timeframe),
            profile=profile,
            risk_profile=risk_profile,
            variant=variant,
            start=parse_instant(start_at),
            end=parse_instant(end),
            speed=speed,
        )
        with open_app() as opened, show_progress() as on_progress:
            daemon = PaperDaemon(opened, plan, on_progress)

            def end_after_this_slot(number: int, frame: FrameType | None) -> None:
                del number, frame
                daemon.request_stop()

            signal.signal(signal.SIGTERM, end_after_this_slot)
            signal.signal(signal.SIGINT, end_after_this_slot)
            err.print(f"Account {account}, run {daemon.run_id}; end it with `quantagent paper stop`.")
            err.print(f"Decides by {daemon.profile_description}.")
            ended = daemon.run()
            with open_queries(opened) as queries:
                outcome = outcome_facts(opened, queries, resolve_run(opened, daemon.run_id))
        if as_json:
            digest = ended.book_digest if ended else None
            print_json(run_id=daemon.run_id, ended=ended is not None, book_digest=digest, **outcome)
        elif ended is None:
            err.print("Stopped between two slots. The same command continues from here.")
        else:
            print_facts(
                "The run has ended" if ended.reason else "The feed has ended",
                {"run": ended.run_id, "fills": ended.fills, "book digest": ended.book_digest},
            )
            show_outcome(outcome)


@app.command("status")
def paper_status(wide: Wide = False, as_json: AsJson = False) -> None:
    """List the accounts with their daemons, progress and halts."""
    from engine.runtime import lease
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        rows = lease.list_daemons(opened.dsn)
        for row in rows:
            row["halts"] = halts.describe_halts(opened, row["account"], row["run_id"])
    if as_json:
        print_json(daemons=rows)
    elif rows:
        print_rows(
            "Paper accounts (UTC)",
            rows,
            ["account", "alive", "state", "halts", "market_at", "heartbeat_at", "run_id", "instance"],
            wide=wide,
        )
    else:
        err.print("No daemon has run yet: `quantagent paper start` starts one.")


@app.command("stop")
def paper_stop(account: AccountOption = "paper", as_json: AsJson = False) -> None:
    """Request the daemon to end after its present slot, and wait for it."""
    from engine.core.errors import NotFound
    from engine.runtime import lease
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        if not lease.request_stop(opened.dsn, account):
            raise NotFound(
                f"no daemon has driven account {account!r}: `quantagent paper status` names those that have."
            )
        alive = True
        for _ in range(STOP_WAIT_S * 5):
            alive = any(row["alive"] for row in lease.list_daemons(opened.dsn) if row["account"] == account)
            if not alive:
                break
            time.sleep(0.2)
        if as_json:
            print_json(account=account, stopped=not alive)
        else:
            err.print(f"Account {account} is stopped." if not alive else f"Account {account} has not stopped yet.")
        if alive:
            raise typer.Exit(1)


app.command("reconcile")(halts.paper_reconcile)
