"""The paper broker's own record: written once, exact, and equal to the book whatever dies in between."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from psycopg.conninfo import make_conninfo

from engine.broker import blotter as blotter_module
from engine.broker.blotter import AccountState, PostgresBlotter
from engine.broker.paper import BrokerReport
from engine.broker.reconciliation import account_state_of, compare_account
from engine.core.config import Exits, Shorting, digest_of
from engine.core.errors import NotFound, RecordDiffers, StoreUnavailable
from engine.core.events import (
    BookEvent,
    CashAdjusted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
)
from engine.core.intents import Intent
from engine.core.market import Direction, Side
from engine.core.money import ONE, exact
from engine.data.timeline import time_slices
from engine.runtime.session import Journal, Session
from engine.store import Cause
from engine.store.memory import MemoryStore
from engine.trading.book import Book, fold
from tests.support.cut_connections import Line, line
from tests.support.paths import ROOT
from tests.support.strategies import FIRST, History, Scripted, bar_at, config_of, histories

__all__ = ["line"]

AT = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
RUN = "00000000-0000-0000-0000-000000000001"


def order(order_id: str = "o1", quantity: str = "10", pair: str = "", at: datetime = AT) -> OrderPlaced:
    return OrderPlaced(
        order_id, "s1", "a1", "AAA", at, Side.BUY, exact(quantity), exact("100"), exact("1000"), pair=pair
    )  # fmt: skip


def fill(order_id: str = "o1", quantity: str = "4", at: datetime = AT, side: Side = Side.BUY) -> OrderFilled:
    units = exact(quantity)
    notional = exact(units * Decimal("100.25"))
    return OrderFilled(
        order_id, "AAA", AT, at, side, units, exact("100.25"), exact("100"), notional, exact("0"), exact("0.1"), at
    )


@pytest.fixture
def blotter(dsn: str) -> Iterator[PostgresBlotter]:
    with closing(PostgresBlotter(dsn, RUN)) as opened:
        opened.open(exact("10000"), "USD")
        yield opened


# --- One record ---------------------------------------------------------------------------------------------------


def test_the_record_answers_what_a_broker_is_asked(blotter: PostgresBlotter) -> None:
    blotter.record([order()])
    blotter.record([fill(), CashAdjusted(AT, exact("-0.000000000001"), "borrow_cost", "AAA")])
    assert blotter.get_balance() == exact("9598.899999999999")
    assert blotter.get_positions() == {"AAA": exact("4")}
    assert blotter.working_orders() == {"o1": exact("6")}
    blotter.record([fill(quantity="6", at=AT + HOUR)])
    assert blotter.working_orders() == {}
    assert [(each.n, each.quantity, each.price) for each in blotter.executions()] == [
        (1, exact("4"), exact("100.25")),
        (2, exact("6"), exact("100.25")),
    ]
    assert blotter.account_state(AT) == AccountState(
        exact("9598.899999999999"), {"AAA": exact("4")}, {"o1": exact("6")}
    )


@pytest.mark.parametrize(
    "ending",
    [
        OrderCanceled("o1", "AAA", AT, "why"),
        OrderExpired("o1", "AAA", AT),
        OrderReplaced("o1", "AAA", AT, "o2"),
        OrderRejected("o1", "AAA", AT, "why", exact("2"), exact("1")),
    ],
)
def test_an_order_that_ended_does_not_work_any_more(
    blotter: PostgresBlotter, ending: OrderCanceled | OrderExpired | OrderReplaced | OrderRejected
) -> None:
    blotter.record([order(), order("o2")])
    blotter.record([ending])
    assert blotter.working_orders() == {"o2": exact("10")}


def test_what_one_order_of_a_pair_fills_the_other_has_not_left(blotter: PostgresBlotter) -> None:
    # The pair bears the id of the entry whose position it protects; the entry's own fills take nothing from it.
    blotter.record([order("o1"), fill("o1", "10"), order("o1.stop", pair="o1"), order("o1.target", pair="o1")])
    blotter.record([fill("o1.stop", "3", side=Side.SELL)])
    assert blotter.working_orders() == {"o1.stop": exact("7"), "o1.target": exact("7")}


STEPS = [
    [order()],
    [fill(), CashAdjusted(AT, exact("-1"), "borrow_cost", "AAA")],
    [fill(quantity="3", at=AT + HOUR)],
    [OrderCanceled("o1", "AAA", AT + HOUR, "why")],
]


def test_saying_everything_again_changes_nothing(dsn: str) -> None:
    found = set[str]()
    for _ in range(3):
        with closing(PostgresBlotter(dsn, RUN)) as again:
            again.open(exact("10000"), "USD")
            for step in STEPS:
                again.record(step)
            found.add(repr((again.account_state(), again.executions())))
    assert len(found) == 1
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("SELECT count(*), count(DISTINCT (client_order_id, n)) FROM quantagent.paper_executions")
        assert rows.fetchone() == (2, 2)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ([order(quantity="11")], "paper_orders o1"),
        ([fill(quantity="5")], "paper_executions o1 1"),
        ([CashAdjusted(AT, exact("-2"), "borrow_cost", "AAA")], "paper_cash .* borrow_cost"),
        ([OrderExpired("o1", "AAA", AT)], "paper_endings o1"),
        ([order("new"), OrderExpired("o1", "AAA", AT)], "paper_endings o1"),
    ],
)
def test_something_else_under_the_same_id_is_refused_and_nothing_of_it_written(
    dsn: str, other: Sequence[OrderPlaced | BrokerReport], what: str
) -> None:
    with closing(PostgresBlotter(dsn, RUN)) as first:
        first.open(exact("10000"), "USD")
        for step in STEPS:
            first.record(step)
        before = first.account_state(), first.executions()
    with closing(PostgresBlotter(dsn, RUN)) as again:
        with pytest.raises(RecordDiffers, match=f"run 00000000 holds a different {what}"):
            again.record(other)
        with pytest.raises(RecordDiffers, match="a different opening balance"):
            again.open(exact("10000.01"), "USD")
        assert (again.account_state(), again.executions()) == before


def test_runs_have_records_of_their_own_and_an_account_never_opened_has_no_balance(blotter: PostgresBlotter) -> None:
    blotter.record([order()])
    with closing(PostgresBlotter(blotter._dsn, "another")) as other:  # pyright: ignore[reportPrivateUsage]
        assert other.account_state() == AccountState(None, {}, {})
        with pytest.raises(NotFound, match="no account of run another"):
            other.get_balance()


def test_what_the_book_holds_already_is_not_told_again(dsn: str, blotter: PostgresBlotter) -> None:
    with closing(PostgresBlotter(dsn, RUN, recorded_until=AT)) as later:
        later.record([order(), fill()])
        assert later.working_orders() == {}
        blotter.record([order(), fill()])
        later.record([fill(quantity="3", at=AT + HOUR)])
        assert [(each.n, each.quantity) for each in later.executions()] == [(1, exact("4")), (2, exact("3"))]


@pytest.mark.parametrize("table", ["accounts", "orders", "executions", "endings", "cash", "slots"])
def test_not_even_the_owner_changes_a_row_in_passing(dsn: str, table: str) -> None:
    for change in (f"DELETE FROM quantagent.paper_{table}", f"UPDATE quantagent.paper_{table} SET run_id = run_id"):
        with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
            conn.execute(change.encode())


def test_a_slot_is_told_once_whatever_comes_later(dsn: str, blotter: PostgresBlotter) -> None:
    assert blotter.slot_version(AT) is None
    assert (blotter.record_slot_version(AT, 3), blotter.record_slot_version(AT, 4), blotter.slot_version(AT)) == (
        3,
        3,
        3,
    )
    assert blotter.slot_version(AT + HOUR) is None
    assert blotter.record_slot_version(AT + HOUR, 4) == 4


# --- Connections that break ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_record_survives_a_cut_around_every_commit(line: Line, mode: str) -> None:
    with closing(PostgresBlotter(line.through_proxy, RUN)) as cut, closing(PostgresBlotter(line.dsn, RUN)) as plain:
        cut.open(exact("10000"), "USD")
        for cuts, step in enumerate(STEPS, 1):
            line.proxy.cut(mode)
            cut.record(step)
            assert line.proxy.cuts == cuts
        assert plain.get_balance() == exact("10000") - exact("7") * exact("100.25") - exact("0.2") - 1
        assert len(plain.executions()) == 2


def test_a_lost_connection_is_made_anew(dsn: str, blotter: PostgresBlotter) -> None:
    blotter.record([order()])
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    blotter.record([fill()])
    assert blotter.working_orders() == {"o1": exact("6")}


def test_a_server_that_stays_away_is_given_up_with_the_reason(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.broker.blotter.RECOVERY", timedelta(seconds=0.3))
    nowhere = make_conninfo(dsn, dbname="nowhere")
    with (
        closing(PostgresBlotter(nowhere, RUN)) as lost,
        pytest.raises(StoreUnavailable, match=r"record cannot be used: the server has no such database\. Check that"),
    ):
        lost.working_orders()


def test_a_refusal_of_the_database_is_not_waited_for(
    dsn: str, blotter: PostgresBlotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(blotter_module, "sleep", pauses.append)
    hurried = make_conninfo(dsn, options="-c statement_timeout=100ms")
    with (
        closing(PostgresBlotter(hurried, RUN)) as waiting,
        psycopg.connect(dsn) as conn,
        conn.transaction(force_rollback=True),
    ):
        conn.execute("LOCK TABLE quantagent.paper_orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            waiting.record([order()])
    assert pauses == []
    assert blotter.working_orders() == {}


# --- Against the book ---------------------------------------------------------------------------------------------


def book_of(store: MemoryStore) -> Book:
    return fold(row.event for row in store.read("book:law") if isinstance(row.event, BookEvent))


def drive(history: History, store: MemoryStore, blotter: PostgresBlotter) -> None:
    """One life of a process that flushes after every step, as the daemon does."""
    journal = Journal(store, "book:law", Cause("a law"))
    config = history.config
    session = Session(config, digest_of(config), Scripted(history.script), journal, blotter)
    for moment in time_slices(history.bars):
        session.advance(moment)
        journal.flush()
        assert compare_account(session.book, blotter.account_state(moment.at)) == compare_account(
            session.book, account_state_of(session.book)
        )
    session.end()


@given(histories())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_sums_of_the_record_equal_the_book_after_every_step_of_any_history(dsn: str, history: History) -> None:
    store, run_id = MemoryStore(), str(next(_runs))
    with closing(PostgresBlotter(dsn, run_id)) as blotter:
        blotter.open(history.config.cash, "USD")
        drive(history, store, blotter)


_runs = iter(range(10**9))


def eventful() -> History:
    """Longs and shorts in brackets, filled in parts, over session rolls that charge for what is borrowed."""
    config = msgspec.structs.replace(
        config_of(quantity="10", commission_bps="10", slippage_bps="5"),
        exits=Exits(None, stop_pct=exact("2"), risk_reward=exact("1.5")),
        shorting=Shorting(borrow_pct=exact("3")),
    )
    config = msgspec.structs.replace(config, costs=msgspec.structs.replace(config.costs, volume_cap_pct=exact("50")))
    closes = [100, 101, 104, 104, 103, 102, 102, 101, 97, 98, 99, 100, 101, 102, 102, 101, 103, 99]
    bars = [
        msgspec.structs.replace(bar_at("AAA", FIRST + n * HOUR, str(before), str(after)), volume=exact("12"))
        for n, (before, after) in enumerate(pairwise(closes))
    ]
    wishes = {0: Direction.LONG, 2: Direction.SHORT, 10: Direction.LONG, 12: Direction.SHORT, 15: Direction.FLAT}
    script = {("AAA", bars[n].closed_at): Intent("AAA", direction, ONE, f"w{n}") for n, direction in wishes.items()}
    return History(config, [bars], script)


class Killed(BaseException):
    """The process dies here."""


class Dying:
    """Counts the places at which a process can die around the broker's record and the log, and dies at one."""

    def __init__(self, patch: pytest.MonkeyPatch, deadly: int) -> None:
        self.hits, self._deadly = 0, deadly
        for kind, name in ((PostgresBlotter, "record"), (Journal, "flush")):
            patch.setattr(kind, name, self._around(getattr(kind, name)))

    def _around(self, work: Callable[..., None]) -> Callable[..., None]:
        def dying(*arguments: object) -> None:
            self._hit()
            work(*arguments)
            self._hit()

        return dying

    def _hit(self) -> None:
        self.hits += 1
        if self.hits == self._deadly:
            raise Killed


