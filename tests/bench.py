"""`make bench`: how fast the parts are, on this machine, now. Writes the table of docs/benchmarks.md.

Machines are noisy and differ, so every figure stands beside a yardstick taken in the same run: a plain loop of decimal
additions, or the library's own recorder. Compare ratios, not figures.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from analysis import rules
from analysis.analyst import frame_of
from engine import runs
from engine.events import Environment, TradingHalted
from engine.store import ENGINE_VERSION, Batch, Cause, Meta
from engine.store.codec import name_of, payload_of, state_of
from engine.store.embedded import EmbeddedPostgres
from engine.store.memory import MemoryStore
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore, datastore
from projections.runner import Runner
from tests.workloads import golden_config, scripted, walk
from ui.compose import Question, backtest, load_sample, open_app
from ui.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
ROUNDS = 3
MARK = "<!-- table -->"


class Figure(NamedTuple):
    """A rate, and how it stands to a yardstick of the same run."""

    what: str
    rate: float
    unit: str
    ratio: str


def rate(work: Callable[[], int]) -> float:
    """Units of work per second: the median of some rounds, after one that is not counted."""
    work()
    rates: list[float] = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - began))
    return statistics.median(rates)


def decimal_additions() -> int:
    amount, step = Decimal(0), Decimal("0.01")
    for _ in range(200_000):
        amount += step
    return 200_000


def bars_in_memory() -> Callable[[], int]:
    """The golden three-symbol workload through the session, every decision an event, in a memory store."""
    bars = [walk(name, 100 + n, 8_760, price, 0.005) for n, (name, price) in enumerate(_THREE)]
    config = golden_config([name for name, _ in _THREE], 1_000_000, 100, 4, 365)
    analyst = scripted(bars)

    def work() -> int:
        asked = runs.request(
            Environment.BACKTEST,
            config,
            profile="golden",
            dataset_digest="",
            variant="scripted",
            start=bars[0][0].opened_at,
            end=bars[0][-1].closed_at,
        )
        return runs.perform(MemoryStore(), asked, bars, analyst, actor="bench").ended.bars

    return work


_THREE = (("AAA", 100.0), ("BBB", 250.0), ("CCC", 50.0))


def analyses() -> Callable[[], int]:
    frame = frame_of(walk("AAA", 100, 2_500, 100.0, 0.005))
    ends = range(500, 2_500)
    return lambda: sum(1 for _ in rules.analyse_many(frame, ends))


def events_appended(store: PostgresStore) -> Callable[[], int]:
    events = [TradingHalted(datetime(2024, 1, 1, tzinfo=UTC), "bench", "x" * 250, "bench") for _ in range(10_000)]

    def work() -> int:
        store.append([Batch(f"bench:{uuid4()}", 0, events)], Cause("bench"))
        return len(events)

    return work


def events_appended_by_the_library(dsn: str) -> Callable[[], int]:
    """The library's own recorder with the same bytes, 500 events a call: with 3,000 its call never returns."""
    recorder = PostgresApplicationRecorder(datastore(dsn), events_table_name="stock_events")
    recorder.create_table()
    event = TradingHalted(datetime(2024, 1, 1, tzinfo=UTC), "bench", "x" * 250, "bench")
    state = state_of(payload_of(event), _meta())

    def work() -> int:
        stream = uuid4()
        for first in range(0, 5_000, 500):
            recorder.insert_events([StoredEvent(stream, first + n, name_of(event), state) for n in range(500)])
        return 5_000

    return work


def _meta() -> Meta:
    return Meta("bench:stock", datetime(2024, 1, 1, tzinfo=UTC), "bench", "", "", ENGINE_VERSION)


def measure(dsn: str) -> Iterator[Figure]:
    additions = rate(decimal_additions)
    for what, work, unit in (
        ("session over bars, in memory", bars_in_memory(), "bars/s"),
        ("`rules` analyses of 500 bars", analyses(), "analyses/s"),
    ):
        found = rate(work)
        yield Figure(what, found, unit, f"one costs {additions / found:,.0f} decimal additions")
    with PostgresStore(dsn) as store:
        ours = rate(events_appended(store))
    stock = rate(events_appended_by_the_library(dsn))
    yield Figure(
        "append, 10,000 events of 0.5 kB, fsync on", ours, "events/s", f"{ours / stock:.1f} x the stock recorder"
    )
    with open_app(Settings(None, dsn, "bench")) as app:
        load_sample(app)
        backtest(app, Question())

        def rebuild() -> int:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("DROP SCHEMA IF EXISTS bench CASCADE")
            return Runner(app.store, app.catalogue, dsn, "bench").catch_up()

        found = rate(rebuild)
        yield Figure(
            "projection of the whole log", found, "events/s", f"one costs {additions / found:,.0f} decimal additions"
        )


@contextmanager
def database() -> Generator[str]:
    """A fresh database with fsync on: QUANTAGENT_TEST_DSN's server, else an embedded one in a temporary folder."""
    name = f"bench_{uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="qb", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        postgres = EmbeddedPostgres(Path(folder), linger_s=0.2)
        server = os.environ.get("QUANTAGENT_TEST_DSN") or postgres.start()
        try:
            with psycopg.connect(server, autocommit=True) as conn:
                conn.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
            dsn = make_conninfo(server, dbname=name)
            migrate(dsn)
            yield dsn
            with psycopg.connect(server, autocommit=True) as conn:
                conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))
        finally:
            if "QUANTAGENT_TEST_DSN" not in os.environ:
                postgres.stop(force=True)


def table(figures: list[Figure]) -> str:
    lines = ["| what | figure | ratio |", "| --- | ---: | --- |"]
    lines += [f"| {f.what} | {f.rate:,.0f} {f.unit} | {f.ratio} |" for f in figures]
    lines.append("")
    lines.append(
        f"Median of {ROUNDS} rounds, Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}."
    )
    return "\n".join(lines)


def main() -> None:
    with database() as dsn:
        figures: list[Figure] = []
        for figure in measure(dsn):
            print(f"{figure.what}: {figure.rate:,.0f} {figure.unit} ({figure.ratio})", flush=True)
            figures.append(figure)
    before, _, rest = PAGE.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n{table(figures)}\n{MARK}{after}")
    print(f"The table in {PAGE.name} is new.")


if __name__ == "__main__":
    main()
