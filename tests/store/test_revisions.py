"""Corrections and backfills change no run that was made: each sees its bars as they were known to it, for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import psycopg
import pytest

from engine import clock
from engine.audit import capsule as capsules
from engine.audit.bundle import pack_run
from engine.audit.capsule import Capsule, open_capsule
from engine.audit.regenerate import RegenerationResult, regenerate_run, run_bars, stored_analyst
from engine.audit.reproduce import reproduce_run
from engine.core.events import FeedResumed, RunRequested, SlotClaimed
from engine.core.market import Bar, Symbol, Timeframe
from engine.core.money import exact
from engine.core.upcasters import event_names
from engine.data import ProviderRequest
from engine.data.bar_rules import bar_line
from engine.data.calendars import Span
from engine.data.catalogue import PostgresCatalogue
from engine.data.memory import MemoryCatalogue
from engine.data.signals import SignalFile
from engine.runtime import runs
from engine.store import Cause, Store, read_from
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from projections.rebuild import rebuild_read_models
from tests.support.commands import answer, refusal
from tests.support.databases import database
from tests.support.workloads import golden_config, walk
from ui.app import App, open_app
from ui.daemon.paper import PaperDaemon, PaperPlan
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.replay import run_replay
from ui.settings import Settings

H1, HOUR = Timeframe.H1, timedelta(hours=1)
SYMBOLS = ("BTC-USD", "EUR-USD")
# With a weekend: one of the two symbols has a gap that can be filled.
START, END = datetime(2017, 8, 18, 12, tzinfo=UTC), datetime(2017, 8, 21, 18, tzinfo=UTC)
SATURDAY, SUNDAY, MONDAY = (datetime(2017, 8, day, 12, tzinfo=UTC) for day in (19, 20, 21))
QUESTION = BacktestRequest(symbols=SYMBOLS, start=START, end=END)


@pytest.fixture
def app(sample_dsn: str) -> Iterator[App]:
    with open_app(Settings(None, sample_dsn, "tester")) as opened:
        yield opened


def bar_at(app: App, symbol: Symbol, opened_at: datetime) -> Bar:
    (found,) = app.catalogue.bars(symbol, H1, opened_at, opened_at + HOUR)
    return found


def doubled(bar: Bar) -> Bar:
    """The same bar at twice the price."""
    prices = {name: exact(getattr(bar, name) * 2) for name in ("open", "high", "low", "close")}
    return msgspec.structs.replace(bar, **prices)


def learn(app: App, bars: Sequence[Bar]) -> None:
    for bar in bars:
        app.catalogue.add(bar.symbol, H1, [bar], source="elsewhere", learned_at=clock.now(), correct=True)


def quiet(opened_at: datetime) -> Bar:
    """A bar of EUR-USD where there is none."""
    price = Decimal("1.5")
    return Bar("EUR-USD", opened_at, opened_at + HOUR, price, price, price, price, Decimal(0))


def revise(app: App) -> None:
    """Bars within the runs and before them are corrected, holes in them filled."""
    corrected = [doubled(bar_at(app, symbol, at)) for symbol in SYMBOLS for at in (START + HOUR, START - 9 * HOUR)]
    learn(app, [*corrected, doubled(bar_at(app, "BTC-USD", SATURDAY)), quiet(SATURDAY), quiet(SATURDAY + 2 * HOUR)])


def no_file(variant: str) -> SignalFile:
    raise AssertionError(variant)


def again(app: App, run: RunRequested) -> RegenerationResult:
    bars = run_bars(app.catalogue, app.store, run)
    return regenerate_run(app.store, bars, stored_analyst(app.store, run, no_file), run)


def is_equal(app: App, run: RunRequested) -> bool:
    return again(app, run).equal


def test_who_works_with_the_database_may_learn_and_note_what_was_asked(app: App) -> None:
    assert app.access.writer != app.access.owner
    asked = ProviderRequest("somebody", Span(START, END), clock.now(), 0)
    app.catalogue.record_request("EUR-USD", H1, asked)
    learn(app, [quiet(SATURDAY)])
    for reading in (app.access.reader, app.access.auditor):
        catalogue = PostgresCatalogue(reading)
        assert catalogue.provider_requests("EUR-USD", H1) == [asked]
        assert catalogue.bars("EUR-USD", H1, SATURDAY, SATURDAY + HOUR) == [quiet(SATURDAY)]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            catalogue.record_request("EUR-USD", H1, asked)


def test_the_command_shows_what_was_corrected_and_names_what_is_not_there(app: App) -> None:
    env = {**os.environ, "QUANTAGENT_DSN": app.dsn, "QUANTAGENT_ACTOR": "tester"}
    learn(app, [doubled(bar_at(app, "BTC-USD", SUNDAY)), quiet(SATURDAY)])
    shown = answer(env, "data", "revisions", "--timeframe", "1h")["revisions"]
    assert [(each["symbol"], each["opened_at"], each["revision"]) for each in shown] == [
        ("BTC-USD", "2017-08-20T12:00:00Z", 1),
        ("BTC-USD", "2017-08-20T12:00:00Z", 2),
    ]
    assert answer(env, "data", "revisions", "EUR-USD")["revisions"] == []
    nothing = refusal(env, "data", "revisions", "NOPE")
    assert "there are no bars of NOPE; the catalogue holds BTC-USD 1h" in nothing
    assert refusal(env, "data", "check", "NOPE") == nothing
    assert "there are no 5m bars of BTC-USD" in refusal(env, "data", "revisions", "BTC-USD", "--timeframe", "5m")


# --- Backtests ----------------------------------------------------------------------------------------------------


def test_a_later_correction_changes_no_old_run(app: App) -> None:
    before = run_backtest(app, QUESTION).result
    known_at = before.request.known_at
    assert known_at == app.catalogue.known_at()
    revise(app)
    made = again(app, before.request)
    assert (made.equal, made.dataset.equal, made.book.regenerated) == (True, True, before.ended.book_digest)
    assert app.catalogue.as_known_at(known_at).digest(SYMBOLS, H1, START, END) == before.request.dataset_digest
    replayed = run_replay(app, before.request.run_id).result
    assert replayed.ended == msgspec.structs.replace(before.ended, run_id=replayed.request.run_id)
    other = run_replay(app, before.request.run_id, "classic").result
    assert is_equal(app, replayed.request)
    assert is_equal(app, other.request)
    assert rebuild_read_models(app.store, app.catalogue, app.dsn).same


def test_a_new_run_of_the_same_question_sees_what_is_known_now(app: App) -> None:
    before = run_backtest(app, QUESTION).result
    revise(app)
    after = run_backtest(app, QUESTION).result
    assert after.request.run_id != before.request.run_id
    assert (
        after.request.dataset_digest == app.catalogue.digest(SYMBOLS, H1, START, END) != before.request.dataset_digest
    )
    assert after.ended.bars == before.ended.bars + 2
    assert is_equal(app, after.request)
    assert is_equal(app, before.request)


def test_what_is_learned_of_the_bars_before_a_run_makes_it_no_other_run(app: App) -> None:
    before = run_backtest(app, QUESTION)
    learn(app, [doubled(bar_at(app, "BTC-USD", START - HOUR))])
    head = app.store.last_position()
    after = run_backtest(app, QUESTION)
    assert (after.result, after.analyses_made) == (before.result, 0)
    assert app.store.last_position() == head


def test_figures_that_are_made_late_are_of_the_bars_that_the_run_saw(app: App) -> None:
    before = run_backtest(app, QUESTION).result.request
    with app.queries() as queries:
        equity, metrics = queries.equity(before.run_id), queries.metrics(before.run_id)
    revise(app)
    assert rebuild_read_models(app.store, app.catalogue, app.dsn).same
    with app.queries() as queries:
        assert (queries.equity(before.run_id), queries.metrics(before.run_id)) == (equity, metrics)


def test_the_chart_of_a_run_shows_the_bars_that_it_saw(app: App) -> None:
    known_at, closes = app.catalogue.known_at(), app.catalogue.frame("BTC-USD", H1, START, END)["close"].to_list()
    revise(app)
    with app.queries() as queries:
        drawn = queries.bars("BTC-USD", "1h", START, END, known_at=known_at)
        assert [float(row["close"]) for row in drawn] == closes
        assert len(queries.bars("EUR-USD", "1h", START, END)) == len(app.catalogue.bars("EUR-USD", H1, START, END))
        latest = queries.bars("BTC-USD", "1h", START, END, limit=3)
    assert [row["opened_at"] for row in latest] == [END - 3 * HOUR, END - 2 * HOUR, END - HOUR]


# --- Capsules -----------------------------------------------------------------------------------------------------


def pack(app: App, run: RunRequested, file: Path) -> Capsule:
    with psycopg.connect(app.dsn) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return pack_run(app.store, conn, run, run_bars(app.catalogue, app.store, run), None, file)


def test_a_run_is_packed_and_made_again_beside_a_correction(app: App, tmp_path: Path) -> None:
    before = run_backtest(app, QUESTION).result.request
    revise(app)
    capsule = pack(app, before, tmp_path / "run.zip")
    assert capsule.manifest.dataset_digest == before.dataset_digest
    head = app.store.last_position()
    assert reproduce_run(app.store, app.catalogue, app.dsn, capsule, actor="auditor").equal
    assert app.store.last_position() == head


def test_a_run_made_again_elsewhere_is_known_there_since_then(
    app: App, server: str, template: str, tmp_path: Path
) -> None:
    before = run_backtest(app, QUESTION).result.request
    pack(app, before, tmp_path / "run.zip")
    with database(server, template) as dsn, PostgresStore(dsn) as store:
        there, capsule = PostgresCatalogue(dsn), open_capsule(tmp_path / "run.zip")
        assert reproduce_run(store, there, dsn, capsule, actor="auditor").equal
        stored = runs.find_run_by_prefix(store, before.run_id)
        assert stored.known_at == there.known_at() != before.known_at
        there.add("EUR-USD", H1, [quiet(SATURDAY)], source="elsewhere", learned_at=clock.now())
        made = regenerate_run(store, run_bars(there, store, stored), stored_analyst(store, stored, no_file), stored)
        assert made.equal
        assert reproduce_run(store, there, dsn, capsule, actor="auditor").equal


# --- Paper runs ---------------------------------------------------------------------------------------------------


def drive(app: App, slots: int | None = None, end: datetime = END) -> PaperDaemon:
    """A daemon that stops after some slots, or at the end of its feed."""

    def told(what: str, done: int, total: int) -> None:
        if what == "slots" and done == slots:
            daemon.request_stop()

    daemon = PaperDaemon(app, PaperPlan(symbols=SYMBOLS, start=START, end=end), told)
    assert (daemon.run() is None) == (slots is not None)
    return daemon


@pytest.mark.slow(10)
def test_a_paper_run_keeps_what_it_saw_and_goes_on_with_what_is_known(app: App) -> None:
    halfway = int((SUNDAY - START) / HOUR)
    run = runs.find_run_by_prefix(app.store, drive(app, halfway).run_id)
    seen = run_bars(app.catalogue, app.store, run)
    revise(app)
    future = [doubled(bar_at(app, "BTC-USD", MONDAY)), quiet(SUNDAY + 3 * HOUR)]
    learn(app, future)
    assert run_bars(app.catalogue, app.store, run) == seen
    assert is_equal(app, run)

    assert drive(app).run_id == run.run_id
    (resumed,) = runs.feed_resumptions(app.store, run)
    assert resumed == FeedResumed(run.run_id, SUNDAY, app.catalogue.known_at())
    bitcoin, euro = run_bars(app.catalogue, app.store, run)
    lived = [[bar for bar in bars if bar.opened_at <= SUNDAY] for bars in seen]
    assert [[bar for bar in bars if bar.opened_at <= SUNDAY] for bars in (bitcoin, euro)] == lived
    assert future[0] in bitcoin
    assert future[1] in euro
    assert is_equal(app, run)
    assert rebuild_read_models(app.store, app.catalogue, app.dsn).same

    replayed = run_replay(app, run.run_id).result
    of_replay = run_replay(app, replayed.request.run_id, "classic").result
    learn(app, [doubled(bar_at(app, "BTC-USD", at)) for at in (MONDAY, SUNDAY + HOUR)])
    ended = runs.result_of(app.store, run.run_id)
    assert ended is not None
    assert replayed.ended.book_digest == ended.ended.book_digest
    for each in (run, replayed.request, of_replay.request):
        assert is_equal(app, each)
    head = app.store.last_position()
    # A later end than it had cannot make it longer either.
    drive(app, end=END + 2 * HOUR)
    assert app.store.last_position() == head
    assert rebuild_read_models(app.store, app.catalogue, app.dsn).same


def test_slots_that_left_nothing_in_the_book_are_kept_as_they_were_seen(app: App) -> None:
    """The book names opinions once a session day: what came of the slots after that shows only in their claims."""
    end = START + 7 * HOUR
    run = runs.find_run_by_prefix(app.store, drive(app, 3, end).run_id)
    drive(app, 5, end)
    assert runs.feed_resumptions(app.store, run) == []
    claims = [row.event for row in read_from(app.store, event_names([SlotClaimed]))]
    last = max(claim.due_at for claim in claims if isinstance(claim, SlotClaimed))
    seen = run_bars(app.catalogue, app.store, run)
    learn(app, [doubled(bar_at(app, "BTC-USD", last - 2 * HOUR))])
    drive(app, None, end)
    (resumed,) = runs.feed_resumptions(app.store, run)
    assert resumed.after == last == START + 5 * HOUR
    assert run_bars(app.catalogue, app.store, run)[0][:5] == seen[0][:5]
    assert is_equal(app, run)


# --- In memory: what is seen, exactly ---------------------------------------------------------------------------------

BARS = walk("AAA", 3, 12, 100.0, 0.01)
LATER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def lived() -> tuple[Store, MemoryCatalogue, RunRequested]:
    """A paper run that knew of ten bars, one of which is a hole."""
    store, catalogue = MemoryStore(), MemoryCatalogue()
    catalogue.add("AAA", H1, [*BARS[:4], *BARS[5:10]], source="test", learned_at=LATER)
    run = runs.request(
        runs.Environment.PAPER, golden_config(["AAA"], 100_000, 10, 4, 365), profile="test",
        dataset_digest="paper@then", variant="rules", start=BARS[0].opened_at, end=BARS[-1].closed_at,
        known_at=catalogue.known_at(),
    )  # fmt: skip
    return store, catalogue, runs.start_run(store, run, BARS[0].opened_at, "test")


def seen(store: Store, catalogue: MemoryCatalogue, run: RunRequested) -> list[Bar]:
    (bars,) = runs.bars_seen(catalogue, store, run, ("AAA",), None)
    return bars


def test_a_bar_keeps_the_values_it_was_opened_with(lived: tuple[Store, MemoryCatalogue, RunRequested]) -> None:
    store, catalogue, run = lived
    first = seen(*lived)
    corrections = [doubled(bar) for bar in BARS]
    catalogue.add("AAA", H1, corrections, source="test", learned_at=LATER, correct=True)
    assert seen(*lived) == first
    runs.resume_feed(store, run, BARS[6].opened_at, catalogue.known_at(), Cause("test"))
    assert seen(*lived) == [*BARS[:4], *BARS[5:7], *corrections[7:]]
    catalogue.add("AAA", H1, BARS, source="test", learned_at=LATER, correct=True)
    runs.resume_feed(store, run, BARS[9].opened_at, catalogue.known_at(), Cause("test"))
    assert seen(*lived) == [*BARS[:4], *BARS[5:7], *corrections[7:10], *BARS[10:]]


def test_bars_that_go_on_where_the_feed_had_ended_are_all_seen(
    lived: tuple[Store, MemoryCatalogue, RunRequested],
) -> None:
    store, catalogue, run = lived
    catalogue.add("AAA", H1, BARS[10:], source="test", learned_at=LATER)
    runs.resume_feed(store, run, BARS[9].closed_at, catalogue.known_at(), Cause("test"))
    assert seen(*lived) == [*BARS[:4], *BARS[5:]]


def test_a_run_of_the_time_before_sees_all_there_is(lived: tuple[Store, MemoryCatalogue, RunRequested]) -> None:
    store, catalogue, run = lived
    old = msgspec.structs.replace(run, known_at=None)
    assert not runs.lacks_data_known_at(store, old, LATER)
    catalogue.add("AAA", H1, BARS, source="test", learned_at=LATER)
    assert seen(store, catalogue, old) == BARS


def test_a_capsule_spells_bars_that_were_cut_short() -> None:
    cut = msgspec.structs.replace(BARS[0], closed_at=BARS[0].closed_at - HOUR / 2)
    for bar in (BARS[0], cut):
        line = bar_line(bar, H1).encode()
        assert capsules._bar(line, H1) == bar  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ValueError, match="is not a bar in canonical form"):
        capsules._bar(bar_line(cut, H1).replace("Z\n", "Z,1\n").encode(), H1)  # pyright: ignore[reportPrivateUsage]
