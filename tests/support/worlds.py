"""A small world for the tests of read models: two symbols' bars, imported signals, runs over them, and their rows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier

from engine.core.config import RunConfig
from engine.core.events import AnalysisMade, BookEvent, Environment, RunRequested
from engine.core.ids import analysis_stream
from engine.core.market import Direction, Timeframe
from engine.core.money import exact
from engine.data.memory import MemoryCatalogue
from engine.data.signals import ImportedAnalyst, ImportedSignal, SignalFile, digest_of_rows, save_signals
from engine.runtime import runs
from engine.store import Batch, Cause, Store
from engine.store.postgres import PostgresStore
from engine.trading.book import Book, fold
from projections.runner import Runner
from projections.schemas import CURRENT_SCHEMA
from projections.tables import TABLES
from tests.support.stored_runs import PulledPlug
from tests.support.strategies import config_of
from tests.support.workloads import walk

SYMBOLS = ("AAA", "BBB")
BARS = [walk("AAA", 31, 150, 100.0, 0.03), walk("BBB", 5, 150, 50.0, 0.02)]
LATER = datetime(2030, 1, 1, tzinfo=UTC)
# Turns, adds, leaves and stays silent, out of step for the two symbols.
PATTERN = [
    Direction.LONG,
    Direction.HOLD,
    Direction.SHORT,
    Direction.LONG,
    Direction.LONG,
    Direction.FLAT,
    Direction.SHORT,
]
BOLD = config_of(
    SYMBOLS, slippage_bps="5", commission_bps="10", base_pct="49.8", daily_loss_pct="4", holding_bars=5, pyramid=True
)
CAREFUL = msgspec.structs.replace(BOLD, limits=config_of(position_pct="10", reversal=False).limits)


def signal_file() -> SignalFile:
    rows = tuple(
        sorted(
            ImportedSignal(bar.symbol, bar.closed_at, PATTERN[(n + 3 * k) % 7], exact("0.9") if n % 2 else Decimal(1))
            for k, bars in enumerate(BARS)
            for n, bar in enumerate(bars)
            if n % 11
        )
    )
    return SignalFile("pattern", digest_of_rows(rows), rows)


FILE = signal_file()


def run_request(config: RunConfig, label: str = "", environment: Environment = Environment.BACKTEST) -> RunRequested:
    return runs.request(
        environment, config, profile="test", dataset_digest="digest", variant=FILE.variant, label=label,
        start=BARS[0][0].opened_at, end=BARS[0][-1].closed_at,
    )  # fmt: skip


class World(NamedTuple):
    """A database with bars and signals, and what is needed to run and project on it."""

    dsn: str
    store: Store
    catalogue: MemoryCatalogue

    def run(self, requested: RunRequested, until: int | None = None) -> str:
        """Performs a run, or only its first bars."""

        def progress(bars: int) -> None:
            if until is not None and bars >= until:
                raise PulledPlug

        try:
            runs.execute_run(self.store, requested, BARS, ImportedAnalyst(FILE), actor="test", on_progress=progress)
        except PulledPlug:
            assert until is not None
        return requested.run_id

    def runner(self, schema: str = CURRENT_SCHEMA) -> Runner:
        return Runner(self.store, self.catalogue, self.dsn, schema)

    def rows(self, schema: str = "read_models") -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        with psycopg.connect(self.dsn) as conn:
            return {
                table.name: sorted(conn.execute(SQL("TABLE {}").format(Identifier(schema, table.name))), key=repr)
                for table in TABLES
            }

    def book(self, run_id: str) -> tuple[Book, list[BookEvent]]:
        rows = self.store.read(runs.book_stream(run_id))
        events = [row.event for row in rows if isinstance(row.event, BookEvent)]
        return fold(events), events

    def analyse(self, count: int, first: int = 0) -> list[str]:
        """Stores analyses that no run consults; their ids."""
        ids = [f"AAA.1h@{first + n}.test.0" for n in range(count)]
        for n, analysis_id in enumerate(ids, first):
            analysis = AnalysisMade(
                analysis_id, "AAA", "1h", BARS[0][0].closed_at + timedelta(hours=n), "test", Direction.LONG,
                Decimal("0.5"), None, None, "{}", "digest", 1, "1",
            )  # fmt: skip
            self.store.append([Batch(analysis_stream(analysis_id), 0, [analysis])], Cause("test"))
        return ids

    def change(self, statement: str, *values: object) -> None:
        """What only somebody with all rights can do to the log."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("SET session_replication_role = replica")
            conn.execute(statement.encode(), values)


@contextmanager
def world_in(dsn: str, bars: Sequence[Any] = BARS) -> Generator[World]:
    """A world in a fresh database."""
    catalogue = MemoryCatalogue()
    for series in bars:
        catalogue.add(series[0].symbol, Timeframe.H1, series, source="test", learned_at=LATER)
    with PostgresStore(dsn) as store:
        save_signals(store, dsn, FILE, "test")
        yield World(dsn, store, catalogue)
