"""Catalogue of bars in PostgreSQL.

Every call opens its own connection, so a catalogue can be shared by threads and passed to other processes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any, LiteralString

import msgspec
import psycopg

from engine.core.errors import BadInput, StoreUnavailable
from engine.core.market import Bar, Instrument, Symbol, Timeframe, instrument_for
from engine.core.money import exact
from engine.data import NOTHING_KNOWN, Added, ImportRecord, ProviderRequest, RefusedRow, Revision, StoredSeries
from engine.data.bar_rules import check_range, check_series, no_bars_error
from engine.data.calendars import Span
from engine.data.encoding import NUMBERS, encode_bars, encode_frame
from engine.data.insert import LATEST, IncomingBars, insert_bars
from engine.store.connections import failure_reason

if TYPE_CHECKING:
    import polars as pl

    from engine.data.validation import ValidatedBars

# The end also bounds the opens, which are indexed: a bar that closes by then opens before.
_CURRENT_IN_RANGE: LiteralString = """
    FROM (
        SELECT DISTINCT ON (opened_at) *
        FROM quantagent.bars
        WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
          AND opened_at >= %(start)s AND opened_at < %(end)s AND learned_at <= %(known_at)s
        ORDER BY opened_at, revision DESC
    ) AS known
    WHERE closed_at <= %(end)s
    ORDER BY opened_at
