"""`quantagent data` as a user types it: fetching, holes with reasons, corrections, files out and in."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from engine.core.market import Timeframe
from engine.data.calendars import Span, grid
from tests.support.commands import answer, refusal, run
from tests.support.forks import QUANTAGENT, run_command
from tests.support.paths import ROOT
from tests.support.waiting import wait_until
from ui.cli.data_quality import day_chart

pytestmark = pytest.mark.slow

MONTH = ("--start", "2024-11-25", "--end", "2024-12-25")
HOURS = grid("XNYS", Timeframe.H1, Span(datetime(2024, 11, 25, tzinfo=UTC), datetime(2024, 12, 25, tzinfo=UTC)))


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    ours = {"QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}
    return {name: value for name, value in os.environ.items() if name != "QUANTAGENT_PROVIDER"} | ours


def rewritten(path: Path, change: dict[int, dict[str, str]], without: tuple[int, ...] = ()) -> Path:
    """A copy of an exported file with some rows changed and some left out."""
    with path.open() as file:
        rows = [row | change.get(n, {}) for n, row in enumerate(csv.DictReader(file)) if n not in without]
    copy = path.with_stem(f"{path.stem}-{len(change)}-{len(without)}")
    with copy.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return copy


def test_a_fetch_brings_what_is_missing_and_a_second_one_asks_for_nothing(env: dict[str, str]) -> None:
    (first,) = answer(env, "data", "fetch", "synthetic:SPX", *MONTH)["fetched"]
    assert (first["symbol"], first["synthetic"], first["new"]) == ("SYNTHETIC.SPX", True, HOURS.height)
    assert first["calls"] > 0
    (again,) = answer(env, "data", "fetch", "SPX", "--provider", "synthetic", *MONTH)["fetched"]
    assert (again["calls"], again["new"]) == (0, 0)
    (report,) = answer(env, "data", "check", "SYNTHETIC.SPX")["reports"]
    assert (report["bars"], report["expected"], report["missing"]) == (HOURS.height, HOURS.height, [])
    # Thanksgiving is no day of the picture, the half days are.
    assert "2024-11-28" not in report["days"]
    assert report["days"]["2024-11-29"] == [4, 4]


@pytest.fixture
def tide(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Where the provider that docs/providers.md shows is installed as it says there."""
    page = (ROOT / "docs" / "providers.md").read_text()
    (tmp_path / "tide.py").write_text(page.split("```python\n")[1].split("```")[0])
    about = tmp_path / "tide-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tide\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[quantagent.providers]\ntide = tide:Tide\n")
    return env | {"PYTHONPATH": str(tmp_path)}


def test_made_up_bars_bear_that_in_their_symbol_whoever_makes_them_up(tide: dict[str, str]) -> None:
    for text in ("tide:TIDE", "tide:SYNTHETIC.TIDE"):
        (told,) = answer(tide, "data", "fetch", text, *MONTH)["fetched"]
        assert (told["symbol"], told["synthetic"], told["refused"]) == ("SYNTHETIC.TIDE", True, [])
    (listed,) = answer(tide, "data", "list")["bars"]
    assert (listed["symbol"], listed["bars"]) == ("SYNTHETIC.TIDE", 30 * 24)


@pytest.mark.slow
def test_a_symbol_that_is_not_built_in_is_given_its_calendar_by_a_fetch_and_keeps_it(tide: dict[str, str]) -> None:
    (first,) = answer(tide, "data", "fetch", "tide:TIDE", "--calendar", "XNYS", *MONTH)["fetched"]
    assert first["new"] == HOURS.height
    (again,) = answer(tide, "data", "fetch", "tide:TIDE", *MONTH)["fetched"]
    assert (again["calls"], again["new"]) == (0, 0)
    (report,) = answer(tide, "data", "check", "SYNTHETIC.TIDE")["reports"]
    assert (report["expected"], report["missing"]) == (HOURS.height, [])


@pytest.mark.slow
def test_a_backtest_fetches_first_and_the_same_one_again_calls_nobody(env: dict[str, str]) -> None:
    asked = ("backtest", "--fetch", "synthetic", "--symbols", "SPX", "--timeframe", "1h", *MONTH)
    first, again = answer(env, *asked), answer(env, *asked)
    assert first["book_digest"] == again["book_digest"]
    assert answer(env, "data", "fetch", "synthetic:SPX", *MONTH)["fetched"][0]["calls"] == 0


@pytest.mark.slow
def test_a_hole_is_shown_with_its_reason_and_a_file_comes_back_as_it_went(env: dict[str, str], tmp_path: Path) -> None:
    run(env, "data", "fetch", "synthetic:SPX", *MONTH)
    for name in ("spx.csv", "spx.parquet"):
        run(env, "data", "export", "SYNTHETIC.SPX", tmp_path / name)
        back = answer(env, "data", "import", tmp_path / name, "--symbol", "SYNTHETIC.SPX")
        assert (back["new"], back["known"], back["corrected"]) == (0, HOURS.height, 0)
    holed = rewritten(tmp_path / "spx.csv", {}, without=(7, 8, 9, 30))
    run(env, "data", "import", holed, "--symbol", "OWN", "--calendar", "XNYS")
    missing = answer(env, "data", "gaps", "OWN")["missing"]
    assert [each["bars"] for each in missing] == [3, 1]
    assert {each["why"] for each in missing} == {
        f"{holed.name}, where the bars around it come from, has none; no request to another provider is known"
    }
    shown = run(env, "data", "check", "OWN").stdout
    assert "2024-11 ························" in shown
    assert "▓" in shown


