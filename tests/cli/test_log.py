"""The log as a journal: what is asked for is found, nothing else is, and what arrives is told at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from queue import Queue
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import narration
from engine.audit.narration import (
    GROUPS,
    LEVELS,
    LineFilter,
    NarrationLine,
    build_filter,
    market_time,
    narrate,
    read_latest_narration,
    read_narration,
)
from engine.core.errors import BadInput
from engine.core.events import (
    EVENT_TYPES,
    OrderFilled,
    ProfileSaved,
    RiskDecided,
    RunFailed,
    SlotClaimed,
    SlotCompleted,
    Verdict,
)
from engine.core.upcasters import event_names
from engine.data.signals import ImportedAnalyst
from engine.runtime import runs
from engine.store import Batch, Cause, LogEntry, Store
from engine.store.memory import MemoryStore
from engine.store.postgres import NEWEST_BY_NAME, PostgresStore
from tests.support.commands import answer, refusal, run
from tests.support.databases import log_of_its_own
from tests.support.forks import QUANTAGENT
from tests.support.strategies import FIRST
from tests.support.waiting import WAIT_TIMEOUT_S
from tests.support.worlds import BARS, BOLD, FILE, run_request

ME = Cause("test")


@pytest.fixture(scope="module")
def told() -> Store:
    """Two runs, a slot, a profile and a failure."""
    store = MemoryStore()
    for label in ("", "again"):
        runs.execute_run(store, run_request(BOLD, label), BARS, ImportedAnalyst(FILE), actor="test")
    slot = SlotClaimed("paper", "1h", FIRST, ("AAA", "BBB"), "run", "me")
    done = SlotCompleted("paper", FIRST, (("AAA", "no change"), ("BBB", "buy ordered")))
    store.append([Batch("slot:1", 0, [slot, done])], Cause("daemon", "a run"))
    store.append([Batch("profile:x", 0, [ProfileSaved("x", "{}", "0" * 64)])], ME)
    store.append([Batch("run:gone", 0, [RunFailed("gone", "the disk is full")])], ME)
    return store


def everything(store: Store) -> list[NarrationLine]:
    return [narrate(row) for row in store.read_all(limit=1_000_000)]


selections = st.builds(
    build_filter,
    st.sampled_from([None, None, *GROUPS, "RiskDecided", "OrderFilled.v2", "PositionsMarked"]),
    st.sampled_from(LEVELS),
    st.sampled_from([None, "AAA", "BBB", "CCC"]),
    st.sampled_from([None, BARS[0][0].closed_at.date(), BARS[0][-1].closed_at.date(), date(2030, 1, 1)]),
)


@given(selections, st.integers(1, 400), st.sampled_from([None, run_request(BOLD).run_id, "a run"]), st.integers(3, 90))
@settings(max_examples=100)
def test_whatever_is_asked_forwards_and_backwards_find_the_same(
    told: Store, wanted: LineFilter, limit: int, run_id: str | None, page: int
) -> None:
    wanted = wanted._replace(run_id=run_id)
    expected = [line for line in everything(told) if wanted.matches(line)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narration, "PAGE", page)
        assert list(read_narration(told, wanted, told.last_position())) == expected
        assert read_latest_narration(told, wanted, told.last_position(), limit) == expected[-limit:]
        half = told.last_position() // 2
        assert list(read_narration(told, wanted, half)) == [line for line in expected if line.position <= half]


@pytest.mark.parametrize("name", [None, "denials", "OrderRejected", "RunRequested"])
def test_the_newest_warnings_are_found_without_reading_the_log(dsn: str, name: str | None) -> None:
    wanted = build_filter(name, "warning" if name != "RunRequested" else "info")
    with PostgresStore(dsn) as store:
        for label in ("", "again"):
            runs.execute_run(store, run_request(BOLD, label), BARS, ImportedAnalyst(FILE), actor="test")
        expected = list(read_narration(store, wanted, store.last_position()))[-2:]
        read: list[LogEntry] = []
        right = store.read_newest

        def noted(*arguments: Any) -> list[LogEntry]:
            found = right(*arguments)
            read.extend(found)
            return found

        store.read_newest = noted  # type: ignore[method-assign]
        assert read_latest_narration(store, wanted, store.last_position(), 2) == expected
        assert len(read) == 2
    with psycopg.connect(dsn) as conn:
        conn.execute("ANALYZE quantagent.events")
        conn.execute("SET enable_seqscan = off")
        plan = "\n".join(
            row
            for (row,) in conn.execute(
                b"EXPLAIN " + NEWEST_BY_NAME.encode(), (list(wanted.names), [b""] * len(wanted.names), 10**9, 2, 2)
            )
        )
    assert "events_by_name" in plan


def test_trades_of_a_symbol_on_a_day_are_its_fills_of_that_day(told: Store) -> None:
    day = BARS[0][40].closed_at.date()
    found = list(read_narration(told, build_filter("trades", symbol="AAA", on=day), told.last_position()))
    fills = [row for row in told.read_all(limit=1_000_000) if isinstance(row.event, OrderFilled)]
    expected = [row for row in fills if row.event.symbol == "AAA" and row.event.at.date() == day]  # type: ignore[attr-defined]
    assert [line.event for line in found] == expected != []


def test_denials_are_the_verdicts_that_denied(told: Store) -> None:
    found = list(read_narration(told, build_filter("denials"), told.last_position()))
    verdicts = [row for row in told.read_all(limit=1_000_000) if isinstance(row.event, RiskDecided)]
    denied = [row for row in verdicts if row.event.verdict is Verdict.DENIED]  # type: ignore[attr-defined]
    assert [line.event for line in found] == denied
    assert 0 < len(denied) < len(verdicts)
    assert all(line.description.startswith("DENIED ") for line in found)


def test_a_level_is_read_with_all_above_it(told: Store) -> None:
    levels = {level: list(read_narration(told, build_filter(level=level), told.last_position())) for level in LEVELS}
    assert levels["info"] == everything(told)
    assert {line.level for line in levels["notice"]} == {"notice", "warning"}
    assert {line.level for line in levels["warning"]} == {"warning"}
    kinds = {line.name for line in levels["warning"]}
    assert {"RiskDecided.v1", "OrderRejected.v1", "TradingHalted.v1", "RunFailed.v1"} <= kinds


def test_every_line_says_something_in_words_at_its_market_instant(told: Store) -> None:
    for line in everything(told):
        assert line.description
        assert line.at == (market_time(line.event.event) or line.event.meta.recorded_at)
    by_name = {line.name.partition(".")[0]: line for line in everything(told)}
    assert by_name["SlotCompleted"].description == "AAA no change; BBB buy ordered"
    assert (by_name["SlotCompleted"].symbols, by_name["SlotCompleted"].run_id) == (("AAA", "BBB"), "a run")
    assert by_name["SlotClaimed"].at == FIRST
    assert by_name["RunFailed"].description == "failed: the disk is full"
    assert by_name["RunRequested"].description == f"backtest 'again' of {FILE.variant} under test"
    assert by_name["RunEnded"].at == BARS[0][-1].closed_at
    assert by_name["ProfileSaved"].run_id == ""
    assert by_name["BookOpened"].symbols == ("AAA", "BBB")
    assert by_name["RunStarted"].at == BARS[0][0].opened_at


def test_no_event_is_without_words_of_its_own() -> None:
    # What falls through says its bare name: every type declared must have an arm in `says`.
    source = Path(narration.__file__).read_text()
    assert [kind.__name__ for kind in EVENT_TYPES if f"{kind.__name__}()" not in source] == []


def test_names_are_known_with_and_without_their_version() -> None:
    assert build_filter("OrderFilled").names == event_names([OrderFilled])
    assert build_filter("OrderFilled.v2").names == ("OrderFilled.v2",)
    assert build_filter("denials", "info").level == "warning"
    assert build_filter("trades", "warning").level == "warning"
    with pytest.raises(BadInput, match=r"event 'fills' is unknown: use one of trades, orders, .* OrderFilled"):
        build_filter("fills")
    with pytest.raises(BadInput, match="level 'loud' is unknown: use one of info, notice, warning"):
        build_filter(level="loud")


# --- As a command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env(
    server: str, seeded_template: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("home")
    with log_of_its_own(server, seeded_template[0]) as dsn:
        yield {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(home), "QUANTAGENT_ACTOR": "auditor"}


def told_as_json(env: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(env, "log", "--json", *arguments).stdout.splitlines()]


def test_all_trades_of_a_symbol_on_a_day_are_the_fills_that_the_read_tables_show(env: dict[str, str]) -> None:
    orders = answer(env, "orders", "list", "--symbol", "BTC-USD")["orders"]
    day = next(row["filled_at"][:10] for row in orders if row["filled_at"])
    listed = {row["order_id"] for row in orders if row["filled_at"] and row["filled_at"].startswith(day)}
    found = told_as_json(env, "--name", "trades", "--symbol", "BTC-USD", "--on", day, "--run", "latest")
    assert {row["payload"]["order_id"] for row in found} == listed != set()
    assert {(row["schema_version"], row["level"], row["at"][:10]) for row in found} == {(1, "notice", day)}
    assert [row["position"] for row in found] == sorted(row["position"] for row in found)


def test_the_newest_lines_come_last_and_all_of_them_with_limit_0(env: dict[str, str]) -> None:
    whole = told_as_json(env, "--limit", "0")
    assert len(whole) > 200
    assert told_as_json(env) == whole[-200:]
    assert told_as_json(env, "--limit", "3") == whole[-3:]
    header, *shown = run(env, "log", "--limit", "3").stdout.splitlines()
    assert header.split()[:2] == ["position", "time"]
    assert [line.split()[0] for line in shown] == [str(row["position"]) for row in whole[-3:]]
    nothing = run(env, "log", "--on", "1999-01-01")
    assert (nothing.stdout, nothing.stderr) == ("", "The log holds no such event.\n")


def test_denials_are_found_at_the_level_of_warnings(env: dict[str, str]) -> None:
    denials = told_as_json(env, "--name", "denials", "--limit", "0")
    assert {row["payload"]["verdict"] for row in denials} == {"DENIED"}
    warnings = told_as_json(env, "--level", "warning", "--limit", "0")
    assert [row for row in warnings if row["name"] == "RiskDecided.v1"] == denials


def test_what_cannot_be_asked_is_one_sentence(env: dict[str, str]) -> None:
    assert "fills" in refusal(env, "log", "--name", "fills")
    assert "loud" in refusal(env, "log", "--level", "loud")
    assert "never" in refusal(env, "log", "--on", "never")
    assert "abc" in refusal(env, "log", "--run", "abc")


def test_a_reader_that_has_seen_enough_ends_it_without_a_complaint(env: dict[str, str]) -> None:
    command = f"{QUANTAGENT} log --limit 0 --json | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"]


NEVER_BY_ITSELF = """
import sys
from ui.cli import main
import ui.cli.log
sys.modules["ui.cli.log"].POLL_S = 86_400.0
main()
"""


@pytest.mark.slow(23)
def test_what_is_appended_wakes_a_follower_and_a_lost_connection_is_made_again(env: dict[str, str]) -> None:
    # It looks without being woken once in a day: what it tells in a test, it was woken for.
    command = [
        sys.executable,
        "-P",
        "-c",
        NEVER_BY_ITSELF,
        "log",
        "--follow",
        "--json",
        "--limit",
        "1",
        "--name",
        "ProfileSaved",
    ]

    with PostgresStore(env["QUANTAGENT_DSN"]) as store:

        def append(name: str) -> None:
            store.append([Batch(f"profile:{name}", 0, [ProfileSaved(name, "{}", "0" * 64)])], ME)

        append("before")
        with running(command, env) as followed:
            said = heard(followed)
            assert said.get(timeout=WAIT_TIMEOUT_S)["payload"]["name"] == "before"
            # When this one is told, the command has certainly begun to wait for the next.
            append("second")
            assert said.get(timeout=WAIT_TIMEOUT_S)["payload"]["name"] == "second"
            append("third")
            assert said.get(timeout=WAIT_TIMEOUT_S)["payload"]["name"] == "third"
            cut_connections(env["QUANTAGENT_DSN"])
            append("fourth")
            assert said.get(timeout=WAIT_TIMEOUT_S)["payload"]["name"] == "fourth"
            append("fifth")
            assert said.get(timeout=WAIT_TIMEOUT_S)["payload"]["name"] == "fifth"
            followed.send_signal(signal.SIGINT)
            assert followed.wait(timeout=WAIT_TIMEOUT_S) == 0
            assert followed.stderr is not None
            assert followed.stderr.read() == ""


@contextmanager
def running(command: Sequence[str], env: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    """A process that ends with its test, whatever comes of that."""
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> Queue[dict[str, Any]]:
    """The lines of a process, as they come."""
    said: Queue[dict[str, Any]] = Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    return said


def cut_connections(dsn: str) -> None:
    """What a restart of the server does to those who are connected."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
