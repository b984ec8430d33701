"""Why, and why not: from any id to the whole chain, from the log alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest

from engine.audit.why import ChainLink, analyst_reasons, causal_chain, evaluated_checks
from engine.core import ids, intents
from engine.core.config import Exits
from engine.core.errors import BadInput, NotFound
from engine.core.events import AnalysisMade, BookEvent, Environment, OrderFilled, RiskDecided, RunRequested
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, instant_text
from engine.core.money import exact
from engine.runtime import runs
from engine.store import Batch, Cause, Store
from engine.store.memory import MemoryStore
from engine.trading.risk import RULES
from tests.support.market_hours import hours
from tests.support.strategies import HOUR, config_of

MONDAY = datetime(2024, 1, 8, tzinfo=UTC)
LONG, SHORT, FLAT, HOLD = Direction.LONG, Direction.SHORT, Direction.FLAT, Direction.HOLD
ENTRY, TURN = "order-AAA-20240108T010000Z-1", "order-AAA-20240108T030000Z-1"
# What the analyst says at the close of each bar. At 05:00 nothing is left of the holding time of the short.
OPINIONS = [LONG, HOLD, SHORT, SHORT, HOLD, LONG, LONG, HOLD]
PRICES = [("100", "100")] * 6 + [("1000", "1000"), ("100", "100")]


class Analysts:
    """Stores each opinion as a fact before it is consulted."""

    def __init__(self, store: Store, bars: Sequence[Bar], opinions: Sequence[Direction]) -> None:
        self._wishes: dict[datetime, Intent] = {}
        for bar, direction in zip(bars, opinions, strict=True):
            at = bar.closed_at
            made = AnalysisMade(
                analysis_id=f"AAA.1h@{instant_text(at)}.rules.0123", symbol="AAA", timeframe="1h", as_of=at,
                variant="rules", decision=direction, confidence=exact("0.5"), horizon_bars=None, risk_reward=None,
                reports=f'{{"decision":{{"reasons":["because of {direction}"]}}}}', window_digest="0123", window_bars=7,
                agent_version="1",
            )  # fmt: skip
            store.append([Batch(ids.analysis_stream(made.analysis_id), 0, [made])], Cause("test"))
            self._wishes[at] = intents.intent_of(made, 1)

    def intent(self, bar: Bar) -> Intent:
        return self._wishes[bar.closed_at]


@pytest.fixture(scope="module")
def told() -> tuple[Store, RunRequested]:
    """Long at 01:00, turned short at 03:00, given up after two bars at 05:00, and an entry at 06:00 that fails."""
    store = MemoryStore()
    bars = hours("AAA", PRICES)
    config = config_of(cash="2000", quantity="10", commission_bps="0", holding_bars=2, reduce=False)
    asked = runs.request(
        Environment.BACKTEST, config, profile="test", dataset_digest="d", variant="rules", start=MONDAY,
        end=bars[-1].closed_at,
    )  # fmt: skip
    return store, runs.execute_run(store, asked, [bars], Analysts(store, bars, OPINIONS), actor="test").request


Told = tuple[Store, RunRequested]


def kinds(links: list[ChainLink]) -> list[str]:
    return [link.kind for link in links]


FILLED = ["analysis", "signal", "risk decision", "order", "fill"]


def test_an_order_goes_back_to_the_opinion_and_forth_to_the_fill(told: Told) -> None:
    links = causal_chain(*told, ENTRY)
    assert kinds(links) == FILLED
    assert [link.key for link in links] == [
        "AAA.1h@20240108T010000Z.rules.0123",
        "signal-AAA-20240108T010000Z-1",
        "signal-AAA-20240108T010000Z-1",
        ENTRY,
        ENTRY,
    ]  # fmt: skip
    assert [link.says for link in links] == [
        "rules: LONG, confidence 0.5, from 7 bars",
        "LONG from analysis, close 100",
        "APPROVED BUY 10: all checks passed",
        "BUY 10 AAA, entry MARKET GTC",
        "BUY 10 at 100 (open 100), commission 0",
    ]
    assert {link.at for link in links} == {MONDAY + HOUR}
    positions = [link.position for link in links]
    assert positions == sorted(positions)
    # The other rules are off, and say so in the event.
    saw = ["wish", "quantity", "price", "cash", "duplicate", "shorts", "incompatible_position", "halt"]
    assert [rule for rule, *_ in evaluated_checks(links)] == saw
    (verdict,) = [link.event.event for link in links if link.event and isinstance(link.event.event, RiskDecided)]
    assert [check.rule for check in verdict.checks] == list(RULES)
    assert analyst_reasons(links[0]) == ["because of LONG"]
    assert analyst_reasons(links[1]) == []


def test_a_signal_and_its_analysis_tell_the_same_chain_as_the_order(told: Told) -> None:
    chain = causal_chain(*told, ENTRY)
    assert causal_chain(*told, "signal-AAA-20240108T010000Z-1") == chain
    assert causal_chain(*told, "AAA.1h@20240108T010000Z.rules.0123") == chain
    assert causal_chain(*told, "AAA@2024-01-08T01:00Z") == chain
    assert causal_chain(*told, "AAA@2024-01-08T02:00+01:00") == chain
    assert causal_chain(*told, "AAA@2024-01-08T01:00") == chain


def test_a_trade_is_told_from_its_entry_to_the_order_that_turned_it(told: Told) -> None:
    assert causal_chain(*told, "trade-AAA-20240108T010000Z-1") == [
        *causal_chain(*told, ENTRY),
        *causal_chain(*told, TURN),
    ]


def test_a_trade_that_its_holding_time_ended_has_a_signal_without_an_analysis(told: Told) -> None:
    links = causal_chain(*told, "trade-AAA-20240108T030000Z-1")
    assert kinds(links) == [*FILLED, "signal", "risk decision", "order", "fill"]
    assert links[5].says == "FLAT from holding_time, close 100"
    assert links[6].says == "APPROVED BUY 10: reduces the position"


def test_a_bar_where_the_book_acted_by_its_own_rule_tells_both(told: Told) -> None:
    links = causal_chain(*told, "AAA@2024-01-08T05:00Z")
    assert kinds(links) == ["signal", "risk decision", "order", "fill", "analysis", "nothing"]
    assert links[-1].says == "no signal: the analysis was HOLD"


def test_a_bar_where_nothing_was_done_says_why_not(told: Told) -> None:
    hold = causal_chain(*told, "AAA@2024-01-08T02:00Z")
    assert kinds(hold) == ["analysis", "nothing"]
    assert hold[-1].says == "no signal: the analysis was HOLD"
    held = causal_chain(*told, "AAA@2024-01-08T04:00Z")
    assert held[-1].says == "no signal: the book was already SHORT, or an order for it was working"


def test_an_order_that_the_broker_refused_ends_with_the_refusal(told: Told) -> None:
    links = causal_chain(*told, "order-AAA-20240108T060000Z-1")
    assert kinds(links) == ["analysis", "signal", "risk decision", "order", "rejection"]
    assert links[-1].says == "not enough free cash at the fill price: 10000 needed, 2000 free"


def test_a_signal_that_the_gate_denied_ends_with_the_verdict(told: Told) -> None:
    links = causal_chain(*told, "AAA@2024-01-08T07:00Z")
    assert kinds(links) == ["analysis", "signal", "risk decision"]
    assert links[-1].says == "DENIED BUY 0: cash: 10000 against 2000"
    assert [rule for rule, passed, *_ in evaluated_checks(links) if not passed] == ["cash"]


@pytest.mark.parametrize(
    "key",
    ["order-AAA-20240108T020000Z-1", "signal-x", "trade-AAA-20240108T090000Z-1", "", "BBB@2024-01-08T01:00Z", "latest",
     "trade-AAA-20240108T050000Z-1", "trade-AAA-20240108T060000Z-1"],
)  # fmt: skip
def test_an_id_that_the_run_does_not_know_is_refused_in_words(told: Told, key: str) -> None:
    """The last two orders exist, but began no trade: one closed, the other was refused."""
    with pytest.raises(NotFound, match=f"has no '{key}': use an id of an order, trade, signal or analysis"):
        causal_chain(*told, key)


@pytest.mark.parametrize("time", ["2024-01-08T01:30Z", "2030-01-01T00:00Z"])
def test_a_time_at_which_no_bar_closed_is_refused_in_words(told: Told, time: str) -> None:
    with pytest.raises(NotFound, match=r"consulted no analysis of AAA at .*: use the close of one of its bars"):
        causal_chain(*told, f"AAA@{time}")


def test_a_time_that_is_none_is_refused_in_words(told: Told) -> None:
    with pytest.raises(BadInput, match="'noon' is not a time"):
        causal_chain(*told, "AAA@noon")


def test_the_story_of_the_fixture_is_the_one_it_tells(told: Told) -> None:
    store, run = told
    events = [row.event for row in store.read(runs.book_stream(run.run_id)) if isinstance(row.event, BookEvent)]
    assert [(fill.at.hour, fill.side.value, fill.quantity) for fill in events if isinstance(fill, OrderFilled)] == [
        (1, "BUY", 10), (3, "SELL", 20), (5, "BUY", 10),
    ]  # fmt: skip


def test_a_stop_answers_for_itself_after_the_entry_it_protects() -> None:
    store = MemoryStore()
    bars = hours("AAA", [("100", "100"), ("100", "100"), ("90", "90"), ("90", "90")])
    config = msgspec.structs.replace(config_of(quantity="10"), exits=Exits(None, stop_pct=exact("5")))
    asked = runs.request(
        Environment.BACKTEST, config, profile="test", dataset_digest="d", variant="rules", start=MONDAY,
        end=bars[-1].closed_at,
    )  # fmt: skip
    runs.execute_run(store, asked, [bars], Analysts(store, bars, [LONG, HOLD, HOLD, HOLD]), actor="test")
    entry = [link.kind for link in causal_chain(store, asked, ENTRY)]
    assert entry == ["analysis", "signal", "risk decision", "order", "fill"]
    stopped = causal_chain(store, asked, f"{ENTRY}.stop")
    assert [link.kind for link in stopped] == [*entry, "order", "fill"]
    assert stopped[-2].says == "SELL 10 AAA, stop STOP 95 GTC"
    assert stopped[-1].says == "SELL 10 at 90 (open 90), commission 0"
    assert causal_chain(store, asked, ENTRY.replace("order-", "trade-")) == stopped