def live(dsn: str, run_id: str, store: MemoryStore, deadly: int) -> int:
    """A process that goes on where the log ends and dies at the n-th place, if it has as many. Places passed."""
    stored = list(store.read("book:law"))
    until: datetime | None = getattr(stored[-1].event, "at", None) if stored else None
    with closing(PostgresBlotter(dsn, run_id, until)) as blotter, pytest.MonkeyPatch.context() as patch:
        blotter.open(eventful().config.cash, "USD")
        dying = Dying(patch, deadly)
        with suppress(Killed):
            drive(eventful(), store, blotter)
        return dying.hits


def lives(dsn: str, run_id: str, deadly: int) -> tuple[int, str]:
    """A process that dies at the n-th place, and one after it. The places the first passed, and all that came of it."""
    store = MemoryStore()
    passed = live(dsn, run_id, store, deadly)
    live(dsn, run_id, store, 0)
    with closing(PostgresBlotter(dsn, run_id)) as blotter:
        assert all(each.equal for each in compare_account(book_of(store), blotter.account_state()))
        return passed, repr(
            ([row.payload for row in store.read("book:law")], blotter.account_state(), blotter.executions())
        )


@pytest.mark.slow(9)
def test_wherever_a_process_dies_no_order_and_no_fill_is_doubled_or_lost(dsn: str) -> None:
    places, expected = lives(dsn, "whole", 0)
    assert places > 60
    with psycopg.connect(dsn) as conn:
        of_each = "SELECT client_order_id, count(*) FROM quantagent.paper_executions GROUP BY 1 HAVING count(*) > 1"
        assert len(conn.execute(of_each).fetchall()) > 2, "some orders were filled in parts"
        assert conn.execute("SELECT count(*) FROM quantagent.paper_cash").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM quantagent.paper_endings").fetchone() != (0,)
    for deadly in range(1, places + 1):
        passed, found = lives(dsn, f"dies at {deadly}", deadly)
        assert passed == deadly
        assert found == expected


# --- One caller ---------------------------------------------------------------------------------------------------


def callers(folder: Path) -> list[str]:
    """Where `place_order` is called or taken as a value, in every module that is no test: `module:function`."""
    found: list[str] = []
    for path in sorted(folder.rglob("*.py")):
        where = path.relative_to(folder)
        if where.parts[0] in ("tests", "docker") or where.parts[0].startswith("."):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
                own = [node for statement in function.body for node in _without_functions(statement)]
                named = [node for node in own if isinstance(node, ast.Attribute) and node.attr == "place_order"]
                by_text = [node for node in own if isinstance(node, ast.Constant) and node.value == "place_order"]
                found += [f"{where}:{getattr(function, 'name', '')}"] * len([*named, *by_text])
    return found


def _without_functions(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _without_functions(child)


def test_orders_are_placed_from_one_place_in_the_whole_tree() -> None:
    assert callers(ROOT) == ["engine/broker/paper.py:route_orders"]


def test_a_second_caller_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class A:\n    def f(self, b):\n        b.place_order(1)\n")
    (tmp_path / "b.py").write_text("place = broker.place_order\nother = getattr(broker, 'place_order')\n")
    assert callers(tmp_path) == ["a.py:f", "b.py:", "b.py:"]
