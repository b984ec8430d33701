"""Content of the page: rows of the read models as text, cards and tables. Pure.

Minus is the ASCII sign (cards show it as "down"), a missing value is a dash, times are UTC to the minute. Green and red
mean profit and loss only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pandas

from engine.core.config import RiskLimits
from projections.queries import ReadAt
from ui.formats import (
    DASH,
    PLACES_MAX,
    currency_places,
    format_count,
    format_money,
    format_number,
    format_percent,
    format_ratio,
    format_source,
    format_time,
    price_places,
    tidy,
)

GAIN, LOSS = "#2fae76", "#e5534b"
CURVE_POINTS = 2_000
SPARK_POINTS = 60

ReadRow = Mapping[str, Any]
Tone = Literal["gain", "loss", ""]


# --- Text ---


def plain(text: str) -> str:
    """Escape text for Markdown; two dollar signs would otherwise enclose a formula."""
    return re.sub(r"([\\`*_\[\]$~:<>|#])", r"\\\1", text)


# --- Cards ---


class Card(NamedTuple):
    """One figure with its reference below. `tone` colors money; `spark` is a small curve."""

    label: str
    value: str
    note: str
    tone: Tone = ""
    spark: tuple[float, ...] = ()


def cards(run: ReadRow, metrics: ReadRow | None, limits: RiskLimits | None, equity: Sequence[ReadRow]) -> list[Card]:
    """Return the six figures of a run. Without metrics (no bar has closed) they are dashes."""
    figures = metrics or {}
    currency = str(run["currency"])
    pnl: Decimal | None = figures.get("total_pnl")
    tone = tone_of(pnl)
    closed, still_open, days = (int(figures.get(name) or 0) for name in ("total_trades", "open_trades", "days"))
    return [
        Card(
            "Final equity" if run["status"] == "ended" else "Equity",
            format_money(figures.get("final_equity"), currency),
            f"start {format_money(run['starting_cash'], currency)}",
            spark=tuple(float(equity[n]["equity"]) for n in spread_indices(len(equity), SPARK_POINTS)),
        ),
        Card(
            "Net P&L",
            format_money(pnl, currency, signed=True),
            f"fees {format_money(figures.get('fees'), currency)}",
            tone,
        ),
        Card(
            "Return",
            format_percent(figures.get("total_return")),
            f"{format_count(days, 'day')}, CAGR {format_percent(figures.get('cagr'))}",
            tone,
        ),
        Card(
            "Max drawdown", format_percent(figures.get("max_drawdown")), _limit(limits and limits.drawdown_pct, "limit")
        ),
        Card("Win rate", format_percent(figures.get("win_rate"), 1), f"n = {closed:,} closed, {still_open:,} open"),
        Card(
            "Profit factor",
            format_ratio(figures.get("profit_factor")),
            f"Sharpe {format_ratio(figures.get('sharpe_ratio'))}, n = {days:,}",
        ),
    ]


def tone_of(amount: Decimal | None) -> Tone:
    if not amount:
        return ""
    return "gain" if amount > 0 else "loss"


def _limit(share: Decimal | None, name: str) -> str:
    """Return a limit in percent of equity, or that there is none."""
    return f"no {name}" if share is None else f"{name} {format_number(share)} %"


def spread_indices(length: int, most: int) -> list[int]:
    """Return at most `most` indices spread evenly over a sequence, with the first and the last."""
    if length <= most:
        return list(range(length))
    return [round(n * (length - 1) / (most - 1)) for n in range(most)]


def thin_curve(curve: Sequence[ReadRow], most: int = CURVE_POINTS) -> list[ReadRow]:
    """Return at most `most` points of a curve with every extreme: of each interval the lowest equity, the lowest
    drawdown and the highest equity; and the first and last point."""
    if len(curve) <= most:
        return list(curve)
    stretches = max((most - 2) // 3, 1)
    bounds = [len(curve) * n // stretches for n in range(stretches + 1)]
    kept = {0, len(curve) - 1}
    for first, end in pairwise(bounds):
        stretch = range(first, end)
        kept.add(min(stretch, key=lambda n: curve[n]["equity"]))
        kept.add(max(stretch, key=lambda n: curve[n]["equity"]))
        kept.add(min(stretch, key=lambda n: curve[n]["drawdown"]))
    return [curve[n] for n in sorted(kept)]


# --- Runs ---


def run_name(run: ReadRow) -> str:
    """Return the name of a run in a list: 17b6b789 realistic BTC-USD,EUR-USD 1h, label."""
    name = f"{run['run_id'][:8]}  {run['profile']}  {run['symbols']}  {run['timeframe']}"
    return f"{name}, {run['label']}" if run["label"] else name


def as_of_text(at: ReadAt) -> str:
    """Return the moment that all blocks of a page show: as of 2017-12-29 22:00:05 UTC, event 16,246."""
    when = f"as of {at.updated_at:%Y-%m-%d %H:%M:%S} UTC, event {at.position:,}"
    return when if at.position == at.figures else f"{when}; figures and curve as of event {at.figures:,}"


def loss_limit(limits: RiskLimits) -> str:
    """Return `daily loss limit 5 %`, or that there is none."""
    return _limit(limits.daily_loss_pct, "daily loss limit")


def is_running(run: ReadRow) -> bool:
    return run["status"] in ("requested", "running")


NO_RUN = {
    "backtest": "There is no backtest yet. Make one: `quantagent data sample`, then `quantagent backtest`.",
    "paper": "There is no paper run yet. Start one: `quantagent paper start`.",
    "replay": "There is no replay yet. Replay the newest run: `quantagent replay latest`.",
}


# --- Tables ---


def trades_table(rows: Sequence[ReadRow], decimals: Mapping[str, int], currency: str, variant: str) -> Any:
    """Return a pandas Styler, one row per trade; numbers stay numbers, so that a click on a header sorts them.

    rows: with `unrealised_pnl`, shown for an open trade instead of a result; decimals: price decimals of each symbol.
    """
    pnl, unrealised = f"Net P&L ({currency})", f"Unrealised ({currency})"
    still_open = any(row["exit_at"] is None for row in rows)
    columns = {
        "#": [row["number"] for row in rows],
        "Symbol": [row["symbol"] for row in rows],
        "Side": [row["direction"] for row in rows],
        "Entry (UTC)": [format_time(row["entry_at"]) for row in rows],
        "Exit (UTC)": [format_time(row["exit_at"]) for row in rows],
        "Quantity": _floats(row["quantity"] for row in rows),
        "Entry price": _floats(row["entry_price"] for row in rows),
        "Exit price": _floats(row["exit_price"] for row in rows),
        pnl: _floats(None if row["exit_at"] is None else row["net_pnl"] for row in rows),
        **({unrealised: _floats(row["unrealised_pnl"] for row in rows)} if still_open else {}),
        "Exit by": [format_source(row["exit_reason"], variant) for row in rows],
    }
    amounts = [name for name in (pnl, unrealised) if name in columns]
    form = f"{{:,.{currency_places(currency)}f}}"
    style = _styled(columns).format({"Quantity": _up_to_8, **dict.fromkeys(amounts, form)}, na_rep=DASH)
    style = _with_price_decimals(style, rows, decimals, ["Entry price", "Exit price"])
    return style.map(_money_colour, subset=amounts)


def orders_table(rows: Sequence[ReadRow], decimals: Mapping[str, int]) -> Any:
    """Return a pandas Styler, one row per order: its purpose, price and outcome."""
    style = _styled(
        {
            "#": [row["number"] for row in rows],
            "Symbol": [row["symbol"] for row in rows],
            "Placed (UTC)": [format_time(row["placed_at"]) for row in rows],
            "Side": [row["side"] for row in rows],
            "For": [_words(row["role"]) for row in rows],
            "Type": [_words(row["order_type"]) for row in rows],
            "Quantity": _floats(row["quantity"] for row in rows),
            "Stop": _floats(row["stop_price"] for row in rows),
            "Limit": _floats(row["limit_price"] for row in rows),
            "Status": [row["status"] for row in rows],
            "Filled": _floats(row["filled_quantity"] for row in rows),
            "Reason": [row["reason"] or DASH for row in rows],
        }
    )
    style = style.format({"Quantity": _up_to_8, "Filled": _up_to_8}, na_rep=DASH)
    return _with_price_decimals(style, rows, decimals, ["Stop", "Limit"])


def denials_table(rows: Sequence[ReadRow]) -> Any:
    """Return a pandas frame, one row per rule that denied signals, with the most frequent numbers."""
    return pandas.DataFrame(
        {
            "Rule": [_words(row["rule"]) for row in rows],
            "Denied": [row["signals"] for row in rows],
            "Symbols": [row["symbols"].replace(",", ", ") for row in rows],
            "Commonest limit": [tidy(row["limit"]) for row in rows],
            "Observed": [tidy(row["observed"]) for row in rows],
        }
    )


def signals_table(rows: Sequence[ReadRow], decimals: Mapping[str, int], variant: str) -> Any:
    """Return a pandas Styler, one row per signal with the verdict of the risk check."""
    style = _styled(
        {
            "#": [row["number"] for row in rows],
            "Symbol": [row["symbol"] for row in rows],
            "Time (UTC)": [format_time(row["at"]) for row in rows],
            "Wants": [row["direction"] for row in rows],
            "Confidence": _floats(row["confidence"] for row in rows),
            "Close": _floats(row["reference_price"] for row in rows),
            "From": [format_source(row["source"], variant) for row in rows],
            "Verdict": [row["verdict"] for row in rows],
            "Requested": _floats(row["requested"] for row in rows),
            "Allowed": _floats(row["quantity"] for row in rows),
            "Reason": [tidy(row["reason"]) for row in rows],
        }
    )
    formats = {"Confidence": "{:.4f}", "Requested": _up_to_8, "Allowed": _up_to_8}
    style = style.format(formats, na_rep=DASH)
    return _with_price_decimals(style, rows, decimals, ["Close"])


def _styled(columns: dict[str, list[Any]]) -> Any:
    frame: Any = pandas.DataFrame(columns)
    return frame.style


def _with_price_decimals(style: Any, rows: Sequence[ReadRow], decimals: Mapping[str, int], columns: list[str]) -> Any:
    for symbol in dict.fromkeys(row["symbol"] for row in rows):
        of_symbol = [n for n, row in enumerate(rows) if row["symbol"] == symbol]
        prices = [Decimal(str(price)) for name in columns for price in style.data[name][of_symbol] if price == price]
        places = price_places(prices, decimals.get(symbol, 5))
        style = style.format(f"{{:,.{places}f}}", subset=(of_symbol, columns), na_rep=DASH)
    return style


def _floats(values: Iterable[Decimal | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def _up_to_8(value: float) -> str:
    return f"{value:,.{PLACES_MAX}f}".rstrip("0").rstrip(".")


def _words(value: str | None) -> str:
    return value.replace("_", " ") if value else DASH


def _money_colour(value: float) -> str:
    return f"color: {GAIN}" if value > 0 else f"color: {LOSS}" if value < 0 else ""
