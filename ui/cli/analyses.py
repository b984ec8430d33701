"""`quantagent analyze` and `quantagent analyses`: opinions made, looked at, compared, run again, moved."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.core.errors import QuantagentError
from ui.cli.output import (
    AsCsv,
    AsJson,
    End,
    Frame,
    OneSymbol,
    Start,
    Symbols,
    Wide,
    dollars_of,
    err,
    errors_in_words,
    instant_of,
    out,
    print_csv,
    print_facts,
    print_json,
    print_rows,
    progress,
    queries_of,
    symbol_of,
    symbols_of,
)
from ui.cli.run_selection import find_run
from ui.cli.trading import OfVariant

if TYPE_CHECKING:
    from engine.core.events import AnalysisFailed, AnalysisMade
    from ui.services.comparison import Record

app = typer.Typer(
    name="analyses", help="Stored opinions, each made once: what was asked, said and paid.", no_args_is_help=True
)

Analysis = Annotated[str, typer.Argument(metavar="ANALYSIS", help="An id, as `analyses list` shows it.")]
OneVariant = Annotated[
    str | None, typer.Option("--variant", metavar="V", help="Only this variant, with or without its digest.")
]
CHECK_SAID_NO = 3
# Longer than any market is closed.
OLD = timedelta(days=5)

KEPT = ("symbol", "at", "decision", "analysis_id", "reason")
COLUMNS = ("symbol", "at", "variant", "decision", "confidence", "status", "cost", "latency_ms", "analysis_id")


class AnalysisUnavailable(QuantagentError):
    """There is no opinion: the analysis failed."""


def analyze(
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL")],
    timeframe: Frame = "1h",
    end: End = None,
    variant: OfVariant = "",
    retry: Annotated[bool, typer.Option("--retry", help="Ask the model again where it failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Analyse the latest bar of a symbol now, or show the analysis that is stored of it; exit code 1 if it failed."""
    from engine import clock
    from engine.core.events import AnalysisFailed
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.services.analyses import latest_opinion
    from ui.services.analysts import missing_key
    from ui.services.comparison import find

    with errors_in_words(), open_app() as opened:
        said = latest_opinion(
            opened, symbol_of(symbol), Timeframe.parse(timeframe), instant_of(end), variant, retry=retry
        )
        fact = find(opened.store, said["analysis_id"]).fact
        if as_json:
            print_json(made=said["made"], **document_of(fact))
        else:
            show_fact(fact)
            err.print("Made now." if said["made"] else "It was stored already.")
        if isinstance(fact, AnalysisFailed):
            missing = missing_key(opened, fact.variant)
            first = f"the environment variable {missing}, which holds the key, is not set; " if missing else ""
            raise AnalysisUnavailable(
                f"{first}the analysis failed: {fact.reason.rstrip('.')}. `--retry` asks the model again."
            )
        if end is None and clock.now() - said["at"] > OLD:
            err.print(
                f"The last bar there is closed {said['at']:%Y-%m-%d %H:%M}: `quantagent data fetch` brings newer ones."
            )


