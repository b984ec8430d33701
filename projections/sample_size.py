"""Minimum numbers of observations for the figures of a run."""

from __future__ import annotations

from datetime import timedelta

MIN_RETURNS = 30
"""With fewer returns a ratio is noise: the Sharpe ratio of 30 daily returns has a standard error of about 2.9."""
MIN_DURATION = timedelta(days=30)


def missing_reason(name: str, returns: int) -> str:
    """Return the reason why a ratio is missing, for display; empty for figures without a minimum."""
    if name in ("sharpe_ratio", "sortino_ratio", "volatility") and returns < MIN_RETURNS:
        return f"{returns} returns, {MIN_RETURNS} needed"
    if name in ("cagr", "calmar_ratio"):
        return f"less than {MIN_DURATION.days} days, or undefined"
    return ""
