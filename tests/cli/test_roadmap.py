"""`docs/roadmap.md` resolved line by line, and the names of the Python door used as the roadmap means them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

import quantagent
from engine.core.config import RiskLimits
from engine.core.events import OrderFilled, OrderPlaced, TradingHalted
from engine.core.market import Side
from engine.core.money import mul
from engine.trading.tickets import OrderTicket
from projections.tables import TABLES
from quantagent import Backtest, DataProvider, OrderManager, PortfolioManager, RiskManager
from tests.support.paths import ROOT

AT = datetime(2024, 1, 2, 9, tzinfo=UTC)
PLANNED = "*planned*"


# --- The page -----------------------------------------------------------------------------------------------------


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    text = (ROOT / "docs/roadmap.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def identifiers_in(path: Path) -> Iterator[str]:
    """The ids of a file's tests behind its name: `test_x`, `TestY::test_z`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef))


@pytest.mark.parametrize(("name", "where", "test"), rows("Names"))
def test_a_name_of_the_roadmap_is_where_the_page_says_and_has_its_test(name: str, where: str, test: str) -> None:
    if where.startswith(PLANNED):
        assert test == "", f"{name} is planned and cannot have a test"
        return
    assert quoted(where), f"{name} is nowhere"
    for place in quoted(where):
        module, _, attribute = place.partition(":")
        if attribute:
            reduce(getattr, attribute.split("."), import_module(module))
        else:
            assert (ROOT / place).is_file(), place
    assert quoted(test), f"{name} has no test"
    for identifier in quoted(test):
        file, _, function = identifier.partition("::")
        assert function in identifiers_in(ROOT / file), identifier


@pytest.mark.parametrize(("mistake", "test"), rows("Mistakes that must not come back"))
def test_every_mistake_has_its_test(mistake: str, test: str) -> None:
    assert quoted(test), mistake
    for identifier in quoted(test):
        file, _, function = identifier.partition("::")
        assert function in identifiers_in(ROOT / file), identifier


@pytest.mark.parametrize(("name", "columns"), rows("Tables"))
def test_a_column_of_the_roadmap_exists(name: str, columns: str) -> None:
    existing = {f"{table.name}.{column}" for table in TABLES for column in table.names}
    assert quoted(columns), name
    assert set(quoted(columns)) - existing == set()


def test_everything_the_python_door_offers_is_on_the_page() -> None:
    named = {
        place.split(":")[1].split(".")[0] for _, where, _ in rows("Names") for place in quoted(where) if ":" in place
    }
    helpers = {"App", "PaperPlan", "Results", "open_app"}
    assert set(quantagent.__all__) - helpers <= named


# --- The names in use ---------------------------------------------------------------------------------------------


@pytest.fixture
def account() -> PortfolioManager:
    """100,000 under `classic`: at most 10 % of equity per position, 5 % daily loss."""
    return PortfolioManager(["BTC-USD"], profile="classic")


def buy(account: PortfolioManager, quantity: str, price: str) -> None:
    """An account that holds: the order is placed by hand and filled at the next open, at the price."""
    desk, limits = account.account, account.account.config.limits
    desk.config = msgspec.structs.replace(desk.config, limits=RiskLimits(None, None))
    desk.submit(OrderTicket("BTC-USD", Side.BUY, Decimal(quantity)), Decimal(price), AT)
    desk.open("BTC-USD", Decimal(price), AT)
    desk.config = msgspec.structs.replace(desk.config, limits=limits)


def order(order_id: str, side: Side, quantity: str, price: str) -> OrderPlaced:
    worth = mul(Decimal(quantity), Decimal(price))
    return OrderPlaced(order_id, "by hand", "by hand", "BTC-USD", AT, side, Decimal(quantity), Decimal(price), worth)


def test_a_trade_within_all_limits_is_allowed(account: PortfolioManager) -> None:
    assert RiskManager(account).validate_trade("BTC-USD", "BUY", "0.1", "40000") == (True, "all checks passed")


