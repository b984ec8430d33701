"""quantagent in Python: thin faces over the same core that the commands use. No rule lives here.

`docs/python.md` is a notebook-sized tour. Frames are polars; amounts of money are Decimals, and floats in frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.broker import Broker, Desk, PaperBroker
from engine.clock import now
from engine.events import BookEvent, OrderPlaced, Verdict
from engine.market import Direction, Side, Timeframe, instrument_for
from engine.money import exact
from engine.orders import Wish
from ui import profiles
from ui.compose import Answer, App, Question, open_app
from ui.compose import backtest as _backtest
from ui.compose import load_sample as _load_sample
from ui.compose import replay as _replay
from ui.daemon import PaperPlan, TradingScheduler

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "App",
    "Backtest",
    "Broker",
    "DataProvider",
    "OrderManager",
    "PaperBroker",
    "PaperPlan",
    "PortfolioManager",
    "RiskManager",
    "TradingScheduler",
    "open_app",
]

Time = datetime | str | None


class DataProvider:
    """The stored bars."""

    def get_ohlc(self, symbol: str, timeframe: str = "1h", start: Time = None, end: Time = None) -> pl.DataFrame:
        """Columns opened_at, closed_at (UTC), open, high, low, close, volume; bars inside [start, end]."""
        with open_app() as app:
            return app.catalogue.frame(symbol, Timeframe.parse(timeframe), _instant(start), _instant(end))

    def load_sample(self) -> int:
        """Loads the bundled bars; returns how many were new."""
        with open_app() as app:
            return _load_sample(app)


class Backtest:
    """A run over stored bars. The same question is the same run: `run` twice stores nothing twice."""

    def __init__(
        self,
        symbols: Sequence[str] = (),
        start: Time = None,
        end: Time = None,
        *,
        timeframe: str = "1h",
        profile: str = profiles.DEFAULT,
        variant: str = "rules",
        signals: str | Path | None = None,
        label: str = "",
    ) -> None:
        file = Path(signals) if signals is not None else None
        frame = Timeframe.parse(timeframe)
        self.question = Question(tuple(symbols), frame, _instant(start), _instant(end), profile, variant, file, label)
        self.answer: Answer | None = None

    def run(self) -> Backtest:
        """Makes the analyses that are missing and runs. Read the results from the properties."""
        with open_app() as app:
            self.answer = _backtest(app, self.question)
        return self

    def replay(self, profile: str | None = None) -> Backtest:
        """The stored analyses again, under this or another profile; no analysis is made."""
        again = Backtest()
        again.question = self.question
        with open_app() as app:
            again.answer = _replay(app, self.run_id, profile)
        return again

    @property
    def run_id(self) -> str:
        return self._answered.result.request.run_id

    @property
    def digest(self) -> str:
        """SHA-256 of the book's events."""
        return self._answered.result.ended.book_digest

    @property
    def metrics(self) -> dict[str, Any]:
        """total_trades, win_rate, profit_factor, sharpe_ratio, max_drawdown, total_pnl and the rest."""
        with open_app() as app, app.queries() as queries:
            return queries.metrics(self.run_id) or {}

    @property
    def trades(self) -> pl.DataFrame:
        return self._frame("trades")

    @property
    def orders(self) -> pl.DataFrame:
        return self._frame("orders")

    @property
    def equity(self) -> pl.DataFrame:
        return self._frame("equity")

    @property
    def _answered(self) -> Answer:
        return self.answer or self.run()._answered

    def _frame(self, what: str) -> pl.DataFrame:
        import polars as pl

        with open_app() as app, app.queries() as queries:
            rows: list[dict[str, Any]] = getattr(queries, what)(self.run_id)
        return pl.DataFrame(
            [{k: float(v) if isinstance(v, Decimal) else v for k, v in row.items()} for row in rows],
            infer_schema_length=None,
        )


class PortfolioManager:
    """One account in memory: cash, positions, equity."""

    def __init__(self, symbols: Sequence[str], profile: str = profiles.DEFAULT, timeframe: str = "1h") -> None:
        document = profiles.BUILT_IN[profile] if profile in profiles.BUILT_IN else profiles.read_file(Path(profile))
        instruments = [instrument_for(symbol) for symbol in symbols]
        self.desk = Desk(profiles.resolve(document, instruments, Timeframe.parse(timeframe)), now())

    @property
    def cash(self) -> Decimal:
        return self.desk.book.cash

    @property
    def equity(self) -> Decimal:
        return self.desk.book.equity(self.desk.marks)

    @property
    def positions(self) -> dict[str, Decimal]:
        return {symbol: position.quantity for symbol, position in self.desk.book.positions.items()}


class RiskManager:
    """The gate: cash, position cap on the resulting position, daily loss, breaker, incompatible position."""

    def __init__(self, portfolio: PortfolioManager) -> None:
        self.portfolio = portfolio

    def validate_trade(self, symbol: str, side: str, quantity: Decimal | str, price: Decimal | str) -> tuple[bool, str]:
        """Whether an order may be placed whole, and why (not)."""
        ruling = self.portfolio.desk.judge(symbol, Side(side.upper()), exact(quantity), exact(price))
        return ruling.verdict is Verdict.APPROVED, ruling.reason


class OrderManager:
    """Turns a decision into an order, through sizing and the gate."""

    def __init__(self, portfolio: PortfolioManager) -> None:
        self.portfolio = portfolio

    def execute_decision(
        self, symbol: str, decision: str, confidence: Decimal | str, price: Decimal | str, at: Time = None
    ) -> str | None:
        """The id of the order that a LONG, SHORT, FLAT or HOLD leads to at a price; None when it leads to none."""
        when = _instant(at) or now()
        wish = Wish(symbol, Direction(decision.upper()), exact(confidence), "by hand")
        events: list[BookEvent] = self.portfolio.desk.act(wish, exact(price), when)
        return next((event.order_id for event in events if isinstance(event, OrderPlaced)), None)


def _instant(at: Time) -> datetime | None:
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when
