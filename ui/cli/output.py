"""Output of commands: results on stdout (table or JSON), progress and errors on stderr, exit codes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.core.errors import BadInput, QuantagentError
from engine.core.market import SYMBOL_PATTERN, Timeframe, check_symbol
from ui.cli import INTERRUPTED, INTERRUPTED_CODE, stop_writing
from ui.cli.tables import GAP, TableColumn, build_table, format_cell, screen_width

if TYPE_CHECKING:
    from projections.queries import Queries
    from ui.app import App, ProgressCallback

SCHEMA_VERSION = 1

# Projecting fewer events than this is too fast for a progress bar.
CATCH_UP_SHOWN = 5_000

# Lines written to a file or a pipe are not wrapped.
out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show every column, even if lines are wrapped.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the rows as CSV on stdout.")]
SymbolsOption = Annotated[str, typer.Option("--symbols", metavar="A,B", help="Symbols, comma separated.")]
SymbolOption = Annotated[str | None, typer.Option("--symbol", metavar="A", help="Only this symbol.")]
StartOption = Annotated[
    str | None, typer.Option("--start", metavar="TIME", help="First bar opens at or after this (UTC).")
]
EndOption = Annotated[
    str | None, typer.Option("--end", metavar="TIME", help="Last bar closes at or before this (UTC).")
]
DayOption = Annotated[str | None, typer.Option("--on", metavar="DATE", help="Only this UTC day.")]
RunOption = Annotated[str, typer.Option("--run", metavar="RUN", help="A run by a prefix of its id, or `latest`.")]
TimeframeOption = Annotated[str, typer.Option("--timeframe", metavar="1h", help=f"One of {', '.join(Timeframe)}.")]


def parse_symbols(text: str) -> tuple[str, ...]:
    """Parse `A,B` into symbols in capitals, checked and without repeats."""
    return tuple(dict.fromkeys(parse_symbol(part.strip()) for part in text.split(",") if part.strip()))


def parse_symbol(text: str) -> str:
    """Parse a symbol in any case into capitals. Raise `BadInput` for an invalid one."""
    capitals = text.upper()
    return capitals if SYMBOL_PATTERN.fullmatch(capitals) else check_symbol(text)


def parse_instant(text: str | None) -> datetime | None:
    """Parse a date or a time into a UTC instant; a time without offset is UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        instant = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"{text!r} is not a time: write 2017-08-01 or 2017-08-01T12:00Z.") from None
    if not 1900 <= instant.year <= 2199:
        raise BadInput(f"{text!r} is out of range: write a time from 1900 to 2199.")
    return instant


def parse_day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is not a date: write 2017-08-01.") from None


def parse_dollars(text: str) -> Decimal | None:
    """Parse an amount of US dollars; None for empty text."""
    from engine.core.money import exact

    if not text:
        return None
    try:
        amount = exact(text)
    except ValueError:
        raise BadInput(f"{text!r} is not an amount of dollars: write 2.50.") from None
    if amount < 0:
        raise BadInput(f"a budget of {text} dollars is negative: write 2.50.")
    return amount


_deferred: list[str] = []


def print_at_end(text: str) -> None:
    """Print a text on stderr after the command's result; not with an error, which is one sentence."""
    if text not in _deferred:
        _deferred.append(text)


def _print_deferred() -> None:
    for text in _deferred:
        err.print(text, markup=False)
    _deferred.clear()


def show_notices(notices: Sequence[str], failed: int) -> None:
    """Print notices about analyses on stderr, followed by the remedy if any analysis failed."""
    from ui.cli.remedies import REMEDIES

    for notice in notices:
        err.print(notice, markup=False)
    if failed:
        err.print(f"{REMEDIES['ANALYSES_FAILED']}.", markup=False)


