"""`quantagent audit diff`: two runs compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ui.cli.audit_output import AuditRunArgument, difference_facts, show_difference
from ui.cli.output import AsJson, out, print_json, print_rows, report_errors
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.audit.compare import RunComparison


def diff(run: AuditRunArgument, other: AuditRunArgument, as_json: AsJson = False) -> None:
    """Compare requests, engines, counts and books of two runs; exit code 3 if the books differ."""
    from engine.audit.compare import compare_runs
    from ui.app import open_audit

    with report_errors(), open_audit() as opened:
        comparison = compare_runs(opened.store, resolve_run(opened, run), resolve_run(opened, other))
    if as_json:
        print_json(**_comparison_facts(comparison))
    else:
        _show_comparison(comparison)
    if not comparison.equal:
        raise typer.Exit(3)


def _comparison_facts(comparison: RunComparison) -> dict[str, Any]:
    sides = (comparison.ours, comparison.theirs)
    return {
        "runs": [
            {
                "run_id": side.run.run_id,
                "environment": side.run.environment.value,
                "engine_version": side.engine,
                "ended": side.ended,
                **{name.replace(" ", "_"): count for name, count in side.counts.items()},
                "book_digest": side.book_digest,
            }
            for side in sides
        ],
        "asked_differently": [change._asdict() for change in comparison.request_changes],
        "equal": comparison.equal,
        "difference": difference_facts(comparison.difference, "ours", "theirs"),
    }


def _show_comparison(comparison: RunComparison) -> None:
    sides = (comparison.ours, comparison.theirs)
    heads = [f"{n} {side.run.environment} {side.run.run_id[:8]}" for n, side in enumerate(sides, 1)]
    facts = [
        {"engine version": side.engine, "ended": side.ended, **side.counts, "book digest": side.book_digest[:16]}
        for side in sides
    ]
    print_rows("Two runs", [_row(name, heads, [f[name] for f in facts]) for name in facts[0]], ["", *heads])
    if comparison.request_changes:
        changes = [_row(change.field, heads, [change.ours, change.theirs]) for change in comparison.request_changes]
        print_rows("Different requests", changes, ["", *heads])
    else:
        out.print("The requests are equal.")
    if comparison.equal:
        out.print("The books are equal.")
    elif comparison.difference is None:
        out.print("The books differ only in the configuration that they name, not in any decision.")
    else:
        show_difference(comparison.difference, "1", "2")


def _row(name: str, heads: list[str], values: list[Any]) -> dict[str, Any]:
    return {"": name, **dict(zip(heads, values, strict=True))}
