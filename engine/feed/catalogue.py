"""The catalogue of bars in PostgreSQL. Every call opens a connection of its own, so a catalogue can be shared by
threads and handed to other processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any, LiteralString

import msgspec
import psycopg

from engine.errors import BadInput, StoreUnavailable
from engine.feed import Added, Held, Import, Refused
from engine.feed.checks import (
    bar_line,
    check_range,
    check_series,
    import_digest,
    nothing_found,
    other_values,
    overlap,
)
from engine.market import Bar, Instrument, Symbol, Timeframe, instrument_for
from engine.money import exact

if TYPE_CHECKING:
    import polars as pl

_IN_RANGE: LiteralString = """
    FROM quantagent.current_bars
    WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
      AND opened_at >= %(start)s AND closed_at <= %(end)s
    ORDER BY opened_at
"""

# The columns of `checks.bar_line`, so that the database itself writes the text that is digested.
_LINE: LiteralString = """
    symbol, timeframe, to_char(opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    open, high, low, close, volume
"""

_MICROSECONDS: LiteralString = """
    (extract(epoch FROM opened_at) * 1000000)::bigint, (extract(epoch FROM closed_at) * 1000000)::bigint,
    open, high, low, close, volume
"""

_INCOMING: LiteralString = """
    CREATE TEMP TABLE incoming (
        symbol text, timeframe text, opened_at timestamptz,
        open numeric, high numeric, low numeric, close numeric, volume numeric
    ) ON COMMIT DROP
"""

# One look into the primary key per bar, whatever the planner knows: fresh tables have no statistics, and the join it
# then chooses compares every bar with every other.
_FIRST_CONFLICT: LiteralString = """
    SELECT opened_at, stored.*
    FROM incoming CROSS JOIN LATERAL (
        SELECT bars.open, bars.high, bars.low, bars.close, bars.volume
        FROM quantagent.bars
        WHERE (bars.symbol, bars.timeframe, bars.opened_at)
            = (incoming.symbol, incoming.timeframe, incoming.opened_at)
        ORDER BY revision DESC LIMIT 1
    ) AS stored
    WHERE (incoming.open, incoming.high, incoming.low, incoming.close, incoming.volume)
       <> (stored.open, stored.high, stored.low, stored.close, stored.volume)
    ORDER BY opened_at LIMIT 1
"""

_STORE_NEW: LiteralString = """
    INSERT INTO quantagent.bars
        (symbol, timeframe, opened_at, closed_at, open, high, low, close, volume, learned_at, source)
    SELECT symbol, timeframe, opened_at, opened_at + %(duration)s, open, high, low, close, volume,
           %(learned_at)s, %(source)s
    FROM incoming
    ON CONFLICT DO NOTHING
"""

_FIRST_OVERLAP: LiteralString = """
    SELECT previous_opened_at, opened_at FROM (
        SELECT opened_at,
               lag(opened_at) OVER (ORDER BY opened_at) AS previous_opened_at,
               lag(closed_at) OVER (ORDER BY opened_at) AS previous_closed_at
        FROM quantagent.current_bars
        WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
          AND opened_at > %(first)s - %(duration)s AND opened_at < %(last)s
    ) AS neighbours
    WHERE opened_at < previous_closed_at
    ORDER BY opened_at LIMIT 1
"""

_RECORD_IMPORT: LiteralString = """
    INSERT INTO quantagent.bar_imports (symbol, timeframe, source, actor, learned_at, digest, rows, refused)
    VALUES (%(symbol)s, %(timeframe)s, %(source)s, %(actor)s, %(learned_at)s, %(digest)s, %(rows)s, %(refused)s)
    ON CONFLICT DO NOTHING RETURNING import_id
"""

_REFUSED: LiteralString = "SELECT import_id, row_number, line, reason FROM quantagent.refused_bars ORDER BY 1, 2"

_IMPORTS: LiteralString = """
    SELECT import_id, symbol, timeframe, source, actor, learned_at, digest, rows
    FROM quantagent.bar_imports ORDER BY import_id
"""

_SAVE_INSTRUMENT: LiteralString = """
    INSERT INTO quantagent.instruments (symbol, quote, price_decimals, quantity_step, multiplier, calendar, tick)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (symbol) DO UPDATE SET
        (quote, price_decimals, quantity_step, multiplier, calendar, tick) =
        (excluded.quote, excluded.price_decimals, excluded.quantity_step, excluded.multiplier, excluded.calendar,
         excluded.tick)
"""


class Catalogue:
    """`engine.feed.Bars` in a database that `engine.store.migrations.migrate` has set up."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def add(
        self,
        symbol: Symbol,
        timeframe: Timeframe,
        bars: Sequence[Bar],
        *,
        source: str,
        learned_at: datetime,
        actor: str = "",
        refused: Sequence[Refused] = (),
    ) -> Added:
        check_series(symbol, timeframe, bars, learned_at)
        lines = "".join(bar_line(bar, timeframe) for bar in bars)
        facts = {
            "symbol": symbol,
            "timeframe": timeframe.value,
            "duration": timeframe.duration,
            "learned_at": learned_at,
            "source": source,
            "actor": actor,
            "digest": import_digest(lines, refused),
            "rows": len(bars),
            "refused": len(refused),
        }
        with self._connection() as conn:
            # One writer per series: two that add neighbouring bars at once could otherwise overlap unseen.
            conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%(symbol)s || ' ' || %(timeframe)s, 0))", facts)
            new = _store(conn, bars, timeframe, lines, facts) if bars else 0
            if new or refused:
                _record(conn, facts, refused)
        return Added(new, len(bars) - new)

    def frame(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        import polars as pl

        with self._connection() as conn:
            text = b"".join(_copied(conn, _MICROSECONDS, symbol, timeframe, start, end))
        if not text:
            raise nothing_found(symbol, timeframe, start, end, self.listing())
        numbers = ("open", "high", "low", "close", "volume")
        schema = {"opened_at": pl.Int64, "closed_at": pl.Int64} | dict.fromkeys(numbers, pl.Float64)
        frame = pl.read_csv(text, has_header=False, schema=schema)
        return frame.with_columns(pl.col("opened_at", "closed_at").cast(pl.Datetime("us", "UTC")))

    def bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Bar]:
        query: LiteralString = "SELECT opened_at, closed_at, open, high, low, close, volume" + _IN_RANGE
        with self._connection() as conn:
            rows = conn.execute(query, _range(symbol, timeframe, start, end)).fetchall()
        if not rows:
            raise nothing_found(symbol, timeframe, start, end, self.listing())
        return [
            Bar(symbol, opened_at.astimezone(UTC), closed_at.astimezone(UTC), *map(exact, numbers))
            for opened_at, closed_at, *numbers in rows
        ]

    def digest(
        self,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> str:
        if not symbols:
            raise BadInput("a dataset needs at least one symbol: name them with --symbols A,B.")
        sha = sha256()
        with self._connection() as conn:
            for symbol in symbols:
                before = sha.digest()
                for chunk in _copied(conn, _LINE, symbol, timeframe, start, end):
                    sha.update(chunk)
                if sha.digest() == before:
                    raise nothing_found(symbol, timeframe, start, end, self.listing())
        return sha.hexdigest()

    def listing(self) -> list[Held]:
        query: LiteralString = """
            SELECT symbol, timeframe, min(opened_at), max(closed_at), count(DISTINCT opened_at)
            FROM quantagent.bars GROUP BY 1, 2 ORDER BY symbol COLLATE "C", timeframe COLLATE "C"
        """
        with self._connection() as conn:
            return [
                Held(symbol, Timeframe(timeframe), first.astimezone(UTC), last.astimezone(UTC), count)
                for symbol, timeframe, first, last, count in conn.execute(query)
            ]

    def imports(self) -> list[Import]:
        refused: dict[int, list[Refused]] = {}
        with self._connection() as conn:
            for import_id, *row in conn.execute(_REFUSED):
                refused.setdefault(import_id, []).append(Refused(*row))
            stored = conn.execute(_IMPORTS).fetchall()
        return [
            Import(name, Timeframe(frame), source, actor, at.astimezone(UTC), digest, rows, tuple(refused.get(key, ())))
            for key, name, frame, source, actor, at, digest, rows in stored
        ]

    def instrument(self, symbol: Symbol) -> Instrument:
        query: LiteralString = """
            SELECT symbol, quote, price_decimals, quantity_step, multiplier, calendar, tick
            FROM quantagent.instruments WHERE symbol = %s
        """
        with self._connection() as conn:
            row = conn.execute(query, (symbol,)).fetchone()
        if row is None:
            return instrument_for(symbol)
        name, quote, decimals, step, multiplier, calendar, tick = row
        smallest = None if tick is None else exact(tick)
        return Instrument(name, quote, decimals, exact(step), exact(multiplier), calendar, smallest)

    def save_instrument(self, instrument: Instrument) -> None:
        with self._connection() as conn:
            conn.execute(_SAVE_INSTRUMENT, msgspec.structs.astuple(instrument))

    @contextmanager
    def _connection(self) -> Generator[psycopg.Connection[tuple[Any, ...]]]:
        """A transaction: committed at the end, rolled back by an error."""
        try:
            with psycopg.connect(self._dsn) as conn:
                yield conn
        except psycopg.errors.UndefinedTable:
            raise StoreUnavailable(
                "the database has no table of bars: run `quantagent db upgrade` to set it up."
            ) from None
        except psycopg.OperationalError as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise StoreUnavailable(
                f"the catalogue of bars cannot be reached: {reason}. Check QUANTAGENT_DSN and that the server runs."
            ) from None


def _range(
    symbol: Symbol, timeframe: Timeframe, start: datetime | None, end: datetime | None
) -> dict[str, datetime | str]:
    check_range(start, end)
    return {
        "symbol": symbol,
        "timeframe": timeframe.value,
        "start": start or "-infinity",
        "end": end or "infinity",
    }


def _copied(
    conn: psycopg.Connection[Any],
    columns: LiteralString,
    symbol: Symbol,
    timeframe: Timeframe,
    start: datetime | None,
    end: datetime | None,
) -> Iterator[bytes]:
    """Columns of a range as CSV, in chunks of any size."""
    query: LiteralString = "COPY (SELECT " + columns + _IN_RANGE + ") TO STDOUT (FORMAT csv)"
    with conn.cursor().copy(query, _range(symbol, timeframe, start, end)) as copy:
        for chunk in copy:
            yield bytes(chunk)


def _store(
    conn: psycopg.Connection[Any], bars: Sequence[Bar], timeframe: Timeframe, lines: str, facts: dict[str, Any]
) -> int:
    """Inserts the bars that are not stored yet and counts them; raises `BadInput` for one that contradicts."""
    cursor = conn.execute(_INCOMING)
    with cursor.copy("COPY incoming FROM STDIN (FORMAT csv)") as copy:
        copy.write(lines)
    conflict: tuple[datetime, Decimal, Decimal, Decimal, Decimal, Decimal] | None
    conflict = cursor.execute(_FIRST_CONFLICT, facts).fetchone()
    if conflict is not None:
        opened_at, *numbers = conflict
        given = next(bar for bar in bars if bar.opened_at == opened_at)
        stored = Bar(given.symbol, given.opened_at, given.closed_at, *map(exact, numbers))
        raise other_values(stored, given, timeframe)
    new = cursor.execute(_STORE_NEW, facts).rowcount
    reach = facts | {"first": bars[0].opened_at, "last": bars[-1].closed_at}
    overlapping = cursor.execute(_FIRST_OVERLAP, reach).fetchone()
    if overlapping is not None:
        raise overlap(facts["symbol"], timeframe, *overlapping)
    return new


def _record(conn: psycopg.Connection[Any], facts: dict[str, Any], refused: Sequence[Refused]) -> None:
    cursor = conn.execute(_RECORD_IMPORT, facts)
    row = cursor.fetchone()
    if row is not None:
        cursor.executemany(
            "INSERT INTO quantagent.refused_bars (import_id, row_number, line, reason) VALUES (%s, %s, %s, %s)",
            [(row[0], *each) for each in refused],
        )
