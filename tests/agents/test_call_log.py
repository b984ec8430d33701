"""Questions to models are recorded once, exactly, and an altered text is noticed; in memory and in Postgres alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.llm.call_log import (
    BodyAltered,
    CallLog,
    MemoryCallLog,
    PostgresCallLog,
    RecordedCall,
    body_digest,
    canonical_json,
)
from engine.core.errors import NotFound, StoreUnavailable
from engine.core.events import ModelCall
from engine.store.migrations import migrate
from engine.store.roles import access
from tests.support.cut_connections import Line, line

__all__ = ["line"]

AT = datetime(2024, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ID = "AAA.1h@20240101T120000Z.gpt@0123456789ab.0123456789abcdef"


@pytest.fixture(params=["memory", "postgres"])
def calls(request: pytest.FixtureRequest) -> Iterator[CallLog]:
    if request.param == "memory":
        yield MemoryCallLog()
        return
    with PostgresCallLog(request.getfixturevalue("dsn")) as opened:
        yield opened


def question(
    request: str = '{"q":1}', response: str = '{"a":1}', *, at: datetime = AT, version: int = 1, preset: str = "gpt",
    analysis_id: str = ID, **more: Any,
) -> RecordedCall:  # fmt: skip
    call = ModelCall(
        node="decision", seq=1, attempt=1, model="a-model", outcome="answered", request=body_digest(request),
        response=body_digest(response) if response else "", input_tokens=7, output_tokens=2, cost=Decimal("0.0001794"),
        latency_ms=1840,
    )  # fmt: skip
    call = msgspec.structs.replace(call, **more)
    return RecordedCall(analysis_id, version, preset, f"{preset}@0123456789ab", at, call)


def record(calls: CallLog, asked: RecordedCall, request: str = '{"q":1}', response: str = '{"a":1}') -> RecordedCall:
    calls.record(asked, request, response)
    return asked


# --- What is recorded ---------------------------------------------------------------------------------------------


def test_what_is_asked_for_an_analysis_comes_back_in_the_order_of_recording(calls: CallLog) -> None:
    later = record(calls, question(at=AT + DAY, node="trend", answered_by="a-model-1", system_fingerprint="fp"))
    first = record(calls, question(seq=2, attempt=3))
    record(calls, question(version=2))
    record(calls, question(analysis_id="another"))
    assert calls.calls_for(ID, 1) == [later, first]
    assert calls.calls_for(ID, 3) == []
    (again, _) = calls.calls_for(ID, 1)
    assert (str(again.call.cost), again.asked_at.utcoffset()) == ("0.0001794", timedelta(0))


def test_both_texts_are_found_under_their_digests(calls: CallLog) -> None:
    asked = record(calls, question())
    assert (calls.body(asked.call.request), calls.body(asked.call.response)) == ('{"q":1}', '{"a":1}')
    with pytest.raises(NotFound, match="no text '0000000000000000' of a model call is stored"):
        calls.body("0" * 64)


def test_a_question_without_an_answer_has_no_second_text(calls: CallLog) -> None:
    asked = record(calls, question(response="", outcome="timeout"), response="")
    assert calls.calls_for(ID, 1) == [asked]
    with pytest.raises(NotFound):
        calls.body(asked.call.response)


def test_recording_the_same_question_again_is_success_and_changes_nothing(calls: CallLog) -> None:
    asked = record(calls, question())
    assert record(calls, question()) == asked
    again = record(calls, question(latency_ms=1841))
    assert calls.calls_for(ID, 1) == [asked, again]


@pytest.mark.parametrize(
    ("request_text", "response"),
    [('{"q":2}', '{"a":1}'), ('{"q":1}', '{"a":2}'), ('{"q":1}', ""), ('"\u00e4"', '{"a":1}'), ('"\0"', '{"a":1}')],
)
def test_a_text_that_is_not_the_one_of_its_digest_is_refused_and_leaves_nothing(
    calls: CallLog, request_text: str, response: str
) -> None:
    with pytest.raises(ValueError, match=r"the re(quest|sponse) (is not|does not have)"):
        calls.record(question(), request_text, response)
    assert calls.calls_for(ID, 1) == []
    with pytest.raises(NotFound):
        calls.body(body_digest('{"q":1}'))


def test_what_was_spent_is_exact_and_counts_a_presets_own_day(calls: CallLog) -> None:
    for n, hours in enumerate((-1, 0, 11, 12, 24)):
        record(calls, question(at=AT + timedelta(hours=hours), cost=Decimal(f"0.{'0' * 11}1"), latency_ms=n))
    record(calls, question(preset="other", cost=Decimal(5)))
    assert str(calls.spent("gpt", AT, AT + DAY)) == "3E-12"
    assert calls.spent("gpt", AT + DAY, AT + DAY) == calls.spent("nobody", AT, AT + DAY) == Decimal(0)


# --- Texts --------------------------------------------------------------------------------------------------------


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None, categories=None)),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_any_json_has_one_spelling_in_ascii(value: object) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert "\0" not in text
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_the_order_of_keys_makes_no_other_text_and_nan_makes_none() -> None:
    assert canonical_json({"b": 1, "a": "\u00e4\ud800\0"}) == canonical_json({"a": "\u00e4\ud800\0", "b": 1}) == (
        '{"a":"\\u00e4\\ud800\\u0000","b":1}'
    )  # fmt: skip
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


@given(said=st.text(st.characters(codec=None, categories=None)))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_model_says_comes_back_byte_for_byte(calls: CallLog, said: str) -> None:
    text = canonical_json({"content": said})
    asked = record(calls, question(response=text), response=text)
    assert calls.body(asked.call.response) == text


def test_a_text_that_somebody_changed_is_not_shown_as_the_one_it_was(dsn: str) -> None:
    change = b"UPDATE quantagent.llm_bodies SET body = '{\"a\":2}' WHERE body = '{\"a\":1}'"
    with PostgresCallLog(dsn) as calls, psycopg.connect(dsn, autocommit=True) as conn:
        asked = record(calls, question())
        with pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
            conn.execute(change)
        conn.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute(change)
        conn.execute("ALTER TABLE quantagent.llm_bodies DROP CONSTRAINT llm_bodies_check")
        assert conn.execute(change).rowcount == 1
        with pytest.raises(BodyAltered, match="of a model call was changed") as told:
            calls.body(asked.call.response)
        assert told.value.digest == asked.call.response
        assert calls.body(asked.call.request) == '{"q":1}'


# --- The database -------------------------------------------------------------------------------------------------


def test_threads_that_record_at_once_lose_nothing(calls: CallLog) -> None:
    texts = [canonical_json({"n": n % 5}) for n in range(60)]
    asked = [question(text, seq=n + 1) for n, text in enumerate(texts)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls.record, asked, texts, ['{"a":1}'] * 60))
    assert sorted(each.call.seq for each in calls.calls_for(ID, 1)) == list(range(1, 61))
    assert calls.spent("gpt", AT, AT + DAY) == 60 * Decimal("0.0001794")


def test_equal_texts_are_stored_once(dsn: str) -> None:
    with PostgresCallLog(dsn) as calls, psycopg.connect(dsn) as conn:
        for n in range(3):
            record(calls, question(seq=n + 1))
        assert conn.execute("SELECT count(*) FROM quantagent.llm_bodies").fetchone() == (2,)


def test_the_writers_role_is_enough_to_record(dsn: str) -> None:
    migrate(dsn)
    with PostgresCallLog(access(dsn, logins=False).writer) as calls:
        asked = record(calls, question())
        assert calls.calls_for(ID, 1) == [asked]


def test_a_connection_that_was_lost_is_opened_again(dsn: str) -> None:
    with PostgresCallLog(dsn) as calls, psycopg.connect(dsn, autocommit=True) as conn:
        record(calls, question())
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        record(calls, question(seq=2))
        assert len(calls.calls_for(ID, 1)) == 2


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_connection_that_is_cut_around_the_commit_records_once(line: Line, mode: str) -> None:
    with PostgresCallLog(line.through_proxy) as calls:
        record(calls, question())
        line.proxy.cut(mode)
        record(calls, question(seq=2))
        assert line.proxy.cuts == 1
        assert [each.call.seq for each in calls.calls_for(ID, 1)] == [1, 2]


def test_a_server_that_is_away_is_told_in_a_sentence() -> None:
    calls = PostgresCallLog("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(StoreUnavailable, match=r"the log of model calls cannot be reached: .*Check that the server"):
        calls.calls_for(ID, 1)
