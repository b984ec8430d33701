"""Start here: one bar from the feed to the screen, in five steps, through the real parts."""

from pathlib import Path

from engine.clock import now
from engine.core.config import digest_of
from engine.core.events import Environment, OrderFilled, OrderPlaced, RiskDecided, SignalRaised, Verdict
from engine.core.market import Timeframe
from engine.data.catalogue import PostgresCatalogue
from engine.data.signals import ImportedAnalyst, read_signals, save_signals
from engine.data.timeline import time_slices
from engine.runtime import runs
from engine.runtime.session import Journal, Session
from engine.store import Cause
from engine.store.codec import stored_name
from engine.store.postgres import PostgresStore
from projections.queries import Queries
from projections.runner import Runner
from tests.support.workloads import golden_config, walk, write_signals

ME = Cause("a reader")


def test_one_bar_becomes_a_fill_on_the_screen(dsn: str, tmp_path: Path) -> None:
    # 1. A bar enters the catalogue. It is labelled by its open and its close, and known at its close.
    bars = walk("AAA", seed=100, count=60, start=100.0, sigma=0.005)
    PostgresCatalogue(dsn).add("AAA", Timeframe.H1, bars, source="test", learned_at=now())
    # 2. An analyst looks at bars that have closed, and decides: LONG, SHORT, FLAT or HOLD.
    analyst = ImportedAnalyst(file := read_signals(write_signals(tmp_path / "crossing.csv", [bars])))
    # 3. The session takes the market's instants in order; rules decide; events go to the log.
    config = golden_config(["AAA"], cash=100_000, quantity=10, decimals=4, periods=365)
    with PostgresStore(dsn) as store:
        save_signals(store, dsn, file, ME.actor)
        requested = runs.request(
            Environment.BACKTEST, config, profile="golden", dataset_digest="", variant=file.variant,
            start=bars[0].opened_at, end=bars[-1].closed_at,
        )  # fmt: skip
        requested = runs.start_run(store, requested, bars[0].opened_at, ME.actor)
        journal = Journal(store, runs.book_stream(requested.run_id), ME)
        session = Session(config, digest_of(config), analyst, journal)
        decided = [event for time_slice in time_slices([bars]) for event in session.advance(time_slice)]
        runs.end_run(store, requested, session, journal, bars[-1].closed_at, ME.actor)
        # The first intent led to these events, in this order; the log holds them under their stored names.
        first = [
            event for event in decided if isinstance(event, SignalRaised | RiskDecided | OrderPlaced | OrderFilled)
        ]
        assert [stored_name(event) for event in first[:4]] == [
            "SignalRaised.v2", "RiskDecided.v1", "OrderPlaced.v3", "OrderFilled.v2"
        ]  # fmt: skip
        ruling, fill = first[1], first[3]
        assert isinstance(ruling, RiskDecided)
        assert isinstance(fill, OrderFilled)
        assert (ruling.verdict, ruling.quantity) == (Verdict.APPROVED, 10)
        # 4. Read models are projected from the log.
        Runner(store, PostgresCatalogue(dsn), dsn).catch_up()
    # 5. The screen shows the row: decided at a bar's close, filled at the next bar's open.
    with Queries(dsn) as queries:
        shown = queries.fills(requested.run_id)[0]
    following = next(bar for bar in bars if bar.opened_at == fill.decided_at)
    assert (shown["at"], shown["price"]) == (following.opened_at, following.open)
