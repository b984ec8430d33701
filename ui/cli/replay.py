"""`quantagent replay`: the stored analyses of a run under its own or another profile."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.output import AsJson, Wide, err, open_queries, out, print_json, report_errors, show_progress
from ui.cli.profile import RiskProfileOption
from ui.cli.results import outcome_facts, show_outcome
from ui.cli.run_report import run_facts, show_comparison, show_digests
from ui.cli.run_selection import resolve_source


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run by a prefix of its id, or `latest`.")],
    profile: Annotated[
        list[str] | None, typer.Option("--profile", help="Another profile to replay under; repeatable.")
    ] = None,
    risk_profile: RiskProfileOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Replay a run's stored analyses under its own configuration or other profiles, without model calls."""
    from engine.runtime.replay import describe_divergence
    from projections.queries import MetricsMissing
    from ui.app import open_app
    from ui.services.replay import run_replay as run_again

    with report_errors(), open_app() as opened:
        source = resolve_source(opened, run)
        with show_progress() as on_progress:
            names: list[str | None] = [*profile] if profile else [None]
            reports = [run_again(opened, source.run_id, name, on_progress, risk_profile) for name in names]
        with open_queries(opened) as queries:
            original = queries.run(source.run_id)
            rows = [original, *(queries.run(answer.result.request.run_id) for answer in reports)]
            metrics = [queries.metrics(row["run_id"]) or {} for row in rows]
            outcomes = [outcome_facts(opened, queries, answer.result.request) for answer in reports]
            missing = queries.missing_metrics([answer.result.request.run_id for answer in reports])
        same_config = [a for a in reports if a.result.request.config_digest == source.config_digest]
        equal = all(a.result.ended.book_digest == original["book_digest"] for a in same_config)
        if as_json:
            print_json(
                source=source.run_id,
                source_digest=original["book_digest"],
                equal=equal if same_config else None,
                replays=[run_facts(answer) | facts for answer, facts in zip(reports, outcomes, strict=True)],
            )
        else:
            for answer in same_config:
                show_digests(str(original["book_digest"]), answer)
                if difference := describe_divergence(opened.store, source, answer.result.request):
                    out.print(difference)
            show_comparison("Side by side", rows, metrics, wide)
            for answer, facts in zip(reports, outcomes, strict=True):
                if any(facts.values()):
                    out.print(f"Run {answer.result.request.run_id[:8]}, {answer.result.request.profile}:", markup=False)
                    show_outcome(facts)
            err.print(f"{sum(a.analyses_read for a in reports):,} analyses read, 0 made.")
        if not equal:
            raise typer.Exit(3)
        if missing:
            raise MetricsMissing(missing)
