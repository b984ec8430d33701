"""A run is made again from its stored opinions and bars to the same digests; what was changed since is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import regenerate as audit
from engine.audit.compare import event_changes
from engine.audit.regenerate import RegenerationResult, regenerate_run, run_bars, stored_analyst
from engine.core.errors import AnalysisMissing
from engine.core.events import AnalysisMade, Environment, OrderFilled, RunEnded, RunRequested
from engine.core.market import Bar, Timeframe
from engine.core.money import exact
from engine.data.memory import MemoryCatalogue
from engine.data.signals import ImportedAnalyst, read_signals
from engine.runtime import replay, runs
from engine.store import ENGINE_VERSION
from engine.store.memory import MemoryStore
from tests.support.regeneration import DATASET, no_file, perform, question
from tests.support.stored_runs import BARS, CONFIG, Stored
from tests.support.strategies import config_of
from tests.support.workloads import write_signals
from tests.support.worlds import LATER


class Editable(MemoryStore):
    """A log whose rows somebody can change."""

    def edit(self, position: int, old: bytes, new: bytes) -> None:
        version, name, state = self._rows[position - 1]
        assert old in state
        self._rows[position - 1] = version, name, state.replace(old, new, 1)

    def drop_last_of(self, stream: str) -> None:
        """A tail that was cut off."""
        self._streams[stream].pop()


def again(store: MemoryStore, asked: RunRequested, bars: list[list[Bar]] | None = None) -> RegenerationResult:
    return regenerate_run(store, bars or BARS, stored_analyst(store, asked, no_file), asked)


@pytest.fixture
def ended() -> tuple[Editable, RunRequested]:
    store = Editable()
    return store, perform(store, question(), Stored(store))


Ended = tuple[Editable, RunRequested]


# --- The same again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [Environment.BACKTEST, Environment.PAPER])
def test_a_run_is_made_again_to_the_same_digests_and_nothing_is_written(environment: Environment) -> None:
    store = MemoryStore()
    asked = perform(store, question(environment), Stored(store))
    result, head = runs.result_of(store, asked.run_id), store.last_position()
    assert result is not None
    found = again(store, asked)
    assert found.equal
    assert (found.book.stored, found.book.regenerated, found.book_at_end) == (result.ended.book_digest,) * 3
    assert found.analyses == (result.ended.analyses_digest,) * 2
    assert found.dataset.stored == ("" if environment is Environment.PAPER else DATASET)
    assert (found.ended, found.bars, found.events) == (True, 240, result.ended.book_events)
    assert (found.engine_recorded, found.same_engine) == (ENGINE_VERSION, True)
    assert store.last_position() == head


def test_a_replay_is_made_again_under_its_own_profile() -> None:
    store = MemoryStore()
    source = perform(store, question(), Stored(store))
    dearer = msgspec.structs.replace(CONFIG, costs=config_of(commission_bps="50").costs)
    asked = question(Environment.REPLAY, config=dearer, of_run=source.run_id)
    perform(store, asked, replay.load_stored_analyses(store, source, no_file))
    found = again(store, asked)
    assert found.equal
    assert found.book.stored != again(store, source).book.stored


def test_imported_signals_are_made_again_from_their_file(tmp_path: Path) -> None:
    store, file = MemoryStore(), read_signals(write_signals(tmp_path / "crossing.csv", BARS))
    for until in (None, 130):
        asked = question(variant=file.variant, label=str(until))
        perform(store, asked, ImportedAnalyst(file), until)
        found = regenerate_run(store, BARS, stored_analyst(store, asked, {file.variant: file}.__getitem__), asked)
        assert (found.equal, found.ended) == (True, until is None)


@given(st.integers(1, 239))
@settings(max_examples=15)
def test_a_run_that_has_not_ended_is_compared_as_far_as_its_book_goes(bars: int) -> None:
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.runtime.session.BATCH", 1)
        asked = perform(store, question(), Stored(store), until=bars)
    book = list(store.read(runs.book_stream(asked.run_id)))
    found = again(store, asked)
    assert found.equal
    assert (found.ended, found.events, found.book_at_end) == (False, len(book), "")


def test_a_run_without_a_book_yet_differs_in_nothing() -> None:
    store = MemoryStore()
    asked = runs.start_run(store, question(), BARS[0][0].opened_at, "test")
    assert (again(store, asked).equal, again(store, asked).events) == (True, 0)


def test_another_engine_version_is_no_difference_but_is_known(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ENGINE_VERSION", "0.3.0")
    found = again(*ended)
    assert (found.engine_recorded, found.same_engine, found.equal) == (ENGINE_VERSION, False, True)


def test_the_dataset_digest_is_the_catalogues(ended: Ended) -> None:
    store, asked = ended
    catalogue = MemoryCatalogue()
    for bars in BARS:
        catalogue.add(bars[0].symbol, Timeframe.H1, bars, source="test", learned_at=LATER)
    assert run_bars(catalogue, store, asked) == BARS
    assert catalogue.digest(("AAA", "BBB"), Timeframe.H1, asked.start, asked.end) == DATASET


def test_a_paper_run_has_the_bars_up_to_its_last_slot_and_while_it_goes_on_all() -> None:
    catalogue = MemoryCatalogue()
    for bars in BARS:
        catalogue.add(bars[0].symbol, Timeframe.H1, bars, source="test", learned_at=LATER)
    asked = msgspec.structs.replace(question(Environment.PAPER), end=BARS[0][59].closed_at)
    store = MemoryStore()
    analyst = Stored(store)
    runs.execute_run(store, asked, [bars[:90] for bars in BARS], analyst, actor="test")
    assert run_bars(catalogue, store, asked) == [bars[:90] for bars in BARS]
    begun = MemoryStore()
    runs.start_run(begun, asked, asked.start, "test")
    assert run_bars(catalogue, begun, asked) == BARS


# --- Something was changed ----------------------------------------------------------------------------------------


def test_a_changed_opinion_is_named_by_the_first_fact_that_it_would_have_changed(ended: Ended) -> None:
    store, asked = ended
    opinion = next(
        row for row in store.read_all(limit=100_000)
        if isinstance(row.event, AnalysisMade) and row.event.decision == "LONG"
    )  # fmt: skip
    store.edit(opinion.position, b'"LONG"', b'"SHORT"')
    found = again(store, asked)
    assert not found.equal
    assert found.difference is not None
    assert found.difference.ours is not None
    assert found.difference.ours.event.at == opinion.event.as_of  # type: ignore[attr-defined]
    assert "direction" in [change.field for change in event_changes(*found.difference[1:])]
    assert (found.dataset.equal, found.book_at_end) == (True, found.book.stored)


def test_a_changed_fact_of_the_book_is_named_by_its_position(ended: Ended) -> None:
    store, asked = ended
    fill = next(row for row in store.read(runs.book_stream(asked.run_id)) if isinstance(row.event, OrderFilled))
    assert isinstance(fill.event, OrderFilled)
    store.edit(fill.position, f'"commission":"{fill.event.commission}"'.encode(), b'"commission":"0"')
    found = again(store, asked)
    assert found.difference is not None
    assert found.difference.ours is not None
    assert (found.difference.ours.position, found.equal) == (fill.position, False)
    assert [tuple(change) for change in event_changes(*found.difference[1:])] == [
        ("commission", "0", str(fill.event.commission))
    ]
    assert found.book_at_end == found.book.regenerated != found.book.stored


def test_a_changed_bar_is_told_by_the_dataset_and_by_the_book(ended: Ended) -> None:
    store, asked = ended
    bars = [list(series) for series in BARS]
    fill = next(row.event for row in store.read(runs.book_stream(asked.run_id)) if isinstance(row.event, OrderFilled))
    n = next(n for n, bar in enumerate(bars[0]) if bar.opened_at == fill.at)
    bars[0][n] = msgspec.structs.replace(bars[0][n], open=bars[0][n].low)
    found = again(store, asked, bars)
    assert (found.equal, found.dataset.equal) == (False, False)
    assert found.difference is not None
    assert found.difference.ours is not None
    assert found.difference.ours.event == fill


def test_a_bar_that_changes_no_decision_is_told_by_the_dataset_all_the_same(ended: Ended) -> None:
    store, asked = ended
    bars = [list(series) for series in BARS]
    bars[0][7] = msgspec.structs.replace(bars[0][7], volume=exact(1))
    found = again(store, asked, bars)
    assert (found.equal, found.dataset.equal, found.book.equal, found.difference) == (False, False, True, None)


def test_a_book_that_was_cut_is_told_by_what_is_missing(ended: Ended) -> None:
    store, asked = ended
    store.drop_last_of(runs.book_stream(asked.run_id))
    found = again(store, asked)
    assert not found.equal
    assert found.difference is not None
    assert found.difference.ours is None
    assert found.difference.version == found.events + 1


def test_a_book_that_is_not_the_one_the_run_ended_with_is_told(ended: Ended) -> None:
    store, asked = ended
    (last,) = (row for row in store.read(runs.run_stream(asked.run_id)) if isinstance(row.event, RunEnded))
    store.edit(last.position, last.event.book_digest.encode(), b"0" * 64)  # type: ignore[attr-defined]
    found = again(store, asked)
    assert (found.equal, found.book.equal, found.book_at_end) == (False, True, "0" * 64)


def test_an_opinion_that_is_gone_is_named(ended: Ended) -> None:
    store, asked = ended
    first, _ = next(replay.consulted_analyses(store, asked.run_id))
    store.drop_last_of(f"analysis:{first}")
    with pytest.raises(AnalysisMissing) as refused:
        again(store, asked)
    assert refused.value.key == first


def test_a_list_that_differs_is_told_by_the_places_in_it(ended: Ended) -> None:
    store, asked = ended
    names = next(row for row in store.read(runs.book_stream(asked.run_id)) if row.name == "AnalysesConsulted.v1")
    first, second = list(replay.consulted_analyses(store, asked.run_id))[:2]
    inside = f'["{first[0]}",2],["{second[0]}",2]', f'["{second[0]}",2],["{first[0]}",2]'
    store.edit(names.position, *(each.encode() for each in inside))
    found = again(store, asked)
    assert found.difference is not None
    assert event_changes(*found.difference[1:]) == [
        ("analyses.0.0", second[0], first[0]),
        ("analyses.1.0", first[0], second[0]),
    ]


def test_another_version_of_an_opinion_than_the_one_consulted_is_told(ended: Ended) -> None:
    """The first bar's opinion is HOLD either way, so that the book alone would not show it."""
    store, asked = ended
    names = next(row for row in store.read(runs.book_stream(asked.run_id)) if row.name == "AnalysesConsulted.v1")
    first, _ = next(replay.consulted_analyses(store, asked.run_id))
    store.edit(names.position, f'["{first}",2]'.encode(), f'["{first}",1]'.encode())
    found = again(store, asked)
    assert (found.equal, found.analyses.equal, found.difference) == (False, False, None)


def test_an_opinion_that_the_book_no_longer_names_is_missed_at_its_bar(ended: Ended) -> None:
    store, asked = ended
    names = next(row for row in store.read(runs.book_stream(asked.run_id)) if row.name == "AnalysesConsulted.v1")
    first, _ = next(replay.consulted_analyses(store, asked.run_id))
    store.edit(names.position, f'["{first}",2],'.encode(), b"")
    with pytest.raises(AnalysisMissing, match=r"AAA\.1h@20240101T010000Z\.rules"):
        again(store, asked)
