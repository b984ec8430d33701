"""`quantagent projections`: the read models."""

from __future__ import annotations

import signal
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

import typer

from ui.cli.output import (
    AsJson,
    err,
    format_cell,
    out,
    print_facts,
    print_json,
    print_rows,
    report_errors,
    show_progress,
)

if TYPE_CHECKING:
    from projections.schemas import VerificationRecord
    from projections.verify import RowDifference

app = typer.Typer(
    name="projections",
    help="Read models: status, verification against the log, rebuild.",
    no_args_is_help=True,
)


@app.command("status")
def projections_status(as_json: AsJson = False) -> None:
    """Show the lag of the read models, stopped ones, and runs set aside; exit code 3 for any of these two."""
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        report = opened.runner().status()
    projections = [each._asdict() for each in report.projections]
    aside = [each._asdict() for each in report.set_aside]
    checked = report.verified._asdict() if report.verified else None
    facts = {
        **report._asdict(),
        "verified": checked,
        "position": report.position,
        "lag": report.lag,
        "projections": projections,
        "set_aside": aside,
    }
    if as_json:
        print_json(**facts)
    else:
        facts = {**facts, "set_aside": len(aside), "verified": _describe_check(report.verified)}
        del facts["projections"]
        print_facts("Read models", facts)
        out.print()
        print_rows("Projections", projections, ["projection", "position", "lag", "updated_at", "stopped_at"])
        for each in report.stopped:
            err.print(f"{each.projection} stopped, the others continue: {each.reason}", markup=False)
        for each in report.set_aside:
            err.print(f"run {each.run_id} is set aside by {each.projection}: {each.reason}", markup=False)
    if report.stopped or report.set_aside or (report.verified and report.verified.differing):
        raise typer.Exit(3)


def _describe_check(check: VerificationRecord | None) -> str | None:
    """Format the latest result of `projections verify`."""
    if check is None:
        return None
    result = f"{check.differing:,} rows differ" if check.differing else "equal"
    return f"at event {check.position:,} on {format_cell(check.at)}: {result}"


@app.command("follow")
def projections_follow() -> None:
    """Update the read models continuously, until Ctrl-C or SIGTERM."""
    from engine.store.connections import failure_reason
    from projections.subscription import SubscriptionObserver
    from projections.subscription import follow_log as run
    from ui.app import open_app

    class ProgressPrinter(SubscriptionObserver):
        def projected(self, events: int) -> None:
            if events:
                err.print(f"{events:,} events projected.")

        def interrupted(self, error: Exception, pause_s: float) -> None:
            err.print(
                f"The database is unreachable; next attempt in {pause_s:.1f} s: {failure_reason(error)}", markup=False
            )

    stop = Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    with report_errors(), open_app() as opened:
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        err.print("Following the log; Ctrl-C ends it.")
        run(opened.runner(), stop, observer=ProgressPrinter())
    err.print("Stopped; the same command continues from here.")


@app.command("verify")
def projections_verify(as_json: AsJson = False) -> None:
    """Compare the read models with the log row by row, changing neither; exit code 3 if they differ."""
    from projections.verify import verify_read_models as run
    from ui.app import open_app

    with report_errors(), open_app() as opened, show_progress() as on_progress:
        done = run(opened.store, opened.catalogue, opened.dsn, lambda done, total: on_progress("events", done, total))
    if as_json:
        print_json(
            position=done.position,
            same=done.same,
            rows=done.rows,
            differing=done.differing,
            examples=[{**each._asdict(), "cells": [c._asdict() for c in each.cells]} for each in done.examples],
            evidence=done.evidence,
        )
    else:
        rows = [{"table": name, "rows": n, "differing": done.differing[name]} for name, n in done.rows.items()]
        print_rows(f"Verified at event {done.position:,}", rows, ["table", "rows", "differing"])
        for each in done.examples:
            out.print(_describe_difference(each), markup=False, soft_wrap=True)
    if not done.same:
        err.print(
            "The read models differ from the log. Both sides are kept, in the schemas "
            f"{' and '.join(done.evidence)}: inspect them before `quantagent projections rebuild` writes the right "
            "rows.",
            markup=False,
        )
        raise typer.Exit(3)


def _describe_difference(row: RowDifference) -> str:
    """Format a row that differs as one line."""
    key = ", ".join(f"{name} {value}" for name, value in row.key.items())
    cells = "; ".join(f"{c.column} is {c.shown}, from the log {c.from_the_log}" for c in row.cells)
    return f"{row.table}: {row.kind}, {key}" + (f": {cells}" if cells else "")


@app.command("rebuild")
def projections_rebuild(as_json: AsJson = False) -> None:
    """Rebuild the read models next to the present ones, compare them row by row, and switch."""
    from projections.rebuild import rebuild_read_models as run
    from ui.app import open_app

    with report_errors(), open_app() as opened, show_progress() as on_progress:
        done = run(opened.store, opened.catalogue, opened.dsn, lambda done, total: on_progress("events", done, total))
    if as_json:
        print_json(events=done.events, rows=done.rows, differing=done.differing, same=done.same)
    else:
        rows = [{"table": name, "rows": n, "differing": done.differing[name]} for name, n in done.rows.items()]
        print_rows("Rebuilt", rows, ["table", "rows", "differing"])
        err.print(
            "All rows are equal."
            if done.same
            else "The new tables differ from the old ones, and replace them. If no other version made those, run "
            "`quantagent audit verify`."
        )
    if not done.same:
        raise typer.Exit(3)
