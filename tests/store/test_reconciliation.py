"""One cent or one unit between book and broker halts the account in the slot that finds it; a person goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from engine.broker.blotter import AccountState
from engine.broker.reconciliation import SHOWN_MAX, compare_account, describe_discrepancies
from engine.core.events import AlertRaised, SignalRaised, TradingHalted, TradingResumed
from engine.core.money import exact
from engine.runtime import halts, runs
from engine.trading.book import Book, Position
from tests.support.commands import answer, run
from tests.support.databases import database
from tests.support.halted_accounts import ANNA, END, START, analysed, book, drive, drive_with, resume, slot
from ui.app import App, open_app
from ui.services.replay import run_replay
from ui.settings import Settings

pytestmark = pytest.mark.slow

__all__ = ["analysed"]


@pytest.fixture
def app(server: str, analysed: str, tmp_path: Path) -> Iterator[App]:
    with database(server, analysed) as dsn, open_app(Settings(tmp_path, dsn, "anna")) as opened:
        yield opened


@pytest.fixture
def env(app: App, tmp_path: Path) -> dict[str, str]:
    dsn, home = str(app.settings.dsn), str(tmp_path)
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": home, "QUANTAGENT_ACTOR": "anna"}


def tamper(app: App, statement: str) -> None:
    """What somebody with the owner's rights could do to the broker's record."""
    with psycopg.connect(str(app.settings.dsn)) as conn:
        conn.execute("SET session_replication_role = replica")
        assert conn.execute(statement.encode()).rowcount == 1


def alarms(app: App) -> list[str]:
    rows = app.store.read(halts.control_stream("paper"))
    return [row.event.detail for row in rows if isinstance(row.event, AlertRaised)]


# --- Comparing ----------------------------------------------------------------------------------------------------


def test_what_one_record_lacks_is_a_difference_and_not_zero() -> None:
    held = {"AAA": Position("AAA", exact("1"), exact("1"), START, None)}
    lines = compare_account(
        Book(cash=exact("0"), positions=held), AccountState(None, {"BBB": exact("0")}, {"o1": exact("0")})
    )
    assert [line.what for line in lines if not line.equal] == ["cash", "position AAA", "position BBB", "order o1"]
    assert describe_discrepancies(lines).startswith(
        "cash is 0 in the book and missing at the broker; position AAA is 1 in the book and missing at the broker; "
        "position BBB is missing in the book and 0 at the broker"
    )


def test_many_differences_are_told_in_a_few_words() -> None:
    lines = compare_account(Book(), AccountState(exact("0"), {f"S{n}": exact("1") for n in range(9)}, {}))
    assert describe_discrepancies(lines).endswith(f"; and {9 - SHOWN_MAX} more")
    assert describe_discrepancies(compare_account(Book(), AccountState(exact("0"), {}, {}))) == ""


# --- The daemon ---------------------------------------------------------------------------------------------------

# At the 63rd close a position is held, with a stop and a target beside it.
OPEN = slot(63)
FILL, STOP = "at = '2017-08-17 14:00Z'", "client_order_id LIKE '%.stop'"
CENT = "UPDATE quantagent.paper_executions SET commission = commission + 0.01 WHERE at = '2017-08-15 07:00Z'"
TAMPERINGS = {
    "a cent of commission": CENT,
    "a part of a unit": f"UPDATE quantagent.paper_executions SET quantity = quantity + 0.00000001 WHERE {FILL}",
    "a fill that is gone": f"DELETE FROM quantagent.paper_executions WHERE {FILL}",
    "a stop that is gone": f"DELETE FROM quantagent.paper_orders WHERE {STOP}",
    "a stop of another size": f"UPDATE quantagent.paper_orders SET quantity = quantity + 1 WHERE {STOP}",
    "an account that is gone": "DELETE FROM quantagent.paper_accounts",
    "an order that nobody decided": (
        "INSERT INTO quantagent.paper_orders SELECT run_id, 'mine', at, symbol, side, 1, '', payload "
        "FROM quantagent.paper_orders LIMIT 1"
    ),
    "cash that moved": (
        "INSERT INTO quantagent.paper_cash SELECT run_id, '2017-08-16Z', '', 'borrow_cost', -0.01, '' "
        "FROM quantagent.paper_accounts"
    ),
}


@pytest.mark.slow(15)
@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_drift_halts_everything_in_the_slot_that_finds_it(app: App, env: dict[str, str], tampering: str) -> None:
    daemon = drive(app, {OPEN: lambda: tamper(app, TAMPERINGS[tampering])}, OPEN)
    events = book(app, daemon.run_id)
    (halted,) = (event for event in events if isinstance(event, TradingHalted))
    assert (halted.at, halted.scope, halted.actor) == (OPEN, "everything", halts.RECONCILIATION)
    assert not any(isinstance(event, SignalRaised) and event.at == OPEN for event in events[: events.index(halted)])
    assert halted.reason == alarms(app)[0]
    assert json.loads(run(env, "paper", "reconcile", "--json", code=3).stdout)["equal"] is False


def test_an_alarm_is_raised_once_and_again_after_a_resume_until_the_record_is_mended(app: App) -> None:
    mended = CENT.replace("+ 0.01", "- 0.01")
    happens = {
        slot(20): lambda: tamper(app, CENT),
        slot(30): lambda: resume(app),
        slot(40): lambda: tamper(app, mended),
        slot(50): lambda: resume(app),
    }
    daemon = drive(app, dict(happens))
    held = [event for event in book(app, daemon.run_id) if isinstance(event, TradingHalted | TradingResumed)]
    assert [(event.actor, event.at) for event in held] == [
        (halts.RECONCILIATION, slot(20)),
        (ANNA, slot(30)),
        (halts.RECONCILIATION, slot(30)),
        (ANNA, slot(50)),
    ]
    assert len(alarms(app)) == 2
    made, again = runs.result_of(app.store, daemon.run_id), run_replay(app, daemon.run_id).result
    assert made is not None
    assert again.ended.book_digest == made.ended.book_digest


def test_a_drift_made_while_no_daemon_runs_is_found_at_the_start(app: App, env: dict[str, str]) -> None:
    stopped = drive_with(app, None, slot(30))
    assert run(env, "paper", "reconcile").returncode == 0
    tamper(app, CENT)
    assert run(env, "paper", "reconcile", code=3).stdout.count("no") >= 1
    assert drive_with(app, None, END) == stopped
    (halted,) = (event for event in book(app, stopped) if isinstance(event, TradingHalted))
    assert halted.at == slot(31)
    assert len(alarms(app)) == 1
    assert "cash is " in alarms(app)[0]


def test_two_records_that_agree_are_shown_side_by_side(app: App, env: dict[str, str]) -> None:
    daemon = drive(app, {}, slot(63))
    shown = answer(env, "paper", "reconcile")
    assert (shown["equal"], shown["run_id"]) == (True, daemon.run_id)
    kinds = [str(line["what"]).split()[0] for line in shown["lines"]]
    assert kinds == ["cash", "position", "order", "order"]
    assert all(line["book"] == line["broker"] for line in shown["lines"])
    assert "position BTC-USD" in run(env, "paper", "reconcile").stdout


def test_an_account_that_nobody_drove_cannot_be_reconciled(env: dict[str, str]) -> None:
    assert "no daemon has driven account 'other'" in run(env, "paper", "reconcile", "--account", "other", code=2).stderr
