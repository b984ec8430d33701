"""`quantagent log`: the log as people read it, one event a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import SCHEMA_VERSION, AsJson, On, OneSymbol, day_of, err, errors_in_words, symbol_of
from ui.cli.run_selection import find_run

if TYPE_CHECKING:
    from engine.audit.narration import Line, Selection
    from ui.app import App

LOOK_AGAIN_S = 1.0
RECONNECT_S = 1.0


def log(
    follow: Annotated[bool, typer.Option("--follow", help="Go on as new events arrive, until Ctrl-C.")] = False,
    symbol: OneSymbol = None,
    name: Annotated[
        str | None, typer.Option(help="An event like OrderFilled, or trades, orders, signals, denials, halts.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run, or `latest`.")] = None,
    on: On = None,
    level: Annotated[str, typer.Option(help="This level and above: info, notice or warning.")] = "info",
    limit: Annotated[int, typer.Option(help="The newest so many; 0 is all.", min=0)] = 200,
    as_json: AsJson = False,
) -> None:
    """What happened, newest last: the events of the log in words. Times are the market's, in UTC."""
    from engine.audit.narration import select
    from ui.app import open_audit

    with errors_in_words():
        wanted = select(name, level, symbol and symbol_of(symbol), day_of(on))
        with open_audit() as opened:
            if run is not None:
                wanted = wanted._replace(run_id=find_run(opened, run).run_id)
            try:
                _tell(_read(opened, wanted, limit, follow), as_json)
            except KeyboardInterrupt:
                if not follow:
                    raise


def _read(opened: App, wanted: Selection, limit: int, follow: bool) -> Iterator[Line]:
    from engine.audit.narration import lines, newest

    head = opened.store.head()
    if limit:
        yield from newest(opened.store, wanted, head, limit)
    else:
        yield from lines(opened.store, wanted, head)
    if follow:
        yield from _arriving(opened, wanted, head)


def _arriving(opened: App, wanted: Selection, after: int) -> Iterator[Line]:
    """What is appended from now on, for ever. Waits for a database that is away."""
    from engine.core.errors import StoreUnavailable

    for _ in _signs(opened.dsn):
        try:
            while page := opened.store.read_all(after, names=wanted.names):
                after = page[-1].position
                yield from wanted.of(page)
        except StoreUnavailable:
            # Whether it has come back is seen when the next sign is waited for.
            continue


def _signs(dsn: str) -> Iterator[None]:
    """One sign at once, then one whenever something may have been appended: every append notifies."""
    import psycopg

    from engine.store import CHANNEL

    while True:
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(f"LISTEN {CHANNEL}".encode())
                while True:
                    yield
                    for _ in conn.notifies(timeout=LOOK_AGAIN_S, stop_after=1):
                        pass
        except psycopg.OperationalError:
            time.sleep(RECONNECT_S)


# --- Lines --------------------------------------------------------------------------------------------------------


def _tell(found: Iterable[Line], as_json: bool) -> None:
    write = _as_json if as_json else _in_columns
    said = 0
    for said, line in enumerate(found, 1):
        if said == 1 and not as_json:
            sys.stdout.write(_columns("position", "time (UTC)", "level", "event", "symbol", "run", "what it says"))
        sys.stdout.write(write(line))
        sys.stdout.flush()
    if not said:
        err.print("The log holds no such event.")


def _columns(*cells: str) -> str:
    return "{:>9}  {:<19}  {:<7}  {:<20}  {:<9}  {:<8}  {}\n".format(*cells)


def _in_columns(line: Line) -> str:
    symbols = line.symbols[0] if len(line.symbols) == 1 else f"{len(line.symbols)} symbols" if line.symbols else "-"
    # A reason may come from anywhere: nothing in it may steer the terminal.
    says = "".join(letter if letter.isprintable() else " " for letter in line.says)
    at = line.at.strftime("%Y-%m-%d %H:%M:%S")
    return _columns(str(line.position), at, line.level, line.name, symbols, line.run_id[:8] or "-", says)


def _as_json(line: Line) -> str:
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
        "says": line.says,
        "recorded_at": row.meta.recorded_at,
        "actor": row.meta.actor,
        "engine": row.meta.engine,
        "stream": row.stream,
        "version": row.version,
        "payload": msgspec.Raw(row.payload),
    }
    return msgspec.json.encode(facts).decode() + "\n"
