"""`quantagent why`: the causal chain of a trade, order, signal or bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ui.cli.output import AsJson, RunOption, Wide, format_cell, open_queries, out, print_json, print_rows, report_errors
from ui.cli.run_rows import KINDS
from ui.cli.run_selection import resolve_run
from ui.cli.tables import TableColumn
from ui.formats import tidy

if TYPE_CHECKING:
    from engine.audit.why import ChainLink
    from engine.core.events import RunRequested
    from ui.app import App


def full_id(opened: App, run: RunRequested, key: str) -> str:
    """Return the id for a short one like `trade-12`; any other id unchanged."""
    from engine.core.errors import NotFound

    kind, _, n = key.partition("-")
    if kind not in KINDS or not n.isdecimal():
        return key
    with open_queries(opened) as queries:
        rows: list[dict[str, Any]] = getattr(queries, KINDS[kind])(run.run_id)
    numbered_row = next((row for row in rows if row["number"] == int(n)), None)
    if numbered_row is None:
        raise NotFound(
            f"run {run.run_id[:8]} has {len(rows):,} {KINDS[kind]} and no {key}: "
            f"`quantagent {KINDS[kind]} list` numbers them."
            if kind != "signal"
            else f"run {run.run_id[:8]} has {len(rows):,} signals and no {key}."
        )
    return str(numbered_row[f"{kind}_id"])


LIMITS = ("limit", "observed")


def why(
    key: Annotated[
        str,
        typer.Argument(metavar="ID", help="Order, trade, signal, analysis, or SYMBOL@TIME; short ids are accepted."),
    ],
    run: RunOption = "latest",
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Explain an order, trade, signal or bar: the chain from the analysis to the fill, from the log alone."""
    from engine.audit.why import causal_chain as ask
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        requested = resolve_run(opened, run)
        links = ask(opened.store, requested, full_id(opened, requested, key))
    if as_json:
        print_json(run_id=requested.run_id, chain=[_link_facts(link) for link in links])
    else:
        print_chain(links, wide=wide)


def print_chain(links: Sequence[ChainLink], *, wide: bool | None = None) -> None:
    """Print the chain, then the values of every risk check of an entry, then the reasons of the analysis."""
    from engine.audit.why import evaluated_checks

    for link in links:
        out.print(f"[bold]{format_cell(link.at)}  {link.kind}[/bold]  {escape(tidy(link.says))}")
        place = f"event {link.position:,}" if link.position else "no event of its own"
        out.print(f"                  [dim]{escape(link.key)}, {place}[/dim]")
    checks = [{"rule": r, "passed": p, "limit": limit, "observed": o} for r, p, limit, o in evaluated_checks(links)]
    if checks:
        columns = ["rule", "passed", *(TableColumn(name, lambda row, name=name: tidy(row[name])) for name in LIMITS)]
        print_rows("Risk checks", checks, columns, wide=wide)
    for reasons in filter(None, (_reasons(link) for link in links)):
        out.print("Reasons of the analysis: " + "; ".join(reasons), markup=False)


def _reasons(link: ChainLink) -> list[str]:
    from engine.audit.why import analyst_reasons

    return analyst_reasons(link)


def _link_facts(link: ChainLink) -> dict[str, Any]:
    import msgspec

    facts = link._asdict()
    recorded = facts.pop("event")
    if recorded is not None:
        facts["name"] = recorded.name
        facts["stream"], facts["version"] = recorded.stream, recorded.version
        facts["payload"] = msgspec.json.decode(recorded.payload)
        facts["recorded_at"], facts["actor"] = recorded.meta.recorded_at, recorded.meta.actor
    return facts