@pytest.mark.parametrize(
    ("rule", "held", "bought_at", "quantity", "price"),
    [
        ("cash", "0", "40000", "3", "40000"),
        ("position_cap", "0", "40000", "0.3", "40000"),
        ("position_cap", "0.2", "40000", "0.1", "40000"),
        ("daily_loss", "1", "40000", "0.01", "34000"),
    ],
)
def test_a_trade_beyond_a_limit_is_refused_with_the_rule_that_refuses_it(
    account: PortfolioManager, rule: str, held: str, bought_at: str, quantity: str, price: str
) -> None:
    if Decimal(held):
        buy(account, held, bought_at)
    allowed, reason = RiskManager(account).validate_trade("BTC-USD", "BUY", quantity, price)
    assert not allowed
    assert rule in {refusal.split(":")[0] for refusal in reason.split("; ")}


def test_a_profile_may_forbid_to_turn_a_position_over_in_one_order(tmp_path: Path) -> None:
    (tmp_path / "steady.json").write_text('{"limits": {"reversal": false}}')
    account = PortfolioManager(["BTC-USD"], profile=str(tmp_path / "steady.json"))
    buy(account, "0.1", "40000")
    allowed, reason = RiskManager(account).validate_trade("BTC-USD", "SELL", "0.2", "40000")
    assert (allowed, reason.split(":")[0]) == (False, "incompatible_position")


def test_while_the_breaker_is_open_only_exits_are_allowed(account: PortfolioManager) -> None:
    buy(account, "0.1", "40000")
    account.account.command(TradingHalted(AT, "entries", "lost too much today", "daily_loss"))
    risk = RiskManager(account)
    assert risk.validate_trade("BTC-USD", "BUY", "0.01", "40000") == (
        False,
        "halt: entries halted by daily_loss: lost too much today against no halt",
    )
    assert risk.validate_trade("BTC-USD", "SELL", "0.1", "40000") == (True, "reduces the position")


def test_a_decision_becomes_an_order_and_the_broker_fills_it(account: PortfolioManager) -> None:
    broker = account.account.broker
    placed = OrderManager(account).execute_decision("BTC-USD", "LONG", "0.8", "40000", at=AT)
    assert placed is not None
    assert account.positions == {}
    (fill,) = (event for event in account.account.open("BTC-USD", Decimal(41000), AT) if isinstance(event, OrderFilled))
    assert fill.order_id == placed
    assert broker.get_positions() == account.positions == {"BTC-USD": fill.quantity}
    assert broker.get_balance() == account.cash == Decimal(100_000) - fill.notional - fill.commission
    assert OrderManager(account).execute_decision("BTC-USD", "HOLD", "1", "41000", at=AT) is None


def test_an_order_placed_twice_is_one_and_a_canceled_one_never_fills(account: PortfolioManager) -> None:
    broker = account.account.broker
    first = order("o1", Side.BUY, "0.1", "40000")
    assert broker.place_order(first) is first
    assert broker.place_order(order("o1", Side.BUY, "0.2", "40000")) is first
    assert broker.cancel_order("o1", AT)
    assert not broker.cancel_order("o1", AT)
    assert account.account.open("BTC-USD", Decimal(40000), AT) == []
    assert broker.get_positions() == {}


def test_the_paper_broker_is_a_broker(account: PortfolioManager) -> None:
    broker: quantagent.Broker = account.account.broker
    assert broker.get_balance() == account.equity == Decimal(100_000)


def test_a_backtest_and_its_replay_from_python(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTAGENT_DSN", dsn)
    data = DataProvider()
    assert data.load_sample() > 0
    bars = data.get_ohlc("BTC-USD", "1h", start="2017-09-01", end="2017-09-08")
    assert (bars.columns[:6], bars.height) == (["opened_at", "closed_at", "open", "high", "low", "close"], 168)
    run = Backtest(["BTC-USD"], "2017-09-01", "2017-09-08").run()
    assert {"total_trades", "win_rate", "profit_factor", "sharpe_ratio", "max_drawdown", "total_pnl"} <= set(
        run.metrics
    )
    assert run.trades.height == run.metrics["total_trades"] + run.metrics["open_trades"] > 0
    again = run.replay()
    assert (again.digest, again.run_id != run.run_id) == (run.digest, True)