@pytest.mark.slow
def test_what_is_to_come_is_not_missing_and_a_series_without_the_range_is_left_out(env: dict[str, str]) -> None:
    run(env, "data", "sample")
    run(env, "data", "fetch", "synthetic:SPX", *MONTH)
    (report,) = answer(env, "data", "check", "SYNTHETIC.SPX", "--start", "2024-11-25", "--end", "2199-01-01")["reports"]
    assert datetime.fromisoformat(report["last"]) <= datetime.now(UTC)
    (only,) = answer(env, "data", "check", "--start", "2024-01-01")["reports"]
    assert only["symbol"] == "SYNTHETIC.SPX"


@pytest.mark.slow
def test_a_correction_is_a_revision_and_what_was_known_before_can_be_read(env: dict[str, str], tmp_path: Path) -> None:
    run(env, "data", "fetch", "synthetic:SPX", *MONTH)
    run(env, "data", "export", "SYNTHETIC.SPX", tmp_path / "spx.csv")
    changed = rewritten(tmp_path / "spx.csv", {5: {"volume": "7"}})
    assert "Stored bars are never overwritten" in refusal(env, "data", "import", changed, "--symbol", "SYNTHETIC.SPX")
    before = datetime.now(UTC).isoformat()
    told = answer(env, "data", "import", changed, "--symbol", "SYNTHETIC.SPX", "--correct")
    assert (told["new"], told["corrected"]) == (0, 1)
    revisions = answer(env, "data", "revisions")["revisions"]
    assert [(each["revision"], each["source"]) for each in revisions] == [(1, "synthetic"), (2, changed.name)]
    assert revisions[1]["volume"] == "7"
    run(env, "data", "export", "SYNTHETIC.SPX", tmp_path / "then.csv", "--known-at", before)
    run(env, "data", "export", "SYNTHETIC.SPX", tmp_path / "now.csv")
    assert (tmp_path / "then.csv").read_text() == (tmp_path / "spx.csv").read_text()
    assert (tmp_path / "now.csv").read_text() == changed.read_text()


@pytest.mark.slow
def test_a_fetch_that_is_killed_goes_on_where_it_ended(env: dict[str, str], dsn: str) -> None:
    asked = ("data", "fetch", "synthetic:BTC-USD", "--timeframe", "1m", "--start", "2024-01-01", "--end", "2024-07-01")
    killed = subprocess.Popen([str(QUANTAGENT), *asked], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: stored(dsn) > 0 or killed.poll() is not None, "nothing is fetched")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = stored(dsn)
    (went_on,) = answer(env, *asked)["fetched"]
    assert went_on["new"] == 182 * 24 * 60 - kept
    assert stored(dsn) == 182 * 24 * 60


def stored(dsn: str) -> int:
    """How many bars there are, or 0 before the tables are."""
    with psycopg.connect(dsn) as conn:
        try:
            row = conn.execute("SELECT count(*) FROM quantagent.bars").fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
    return row[0] if row else 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fetch", "SPX", "--provider", "nobody"), "provider 'nobody' is unknown; the known ones are folder:PATH"),
        (("fetch", "synthetic:SPX", "--start", "2024-02-01", "--end", "2024-01-01"), "is empty: start before the end"),
        (("fetch", "folder:/nowhere:SPX"), "/nowhere"),
        (("fetch", "synthetic:SPX", "--timeframe", "7m"), "timeframe '7m' is unknown"),
        (("fetch", "synthetic:SPX", "--calendar", "LSE"), "calendar 'LSE' is unknown: use one of 24/7, FX, XNYS"),
        (("gaps", "NONE"), "there are no 1h bars of NONE"),
        (("export", "NONE", "bars.txt"), "neither a .csv nor a .parquet file"),
    ],
)
def test_what_cannot_be_is_one_sentence(env: dict[str, str], arguments: tuple[str, ...], words: str) -> None:
    done = run_any(env, "data", *arguments)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert words in said[0]
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2)


def run_any(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, env)


def test_a_picture_has_a_line_a_month_and_a_character_a_day() -> None:
    day = datetime(2024, 1, 30, tzinfo=UTC).date()
    counts = {
        day: (7, 7),
        day + timedelta(days=1): (6, 7),
        day + timedelta(days=2): (2, 7),
        day + timedelta(days=5): (0, 7),
    }
    assert day_chart(counts) == ["2024-01 " + "·" * 29 + "█▓", "2024-02 ░··×" + "·" * 25]
    assert day_chart({}) == []
