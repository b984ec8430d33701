"""Numbers and times formatted for display, in commands and on the page. Pure; exact values belong to --json and --csv.

Minus is the ASCII sign, a missing value is a dash, thousands are separated, times are UTC to the minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from engine.data.signals import VARIANT_PREFIX as IMPORTED
from projections.sample_size import missing_reason

DASH = "-"
SIGNS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
PLACES_MAX = 8

# ISO 4217 has two decimals for every other currency. Coins have eight.
_WITHOUT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_WITH_THREE = "BHD IQD JOD KWD LYD OMR TND"
_COINS = "BTC ETH BNB SOL XBT LTC"
_PLACES = {
    currency: places for names, places in ((_WITHOUT, 0), (_WITH_THREE, 3), (_COINS, 8)) for currency in names.split()
}


def currency_places(currency: str) -> int:
    """Return the number of decimals of amounts in a currency."""
    return _PLACES.get(currency, 2)


def format_amount(value: Decimal | float | None, currency: str, *, signed: bool = False) -> str:
    """Format an amount without its currency, for a column that names it: -1,234.50."""
    if value is None:
        return DASH
    places = currency_places(currency)
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN) + 0
    sign = "+" if signed and rounded > 0 else ""
    return f"{sign}{rounded:,.{places}f}"


def format_money(value: Decimal | float | None, currency: str, *, signed: bool = False) -> str:
    """Format money as -$1,234.50, or -CHF 1,234.50 for a currency without a symbol; `signed` adds a plus."""
    if value is None:
        return DASH
    text = format_amount(value, currency, signed=signed)
    sign = text[0] if text[0] in "+-" else ""
    return f"{sign}{SIGNS.get(currency, currency + ' ')}{text.lstrip('+-')}"


def format_percent(share: Decimal | float | None, places: int = 2) -> str:
    """Format a fraction as a percentage: 0.0125 is `1.25 %`."""
    return DASH if share is None else f"{_rounded(float(share) * 100, places):,.{places}f} %"


def format_ratio(value: float | None) -> str:
    """Format a ratio with two decimals."""
    return DASH if value is None else f"{_rounded(float(value), 2):,.2f}"


def _rounded(value: float, places: int) -> float:
    # Adding 0 turns a negative zero into zero.
    return round(value, places) + 0.0


def format_number(value: Decimal | None, places: int | None = None) -> str:
    """Format a number with thousands separators and `places` decimals; by default its own, at most 8."""
    if value is None:
        return DASH
    text = f"{value:,.{PLACES_MAX if places is None else places}f}"
    if places is None:
        text = text.rstrip("0").rstrip(".")
    return text.removeprefix("-") if not any(digit in text for digit in "123456789") else text


def price_places(prices: Iterable[Decimal | None], decimals: int) -> int:
    """Return the decimals of a price column: the instrument's, or more where those would hide most digits."""
    needed = max((_significant_places(price) for price in prices if price), default=0)
    return needed if needed > decimals + 1 else decimals


def _significant_places(price: Decimal) -> int:
    """Return the decimals that show three significant digits, or all of them."""
    exponent = price.normalize().as_tuple().exponent
    assert isinstance(exponent, int), "a price is finite"
    return min(2 - price.adjusted(), -exponent)


def format_price(value: Decimal | None, decimals: int) -> str:
    """Format a price with its instrument's decimals: 14,955.45; a tiny one with three significant digits."""
    return format_number(value, price_places([value], decimals))


def tidy(text: str) -> str:
    """Shorten the numbers in a risk check's text: 2 decimals from 100, else at most 8. Times, dates and ids stay."""
    return re.sub(r"(?<![\w.:])(?<!\d-)-?\d+(\.\d+)?(?![\w.:]|-\d)", lambda match: _short(Decimal(match[0])), text)


def _short(value: Decimal) -> str:
    return format_number(value, 2) if abs(value) >= 100 and value != value.to_integral_value() else format_number(value)


def format_time(at: datetime | None) -> str:
    """Format a time as UTC to the minute."""
    return DASH if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def format_count(n: int, what: str) -> str:
    """Format a count with its noun: `1 trade`, `2 trades`."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


# --- Figures of runs ----------------------------------------------------------------------------------------------

_MONEY = (
    *("final_equity", "total_pnl", "fees", "expectancy", "gross_profit", "gross_loss", "cash", "free_cash", "equity"),
    *("realised_pnl", "unrealised_pnl", "financing", "day_equity", "daily_pnl", "starting_cash", "pnl", "net_pnl"),
    *("gross_pnl", "cost", "value"),
)
_PERCENT = ("total_return", "win_rate", "volatility", "max_drawdown", "cagr")
OF_RETURNS = ("sharpe_ratio", "sortino_ratio", "volatility")
OF_TRADES = ("win_rate", "profit_factor", "expectancy")
_RATIO = ("profit_factor", "sharpe_ratio", "sortino_ratio", "calmar_ratio")


def format_figure(name: str, value: Any, currency: str) -> str | None:
    """Format a figure of a run by its name as amount, percentage or ratio; None for any other value."""
    if value is None:
        return None
    if name in _MONEY:
        return format_amount(value, currency)
    if name in _PERCENT:
        return format_percent(value)
    return format_ratio(value) if name in _RATIO else None


def format_figures(facts: Mapping[str, Any], currency: str) -> dict[str, str]:
    """Format all figures among some values; a ratio with the number of its observations."""
    texts = {name: _with_count(name, format_figure(name, value, currency), facts) for name, value in facts.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _with_count(name: str, text: str | None, facts: Mapping[str, Any]) -> str | None:
    returns, trades = facts.get("days"), facts.get("total_trades")
    if text is None:
        reason = "" if returns is None else missing_reason(name, returns)
        return f"{DASH} ({reason})" if reason else None
    if name in OF_RETURNS and returns is not None:
        return f"{text} (n = {format_count(returns, 'return')})"
    if name in OF_TRADES and trades is not None:
        return f"{text} (n = {format_count(trades, 'trade')})"
    return text


def format_source(source: str | None, variant: str) -> str:
    """Return the source of a signal or an exit as a phrase; imported signals are named as such."""
    if not source:
        return DASH
    return "imported signal" if source == "analysis" and variant.startswith(IMPORTED) else source.replace("_", " ")
