"""What the page says in words: money, cards, curves, tables and chains, from rows alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audit.why import ChainLink, causal_chain
from engine.core.config import RiskLimits
from engine.core.events import Environment, OrderFilled, OrderPlaced
from engine.core.market import Direction
from engine.core.money import ONE, exact
from engine.runtime.runs import execute_run, request
from engine.store.memory import MemoryStore
from tests.support.workloads import ScriptedAnalyst, golden_config, walk
from ui.dashboard import views
from ui.dashboard.causal_chain import build_chains, named_columns, raw_events
from ui.dashboard.views import plain
from ui.formats import format_money, format_number, format_percent, format_ratio, format_time, tidy

AT = datetime(2024, 1, 1, tzinfo=UTC)
AMOUNTS = st.decimals(-(10**12), 10**12, places=6)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("-130.62", "USD", "-$130.62"),
        ("1234567.895", "EUR", "€1,234,567.90"),
        ("-0.004", "USD", "$0.00"),
        ("-12", "CHF", "-CHF 12.00"),
    ],
)
def test_the_sign_of_money_stands_before_the_currency(amount: str, currency: str, text: str) -> None:
    assert format_money(Decimal(amount), currency) == text


def test_a_profit_may_be_written_with_a_plus() -> None:
    assert format_money(Decimal("313.2"), "USD", signed=True) == "+$313.20"
    assert format_money(Decimal(0), "USD", signed=True) == "$0.00"


@given(AMOUNTS)
def test_money_reads_back_to_the_cent_and_uses_the_ascii_minus(amount: Decimal) -> None:
    text = format_money(amount, "USD", signed=True)
    assert abs(Decimal(text.replace("$", "").replace(",", "")) - amount) <= Decimal("0.005")
    assert text.isascii()


@given(AMOUNTS)
def test_a_number_reads_back_and_never_is_a_negative_zero(amount: Decimal) -> None:
    for places in (None, 0, 2, 8):
        text = format_number(amount, places)
        assert abs(Decimal(text.replace(",", "")) - amount) <= Decimal("0.5").scaleb(-(8 if places is None else places))
        assert not (text.startswith("-") and Decimal(text.replace(",", "")) == 0)


def test_what_is_unknown_is_a_dash() -> None:
    assert {
        format_money(None, "USD"),
        format_percent(None),
        format_ratio(None),
        format_number(None),
        format_time(None),
    } == {"-"}


def test_shares_are_percentages_without_a_negative_zero() -> None:
    assert format_percent(-0.02168) == "-2.17 %"
    assert format_percent(-0.000001) == "0.00 %"
    assert format_percent(0.31034, 1) == "31.0 %"


def test_numbers_within_a_check_become_readable_and_other_text_stays() -> None:
    assert tidy("below 299.4659159609") == "below 299.47"
    assert tidy("holds -0.55671473") == "holds -0.55671473"
    assert tidy("order-BTC-USD-20170714T170000Z-1") == "order-BTC-USD-20170714T170000Z-1"
    assert tidy("100000") == "100,000"
    assert tidy("3:00:00") == "3:00:00"


@given(st.text(alphabet="a $*_[]:`1", max_size=20))
def test_escaped_text_keeps_every_character(text: str) -> None:
    assert plain(text).replace("\\", "") == text


def test_two_amounts_in_one_sentence_make_no_formula() -> None:
    assert plain("$1 of $2") == r"\$1 of \$2"


# --- Cards --------------------------------------------------------------------------------------------------------

RUN = {"currency": "USD", "starting_cash": Decimal(100_000), "status": "ended"}
METRICS: dict[str, Any] = {
    "final_equity": Decimal("99262.02"),
    "total_pnl": Decimal("-737.98"),
    "total_return": -0.0073798,
    "max_drawdown": -0.02168,
    "win_rate": 0.3103,
    "profit_factor": None,
    "sharpe_ratio": -0.7339,
    "cagr": None,
    "fees": Decimal("1342.66"),
    "total_trades": 232,
    "open_trades": 1,
    "days": 181,
}


def curve(*equities: int) -> list[dict[str, Any]]:
    highest, rows = 0, list[dict[str, Any]]()
    for n, equity in enumerate(equities):
        highest = max(highest, equity)
        rows.append({"at": AT + n * timedelta(hours=1), "equity": Decimal(equity), "drawdown": equity / highest - 1})
    return rows


def test_each_of_six_cards_carries_its_limit_or_its_sample_size() -> None:
    cards = {card.label: card for card in views.cards(RUN, METRICS, RiskLimits(), curve(3, 2, 4))}
    assert len(cards) == 6
    assert cards["Final equity"].note == "start $100,000.00"
    assert cards["Final equity"].spark == (3.0, 2.0, 4.0)
    assert cards["Net P&L"].value == "-$737.98"
    assert cards["Max drawdown"].note == "no limit"
    assert cards["Net P&L"].note == "fees $1,342.66"
    assert views.loss_limit(RiskLimits()) == "daily loss limit 5 %"
    assert cards["Win rate"].note == "n = 232 closed, 1 open"
    assert "n = 181" in cards["Profit factor"].note


def test_the_drawdown_shows_its_own_limit() -> None:
    cards = {card.label: card for card in views.cards(RUN, METRICS, RiskLimits(drawdown_pct=Decimal(15)), [])}
    assert cards["Max drawdown"].note == "limit 15 %"


def test_only_money_has_a_colour() -> None:
    tones = {card.label: card.tone for card in views.cards(RUN, METRICS, None, [])}
    assert {label for label, tone in tones.items() if tone} == {"Net P&L", "Return"}
    assert tones["Net P&L"] == "loss"


def test_a_run_without_metrics_shows_dashes_and_no_zero() -> None:
    cards = views.cards(RUN | {"status": "running"}, None, RiskLimits(daily_loss_pct=None), [])
    assert [card.value for card in cards] == ["-"] * 6
    assert cards[0].label == "Equity"
    assert cards[1].note == "fees -"
    assert cards[3].note == "no limit"


@given(st.lists(st.integers(1, 10**6), max_size=300), st.integers(5, 50))
def test_a_thinned_curve_keeps_order_ends_and_extremes(equities: list[int], most: int) -> None:
    whole = curve(*equities)
    kept = views.thin_curve(whole, most)
    assert len(kept) <= max(most, 5)
    assert [row["at"] for row in kept] == sorted(row["at"] for row in kept)
    if whole:
        assert (kept[0], kept[-1]) == (whole[0], whole[-1])
        for pick in (min, max):
            assert pick(row["equity"] for row in kept) == pick(row["equity"] for row in whole)
        assert min(row["drawdown"] for row in kept) == min(row["drawdown"] for row in whole)


@given(st.integers(0, 500), st.integers(2, 60))
def test_spread_indices_are_distinct_in_range_and_include_both_ends(length: int, most: int) -> None:
    indices = views.spread_indices(length, most)
    assert len(indices) == min(length, most)
    assert indices == sorted(set(indices))
    if length:
        assert (indices[0], indices[-1]) == (0, length - 1)


# --- Tables -------------------------------------------------------------------------------------------------------


def trade(symbol: str, pnl: str, *, closed: bool = True) -> dict[str, Any]:
    return {
        "number": 1,
        "symbol": symbol,
        "direction": "LONG",
        "entry_at": AT,
        "exit_at": AT if closed else None,
        "quantity": Decimal("0.5"),
        "entry_price": Decimal("6002.0075"),
        "exit_price": Decimal("1.1") if closed else None,
        "net_pnl": Decimal(pnl),
        "unrealised_pnl": None if closed else Decimal("313.2"),
        "exit_reason": "holding_time" if closed else None,
    }


def cells(style: Any, column: str) -> list[str]:
    """What the table shows in a column."""
    place = list(style.data.columns).index(column)
    body = style._translate(False, False)["body"]
    return [[cell for cell in row if cell["type"] == "td"][place]["display_value"] for row in body]


def test_prices_have_their_instruments_decimals_and_nothing_is_a_dash() -> None:
    rows = [trade("BTC-USD", "-18.925"), trade("EUR-USD", "3"), trade("EUR-USD", "0", closed=False)]
    style = views.trades_table(rows, {"BTC-USD": 2, "EUR-USD": 5}, "USD", "rules")
    assert cells(style, "Entry price") == ["6,002.01", "6,002.00750", "6,002.00750"]
    assert cells(style, "Exit price") == ["1.10", "1.10000", "-"]
    assert cells(style, "Exit (UTC)")[2] == "-"
    assert cells(style, "Exit by") == ["holding time", "holding time", "-"]
    assert cells(style, "Quantity") == ["0.5"] * 3


def test_an_open_trade_shows_what_is_unrealised_and_no_result() -> None:
    style = views.trades_table([trade("BTC-USD", "-9"), trade("BTC-USD", "-1.2", closed=False)], {}, "USD", "rules")
    assert cells(style, "Net P&L (USD)") == ["-9.00", "-"]
    assert cells(style, "Unrealised (USD)") == ["-", "313.20"]
    assert "Unrealised (USD)" not in views.trades_table([trade("BTC-USD", "-9")], {}, "USD", "rules").data.columns


def test_trades_sort_as_numbers_and_only_their_result_is_coloured() -> None:
    style = views.trades_table(
        [trade("BTC-USD", "-9"), trade("BTC-USD", "10"), trade("BTC-USD", "0")], {}, "USD", "rules"
    )
    assert style.data["Net P&L (USD)"].dtype == float
    html: str = style.to_html()
    assert html.count(views.GAIN) == html.count(views.LOSS) == 1


# --- Chains -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told() -> tuple[list[ChainLink], list[ChainLink], list[ChainLink]]:
    """The chains of a trade, of a denied signal, and of an order that waits for its bar."""
    bars = walk("AAA", 7, 60, 100.0, 0.01)
    config = golden_config(["AAA"], 100_000, 10, 4, 365)
    script = {("AAA", bars[n].closed_at): (way, ONE) for n, way in ((5, Direction.LONG), (9, Direction.FLAT))}
    requested = request(
        Environment.BACKTEST, config, profile="p", dataset_digest="d", variant="v", start=AT, end=bars[-1].closed_at
    )
    store = MemoryStore()
    execute_run(store, requested, [bars], ScriptedAnalyst(script), actor="tester")
    facts = [row.event for row in store.read(f"book:{requested.run_id}")]
    entry = next(fact for fact in facts if isinstance(fact, OrderPlaced))
    assert sum(isinstance(fact, OrderFilled) for fact in facts) == 2
    trade_links = causal_chain(store, requested, entry.order_id.replace("order-", "trade-", 1))
    opened = trade_links[:4]
    assert [link.kind for link in opened] == ["imported signal", "signal", "risk decision", "order"]
    return trade_links, opened[:3], opened


def test_a_trade_has_the_chain_of_its_entry_and_that_of_its_exit(told: tuple[list[ChainLink], ...]) -> None:
    parts = named_columns(build_chains(told[0]))
    assert [name for name, _ in parts] == ["Entry", "Exit"]
    for _, steps in parts:
        assert [step.name for step in steps] == ["Imported signal", "Signal", "Risk decision", "Order", "Fill"]
        assert all(step.occurred for step in steps)


def test_what_a_denial_kept_from_happening_is_shown_as_not_reached(told: tuple[list[ChainLink], ...]) -> None:
    (_, wished), (_, came) = named_columns(build_chains(told[1]))
    assert [step.name for step in wished] == ["Imported signal", "Signal"]
    assert [(step.name, step.occurred) for step in came] == [("Risk decision", True), ("Order", False), ("Fill", False)]


def test_an_order_that_waits_has_no_fill_yet(told: tuple[list[ChainLink], ...]) -> None:
    last = build_chains(told[2])[0][-1]
    assert (last.name, last.occurred) == ("Fill", False)
    assert "waits" in last.text


def test_a_risk_decision_shows_every_check_with_limit_and_observed(told: tuple[list[ChainLink], ...]) -> None:
    decision = next(step for step in build_chains(told[0])[0] if step.name == "Risk decision")
    assert len(decision.checks) >= 5
    assert all(check.limit and check.passed for check in decision.checks)


def test_raw_events_are_in_the_order_of_the_log_each_once(told: tuple[list[ChainLink], ...]) -> None:
    shown = raw_events([*told[0], *told[0]])
    places = [int(event.title.split()[0].removeprefix("#")) for event in shown]
    assert places == sorted(set(places))
    assert len(shown) == sum(link.event is not None for link in told[0])


def test_a_chain_without_steps_has_no_parts_to_fail_on() -> None:
    assert named_columns(build_chains([])) == [("Intent", []), ("Outcome", [])]


def test_amounts_in_a_chain_are_readable(told: tuple[list[ChainLink], ...]) -> None:
    fill = build_chains(told[0])[0][-1]
    assert exact(dict(fill.facts)["notional"].replace(",", "")) > 0


def test_an_order_is_shown_with_what_it_is_for_its_prices_in_its_symbols_decimals_and_what_came_of_it() -> None:
    order = {
        "number": 7, "symbol": "EUR-USD", "placed_at": AT, "side": "SELL", "role": "trailing_stop",
        "order_type": "TRAILING_STOP", "quantity": Decimal(100), "stop_price": Decimal("1.1"), "limit_price": None,
        "status": "canceled", "filled_quantity": Decimal(0), "reason": "nothing is left to close",
    }  # fmt: skip
    shown = views.orders_table([order], {"EUR-USD": 5}).to_html()
    for words in ("trailing stop", "1.10000", "canceled", "nothing is left to close", "SELL"):
        assert words in shown
    assert ">-<" in shown.replace(" ", "")
