"""A connection that breaks around a COMMIT: what was stored is not stored twice, and nothing is reported as failed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg
import pytest

from engine.audit.verify import verify_log
from engine.core.events import Environment, Event, RunFailed, TradingHalted
from engine.runtime import runs
from engine.store import Batch, Cause, Store
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from tests.support.cut_connections import Line, line
from tests.support.workloads import golden_config, scripted, walk

__all__ = ["line"]

AT = datetime(2024, 1, 1, tzinfo=UTC)
ME = Cause("test")


def saves() -> list[list[Batch]]:
    """Appends of every size: one event, a decision's few, several streams at once, more than one piece of a COPY."""

    def halts(count: int, size: int = 10) -> list[Event]:
        return [TradingHalted(AT, "entries", f"{n}" + "x" * size, "tester") for n in range(count)]

    return [
        [Batch("control:a", 0, halts(1))],
        [Batch("control:a", 1, halts(4))],
        [Batch("control:b", 0, halts(2)), Batch("run:r", 0, [RunFailed("r", "why")])],
        [Batch("control:c", 0, halts(600, 400))],
        [Batch("control:c", 600, halts(1_500, 2_000))],
        [Batch("control:a", 5, halts(1))],
    ]


def facts(store: Store) -> list[tuple[str, int, bytes]]:
    return [(row.stream, row.version, row.payload) for row in store.read_all(limit=10_000)]


@pytest.mark.parametrize("mode", ["before", "after"])
def test_every_save_survives_a_cut_around_its_commit(line: Line, mode: str) -> None:
    with PostgresStore(line.through_proxy) as store:
        expected = MemoryStore()
        for cuts, batches in enumerate(saves(), 1):
            line.proxy.cut(mode)
            store.append(batches, ME)
            assert line.proxy.cuts == cuts
            expected.append(batches, ME)
            assert facts(store) == facts(expected)
    with psycopg.connect(line.dsn) as conn:
        assert verify_log(conn).finding is None


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_run_whose_connection_breaks_at_every_save_is_the_run_it_would_have_been(line: Line, mode: str) -> None:
    bars = [walk("AAA", 5, 120, 100.0, 0.01)]
    config = golden_config(["AAA"], 100_000, 10, 4, 365)
    asked = runs.request(
        Environment.BACKTEST, config, profile="golden", dataset_digest="", variant="scripted",
        start=bars[0][0].opened_at, end=bars[0][-1].closed_at,
    )  # fmt: skip
    whole = MemoryStore()
    expected = runs.execute_run(whole, asked, bars, scripted(bars), actor="test").ended

    cut = 0

    class Cutting:
        """Every append of the run meets a cut."""

        def __init__(self, store: Store) -> None:
            self._store = store
            self.read, self.read_many = store.read, store.read_many
            self.read_all, self.read_newest, self.last_position = store.read_all, store.read_newest, store.last_position

        def append(self, batches: Sequence[Batch], cause: Cause) -> None:
            nonlocal cut
            cut += 1
            line.proxy.cut(mode)
            self._store.append(batches, cause)

    with PostgresStore(line.through_proxy) as store:
        found = runs.execute_run(Cutting(store), asked, bars, scripted(bars), actor="test").ended
        assert line.proxy.cuts == cut >= 3
        assert found == expected
        assert facts(store) == facts(whole)