"""

# The text of `bar_rules.bar_line`, so that the database writes the text that is digested. The bar's length is the
# difference of its instants, because adding a day to an instant depends on the time zone of the session.
_LINE: LiteralString = """
    concat_ws(',',
        symbol, timeframe, to_char(opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        open, high, low, close, volume,
        CASE WHEN closed_at - opened_at <> %(duration)s
        THEN to_char(closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') END)
"""

# Bars open and close at whole seconds.
_SECONDS: LiteralString = """
    date_part('epoch', opened_at)::bigint, date_part('epoch', closed_at)::bigint, open, high, low, close, volume
"""

_LINES: LiteralString = "COPY (SELECT " + _LINE + _CURRENT_IN_RANGE + ") TO STDOUT"
_SECONDS_CSV: LiteralString = "COPY (SELECT " + _SECONDS + _CURRENT_IN_RANGE + ") TO STDOUT (FORMAT csv)"
_BARS: LiteralString = "SELECT opened_at, closed_at, open, high, low, close, volume" + _CURRENT_IN_RANGE

_REVISIONS: LiteralString = """
    FROM quantagent.bars
    WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND opened_at >= %(start)s AND opened_at < %(end)s
      AND closed_at <= %(end)s AND learned_at <= %(known_at)s
"""
_HISTORY: LiteralString = (
    "SELECT revision, learned_at, source, opened_at, closed_at, open, high, low, close, volume" + _REVISIONS
)
# The array is computed once and looked up in the index; without statistics, the planner would join two whole series.
_REVISED: LiteralString = _HISTORY + "AND opened_at = ANY (ARRAY(SELECT opened_at" + _REVISIONS + "AND revision > 1))"

# Every bar has exactly one first revision. The series ends at the close of the latest revision of its last bar.
_LISTING: LiteralString = """
    SELECT symbol, timeframe, first, closed_at, count
    FROM (
        SELECT symbol, timeframe, min(opened_at) AS first, max(opened_at) AS opened_at, count(*) AS count
        FROM quantagent.bars WHERE revision = 1 AND learned_at <= %(known_at)s GROUP BY 1, 2
    ) AS series CROSS JOIN LATERAL (
        SELECT closed_at FROM quantagent.bars
        WHERE (bars.symbol, bars.timeframe, bars.opened_at) = (series.symbol, series.timeframe, series.opened_at)
          AND learned_at <= %(known_at)s
        ORDER BY revision DESC LIMIT 1
    ) AS latest
    ORDER BY symbol COLLATE "C", timeframe COLLATE "C"
"""

_REFUSED: LiteralString = "SELECT import_id, row_number, line, reason FROM quantagent.refused_bars ORDER BY 1, 2"

_IMPORTS: LiteralString = """
    SELECT import_id, symbol, timeframe, source, actor, learned_at, digest, rows
    FROM quantagent.bar_imports WHERE learned_at <= %(known_at)s ORDER BY import_id
"""

_RECORD_REQUEST: LiteralString = """
    INSERT INTO quantagent.asked_bars (symbol, timeframe, provider, start_at, end_at, asked_at, rows)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""

_REQUESTS: LiteralString = """
    SELECT provider, start_at, end_at, asked_at, rows
    FROM quantagent.asked_bars WHERE symbol = %s AND timeframe = %s ORDER BY asked_id
"""

_SAVE_INSTRUMENT: LiteralString = """
    INSERT INTO quantagent.instruments (symbol, quote, price_decimals, quantity_step, multiplier, calendar, tick)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (symbol) DO UPDATE SET
        (quote, price_decimals, quantity_step, multiplier, calendar, tick) =
        (excluded.quote, excluded.price_decimals, excluded.quantity_step, excluded.multiplier, excluded.calendar,
         excluded.tick)
"""


class PostgresCatalogue:
    """`BarCatalogue` in a database that `engine.store.migrations.migrate` has set up."""

    def __init__(self, dsn: str, known_at: datetime | None = None) -> None:
        self._dsn, self._known_at = dsn, known_at

    def add(
        self,
        symbol: Symbol,
        timeframe: Timeframe,
        bars: Sequence[Bar],
        *,
        source: str,
        learned_at: datetime,
        actor: str = "",
        refused: Sequence[RefusedRow] = (),
        correct: bool = False,
    ) -> Added:
        check_series(symbol, timeframe, bars, learned_at)
        first, last = (bars[0].opened_at, bars[-1].closed_at) if bars else (None, None)
        texts = encode_bars(bars, timeframe)
        return self._insert(
            IncomingBars(symbol, timeframe, texts, first, last, source, learned_at, actor, refused), correct
        )

    def add_validated(
        self, validated: ValidatedBars, *, source: str, learned_at: datetime, actor: str = "", correct: bool = False
    ) -> Added:
        symbol, timeframe, frame = validated.instrument.symbol, validated.timeframe, validated.frame
        opens, closes = frame["opened_at"], frame["closed_at"]
        assert (opens.diff().drop_nulls() > timedelta(0)).all(), "validated bars are in order"
        first, last = (opens[0], closes[-1]) if len(opens) else (None, None)
        assert last is None or last <= learned_at, "validated bars have closed"
        texts = encode_frame(frame, timeframe)
        return self._insert(
            IncomingBars(symbol, timeframe, texts, first, last, source, learned_at, actor, validated.refused), correct
        )

    def _insert(self, incoming: IncomingBars, correct: bool) -> Added:
        assert self._known_at is None, "a view of the past is read-only"
        with self._connection() as conn:
            return insert_bars(conn, incoming, correct)

    def known_at(self) -> datetime:
        with self._connection() as conn:
            (latest,) = conn.execute(LATEST + "WHERE learned_at <= %(known_at)s", self._bound).fetchone() or (None,)
        return NOTHING_KNOWN if latest is None else latest.astimezone(UTC)

    def as_known_at(self, at: datetime | None) -> PostgresCatalogue:
        bounds = [each for each in (at, self._known_at) if each is not None]
        return PostgresCatalogue(self._dsn, min(bounds, default=None))

    def frame(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        import polars as pl

        with self._connection() as conn:
            text = b"".join(_copy_out(conn, _SECONDS_CSV, self._range(symbol, timeframe, start, end)))
        if not text:
            raise no_bars_error(symbol, timeframe, start, end, self.list_series())
        schema = {"opened_at": pl.Int64, "closed_at": pl.Int64} | dict.fromkeys(NUMBERS, pl.Float64)
        frame = pl.read_csv(text, has_header=False, schema=schema)
        times = pl.from_epoch(pl.col("opened_at", "closed_at"), "s").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return frame.with_columns(times)

    def bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Bar]:
        with self._connection() as conn:
            rows = conn.execute(_BARS, self._range(symbol, timeframe, start, end)).fetchall()
        if not rows:
            raise no_bars_error(symbol, timeframe, start, end, self.list_series())
        return [_bar(symbol, *row) for row in rows]

    def digest(
        self,
        symbols: Sequence[Symbol],
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> str:
        if not symbols:
            raise BadInput("a dataset needs at least one symbol.", "SYMBOLS_MISSING")
        sha = sha256()
        with self._connection() as conn:
            for symbol in symbols:
                previous = sha.digest()
                for chunk in _copy_out(conn, _LINES, self._range(symbol, timeframe, start, end)):
                    sha.update(chunk)
                if sha.digest() == previous:
                    raise no_bars_error(symbol, timeframe, start, end, self.list_series())
        return sha.hexdigest()

    def list_series(self) -> list[StoredSeries]:
        with self._connection() as conn:
            return [
                StoredSeries(symbol, Timeframe(timeframe), first.astimezone(UTC), last.astimezone(UTC), count)
                for symbol, timeframe, first, last, count in conn.execute(_LISTING, self._bound)
            ]

    def history(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        return self._revisions(_HISTORY, symbol, timeframe, start, end)

    def revised_bars(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None = None, end: datetime | None = None
    ) -> list[Revision]:
        return self._revisions(_REVISED, symbol, timeframe, start, end)

    def _revisions(
        self, query: LiteralString, symbol: Symbol, timeframe: Timeframe, start: datetime | None, end: datetime | None
    ) -> list[Revision]:
        with self._connection() as conn:
            return [
                Revision(_bar(symbol, *row), revision, learned_at.astimezone(UTC), source)
                for revision, learned_at, source, *row in conn.execute(
                    query + " ORDER BY opened_at, revision", self._range(symbol, timeframe, start, end)
                )
            ]

    def record_request(self, symbol: Symbol, timeframe: Timeframe, request: ProviderRequest) -> None:
        provider, span, requested_at, rows = request
        with self._connection() as conn:
            conn.execute(_RECORD_REQUEST, (symbol, timeframe.value, provider, *span, requested_at, rows))

    def provider_requests(self, symbol: Symbol, timeframe: Timeframe) -> list[ProviderRequest]:
        with self._connection() as conn:
            return [
                ProviderRequest(provider, Span(start.astimezone(UTC), end.astimezone(UTC)), at.astimezone(UTC), rows)
                for provider, start, end, at, rows in conn.execute(_REQUESTS, (symbol, timeframe.value))
            ]

    def imports(self) -> list[ImportRecord]:
        refused: dict[int, list[RefusedRow]] = {}
        with self._connection() as conn:
            for import_id, *row in conn.execute(_REFUSED):
                refused.setdefault(import_id, []).append(RefusedRow(*row))
            stored = conn.execute(_IMPORTS, self._bound).fetchall()
        return [
            ImportRecord(
                name, Timeframe(frame), source, actor, at.astimezone(UTC), digest, rows, tuple(refused.get(key, ()))
            )
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

    @property
    def _bound(self) -> dict[str, Any]:
        return {"known_at": self._known_at or "infinity"}

    def _range(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime | None, end: datetime | None
    ) -> dict[str, Any]:
        check_range(start, end)
        return self._bound | {
            "symbol": symbol,
            "timeframe": timeframe.value,
            "duration": timeframe.duration,
            "start": start or "-infinity",
            "end": end or "infinity",
        }

    @contextmanager
    def _connection(self) -> Generator[psycopg.Connection[tuple[Any, ...]]]:
        """Yield a connection in a transaction, which is committed at the end and rolled back by an error."""
        try:
            with psycopg.connect(self._dsn) as conn:
                yield conn
        except psycopg.errors.UndefinedTable:
            raise StoreUnavailable("the database has no table of bars.", "BARS_TABLE_MISSING") from None
        except psycopg.OperationalError as error:
            raise StoreUnavailable(
                f"the catalogue of bars cannot be reached: {failure_reason(error)}. "
                "Check QUANTAGENT_DSN and that the server runs."
            ) from None


def _copy_out(conn: psycopg.Connection[Any], query: LiteralString, parameters: dict[str, Any]) -> Iterator[bytes]:
    """Yield the output of a COPY query, in chunks of any size."""
    with conn.cursor().copy(query, parameters) as copy:
        for chunk in copy:
            yield bytes(chunk)


def _bar(symbol: Symbol, opened_at: datetime, closed_at: datetime, *numbers: Decimal) -> Bar:
    return Bar(symbol, opened_at.astimezone(UTC), closed_at.astimezone(UTC), *map(exact, numbers))
