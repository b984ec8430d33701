"""`quantagent analyze` and `quantagent analyses`: analyses made, listed, compared, rerun, exported and imported."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.core.errors import QuantagentError
from ui.cli.output import (
    AsCsv,
    AsJson,
    EndOption,
    StartOption,
    SymbolOption,
    SymbolsOption,
    TimeframeOption,
    Wide,
    err,
    open_queries,
    out,
    parse_dollars,
    parse_instant,
    parse_symbol,
    parse_symbols,
    print_csv,
    print_facts,
    print_json,
    print_rows,
    report_errors,
    show_notices,
    show_progress,
)
from ui.cli.run_report import VariantOption
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.core.events import AnalysisFailed, AnalysisMade
    from ui.services.comparison import VariantRecord

app = typer.Typer(
    name="analyses", help="Stored analyses, each made once, with requests, answers and costs.", no_args_is_help=True
)

AnalysisArgument = Annotated[str, typer.Argument(metavar="ANALYSIS", help="An id from `analyses list`.")]
VariantFilter = Annotated[
    str | None, typer.Option("--variant", metavar="V", help="Only this variant, with or without its digest.")
]
EXIT_DIFFERENT = 3
# Longer than any market is closed.
OLD = timedelta(days=5)

KEPT_COLUMNS = ("symbol", "at", "decision", "analysis_id", "reason")
COLUMNS = ("symbol", "at", "variant", "decision", "confidence", "status", "cost", "latency_ms", "analysis_id")


class AnalysisUnavailable(QuantagentError):
    """The analysis failed, so that there is no decision."""


def analyze(
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL")],
    timeframe: TimeframeOption = "1h",
    end: EndOption = None,
    variant: VariantOption = "",
    retry: Annotated[bool, typer.Option("--retry", help="Call the model again if it failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Analyze the latest bar of a symbol, or show its stored analysis; exit code 1 if it failed."""
    from engine import clock
    from engine.core.events import AnalysisFailed
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.services.analyses import analyse_latest_bar
    from ui.services.analysts import missing_key
    from ui.services.rerun import find_analysis

    with report_errors(), open_app() as opened:
        result = analyse_latest_bar(
            opened, parse_symbol(symbol), Timeframe.parse(timeframe), parse_instant(end), variant, retry=retry
        )
        event = find_analysis(opened.store, result["analysis_id"]).event
        if as_json:
            print_json(made=result["made"], **analysis_document(event))
        else:
            show_analysis(event)
            err.print("Made now." if result["made"] else "Already stored.")
        if isinstance(event, AnalysisFailed):
            missing = missing_key(opened, event.variant)
            first = f"the environment variable {missing}, which holds the key, is not set; " if missing else ""
            raise AnalysisUnavailable(
                f"{first}the analysis failed: {event.reason.rstrip('.')}. `--retry` calls the model again."
            )
        if end is None and clock.now() - result["at"] > OLD:
            err.print(
                f"The latest stored bar closed {result['at']:%Y-%m-%d %H:%M}: `quantagent data fetch` fetches "
                f"newer ones."
            )


