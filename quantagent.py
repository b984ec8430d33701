"""Python interface of quantagent, over the same services as the commands. It contains no rules.

`docs/python.md` is a tour. Frames are polars; amounts of money are Decimals, and floats in frames.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from analysis import conformance
from analysis.conformance import Finding
from analysis.strategy import Decision, Strategy
from engine.broker.paper import Broker, PaperBroker
from engine.clock import now
from engine.core.errors import BadInput
from engine.core.events import BookEvent, OrderPlaced, OrderTerms, Protection, Verdict
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, OrderType, Side, Timeframe, TimeInForce, instrument_for
from engine.core.money import exact
from engine.data.files import read_bars
from engine.data.sample import SAMPLE_FILES, SAMPLE_TIMEFRAME
from engine.runtime.manual import ManualAccount
from engine.trading.tickets import OrderTicket
from projections.queries import MetricsMissing, Queries, Rows
from ui.app import App, open_app
from ui.daemon.paper import PaperPlan, TradingScheduler
from ui.services import data, profile_files
from ui.services.backtest import BacktestRequest, RunReport
from ui.services.backtest import run_backtest as _backtest
from ui.services.data import import_sample as _load_sample
from ui.services.data_notes import DataNote, data_notes
from ui.services.outcomes import run_outcome
from ui.services.replay import run_replay as _replay

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "App",
    "Backtest",
    "Bar",
    "Broker",
    "DataProvider",
    "Decision",
    "Finding",
    "OrderManager",
    "OrderTerms",
    "PaperBroker",
    "PaperPlan",
    "PortfolioManager",
    "Results",
    "RiskManager",
    "Strategy",
    "TradingScheduler",
    "check_strategy",
    "open_app",
]

_FORMER_NAMES = {"Opinion": "Decision"}
"""Names of earlier versions; each still works, with a `DeprecationWarning`."""

if TYPE_CHECKING:
    Opinion = Decision


def __getattr__(name: str) -> object:
    if name not in _FORMER_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _warn_of_rename(f"quantagent.{name}", f"quantagent.{_FORMER_NAMES[name]}")
    return globals()[_FORMER_NAMES[name]]


def _warn_of_rename(former: str, present: str) -> None:
    # The warning names the line of the caller of the alias.
    warnings.warn(f"{former} is now {present}", DeprecationWarning, stacklevel=3)


Time = datetime | str | None
Read = TypeVar("Read")


class DataProvider:
    """The stored bars and, with a provider (yahoo, synthetic, folder:PATH), the missing ones."""

    def __init__(self, provider: str = "") -> None:
        self.provider = provider

    def get_ohlc(self, symbol: str, timeframe: str = "1h", start: Time = None, end: Time = None) -> pl.DataFrame:
        """Return bars inside [start, end]: opened_at, closed_at (UTC), open, high, low, close, volume.

        With a provider the missing bars inside the range are fetched, validated and stored first; none are missing
        while the market was closed. `PROVIDER:SYMBOL` names a provider for this symbol.
        """
        with open_app() as app:
            frame, since, until = Timeframe.parse(timeframe), _instant(start), _instant(end)
            return data.get_ohlc(app, symbol, frame, since, until, provider=self.provider)

    def load_sample(self) -> int:
        """Import the bundled bars; return the number of new ones."""
        with open_app() as app:
            return _load_sample(app)


class Results:
    """Results of a run, read through the open system `app`, or by default through one opened for each read."""

    def __init__(self, report: RunReport | None = None, app: App | None = None) -> None:
        self.report, self._app = report, app

    @property
    def answer(self) -> RunReport | None:
        """Deprecated: use `report`."""
        _warn_of_rename("answer", "report")
        return self.report

    @property
    def run_id(self) -> str:
        return self._run_report.result.request.run_id

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the book's events."""
        return self._run_report.result.ended.book_digest

    @property
    def metrics(self) -> dict[str, Any]:
        """Return total_trades, win_rate, profit_factor, sharpe_ratio, max_drawdown, total_pnl and the other metrics.

        Raise `projections.queries.MetricsMissing`, with the reason, for a run that the read models have set aside.
        """

        def read(queries: Queries) -> dict[str, Any]:
            found = queries.metrics(self.run_id)
            if found is None:
                raise MetricsMissing(queries.missing_metrics([self.run_id]))
            return found

        return self._read(read)

    @property
    def trades(self) -> pl.DataFrame:
        return self._frame(lambda queries: queries.trades(self.run_id))

    @property
    def orders(self) -> pl.DataFrame:
        return self._frame(lambda queries: queries.orders(self.run_id))

    @property
    def equity(self) -> pl.DataFrame:
        return self._frame(lambda queries: queries.equity(self.run_id))

    @property
    def denials(self) -> pl.DataFrame:
        """Return denied signals by rule: rule, signals, symbols, and the most frequent limit and observed value."""
        return self._frame(lambda queries: queries.denials(self.run_id))

    @property
    def no_trades(self) -> str:
        """Return the reason of a run without trades as a sentence; empty for a run with trades."""
        return self._read(lambda queries: run_outcome(queries, self.run_id).no_trades)

    @property
    def ended_early(self) -> str:
        """Return the reason of an end before the last bar as a sentence; empty without one."""
        return self._read(lambda queries: run_outcome(queries, self.run_id).ended_early)

    @property
    def data_notes(self) -> list[DataNote]:
        """Return gaps, refused rows and flagged bars inside the run's range, by symbol and time."""
        with self._opened() as app:
            return data_notes(app, self._run_report.result.request)

    def replay(self, profile: str | None = None) -> Results:
        """Replay the stored analyses under this or another profile, without making an analysis."""
        with self._opened() as app:
            return Results(_replay(app, self.run_id, profile), self._app)

    @property
    def _run_report(self) -> RunReport:
        if self.report is None:
            raise BadInput("this backtest has not run and has no results: call run() first.")
        return self.report

    @contextmanager
    def _opened(self) -> Generator[App]:
        if self._app is not None:
            yield self._app
        else:
            with open_app() as app:
                yield app

    def _read(self, query: Callable[[Queries], Read]) -> Read:
        # Before the system is opened: without a run there is nothing to read.
        _ = self._run_report
        with self._opened() as app, app.queries() as queries:
            return query(queries)

    def _frame(self, query: Callable[[Queries], Rows]) -> pl.DataFrame:
        import polars as pl

        return pl.DataFrame(
            [{k: float(v) if isinstance(v, Decimal) else v for k, v in row.items()} for row in self._read(query)],
            infer_schema_length=None,
        )


