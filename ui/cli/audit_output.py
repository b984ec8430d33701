"""Events and differences of two books as the audit commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import out, print_rows

if TYPE_CHECKING:
    from engine.runtime.replay import Divergence
    from engine.store import LogEntry


# In a list that lost its first element all other elements differ.
FIELDS_SHOWN = 12


AuditRunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run by the beginning of its id, or `latest`.")]


def difference_facts(difference: Divergence | None, ours: str, theirs: str) -> dict[str, Any] | None:
    from engine.audit.compare import event_changes

    if difference is None:
        return None
    return {
        "version": difference.version,
        ours: event_facts(difference.ours),
        theirs: event_facts(difference.theirs),
        "fields": [change._asdict() for change in event_changes(difference.ours, difference.theirs)],
    }


def show_difference(difference: Divergence, ours: str, theirs: str) -> None:
    """Print the first difference: its place, and the fields that differ."""
    from engine.audit.compare import event_changes

    sides = ((ours, difference.ours), (theirs, difference.theirs))
    out.print(f"first difference at version {difference.version:,} of the book")
    for name, row in sides:
        # A regenerated event is in memory, and has no position in the log.
        out.print(f"  {name:<11} {_place(row, in_log=name != 'regenerated')}", markup=False)
    if difference.ours is not None and difference.theirs is not None:
        changes = event_changes(difference.ours, difference.theirs)
        rows = [{"field": change.field, ours: change.ours, theirs: change.theirs} for change in changes]
        print_rows("", rows[:FIELDS_SHOWN], ["field", ours, theirs])
        if len(rows) > FIELDS_SHOWN:
            out.print(f"and {len(rows) - FIELDS_SHOWN:,} more fields: --json shows all")


def _place(row: LogEntry | None, in_log: bool) -> str:
    from engine.audit.narration import describe_event

    if row is None:
        return "nothing"
    where = f"position {row.position:,}" if in_log else f"version {row.version:,}"
    return f"{row.name} at {where}: {describe_event(row.event)}"


def event_facts(row: LogEntry | None) -> dict[str, Any] | None:
    """Return an event as JSON; null for None."""
    import msgspec

    if row is None:
        return None
    return {
        "position": row.position,
        "stream": row.stream,
        "version": row.version,
        "name": row.name,
        "payload": msgspec.json.decode(row.payload),
    }
