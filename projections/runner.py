"""Keeps the read tables up with the log: pages of events, each in one transaction with the position it reached.

What a run's rows are is decided by the pure folds in `projections.runs`; the runner reads, folds and writes. Its
memory of unfinished runs is itself a fold, so a runner that starts anew reads their books again up to its position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from engine.errors import BadInput
from engine.events import AnalysisMade, RunEnded, RunFailed, RunRequested
from engine.feed import Bars
from engine.feed.signals import load_signals
from engine.money import total
from engine.replay import consulted_opinions
from engine.runs import book_stream, run_stream
from engine.store import Recorded, Store
from projections import tables
from projections.decisions import decision_rows
from projections.equity import EquityPoint, equity_curve
from projections.metrics import metrics
from projections.runs import RunView, analysis_row, is_live
from projections.tables import SCHEMA, TABLES, VERSION, Row, Table, ddl

PAGE = 5_000

Progress = Callable[[int, int], None]
Changes = dict[str, dict[tuple[object, ...], Row]]


def unheard(done: int, total: int) -> None:
    del done, total


class Status(NamedTuple):
    """How far the read models are: `lag` counts the events still to project."""

    schema: str
    version: int
    position: int
    head: int

    @property
    def lag(self) -> int:
        return self.head - self.position


class Runner:
    """One writer of the read tables. Two at once are safe: they take turns, page by page."""

    def __init__(self, store: Store, catalogue: Bars, dsn: str, schema: str = SCHEMA) -> None:
        self._store, self._catalogue, self._dsn, self.schema = store, catalogue, dsn, schema
        self._views: dict[str, RunView] = {}
        self._position: int | None = None

    def catch_up(self, progress: Progress = unheard) -> int:
        """Projects everything that is in the log; returns how many events that were.

        `progress` hears how many positions are done, and of how many.
        """
        done = 0
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            self._prepare(conn)
            start, head = progress_of(conn, self.schema), self._store.head()
            while count := self._page(conn):
                done += count
                reached = min(self._position or start, head)
                progress(reached - start, head - start)
        return done

    def status(self) -> Status:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            self._prepare(conn)
            position = progress_of(conn, self.schema)
        return Status(self.schema, VERSION, position, self._store.head())

    def _prepare(self, conn: psycopg.Connection[Any]) -> None:
        """Creates the tables when they are missing, and anew when they are of another version."""
        with conn.transaction():
            take_turns(conn)
            there = conn.execute("SELECT to_regclass(%s)", (f"{self.schema}.progress",)).fetchone() != (None,)
            if there:
                found = conn.execute(SQL("SELECT version FROM {}.progress").format(Identifier(self.schema))).fetchone()
                if found == (VERSION,):
                    return
            conn.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(self.schema)))
            conn.execute(ddl(self.schema).encode())

    def _page(self, conn: psycopg.Connection[Any]) -> int:
        with conn.transaction():
            take_turns(conn)
            position = progress_of(conn, self.schema)
            if position != self._position:
                self._remember(position)
            page = self._store.read_all(position, PAGE)
            if page:
                # Folding changes what is remembered: should this page fail, the next attempt must remember anew.
                self._position = None
                _write(conn, self.schema, self._changes(page))
                self._position = page[-1].position
                conn.execute(
                    SQL("UPDATE {}.progress SET position = %s, updated_at = now()").format(Identifier(self.schema)),
                    (self._position,),
                )
            return len(page)

    def _remember(self, position: int) -> None:
        """Folds the runs that had not ended at a position again."""
        self._views, self._position = {}, position
        for row in self._store.read_all(0, 1_000_000, names=["RunRequested.v1"]):
            if row.position > position or not isinstance(row.event, RunRequested):
                continue
            run_id = row.event.run_id
            facts = [fact for fact in self._store.read(run_stream(run_id)) if fact.position <= position]
            if any(isinstance(fact.event, RunEnded | RunFailed) for fact in facts):
                continue
            facts += [fact for fact in self._store.read(book_stream(run_id)) if fact.position <= position]
            self._views[run_id] = RunView(row)
            for fact in sorted(facts, key=lambda fact: fact.position):
                for _ in self._views[run_id].apply(fact):
                    pass

    def _changes(self, page: Iterable[Recorded]) -> Changes:
        changes: Changes = {table.name: {} for table in TABLES}
        touched: dict[str, RunView] = {}
        for row in page:
            if isinstance(row.event, AnalysisMade):
                _note(changes, tables.ANALYSES, analysis_row(row))
                continue
            kind, _, run_id = row.stream.partition(":")
            if kind not in ("run", "book"):
                continue
            if isinstance(row.event, RunRequested):
                self._views[run_id] = RunView(row)
            view = self._views.get(run_id)
            if view is None:
                raise BadInput(f"event {row.position} belongs to the run {run_id}, which has ended or never began.")
            touched[run_id] = view
            for table, change in view.apply(row):
                _note(changes, table, change)
        for run_id, view in touched.items():
            if view.ended or is_live(view.request):
                for table, change in self._derived(view):
                    _note(changes, table, {**view.scope, **change})
            if view.ended:
                del self._views[run_id]
        return changes

    def _derived(self, view: RunView) -> Iterable[tuple[Table, Row]]:
        """What follows from the run's fills and the bars: its curve, its metrics, its judged opinions."""
        request, config = view.request, view.request.config
        bars = [self._catalogue.bars(symbol, config.timeframe, request.start, request.end) for symbol in config.symbols]
        if not view.ended:
            # A recorded feed's later bars lie in the catalogue already: the account has not lived them yet.
            bars = [[bar for bar in series if bar.closed_at <= view.latest_at] for series in bars]
        curve = equity_curve(config, view.fills, bars)
        for point in curve:
            yield tables.EQUITY, point._asdict()
        yield tables.METRICS, _metrics_row(view, curve)
        opinions = consulted_opinions(
            self._store, request, lambda variant: load_signals(self._store, self._dsn, variant)
        )
        for row in decision_rows(opinions, bars):
            yield tables.DECISIONS, row