class Backtest(Results):
    """A run over stored bars. The same request is the same run: a second `run` stores nothing.

    Results exist after `run`; reading one earlier raises `BadInput`. With `app`, from `open_app`, everything is done
    and read through that system.
    """

    def __init__(
        self,
        symbols: Sequence[str] = (),
        start: Time = None,
        end: Time = None,
        *,
        timeframe: str = "1h",
        profile: str | None = None,
        risk_profile: str | None = None,
        variant: str = "",
        signals: str | Path | None = None,
        label: str = "",
        app: App | None = None,
    ) -> None:
        super().__init__(None, app)
        file = Path(signals) if signals is not None else None
        frame = Timeframe.parse(timeframe)
        self.request = BacktestRequest(
            tuple(symbols), frame, _instant(start), _instant(end), profile, variant, file, label, risk_profile
        )

    @property
    def question(self) -> BacktestRequest:
        """Deprecated: use `request`."""
        _warn_of_rename("question", "request")
        return self.request

    def run(self) -> Backtest:
        """Make the missing analyses and run. The properties hold the results."""
        with self._opened() as app:
            self.report = _backtest(app, self.request)
        return self


def check_strategy(variant: str, bars: Sequence[Bar] = ()) -> list[Finding]:
    """Return the findings about a strategy (its name, or FILE.py:CLASS) on bars of one symbol; empty if it passes.

    Without bars it is tested on the bundled ones of BTC-USD. Needs no database and stores nothing.
    """
    if not bars:
        bars = read_bars(SAMPLE_FILES["BTC-USD"], "BTC-USD", SAMPLE_TIMEFRAME).bars()
    return conformance.check_conformance(variant, bars)


