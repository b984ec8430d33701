"""`quantagent audit recreate`: all states of an order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.audit_as_of import ByRecording, exact
from ui.cli.audit_output import event_facts
from ui.cli.output import AsJson, RunOption, parse_instant, print_facts, print_json, print_rows, report_errors
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.audit.order_history import OrderHistory, OrderState
    from engine.core.events import RunRequested


def audit_recreate(
    order: Annotated[str, typer.Argument(metavar="ORDER", help="An order's id, a prefix of it, or `latest`.")],
    as_of: Annotated[str | None, typer.Option("--as-of", metavar="TIME", help="Only states up to this time.")] = None,
    run: RunOption = "latest",
    recorded: ByRecording = False,
    as_json: AsJson = False,
) -> None:
    """Show an order as placed, and every later state with actor and time."""
    from engine.audit.order_history import order_history as ask
    from ui.app import open_audit

    with report_errors(), open_audit() as opened:
        requested = resolve_run(opened, run)
        history = ask(opened.store, requested, order, parse_instant(as_of), recorded)
    if as_json:
        print_json(
            run_id=requested.run_id,
            order_id=history.order.order_id,
            signal=event_facts(history.signal),
            risk_decision=event_facts(history.verdict),
            states=[{**_order_state(state), **(event_facts(state.row) or {})} for state in history.states],
        )
    else:
        _show_order(requested, history)


def _order_state(state: OrderState) -> dict[str, Any]:
    meta = state.row.meta
    return {
        "state": state.state,
        "at": state.at,
        "says": state.description,
        "filled": state.filled,
        "remaining": state.remaining,
        "average_price": state.average_price,
        "recorded_at": meta.recorded_at,
        "actor": meta.actor,
        "engine": meta.engine,
        "position": state.row.position,
        "version": state.row.version,
    }


def _show_order(run: RunRequested, history: OrderHistory) -> None:
    from engine.audit.narration import describe_event

    origin = {"order": history.order.order_id, "run": run.run_id, "environment": run.environment.value}
    for name, row in (("signal", history.signal), ("risk_decision", history.verdict)):
        if row is not None:
            origin[name] = f"{describe_event(row.event)} ({history.order.signal_id}, position {row.position:,})"
    print_facts("Order", origin)
    # Times are evidence: to the microsecond, not to the minute.
    rows = [exact({**_order_state(s), "recorded_at": s.row.meta.recorded_at.isoformat(" ")}) for s in history.states]
    print_rows(
        "States, the original first (UTC)", rows, ["state", "at", "says", "filled", "remaining", "average_price"]
    )
    print_rows("As recorded (UTC)", rows, ["state", "recorded_at", "actor", "engine", "position", "version"])
