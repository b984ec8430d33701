"""`quantagent halt`, `resume`, `halts` and `paper reconcile`: manual control of an account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import AsJson, err, print_json, print_rows, report_errors

if TYPE_CHECKING:
    from engine.runtime.halts import Halt
    from ui.app import App

AccountOption = Annotated[str, typer.Option("--account", help="Name of the paper account.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Reason, stored in the log.")]
ScopeOption = Annotated[str, typer.Option("--scope", help="`entries`, or `everything`, which includes exits.")]


def halt(
    reason: ReasonOption, scope: ScopeOption = "entries", account: AccountOption = "paper", as_json: AsJson = False
) -> None:
    """Halt an account: from the next slot place no order, and cancel working entries."""
    from engine.core.errors import BadInput
    from engine.runtime import halts
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        if scope not in ("entries", "everything"):
            raise BadInput(f"scope {scope!r} is unknown: use entries or everything.")
        actor = halts.operator_actor(opened.settings.actor)
        new = halts.halt_trading(opened.store, account, scope, reason, actor)
        known = current_run_id(opened, account) is not None
    if as_json:
        print_json(account=account, scope=scope, actor=actor, halted=True, new=new)
        return
    err.print(f"Account {account}: {scope} halted by {actor} from the next slot; `quantagent resume` ends it.")
    if not known:
        err.print(f"No daemon has driven account {account} yet: the halt applies from its first slot.")


def resume(reason: ReasonOption, account: AccountOption = "paper", as_json: AsJson = False) -> None:
    """End every halt of an account, including those by limits: trading continues from the next slot."""
    from engine.runtime import halts
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        halts.validated_reason(reason)
        actor = halts.operator_actor(opened.settings.actor)
        lifted = [
            each.event.actor for each in halts.current_halts(opened.store, account, current_run_id(opened, account))
        ]
        # A resume without a halt is not stored, because it would restart the measurement of drawdown.
        if lifted:
            halts.resume_trading(opened.store, account, reason, actor)
    if as_json:
        print_json(account=account, actor=actor, lifted=lifted)
    elif lifted:
        err.print(f"Account {account} resumes at the next slot: halts by {', '.join(lifted)} end.")
    else:
        err.print(f"Account {account} is not halted.")


def halts_list(account: AccountOption = "paper", as_json: AsJson = False) -> None:
    """List the halts of an account: active ones, and the commands so far."""
    from engine.runtime import halts
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        active = [
            halt_row(each) for each in halts.current_halts(opened.store, account, current_run_id(opened, account))
        ]
        history = [
            {"what": row.name.partition(".")[0], **halt_event_facts(row.event)}
            for row in opened.store.read(halts.control_stream(account))
        ]
    if as_json:
        print_json(account=account, standing=active, history=history)
        return
    if active:
        columns = ["scope", "actor", "state", "told_at", "held_from", "reason"]
        print_rows(f"Halts of account {account} (UTC; held from: market time)", active, columns)
    else:
        err.print(f"Account {account} is not halted.")
    if history:
        print_rows("Commands (UTC)", history, ["at", "what", "scope", "actor", "reason"])


def paper_reconcile(account: AccountOption = "paper", as_json: AsJson = False) -> None:
    """Compare the book of an account's run with the paper broker's record; exit code 3 if they differ."""
    from contextlib import closing

    from engine.broker.blotter import PostgresBlotter
    from engine.broker.reconciliation import compare_account
    from engine.core.errors import NotFound
    from engine.runtime import runs
    from engine.trading.book import fold
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        run_id = current_run_id(opened, account)
        if run_id is None:
            raise NotFound(
                f"no daemon has driven account {account!r}: `quantagent paper status` names those that have."
            )
        stored: list[Any] = [row.event for row in opened.store.read(runs.book_stream(run_id))]
        if not stored:
            raise NotFound(f"run {run_id[:8]} of account {account!r} has no book yet: wait for its first slot.")
        with closing(PostgresBlotter(opened.access.reader, run_id)) as blotter:
            lines = compare_account(fold(stored), blotter.account_state(stored[-1].at))
    rows = [{**line._asdict(), "equal": line.equal} for line in lines]
    equal = all(line.equal for line in lines)
    if as_json:
        print_json(account=account, run_id=run_id, at=stored[-1].at, equal=equal, lines=rows)
    else:
        print_rows(f"Account {account}, run {run_id[:8]}", rows, ["what", "book", "broker", "equal"])
    if not equal:
        raise typer.Exit(3)


# --- Shared -------------------------------------------------------------------------------------------------------


def current_run_id(opened: App, account: str) -> str | None:
    """Return the id of the account's latest run by a daemon; None without one."""
    from engine.runtime import lease

    return next((row["run_id"] for row in lease.list_daemons(opened.dsn) if row["account"] == account), None)


def halt_row(halt: Halt) -> dict[str, Any]:
    """Return a halt as a list shows it. told_at is wall time, held_from market time."""
    return {
        "scope": halt.event.scope,
        "actor": halt.event.actor,
        "state": halt.state,
        "reason": halt.event.reason,
        "told_at": halt.requested.at if halt.requested else None,
        "held_from": halt.applied.at if halt.applied else None,
    }


def halt_event_facts(event: object) -> dict[str, Any]:
    from engine.core.events import AlertRaised, TradingHalted, TradingResumed

    match event:
        case TradingHalted():
            return {"at": event.at, "scope": event.scope, "actor": event.actor, "reason": event.reason}
        case TradingResumed():
            return {"at": event.at, "scope": None, "actor": event.actor, "reason": event.reason}
        case AlertRaised():
            return {"at": event.at, "scope": None, "actor": event.kind, "reason": event.detail}
        case _:
            raise AssertionError(event)


def describe_halts(opened: App, account: str, run_id: str) -> str:
    """Return `entries by person:anna; everything by reconciliation`; empty for an account that is not halted."""
    from engine.runtime import halts

    active = halts.current_halts(opened.store, account, run_id)
    return "; ".join(
        f"{each.event.scope} by {each.event.actor}" + ("" if each.state == "in force" else f" ({each.state})")
        for each in active
    )
