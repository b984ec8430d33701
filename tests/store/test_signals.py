"""Somebody else's signals: what a file may say, and one sentence for everything it may not."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from engine.core.errors import BadInput, NotFound
from engine.core.market import Direction
from engine.data.signals import ImportedAnalyst, check_signals_fit, load_signals, read_signals, save_signals
from engine.store.postgres import PostgresStore
from tests.support.strategies import bar_at

HEADER = b"symbol,at,decision,confidence\n"
AT = datetime(2024, 1, 1, 10, tzinfo=UTC)


def written(folder: Path, content: bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "line", "fault"),
    [
        (b"", 1, "has the columns (none)"),
        (b"time,side\n", 1, "has the columns time,side"),
        (b"symbol,at,decision,size\n", 1, "has the columns symbol,at,decision,size"),
        (b"symbol,at,decision,at\n", 1, "has the columns symbol,at,decision,at"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z\n", 2, "not as many values"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,1,2\n", 2, "not as many values"),
        (HEADER + b"aaa/b,2024-01-01T10:00:00Z,LONG,1\n", 2, "symbol 'aaa/b' is not usable"),
        (HEADER + b"AAA,2024-01-01T10:00:00,LONG,1\n", 2, "has no time zone"),
        (HEADER + b"AAA,2024-01-01,LONG,1\n", 2, "has no time zone"),
        (HEADER + b"AAA,yesterday,LONG,1\n", 2, "'yesterday' is not an instant"),
        (HEADER + b"AAA,0001-01-01T00:00:00+05:00,LONG,1\n", 2, "is not an instant"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,BUY,1\n", 2, "decision 'BUY' is none of LONG, SHORT, FLAT, HOLD"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,1.0001\n", 2, "confidence 1.0001 is outside 0 to 1"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,-0.1\n", 2, "confidence -0.1 is outside 0 to 1"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,NaN\n", 2, "confidence 'NaN' is not a number"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,inf\n", 2, "confidence 'inf' is not a number"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,1e999999999999\n", 2, "is not a number"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,high\n", 2, "confidence 'high' is not a number"),
        (HEADER + b'AAA,2024-01-01T10:00:00Z,LONG,"' + b"9" * 200_000 + b'"\n', 2, "is not CSV"),
        (HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,1\n\nAAA,2024-01-01T11:00:00+01:00,FLAT,1\n", 4, "a second signal"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_file_and_line(
    tmp_path: Path, content: bytes, line: int, fault: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(BadInput) as refused:
        read_signals(path)
    said = str(refused.value)
    assert said.startswith(f"{path} line {line}")
    assert fault in said
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not a text file"),
        (HEADER, "holds no signals"),
        (HEADER + b"\n\n", "holds no signals"),
    ],
)
def test_a_file_that_holds_no_signals_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(BadInput, match=fault) as refused:
        read_signals(path)
    assert str(refused.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(BadInput, match="cannot be read") as refused:
            read_signals(path)
        assert str(refused.value).startswith(str(path))


def test_columns_may_stand_in_any_order_and_confidence_may_be_missing(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbfDecision, AT ,symbol\r\n short ,2024-01-01T11:00:00+01:00, AAA\r\n")
    (row,) = read_signals(path).rows
    assert row == ("AAA", AT, Direction.SHORT, Decimal(1))
    path = written(tmp_path, HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,\nAAA,2024-01-01T11:00:00Z,FLAT,0.50\n")
    assert [str(row.confidence) for row in read_signals(path).rows] == ["1", "0.5"]


def test_a_file_is_known_by_what_it_says_and_not_by_how(tmp_path: Path) -> None:
    one = written(tmp_path, HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,0.5\nBBB,2024-01-01T10:00:00Z,FLAT,1\n")
    same = written(
        tmp_path,
        b"at,symbol,confidence,decision\n2024-01-01T10:00Z,BBB,,flat\n2024-01-01T11:00+01:00,AAA,.50,long\n",
        "x",
    )
    other = written(tmp_path, HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,0.6\nBBB,2024-01-01T10:00:00Z,FLAT,1\n", "y")
    assert read_signals(one).digest == read_signals(same).digest
    assert read_signals(one).digest != read_signals(other).digest
    assert read_signals(one).variant == f"imported:mine@{read_signals(one).digest[:12]}"


def test_a_strange_file_name_becomes_a_plain_variant(tmp_path: Path) -> None:
    row = HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,1\n"
    assert read_signals(written(tmp_path, row, "my signals (2).csv")).name == "my-signals-2-"
    assert len(read_signals(written(tmp_path, row, "x" * 90 + ".csv")).name) == 40


def test_a_signal_that_meets_no_bar_is_named_with_its_symbol_and_time(tmp_path: Path) -> None:
    bars = [bar_at("AAA", datetime(2024, 1, 1, 9, tzinfo=UTC), "1", "2")]
    fitting = read_signals(written(tmp_path, HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,1\n"))
    check_signals_fit(fitting, [bars])
    for time in (b"2024-01-01T09:00:00Z", b"2024-01-01T10:00:01Z"):
        file = read_signals(written(tmp_path, HEADER + b"AAA," + time + b",LONG,1\n"))
        with pytest.raises(BadInput, match=r"no bar closes at the time of the signal for AAA at 2024-01-01T"):
            check_signals_fit(file, [bars])


def test_an_imported_file_answers_for_its_own_bars_only(tmp_path: Path) -> None:
    file = read_signals(written(tmp_path, HEADER + b"AAA,2024-01-01T10:00:00Z,HOLD,1\n"))
    analyst = ImportedAnalyst(file)
    wish = analyst.intent(bar_at("AAA", datetime(2024, 1, 1, 9, tzinfo=UTC), "1", "2"))
    assert wish is not None
    assert (wish.direction, wish.analysis_id) == (Direction.HOLD, f"{file.variant}#AAA@20240101T100000Z")
    assert analyst.intent(bar_at("AAA", AT, "1", "2")) is None
    assert analyst.intent(bar_at("BBB", datetime(2024, 1, 1, 9, tzinfo=UTC), "1", "2")) is None
    assert analyst.by_id() == {wish.analysis_id: (AT, wish)}


def test_stored_signals_come_back_as_they_were_and_are_stored_once(tmp_path: Path, dsn: str) -> None:
    rows = b"AAA,2024-01-01T10:00:00Z,LONG,0.000000000001\nBBB,2024-01-01T10:00:00Z,FLAT,0.30\n"
    file = read_signals(written(tmp_path, HEADER + rows))
    with PostgresStore(dsn) as store:
        save_signals(store, dsn, file, "test")
        save_signals(store, dsn, file, "somebody else")
        assert load_signals(store, dsn, file.variant) == file
        (imported,) = [row.event for row in store.read_all()]
        assert imported == file.event
        assert (file.event.rows, file.event.symbols, file.event.first_at, file.event.last_at) == (
            2,
            ("AAA", "BBB"),
            AT,
            AT,
        )
        with pytest.raises(NotFound, match="no signals imported:other@1 are stored"):
            load_signals(store, dsn, "imported:other@1")


def test_stored_signals_that_were_changed_are_refused(tmp_path: Path, dsn: str) -> None:
    file = read_signals(written(tmp_path, HEADER + b"AAA,2024-01-01T10:00:00Z,LONG,1\n"))
    with PostgresStore(dsn) as store:
        save_signals(store, dsn, file, "test")
        with psycopg.connect(dsn) as conn:
            conn.execute("ALTER TABLE quantagent.imported_signals DISABLE TRIGGER USER")
            conn.execute("UPDATE quantagent.imported_signals SET decision = 'SHORT'")
        with pytest.raises(BadInput, match="are not the imported ones"):
            load_signals(store, dsn, file.variant)
