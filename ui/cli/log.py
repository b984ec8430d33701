"""`quantagent log`: the log as text, one event per line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import SCHEMA_VERSION, AsJson, DayOption, SymbolOption, err, parse_day, parse_symbol, report_errors
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.audit.narration import LineFilter, NarrationLine
    from ui.app import App

POLL_S = 1.0
RECONNECT_S = 1.0


def log(
    follow: Annotated[bool, typer.Option("--follow", help="Print new events as they arrive, until Ctrl-C.")] = False,
    symbol: SymbolOption = None,
    name: Annotated[
        str | None, typer.Option(help="An event like OrderFilled, or trades, orders, signals, denials, halts.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run, or `latest`.")] = None,
    on: DayOption = None,
    level: Annotated[str, typer.Option(help="This level and above: info, notice or warning.")] = "info",
    limit: Annotated[int, typer.Option(help="At most this many, the newest; 0 is all.", min=0)] = 200,
    as_json: AsJson = False,
) -> None:
    """Print the events of the log as text, newest last; times are market time in UTC."""
    from engine.audit.narration import build_filter
    from ui.app import open_audit

    with report_errors():
        selection = build_filter(name, level, symbol and parse_symbol(symbol), parse_day(on))
        with open_audit() as opened:
            if run is not None:
                selection = selection._replace(run_id=resolve_run(opened, run).run_id)
            try:
                _print_lines(_read(opened, selection, limit, follow), as_json)
            except KeyboardInterrupt:
                if not follow:
                    raise


def _read(opened: App, selection: LineFilter, limit: int, follow: bool) -> Iterator[NarrationLine]:
    from engine.audit.narration import read_latest_narration, read_narration

    head = opened.store.last_position()
    if limit:
        yield from read_latest_narration(opened.store, selection, head, limit)
    else:
        yield from read_narration(opened.store, selection, head)
    if follow:
        yield from _follow(opened, selection, head)


def _follow(opened: App, selection: LineFilter, after: int) -> Iterator[NarrationLine]:
    """Yield new lines as events are appended, without end. Wait for an unreachable database."""
    from engine.core.errors import StoreUnavailable

    for _ in _notifications(opened.dsn):
        try:
            while page := opened.store.read_all(after, names=selection.names):
                after = page[-1].position
                yield from selection.filter_rows(page)
        except StoreUnavailable:
            # The next wait for a notification shows if the database is reachable again.
            continue


def _notifications(dsn: str) -> Iterator[None]:
    """Yield once at the start, then after every append, which notifies."""
    import psycopg

    from engine.store import CHANNEL

    while True:
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(f"LISTEN {CHANNEL}".encode())
                while True:
                    yield
                    for _ in conn.notifies(timeout=POLL_S, stop_after=1):
                        pass
        except psycopg.OperationalError:
            time.sleep(RECONNECT_S)


# --- Lines ---


def _print_lines(lines: Iterable[NarrationLine], as_json: bool) -> None:
    write = _as_json if as_json else _in_columns
    printed = 0
    for printed, line in enumerate(lines, 1):
        if printed == 1 and not as_json:
            sys.stdout.write(_columns("position", "time (UTC)", "level", "event", "symbol", "run", "text"))
        sys.stdout.write(write(line))
        sys.stdout.flush()
    if not printed:
        err.print("The log holds no such event.")


def _columns(*cells: str) -> str:
    return "{:>9}  {:<19}  {:<7}  {:<20}  {:<9}  {:<8}  {}\n".format(*cells)


def _in_columns(line: NarrationLine) -> str:
    symbols = line.symbols[0] if len(line.symbols) == 1 else f"{len(line.symbols)} symbols" if line.symbols else "-"
    # A reason may come from any source: escape it, so that it cannot control the terminal.
    text = "".join(letter if letter.isprintable() else " " for letter in line.description)
    at = line.at.strftime("%Y-%m-%d %H:%M:%S")
    return _columns(str(line.position), at, line.level, line.name, symbols, line.run_id[:8] or "-", text)


def _as_json(line: NarrationLine) -> str:
    import msgspec

    row = line.event
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "position": line.position,
        "at": line.at,
        "level": line.level,
        "name": line.name,
        "symbols": line.symbols,
        "run_id": line.run_id,
        "says": line.description,
        "recorded_at": row.meta.recorded_at,
        "actor": row.meta.actor,
        "engine": row.meta.engine,
        "stream": row.stream,
        "version": row.version,
        "payload": msgspec.Raw(row.payload),
    }
    return msgspec.json.encode(facts).decode() + "\n"
