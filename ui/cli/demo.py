"""`quantagent demo`, step by step. Each step is idempotent: stored results are read, not computed again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from ui.cli.output import AsJson, err, open_queries, out, print_facts, print_json, report_errors, show_progress
from ui.cli.results import outcome_facts, show_outcome
from ui.cli.run_report import run_facts, show_comparison, show_digests
from ui.cli.why import print_chain
from ui.formats import format_money, format_percent

if TYPE_CHECKING:
    from engine.core.events import RunRequested
    from ui.app import App
    from ui.services.buy_and_hold import BuyAndHoldReturn

DIGESTS = ("run_id", "book_digest")


def demo(as_json: AsJson = False) -> None:
    """Run the whole system on a sample: bars, analyses, backtest, replay, read models, and why a trade was made."""
    from ui.app import open_app

    with report_errors():
        began = time.monotonic()
        err.print("Starting the database ...")
        with open_app() as opened:
            facts = run_demo(opened, quiet=as_json)
        facts["seconds"] = round(time.monotonic() - began, 1)
        if as_json:
            print_json(**facts)
        else:
            err.print(f"Done in {facts['seconds']} s.")
            out.print()
            for sentence in facts["sentences"]:
                out.print(sentence, markup=False)
        if not (facts["replay_equal"] and facts["read_models_same"]):
            raise typer.Exit(3)


def run_demo(app: App, *, quiet: bool = False) -> dict[str, Any]:
    """Run all steps, print their results unless `quiet`, and return the figures."""
    from engine.audit.why import causal_chain
    from projections.rebuild import rebuild_read_models
    from ui.services.backtest import BacktestRequest, run_backtest
    from ui.services.buy_and_hold import buy_and_hold
    from ui.services.data import import_sample
    from ui.services.replay import run_replay
    from ui.services.run_lookup import DEMO

    with show_progress() as on_progress:

        def print_step(text: str) -> None:
            if not quiet:
                err.print(text)

        print_step("1  Real bars: BTC-USD and EUR-USD, hourly, July to December 2017")
        new_bars = import_sample(app)
        print_step(f"   {new_bars:,} bars imported now, the rest was stored")
        print_step("2  One analysis per bar and symbol, then the backtest under `realistic`")
        report = run_backtest(
            app, BacktestRequest(symbols=("BTC-USD", "EUR-USD"), profile="realistic", variant="rules"), on_progress
        )
        print_step("3  Replay from the stored analyses, then the same under `classic`")
        replayed = run_replay(app, report.result.request.run_id, None, on_progress, label=DEMO)
        classic = run_replay(app, report.result.request.run_id, "classic", on_progress, label=DEMO)
        print_step("4  Read models rebuilt")
        rebuilt = rebuild_read_models(
            app.store, app.catalogue, app.dsn, lambda done, total: on_progress("rebuild", done, total)
        )
    request = report.result.request
    with open_queries(app) as queries:
        rows = [queries.run(each.result.request.run_id) for each in (report, classic)]
        metrics = [queries.metrics(row["run_id"]) or {} for row in rows]
        trades, costs = queries.trades(request.run_id), [queries.trading_costs(row["run_id"]) for row in rows]
        outcome = outcome_facts(app, queries, request)
    benchmark = buy_and_hold(app, request)
    digest = report.result.ended.book_digest
    best_trade = max(
        (t for t in trades if t["status"] == "closed"), key=lambda t: (t["net_pnl"], t["trade_id"]), default=None
    )
    if not quiet:
        facts = {name: value for name, value in run_facts(report).items() if name not in DIGESTS}
        out.print()
        print_facts("Backtest", {**facts, "symbols": ", ".join(facts["symbols"])})
        show_outcome(outcome)
        out.print()
        show_comparison("Same analyses, two profiles", rows, metrics)
        if best_trade:
            profit = format_money(best_trade["net_pnl"], request.config.currency)
            out.print(f"\nThe best trade, {best_trade['trade_id']}, made {profit}. Its entry and exit:")
            print_chain(causal_chain(app.store, request, best_trade["trade_id"]))
        out.print("\n[bold]Reproducibility[/bold]")
        out.print(f"run {request.run_id}")
        show_digests(digest, replayed)
        out.print(f"{classic.analyses_made} analyses made for the replays, {classic.analyses_read:,} read")
        differing, total = sum(rebuilt.differing.values()), sum(rebuilt.rows.values())
        out.print(f"Read models rebuilt from {rebuilt.events:,} events: {total:,} rows, {differing} differ")
    return {
        "bars_new": new_bars,
        "run_id": request.run_id,
        "analyses_made": report.analyses_made,
        "book_digest": digest,
        "replay_digest": replayed.result.ended.book_digest,
        "replay_equal": digest == replayed.result.ended.book_digest,
        "classic_digest": classic.result.ended.book_digest,
        "replay_analyses_made": replayed.analyses_made + classic.analyses_made,
        "read_models_same": rebuilt.same,
        "read_model_rows": rebuilt.rows,
        "trade": best_trade["trade_id"] if best_trade else None,
        "buy_and_hold": benchmark._asdict(),
        "sentences": sentences(request, classic.result.request, metrics, costs, benchmark),
        **outcome,
    }


def sentences(
    run: RunRequested,
    classic_run: RunRequested,
    metrics: Sequence[Mapping[str, Any]],
    costs: Sequence[Decimal],
    benchmark: BuyAndHoldReturn,
) -> list[str]:
    """Return the demo in five sentences: steps, result, its significance, effect of `classic`, next commands.

    metrics and costs: of the run, then of its replay under `classic`.
    """
    currency, symbols = run.config.currency, run.config.symbols
    alone = ", ".join(f"{symbol} {signed(share)}" for symbol, share in benchmark.symbols.items())
    realistic, classic = (signed(each["total_return"]) for each in metrics)
    slippage = format_percent(classic_run.config.costs.slippage_bps / 10_000, 0)
    paid, paid_by_classic = (format_money(amount, currency) for amount in costs)
    return [
        f"Every closed bar of {' and '.join(symbols)} was analyzed once, traded under the profile {run.profile}, "
        "replayed from the stored analyses, and explained from the log.",
        f"The account returned {realistic}; buying and holding both in equal parts over the same bars returned "
        f"{signed(benchmark.equal_weight)} ({alone}).",
        "`rules` is an example of an analyst, not a profitable strategy: it shows how the system works.",
        f"The profile `classic` fills {slippage} worse on every side: the same analyses cost {paid_by_classic} in "
        f"slippage and fees instead of {paid}, and returned {classic}.",
        "Type `quantagent dashboard` to see it in a browser, `quantagent trades list` to read the trades, and "
        "`quantagent backtest --help` to run your own.",
    ]


def signed(share: float | None) -> str:
    """Format a return with its sign: `+475.02 %`."""
    text = format_percent(share)
    return f"+{text}" if share is not None and share > 0 else text
