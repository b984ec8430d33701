"""How well a run did: pure functions of its equity and its trades.

Returns are daily (from one session roll to the next), ratios are annualised with the declared periods per year, a
ratio that is undefined is None and never 0 or infinite. Amounts are Decimals in the account's currency; shares and
ratios are floats, and losses are negative shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import ZERO, div, neg, sub, total

_YEAR = timedelta(days=365.25)
_INSTANT = timedelta(microseconds=1)
# A standard deviation below this is what rounding to floats leaves of equal returns.
_NOISE = 1e-14


class Metrics(msgspec.Struct, frozen=True):
    """total_trades, win_rate, profit_factor, expectancy (mean net profit), gross_profit and gross_loss (both at least
    0) are of closed trades, net of fees; a trade that breaks even is no win. Open trades count in equity only.

    total_pnl: last equity less the start; total_return: that as a share of the start.
    sharpe_ratio: mean / standard deviation (ddof 1) of daily returns above the risk-free rate, x sqrt(annualisation).
    sortino_ratio: mean / root mean square of the negative returns over all days, x sqrt(annualisation).
    volatility: standard deviation (ddof 1) of daily returns x sqrt(annualisation).
    max_drawdown: lowest equity of any bar as a share of the highest before it (the start included), less 1.
    cagr: yearly growth over the calendar time (years of 365.25 days) from the first bar's open to the last one's close.
    calmar_ratio: cagr / |max_drawdown|.
    days: number of daily returns; annualisation: declared periods per year.
    bar_sharpe_ratio: the Sharpe ratio of returns per bar with bars_per_year, if those were declared; not comparable
    with sharpe_ratio.
    """

    total_trades: int
    open_trades: int
    win_rate: float | None
    profit_factor: float | None
    expectancy: Decimal | None
    gross_profit: Decimal
    gross_loss: Decimal
    total_pnl: Decimal
    total_return: float
    sharpe_ratio: float | None
    sortino_ratio: float | None
    volatility: float | None
    max_drawdown: float | None
    cagr: float | None
    calmar_ratio: float | None
    days: int
    annualisation: int
    bar_sharpe_ratio: float | None
    bars_per_year: int | None


def metrics(
    start_equity: Decimal,
    equity: Sequence[tuple[datetime, Decimal]],
    closed_pnl: Sequence[Decimal],
    open_trades: int,
    periods_per_year: int,
    bar_length: timedelta,
    roll_hour: int = 0,
    *,
    risk_free: float = 0.0,
    bars_per_year: int | None = None,
) -> Metrics:
    """All figures of a run.

    equity: (close of the bar, marked equity) for every bar, in order; closed_pnl: net profit of every closed trade;
    roll_hour: hour of the day, in UTC, at which a session ends; risk_free: yearly rate as a share.
    Raises `ValueError` for a start that is not above 0: no return has a meaning then.
    """
    if start_equity <= 0:
        raise ValueError(f"start_equity must be above 0, not {start_equity}")
    wins = [pnl for pnl in closed_pnl if pnl > 0]
    gross_profit = total(wins)
    gross_loss = neg(total(pnl for pnl in closed_pnl if pnl < 0))
    trades = len(closed_pnl)
    final = equity[-1][1] if equity else start_equity
    sessions = daily_equity(equity, roll_hour)
    daily = _returns([start_equity, *(value for _, value in sessions)])
    deepest = min((share for _, share in drawdowns(equity, start_equity)), default=None)
    growth = _cagr(start_equity, equity, bar_length)
    per_bar = _returns([start_equity, *(value for _, value in equity)]) if bars_per_year else None
    return Metrics(
        total_trades=trades,
        open_trades=open_trades,
        win_rate=len(wins) / trades if trades else None,
        profit_factor=float(gross_profit) / float(gross_loss) if gross_loss else None,
        expectancy=div(sub(gross_profit, gross_loss), Decimal(trades)) if trades else None,
        gross_profit=gross_profit,
        gross_loss=gross_loss,
        total_pnl=sub(final, start_equity),
        total_return=float(sub(final, start_equity)) / float(start_equity),
        sharpe_ratio=_sharpe(daily, periods_per_year, risk_free),
        sortino_ratio=_sortino(daily, periods_per_year),
        volatility=None if daily is None else _deviation(daily) * periods_per_year**0.5,
        max_drawdown=deepest,
        cagr=growth,
        calmar_ratio=growth / -deepest if growth is not None and deepest else None,
        days=len(sessions),
        annualisation=periods_per_year,
        bar_sharpe_ratio=_sharpe(per_bar, bars_per_year, risk_free) if bars_per_year else None,
        bars_per_year=bars_per_year,
    )


def daily_equity(equity: Sequence[tuple[datetime, Decimal]], roll_hour: int = 0) -> list[tuple[date, Decimal]]:
    """The last equity known at each session roll, by the date on which the session began. A bar that closes at the
    roll still belongs to the session that ends there; days without bars are left out."""
    shift = timedelta(hours=roll_hour) + _INSTANT
    return list({(at - shift).date(): value for at, value in equity}.items())


def drawdowns(equity: Sequence[tuple[datetime, Decimal]], start_equity: Decimal) -> list[tuple[datetime, float]]:
    """At each bar, how far equity lies below its highest value so far (the start included): a share, 0 or negative."""
    if not equity:
        return []
    values = np.array([float(value) for _, value in equity])
    highest = np.maximum.accumulate(np.maximum(values, float(start_equity)))
    shares = values / highest - 1.0
    return [(at, float(share)) for (at, _), share in zip(equity, shares, strict=True)]


def _returns(values: Sequence[Decimal]) -> NDArray[np.float64] | None:
    """Changes from each value to the next as shares; None if there are fewer than two or one starts at or below 0."""
    levels = np.array([float(value) for value in values])
    if len(levels) < 3 or levels[:-1].min() <= 0:
        return None
    return levels[1:] / levels[:-1] - 1.0


def _deviation(returns: NDArray[np.float64]) -> float:
    found = float(np.std(returns, ddof=1))
    return found if found > _NOISE else 0.0


def _sharpe(returns: NDArray[np.float64] | None, periods: int, risk_free: float) -> float | None:
    if returns is None:
        return None
    excess = returns - ((1.0 + risk_free) ** (1.0 / periods) - 1.0)
    deviation = _deviation(excess)
    return float(excess.mean()) / deviation * periods**0.5 if deviation else None


def _sortino(returns: NDArray[np.float64] | None, periods: int) -> float | None:
    if returns is None:
        return None
    downside = float(np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2)))
    return float(returns.mean()) / downside * periods**0.5 if downside > _NOISE else None


def _cagr(start: Decimal, equity: Sequence[tuple[datetime, Decimal]], bar_length: timedelta) -> float | None:
    """None without bars, for equity below 0, and for growth that no float holds (a large gain within hours)."""
    if not equity or equity[-1][1] < ZERO:
        return None
    years = (equity[-1][0] - equity[0][0] + bar_length) / _YEAR
    try:
        return (float(equity[-1][1]) / float(start)) ** (1.0 / years) - 1.0
    except OverflowError:
        return None
