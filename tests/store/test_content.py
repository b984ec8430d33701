"""What lies outside the chain and is named in it: rows invented, changed or deleted there are found by verify."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from analysis.llm.call_log import PostgresCallLog, RecordedCall, body_digest, canonical_json
from engine.audit.content import content_findings
from engine.audit.verify import AuditFinding
from engine.core.events import AnalysisMade, GraphWork, ModelCall
from engine.core.ids import analysis_stream
from engine.core.market import Direction
from engine.data.catalogue import PostgresCatalogue
from engine.store import Batch, Cause
from engine.store.postgres import PostgresStore
from tests.support.commands import answer, env, run, write_bars
from tests.support.workloads import walk, write_signals

__all__ = ["env"]

AT = datetime(2024, 1, 1, tzinfo=UTC)
ID = "AAA.1h@20240101T000000Z.m@1.0123456789abcdef"


def call_of(n: int) -> tuple[ModelCall, str, str]:
    request, response = canonical_json({"question": n}), canonical_json({"answer": n})
    return (
        ModelCall(
            "decision", n, 1, "m", "answered", body_digest(request), body_digest(response), 10, 5, Decimal("0.1"), 7
        ),
        request,
        response,
    )


class Lab(NamedTuple):
    env: dict[str, str]
    dsn: str

    def found(self) -> list[AuditFinding]:
        with PostgresStore(self.dsn) as store, psycopg.connect(self.dsn) as conn:
            return list(content_findings(conn, store, PostgresCatalogue(self.dsn)))

    def change(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("SET session_replication_role = replica")
            assert conn.execute(statement.encode()).rowcount > 0


@pytest.fixture
def lab(env: dict[str, str], dsn: str, tmp_path: Path) -> Lab:
    """Bars, imported signals with a backtest, and an analysis by a model that was called twice."""
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    signals = write_signals(tmp_path / "signals.csv", [walk("AAA", 100, 400, 100.0, 0.005)])
    run(env, "backtest", "--symbols", "AAA", "--signals", signals)
    calls = [call_of(1), call_of(2)]
    work = GraphWork(
        "m", "0" * 64, "p", "m", "1", (), tuple(call for call, *_ in calls), 20, 10, Decimal("0.2"), 14
    )  # fmt: skip
    made = AnalysisMade(
        ID, "AAA", "1h", AT, "m@1", Direction.LONG, Decimal("0.5"), None, None, "{}", "digest", 1, "1", work=work
    )  # fmt: skip
    with PostgresCallLog(dsn) as record, PostgresStore(dsn) as store:
        for call, request, response in calls:
            record.record(RecordedCall(ID, 1, "m", "m@1", AT, call), request, response)
        store.append([Batch(analysis_stream(ID), 0, [made])], Cause("test"))
    return Lab(env, dsn)


def test_what_is_as_the_log_names_it_is_found_to_be(lab: Lab) -> None:
    assert lab.found() == []
    assert answer(lab.env, "audit", "verify")["intact"] is True


CALLS = "quantagent.llm_calls"
COLUMNS = (
    "analysis_id, version, preset, variant, asked_at, node, seq, attempt, model, outcome, request, response, "
    "input_tokens, output_tokens, cost, latency_ms, answered_by, system_fingerprint"
)
INVENTED = COLUMNS.replace("seq", "3")

TAMPERINGS = {
    "a call invented": (f"INSERT INTO {CALLS} ({COLUMNS}) SELECT {INVENTED} FROM {CALLS} LIMIT 1", "model calls"),
    "a call deleted": (f"DELETE FROM {CALLS} WHERE seq = 2", "model calls"),
    "a call made cheaper": (f"UPDATE {CALLS} SET cost = 0 WHERE seq = 1", "model calls"),
    "another answer named": (f"UPDATE {CALLS} SET response = request WHERE seq = 1", "model calls"),
    "a text deleted": ("DELETE FROM quantagent.llm_bodies WHERE body LIKE '%answer%'", "missing or was changed"),
    "a signal changed": (
        "UPDATE quantagent.imported_signals SET decision = 'FLAT' WHERE decision = 'LONG'",
        "not the imported ones",
    ),
    "a signal deleted": ("DELETE FROM quantagent.imported_signals WHERE row_number = 3", "not the imported ones"),
    "a signal invented": (
        "INSERT INTO quantagent.imported_signals SELECT digest, 100000, 'ZZZ', at, decision, confidence "
        "FROM quantagent.imported_signals LIMIT 1",
        "not the imported ones",
    ),
    "the list of imports deleted": ("DELETE FROM quantagent.bar_imports", "belong to no recorded import"),
    "bars changed": ("UPDATE quantagent.bars SET close = high WHERE close < high", "bars of run"),
    "a bar deleted": (
        "DELETE FROM quantagent.bars WHERE opened_at = (SELECT min(opened_at) FROM quantagent.bars)", "bars of run",
    ),
    "a revision learned in the past": (
        "INSERT INTO quantagent.bars SELECT symbol, timeframe, opened_at, closed_at, open, high, low, high, volume, 2, "
        "learned_at, source FROM quantagent.bars WHERE close < high",
        "bars of run",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "told"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_rows_outside_the_chain_that_are_not_what_the_log_names_are_found(lab: Lab, statement: str, told: str) -> None:
    lab.change(statement)
    found = lab.found()
    assert found
    assert all(told in each.what for each in found), found
    done = run(lab.env, "audit", "verify", code=3)
    assert told in done.stderr


def test_a_text_that_was_replaced_under_its_digest_is_found(lab: Lab) -> None:
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        conn.execute("ALTER TABLE quantagent.llm_bodies DROP CONSTRAINT llm_bodies_check")
    lab.change("UPDATE quantagent.llm_bodies SET body = body || ' ' WHERE body LIKE '%question%'")
    assert "missing or was changed" in lab.found()[0].what


def test_an_analysis_that_was_moved_here_has_texts_and_no_rows(lab: Lab) -> None:
    lab.change(f"DELETE FROM {CALLS}")
    assert lab.found() == []
