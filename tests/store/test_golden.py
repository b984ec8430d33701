"""The golden workloads: figures that were computed outside this engine, met exactly.

What is embedded here is always checked. With `QUANTAGENT_REFERENCE_DATA` naming a folder that holds `golden/`, every
fill, trade and bar of equity is compared too. Golden times are the open of the bar; the decision bar's, not its close.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from engine.clock import now
from engine.core.config import Costs, RunConfig
from engine.core.events import Environment, OrderFilled, RunEnded
from engine.core.market import Bar, Timeframe
from engine.core.money import exact
from engine.core.session_ends import Schedule
from engine.data.catalogue import PostgresCatalogue
from engine.data.signals import ImportedAnalyst, read_signals
from engine.runtime import runs
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from engine.store.roles import Access
from projections.equity import EquityPoint, equity_curve
from projections.metrics import metrics
from projections.runs import RunView
from projections.trades import Trade
from tests.support.workloads import HOUR, golden_bars, golden_config, walk, write_signals
from ui.app import App
from ui.services.backtest import BacktestRequest, run_backtest
from ui.settings import Settings

SYNTHETIC = (("AAA", 100, 100.0), ("BBB", 101, 250.0), ("CCC", 102, 50.0))
SYMBOLS = tuple(symbol for symbol, _, _ in SYNTHETIC)
FILLS_DIGEST = "6edb04845c8cfa572d050e7773dd3794931b5bab09156bbb6ad293dd7d63b09f"
SYN3_METRICS = {
    "sharpe_ratio": -1.1860707865425832,
    "sortino_ratio": -1.7735846768639283,
    "volatility": 0.009512659624297076,
    "max_drawdown": -0.016623701911416155,
    "cagr": -0.011271725009658784,
    "calmar_ratio": -0.678051439428064,
    "profit_factor": 0.834818203472511,
    "win_rate": 0.32016925246826516,
    "gross_profit": 65093.96979,
    "gross_loss": 77973.82654,
    "expectancy": -18.166229548660084,
    "total_return": -0.01126405354999993,
}

UTC_DAYS = Schedule(["24/7"]).roll_after


class Outcome(NamedTuple):
    """A run of a golden workload with everything that can be compared."""

    ended: RunEnded
    fills: list[str]
    closed: list[Trade]
    still_open: list[Trade]
    curve: list[EquityPoint]


def outcome(config: RunConfig, bars: list[list[Bar]], folder: Path) -> Outcome:
    """The signal file's path: written, read, run, projected."""
    file = read_signals(write_signals(folder / "crossing.csv", bars))
    store = MemoryStore()
    request = runs.request(
        Environment.BACKTEST,
        config,
        profile="golden",
        dataset_digest="golden",
        variant=file.variant,
        start=min(series[0].opened_at for series in bars),
        end=max(series[-1].closed_at for series in bars),
    )
    ended = runs.execute_run(store, request, bars, ImportedAnalyst(file), actor="test").ended
    rows = store.read_all(limit=100_000)
    view = RunView(rows[0])
    fills: list[str] = []
    for row in rows:
        for _ in view.apply(row):
            pass
        if isinstance(row.event, OrderFilled):
            fills.append(fill_line(len(fills), row.event, view.book.cash))
    return Outcome(ended, fills, view.trades.closed, view.trades.open, equity_curve(config, view.movements, bars))


def fill_line(number: int, fill: OrderFilled, cash: Decimal) -> str:
    decided_on = fill.decided_at - HOUR
    return ",".join(
        str(value)
        for value in (
            number, stamp(decided_on), stamp(fill.at), fill.symbol, fill.side.sign, fill.quantity, fill.price,
            fill.commission, cash,
        )
    )  # fmt: skip


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


@pytest.fixture(scope="module")
def synthetic() -> list[list[Bar]]:
    return [walk(symbol, seed, 8_760, start, 0.005) for symbol, seed, start in SYNTHETIC]


