"""Insertion of bars into the tables: in one transaction, all or none, with strictly rising times of learning."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

import psycopg

from engine.core.errors import RowsDropped
from engine.core.market import Bar, Symbol, Timeframe
from engine.core.money import exact
from engine.data import Added, RefusedRow
from engine.data.bar_rules import conflicting_values_error, import_digest, overlap_error
from engine.data.encoding import encode_copy_rows, encode_lines

if TYPE_CHECKING:
    import polars as pl

# One writer at a time, for all series. A transaction is visible before the next one gets its time of learning, so that
# a view of an instant never gains bars. Concurrent writers could also add overlapping bars without noticing.
_WRITE_LOCK: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended('quantagent.bars', 0))"

LATEST: LiteralString = "SELECT max(learned_at) FROM quantagent.bar_imports "

_ANY_IN_REACH: LiteralString = """
    SELECT 1 FROM quantagent.bars
    WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND opened_at > %(reach)s AND opened_at < %(last)s LIMIT 1
"""

_INCOMING: LiteralString = "CREATE TEMP TABLE incoming (LIKE quantagent.bars INCLUDING DEFAULTS) ON COMMIT DROP"

_COLUMNS: LiteralString = """
    (symbol, timeframe, opened_at, closed_at, open, high, low, close, volume, learned_at, source)
"""

_STORE_NEW: LiteralString = "INSERT INTO quantagent.bars SELECT * FROM incoming ON CONFLICT DO NOTHING"

# The lateral join forces one primary key lookup per bar: without statistics, as in new tables, the planner would choose
# a join that compares every bar with every other.
_OTHERS: LiteralString = """
    FROM incoming CROSS JOIN LATERAL (
        SELECT * FROM quantagent.bars
        WHERE (bars.symbol, bars.timeframe, bars.opened_at)
            = (incoming.symbol, incoming.timeframe, incoming.opened_at)
        ORDER BY revision DESC LIMIT 1
    ) AS stored
    WHERE (incoming.closed_at, incoming.open, incoming.high, incoming.low, incoming.close, incoming.volume)
       <> (stored.closed_at, stored.open, stored.high, stored.low, stored.close, stored.volume)
"""

_FIRST_OTHER: LiteralString = (
    """
    SELECT stored.opened_at, stored.closed_at, stored.open, stored.high, stored.low, stored.close, stored.volume,
           incoming.opened_at, incoming.closed_at,
           incoming.open, incoming.high, incoming.low, incoming.close, incoming.volume
    """
    + _OTHERS
    + "ORDER BY stored.opened_at LIMIT 1"
)

_REVISE: LiteralString = (
    """
    INSERT INTO quantagent.bars
        (symbol, timeframe, opened_at, closed_at, open, high, low, close, volume, revision, learned_at, source)
    SELECT incoming.symbol, incoming.timeframe, incoming.opened_at, incoming.closed_at,
           incoming.open, incoming.high, incoming.low, incoming.close, incoming.volume,
           stored.revision + 1, incoming.learned_at, incoming.source
    """
    + _OTHERS
)

# Number of incoming bars that are stored now with the same values.
_STORED: LiteralString = """
    SELECT count(*) FROM incoming CROSS JOIN LATERAL (
        SELECT * FROM quantagent.bars
        WHERE (bars.symbol, bars.timeframe, bars.opened_at)
            = (incoming.symbol, incoming.timeframe, incoming.opened_at)
        ORDER BY revision DESC LIMIT 1
    ) AS stored
    WHERE (incoming.closed_at, incoming.open, incoming.high, incoming.low, incoming.close, incoming.volume)
        = (stored.closed_at, stored.open, stored.high, stored.low, stored.close, stored.volume)
"""

_FIRST_OVERLAP: LiteralString = """
    SELECT previous_opened_at, opened_at FROM (
        SELECT opened_at,
               lag(opened_at) OVER (ORDER BY opened_at) AS previous_opened_at,
               lag(closed_at) OVER (ORDER BY opened_at) AS previous_closed_at
        FROM quantagent.current_bars
        WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND opened_at > %(reach)s AND opened_at < %(last)s
    ) AS neighbours
    WHERE opened_at < previous_closed_at
    ORDER BY opened_at LIMIT 1
"""

# Repeating an import that only refused rows adds no record; new or corrected bars always do.
_RECORD_IMPORT: LiteralString = """
    INSERT INTO quantagent.bar_imports (symbol, timeframe, source, actor, learned_at, digest, rows, refused)
    SELECT %(symbol)s, %(timeframe)s, %(source)s, %(actor)s, %(learned_at)s, %(digest)s, %(rows)s, %(refused)s
    WHERE %(changed)s OR NOT EXISTS (
        SELECT FROM quantagent.bar_imports
        WHERE (symbol, timeframe, digest) = (%(symbol)s, %(timeframe)s, %(digest)s)
    )
    RETURNING import_id
