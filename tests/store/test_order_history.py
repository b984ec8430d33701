"""An order's original and every state after it can be made again from the log, with who, when and what changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest

from engine.audit.order_history import OrderState, order_history
from engine.core.errors import NotFound
from engine.core.events import OrderFilled, OrderPlaced, OrderRejected, RiskDecided, RunRequested, SignalRaised
from engine.core.money import ZERO, add
from engine.data.signals import ImportedAnalyst
from engine.runtime import runs
from engine.store import ENGINE_VERSION, Store
from engine.store.memory import MemoryStore
from tests.support.commands import answer, refusal, run
from tests.support.databases import log_of_its_own
from tests.support.worlds import BARS, BOLD, FILE, run_request

Bold = tuple[Store, RunRequested]


@pytest.fixture(scope="module")
def bold() -> Bold:
    """A run with orders that were filled, filled in part and then refused, and refused."""
    store = MemoryStore()
    return store, runs.execute_run(store, run_request(BOLD), BARS, ImportedAnalyst(FILE), actor="tester").request


def placed(bold: Bold) -> list[OrderPlaced]:
    store, asked = bold
    return [row.event for row in store.read(runs.book_stream(asked.run_id)) if isinstance(row.event, OrderPlaced)]


def names(states: list[OrderState]) -> list[str]:
    return [state.state for state in states]


def test_every_order_is_made_again_as_its_events_tell_it(bold: Bold) -> None:
    store, asked = bold
    seen: set[tuple[str, ...]] = set()
    for order in placed(bold):
        found = order_history(store, asked, order.order_id)
        first, last = found.states[0], found.states[-1]
        assert (first.row.event, first.filled, first.remaining) == (order, ZERO, order.quantity)
        assert first.average_price is None
        assert all(add(state.filled, state.remaining) == order.quantity for state in found.states)
        assert (last.state == "filled") is (last.remaining == 0)
        assert [state.row.version for state in found.states] == sorted({state.row.version for state in found.states})
        for state in found.states:
            assert (state.row.meta.actor, state.row.meta.engine) == ("tester", ENGINE_VERSION)
        fills = [state.row.event for state in found.states if isinstance(state.row.event, OrderFilled)]
        if fills:
            worth = sum((fill.price * fill.quantity for fill in fills), ZERO)
            assert last.average_price is not None
            assert abs(last.average_price * last.filled - worth) <= last.filled * Decimal("1e-12")
        if len(fills) == 1:
            assert last.average_price == fills[0].price
        seen.add(tuple(names(found.states)))
    waiting = ("placed",)
    assert seen == {waiting, ("placed", "filled"), ("placed", "rejected"), ("placed", "partly filled", "rejected")}


def test_an_order_tells_the_signal_and_the_verdict_it_came_from(bold: Bold) -> None:
    store, asked = bold
    order = placed(bold)[0]
    found = order_history(store, asked, order.order_id)
    assert found.signal is not None
    assert found.verdict is not None
    assert isinstance(found.signal.event, SignalRaised)
    assert isinstance(found.verdict.event, RiskDecided)
    assert found.signal.event.signal_id == found.verdict.event.signal_id == order.signal_id
    assert found.signal.position < found.verdict.position < found.states[0].row.position


def test_until_an_instant_there_is_only_what_had_happened(bold: Bold) -> None:
    store, asked = bold
    order = placed(bold)[3]
    whole = order_history(store, asked, order.order_id)
    assert order_history(store, asked, order.order_id, order.at).states == whole.states
    with pytest.raises(NotFound, match=r"was placed at 20.*Z: at 20.*Z it did not exist yet"):
        order_history(store, asked, order.order_id, order.at - timedelta(seconds=1))
    recorded_at = whole.states[0].row.meta.recorded_at
    assert order_history(store, asked, order.order_id, recorded_at, recorded=True).states
    with pytest.raises(NotFound, match="it did not exist yet"):
        order_history(store, asked, order.order_id, recorded_at - timedelta(hours=1), recorded=True)


def test_a_partly_filled_order_had_its_interim_state(bold: Bold) -> None:
    store, asked = bold
    refused = [
        row.event.order_id for row in store.read(runs.book_stream(asked.run_id)) if isinstance(row.event, OrderRejected)
    ]
    found = next(found for order_id in refused if len((found := order_history(store, asked, order_id)).states) == 3)
    interim, end = found.states[1:]
    assert 0 < interim.filled < found.order.quantity
    assert (end.filled, end.remaining, end.average_price) == (interim.filled, interim.remaining, interim.average_price)


def test_an_order_is_found_by_a_beginning_that_no_other_has(bold: Bold) -> None:
    store, asked = bold
    orders = placed(bold)
    assert order_history(store, asked, "latest").order == orders[-1]
    assert order_history(store, asked, "latest", orders[5].at).order.at == orders[5].at
    assert order_history(store, asked, orders[2].order_id.removesuffix("-1")).order == orders[2]
    with pytest.raises(NotFound, match=rf"order 'order-' matches {len(orders)} orders of run .*: use a longer id\."):
        order_history(store, asked, "order-")
    for unknown in ("", "order-XXX", "signal-AAA"):
        with pytest.raises(NotFound, match=f"has no order '{unknown}'") as refused:
            order_history(store, asked, unknown)
        assert (refused.value.code, refused.value.fields["count"]) == ("ORDER_UNKNOWN", len(orders))
    with pytest.raises(NotFound, match="had placed no order by then"):
        order_history(store, asked, "latest", orders[0].at - timedelta(seconds=1))


# --- As a command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env(
    server: str, seeded_template: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("home")
    with log_of_its_own(server, seeded_template[0]) as dsn:
        yield {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(home), "QUANTAGENT_ACTOR": "auditor"}


def test_the_command_tells_who_when_and_what(env: dict[str, str]) -> None:
    (*_, listed) = [row for row in answer(env, "orders", "list")["orders"] if row["status"] == "filled"]
    told = answer(env, "audit", "recreate", listed["order_id"])
    original, filled = told["states"]
    assert (original["state"], original["name"], filled["state"]) == ("placed", "OrderPlaced.v3", "filled")
    assert (original["actor"], original["engine"]) == ("tester", ENGINE_VERSION)
    assert Decimal(filled["average_price"]) == Decimal(filled["payload"]["price"])
    assert told["risk_decision"]["payload"]["signal_id"] == told["signal"]["payload"]["signal_id"]
    shown = run(env, "audit", "recreate", listed["order_id"], "--as-of", listed["placed_at"]).stdout
    assert "tester" in shown
    assert original["recorded_at"][:10] in shown
    assert json.dumps(told["states"]).count(listed["order_id"]) >= 2


def test_what_does_not_exist_is_one_sentence(env: dict[str, str]) -> None:
    assert "has no order 'order-7'" in refusal(env, "audit", "recreate", "order-7")
    assert "had placed no order" in refusal(env, "audit", "recreate", "latest", "--as-of", "2017-11-01")
    assert "soon" in refusal(env, "audit", "recreate", "latest", "--as-of", "soon")
