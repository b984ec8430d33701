"""Old events read as today's: what an engine of long ago began, this one goes on with. See docs/events.md."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

import msgspec
import pytest

from engine.core.errors import VersionConflict
from engine.core.events import EVENT_TYPES, AnalysisMade, Environment, Event, RunFailed, RunStarted
from engine.core.upcasters import (
    FORMER_SHAPES,
    NAMES,
    TYPES,
    UPCASTERS,
    AnalysisMadeV2,
    RunRequestedV2,
    RunStartedV1,
    event_names,
    upcast,
)
from engine.runtime import runs
from engine.store import ENGINE_VERSION, Batch, Cause, Store
from engine.store.codec import encode_payload, stored_name
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from tests.support.golden_events import load, payload
from tests.support.paths import ROOT
from tests.support.workloads import golden_config, scripted, walk

BARS = [walk("AAA", 7, 60, 100.0, 0.01)]
FIRST, LAST = BARS[0][0].opened_at, BARS[0][-1].closed_at
ME = Cause("an older engine")
ASKED = runs.request(
    Environment.BACKTEST,
    golden_config(["AAA"], 100_000, 10, 4, 365),
    profile="test",
    dataset_digest="digest",
    variant="scripted",
    start=FIRST,
    end=LAST,
)
STREAM = runs.run_stream(ASKED.run_id)
OLD_START = RunStartedV1(ASKED.run_id, ASKED.environment, runs.book_stream(ASKED.run_id), ENGINE_VERSION, FIRST)


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with PostgresStore(request.getfixturevalue("dsn")) as opened:
        yield opened


@pytest.fixture
def begun(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A log in which an engine that did not know `lock_digest` began a run."""
    with monkeypatch.context() as past:
        past.setitem(NAMES, RunStartedV1, "RunStarted.v1")
        store.append([Batch(STREAM, 0, [ASKED, OLD_START])], ME)
    return store


def completed(store: Store, lock_digest: str = "today's") -> runs.RunResult:
    return runs.execute_run(store, ASKED, BARS, scripted(BARS), actor="test", lock_digest=lock_digest)


# --- Shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_former_shape_leads_to_the_next(kind: type[Event]) -> None:
    shapes = (*FORMER_SHAPES.get(kind, ()), kind)
    assert tuple(TYPES[name] for name in event_names([kind])) == shapes
    for old, new in pairwise(shapes):
        fact = msgspec.json.decode(payload(event_names([kind])[shapes.index(old)]), type=old)
        assert type(UPCASTERS[old](fact)) is new
        assert type(upcast(fact)) is kind
    assert kind not in UPCASTERS


def test_what_an_old_analysis_said_of_a_model_is_its_work_and_nothing_is_made_up() -> None:
    old = msgspec.json.decode(payload("AnalysisMade.v2"), type=AnalysisMadeV2)
    new = upcast(old)
    assert isinstance(new, AnalysisMade)
    assert new.work is not None
    told = ("graph_version", "model_provider", "model_name", "temperature", "thread_id", "checkpoint_id")
    assert [getattr(new.work, name) for name in told] == [getattr(old, name) for name in told]
    assert new.work.state_snapshot == old.state_snapshot
    assert (new.work.calls, new.work.preset, new.work.cost, new.work.input_tokens) == ((), "", 0, 0)
    assert (new.stop, new.target, new.entry, new.decision) == (old.stop, old.target, old.entry, old.decision)


@pytest.mark.parametrize(("temperature", "has_work"), [(None, False), (Decimal(0), True)])
def test_an_old_analysis_that_said_nothing_of_a_model_has_no_work(temperature: Decimal | None, has_work: bool) -> None:
    old = msgspec.json.decode(payload("AnalysisMade.v2"), type=AnalysisMadeV2)
    blank = dict.fromkeys(
        ("graph_version", "model_provider", "model_name", "thread_id", "checkpoint_id", "state_snapshot"), ""
    )
    new = upcast(msgspec.structs.replace(old, **blank, temperature=temperature))
    assert isinstance(new, AnalysisMade)
    assert (new.work is not None) is has_work


def test_only_former_shapes_are_upcast() -> None:
    assert set(UPCASTERS) == {old for shapes in FORMER_SHAPES.values() for old in shapes}


def test_an_old_start_reads_as_todays_and_keeps_what_is_stored() -> None:
    row = load("RunStarted.v1", payload("RunStarted.v1"))
    assert type(row.event) is RunStarted
    assert row.event.lock_digest == ""
    assert (row.name, row.payload) == ("RunStarted.v1", payload("RunStarted.v1"))


