"""Imported signals: a CSV file that replaces the analyst of a run.

Columns `symbol,at,decision[,confidence]`: `at` is the close of the bar of the decision, with its offset from UTC;
decision LONG, SHORT, FLAT or HOLD; confidence 0 to 1, by default 1. A bar without a row has no analysis.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import psycopg

from engine.core.errors import BadInput, NotFound, RowsDropped
from engine.core.events import SignalsImported
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Symbol, check_symbol, instant_text
from engine.core.money import ONE, ZERO, exact
from engine.core.upcasters import event_names
from engine.store import Batch, Cause, Store

VARIANT_PREFIX = "imported:"
COLUMNS = ("symbol", "at", "decision", "confidence")


class ImportedSignal(NamedTuple):
    symbol: Symbol
    at: datetime
    decision: Direction
    confidence: Decimal


class SignalFile(NamedTuple):
    """Rows of a file of signals; their variant is `imported:<name>@<first 12 digits of the digest>`."""

    name: str
    digest: str
    rows: tuple[ImportedSignal, ...]

    @property
    def variant(self) -> str:
        return f"{VARIANT_PREFIX}{self.name}@{self.digest[:12]}"

    @property
    def event(self) -> SignalsImported:
        return SignalsImported(
            variant=self.variant,
            name=self.name,
            digest=self.digest,
            rows=len(self.rows),
            symbols=tuple(sorted({row.symbol for row in self.rows})),
            first_at=min(row.at for row in self.rows),
            last_at=max(row.at for row in self.rows),
        )


def read_signals(path: Path) -> SignalFile:
    """Read the signals of a CSV file. Raise `BadInput` with the file, the line and the reason."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): give the path of a CSV file of signals.") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not a text file: signals are CSV with the columns {','.join(COLUMNS)}.") from None
    lines = _cells(text, path)
    _, first = next(lines, (1, list[str]()))
    header = [name.strip().lower() for name in first]
    if not {"symbol", "at", "decision"} <= set(header) <= set(COLUMNS) or len(set(header)) != len(header):
        raise BadInput(
            f"{path} line 1 has the columns {','.join(header) or '(none)'}: write symbol,at,decision and, if you have "
            "it, confidence."
        )
    rows: dict[tuple[Symbol, datetime], ImportedSignal] = {}
    for number, cells in lines:
        if not cells:
            continue
        where = f"{path} line {number}"
        row = _signal(dict(zip(header, cells, strict=False)), len(cells) == len(header), where)
        if (row.symbol, row.at) in rows:
            raise BadInput(f"{where}: a second signal for {row.symbol} at {row.at.isoformat()}; keep one of the two.")
        rows[row.symbol, row.at] = row
    if not rows:
        raise BadInput(f"{path} holds no signals: write at least one row below the header.")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)[:40] or "signals"
    ordered = tuple(sorted(rows.values()))
    return SignalFile(name, digest_of_rows(ordered), ordered)


