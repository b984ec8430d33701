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
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from analysis import rules
from analysis.variants import frame_from_bars
from engine.core.events import Environment, Event
from engine.runtime import runs
from engine.store.embedded.postgres import EmbeddedPostgres
from engine.store.memory import MemoryStore
from engine.store.migrations import migrate
from projections.runner import Runner
from tests.support import bench_agents, bench_data, bench_log
from tests.support.bench_log import Figure
from tests.support.paths import ROOT
from tests.support.workloads import golden_config, scripted, walk
from ui.app import open_app
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.data import import_sample
from ui.settings import Settings

PAGE = ROOT / "docs" / "benchmarks.md"
ROUNDS = 3
MARK = "<!-- table -->"


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
        return runs.execute_run(MemoryStore(), asked, bars, analyst, actor="bench").ended.bars

    return work


_THREE = (("AAA", 100.0), ("BBB", 250.0), ("CCC", 50.0))


def analyses() -> Callable[[], int]:
    frame = frame_from_bars(walk("AAA", 100, 2_500, 100.0, 0.005))
    ends = range(500, 2_500)
    return lambda: sum(1 for _ in rules.analyse_many(frame, ends))


def measure(dsn: str) -> Iterator[Figure]:
    additions = rate(decimal_additions)
    for what, work, unit in (
        ("session over bars, in memory", bars_in_memory(), "bars/s"),
        ("`rules` analyses of 500 bars", analyses(), "analyses/s"),
    ):
        found = rate(work)
        yield Figure(what, found, unit, f"one costs {additions / found:,.0f} decimal additions")
    facts = book_of_the_sample(dsn)
    yield from bench_log.measure(dsn, facts)
    # Another log by now than the one anchored first, which is nobody's trouble here.
    with open_app(Settings(None, dsn, "bench"), warn=lambda message: None) as app:
        run_backtest(app, BacktestRequest())
        found = statistics.median(
            bench_log.rate(bench_log.projecting(dsn, lambda: Runner(app.store, app.catalogue, app.dsn, "bench")))
            for _ in range(ROUNDS)
        )
        yield Figure(
            "projection of the sample's log", found, "events/s", "all tables, with curve, metrics, evaluated analyses"
        )
    yield from bench_data.measure(dsn)
    yield from bench_agents.measure(dsn)


def book_of_the_sample(dsn: str) -> list[Event]:
    """The book's events of a backtest over the bundled sample."""
    with open_app(Settings(None, dsn, "bench")) as app:
        import_sample(app)
        ended = run_backtest(app, BacktestRequest()).result
        return [row.event for row in app.store.read(runs.book_stream(ended.request.run_id))]


@contextmanager
def database() -> Generator[str]:
    """A fresh database with fsync on: QUANTAGENT_TEST_DSN's server, else an embedded one in a temporary folder."""
    name = f"bench_{uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="qb", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        os.environ["QUANTAGENT_HOME"] = folder  # for keys and anchors
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
