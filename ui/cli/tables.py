"""Tables on a screen: the columns that fit, by importance, and the omitted ones.

A terminal has a width, and so has a pipe with `COLUMNS` set; any other output is as wide as the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

TableRow = Mapping[str, Any]

# Sentences may be wrapped; a column of them is at least this wide.
PROSE_WIDTH = 24
GAP = 2
NARROWEST = 20


@dataclass(frozen=True)
class TableColumn:
    """A column by the key of its cells in the rows; text: format of a cell, by default `format_cell`; right:
    aligned right, as numbers are by default."""

    name: str
    text: Callable[[TableRow], str] | None = None
    right: bool = False

    def render(self, row: TableRow) -> str:
        return format_cell(row.get(self.name)) if self.text is None else self.text(row)


def screen_width(console: Console) -> int | None:
    """Return the number of characters of a line; None without a limit."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return max(int(given), NARROWEST)
    return console.width if console.is_terminal else None


def format_cell(value: object) -> str:
    """Format a value for tables: times to the minute, numbers with separators, a dash for a missing value."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4f}"
        case Decimal():
            return f"{value:,f}" if len(f"{value:f}") <= 14 else f"{value:,.6f}".rstrip("0").rstrip(".")
        case _:
            return str(value)


class _ColumnLayout(NamedTuple):
    """A column with its cells as text and its possible widths."""

    name: str
    cells: list[str]
    right: bool
    least: int
    most: int


def _layout_column(column: TableColumn, rows: Sequence[TableRow]) -> _ColumnLayout:
    values = [row.get(column.name) for row in rows]
    cells = [column.render(row) for row in rows]
    title = column.name.replace("_", " ")
    most = max(map(cell_len, (title, *cells)))
    prose = any(isinstance(value, str) and " " in value for value in values)
    numeric = any(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values)
    return _ColumnLayout(
        column.name,
        cells,
        column.right or numeric,
        min(most, max(PROSE_WIDTH, cell_len(title))) if prose else most,
        most,
    )


def fitting_columns(columns: Sequence[_ColumnLayout], width: int, keep: Sequence[str]) -> list[_ColumnLayout]:
    """Return the columns that fit a width: the first one, then those of `keep` in its order, then the others."""
    by_name = {column.name: column for column in columns}
    order = dict.fromkeys([columns[0].name, *(name for name in keep if name in by_name), *by_name])
    fitting, used = set[str](), -GAP
    for name in order:
        needed = used + GAP + by_name[name].least
        if needed <= width or not fitting:
            fitting.add(name)
            used = needed
    return [column for column in columns if column.name in fitting]


def build_table(
    title: str, rows: Sequence[TableRow], columns: Sequence[TableColumn], width: int | None, keep: Sequence[str]
) -> tuple[Table, int, list[str]]:
    """Return the table, its width, and the names of the omitted columns."""
    layouts = [_layout_column(column, rows) for column in columns]
    shown = layouts if width is None else fitting_columns(layouts, width, keep)
    table = Table(title=Text(title) if title else None, title_justify="left", header_style="bold", box=None)
    table.pad_edge = False
    for column in shown:
        fits = column.least == column.most and (width is None or column.most <= width)
        table.add_column(
            Text(column.name.replace("_", " ")),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=fits,
            min_width=column.least if len(shown) > 1 else None,
        )
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(Text, cells))
    full_width = sum(column.most + GAP for column in shown) - GAP
    wide = max(full_width, cell_len(max(title.splitlines() or [""], key=cell_len)))
    names = {column.name for column in shown}
    return table, wide, [column.name for column in layouts if column.name not in names]
