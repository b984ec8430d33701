"""`quantagent audit as-of`: the book of a run at an instant."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import AsJson, RunOption, out, parse_instant, print_facts, print_json, print_rows, report_errors
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.audit.as_of import BookSnapshot

ByRecording = Annotated[
    bool, typer.Option("--recorded", help="Interpret the time as recording time, not as market time.")
]


def audit_as_of(
    time: Annotated[str, typer.Argument(metavar="TIME", help="An instant of the market, UTC by default.")],
    run: RunOption = "latest",
    recorded: ByRecording = False,
    as_json: AsJson = False,
) -> None:
    """Show cash, positions, working orders, limits and halts of a run at an instant."""
    from engine.audit.as_of import book_as_of as ask
    from ui.app import open_audit

    with report_errors():
        at = parse_instant(time)
        assert at is not None
        with open_audit() as opened:
            state = ask(opened.store, resolve_run(opened, run), at, recorded)
        if as_json:
            print_json(**_state_facts(state), positions=_positions(state), working=_working(state))
        else:
            _show_state(state)


def _state_facts(state: BookSnapshot) -> dict[str, Any]:
    book, config, last = state.book, state.run.config, state.last
    return {
        "run_id": state.run.run_id,
        "environment": state.run.environment.value,
        "as_of": state.at,
        "clock": "recorded" if state.recorded else "market",
        "opened_at": state.opened_at,
        "engine_version": last.meta.engine,
        "last_event": {"position": last.position, "version": last.version, "name": last.name},
        "currency": config.currency,
        "cash": book.cash,
        "free_cash": book.free_cash,
        "realised": book.realised,
        "fees": book.fees,
        "day_equity": book.day_equity,
        "marked": state.marked,
        "limits": {**plain(config.limits), "daily_loss": state.daily_loss},
        "halts": list(book.halts.values()),
    }


def plain(value: object) -> dict[str, Any]:
    import msgspec

    return msgspec.to_builtins(value)


def _positions(state: BookSnapshot) -> list[dict[str, Any]]:
    return [
        {
            "symbol": position.symbol,
            "quantity": position.quantity,
            "average_price": state.average_price(position),
            "cost": position.cost,
            "opened_at": position.opened_at,
        }
        for position in state.book.positions.values()
    ]


def _working(state: BookSnapshot) -> list[dict[str, Any]]:
    from engine.audit.narration import describe_terms

    return [
        {
            "order_id": order.order_id,
            "symbol": order.symbol,
            "side": order.side.value,
            "quantity": order.quantity,
            "terms": describe_terms(order),
            "reserved": order.reserved,
            "placed_at": order.at,
        }
        for order in state.book.working.values()
    ]


def _averages(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name.startswith("average")}


def exact(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return amounts with all their decimals: evidence is not rounded."""
    return {name: f"{value:,f}" if isinstance(value, Decimal) else value for name, value in facts.items()}


def _show_state(state: BookSnapshot) -> None:
    facts = _state_facts(state)
    last, limits, halts, marked = (facts.pop(name) for name in ("last_event", "limits", "halts", "marked"))
    marks = ", ".join(f"{symbol} {price}" for symbol, price in marked.marks) if marked else ""
    facts |= {
        "last_event": f"{last['name']}, position {last['position']:,}, version {last['version']:,} of the book",
        "equity": f"{marked.equity} as marked at {marked.at:%Y-%m-%d %H:%M} ({marked.occasion}) {marks}".rstrip()
        if marked
        else "not marked before then",
        "halts": "; ".join(f"{h.scope} since {h.at:%Y-%m-%d %H:%M} by {h.actor}: {h.reason}" for h in halts) or "none",
    }
    clock = "recording time" if state.recorded else "market time"
    print_facts(f"Run {state.run.run_id[:8]} as of {state.at:%Y-%m-%d %H:%M:%S} UTC, {clock}", exact(facts))
    print_facts("Limits in force", exact({name: "off" if limit is None else limit for name, limit in limits.items()}))
    for title, rows in (("Positions (UTC)", _positions(state)), ("Working orders (UTC)", _working(state))):
        if rows:
            # An average is a quotient, and its last decimals carry no information.
            print_rows(title, [exact(row) | _averages(row) for row in rows], list(rows[0]))
        else:
            out.print(f"{title.removesuffix(' (UTC)')}: none")
