"""Outcome of a run's signals: denials by rule, and one sentence for a run without trades."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from projections.queries import Queries, Rows
from ui.formats import format_count, format_time, tidy


class Outcome(NamedTuple):
    """denials: rule, signals, symbols, limit and observed, most frequent first; no_trades: reason of a run without
    trades, else empty; ended_early: reason of an end before the last bar, else empty."""

    denials: Rows
    no_trades: str
    ended_early: str


def run_outcome(queries: Queries, run_id: str) -> Outcome:
    """Return the outcome of a run's signals."""
    denials = queries.denials(run_id)
    metrics = queries.metrics(run_id) or {}
    ended_early = _ended_early(queries, run_id)
    if metrics.get("total_trades") or metrics.get("open_trades") or queries.trades(run_id):
        return Outcome(denials, "", ended_early)
    return Outcome(denials, f"No trade: {_reason(queries, run_id, denials)}.", ended_early)


def _ended_early(queries: Queries, run_id: str) -> str:
    run = queries.run(run_id)
    if run["status"] != "ended" or not run["reason"]:
        return ""
    at = format_time(queries.last_bar_closed_at(run_id))
    return f"{run['reason']}: the account had no equity left at {at} UTC; its positions were closed and the run ended."


def _reason(queries: Queries, run_id: str, denials: Rows) -> str:
    verdicts = queries.verdict_counts(run_id)
    signals, denied = sum(verdicts.values()), verdicts.get("DENIED", 0)
    if not signals:
        return _without_signal(queries.decision_counts(run_id))
    if denied == signals:
        first = denials[0]
        return (
            f"all {format_count(signals, 'signal')} were denied, most often by the rule {first['rule']} "
            f"({first['signals']:,} "
            f"times): limit {tidy(first['limit'])}, observed {tidy(first['observed'])}"
        )
    ends = "; ".join(
        f"{row['orders']:,} {row['status']}" + (f" ({tidy(row['reason'])})" if row["reason"] else "")
        for row in queries.order_status_counts(run_id)
    )
    denied_part = f", {denied:,} of {format_count(signals, 'signal')} were denied" if denied else ""
    return f"no order was filled{denied_part}; orders: {ends or 'none'}"


def _without_signal(decisions: Mapping[str, int]) -> str:
    if not decisions:
        return "there was no signal, and no analysis or imported decision to make one"
    counts = ", ".join(f"{n:,} {decision}" for decision, n in decisions.items())
    return f"there was no signal, the decisions were {counts}"
