"""How commands speak: results on stdout (a table or JSON), progress and errors on stderr, exit codes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from engine.errors import BadInput, QuantagentError
from engine.market import Timeframe, check_symbol

SCHEMA_VERSION = 1

# A table written to a file or a pipe should not be folded to an imagined terminal.
PIPE_WIDTH = 160

out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Columns of words that lose their sense in two pieces.
WHOLE = ("run", "environment", "status", "verdict", "level")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the rows as CSV on stdout.")]
Symbols = Annotated[str, typer.Option("--symbols", metavar="A,B", help="Symbols, comma separated.")]
OneSymbol = Annotated[str | None, typer.Option("--symbol", metavar="A", help="Only this symbol.")]
Start = Annotated[str | None, typer.Option("--start", metavar="TIME", help="First bar opens at or after this (UTC).")]
End = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Last bar closes at or before this (UTC).")]
On = Annotated[str | None, typer.Option("--on", metavar="DATE", help="Only this UTC day.")]
Run = Annotated[str, typer.Option("--run", metavar="RUN", help="A run by the beginning of its id, or `latest`.")]
Frame = Annotated[str, typer.Option("--timeframe", metavar="1h", help=f"One of {', '.join(Timeframe)}.")]


def symbols_of(text: str) -> tuple[str, ...]:
    """The symbols of `A,B`, checked, without repeats."""
    return tuple(dict.fromkeys(check_symbol(part.strip()) for part in text.split(",") if part.strip()))


def instant_of(text: str | None) -> datetime | None:
    """A UTC instant from a date or a time; a time without offset is UTC, as the option's help says."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        instant = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"{text!r} is not a time: write 2017-08-01 or 2017-08-01T12:00Z.") from None
    if not 1900 <= instant.year <= 2199:
        raise BadInput(f"{text!r} is no time of a market: write one from 1900 to 2199.")
    return instant


def day_of(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is not a date: write 2017-08-01.") from None


def dollars_of(text: str) -> Decimal | None:
    """An amount of US dollars; None where none is said."""
    from engine.money import exact

    if not text:
        return None
    try:
        amount = exact(text)
    except ValueError:
        raise BadInput(f"{text!r} is no amount of dollars: write 2.50.") from None
    if amount < 0:
        raise BadInput(f"a budget of {text} dollars cannot be spent: write 2.50.")
    return amount


@contextmanager
def errors_in_words() -> Generator[None]:
    """Turns an error meant for people into its one sentence on stderr and an exit code: 2 for bad input, else 1."""
    import psycopg

    try:
        yield
    except BadInput as error:
        err.print(f"[red]error:[/red] {_plain(error)}")
        raise typer.Exit(2) from None
    except QuantagentError as error:
        err.print(f"[red]error:[/red] {_plain(error)}")
        raise typer.Exit(1) from None
    except psycopg.Error as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        err.print(f"[red]error:[/red] the database says: {_plain(first)}. Check `quantagent db status` and try again.")
        raise typer.Exit(1) from None
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        err.print(f"[red]error:[/red] {_plain(error.strerror or error)}{_plain(where)}: check that path and try again.")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("stopped. What was stored stays; the same command continues from there.")
        raise typer.Exit(130) from None


def _plain(error: object) -> str:
    from rich.markup import escape

    return escape(str(error))


def print_json(**facts: object) -> None:
    """One JSON document with the schema's version."""
    document = {"schema_version": SCHEMA_VERSION, **facts}
    text = msgspec.json.format(msgspec.json.encode(document, enc_hook=str, order="deterministic"), indent=2)
    sys.stdout.write(text.decode() + "\n")


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        writer = csv.writer(sys.stdout)
        writer.writerow(rows[0])
        writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)


def _csv_cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else value


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table of the named columns; what is missing is a dash."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in columns:
        numeric = any(isinstance(row.get(name), int | float | Decimal) for row in rows)
        # Half an id or half a number is worse than none: those columns keep their width.
        whole = numeric or name in WHOLE
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in columns))
    out.print(table)


def cell(value: object) -> str:
    """A value as tables show it: times to the minute, numbers with separators, a dash for nothing."""
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


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), cell(value))
    out.print(table)


@contextmanager
def progress() -> Generator[Callable[[str, int, int], None]]:
    """Bars on stderr, one for each thing being done; where stderr is no terminal, only their last state."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as shown:
        tasks: dict[str, TaskID] = {}
        seen: dict[str, int] = {}

        def tell(told: str, done: int, total: int) -> None:
            # What follows the stroke changes on the way.
            what = told.partition(" | ")[0]
            if what not in tasks or done < seen[what]:
                tasks[what] = shown.add_task(told, total=total)
            seen[what] = done
            shown.update(tasks[what], completed=done, total=total, description=told.replace(" | ", " "))

        yield tell
