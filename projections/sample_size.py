"""How many observations a figure of a run needs before it is given."""

from __future__ import annotations

from datetime import timedelta

LEAST_RETURNS = 30
"""With fewer returns a ratio is noise: the Sharpe ratio of 30 daily returns has a standard error of about 2.9."""
LEAST_TIME = timedelta(days=30)


def missing_reason(name: str, returns: int) -> str:
    """Why a ratio is not given, for people; empty for figures that need no number of returns."""
    if name in ("sharpe_ratio", "sortino_ratio", "volatility") and returns < LEAST_RETURNS:
        return f"{returns} returns, {LEAST_RETURNS} needed"
    if name in ("cagr", "calmar_ratio"):
        return f"less than {LEAST_TIME.days} days, or undefined"
    return ""
