"""Outcome of a run next to its figures: denied signals by rule, reason for no trades, notes on its bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ui.cli.output import out, print_rows
from ui.cli.tables import TableColumn
from ui.formats import tidy

if TYPE_CHECKING:
    from engine.core.events import RunRequested
    from projections.queries import Queries
    from ui.app import App

# At most this many of each kind; `data check` and --json have all.
NOTES_SHOWN = 10


def outcome_facts(opened: App, queries: Queries, run: RunRequested) -> dict[str, Any]:
    """Return `denials`, `no_trades` and `ended_early` (a sentence or empty) and `data_notes` of a run, as in --json."""
    from ui.services.data_notes import data_notes
    from ui.services.outcomes import run_outcome

    outcome = run_outcome(queries, run.run_id)
    notes = data_notes(opened, run, queries.last_bar_closed_at(run.run_id))
    return {**outcome._asdict(), "data_notes": [note._asdict() for note in notes]}


def show_outcome(facts: dict[str, Any]) -> None:
    """Print the same as tables of denials and notes, and sentences on missing trades or an early end."""
    if facts["ended_early"]:
        out.print(facts["ended_early"], markup=False)
    if facts["denials"]:
        columns = ["rule", "signals", "symbols", _readable("limit"), _readable("observed")]
        print_rows("Denied signals by rule, with the most frequent numbers", facts["denials"], columns)
    if facts["no_trades"]:
        out.print(facts["no_trades"], markup=False)
    _show_notes(facts["data_notes"])


def _readable(name: str) -> TableColumn:
    return TableColumn(name, lambda row: tidy(row[name]))


def _show_notes(notes: Sequence[dict[str, Any]]) -> None:
    if not notes:
        return
    shown: list[dict[str, Any]] = []
    for kind in dict.fromkeys(note["kind"] for note in notes):
        shown += [note for note in notes if note["kind"] == kind][:NOTES_SHOWN]
    rows = [{"symbol": note["symbol"], "from": note["start"], "to": note["end"]} | note for note in shown]
    columns = ["symbol", "kind", "from", "to", "bars", "reason"]
    print_rows("Notes on the bars (UTC)", rows, columns, keep=("symbol", "kind", "from", "reason"))
    if len(notes) > len(shown):
        symbols = ", ".join(dict.fromkeys(note["symbol"] for note in notes))
        out.print(f"and {len(notes) - len(shown):,} more: `quantagent data check SYMBOL` lists those of {symbols}.")