@app.command("make")
def make(
    symbols: Symbols = "",
    timeframe: Frame = "1h",
    start: Start = None,
    end: End = None,
    variant: OfVariant = "",
    budget: Annotated[
        str, typer.Option("--budget", metavar="USD", help="What the model may cost for this; it stops before more.")
    ] = "",
    retry: Annotated[bool, typer.Option("--retry", help="Ask the model again where it failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the analyses of a range that are missing. Stopped, it goes on where it was."""
    from engine.core.market import Timeframe
    from ui.app import Question, open_app
    from ui.services.analyses import make_analyses

    with errors_in_words(), open_app() as opened:
        question = Question(
            symbols=symbols_of(symbols),
            timeframe=Timeframe.parse(timeframe),
            start=instant_of(start),
            end=instant_of(end),
            variant=variant,
            budget=dollars_of(budget),
            retry=retry,
        )
        with progress() as tell:
            made = make_analyses(opened, question, tell)
        for notice in made.notices:
            err.print(notice, markup=False)
        facts = made._asdict() | {"notices": list(made.notices)}
        if as_json:
            print_json(**facts)
        else:
            del facts["notices"]
            print_facts("Analyses", facts)


@app.command("list")
def listing(
    symbol: OneSymbol = None,
    variant: OneVariant = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed, with their reasons.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the newest bars first.")] = 50,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Stored analyses, those of the newest bars first."""
    from ui.app import open_app

    with errors_in_words(), open_app() as opened, queries_of(opened) as queries:
        rows = queries.analyses(symbol and symbol_of(symbol), variant, limit, failed=failed)
    if as_json:
        print_json(analyses=rows)
    elif as_csv:
        print_csv(rows)
    elif rows:
        columns = (*COLUMNS[:-1], "reason", COLUMNS[-1]) if failed else COLUMNS
        print_rows("Analyses", rows, columns, keep=KEPT, wide=wide)
    else:
        err.print("No such analysis is stored: `quantagent backtest` or `quantagent analyses make` makes them.")


@app.command("show")
def show(
    analysis: Analysis,
    texts: Annotated[bool, typer.Option("--texts", help="Also what was sent to models and answered.")] = False,
    as_json: AsJson = False,
) -> None:
    """One analysis: its reports, how it was made, every question with its cost."""
    from ui.app import open_app
    from ui.services.comparison import find, texts_of

    with errors_in_words(), open_app() as opened:
        fact = find(opened.store, analysis).fact
        calls = fact.work.calls if fact.work is not None else ()
        digests = [digest for call in calls for digest in (call.request, call.response)]
        bodies = texts_of(opened, digests) if texts else {}
    if as_json:
        print_json(**document_of(fact), **({"texts": bodies} if texts else {}))
        return
    show_fact(fact)
    for call in calls if texts else ():
        print_facts(
            f"{call.node}, question {call.seq}, attempt {call.attempt}: {call.outcome}",
            {"request": bodies.get(call.request, ""), "answer": bodies.get(call.response, "none came")},
        )


def document_of(fact: AnalysisMade | AnalysisFailed) -> dict[str, Any]:
    """An analysis as JSON, its reports as values."""
    import json

    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(fact, str_keys=True)
    if "reports" in document:
        document["reports"] = json.loads(document["reports"])
    return document


def show_fact(fact: AnalysisMade | AnalysisFailed) -> None:
    """One analysis for a person."""
    document = document_of(fact)
    work: dict[str, Any] = document.get("work") or {}
    main = ("symbol", "timeframe", "variant", "decision", "confidence", "horizon_bars", "risk_reward", "reason")
    facts = {name: document[name] for name in main if document.get(name) is not None}
    print_facts(f"Analysis {fact.analysis_id}", {**facts, "at": fact.as_of})
    for name, report in document.get("reports", {}).items():
        shown = {each: _text(value) for each, value in report.items()}
        print_facts(name, shown)
    if work:
        told = ("preset", "model_name", "sighted", "input_tokens", "output_tokens", "cost", "latency_ms", "thread_id")
        print_facts("made by", {name: work[name] for name in told if name in work})
        columns = ("node", "seq", "attempt", "model", "outcome", "input_tokens", "output_tokens", "cost", "latency_ms")
        print_rows("Questions", work["calls"], columns)


def _text(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


@app.command("compare")
def compare(
    one: Annotated[str, typer.Argument(metavar="VARIANT")],
    other: Annotated[str, typer.Argument(metavar="OTHER")],
    symbols: Symbols = "",
    timeframe: Frame = "1h",
    start: Start = None,
    end: End = None,
    horizon: Annotated[int, typer.Option("--horizon", min=1, max=10_000, help="Bars after which it is judged.")] = 3,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Two variants on the same bars: how often they agree, who was right after some bars, cost and latency."""
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.services.comparison import analysed_symbols
    from ui.services.comparison import compare as run

    with errors_in_words(), open_app() as opened:
        frame = Timeframe.parse(timeframe)
        asked = symbols_of(symbols) or analysed_symbols(opened, (one, other), frame)
        found = [
            run(opened, (one, other), symbol, frame, horizon, instant_of(start), instant_of(end)) for symbol in asked
        ]
    rows = [
        {
            "symbol": each.symbol,
            "both": each.both,
            "agreed": f"{each.agreed / each.both:.1%}",
            **_record(record),
        }
        for each in found
        for record in each.records
    ]
    if as_json:
        print_json(
            horizon=horizon,
            comparisons=[
                {**each._asdict(), "records": [record._asdict() for record in each.records]} for each in found
            ],
        )
        return
    print_rows(f"Judged by the close {horizon} bars later", rows, list(rows[0]), wide=wide)
    err.print("Accuracy counts LONG and SHORT only; with n of them its standard error is about 50 % / sqrt(n).")


def _record(record: Record) -> dict[str, Any]:
    row = record._asdict()
    for name in ("right", "judged", "right_after_cutoff", "judged_after_cutoff"):
        del row[name]
    after = record.accuracy_after_cutoff
    return row | {
        "accuracy": "" if record.accuracy is None else f"{record.accuracy:.1%} of {record.judged:,}",
        "after_cutoff": "" if after is None else f"{after:.1%} of {record.judged_after_cutoff:,}",
    }


@app.command("rerun")
def rerun(analysis: Analysis, as_json: AsJson = False) -> None:
    """Run the graph again from its recorded answers and compare; asks no model. Exit code 3 if the reports differ."""
    from ui.app import open_app
    from ui.services.comparison import run_again

    with errors_in_words(), open_app() as opened:
        again = run_again(opened, analysis)
    if as_json:
        print_json(
            analysis_id=analysis, equal=again.equal, stored=document_of(again.stored), again=document_of(again.again)
        )
    elif again.equal:
        out.print(f"{analysis}: the same reports and the same decision, from the recording alone.", markup=False)
    else:
        show_fact(again.stored)
        show_fact(again.again)
        err.print(f"They differ: {again.difference}.", markup=False)
    if not again.equal:
        raise typer.Exit(CHECK_SAID_NO)


@app.command("costs")
def costs(
    by: Annotated[str, typer.Option("--by", metavar="WHAT", help="day, variant, run or analysis.")] = "day",
    run: Annotated[str, typer.Option("--run", metavar="RUN", help="Only what this run consulted.")] = "",
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """What models were asked and paid, in US dollars. Runs share analyses, so they add up to more than was spent."""
    from engine.core.errors import BadInput
    from ui.app import open_app

    with errors_in_words():
        if by not in ("day", "variant", "run", "analysis"):
            raise BadInput(f"costs are added up by day, variant, run or analysis, not by {by!r}.")
        with open_app() as opened, queries_of(opened) as queries:
            run_id = find_run(opened, run).run_id if run else None
            rows = queries.costs(by, run_id)  # pyright: ignore[reportArgumentType] - looked at above
            beside = queries.cost_without_analysis()
    if as_json:
        print_json(costs=rows, cost_without_analysis=beside)
    elif as_csv:
        print_csv(rows)
    elif rows:
        print_rows("Costs in US dollars", rows, list(rows[0]), wide=wide)
        if beside:
            err.print(f"And {beside:f} for questions that stand in no analysis: under way, or cut off.")
    else:
        err.print("No model was asked yet: `quantagent analyze SYMBOL --variant MODEL` asks one.")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl")],
    symbol: OneSymbol = None,
    variant: OneVariant = None,
    start: Start = None,
    end: End = None,
    as_json: AsJson = False,
) -> None:
    """Write stored analyses to a file, with the texts of their model calls, so that they can be run again elsewhere."""
    from ui.app import open_app
    from ui.services import comparison

    with errors_in_words(), open_app() as opened:
        moved = comparison.export(
            opened, file, symbol and symbol_of(symbol), variant, instant_of(start), instant_of(end)
        )
    if as_json:
        print_json(file=str(file), analyses=moved.analyses, texts=moved.texts)
    else:
        out.print(f"{moved.analyses:,} analyses and {moved.texts:,} texts are in {file}.", markup=False)


@app.command("import")
def bring_in(file: Annotated[Path, typer.Argument(metavar="FILE.jsonl")], as_json: AsJson = False) -> None:
    """Store the analyses of such a file. An opinion that is stored stays; a file with a fault stores nothing."""
    from ui.app import open_app
    from ui.services import comparison

    with errors_in_words(), open_app() as opened:
        moved = comparison.bring_in(opened, file)
    if as_json:
        print_json(file=str(file), analyses=moved.analyses, texts=moved.texts, there=moved.there)
    else:
        out.print(
            f"{moved.analyses:,} analyses stored, {moved.there:,} were there, {moved.texts:,} texts.", markup=False
        )


@app.command("forget")
def forget(
    before: Annotated[str, typer.Option("--before", metavar="TIME", help="What was last written before this (UTC).")],
    as_json: AsJson = False,
) -> None:
    """Delete old checkpoints and charts. The log keeps every opinion, and what was asked and answered."""
    from ui.app import open_app
    from ui.services import comparison

    with errors_in_words(), open_app() as opened:
        instant = instant_of(before)
        assert instant is not None, "the option has to be given"
        threads, freed = comparison.forget(opened, instant)
    if as_json:
        print_json(checkpoints=threads, bytes_of_charts=freed)
    else:
        told = f"The checkpoints of {threads:,} analyses and {freed / 1024:,.0f} KiB of charts are deleted."
        out.print(told, markup=False)
