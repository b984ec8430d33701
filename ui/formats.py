"""Numbers and times as people read them, in commands and on the page. Pure; exact values belong to --json and --csv.

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
    """How many decimals amounts of a currency have."""
    return _PLACES.get(currency, 2)


def format_amount(value: Decimal | float | None, currency: str, *, signed: bool = False) -> str:
    """An amount of money without the currency's name, for a column that is headed by it: -1,234.50."""
    if value is None:
        return DASH
    places = currency_places(currency)
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN) + 0
    sign = "+" if signed and rounded > 0 else ""
    return f"{sign}{rounded:,.{places}f}"


def format_money(value: Decimal | float | None, currency: str, *, signed: bool = False) -> str:
    """-$1,234.50, or -CHF 1,234.50 for a currency without a sign of its own; `signed` writes a plus too."""
    if value is None:
        return DASH
    text = format_amount(value, currency, signed=signed)
    sign = text[0] if text[0] in "+-" else ""
    return f"{sign}{SIGNS.get(currency, currency + ' ')}{text.lstrip('+-')}"


def format_percent(share: Decimal | float | None, places: int = 2) -> str:
    """A fraction as a percentage: 0.0125 is `1.25 %`."""
    return DASH if share is None else f"{_rounded(float(share) * 100, places):,.{places}f} %"


def format_ratio(value: float | None) -> str:
    """A ratio with two decimals."""
    return DASH if value is None else f"{_rounded(float(value), 2):,.2f}"


def _rounded(value: float, places: int) -> float:
    # Adding 0 makes a zero of a negative zero.
    return round(value, places) + 0.0


def format_number(value: Decimal | None, places: int | None = None) -> str:
    """With thousands separators and `places` decimals; else with its own, at most 8, without trailing zeros."""
    if value is None:
        return DASH
    text = f"{value:,.{PLACES_MAX if places is None else places}f}"
    if places is None:
        text = text.rstrip("0").rstrip(".")
    return text.removeprefix("-") if not any(digit in text for digit in "123456789") else text


def price_places(prices: Iterable[Decimal | None], decimals: int) -> int:
    """The decimals that prices need: their instrument's, or more where those would hide most of their digits."""
    needed = max((_significant_places(price) for price in prices if price), default=0)
    return needed if needed > decimals + 1 else decimals


def _significant_places(price: Decimal) -> int:
    """The decimals that show three significant digits, or all there are."""
    exponent = price.normalize().as_tuple().exponent
    assert isinstance(exponent, int), "a price is finite"
    return min(2 - price.adjusted(), -exponent)


def format_price(value: Decimal | None, decimals: int) -> str:
    """A price with its instrument's decimals: 14,955.45; three significant digits of a tiny one."""
    return format_number(value, price_places([value], decimals))


def tidy(text: str) -> str:
    """Text of a risk check with its numbers readable: cents from 100 on, else at most 8. Times, dates and ids stay."""
    return re.sub(r"(?<![\w.:])(?<!\d-)-?\d+(\.\d+)?(?![\w.:]|-\d)", lambda match: _short(Decimal(match[0])), text)


def _short(value: Decimal) -> str:
    return format_number(value, 2) if abs(value) >= 100 and value != value.to_integral_value() else format_number(value)


def format_time(at: datetime | None) -> str:
    """A UTC time to the minute."""
    return DASH if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def format_count(n: int, what: str) -> str:
    """`1 trade`, `2 trades`."""
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
    """How a figure of a run reads, by its name: an amount, a percentage or a ratio; None for any other value."""
    if value is None:
        return None
    if name in _MONEY:
        return format_amount(value, currency)
    if name in _PERCENT:
        return format_percent(value)
    return format_ratio(value) if name in _RATIO else None


def format_figures(facts: Mapping[str, Any], currency: str) -> dict[str, str]:
    """The texts of all figures among some facts; a ratio of a run with how many observations it rests on."""
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
    """What a signal or an exit came from; the analyses of a run may be signals imported from a file."""
    if not source:
        return DASH
    return "imported signal" if source == "analysis" and variant.startswith(IMPORTED) else source.replace("_", " ")
