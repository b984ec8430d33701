"""Bars from files: exact, in UTC, and every unusable row refused in words."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import BadInput
from engine.core.market import Bar, Timeframe
from engine.core.money import exact
from engine.data.bar_rules import bar_line
from engine.data.files import read_bars
from engine.data.validation import ValidatedBars
from ui.cli.remedies import sentence

HEADER = "opened_at,open,high,low,close,volume\n"
GOOD = "2024-01-01T00:00:00Z,10,12,9,11,5\n"
NEXT = "2024-01-01T01:00:00Z,11,12,9,10,6\n"
H1 = Timeframe.H1


def read(folder: Path, content: str | bytes, **options: Any) -> ValidatedBars:
    path = folder / "bars.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_bars(path, "X-USD", H1, **options)


def refusal(folder: Path, content: str | bytes, **options: Any) -> str:
    with pytest.raises(BadInput) as error:
        read(folder, content, **options)
    return sentence(error.value)


def test_a_bar_keeps_its_digits_and_lasts_its_timeframe(tmp_path: Path) -> None:
    judged = read(tmp_path, HEADER + "2024-01-01T00:00:00Z,0.10,69.80000305,0.000000000001,1.5,1e3\n")
    assert judged.refused == []
    assert judged.bars() == [
        Bar(
            "X-USD",
            datetime(2024, 1, 1, tzinfo=UTC),
            datetime(2024, 1, 1, 1, tzinfo=UTC),
            *map(Decimal, ("0.1", "69.80000305", "0.000000000001", "1.5", "1000")),  # pyright: ignore[reportCallIssue]
        )
    ]


@pytest.mark.parametrize(
    "header",
    [
        "ts,Open,High,Low,Close,Volume",
        "Datetime,OPEN,HIGH,LOW,CLOSE,VOLUME",
        " timestamp , open , high , low , close , volume ",
        "ts_utc,open,high,low,close,volume",
        "\ufeffdate,open,high,low,close,volume",
    ],
)
def test_common_headers_are_understood(tmp_path: Path, header: str) -> None:
    assert read(tmp_path, f"{header}\n{GOOD}").bars() == read(tmp_path, HEADER + GOOD).bars()


def test_columns_may_stand_in_any_order_and_others_are_ignored(tmp_path: Path) -> None:
    bars = read(tmp_path, "Datetime,Close,High,Low,Open,Volume,src\n2024-01-01T00:00:00Z,11,12,9,10,5,vendor\n").bars()
    assert bars == read(tmp_path, HEADER + GOOD).bars()


def test_without_a_volume_column_volume_is_zero(tmp_path: Path) -> None:
    assert read(tmp_path, "ts,open,high,low,close\n2024-01-01T00:00:00Z,10,12,9,11\n").bars()[0].volume == 0


@pytest.mark.parametrize(
    ("written", "zone", "hour"),
    [
        ("2024-01-01T05:00:00+05:00", None, 0),
        ("2024-01-01 05:00+0500", None, 0),
        ("2024-01-01 00:00:00.000Z", None, 0),
        ("2024-01-01 00:00:00", "UTC", 0),
        ("2024-01-01", "utc", 0),
        ("2024-01-01 00:00:00", "America/New_York", 5),
        ("2024-01-01T00:00:00Z", "America/New_York", 0),
    ],
)
def test_times_become_utc(tmp_path: Path, written: str, zone: str | None, hour: int) -> None:
    bar = read(tmp_path, f"{HEADER}{written},10,12,9,11,5\n", zone=zone).bars()[0]
    assert (bar.opened_at, bar.opened_at.tzinfo) == (datetime(2024, 1, 1, hour, tzinfo=UTC), UTC)


def test_a_time_without_a_zone_is_refused_with_the_remedy(tmp_path: Path) -> None:
    message = refusal(tmp_path, HEADER + "2024-01-01 00:00:00,10,12,9,11,5\n")
    assert "bars.csv, line 2: time '2024-01-01 00:00:00' has no zone" in message
    assert "for example UTC" in message


@pytest.mark.parametrize(("written", "came"), [("2024-11-03 01:30", "twice"), ("2024-03-10 02:30", "never")])
def test_a_time_that_a_clock_change_made_unclear_is_refused(tmp_path: Path, written: str, came: str) -> None:
    assert f"came {came} in America/New_York" in refusal(
        tmp_path, f"{HEADER}{written},10,12,9,11,5\n", zone="America/New_York"
    )


def test_an_unknown_zone_is_refused(tmp_path: Path) -> None:
    for zone in ("Mars/Olympus", "../etc/passwd", ""):
        assert "is unknown: use UTC or an IANA name" in refusal(tmp_path, HEADER + GOOD, zone=zone)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2024-01-01T01:00:00Z,0,12,0,11,5", "open 0 is not a price above 0"),
        ("2024-01-01T01:00:00Z,10,12,-9,11,5", "low -9 is not a price above 0"),
        ("2024-01-01T01:00:00Z,10,10.5,9,11,5", "high 10.5 is below another price"),
        ("2024-01-01T01:00:00Z,10,12,10.5,11,5", "low 10.5 is above another price"),
        ("2024-01-01T01:00:00Z,10,12,9,11,-5", "volume -5 is not a quantity of at least 0"),
        ("2024-01-01T01:00:00Z,NaN,12,9,11,5", "open 'NaN' is not a number"),
        ("2024-01-01T01:00:00Z,10,inf,9,11,5", "high 'inf' is not a number"),
        ("2024-01-01T01:00:00Z,10,1_2,9,11,5", "high '1_2' is not a number"),
        ("2024-01-01T01:00:00Z,10,12,9,,5", "close '' is not a number"),
        ("2024-01-01T01:00:00Z,10,12,9,11,1e40", "volume: 1E+40 is too large"),
        ("2024-01-01T01:00:00Z,10,12,9,10.0000000000001,5", "close 10.0000000000001 has more than 12 decimals"),
        ("2024-01-01T01:00:00Z,10,12,9,11", "the row has 5 cells, the header 6"),
        ("2024-01-01T00:00:00Z,10,12,9,11,5", "a bar that opens at 2024-01-01T00:00:00Z was given before"),
        ("2023-12-31T23:00:00Z,10,12,9,11,5", "sort them by time"),
        ("2024-01-01T00:30:00Z,10,12,9,11,5", "no 1h bar opens at 2024-01-01T00:30:00Z in the calendar 24/7"),
        ("yesterday,10,12,9,11,5", "time 'yesterday' is not one like 2024-01-31T09:00:00Z"),
        ("1704067200,10,12,9,11,5", "time '1704067200' is not one like"),
        ("2024-02-30T01:00:00Z,10,12,9,11,5", "time '2024-02-30T01:00:00Z' is not one like"),
        ("2024-01-01T01:00:00.5Z,10,12,9,11,5", "whole seconds"),
        ("9999-12-31T23:59:00Z,10,12,9,11,5", "1900 to 2199"),
    ],
)
def test_an_unusable_row_is_refused_with_its_line_its_value_and_the_reason(
    tmp_path: Path, row: str, reason: str
) -> None:
    message = refusal(tmp_path, HEADER + GOOD + row + "\n")
    assert message.startswith("bars.csv, line 3: ")
    assert reason in message
    assert "--accept-valid" in message
    judged = read(tmp_path, f"{HEADER}{GOOD}{row}\n2024-01-01T05:00:00Z,10,12,9,11,5\n", accept_valid=True)
    assert [bar.opened_at.hour for bar in judged.bars()] == [0, 5]
    assert [(each.row, each.line) for each in judged.refused] == [(3, row)]
    assert reason in judged.refused[0].reason


def test_a_bar_that_was_still_forming_is_refused(tmp_path: Path) -> None:
    learned_at = datetime(2024, 1, 1, 1, 59, tzinfo=UTC)
    assert "line 3: the bar closes only at 2024-01-01T02:00:00Z" in refusal(
        tmp_path, HEADER + GOOD + NEXT, learned_at=learned_at
    )
    judged = read(tmp_path, HEADER + GOOD + NEXT, learned_at=learned_at, accept_valid=True)
    assert (len(judged.bars()), [each.row for each in judged.refused]) == (1, [3])
    assert len(read(tmp_path, HEADER + GOOD + NEXT, learned_at=learned_at + timedelta(minutes=1)).bars()) == 2


def test_the_refusal_counts_the_other_unusable_rows(tmp_path: Path) -> None:
    assert "(2 rows are unusable in all)" in refusal(tmp_path, HEADER + GOOD + "a,1,1,1,1,1\nb,1,1,1,1,1\n")


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    assert len(read(tmp_path, f"{HEADER}\n{GOOD}\n\n{NEXT}\n").bars()) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (HEADER, "holds no usable bar"),
        ("hello world\n", "it lacks a time, open, high, low, close"),
        ("opened_at;open;high;low;close\n", "separated by commas"),
        ("opened_at,open,high,close,volume\n" + GOOD, "it lacks low"),
        ("opened_at,open,high,low,close,Close\n" + GOOD, "has 2 columns named close"),
        ("date,time,open,high,low,close\n" + GOOD, "several time columns (date, time)"),
        (HEADER + '2024-01-01T00:00:00Z,"10,12,9,11,5\n', "line 2: not CSV"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "neither CSV text in UTF-8 nor a Parquet file"),
        (b"opened_at,open\x00", "neither CSV text in UTF-8 nor a Parquet file"),
        (b"PAR1 but not really PAR1", "is not a readable Parquet file"),
    ],
)
def test_a_file_that_is_no_table_of_bars_is_refused_in_one_sentence(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    message = refusal(tmp_path, content)
    assert "bars.csv" in message
    assert words in message
    assert "\n" not in message


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_bars(path, "X-USD", H1)


def test_an_unusable_symbol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape("symbol '../X' is not usable")):
        read_bars(tmp_path / "bars.csv", "../X", H1)


# --- Parquet ------------------------------------------------------------------------------------------------------


def parquet(folder: Path, times: pl.Series, prices: pl.Series, **options: Any) -> ValidatedBars:
    path = folder / "bars.parquet"
    pl.DataFrame([times.alias("ts"), *(prices.alias(name) for name in ("Open", "High", "Low", "Close"))]).write_parquet(
        path
    )
    return read_bars(path, "X-USD", H1, **options)


AT = datetime(2024, 1, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("prices", "text"),
    [
        (pl.Series([0.1], dtype=pl.Float64), "0.1"),
        (pl.Series([1.1], dtype=pl.Float32), "1.1"),
        (pl.Series([1e-7], dtype=pl.Float64), "0.0000001"),
        (pl.Series([69.80000305]), "69.80000305"),
        (pl.Series([123456789]), "123456789"),
        (pl.Series([Decimal("1.10")]), "1.1"),
        (pl.Series(["1.10"]), "1.1"),
    ],
)
def test_parquet_numbers_are_taken_as_their_shortest_text(tmp_path: Path, prices: pl.Series, text: str) -> None:
    assert parquet(tmp_path, pl.Series([AT]), prices).bars()[0].close == Decimal(text)


@pytest.mark.parametrize(
    ("times", "zone"),
    [
        (pl.Series([AT], dtype=pl.Datetime("us", "UTC")), None),
        (pl.Series([AT]).dt.convert_time_zone("Asia/Tokyo"), None),
        (pl.Series([AT.replace(tzinfo=None)], dtype=pl.Datetime("ns")), "UTC"),
        (pl.Series([datetime(2024, 1, 1, 4)], dtype=pl.Datetime("ms")), "America/New_York"),  # noqa: DTZ001
        (pl.Series(["2024-01-01T09:00:00Z"]), None),
    ],
)
def test_parquet_times_become_utc(tmp_path: Path, times: pl.Series, zone: str | None) -> None:
    assert parquet(tmp_path, times, pl.Series([1.0]), zone=zone).bars()[0].opened_at == AT


def test_parquet_times_without_a_zone_are_refused(tmp_path: Path) -> None:
    for times in (pl.Series([AT.replace(tzinfo=None)]), pl.Series([date(2024, 1, 1)])):
        with pytest.raises(BadInput, match="has no zone"):
            parquet(tmp_path, times, pl.Series([1.0]))


def test_parquet_rows_without_a_number_are_refused(tmp_path: Path) -> None:
    for prices in (pl.Series([None], dtype=pl.Float64), pl.Series([float("nan")])):
        with pytest.raises(BadInput, match=r"bars.parquet, row 1: (open|high)"):
            parquet(tmp_path, pl.Series([AT]), prices)


# --- Laws ---------------------------------------------------------------------------------------------------------


@st.composite
def series(draw: st.DrawFn) -> list[Bar]:
    bars: list[Bar] = []
    at = AT
    for _ in range(draw(st.integers(1, 12))):
        prices = sorted(
            exact(p) for p in draw(st.lists(st.decimals("0.000001", "99999", places=6), min_size=4, max_size=4))
        )
        low, a, b, high = prices
        bars.append(Bar("X-USD", at, at + H1.duration, a, high, low, b, exact(draw(st.decimals(0, 10**9, places=3)))))
        at += timedelta(hours=draw(st.integers(1, 60)))
    return bars


@given(bars=series())
def test_bars_written_as_text_are_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, bars: list[Bar]) -> None:
    path = tmp_path_factory.mktemp("files") / "bars.csv"
    lines = [bar_line(bar, H1).removeprefix("X-USD,1h,") for bar in bars]
    path.write_text(HEADER + "".join(lines))
    judged = read_bars(path, "X-USD", H1)
    assert (judged.bars(), judged.refused) == (bars, [])


@given(content=st.binary(max_size=200))
def test_no_content_whatever_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("files") / "bars.csv"
    for given_bytes in (content, b"PAR1" + content, HEADER.encode() + content):
        path.write_bytes(given_bytes)
        with pytest.raises(BadInput):
            read_bars(path, "X-USD", H1, accept_valid=True)
