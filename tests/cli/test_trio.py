"""Bitcoin, the S&P 500 and oil, every hour, as they really came: each on its own calendar, with all their faults.

With `QUANTAGENT_REFERENCE_DATA` naming a folder that holds `data/`; the files are nobody's to pass on.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.core.market import Timeframe, instrument_for
from engine.data.calendars import Span, bar_at, sessions
from tests.support.commands import answer

H1 = Timeframe.H1
PAIRS = {"BTC-USD": "BTC_1h.csv", "SPX": "SPX_1h.csv", "CL": "CL_1h.csv", "ES": "ES_1h.csv", "NQ": "NQ_1h.csv"}
HOLES = {
    "BTC-USD": [],
    "CL": [("2024-11-20 20:00", 11), ("2025-01-20 16:00", 10), ("2025-01-21 06:00", 1), ("2025-02-17 05:00", 6)],
    "ES": [("2025-01-13 08:00", 10), ("2025-01-20 03:00", 21), ("2025-01-28 17:00", 3), ("2025-02-11 18:00", 74)],
    "NQ": [("2025-01-13 08:00", 10), ("2025-01-20 03:00", 21), ("2025-01-28 17:00", 3), ("2025-02-11 18:00", 74)],
    "SPX": [("2025-01-27 17:30", 203)],
}
"""The opens of the first missing bars, and how many are missing in a row of trading hours."""


@pytest.fixture
def folder() -> Path:
    given = os.environ.get("QUANTAGENT_REFERENCE_DATA")
    folder = Path(given or "") / "data" / "trio_1h_2024_25"
    if not given or not folder.is_dir():
        pytest.skip("QUANTAGENT_REFERENCE_DATA names no folder with data/: BTC, SPX and CL are not traded")
    return folder


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}


def taken(env: dict[str, str], folder: Path, *symbols: str) -> dict[str, dict[str, Any]]:
    names = {symbol: folder / PAIRS[symbol] for symbol in symbols}
    return {s: answer(env, "data", "import", path, "--symbol", s, "--accept-valid") for s, path in names.items()}


@pytest.mark.slow(9)
def test_every_known_hole_is_found_and_each_says_why(env: dict[str, str], folder: Path) -> None:
    came = taken(env, folder, *PAIRS)
    assert {symbol: each["new"] for symbol, each in came.items()} == {
        "BTC-USD": 2_888, "CL": 1_901, "ES": 1_808, "NQ": 1_808, "SPX": 265
    }  # fmt: skip
    reports = {each["symbol"]: each for each in answer(env, "data", "check")["reports"]}
    for symbol, report in reports.items():
        found = [(each["from"][:16].replace("T", " "), each["bars"]) for each in report["missing"]]
        assert found == HOLES[symbol], symbol
        assert all(PAIRS[symbol] in each["why"] for each in report["missing"])
    assert {symbol for symbol, each in came.items() if each["refused"]} == {"CL"}
    assert Counter(row["line"][:10] for row in came["CL"]["refused"]) == {"2024-11-29": 4, "2024-12-24": 4}
    assert all("no 1h bar opens at" in row["reason"] for row in came["CL"]["refused"])
    off_tick = [each for each in reports["CL"]["flags"] if "off the tick of 0.01" in each["reason"]]
    assert len(off_tick) == 102


@pytest.mark.slow
def test_the_trio_is_traded_with_each_symbol_in_its_own_hours(env: dict[str, str], folder: Path, dsn: str) -> None:
    taken(env, folder, "BTC-USD", "SPX", "CL")
    answer(env, "data", "check")
    stretch = ("--start", "2024-12-10", "--end", "2025-01-25")
    told = answer(env, "backtest", "--symbols", "BTC-USD,SPX,CL", "--timeframe", "1h", *stretch)
    assert told["orders"] > 0
    with psycopg.connect(dsn) as conn:
        analysed = conn.execute("SELECT symbol, at FROM read_models.analyses").fetchall()
        filled = conn.execute("SELECT symbol, bar_opened_at FROM read_models.fills").fetchall()
    assert {symbol for symbol, _ in analysed} == {"BTC-USD", "SPX", "CL"}
    for symbol, at in analysed:
        assert in_session(symbol, at.astimezone(UTC)), (symbol, at)
    for symbol, at in filled:
        assert bar_at(instrument_for(symbol).calendar, H1, at.astimezone(UTC)) is not None


def in_session(symbol: str, at: datetime) -> bool:
    """Whether an instant is the close of some bar of a session: inside one, or its very end."""
    around = sessions(instrument_for(symbol).calendar, Span(at - H1.duration, at))
    return any(session.opened_at < at <= session.closed_at for session in around)