def test_what_an_old_start_reads_as_is_the_golden_form_of_the_new_one() -> None:
    event = load("RunStarted.v1", payload("RunStarted.v1")).event
    assert stored_name(event) == "RunStarted.v2"
    known = load("RunStarted.v2", payload("RunStarted.v2")).event
    assert isinstance(known, RunStarted)
    assert encode_payload(event) == payload("RunStarted.v2").replace(known.lock_digest.encode(), b"")


def test_upcasters_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def third(second: RunStarted) -> Event:
        return RunFailed(second.run_id, f"lock {second.lock_digest!r}")

    monkeypatch.setitem(UPCASTERS, RunStarted, third)
    assert upcast(OLD_START) == RunFailed(ASKED.run_id, "lock ''")


def test_a_former_shape_is_never_appended() -> None:
    store = MemoryStore()
    with pytest.raises(KeyError, match="RunStartedV1"):
        store.append([Batch(STREAM, 0, [OLD_START])], ME)
    assert store.last_position() == 0


# --- A run that an older engine began -----------------------------------------------------------------------------


def test_a_run_begun_by_an_older_engine_is_completed(begun: Store) -> None:
    result = completed(begun)
    requested, started, ended = begun.read(STREAM)
    assert [row.name for row in (requested, started, ended)] == ["RunRequested.v4", "RunStarted.v1", "RunEnded.v2"]
    assert started.payload == msgspec.json.encode(OLD_START)
    assert started.event == upcast(OLD_START)
    assert result == completed(MemoryStore())
    head = begun.last_position()
    assert completed(begun, "tomorrow's") == result
    assert begun.last_position() == head


def test_a_reader_by_name_finds_both_versions(begun: Store) -> None:
    other = msgspec.structs.replace(ASKED, run_id="another")
    runs.start_run(begun, other, FIRST, "test", "today's")
    rows = begun.read_all(names=event_names([RunStarted]))
    assert [row.name for row in rows] == ["RunStarted.v1", "RunStarted.v2"]
    assert [row.event.lock_digest for row in rows if isinstance(row.event, RunStarted)] == ["", "today's"]


def test_what_was_installed_at_the_start_stays_recorded(store: Store) -> None:
    runs.start_run(store, ASKED, FIRST, "test", "then")
    result = completed(store, "now")
    starts = [row.event for row in store.read(STREAM) if isinstance(row.event, RunStarted)]
    assert [start.lock_digest for start in starts] == ["then"]
    assert result == completed(store, "later")


def test_a_run_that_was_only_requested_is_started(store: Store) -> None:
    store.append([Batch(STREAM, 0, [ASKED])], ME)
    runs.start_run(store, ASKED, FIRST, "test", "now")
    assert [row.name for row in store.read(STREAM)] == ["RunRequested.v4", "RunStarted.v2"]


def test_a_run_asked_by_an_older_engine_keeps_its_question(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not say by when its bars were known: they are all there is, whoever goes on with it."""
    fields = {name: getattr(ASKED, name) for name in RunRequestedV2.__struct_fields__}
    with monkeypatch.context() as past:
        past.setitem(NAMES, RunRequestedV2, "RunRequested.v2")
        store.append([Batch(STREAM, 0, [RunRequestedV2(**fields)])], ME)
    asked = msgspec.structs.replace(ASKED, known_at=LAST)
    assert runs.stored_request(store, asked) == ASKED
    for _ in range(2):
        assert runs.start_run(store, asked, FIRST, "test", "now").known_at is None
    assert [row.name for row in store.read(STREAM)] == ["RunRequested.v2", "RunStarted.v2"]


def test_an_old_run_is_not_taken_for_one_with_another_first_bar(begun: Store) -> None:
    with pytest.raises(VersionConflict, match="another process appended other events"):
        runs.start_run(begun, ASKED, LAST, "test")
    assert begun.last_position() == begun.read_all()[-1].position
    assert len(list(begun.read(STREAM))) == 2


def test_no_code_asks_for_a_stored_name_by_heart() -> None:
    """A literal name would pass over the same event's other versions; `engine.core.events.names` gives them all."""
    root = ROOT
    sources = [path for name in ("engine", "analysis", "projections", "ui") for path in (root / name).rglob("*.py")]
    stored = [f'"{name}"' for name in TYPES]
    found = [f"{path.relative_to(root)}: {name}" for path in sources for name in stored if name in path.read_text()]
    assert found == []
