"""Persons halt and resume an account: what they say holds from the next slot, once, and in every making of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.audit.capsule import open_capsule
from engine.audit.regenerate import regenerate_run, run_bars, stored_analyst
from engine.audit.reproduce import reproduce_run
from engine.core.errors import BadInput, VersionConflict
from engine.core.events import (
    BookEvent,
    HaltScope,
    OrderFilled,
    OrderPlaced,
    RiskDecided,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.data.catalogue import PostgresCatalogue
from engine.data.signals import SignalFile
from engine.runtime import halts, runs
from engine.runtime.account_monitor import AccountMonitor
from engine.runtime.session import Journal
from engine.store import Batch, Cause, Store
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from engine.trading.book import Book
from tests.support.commands import answer, refusal, run
from tests.support.databases import database
from tests.support.halted_accounts import ANNA, END, START, Killed, analysed, app, book, drive, drive_with, resume, slot
from ui.app import App
from ui.services.replay import run_replay

__all__ = ["analysed", "app"]

pytestmark = pytest.mark.slow

LATER = datetime(2017, 8, 16, tzinfo=UTC)


# --- Telling an account -------------------------------------------------------------------------------------------


def told(store: Store, account: str = "paper") -> list[tuple[str, str]]:
    """What an account was told: kind, and who said it."""
    rows = store.read(halts.control_stream(account))
    return [(row.name.partition(".")[0], getattr(row.event, "actor", "")) for row in rows]


def test_a_halt_said_twice_is_one_halt_and_a_resume_ends_those_of_all(store: Store) -> None:
    assert halts.halt_trading(store, "paper", "entries", "news", ANNA) is True
    assert halts.halt_trading(store, "paper", "entries", "  news \n", ANNA) is False
    assert halts.halt_trading(store, "paper", "everything", "news", halts.operator_actor("bert")) is True
    assert [each.event.actor for each in halts.current_halts(store, "paper", None)] == [ANNA, "person:bert"]
    halts.resume_trading(store, "paper", "quiet again", ANNA)
    assert halts.current_halts(store, "paper", None) == []
    assert told(store) == [("TradingHalted", ANNA), ("TradingHalted", "person:bert"), ("TradingResumed", ANNA)]


@pytest.mark.parametrize("reason", ["", "  \n\t", "x" * 501, "a\x1bb", "\udcff"])
def test_a_reason_that_says_nothing_is_refused(reason: str) -> None:
    store = MemoryStore()
    for say in (
        lambda: halts.halt_trading(store, "paper", "entries", reason, ANNA),
        lambda: halts.resume_trading(store, "paper", reason, ANNA),
    ):
        with pytest.raises(BadInput, match="reason"):
            say()
    assert told(store) == []


def test_a_halt_of_everything_does_not_shrink_to_one_of_entries() -> None:
    store = MemoryStore()
    halts.halt_trading(store, "paper", "everything", "fire", ANNA)
    with pytest.raises(BadInput, match="would allow exits"):
        halts.halt_trading(store, "paper", "entries", "less", ANNA)
    assert halts.halt_trading(store, "paper", "entries", "more", halts.operator_actor("bert"))


class Racing(MemoryStore):
    """A log to which somebody else appends between our reading and our writing."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def append(self, batches: Sequence[Batch], cause: Cause) -> None:
        if self.times:
            self.times -= 1
            stream, version = batches[0].stream, batches[0].after
            super().append([Batch(stream, version, [TradingHalted(LATER, "entries", "first", f"p{version}")])], cause)
        super().append(batches, cause)


def test_of_two_who_halt_at_once_both_are_heard() -> None:
    store = Racing(3)
    assert halts.halt_trading(store, "paper", "everything", "mine", ANNA)
    assert [actor for _, actor in told(store)] == ["p0", "p1", "p2", ANNA]
    with pytest.raises(VersionConflict):
        halts.halt_trading(Racing(10**6), "paper", "everything", "mine", ANNA)


def test_a_run_that_begins_takes_over_what_stands_and_one_that_goes_on_all_that_was_said() -> None:
    store = MemoryStore()
    halts.halt_trading(store, "paper", "entries", "one", ANNA)
    halts.resume_trading(store, "paper", "over", ANNA)
    halts.halt_trading(store, "paper", "entries", "two", ANNA)
    reasons = [
        [each.reason for each in halts.commands_between(store, "paper", after, 3)] for after in (None, 0, 1, 2, 3)
    ]
    assert reasons == [["two"], ["one", "over", "two"], ["over", "two"], ["two"], []]
    assert [each.reason for each in halts.commands_between(store, "paper", 0, 2)] == ["one", "over"]
    assert halts.control_version(store, "paper") == halts.control_version(store, "paper", 2) == 3