@contextmanager
def report_errors() -> Generator[None]:
    """Turn an error for users into one sentence on stderr and an exit code: 2 for bad input, else 1."""
    import psycopg

    try:
        try:
            with report_interrupts():
                yield
        except typer.Exit:
            _print_deferred()
            raise
        _print_deferred()
    except QuantagentError as error:
        from ui.cli.remedies import sentence

        err.print(f"[red]error:[/red] {_plain(sentence(error))}")
        raise typer.Exit(2 if isinstance(error, BadInput) else 1) from None
    except psycopg.Error as error:
        from engine.store.connections import failure_reason

        reason = _plain(failure_reason(error))
        err.print(f"[red]error:[/red] the database reports: {reason}. Check `quantagent db status` and try again.")
        raise typer.Exit(1) from None
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        err.print(f"[red]error:[/red] {_plain(error.strerror or error)}{_plain(where)}: check that path and try again.")
        raise typer.Exit(1) from None


@contextmanager
def report_interrupts() -> Generator[None]:
    """End the command with one sentence on Ctrl-C, and silently if the reader of its output is gone."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(INTERRUPTED)
        raise typer.Exit(INTERRUPTED_CODE) from None
    except BrokenPipeError:
        stop_writing()
        raise typer.Exit(0) from None


def _plain(error: object) -> str:
    from rich.markup import escape

    return escape(str(error))


def print_json(**facts: object) -> None:
    """Print one JSON document with the schema's version."""
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


def print_rows(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str | TableColumn],
    *,
    keep: Sequence[str] = (),
    wide: bool | None = None,
) -> None:
    """Print a table of the named columns; missing values are dashes.

    Columns that do not fit the screen are omitted and named below; those of `keep` are omitted last. wide: show all
    columns; None for a command without that option.
    """
    selected = [column if isinstance(column, TableColumn) else TableColumn(column) for column in columns]
    width = None if wide else screen_width(out)
    table, needed, dropped = build_table(title, rows, selected, width, keep)
    print_table(table, needed if width is None else width)
    if dropped:
        names = ", ".join(name.replace("_", " ") for name in dropped)
        remedy = "a wider terminal shows them" if wide is None else "--wide shows them"
        Console(highlight=False, width=width).print(Text(f"Not shown: {names}; {remedy}."))


def print_facts(title: str, facts: Mapping[str, object], formats: Mapping[str, str] | None = None) -> None:
    """Print names and values, one per line; formats: texts of values, by default from `format_cell`."""
    table = Table(title=Text(title) if title else None, title_justify="left", show_header=False, box=None)
    table.pad_edge = False
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    texts = {name: (formats or {}).get(name) or format_cell(value) for name, value in facts.items()}
    for name, text in texts.items():
        table.add_row(Text(name.replace("_", " ")), Text(text))
    needed = max(map(len, texts), default=0) + GAP + max(map(cell_len, texts.values()), default=0)
    print_table(table, screen_width(out) or max(needed, len(title)))


def print_table(table: Table, width: int) -> None:
    """Print a table in lines of a width, without trailing blanks."""
    console = Console(highlight=False, width=width)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


@contextmanager
def open_queries(opened: App) -> Generator[Queries]:
    """Open the read tables, caught up with the log; show progress on stderr if that takes long."""
    with ExitStack() as shown:
        begun: list[ProgressCallback] = []

        def on_progress(done: int, total: int) -> None:
            if not begun and total - done > CATCH_UP_SHOWN:
                begun.append(shown.enter_context(show_progress()))
            for each in begun:
                each("read models", done, total)

        queries = opened.queries(on_progress)
    with queries:
        yield queries


@contextmanager
def show_progress() -> Generator[Callable[[str, int, int], None]]:
    """Show progress bars on stderr, one for each label; if stderr is no terminal, only their last state."""
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

        def on_progress(label: str, done: int, total: int) -> None:
            # The part after the bar changes during the work.
            what = label.partition(" | ")[0]
            if what not in tasks or done < seen[what]:
                tasks[what] = shown.add_task(label, total=total)
            seen[what] = done
            shown.update(tasks[what], completed=done, total=total, description=label.replace(" | ", " "))

        yield on_progress