@app.command("make")
def analyses_make(
    symbols: SymbolsOption = "",
    timeframe: TimeframeOption = "1h",
    start: StartOption = None,
    end: EndOption = None,
    variant: VariantOption = "",
    budget: Annotated[str, typer.Option("--budget", metavar="USD", help="Limit of the cost of model calls.")] = "",
    retry: Annotated[bool, typer.Option("--retry", help="Call the model again if it failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the missing analyses of a range; after an interruption, continue."""
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.services.analyses import create_missing_analyses
    from ui.services.backtest import BacktestRequest

    with report_errors(), open_app() as opened:
        request = BacktestRequest(
            symbols=parse_symbols(symbols),
            timeframe=Timeframe.parse(timeframe),
            start=parse_instant(start),
            end=parse_instant(end),
            variant=variant,
            budget=parse_dollars(budget),
            retry=retry,
        )
        with show_progress() as on_progress:
            report = create_missing_analyses(opened, request, on_progress)
        show_notices(report.notices, report.failed)
        facts = report._asdict() | {"notices": list(report.notices)}
        if as_json:
            print_json(**facts)
        else:
            del facts["notices"]
            print_facts("Analyses", facts)


@app.command("list")
def analyses_list(
    symbol: SymbolOption = None,
    variant: VariantFilter = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed ones, with their reasons.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many, newest bars first.")] = 50,
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List stored analyses, newest bars first."""
    from ui.app import open_app

    with report_errors(), open_app() as opened, open_queries(opened) as queries:
        rows = queries.analyses(symbol and parse_symbol(symbol), variant, limit, failed=failed)
    if as_json:
        print_json(analyses=rows)
    elif as_csv:
        print_csv(rows)
    elif rows:
        columns = (*COLUMNS[:-1], "reason", COLUMNS[-1]) if failed else COLUMNS
        print_rows("Analyses", rows, columns, keep=KEPT_COLUMNS, wide=wide)
    else:
        err.print("No such analysis is stored: `quantagent backtest` or `quantagent analyses make` makes analyses.")


@app.command("show")
def analyses_show(
    analysis: AnalysisArgument,
    texts: Annotated[bool, typer.Option("--texts", help="Include the requests to models and their answers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show an analysis with its reports, origin, and model calls with their costs."""
    from ui.app import open_app
    from ui.services.rerun import find_analysis, recorded_texts

    with report_errors(), open_app() as opened:
        event = find_analysis(opened.store, analysis).event
        calls = event.work.calls if event.work is not None else ()
        digests = [digest for call in calls for digest in (call.request, call.response)]
        bodies = recorded_texts(opened, digests) if texts else {}
    if as_json:
        print_json(**analysis_document(event), **({"texts": bodies} if texts else {}))
        return
    show_analysis(event)
    for call in calls if texts else ():
        print_facts(
            f"{call.node}, question {call.seq}, attempt {call.attempt}: {call.outcome}",
            {"request": bodies.get(call.request, ""), "answer": bodies.get(call.response, "none came")},
        )


def analysis_document(event: AnalysisMade | AnalysisFailed) -> dict[str, Any]:
    """Return an analysis as JSON, its reports as values."""
    import json

    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(event, str_keys=True)
    if "reports" in document:
        document["reports"] = json.loads(document["reports"])
    return document


def show_analysis(event: AnalysisMade | AnalysisFailed) -> None:
    """Print an analysis as text."""
    document = analysis_document(event)
    work: dict[str, Any] = document.get("work") or {}
    main = ("symbol", "timeframe", "variant", "decision", "confidence", "horizon_bars", "risk_reward", "reason")
    facts = {name: document[name] for name in main if document.get(name) is not None}
    print_facts(f"Analysis {event.analysis_id}", {**facts, "at": event.as_of})
    for name, report in document.get("reports", {}).items():
        shown = {each: _text(value) for each, value in report.items()}
        print_facts(name, shown)
    if work:
        columns_shown = (
            "preset",
            "model_name",
            "sighted",
            "input_tokens",
            "output_tokens",
            "cost",
            "latency_ms",
            "thread_id",
        )
        print_facts("made by", {name: work[name] for name in columns_shown if name in work})
        columns = ("node", "seq", "attempt", "model", "outcome", "input_tokens", "output_tokens", "cost", "latency_ms")
        print_rows("Questions", work["calls"], columns)


def _text(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


@app.command("compare")
def analyses_compare(
    one: Annotated[str, typer.Argument(metavar="VARIANT")],
    other: Annotated[str, typer.Argument(metavar="OTHER")],
    symbols: SymbolsOption = "",
    timeframe: TimeframeOption = "1h",
    start: StartOption = None,
    end: EndOption = None,
    horizon: Annotated[int, typer.Option("--horizon", min=1, max=10_000, help="Bars until the evaluation.")] = 3,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Compare two variants on the same bars: agreement, accuracy, cost and latency."""
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.services.comparison import analysed_symbols
    from ui.services.comparison import compare_variants as run

    with report_errors(), open_app() as opened:
        frame = Timeframe.parse(timeframe)
        selected = parse_symbols(symbols) or analysed_symbols(opened, (one, other), frame)
        comparisons = [
            run(opened, (one, other), symbol, frame, horizon, parse_instant(start), parse_instant(end))
            for symbol in selected
        ]
    rows = [
        {
            "symbol": each.symbol,
            "both": each.both,
            "agreed": f"{each.agreed / each.both:.1%}",
            **_record(record),
        }
        for each in comparisons
        for record in each.records
    ]
    if as_json:
        print_json(
            horizon=horizon,
            comparisons=[
                {**each._asdict(), "records": [record._asdict() for record in each.records]} for each in comparisons
            ],
        )
        return
    print_rows(f"Evaluated at the close {horizon} bars later", rows, list(rows[0]), wide=wide)
    err.print("Accuracy counts LONG and SHORT only; with n of them its standard error is about 50 % / sqrt(n).")


def _record(record: VariantRecord) -> dict[str, Any]:
    row = record._asdict()
    for name in ("right", "judged", "right_after_cutoff", "judged_after_cutoff"):
        del row[name]
    after = record.accuracy_after_cutoff
    return row | {
        "accuracy": "" if record.accuracy is None else f"{record.accuracy:.1%} of {record.judged:,}",
        "after_cutoff": "" if after is None else f"{after:.1%} of {record.judged_after_cutoff:,}",
    }


@app.command("rerun")
def analyses_rerun(analysis: AnalysisArgument, as_json: AsJson = False) -> None:
    """Rerun an analysis from its recorded answers, without a model; exit code 3 if the reports differ."""
    from ui.app import open_app
    from ui.services.rerun import rerun_analysis

    with report_errors(), open_app() as opened:
        result = rerun_analysis(opened, analysis)
    if as_json:
        print_json(
            analysis_id=analysis,
            equal=result.equal,
            stored=analysis_document(result.stored),
            again=analysis_document(result.recomputed),
        )
    elif result.equal:
        out.print(f"{analysis}: the recording gives the same reports and the same decision.", markup=False)
    else:
        show_analysis(result.stored)
        show_analysis(result.recomputed)
        err.print(f"They differ: {result.difference}.", markup=False)
    if not result.equal:
        raise typer.Exit(EXIT_DIFFERENT)


@app.command("costs")
def analyses_costs(
    by: Annotated[str, typer.Option("--by", metavar="WHAT", help="day, variant, run or analysis.")] = "day",
    run: Annotated[str, typer.Option("--run", metavar="RUN", help="Only analyses used by this run.")] = "",
    wide: Wide = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show calls of models and their costs in US dollars; analyses shared by runs count in each."""
    from engine.core.errors import BadInput
    from ui.app import open_app

    with report_errors():
        if by not in ("day", "variant", "run", "analysis"):
            raise BadInput(f"costs are grouped by day, variant, run or analysis, not by {by!r}.")
        with open_app() as opened, open_queries(opened) as queries:
            run_id = resolve_run(opened, run).run_id if run else None
            rows = queries.costs(by, run_id)  # pyright: ignore[reportArgumentType] - checked above
            unassigned = queries.cost_without_analysis()
    if as_json:
        print_json(costs=rows, cost_without_analysis=unassigned)
    elif as_csv:
        print_csv(rows)
    elif rows:
        print_rows("Costs in US dollars", rows, list(rows[0]), wide=wide)
        if unassigned:
            err.print(f"Another {unassigned:f} for calls that belong to no analysis: running, or interrupted.")
    else:
        err.print("No model was called yet: `quantagent analyze SYMBOL --variant MODEL` calls one.")


@app.command("export")
def analyses_export(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl")],
    symbol: SymbolOption = None,
    variant: VariantFilter = None,
    start: StartOption = None,
    end: EndOption = None,
    as_json: AsJson = False,
) -> None:
    """Write stored analyses with the texts of their model calls to a file, for a rerun on another machine."""
    from ui.app import open_app
    from ui.services import analyses_io

    with report_errors(), open_app() as opened:
        report = analyses_io.export_analyses(
            opened, file, symbol and parse_symbol(symbol), variant, parse_instant(start), parse_instant(end)
        )
    if as_json:
        print_json(file=str(file), analyses=report.analyses, texts=report.texts)
    else:
        out.print(f"{report.analyses:,} analyses and {report.texts:,} texts are in {file}.", markup=False)


@app.command("import")
def analyses_import(file: Annotated[Path, typer.Argument(metavar="FILE.jsonl")], as_json: AsJson = False) -> None:
    """Import an exported file of analyses; stored ones stay, and a file with a fault is refused as a whole."""
    from ui.app import open_app
    from ui.services import analyses_io

    with report_errors(), open_app() as opened:
        report = analyses_io.import_analyses(opened, file)
    if as_json:
        print_json(file=str(file), analyses=report.analyses, texts=report.texts, there=report.already_stored)
    else:
        out.print(
            f"{report.analyses:,} analyses stored, {report.already_stored:,} already stored, {report.texts:,} texts.",
            markup=False,
        )


@app.command("forget")
def analyses_forget(
    before: Annotated[str, typer.Option("--before", metavar="TIME", help="Last written before this (UTC).")],
    as_json: AsJson = False,
) -> None:
    """Delete old checkpoints and charts; the log keeps every analysis with requests and answers."""
    from ui.app import open_app
    from ui.services import analyses_io

    with report_errors(), open_app() as opened:
        instant = parse_instant(before)
        assert instant is not None, "the option is required"
        threads, freed = analyses_io.delete_working_data(opened, instant)
    if as_json:
        print_json(checkpoints=threads, bytes_of_charts=freed)
    else:
        message = f"The checkpoints of {threads:,} analyses and {freed / 1024:,.0f} KiB of charts are deleted."
        out.print(message, markup=False)
