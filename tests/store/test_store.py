"""One contract, both stores."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import pytest

from engine.core.errors import VersionConflict
from engine.core.events import RunFailed, TradingHalted
from engine.store import Batch, Cause, Store, read_from
from engine.store.postgres import PostgresStore

AT = datetime(2024, 1, 1, tzinfo=UTC)
ME = Cause("test", correlation="run-1", causation="order-1")


def halted(reason: str) -> TradingHalted:
    return TradingHalted(AT, "entries", reason, "tester")


def test_what_was_appended_is_read_back_in_order_with_its_cause(store: Store) -> None:
    store.append([Batch("control:a", 0, [halted("one"), halted("two")])], ME)
    store.append([Batch("control:a", 2, [halted("three")])], ME)
    rows = list(store.read("control:a"))
    assert [row.version for row in rows] == [1, 2, 3]
    assert [row.event for row in rows] == [halted("one"), halted("two"), halted("three")]
    assert {(row.stream, row.name) for row in rows} == {("control:a", "TradingHalted.v1")}
    assert (rows[0].meta.actor, rows[0].meta.correlation, rows[0].meta.causation) == ("test", "run-1", "order-1")
    assert [row.version for row in store.read("control:a", after=2)] == [3]


def test_positions_rise_strictly_over_all_streams(store: Store) -> None:
    store.append([Batch("control:a", 0, [halted("one")]), Batch("run:r", 0, [RunFailed("r", "why")])], ME)
    store.append([Batch("control:a", 1, [halted("two")])], ME)
    positions = [row.position for row in store.read_all()]
    assert positions == sorted(set(positions))
    assert store.last_position() == positions[-1]
    assert [row.stream for row in store.read_all(after=positions[0])] == ["run:r", "control:a"]
    assert [row.name for row in store.read_all(names=["RunFailed.v1"])] == ["RunFailed.v1"]
    assert len(store.read_all(limit=2)) == 2


def test_appending_the_same_facts_again_changes_nothing(store: Store) -> None:
    batch = Batch("control:a", 0, [halted("one"), halted("two")])
    store.append([batch], ME)
    store.append([batch], Cause("somebody else"))
    assert len(list(store.read("control:a"))) == 2
    assert len(store.read_all()) == 2


def test_appending_other_facts_at_the_same_version_is_refused_whole(store: Store) -> None:
    store.append([Batch("control:a", 0, [halted("one")])], ME)
    with pytest.raises(VersionConflict, match="control:a is at version 1, not 0"):
        store.append([Batch("run:r", 0, [RunFailed("r", "why")]), Batch("control:a", 0, [halted("two")])], ME)
    assert [row.stream for row in store.read_all()] == ["control:a"]


def test_a_repeated_append_with_new_streams_stores_only_the_new_ones(store: Store) -> None:
    store.append([Batch("control:a", 0, [halted("one")])], ME)
    store.append([Batch("control:a", 0, [halted("one")]), Batch("control:b", 0, [halted("two")])], ME)
    assert [(row.stream, row.event) for row in store.read_all()] == [
        ("control:a", halted("one")),
        ("control:b", halted("two")),
    ]


def test_several_streams_are_read_at_once_and_absent_ones_are_absent(store: Store) -> None:
    store.append([Batch(f"control:{n}", 0, [halted(n)]) for n in "abc"], ME)
    found = store.read_many(["control:a", "control:c", "control:z"])
    assert {stream: [row.event for row in rows] for stream, rows in found.items()} == {
        "control:a": [halted("a")],
        "control:c": [halted("c")],
    }


def test_three_thousand_facts_are_appended_and_paged(store: Store) -> None:
    events = [halted(f"{n}" + "x" * 2_000) for n in range(3_000)]
    store.append([Batch("control:a", 0, events)], ME)
    assert [row.event for row in read_from(store)] == events


def test_an_append_that_was_cut_short_is_completed_by_repeating_it(store: Store) -> None:
    events = [halted(str(n)) for n in range(5)]
    store.append([Batch("control:a", 0, events[:2])], ME)
    store.append([Batch("control:a", 0, events)], ME)
    assert [row.event for row in store.read("control:a")] == events


def test_the_librarys_database_functions_stay_off(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # With them on, ids commit out of order and a reader that follows the log misses events for ever.
    monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", "y")
    with PostgresStore(dsn) as store:
        store.append([Batch("control:a", 0, [halted("one")])], ME)
    with psycopg.connect(dsn) as conn:
        found = conn.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'es_insert%'").fetchone()
    assert found == (0,)


def test_amounts_come_back_exactly(store: Store) -> None:
    from engine.core.events import OrderRejected

    rejected = OrderRejected("o", "A", AT, "why", Decimal("123456789.123456789012"), Decimal("-0.000000000001"))
    store.append([Batch("book:r", 0, [rejected])], ME)
    assert next(store.read("book:r")).event == rejected


def test_the_newest_come_first_of_some_names_below_a_position_and_with_some_bytes(store: Store) -> None:
    store.append([Batch("control:a", 0, [halted(f"no {n}") for n in range(6)])], ME)
    store.append([Batch("run:r", 0, [RunFailed("r", "why")])], ME)
    store.append([Batch("control:a", 6, [halted("no 6")])], ME)
    rows = store.read_all()[::-1]
    assert store.read_newest(100) == rows
    assert store.read_newest(3) == rows[:3]
    assert store.read_newest(3, before=rows[1].position) == rows[2:5]
    halts = ["TradingHalted.v1"]
    assert store.read_newest(2, halts) == [rows[0], rows[2]]
    assert store.read_newest(100, [*halts, "RunFailed.v1"]) == rows
    assert store.read_newest(100, [*halts, "RunFailed.v1"], None, {halts[0]: b"no 3"}) == [rows[1], rows[4]]
    assert store.read_newest(1, halts, rows[2].position, {halts[0]: b'"reason":"no'}) == [rows[3]]
    assert store.read_newest(5, ["RunEnded.v1"]) == []