# --- The daemon ---------------------------------------------------------------------------------------------------


@pytest.fixture
def env(app: App, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "QUANTAGENT_DSN": str(app.settings.dsn),
        "QUANTAGENT_HOME": str(tmp_path),
        "QUANTAGENT_ACTOR": "anna",
    }


def halt(app: App, scope: HaltScope = "entries", account: str = "paper") -> None:
    halts.halt_trading(app.store, account, scope, f"no {scope}", ANNA)


def test_a_halt_holds_from_the_next_slot_and_a_resume_ends_it(app: App) -> None:
    daemon = drive(app, {slot(3): lambda: halt(app), slot(20): lambda: resume(app)})
    events = book(app, daemon.run_id)
    halted, resumed = (event for event in events if isinstance(event, TradingHalted | TradingResumed))
    assert (type(halted), halted.at, halted.actor) == (TradingHalted, slot(3), ANNA)
    assert (type(resumed), resumed.at, resumed.actor) == (TradingResumed, slot(20), ANNA)
    inside = [event for event in events if halted.at <= event.at < resumed.at]
    assert any("halt" in event.reason for event in inside if isinstance(event, RiskDecided))
    assert entries(inside) == []
    assert entries(event for event in events if event.at >= resumed.at) != []


def entries(events: Iterable[BookEvent]) -> list[OrderPlaced]:
    return [event for event in events if isinstance(event, OrderPlaced) and event.role == "entry"]


def test_stops_and_targets_that_work_stay_and_fill_under_a_halt_of_everything(app: App) -> None:
    daemon = drive(app, {slot(63): lambda: halt(app, "everything")})
    events = book(app, daemon.run_id)
    (halted,) = (event for event in events if isinstance(event, TradingHalted))
    after = [event for event in events if event.at >= halted.at]
    assert not any(isinstance(event, OrderPlaced) for event in after)
    roles = {event.order_id: event.role for event in events if isinstance(event, OrderPlaced)}
    assert [(roles[event.order_id], event.at) for event in after if isinstance(event, OrderFilled)] == [
        ("stop", slot(64))
    ]


def test_a_halt_of_everything_denies_the_exit_that_is_due(app: App) -> None:
    daemon = drive(app, {slot(6): lambda: halt(app, "everything"), slot(9): lambda: resume(app)})
    exits = [
        each for each in book(app, daemon.run_id) if isinstance(each, RiskDecided) and slot(5) < each.at < slot(11)
    ]
    assert [(each.at, each.verdict) for each in exits] == [
        (slot(7), Verdict.DENIED),
        (slot(8), Verdict.DENIED),
        (slot(9), Verdict.APPROVED),
    ]


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, datetime], None]:
    """Kills the daemon in the slot at an instant: when it was told, before its book is stored, or right after."""
    commands, flush = AccountMonitor.commands, Journal.flush
    now: list[datetime] = []

    def plan(where: str, at: datetime) -> None:
        def telling(self: AccountMonitor, due_at: datetime, book: Book, until: datetime | None) -> object:
            now.append(due_at)
            found = commands(self, due_at, book, until)
            die("told")
            return found

        def flushing(self: Journal) -> None:
            die("before")
            flush(self)
            die("after")

        def die(here: str) -> None:
            if here == where and now[-1:] == [at]:
                raise Killed

        monkeypatch.setattr(AccountMonitor, "commands", telling)
        monkeypatch.setattr(Journal, "flush", flushing)

    return plan


@pytest.mark.slow(14)
@pytest.mark.parametrize("where", ["told", "before", "after"])
@pytest.mark.parametrize("early", [True, False])
def test_a_crash_moves_no_halt_and_loses_none(
    app: App, dies: Callable[[str, datetime], None], monkeypatch: pytest.MonkeyPatch, where: str, early: bool
) -> None:
    # The 40th slot dies. A halt said before it holds from it; one said after the crash from the slot after it.
    dies(where, slot(40))
    first = drive(app, {slot(40): lambda: halt(app, "everything")} if early else {}, slot(50))
    monkeypatch.undo()
    assert runs.result_of(app.store, first.run_id) is None
    if not early:
        halt(app, "everything")
    for _ in range(2):
        daemon = drive(app, {}, slot(50))
        halted = [event for event in book(app, daemon.run_id) if isinstance(event, TradingHalted)]
        assert [event.at for event in halted] == [slot(40 if early else 41)]
        assert runs.result_of(app.store, daemon.run_id) is not None
    assert told(app.store) == [("TradingHalted", ANNA)]


