"""Checks of content outside the chain of seals: model calls and their texts, imported signals, bars.

Events name this content by digest, or repeat it; each check compares the stored rows with the events. docs/audit.md
lists the content that no event names and that cannot be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

import psycopg
from psycopg.rows import dict_row

from engine.audit.regenerate import dataset_digest, run_bars
from engine.audit.verify import AuditFinding
from engine.core.errors import BadInput, UnreadableEvent
from engine.core.events import (
    AnalysisFailed,
    AnalysisMade,
    AnalysisOutcome,
    Environment,
    ModelCall,
    RunRequested,
    SignalsImported,
)
from engine.core.market import Direction
from engine.core.money import exact
from engine.core.upcasters import event_names
from engine.data import BarCatalogue
from engine.data.signals import ImportedSignal, digest_of_rows
from engine.store import LogEntry, Store, readable_from

# Number of analyses whose calls are compared by one query.
_PAGE = 500

_CALLS = (
    "SELECT analysis_id, version, node, seq, attempt, model, outcome, request, response, input_tokens, output_tokens, "
    "cost, latency_ms, answered_by, system_fingerprint FROM quantagent.llm_calls WHERE analysis_id = ANY(%s) "
    "ORDER BY call_id"
)
_INTACT = (
    "SELECT sha256 FROM quantagent.llm_bodies WHERE sha256 = ANY(%s) "
    "AND sha256 = encode(sha256(convert_to(body, 'UTF8')), 'hex')"
)
_SIGNALS = (
    "SELECT symbol, at, decision, confidence FROM quantagent.imported_signals WHERE digest = %s ORDER BY row_number"
)
# Every bar is stored by an import, with the import's time as `learned_at`.
_BARS_OF_NO_IMPORT = (
    "SELECT symbol, timeframe, learned_at, count(*) FROM quantagent.bars b WHERE NOT EXISTS (SELECT FROM "
    "quantagent.bar_imports i WHERE (i.symbol, i.timeframe, i.learned_at) = (b.symbol, b.timeframe, b.learned_at)) "
    "GROUP BY 1, 2, 3 ORDER BY 3, 1, 2 LIMIT 1"
)


def content_findings(conn: psycopg.Connection[Any], store: Store, catalogue: BarCatalogue) -> Iterator[AuditFinding]:
    """Yield content that differs from the log, with the position of the event that names it (0 without an event)."""
    yield from _call_findings(conn, store)
    yield from _signal_findings(conn, store)
    yield from _import_findings(conn)
    yield from _dataset_findings(store, catalogue)


def _call_findings(conn: psycopg.Connection[Any], store: Store) -> Iterator[AuditFinding]:
    page: list[LogEntry] = []
    for row in readable_from(store, event_names([AnalysisMade, AnalysisFailed])):
        page.append(row)
        if len(page) == _PAGE:
            yield from _page_findings(conn, page)
            page = []
    yield from _page_findings(conn, page)


def _page_findings(conn: psycopg.Connection[Any], rows: Sequence[LogEntry]) -> Iterator[AuditFinding]:
    outcomes = [(row, row.event) for row in rows if isinstance(row.event, AnalysisOutcome)]
    stored = _stored_calls(conn, [outcome.analysis_id for _, outcome in outcomes])
    named = {digest for _, outcome in outcomes for digest in _text_digests(outcome)}
    intact = {digest for (digest,) in conn.execute(_INTACT, (list(named),))}
    for row, outcome in outcomes:
        found = stored.get((outcome.analysis_id, row.version), [])
        if outcome.work is None and isinstance(outcome, AnalysisFailed):
            # Such an event records no calls although the model may have been called, so there is nothing to compare.
            continue
        expected = list(outcome.work.calls) if outcome.work is not None else []
        # Analyses imported from another log have texts but no rows of calls.
        if found and found != expected:
            yield AuditFinding(
                row.position,
                f"the stored model calls of {outcome.analysis_id} do not match its event: "
                f"{len(found)} stored, {len(expected)} named",
            )
        if missing := [digest for digest in _text_digests(outcome) if digest not in intact]:
            yield AuditFinding(
                row.position,
                f"the text {missing[0][:16]} of a model call of {outcome.analysis_id} is missing or was changed",
            )


def _stored_calls(conn: psycopg.Connection[Any], analyses: Sequence[str]) -> dict[tuple[str, int], list[ModelCall]]:
    found: dict[tuple[str, int], list[ModelCall]] = {}
    with conn.cursor(row_factory=dict_row) as curs:
        for row in curs.execute(_CALLS, (list(analyses),)):
            key = row.pop("analysis_id"), row.pop("version")
            call: dict[str, Any] = {**row, "cost": exact(row["cost"])}
            found.setdefault(key, []).append(ModelCall(**call))
    return found


def _text_digests(outcome: AnalysisMade | AnalysisFailed) -> list[str]:
    calls = () if outcome.work is None else outcome.work.calls
    return [digest for call in calls for digest in (call.request, call.response) if digest]


def _signal_findings(conn: psycopg.Connection[Any], store: Store) -> Iterator[AuditFinding]:
    for row in readable_from(store, event_names([SignalsImported])):
        if not isinstance(row.event, SignalsImported):
            continue
        rows = conn.execute(_SIGNALS, (row.event.digest,)).fetchall()
        found = [ImportedSignal(s, at.astimezone(UTC), Direction(d), exact(c)) for s, at, d, c in rows]
        if digest_of_rows(found) != row.event.digest:
            yield AuditFinding(
                row.position,
                f"the stored rows of {row.event.variant} are not the imported ones: {len(found)} stored, "
                f"{row.event.rows} imported",
            )


def _import_findings(conn: psycopg.Connection[Any]) -> Iterator[AuditFinding]:
    for symbol, timeframe, learned_at, count in conn.execute(_BARS_OF_NO_IMPORT):
        yield AuditFinding(
            0, f"{count} bar(s) of {symbol} {timeframe}, learned at {learned_at}, belong to no recorded import"
        )


def _dataset_findings(store: Store, catalogue: BarCatalogue) -> Iterator[AuditFinding]:
    """Check the digest of every run's bars; each set of bars is read once."""
    checked: set[tuple[object, ...]] = set()
    for row in readable_from(store, event_names([RunRequested])):
        run = row.event
        # A paper run started before its bars were known; regeneration compares its decisions instead.
        if not isinstance(run, RunRequested) or run.environment is Environment.PAPER:
            continue
        bars = run.dataset_digest, run.config.data_symbols, run.config.timeframe, run.start, run.end, run.known_at
        if bars in checked:
            continue
        checked.add(bars)
        try:
            digest = dataset_digest(run_bars(catalogue, store, run), run.config.timeframe)
        except (BadInput, UnreadableEvent) as error:
            yield AuditFinding(
                row.position, f"the bars of run {run.run_id[:8]} cannot be read: {str(error).rstrip('.')}"
            )
            continue
        if digest != run.dataset_digest:
            yield AuditFinding(
                row.position,
                f"the bars of run {run.run_id[:8]} do not match its request: dataset {run.dataset_digest[:16]}, "
                f"now {digest[:16]}",
            )
