"""An account in one currency, a symbol in another: from the profile to the read models, the replay and the capsule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from engine.audit.regenerate import regenerate_run, run_bars
from engine.clock import now
from engine.core.errors import BadInput
from engine.core.events import RiskDecided, Verdict
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Instrument, Timeframe
from engine.core.money import exact
from engine.core.step import MarketView
from engine.data.catalogue import PostgresCatalogue
from engine.data.signals import ImportedAnalyst, read_signals
from engine.store.postgres import PostgresStore
from engine.store.roles import Access
from engine.trading.book import fold
from engine.trading.decide import decide, open_book
from tests.support.strategies import config_of
from tests.support.workloads import walk, write_signals
from ui.app import App
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.replay import run_replay
from ui.settings import Settings

PROFILE = {
    "cash": "100000",
    "costs": {"slippage_bps": "0", "commission_bps": "10"},
    "sizing": {"mode": "fixed_quantity", "quantity": "10"},
    "limits": {"position_pct": None, "daily_loss_pct": None},
    "exits": {"holding_bars": None},
    "rates": ["EUR-USD"],
}


class Priced(NamedTuple):
    """An opened system with a symbol in euros, and the bars of the euro."""

    app: App
    bars: list[Bar]
    euro: list[Bar]
    profile: Path
    signals: Path

    @property
    def question(self) -> BacktestRequest:
        return BacktestRequest(symbols=("AAA-EUR",), profile=str(self.profile), signals=self.signals)


@pytest.fixture
def priced(dsn: str, tmp_path: Path) -> Iterator[Priced]:
    bars, euro = walk("AAA-EUR", 7, 300, 100.0, 0.01), walk("EUR-USD", 8, 300, 1.1, 0.003)
    profile = tmp_path / "euros.json"
    profile.write_text(json.dumps(PROFILE))
    catalogue = PostgresCatalogue(dsn)
    for series in (bars, euro):
        catalogue.add(series[0].symbol, Timeframe.H1, series, source="walk", learned_at=now())
    with PostgresStore(dsn) as store:
        app = App(Settings(None, dsn, "test"), Access(dsn, dsn, dsn, dsn), store, catalogue)
        yield Priced(app, bars, euro, profile, write_signals(tmp_path / "crossing.csv", [bars]))


def test_every_fill_and_every_equity_is_converted_at_the_close_known_then(priced: Priced) -> None:
    answer = run_backtest(priced.app, priced.question)
    with priced.app.queries() as queries:
        fills = queries.fills(answer.result.request.run_id)
        curve = queries.equity(answer.result.request.run_id)
        portfolio = queries.portfolio(answer.result.request.run_id)
    closes = {bar.closed_at: bar.close for bar in priced.euro}
    assert len(fills) > 5
    cash, held = Decimal(100_000), Decimal(0)
    for fill in fills:
        assert fill["rate"] == closes[fill["at"]]
        notional = fill["price"] * fill["quantity"] * fill["rate"]
        sign = 1 if fill["side"] == "BUY" else -1
        cash, held = cash - sign * notional - notional / 1000, held + sign * fill["quantity"]
        assert abs(fill["cash_after"] - cash) < Decimal("1e-9")
    last, rate = priced.bars[-1].close, priced.euro[-1].close
    assert portfolio is not None
    assert abs(curve[-1]["equity"] - (cash + held * last * rate)) < Decimal("1e-9")
    assert portfolio["equity"] == curve[-1]["equity"]
    assert answer.result.ended.bars == len(priced.bars)


def test_a_replay_and_a_regeneration_see_the_same_rates(priced: Priced) -> None:
    answer = run_backtest(priced.app, priced.question)
    run = answer.result.request
    assert run_replay(priced.app, run.run_id).result.ended.book_digest == answer.result.ended.book_digest
    again = regenerate_run(
        priced.app.store,
        run_bars(priced.app.catalogue, priced.app.store, run),
        ImportedAnalyst(read_signals(priced.signals)),
        run,
    )
    assert again.equal


def test_without_the_symbol_that_converts_it_the_run_is_refused_in_words(priced: Priced) -> None:
    priced.profile.write_text(json.dumps({**PROFILE, "rates": []}))
    with pytest.raises(BadInput, match=r"AAA-EUR is quoted in EUR, the account in USD: .*EUR-USD"):
        run_backtest(priced.app, priced.question)


def test_a_position_is_not_entered_before_its_currency_has_a_price() -> None:
    config = msgspec.structs.replace(
        config_of(quantity="1"),
        instruments=(Instrument("AAA", "EUR"),),
        rates=(Instrument("EUR-USD", "USD", 5),),
    )
    (bar,) = walk("AAA", 7, 1, 100.0, 0.01)
    opened = fold([open_book(config, "", bar.opened_at)])
    step = MarketView(bar.closed_at, None, (bar,), {"AAA": bar}, {"AAA": bar.close})
    _, denied = decide(opened, step, [Intent("AAA", Direction.LONG, exact("1"), "w")], config)
    assert isinstance(denied, RiskDecided)
    assert denied.verdict is Verdict.DENIED
    assert {"quantity", "price", "cash"} <= {check.rule for check in denied.checks if not check.passed}
