"""Performance metrics of a run: pure functions of its equity and its trades.

Returns are measured per session of the run's markets; ratios are annualized with the number of returns per year
estimated from their spacing, unless the profile declares one. A ratio that is undefined, or based on fewer than 30
returns, is None and never 0 or infinite. Amounts are Decimals in account currency; fractions and ratios are floats,
and losses are negative fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from math import log

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.core.money import ZERO, div, neg, sub, total
from projections.sample_size import MIN_DURATION, MIN_RETURNS

_YEAR = timedelta(days=365.25)
# A standard deviation below this is rounding noise of equal returns.
_NOISE = 1e-14


class Metrics(msgspec.Struct, frozen=True):
    """Metrics of a run.

    total_trades, win_rate, profit_factor, expectancy (mean net profit), gross_profit and gross_loss (both at least 0)
    are of closed trades, net of fees; a trade that breaks even is not a win. Open trades count in equity only.
    total_pnl: last equity less the start; total_return: that as a fraction of the start.
    sharpe_ratio: mean / standard deviation (ddof 1) of the returns above the risk-free rate, x sqrt(annualisation).
    sortino_ratio: mean / root mean square of the negative returns over all of them, x sqrt(annualisation).
    volatility: standard deviation (ddof 1) of the returns x sqrt(annualisation).
    max_drawdown: lowest equity of any bar as a fraction of the highest before it (including the start), less 1.
    cagr: yearly growth over the calendar time (years of 365.25 days) from the first bar's open to the last one's close.
    calmar_ratio: cagr / |max_drawdown|.
    days: number of returns; annualisation: returns per year.
    sharpe_ratio, sortino_ratio and volatility need 30 returns, cagr and calmar_ratio 30 days; see
    `projections.sample_size`.
    bar_sharpe_ratio: the Sharpe ratio of returns per bar with bars_per_year, if declared; not comparable with
    sharpe_ratio.
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
    periods_per_year: int | None,
    bar_length: timedelta,
    session_of: Callable[[datetime], datetime] = lambda at: at,
    *,
    risk_free: float = 0.0,
    bars_per_year: int | None = None,
) -> Metrics:
    """Return all metrics of a run.

    equity: (close of the bar, marked equity) for every bar, in order; closed_pnl: net profit of every closed trade;
    session_of: returns the end of the session of a close, so that the last close of each session counts; by default
    every bar is a session. periods_per_year: returns per year; None to estimate it from their spacing. risk_free:
    yearly rate as a fraction. Raise `ValueError` for a start that is not above 0, because returns are undefined then.
    """
    if start_equity <= 0:
        raise ValueError(f"start_equity must be above 0, not {start_equity}")
    wins = [pnl for pnl in closed_pnl if pnl > 0]
    gross_profit = total(wins)
    gross_loss = neg(total(pnl for pnl in closed_pnl if pnl < 0))
    trades = len(closed_pnl)
    final = equity[-1][1] if equity else start_equity
    sessions = session_equity(equity, session_of)
    returns = _returns([start_equity, *(value for _, value in sessions)])
    annualisation = periods_per_year or returns_per_year([at for at, _ in sessions])
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
        sharpe_ratio=_sharpe(returns, annualisation, risk_free),
        sortino_ratio=_sortino(returns, annualisation),
        volatility=None if returns is None else _deviation(returns) * annualisation**0.5,
        max_drawdown=deepest,
        cagr=growth,
        calmar_ratio=growth / -deepest if growth is not None and deepest else None,
        days=len(sessions),
        annualisation=annualisation,
        bar_sharpe_ratio=_sharpe(per_bar, bars_per_year, risk_free) if bars_per_year else None,
        bars_per_year=bars_per_year,
    )


def session_equity(
    equity: Sequence[tuple[datetime, Decimal]], session_of: Callable[[datetime], datetime]
) -> list[tuple[datetime, Decimal]]:
    """Return the last equity of each session, with the session's end. Sessions without a bar are left out."""
    found: dict[datetime, Decimal] = {}
    end: datetime | None = None
    for at, value in equity:
        if end is None or at > end:
            end = session_of(at)
        found[end] = value
    return list(found.items())


def returns_per_year(instants: Sequence[datetime]) -> int:
    """Return the number of returns per year, estimated from their mean distance.

    The nearest in ratio of 365 (sessions around the clock), 252 (exchange sessions), 52 (weeks) and 12 (months); 252
    for fewer than two instants.
    """
    if len(instants) < 2 or instants[-1] <= instants[0]:
        return 252
    observed = (len(instants) - 1) * (_YEAR / (instants[-1] - instants[0]))
    return min((365, 252, 52, 12), key=lambda usual: abs(log(observed / usual)))


def drawdowns(equity: Sequence[tuple[datetime, Decimal]], start_equity: Decimal) -> list[tuple[datetime, float]]:
    """Return at each bar the equity relative to its highest value so far (including the start), less 1: at most 0."""
    if not equity:
        return []
    values = np.array([float(value) for _, value in equity])
    highest = np.maximum.accumulate(np.maximum(values, float(start_equity)))
    shares = values / highest - 1.0
    return [(at, float(share)) for (at, _), share in zip(equity, shares, strict=True)]


def _returns(values: Sequence[Decimal]) -> NDArray[np.float64] | None:
    """Return relative changes from each value to the next; None if there are too few or one starts at or below 0."""
    levels = np.array([float(value) for value in values])
    if len(levels) < MIN_RETURNS + 1 or levels[:-1].min() <= 0:
        return None
    return levels[1:] / levels[:-1] - 1.0


def _deviation(returns: NDArray[np.float64]) -> float:
    deviation = float(np.std(returns, ddof=1))
    return deviation if deviation > _NOISE else 0.0


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
    """Return the yearly growth; None for less than 30 days, for equity below 0, and if it overflows a float."""
    if not equity or equity[-1][1] < ZERO:
        return None
    duration = equity[-1][0] - equity[0][0] + bar_length
    if duration < MIN_DURATION:
        return None
    years = duration / _YEAR
    try:
        return (float(equity[-1][1]) / float(start)) ** (1.0 / years) - 1.0
    except OverflowError:
        return None
