"""Tables on a screen: which columns fit, what is said of the others, and numbers as people read them."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from ui.cli.tables import TableColumn, build_table
from ui.formats import currency_places, format_amount, format_figure, format_percent, format_price, format_source, tidy

NAMES = ("trade", "symbol", "entry", "exit", "quantity", "pnl", "reason")
ROW: dict[str, Any] = {
    "trade": "trade-12",
    "symbol": "BTC-USD",
    "entry": "2017-07-14T17:00",
    "exit": "2017-07-14T18:00",
    "quantity": Decimal("1.40197293"),
    "pnl": Decimal("-18.93"),
    "reason": "the holding time of four bars has passed",
}


def drawn(rows: list[dict[str, Any]], width: int | None, keep: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """The lines of a table, and the names of the columns that it has no room for."""
    table, needed, dropped = build_table("A title", rows, [TableColumn(name) for name in NAMES], width, keep)
    text = io.StringIO()
    Console(file=text, width=needed if width is None else width).print(table)
    return text.getvalue().splitlines(), dropped


@given(st.integers(20, 200))
def test_whatever_the_width_no_line_is_longer_and_every_column_is_shown_or_named(width: int) -> None:
    lines, dropped = drawn([ROW, ROW], width)
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    assert [name for name in NAMES if name not in lines[1]] == dropped
    assert "1.40197293" in lines[2] or "quantity" in dropped


def test_the_last_columns_go_first_unless_they_are_to_be_kept() -> None:
    assert drawn([ROW], 60)[1] == ["quantity", "pnl", "reason"]
    assert drawn([ROW], 50, keep=("trade", "pnl", "quantity", "symbol"))[1] == ["entry", "exit", "reason"]


def test_without_a_width_nothing_is_left_out_or_folded() -> None:
    lines, dropped = drawn([ROW], None)
    assert not dropped
    assert len(lines) == 3
    assert str(ROW["reason"]) in lines[2]


def test_a_cell_is_text_and_never_markup() -> None:
    lines, _ = drawn([ROW | {"reason": "[red]by hand[/red]"}], None)
    assert "[red]by hand[/red]" in lines[2]


@pytest.mark.parametrize(
    ("currency", "places", "text"),
    [("USD", 2, "-1,234.50"), ("JPY", 0, "-1,234"), ("KWD", 3, "-1,234.500"), ("BTC", 8, "-1,234.50000000")],
)
def test_an_amount_has_the_decimals_of_its_currency(currency: str, places: int, text: str) -> None:
    assert currency_places(currency) == places
    assert format_amount(Decimal("-1234.5"), currency) == text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        ("14955.45399", 2, "14,955.45"),
        ("1.2001", 5, "1.20010"),
        ("0.07", 2, "0.07"),
        ("0.00000712", 5, "0.00000712"),
        ("0.000007", 2, "0.000007"),
        ("0.95123", 2, "0.95"),
        ("0", 2, "0.00"),
    ],
)
def test_a_price_has_its_instruments_decimals_and_a_tiny_one_its_digits(value: str, decimals: int, text: str) -> None:
    assert format_price(Decimal(value), decimals) == text


def test_the_figures_of_a_run_read_as_amounts_percentages_and_ratios() -> None:
    assert format_percent(-0.0034) == "-0.34 %"
    assert format_figure("total_return", -0.0034, "USD") == "-0.34 %"
    assert format_figure("fees", Decimal("1408.715144"), "USD") == "1,408.72"
    assert format_figure("sharpe_ratio", -0.5934, "USD") == "-0.59"
    assert format_figure("total_trades", 243, "USD") is None


@pytest.mark.parametrize(
    "text", ["until 2017-08-01 12:00", "2017-08-01", "order-BTC-USD-20170714T170000Z-1", "3:00:00"]
)
def test_times_dates_and_ids_are_no_numbers(text: str) -> None:
    assert tidy(text) == text


def test_signals_from_a_file_are_no_analysis() -> None:
    assert format_source("analysis", "imported:mine@0123") == "imported signal"
    assert format_source("analysis", "rules") == "analysis"
    assert format_source("holding_time", "imported:mine@0123") == "holding time"
    assert format_source(None, "rules") == "-"