def test_a_new_run_of_a_halted_account_begins_halted(app: App) -> None:
    halt(app)
    resume(app)
    halt(app, "everything")
    daemon = drive(app, {})
    _, halted, *rest = book(app, daemon.run_id)
    assert isinstance(halted, TradingHalted)
    assert (halted.scope, halted.at) == ("everything", START)
    assert not any(isinstance(event, OrderPlaced | TradingHalted | TradingResumed) for event in rest)


# --- The same run again -------------------------------------------------------------------------------------------


def no_file(variant: str) -> SignalFile:
    raise AssertionError(variant)


def test_a_run_with_halts_is_replayed_and_made_again_to_the_same_digest(app: App) -> None:
    happens: dict[datetime, Callable[[], object]] = {
        slot(3): lambda: halt(app),
        slot(20): lambda: resume(app),
        slot(63): lambda: halt(app, "everything"),
    }
    daemon = drive(app, happens)
    ended = runs.result_of(app.store, daemon.run_id)
    assert ended is not None
    again, dearer = run_replay(app, daemon.run_id).result, run_replay(app, daemon.run_id, profile="classic").result
    assert again.ended.book_digest == ended.ended.book_digest != dearer.ended.book_digest
    for source in (ended.request, again.request, dearer.request):
        held = halts.commands_from_book(app.store.read(runs.book_stream(source.run_id)))
        assert [each.at for each in held] == sorted(happens)
        bars, opinions = run_bars(app.catalogue, app.store, source), stored_analyst(app.store, source, no_file)
        assert regenerate_run(app.store, bars, opinions, source).equal


def test_a_capsule_of_a_run_with_halts_is_reproduced_elsewhere(
    app: App, env: dict[str, str], server: str, template: str, tmp_path: Path
) -> None:
    daemon = drive(app, {slot(3): lambda: halt(app)})
    answer(env, "audit", "bundle", daemon.run_id, tmp_path / "halted.zip")
    with database(server, template) as dsn, PostgresStore(dsn) as store:
        found = reproduce_run(
            store, PostgresCatalogue(dsn), dsn, open_capsule(tmp_path / "halted.zip"), actor="auditor"
        )
        assert found.equal


# --- The commands -------------------------------------------------------------------------------------------------


def test_the_commands_halt_show_and_resume(app: App, env: dict[str, str]) -> None:
    begun = answer(env, "paper", "start", "--symbols", "BTC-USD", "--start", "2017-08-15", "--end", "2017-08-16")
    assert answer(env, "halt", "--scope", "everything", "--reason", "fire drill")["new"] is True
    assert answer(env, "halt", "--scope", "everything", "--reason", "fire drill")["new"] is False
    (status,) = answer(env, "paper", "status")["daemons"]
    assert status["halts"] == "everything by person:anna (from the next slot)"
    (shown,) = answer(env, "halts")["standing"]
    assert (shown["actor"], shown["scope"], shown["reason"]) == (ANNA, "everything", "fire drill")
    assert answer(env, "resume", "--reason", "drill over")["lifted"] == [ANNA]
    assert answer(env, "resume", "--reason", "again")["lifted"] == []
    listed = answer(env, "halts")
    assert listed["standing"] == []
    assert [(row["what"], row["reason"]) for row in listed["history"]] == [
        ("TradingHalted", "fire drill"),
        ("TradingResumed", "drill over"),
    ]
    assert "fire drill" in run(env, "halts").stdout
    assert begun["ended"] is True


@pytest.mark.parametrize(
    "words", [("halt", "--reason", " "), ("resume", "--reason", ""), ("halt", "--scope", "half", "--reason", "why")]
)
def test_a_halt_without_a_reason_or_of_an_unknown_scope_is_refused(env: dict[str, str], words: tuple[str, ...]) -> None:
    assert refusal(env, *words)


def test_a_halt_set_by_a_rule_is_shown_and_resumed_by_a_person(app: App, env: dict[str, str], tmp_path: Path) -> None:
    profile = tmp_path / "careful.json"
    profile.write_text('{"limits": {"drawdown_pct": "0.01"}}')
    halting = drive_with(app, str(profile), slot(70))
    by_rule = next(event for event in book(app, halting) if isinstance(event, TradingHalted))
    assert by_rule.actor == "drawdown"
    (shown,) = answer(env, "halts")["standing"]
    assert (shown["actor"], shown["state"], shown["told_at"]) == ("drawdown", "in force", None)
    assert answer(env, "resume", "--reason", "I have looked at it")["lifted"] == ["drawdown"]
    assert drive_with(app, str(profile), END) == halting
    resumed = next(event for event in book(app, halting) if isinstance(event, TradingResumed))
    assert (resumed.actor, resumed.at) == (ANNA, slot(71))