"""


class IncomingBars(NamedTuple):
    """Bars of one series to insert: their columns as text, from the first open to the last close."""

    symbol: Symbol
    timeframe: Timeframe
    texts: pl.DataFrame
    first: datetime | None
    last: datetime | None
    source: str
    learned_at: datetime
    actor: str
    refused: Sequence[RefusedRow]


def insert_bars(conn: psycopg.Connection[Any], incoming: IncomingBars, correct: bool) -> Added:
    """Insert new bars, and changed ones as revisions if `correct`; otherwise raise `BadInput` for a changed bar."""
    conn.execute(_WRITE_LOCK)
    incoming = incoming._replace(learned_at=_next_learned_at(conn, incoming.learned_at))
    added = _insert(conn, incoming, correct) if incoming.first else Added(0, 0)
    if added.new or added.corrected or incoming.refused:
        _record_import(conn, incoming, bool(added.new or added.corrected))
    return added


def _next_learned_at(conn: psycopg.Connection[Any], given: datetime) -> datetime:
    """Return the given instant, or a microsecond after the latest stored one if that is later."""
    (latest,) = conn.execute(LATEST).fetchone() or (None,)
    return given if latest is None else max(given, latest.astimezone(UTC) + timedelta(microseconds=1))


def _insert(conn: psycopg.Connection[Any], incoming: IncomingBars, correct: bool) -> Added:
    symbol, timeframe, texts, first, last, *_ = incoming
    assert first is not None
    reach = {"symbol": symbol, "timeframe": timeframe.value, "reach": first - timeframe.duration, "last": last}
    if conn.execute(_ANY_IN_REACH, reach).fetchone() is None:
        stored = _copy(conn, "COPY quantagent.bars", incoming)
        if stored != texts.height:
            raise RowsDropped("bars", texts.height, stored)
        return Added(texts.height, 0)
    conn.execute(_INCOMING)
    _copy(conn, "COPY incoming", incoming)
    new, corrected = conn.execute(_STORE_NEW).rowcount, 0
    if new < texts.height:
        if correct:
            corrected = conn.execute(_REVISE).rowcount
        else:
            _raise_conflict(conn, symbol, timeframe)
    (stored,) = conn.execute(_STORED).fetchone() or (0,)
    if stored != texts.height:
        raise RowsDropped("bars", texts.height, stored)
    overlapping = conn.execute(_FIRST_OVERLAP, reach).fetchone() if new or corrected else None
    if overlapping is not None:
        raise overlap_error(symbol, timeframe, *overlapping)
    return Added(new, texts.height - new - corrected, corrected)


def _copy(conn: psycopg.Connection[Any], into: LiteralString, incoming: IncomingBars) -> int:
    """Send the bars by COPY and return the number of rows stored."""
    symbol, timeframe, texts, _, _, source, learned_at, *_ = incoming
    curs = conn.cursor()
    with curs.copy(into + _COLUMNS + "FROM STDIN (FORMAT csv)") as copy:
        for part in encode_copy_rows(symbol, timeframe, texts, learned_at, source):
            copy.write(part)
    return curs.rowcount


def _raise_conflict(conn: psycopg.Connection[Any], symbol: Symbol, timeframe: Timeframe) -> None:
    row = conn.execute(_FIRST_OTHER).fetchone()
    if row is not None:
        stored, given = (
            Bar(symbol, opened_at.astimezone(UTC), closed_at.astimezone(UTC), *map(exact, numbers))
            for opened_at, closed_at, *numbers in (row[:7], row[7:])
        )
        raise conflicting_values_error(stored, given, timeframe)


def _record_import(conn: psycopg.Connection[Any], incoming: IncomingBars, changed: bool) -> None:
    parameters = {
        "symbol": incoming.symbol,
        "timeframe": incoming.timeframe.value,
        "source": incoming.source,
        "actor": incoming.actor,
        "learned_at": incoming.learned_at,
        "digest": import_digest(encode_lines(incoming.symbol, incoming.timeframe, incoming.texts), incoming.refused),
        "rows": incoming.texts.height,
        "refused": len(incoming.refused),
        "changed": changed,
    }
    cursor = conn.execute(_RECORD_IMPORT, parameters)
    row = cursor.fetchone()
    if row is not None:
        cursor.executemany(
            "INSERT INTO quantagent.refused_bars (import_id, row_number, line, reason) VALUES (%s, %s, %s, %s)",
            [(row[0], *each) for each in incoming.refused],
        )
        if incoming.refused and cursor.rowcount != len(incoming.refused):
            raise RowsDropped("refused_bars", len(incoming.refused), cursor.rowcount)
    elif parameters["changed"]:
        raise RowsDropped("bar_imports", 1, 0)
