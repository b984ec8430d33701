"""`quantagent compare`: the figures of several runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.output import AsJson, Wide, open_queries, print_json, report_errors
from ui.cli.run_report import select_metrics, show_comparison
from ui.cli.run_selection import resolve_run


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two or more runs.")],
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Show the metrics of runs side by side."""
    from projections.queries import MetricsMissing
    from ui.app import open_app

    with report_errors(), open_app() as opened, open_queries(opened) as queries:
        rows = [queries.run(resolve_run(opened, run).run_id) for run in runs]
        metrics = [queries.metrics(row["run_id"]) or {} for row in rows]
        if as_json:
            print_json(runs=[{"run_id": r["run_id"], **select_metrics(m)} for r, m in zip(rows, metrics, strict=True)])
        else:
            show_comparison("Side by side", rows, metrics, wide)
        if missing := queries.missing_metrics([row["run_id"] for row in rows if row["status"] == "ended"]):
            raise MetricsMissing(missing)
