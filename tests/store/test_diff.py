"""Two runs beside each other: what was asked differently, and where what they decided parts."""

from __future__ import annotations

import msgspec

from engine.audit.compare import compare_runs
from engine.core.money import exact
from engine.runtime import replay, runs
from engine.store.memory import MemoryStore
from tests.support.regeneration import no_file, perform, question
from tests.support.stored_runs import CONFIG, Stored
from tests.support.strategies import config_of


def test_two_profiles_are_told_apart_by_the_fields_that_differ() -> None:
    store = MemoryStore()
    ours = perform(store, question(), Stored(store))
    limits = msgspec.structs.replace(CONFIG.limits, position_pct=exact(3), reversal=False)
    theirs = question(config=msgspec.structs.replace(CONFIG, limits=limits))
    perform(store, theirs, replay.load_stored_analyses(store, ours, no_file))
    found = compare_runs(store, ours, theirs)
    assert [tuple(change) for change in found.request_changes] == [
        ("config.limits.position_pct", "10", "3"), ("config.limits.reversal", "true", "false"),
    ]  # fmt: skip
    result = runs.result_of(store, ours.run_id)
    assert result is not None
    counts = found.ours.counts
    assert (counts["signals"], counts["orders"]) == (result.ended.signals, result.ended.orders)
    assert (counts["fills"], counts["book events"]) == (result.ended.fills, result.ended.book_events)
    assert found.ours.book_digest == result.ended.book_digest
    assert found.difference is not None
    assert not found.equal
    # That each book names its own configuration is no difference in what was decided.
    assert found.difference.ours is not None
    assert found.difference.ours.name == "RiskDecided.v1"
    books = [list(store.read(runs.book_stream(run.run_id))) for run in (ours, theirs)]
    before = found.difference.version - 1
    assert [row.payload for row in books[0][1:before]] == [row.payload for row in books[1][1:before]]


def test_another_profile_that_decides_the_same_is_told_so() -> None:
    store = MemoryStore()
    ours = perform(store, question(), Stored(store))
    # How returns are annualised is asked of a run, and nothing is decided by it.
    theirs = question(config=msgspec.structs.replace(CONFIG, periods_per_year=252))
    perform(store, theirs, replay.load_stored_analyses(store, ours, no_file))
    found = compare_runs(store, ours, theirs)
    assert (found.equal, found.difference) == (False, None)
    assert [change.field for change in found.request_changes] == ["config.periods_per_year"]


def test_the_same_question_asked_again_has_an_equal_book() -> None:
    store = MemoryStore()
    ours = perform(store, question(), Stored(store))
    theirs = perform(store, question(label="again"), replay.load_stored_analyses(store, ours, no_file))
    found = compare_runs(store, ours, theirs)
    assert found.difference is None
    assert [tuple(change) for change in found.request_changes] == [("label", "", "again")]


def test_a_symbol_more_is_told_field_by_field() -> None:
    store = MemoryStore()
    one = question(config=config_of(("AAA",), quantity="1"))
    two = question(config=config_of(("AAA", "BBB"), quantity="1"))
    fields = [change.field for change in compare_runs(store, one, two).request_changes]
    assert fields[0] == "config.instruments.BBB.symbol"
    assert all(field.startswith("config.instruments.BBB.") for field in fields)
