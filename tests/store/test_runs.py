"""A run is named by its question, is answered once, and can be answered again from the log."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import AnalysisMissing, BadInput, NotFound, VersionConflict
from engine.core.events import (
    Environment,
    OrderFilled,
    OrderPlaced,
    RunRequested,
    SignalRaised,
)
from engine.core.money import exact
from engine.core.upcasters import NAMES
from engine.data.signals import ImportedAnalyst, SignalFile, read_signals
from engine.runtime import replay, runs
from engine.runtime.session import Analyst
from engine.store import Store
from engine.store.memory import MemoryStore
from tests.support.payloads import payloads
from tests.support.stored_runs import BARS, CONFIG, PulledPlug, Stored
from tests.support.workloads import ScriptedAnalyst, scripted, walk, write_signals


def question(variant: str = "scripted", label: str = "", dataset: str = "digest", of_run: str = "") -> RunRequested:
    return runs.request(
        Environment.REPLAY if of_run else Environment.BACKTEST,
        CONFIG,
        profile="test",
        dataset_digest=dataset,
        variant=variant,
        start=BARS[0][0].opened_at,
        end=BARS[0][-1].closed_at,
        label=label,
        of_run=of_run,
    )


def performed(store: Store, requested: RunRequested | None = None, analyst: Analyst | None = None) -> runs.RunResult:
    return runs.execute_run(store, requested or question(), BARS, analyst or scripted(BARS), actor="test")


# --- The question -------------------------------------------------------------------------------------------------


def test_the_same_question_is_the_same_run_and_any_other_is_another() -> None:
    asked = question()
    assert question() == asked
    others = [question(variant="rules"), question(label="again"), question(dataset="other"), question(of_run="run")]
    assert len({asked.run_id, *(other.run_id for other in others)}) == 5
    dearer = msgspec.structs.replace(CONFIG, cash=exact("1"))
    ids = {runs.request(Environment.BACKTEST, config, profile=profile, dataset_digest="digest", variant="scripted",
                        start=asked.start, end=asked.end).run_id
           for config in (CONFIG, dearer) for profile in ("test", "a name is no part of the question")}  # fmt: skip
    assert len(ids) == 2
    assert asked.run_id in ids


def test_asking_again_appends_nothing_and_answers_the_same() -> None:
    store = MemoryStore()
    first = performed(store)
    before = payloads(store)
    assert performed(store) == first
    assert payloads(store) == before
    assert first.ended.fills > 10


def test_the_first_profile_name_stays_when_the_question_is_asked_under_another(store: Store) -> None:
    first = performed(store)
    renamed = msgspec.structs.replace(first.request, profile="a twin of it")
    assert performed(store, renamed).request.profile == "test"


def test_a_run_says_how_much_it_did() -> None:
    store = MemoryStore()
    request, ended = performed(store)
    book = [row.name for row in store.read(runs.book_stream(request.run_id))]
    assert ended.bars == 240
    assert (ended.signals, ended.orders, ended.fills) == tuple(
        book.count(NAMES[kind]) for kind in (SignalRaised, OrderPlaced, OrderFilled)
    )
    assert ended.book_events == len(book)
    assert ended.ended_at == BARS[0][-1].closed_at
    assert [row.name for row in store.read(runs.run_stream(request.run_id))] == [
        "RunRequested.v4", "RunStarted.v2", "RunEnded.v2",
    ]  # fmt: skip
    assert runs.result_of(store, request.run_id) == (request, ended)
    assert {row.meta.correlation for row in store.read_all()} == {request.run_id}


@given(st.integers(1, 239), st.integers(1, 239))
@settings(max_examples=15)
def test_a_run_that_was_interrupted_twice_ends_as_if_nothing_had_been(first: int, second: int) -> None:
    whole, store = MemoryStore(), MemoryStore()
    expected = performed(whole)

    def interrupted_after(bars: int) -> None:
        def progress(done: int) -> None:
            if done >= bars:
                raise PulledPlug

        with pytest.raises(PulledPlug):
            runs.execute_run(store, question(), BARS, scripted(BARS), actor="test", on_progress=progress)

    for bars in (first, second):
        interrupted_after(bars)
        assert runs.result_of(store, question().run_id) is None
    assert performed(store) == expected
    assert sorted(payloads(store)) == sorted(payloads(whole))


def test_another_first_bar_under_the_same_name_is_refused() -> None:
    store = MemoryStore()
    performed(store)
    with pytest.raises(VersionConflict, match="another process appended other events"):
        runs.start_run(store, question(), BARS[0][0].opened_at + timedelta(hours=1), "test")


# --- Finding ------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_the_beginning_of_its_id() -> None:
    store = MemoryStore()
    asked = [performed(store, question(label=str(n))).request for n in range(20)]
    assert runs.find_run_by_prefix(store, asked[3].run_id) == asked[3]
    for length in range(1, 36):
        prefix = asked[3].run_id[:length]
        fitting = [request for request in asked if request.run_id.startswith(prefix)]
        if len(fitting) == 1:
            assert runs.find_run_by_prefix(store, prefix) == asked[3]
        else:
            with pytest.raises(NotFound, match=f"run '{prefix}' matches {len(fitting)} runs .*: give more of its id"):
                runs.find_run_by_prefix(store, prefix)
    assert runs.latest_run(store) == asked[-1]


def test_a_run_that_is_not_there_is_refused_in_words() -> None:
    store = MemoryStore()
    with pytest.raises(NotFound, match="there is no run yet"):
        runs.latest_run(store)
    performed(store)
    for prefix in ("", "zz", "latest"):
        with pytest.raises(NotFound, match=f"there is no run '{prefix}'") as unknown:
            runs.find_run_by_prefix(store, prefix)
        assert (unknown.value.code, unknown.value.fields) == ("RUN_UNKNOWN", {"count": 1})
    assert runs.result_of(store, "zz") is None


# --- Replay -------------------------------------------------------------------------------------------------------


def no_file(variant: str) -> SignalFile:
    raise AssertionError(f"{variant} is no imported file")


def test_a_replay_reads_the_same_opinions_into_the_same_bytes_and_makes_none(store: Store) -> None:
    source = performed(store, question("rules"), Stored(store))
    analyses = store.read_all(limit=100_000, names=["AnalysisMade.v3"])
    heard: list[int] = []
    analyst = replay.load_stored_analyses(store, source.request, no_file, heard.append)
    again = performed(store, question("rules", of_run=source.request.run_id), analyst)
    assert again.request.run_id != source.request.run_id
    assert (again.ended.book_digest, again.ended.analyses_digest) == (
        source.ended.book_digest,
        source.ended.analyses_digest,
    )
    assert store.read_all(limit=100_000, names=["AnalysisMade.v3"]) == analyses
    assert heard == list(range(1, 241))
    assert list(replay.consulted_analyses(store, again.request.run_id)) == list(
        replay.consulted_analyses(store, source.request.run_id)
    )


def test_a_replay_of_an_opinion_that_is_not_stored_names_it() -> None:
    store = MemoryStore()
    source = performed(store, question("rules"))
    missing, _ = next(replay.consulted_analyses(store, source.request.run_id))
    with pytest.raises(AnalysisMissing, match="a replay creates none") as refused:
        replay.load_stored_analyses(store, source.request, no_file)
    assert refused.value.key == missing


def test_a_replay_beyond_the_bars_of_its_source_names_the_bar() -> None:
    store = MemoryStore()
    source = performed(store, question("rules"), Stored(store))
    analyst = replay.load_stored_analyses(store, source.request, no_file)
    later = walk("AAA", 31, 121, 100.0, 0.01)[-1]
    with pytest.raises(AnalysisMissing) as refused:
        analyst.intent(later)
    assert refused.value.key == "AAA.1h@20240106T010000Z.rules"


def test_imported_signals_are_replayed_from_their_file_and_may_pass_over_bars(tmp_path: Path) -> None:
    store = MemoryStore()
    file = read_signals(write_signals(tmp_path / "crossing.csv", BARS))
    source = performed(store, question(file.variant), ImportedAnalyst(file))
    analyst = replay.load_stored_analyses(store, source.request, {file.variant: file}.__getitem__)
    again = performed(store, question(file.variant, of_run=source.request.run_id), analyst)
    assert again.ended.book_digest == source.ended.book_digest
    assert analyst.intent(BARS[0][0]) is None


def test_bars_that_are_not_what_they_were_are_refused() -> None:
    store = MemoryStore()
    source = performed(store, question(), scripted(BARS)).request
    replay.check_replayable(store, source, "digest")
    with pytest.raises(BadInput, match=r"have changed since it ran \(dataset digest, now other\)"):
        replay.check_replayable(store, source, "other")


def test_a_run_that_has_not_ended_is_not_replayed() -> None:
    store, begun = MemoryStore(), question()
    runs.start_run(store, begun, BARS[0][0].opened_at, "tester")
    with pytest.raises(BadInput, match="has not ended"):
        replay.check_replayable(store, begun, "digest")


def test_two_books_are_compared_event_by_event() -> None:
    store = MemoryStore()
    source = performed(store, question(), scripted(BARS)).request
    again = performed(store, question(of_run=source.run_id), scripted(BARS)).request
    assert replay.describe_divergence(store, source, again) is None
    idle = performed(store, question(of_run="another"), ScriptedAnalyst({})).request
    difference = replay.describe_divergence(store, source, idle)
    assert difference is not None
    assert "books diverge at version" in difference