def _metrics_row(view: RunView, curve: list[EquityPoint]) -> Row:
    config = view.request.config
    closed, still_open = view.trades.closed, view.trades.open
    found = metrics(
        config.cash,
        [(point.at, point.equity) for point in curve],
        [trade.net_pnl for trade in closed],
        len(still_open),
        config.periods_per_year,
        config.timeframe.duration,
        config.session_roll_hour,
    )
    fees = total(trade.fees for trade in [*closed, *still_open])
    final = curve[-1].equity if curve else config.cash
    known = {name: getattr(found, name) for name in tables.METRICS.names if hasattr(found, name)}
    return {**known, "final_equity": final, "fees": fees}


def _note(changes: Changes, table: Table, row: Row) -> None:
    changes[table.name][tuple(row[name] for name in table.key)] = row


def _write(conn: psycopg.Connection[Any], schema: str, changes: Changes) -> None:
    """Upserts all rows: through a temporary table, because COPY is an order of magnitude faster than INSERT."""
    for table in TABLES:
        rows = changes[table.name]
        if not rows:
            continue
        target, staging = Identifier(schema, table.name), Identifier(f"staged_{table.name}")
        columns = SQL(", ").join(map(Identifier, table.names))
        conn.execute(
            SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT * FROM {} WITH NO DATA").format(staging, target)
        )
        with conn.cursor().copy(SQL("COPY {} ({}) FROM STDIN").format(staging, columns)) as copy:
            for row in rows.values():
                copy.write_row([row.get(name) for name in table.names])
        updates = SQL(", ").join(
            SQL("{0} = EXCLUDED.{0}").format(Identifier(name)) for name in table.names if name not in table.key
        )
        conn.execute(
            SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) DO UPDATE SET {}").format(
                target, columns, columns, staging, SQL(", ").join(map(Identifier, table.key)), updates
            )
        )


def progress_of(conn: psycopg.Connection[Any], schema: str) -> int:
    """The position that the tables of a schema have reached."""
    row = conn.execute(SQL("SELECT position FROM {}.progress").format(Identifier(schema))).fetchone()
    return 0 if row is None else int(row[0])


def take_turns(conn: psycopg.Connection[Any]) -> None:
    """One writer of read tables at a time, until its transaction ends: pages and the switch of a rebuild alike."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('quantagent projections', 0))")