class PortfolioManager:
    """One account in memory: cash, positions, equity. `profile`: a built-in one, or a file with a combined one."""

    def __init__(self, symbols: Sequence[str], profile: str = profile_files.DEFAULT, timeframe: str = "1h") -> None:
        combined_profile = profile_files.load_combined_profile(profile)
        instruments = [instrument_for(symbol) for symbol in symbols]
        rates = [instrument_for(rate) for rate in profile_files.rates_needed(combined_profile, instruments)]
        self.account = ManualAccount(
            profile_files.resolve_profile(combined_profile, instruments, Timeframe.parse(timeframe), rates), now()
        )

    @property
    def desk(self) -> ManualAccount:
        """Deprecated: use `account`."""
        _warn_of_rename("desk", "account")
        return self.account

    @property
    def broker(self) -> PaperBroker:
        """Return the broker of the account's orders; it keeps accounts independently."""
        return self.account.broker

    @property
    def cash(self) -> Decimal:
        return self.account.book.cash

    @property
    def equity(self) -> Decimal:
        return self.account.book.equity(self.account.marks)

    @property
    def positions(self) -> dict[str, Decimal]:
        return {symbol: position.quantity for symbol, position in self.account.book.positions.items()}


class RiskManager:
    """The risk check: `engine.trading.risk.RULES`, from cash and position caps to daily loss, collar and halts."""

    def __init__(self, portfolio: PortfolioManager) -> None:
        self.portfolio = portfolio

    def validate_trade(
        self, symbol: str, side: str, quantity: Decimal | str, price: Decimal | str, at: Time = None
    ) -> tuple[bool, str]:
        """Return whether a market order passes the risk check in full, and the reason."""
        when = _instant(at) or now()
        ruling = self.portfolio.account.check(symbol, Side(side.upper()), exact(quantity), exact(price), when)
        return ruling.verdict is Verdict.APPROVED, ruling.reason


class OrderManager:
    """Orders of an account, from decisions or by hand; all pass the risk check before they reach the broker."""

    def __init__(self, portfolio: PortfolioManager) -> None:
        self.portfolio = portfolio

    def execute_decision(
        self, symbol: str, decision: str, confidence: Decimal | str, price: Decimal | str, at: Time = None
    ) -> str | None:
        """Submit the order for a LONG, SHORT, FLAT or HOLD at a price; return its id, None if no order results."""
        when = _instant(at) or now()
        intent = Intent(symbol, Direction(decision.upper()), exact(confidence), "by hand")
        return _placed(self.portfolio.account.submit_intent(intent, exact(price), when))

    def submit(
        self,
        symbol: str,
        side: str,
        quantity: Decimal | str,
        price: Decimal | str,
        *,
        order_type: str = "MARKET",
        limit_price: Decimal | str | None = None,
        stop_price: Decimal | str | None = None,
        time_in_force: str = "GTC",
        expires_at: Time = None,
        stop: Decimal | str | None = None,
        target: Decimal | str | None = None,
        replaces: str = "",
        at: Time = None,
    ) -> str | None:
        """Submit an order at a price; return its id, None if the risk check denies it.

        stop, target: exit prices of the position that it opens; replaces: the working order that it amends.
        """
        terms = OrderTerms(
            OrderType(order_type.upper()),
            limit_price=_amount(limit_price),
            stop_price=_amount(stop_price),
            time_in_force=TimeInForce(time_in_force.upper()),
            expires_at=_instant(expires_at),
        )
        protection = None if stop is None and target is None else Protection(_amount(stop), _amount(target))
        ticket = OrderTicket(symbol, Side(side.upper()), exact(quantity), terms, protection, replaces)
        return _placed(self.portfolio.account.submit(ticket, exact(price), _instant(at) or now()))

    def cancel(self, order_id: str, at: Time = None) -> bool:
        """Cancel a working order; return False if it is not working."""
        return self.portfolio.account.cancel(order_id, _instant(at) or now())


def _placed(events: Sequence[BookEvent]) -> str | None:
    return next((event.order_id for event in events if isinstance(event, OrderPlaced)), None)


def _amount(given: Decimal | str | None) -> Decimal | None:
    return None if given is None else exact(given)


def _instant(at: Time) -> datetime | None:
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when
