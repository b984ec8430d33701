"""`backtest`, `replay`, `compare`: runs over stored bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import (
    AsJson,
    End,
    Frame,
    Start,
    Symbols,
    Wide,
    dollars_of,
    err,
    errors_in_words,
    instant_of,
    out,
    print_facts,
    print_json,
    print_rows,
    progress,
    queries_of,
    symbols_of,
)
from ui.cli.profile import OfProfile, OfRisk
from ui.cli.results import outcome_facts, show_outcome
from ui.cli.run_selection import find_run, find_source
from ui.cli.tables import Column, cell
from ui.formats import figures

if TYPE_CHECKING:
    from ui.app import Answer

METRICS = (
    "final_equity",
    "total_pnl",
    "total_return",
    "fees",
    "total_trades",
    "open_trades",
    "win_rate",
    "profit_factor",
    "expectancy",
    "sharpe_ratio",
    "sortino_ratio",
    "volatility",
    "max_drawdown",
    "cagr",
    "calmar_ratio",
    "days",
    "annualisation",
)


OfVariant = Annotated[
    str,
    typer.Option(
        "--variant",
        metavar="V",
        help="Whose analyses: `rules`, a strategy's name, your own as FILE.py:CLASS, a model's name, or A,B to ask B "
        "where A fails. Default: the active model, else `rules`.",
    ),
]


def backtest(
    symbols: Symbols = "",
    timeframe: Frame = "1h",
    start: Start = None,
    end: End = None,
    profile: OfProfile = None,
    risk_profile: OfRisk = None,
    variant: OfVariant = "",
    signals: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Trade these signals: symbol,at,decision[,confidence].")
    ] = None,
    label: Annotated[str, typer.Option(help="Ask the same question again under a name.")] = "",
    fetch: Annotated[
        str,
        typer.Option(
            "--fetch", metavar="PROVIDER", help="Fetch first what is missing of --symbols: yahoo, synthetic..."
        ),
    ] = "",
    budget: Annotated[
        str, typer.Option("--budget", metavar="USD", help="What the model may cost for this; it stops before more.")
    ] = "",
    retry: Annotated[bool, typer.Option("--retry", help="Ask the model again where it failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the rules over stored bars. The same question is the same run: asking twice stores nothing twice."""
    from engine.core.market import Timeframe
    from projections.queries import MetricsMissing
    from ui.app import Question, open_app
    from ui.app import backtest as run

    with errors_in_words():
        question = Question(
            symbols=symbols_of(symbols),
            timeframe=Timeframe.parse(timeframe),
            start=instant_of(start),
            end=instant_of(end),
            profile=profile,
            risk_profile=risk_profile,
            variant=variant,
            signals=signals,
            label=label,
            budget=dollars_of(budget),
            retry=retry,
        )
        with open_app() as opened:
            with progress() as tell:
                if fetch:
                    from ui.services.data import with_bars

                    question = with_bars(opened, question, fetch, tell)
                answer = run(opened, question, tell)
            for notice in answer.notices:
                err.print(notice, markup=False)
            with queries_of(opened) as queries:
                run_id = answer.result.request.run_id
                metrics, missing = queries.metrics(run_id) or {}, queries.missing_metrics([run_id])
                outcome = outcome_facts(opened, queries, answer.result.request)
        if as_json:
            print_json(**facts_of(answer), metrics=_chosen(metrics), **outcome)
        else:
            show(answer, metrics)
            show_outcome(outcome)
        err.print(f"Decided by {answer.profile_told}.")
        if missing:
            raise MetricsMissing(missing)


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The beginning of a run's id, or `latest`.")],
    profile: Annotated[
        list[str] | None, typer.Option("--profile", help="Another profile to replay under; may be given again.")
    ] = None,
    risk_profile: OfRisk = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Run a run's stored analyses again, under its own configuration or others. Makes no analysis, calls no model."""
    from engine.runtime.replay import first_difference
    from projections.queries import MetricsMissing
    from ui.app import open_app
    from ui.app import replay as run_again

    with errors_in_words(), open_app() as opened:
        source = find_source(opened, run)
        with progress() as tell:
            names: list[str | None] = [*profile] if profile else [None]
            answers = [run_again(opened, source.run_id, name, tell, risk_profile) for name in names]
        with queries_of(opened) as queries:
            original = queries.run(source.run_id)
            rows = [original, *(queries.run(answer.result.request.run_id) for answer in answers)]
            metrics = [queries.metrics(row["run_id"]) or {} for row in rows]
            outcomes = [outcome_facts(opened, queries, answer.result.request) for answer in answers]
            missing = queries.missing_metrics([answer.result.request.run_id for answer in answers])
        same_question = [a for a in answers if a.result.request.config_digest == source.config_digest]
        equal = all(a.result.ended.book_digest == original["book_digest"] for a in same_question)
        if as_json:
            print_json(
                source=source.run_id,
                source_digest=original["book_digest"],
                equal=equal if same_question else None,
                replays=[facts_of(answer) | facts for answer, facts in zip(answers, outcomes, strict=True)],
            )
        else:
            for answer in same_question:
                show_digests(str(original["book_digest"]), answer)
                if difference := first_difference(opened.store, source, answer.result.request):
                    out.print(difference)
            show_comparison("Side by side", rows, metrics, wide)
            for answer, facts in zip(answers, outcomes, strict=True):
                if any(facts.values()):
                    out.print(f"Run {answer.result.request.run_id[:8]}, {answer.result.request.profile}:", markup=False)
                    show_outcome(facts)
            err.print(f"{sum(a.analyses_found for a in answers):,} analyses read, 0 made.")
        if not equal:
            raise typer.Exit(3)
        if missing:
            raise MetricsMissing(missing)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two or more runs.")],
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Put the metrics of runs side by side."""
    from projections.queries import MetricsMissing
    from ui.app import open_app

    with errors_in_words(), open_app() as opened, queries_of(opened) as queries:
        rows = [queries.run(find_run(opened, run).run_id) for run in runs]
        metrics = [queries.metrics(row["run_id"]) or {} for row in rows]
        if as_json:
            print_json(runs=[{"run_id": r["run_id"], **_chosen(m)} for r, m in zip(rows, metrics, strict=True)])
        else:
            show_comparison("Side by side", rows, metrics, wide)
        if missing := queries.missing_metrics([row["run_id"] for row in rows if row["status"] == "ended"]):
            raise MetricsMissing(missing)


def show_comparison(
    title: str,
    runs: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    wide: bool | None = None,
) -> None:
    """One row per figure, one column per run, each in the currency of its account."""
    heads = [f"{run['environment']} {run['profile']} {run['run_id'][:8]}" for run in runs]
    currencies = [str(run["currency"]) for run in runs]
    rows: list[dict[str, Any]] = [{"figure": name.replace("_", " "), "name": name} for name in METRICS]
    for row in rows:
        row |= {head: of_run.get(row["name"]) for head, of_run in zip(heads, metrics, strict=True)}
    texts = [figures(_chosen(of_run), currency) for of_run, currency in zip(metrics, currencies, strict=True)]
    columns = [_figures_column(*each) for each in zip(heads, texts, strict=True)]
    print_rows(f"{title} ({', '.join(dict.fromkeys(currencies))})", rows, ["figure", *columns], wide=wide)


def _figures_column(head: str, texts: Mapping[str, str]) -> Column:
    # How many returns and trades a ratio rests on is a row of its own here.
    return Column(head, lambda row: texts.get(row["name"], cell(row[head])).split(" (n = ")[0])


def facts_of(answer: Answer) -> dict[str, Any]:
    """What a run says of itself."""
    request, ended = answer.result
    return {
        "run_id": request.run_id,
        "environment": request.environment.value,
        "profile": request.profile,
        "variant": request.variant,
        "symbols": list(request.config.symbols),
        "bars": ended.bars,
        "analyses_made": answer.analyses_made,
        "analyses_read": answer.analyses_found,
        "analyses_failed": answer.analyses_failed,
        "cost_usd": answer.cost,
        "signals": ended.signals,
        "orders": ended.orders,
        "fills": ended.fills,
        "book_events": ended.book_events,
        "book_digest": ended.book_digest,
    }


def show(answer: Answer, metrics: Mapping[str, Any]) -> None:
    facts, currency = facts_of(answer), answer.result.request.config.currency
    print_facts(f"Run {facts['run_id']}", {**facts, "symbols": ", ".join(facts["symbols"])})
    print_facts(f"Metrics ({currency})", _chosen(metrics), figures(_chosen(metrics), currency))


def show_digests(source_digest: str, answer: Answer) -> None:
    ours = answer.result.ended.book_digest
    out.print(f"stored digest   {source_digest}")
    out.print(f"replayed digest {ours}")
    out.print("equal" if ours == source_digest else "DIFFERENT")


def _chosen(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metrics.get(name) for name in METRICS}
