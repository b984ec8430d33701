"""`quantagent halt`, `resume`, `halts`, and `paper reconcile`: a person's hand on an account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import AsJson, err, errors_in_words, print_json, print_rows

if TYPE_CHECKING:
    from engine.runtime.halts import Halt
    from ui.app import App

Account = Annotated[str, typer.Option("--account", help="Name of the paper account.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, in one line; it is kept for ever.")]
Scope = Annotated[str, typer.Option("--scope", help="`entries`, or `everything`: orders to leave a position too.")]


def halt(reason: Reason, scope: Scope = "entries", account: Account = "paper", as_json: AsJson = False) -> None:
    """Halt an account: from the next slot no order is placed, and entries that work are canceled."""
    from engine.core.errors import BadInput
    from engine.runtime import halts
    from ui.app import open_app

    with errors_in_words(), open_app() as opened:
        if scope not in ("entries", "everything"):
            raise BadInput(f"scope {scope!r} is unknown: use entries or everything.")
        actor = halts.person(opened.settings.actor)
        new = halts.halt(opened.store, account, scope, reason, actor)
        known = run_of(opened, account) is not None
    if as_json:
        print_json(account=account, scope=scope, actor=actor, halted=True, new=new)
        return
    err.print(f"Account {account}: {scope} halted by {actor} from the next slot; `quantagent resume` ends it.")
    if not known:
        err.print(f"No daemon has driven account {account} yet: the halt holds from its first slot.")


def resume(reason: Reason, account: Account = "paper", as_json: AsJson = False) -> None:
    """End every halt of an account, those that its limits set too: trading goes on from the next slot."""
    from engine.runtime import halts
    from ui.app import open_app

    with errors_in_words(), open_app() as opened:
        halts.checked(reason)
        actor = halts.person(opened.settings.actor)
        lifted = [each.halted.actor for each in halts.standing(opened.store, account, run_of(opened, account))]
        # A resume of nothing is not told: it would begin the count of a drawdown anew.
        if lifted:
            halts.resume(opened.store, account, reason, actor)
    if as_json:
        print_json(account=account, actor=actor, lifted=lifted)
    elif lifted:
        err.print(f"Account {account} resumes at the next slot: halts by {', '.join(lifted)} end.")
    else:
        err.print(f"Account {account} is not halted.")


def listing(account: Account = "paper", as_json: AsJson = False) -> None:
    """The halts of an account: those that stand, and what persons told it so far."""
    from engine.runtime import halts
    from ui.app import open_app

    with errors_in_words(), open_app() as opened:
        standing = [row_of(each) for each in halts.standing(opened.store, account, run_of(opened, account))]
        history = [
            {"what": row.name.partition(".")[0], **facts_of(row.event)}
            for row in opened.store.read(halts.control_stream(account))
        ]
    if as_json:
        print_json(account=account, standing=standing, history=history)
        return
    if standing:
        columns = ["scope", "actor", "state", "told_at", "held_from", "reason"]
        print_rows(f"Halts of account {account} (UTC; held from: market time)", standing, columns)
    else:
        err.print(f"Account {account} is not halted.")
    if history:
        print_rows("What it was told (UTC)", history, ["at", "what", "scope", "actor", "reason"])


def reconcile(account: Account = "paper", as_json: AsJson = False) -> None:
    """Hold the book of an account's run against the paper broker's own record; exit code 3 where they differ."""
    from contextlib import closing

    from engine.broker.blotter import PostgresBlotter
    from engine.broker.reconciliation import compared
    from engine.core.errors import NotFound
    from engine.runtime import runs
    from engine.trading.book import fold
    from ui.app import open_app

    with errors_in_words(), open_app() as opened:
        run_id = run_of(opened, account)
        if run_id is None:
            raise NotFound(
                f"no daemon has driven account {account!r}: `quantagent paper status` names those that have."
            )
        stored: list[Any] = [row.event for row in opened.store.read(runs.book_stream(run_id))]
        if not stored:
            raise NotFound(f"run {run_id[:8]} of account {account!r} has no book yet: wait for its first slot.")
        with closing(PostgresBlotter(opened.access.reader, run_id)) as blotter:
            lines = compared(fold(stored), blotter.standing(stored[-1].at))
    rows = [{**line._asdict(), "equal": line.equal} for line in lines]
    equal = all(line.equal for line in lines)
    if as_json:
        print_json(account=account, run_id=run_id, at=stored[-1].at, equal=equal, lines=rows)
    else:
        print_rows(f"Account {account}, run {run_id[:8]}", rows, ["what", "book", "broker", "equal"])
    if not equal:
        raise typer.Exit(3)


# --- Shared -------------------------------------------------------------------------------------------------------


def run_of(opened: App, account: str) -> str | None:
    """The run that a daemon drove last on an account."""
    from engine.runtime import lease

    return next((row["run_id"] for row in lease.daemons(opened.dsn) if row["account"] == account), None)


def row_of(halt: Halt) -> dict[str, Any]:
    """A halt as lists show it. told_at is the wall clock's, held_from the market's."""
    return {
        "scope": halt.halted.scope,
        "actor": halt.halted.actor,
        "state": halt.state,
        "reason": halt.halted.reason,
        "told_at": halt.told.at if halt.told else None,
        "held_from": halt.held.at if halt.held else None,
    }


def facts_of(event: object) -> dict[str, Any]:
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


def in_words(opened: App, account: str, run_id: str) -> str:
    """`entries by person:anna; everything by reconciliation`, empty where an account is not halted."""
    from engine.runtime import halts

    standing = halts.standing(opened.store, account, run_id)
    return "; ".join(
        f"{each.halted.scope} by {each.halted.actor}" + ("" if each.state == "in force" else f" ({each.state})")
        for each in standing
    )
