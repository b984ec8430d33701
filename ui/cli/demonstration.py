"""What `quantagent demo` does, step by step. Every step may be repeated: what is stored is found, not made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.cli.books import show_chain
from ui.cli.output import err, out, print_facts, print_rows, progress
from ui.cli.trading import comparison, facts_of, show_digests

if TYPE_CHECKING:
    from ui.compose import App


def run_demo(app: App, *, quiet: bool = False) -> dict[str, Any]:
    """Runs all steps; prints what they show unless `quiet`; returns the figures."""
    from engine.audit.why import why
    from projections.rebuild import rebuild
    from ui.compose import Question, backtest, load_sample, replay

    with progress() as tell:

        def say(text: str) -> None:
            if not quiet:
                err.print(text)

        say("1  Real bars: BTC-USD and EUR-USD, hourly, July to December 2017")
        new_bars = load_sample(app)
        say(f"   {new_bars:,} bars imported now, the rest was there")
        say("2  One analysis per bar and symbol, then the backtest under `realistic`")
        answer = backtest(app, Question(symbols=("BTC-USD", "EUR-USD"), profile="realistic", variant="rules"), tell)
        say("3  Replay from the stored analyses, and once more under `classic`")
        again = replay(app, answer.result.request.run_id, None, tell)
        classic = replay(app, answer.result.request.run_id, "classic", tell)
        say("4  Read models made anew")
        rebuilt = rebuild(app.store, app.catalogue, app.dsn, lambda done, total: tell("read models anew", done, total))
    with app.queries() as queries:
        rows = [queries.run(each.result.request.run_id) for each in (answer, classic)]
        table = comparison(rows, [queries.metrics(row["run_id"]) or {} for row in rows])
        trades = queries.trades(answer.result.request.run_id)
    digest = answer.result.ended.book_digest
    chosen = max(
        (t for t in trades if t["status"] == "closed"), key=lambda t: (t["net_pnl"], t["trade_id"]), default=None
    )
    chain = why(app.store, answer.result.request, chosen["trade_id"]) if chosen else []
    if not quiet:
        facts = facts_of(answer)
        print_facts("\nBacktest", {**facts, "symbols": ", ".join(facts["symbols"])})
        out.print()
        show_digests(digest, again)
        out.print(f"{classic.analyses_made} analyses made for the replays, {classic.analyses_found:,} read\n")
        print_rows("Same analyses, two profiles", table, list(table[0]))
        differing = sum(rebuilt.differing.values())
        total = sum(rebuilt.rows.values())
        out.print(f"\nRead models rebuilt from {rebuilt.events:,} events: {total:,} rows, {differing} differ\n")
        if chosen:
            out.print(
                f"The best trade, {chosen['trade_id']}, made {chosen['net_pnl']:,.2f}. Why it was made and ended:"
            )
            show_chain(chain)
    return {
        "bars_new": new_bars,
        "run_id": answer.result.request.run_id,
        "analyses_made": answer.analyses_made,
        "book_digest": digest,
        "replay_digest": again.result.ended.book_digest,
        "replay_equal": digest == again.result.ended.book_digest,
        "classic_digest": classic.result.ended.book_digest,
        "replay_analyses_made": again.analyses_made + classic.analyses_made,
        "read_models_same": rebuilt.same,
        "read_model_rows": rebuilt.rows,
        "trade": chosen["trade_id"] if chosen else None,
    }