def _cells(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each row, with the number of its last line."""
    reader = csv.reader(io.StringIO(text))
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise BadInput(f"{path} line {reader.line_num} is not CSV ({error}); check its quotes.") from None


def _signal(cells: dict[str, str], complete: bool, where: str) -> ImportedSignal:
    if not complete:
        raise BadInput(f"{where}: not as many values as the header has columns; check its commas.")
    try:
        symbol = check_symbol(cells["symbol"].strip())
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    try:
        at = datetime.fromisoformat(cells["at"].strip())
        in_utc = at.astimezone(UTC) if at.tzinfo else None
    except (ValueError, OverflowError):
        raise BadInput(f"{where}: {cells['at']!r} is not an instant; write 2024-01-31T10:00:00Z.") from None
    if in_utc is None:
        raise BadInput(f"{where}: {cells['at']!r} has no time zone; end it with Z for UTC.")
    try:
        decision = Direction(cells["decision"].strip().upper())
    except ValueError:
        raise BadInput(
            f"{where}: decision {cells['decision']!r} is none of LONG, SHORT, FLAT, HOLD; write one of them."
        ) from None
    text = cells.get("confidence", "").strip()
    try:
        confidence = exact(text) if text else ONE
    except ValueError:
        raise BadInput(f"{where}: confidence {text!r} is not a number from 0 to 1.") from None
    if not ZERO <= confidence <= ONE:
        raise BadInput(f"{where}: confidence {text} is outside 0 to 1.")
    return ImportedSignal(symbol, in_utc, decision, confidence)


def digest_of_rows(rows: Iterable[ImportedSignal]) -> str:
    """Return the SHA-256 of the rows as text, in order of symbol and time."""
    lines = (f"{row.symbol},{row.at.isoformat()},{row.decision},{row.confidence}\n" for row in rows)
    return sha256("".join(lines).encode()).hexdigest()


def save_signals(store: Store, dsn: str, file: SignalFile, actor: str) -> None:
    """Store the rows of a file and an event about the import; repeating it changes nothing."""
    with psycopg.connect(dsn) as conn, conn.cursor() as curs:
        curs.executemany(
            "INSERT INTO quantagent.imported_signals VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [
                (file.digest, number, row.symbol, row.at, row.decision.value, row.confidence)
                for number, row in enumerate(file.rows, 1)
            ],
        )
        (stored,) = curs.execute(
            "SELECT count(*) FROM quantagent.imported_signals WHERE digest = %s", (file.digest,)
        ).fetchone() or (0,)
        if stored != len(file.rows):
            raise RowsDropped("imported_signals", len(file.rows), stored)
    store.append([Batch(f"signals:{file.digest}", 0, [file.event])], Cause(actor))


def load_signals(store: Store, dsn: str, variant: str) -> SignalFile:
    """Return the stored file of a variant. Raise `NotFound` if it is not stored, `BadInput` if its rows changed."""
    events = (row.event for row in store.read_all(limit=1_000_000, names=event_names([SignalsImported])))
    event = next((each for each in events if isinstance(each, SignalsImported) and each.variant == variant), None)
    if event is None:
        raise NotFound(f"no signals {variant} are stored.", "SIGNALS_MISSING")
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "SELECT symbol, at, decision, confidence FROM quantagent.imported_signals WHERE digest = %s "
            "ORDER BY row_number",
            (event.digest,),
        ).fetchall()
    signals = tuple(ImportedSignal(s, at.astimezone(UTC), Direction(d), exact(c)) for s, at, d, c in rows)
    if digest_of_rows(signals) != event.digest:
        raise BadInput(f"the stored rows of {variant} are not the imported ones: restore quantagent.imported_signals.")
    return SignalFile(event.name, event.digest, signals)


class ImportedAnalyst:
    """Analyst that returns the row of a file for the bar, if there is one."""

    def __init__(self, file: SignalFile) -> None:
        self._intents = {
            (row.symbol, row.at): Intent(
                row.symbol, row.decision, row.confidence, f"{file.variant}#{row.symbol}@{instant_text(row.at)}"
            )
            for row in file.rows
        }

    def intent(self, bar: Bar) -> Intent | None:
        return self._intents.get((bar.symbol, bar.closed_at))

    def by_id(self) -> dict[str, tuple[datetime, Intent]]:
        """Return the instant and intent of every row, by the analysis id that books use."""
        return {intent.analysis_id: (at, intent) for (_, at), intent in self._intents.items()}


def check_signals_fit(file: SignalFile, bars_by_symbol: Sequence[Sequence[Bar]]) -> None:
    """Raise `BadInput` unless every signal is at the close of a bar of the run; others would have no effect."""
    closes = {(bar.symbol, bar.closed_at) for bars in bars_by_symbol for bar in bars}
    symbols = {bars[0].symbol for bars in bars_by_symbol if bars}
    signal_symbols = {row.symbol for row in file.rows}
    if not signal_symbols & symbols:
        raise BadInput(
            f"the signals {file.name} are for {', '.join(sorted(signal_symbols))}, and the run trades "
            f"{', '.join(sorted(symbols))}.",
            "SIGNALS_OTHER_SYMBOLS",
        )
    for row in file.rows:
        if row.symbol in symbols and (row.symbol, row.at) not in closes:
            raise BadInput(
                f"no bar closes at the time of the signal for {row.symbol} at {row.at.isoformat()}; `at` is the close "
                "of the bar. Shift the times of the file, or narrow its range to that of the bars."
            )