@pytest.fixture(scope="module")
def three(synthetic: list[list[Bar]], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    config = golden_config(SYMBOLS, cash=1_000_000, quantity=100, decimals=4, periods=365)
    return outcome(config, synthetic, tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def golden() -> Path:
    """The folder of reference files, or a skip that says why."""
    folder = Path(os.environ.get("QUANTAGENT_REFERENCE_DATA", "")) / "golden"
    if not os.environ.get("QUANTAGENT_REFERENCE_DATA") or not folder.is_dir():
        pytest.skip("QUANTAGENT_REFERENCE_DATA names no folder with golden/: the full files are not compared")
    return folder


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from csv.DictReader(file)


def golden_fills(path: Path) -> list[str]:
    exact_columns = {"qty", "price", "fee", "cash_after"}
    return [
        ",".join(str(exact(value)) if name in exact_columns else value for name, value in row.items())
        for row in rows_of(path)
    ]


def trade_key(trade: Trade) -> tuple[Any, ...]:
    return (
        trade.symbol, stamp(trade.entry_at), stamp(trade.exit_at) if trade.exit_at else "", trade.quantity, trade.fees,
        trade.net_pnl,
    )  # fmt: skip


def golden_trades(path: Path) -> list[tuple[Any, ...]]:
    return sorted(
        (row["symbol"], row["entry_ts"], row["exit_ts"], *(exact(row[name]) for name in ("qty", "fees", "net_pnl")))
        for row in rows_of(path)
        if row["status"] == "closed"
    )


def compare(found: Outcome, golden: Path, name: str) -> None:
    assert found.fills == golden_fills(golden / f"fills_{name}.csv")
    assert sorted(map(trade_key, found.closed)) == golden_trades(golden / f"trades_{name}.csv")
    equity = [(stamp(point.at - HOUR), point.equity) for point in found.curve]
    assert equity == [(row["ts"], exact(row["equity"])) for row in rows_of(golden / f"equity_{name}.csv")]


def figures(found: Outcome, config: RunConfig) -> dict[str, Any]:
    curve = [(point.at, point.equity) for point in found.curve]
    pnl = [trade.net_pnl for trade in found.closed]
    return msgspec.structs.asdict(
        metrics(config.cash, curve, pnl, len(found.still_open), config.periods_per_year, HOUR, UTC_DAYS)
    )


# --- Three synthetic symbols, one account -------------------------------------------------------------------------


def test_three_symbols_end_at_the_golden_equity_to_the_last_digit(three: Outcome) -> None:
    assert three.curve[-1].equity == exact("988735.94645")
    assert (three.ended.bars, three.ended.fills, three.ended.orders) == (26_280, 1_419, 1_419)
    assert (len(three.closed), len(three.still_open)) == (709, 1)
    assert three.fills[0] == "0,2024-01-01 20:00:00,2024-01-01 21:00:00,AAA,1,100,104.9913,10.49913,989490.37087"


def test_every_fill_of_the_three_symbols_is_the_golden_one(three: Outcome) -> None:
    assert sha256("\n".join(three.fills).encode()).hexdigest() == FILLS_DIGEST


def test_the_metrics_of_the_three_symbols_are_the_golden_ones(three: Outcome) -> None:
    found = figures(three, golden_config(SYMBOLS, 1_000_000, 100, 4, 365))
    assert {name: float(found[name]) for name in SYN3_METRICS} == pytest.approx(SYN3_METRICS, rel=1e-9, abs=1e-9)
    assert (found["days"], found["annualisation"], found["total_trades"]) == (365, 365, 709)


def test_the_synthetic_bars_are_the_reference_bars(synthetic: list[list[Bar]], golden: Path) -> None:
    for series in synthetic:
        assert series == golden_bars(golden / f"bars_{series[0].symbol}.csv", series[0].symbol)


def test_the_three_symbols_match_every_reference_row(three: Outcome, golden: Path) -> None:
    compare(three, golden, "syn3_h")
    expected = json.loads((golden / "expected_syn3_h.json").read_text())["recommended"]
    names = {name.removesuffix("_ratio"): value for name, value in SYN3_METRICS.items()}
    assert names == pytest.approx({name: expected[name] for name in names}, rel=1e-12)


PROFILE = {
    "cash": "1000000",
    "costs": {"slippage_bps": "0", "commission_bps": "10"},
    "sizing": {"mode": "fixed_quantity", "quantity": "100"},
    "limits": {"position_pct": None, "daily_loss_pct": None},
    "exits": {"holding_bars": None},
}


@pytest.mark.slow
def test_the_command_s_own_path_shows_the_golden_figures_in_the_read_models(
    synthetic: list[list[Bar]], three: Outcome, dsn: str, tmp_path: Path
) -> None:
    profile = tmp_path / "golden.json"
    profile.write_text(json.dumps(PROFILE))
    signals = write_signals(tmp_path / "crossing.csv", synthetic)
    catalogue = PostgresCatalogue(dsn)
    for series in synthetic:
        catalogue.add(series[0].symbol, Timeframe.H1, series, source="recipe", learned_at=now())
    with PostgresStore(dsn) as store:
        app = App(Settings(None, dsn, "test"), Access(dsn, dsn, dsn, dsn), store, catalogue)
        answer = run_backtest(app, BacktestRequest(symbols=SYMBOLS, profile=str(profile), signals=signals))
        run_id = answer.result.request.run_id
        with app.queries() as queries:
            shown = queries.metrics(run_id)
            fills, trades, equity = queries.fills(run_id), queries.trades(run_id), queries.equity(run_id)
            portfolio = queries.portfolio(run_id)
    assert shown is not None
    assert portfolio is not None
    assert shown["final_equity"] == portfolio["equity"] == exact("988735.94645")
    assert {name: float(shown[name]) for name in SYN3_METRICS} == pytest.approx(SYN3_METRICS, rel=1e-9, abs=1e-9)
    assert [fill["cash_after"] for fill in fills] == [exact(line.rpartition(",")[2]) for line in three.fills]
    assert [trade["status"] for trade in trades].count("closed") == 709
    assert [(row["at"], row["equity"]) for row in equity] == [(point.at, point.equity) for point in three.curve]
    assert answer.result.ended.bars == three.ended.bars


# --- EURUSD, from the reference data ------------------------------------------------------------------------------


def eurusd(golden: Path, folder: Path, slippage_bps: str) -> tuple[Outcome, RunConfig]:
    config = golden_config(["EURUSD"], cash=100_000, quantity=10_000, decimals=5, periods=252)
    config = msgspec.structs.replace(config, costs=Costs(exact(slippage_bps), Decimal(10)))
    return outcome(config, [golden_bars(golden / "bars_EURUSD.csv", "EURUSD")], folder), config


def test_eurusd_matches_every_reference_row(golden: Path, tmp_path: Path) -> None:
    found, config = eurusd(golden, tmp_path, "0")
    assert found.curve[-1].equity == exact("97772.1925")
    assert (len(found.fills), len(found.closed), len(found.still_open)) == (264, 132, 0)
    assert found.closed[0].net_pnl == exact("-32.0418")
    compare(found, golden, "eurusd_h")
    expected = json.loads((golden / "expected_eurusd_h.json").read_text())["recommended"]
    shown = figures(found, config)
    names = {name: expected[name.removesuffix("_ratio")] for name in SYN3_METRICS}
    assert {name: float(shown[name]) for name in names} == pytest.approx(names, rel=1e-9, abs=1e-9)


def test_two_basis_points_a_side_cost_eurusd_exactly_this(golden: Path, tmp_path: Path) -> None:
    found, _ = eurusd(golden, tmp_path, "2")
    assert found.curve[-1].equity == exact("97157.05116958")
