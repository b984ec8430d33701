"""What holds for every command: interrupts, closed pipes, help, completion, homes and ports that cannot be used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.commands import answer, refusal, run, write_bars
from tests.support.forks import QUANTAGENT, run_command
from ui.cli import INTERRUPTED

# Sends the process an interrupt when a module is looked for, as Ctrl-C would at that instant.
INTERRUPTING = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
        return None
sys.argv = {arguments!r}
from ui.cli import main
sys.meta_path.insert(0, Interrupts())
main()
"""


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}


@pytest.mark.parametrize(
    "module",
    ["ui.cli.commands", "typer", "ui.cli.runs", "ui.app", "psycopg", "analysis.analyst", "engine.runtime.runs"],
)
def test_an_interrupt_is_one_sentence_whatever_is_being_loaded(env: dict[str, str], module: str) -> None:
    arguments = ["quantagent", "backtest", "--symbols", "AAA"]
    code = INTERRUPTING.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, f"{INTERRUPTED}\n", "")


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_a_reader_who_has_read_enough_ends_a_command_quietly(
    env: dict[str, str], tmp_path: Path, form: tuple[str, ...]
) -> None:
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "AAA")
    run(env, "backtest", "--symbols", "AAA", "--variant", "always_long")
    command = [str(QUANTAGENT), "orders", "list", "--run", answer(env, "runs", "list")["runs"][0]["run_id"], *form]
    reading, writing = os.pipe()
    os.close(reading)
    # Nobody reads: the first line that is written finds the pipe closed.
    with os.fdopen(writing, "w") as out:
        done = subprocess.run(command, env=env, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_has_a_short_name_everywhere(env: dict[str, str]) -> None:
    for command in ((), ("trades",), ("trades", "list"), ("backtest",)):
        assert run(env, *command, "-h").stdout == run(env, *command, "--help").stdout


def test_shells_can_complete(env: dict[str, str]) -> None:
    asked = {**env, "_QUANTAGENT_COMPLETE": "complete_bash", "COMP_WORDS": "quantagent tra", "COMP_CWORD": "1"}
    done = subprocess.run([str(QUANTAGENT)], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["trades"]


@pytest.mark.parametrize("inside", ["", "sub", "sub/sub"])
def test_a_home_that_is_a_file_is_named(env: dict[str, str], tmp_path: Path, inside: str) -> None:
    file = tmp_path / "afile"
    file.touch()
    home = file / inside
    del env["QUANTAGENT_DSN"]
    said = refusal({**env, "QUANTAGENT_HOME": str(home)}, "runs", "list", code=1)
    assert str(home) in said
    assert "is a file" in said
    assert "QUANTAGENT_HOME" in said


def test_beside_a_server_of_ones_own_a_home_is_no_file_either(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "afile"
    file.touch()
    assert f"{file} is a file" in refusal({**env, "QUANTAGENT_HOME": str(file)}, "runs", "list", code=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_named(env: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "locked"
    home.mkdir(mode=0o500)
    del env["QUANTAGENT_DSN"]
    assert "cannot be written" in refusal({**env, "QUANTAGENT_HOME": str(home)}, "runs", "list", code=1)


def test_a_port_in_use_is_refused_before_a_page_is_promised(env: dict[str, str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = refusal(env, "dashboard", "--port", port, code=1)
    assert f"port {port} of 127.0.0.1 is in use" in said
    assert "--port" in said


def test_an_address_that_is_not_ours_is_refused(env: dict[str, str]) -> None:
    assert "192.0.2.1" in refusal(env, "dashboard", "--address", "192.0.2.1", code=1)


@pytest.mark.parametrize(
    ("document", "meant"),
    [
        ('{"cahs": 1}', "cash"),
        ('{"limits": {"position_pc": 5}}', "position_pct"),
        ('{"overrides": {"AAA": {"sizing": {"base_pctt": 5}}}}', "base_pct"),
    ],
)
def test_a_misspelt_field_of_a_profile_names_the_one_that_was_meant(
    env: dict[str, str], tmp_path: Path, document: str, meant: str
) -> None:
    (tmp_path / "mine.json").write_text(document)
    assert f"did you mean {meant}?" in refusal(env, "profile", "save", "mine", "--file", tmp_path / "mine.json")


def test_a_misspelt_symbol_names_the_one_that_was_meant(env: dict[str, str], tmp_path: Path) -> None:
    run(env, "data", "import", write_bars(tmp_path / "a.csv"), "--symbol", "BTC-USD")
    assert "did you mean BTC-USD?" in refusal(env, "backtest", "--symbols", "btcusd")
    assert answer(env, "backtest", "--symbols", "btc-usd")["symbols"] == ["BTC-USD"]


def test_bars_made_of_smaller_ones_say_so(env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    folder.mkdir()
    write_bars(folder / "AAA_1h.csv", count=48)
    command = ("data", "fetch", "AAA", "--timeframe", "4h", "--start", "2024-01-01", "--end", "2024-01-02")
    provider = ("--provider", f"folder:{folder}", "--calendar", "24/7")
    assert ", made from 1h bars." in run(env, *command, *provider).stderr
    (fetched,) = answer(env, *command, *provider)["fetched"]
    assert fetched["made_of"] is None


def test_a_fetch_for_a_backtest_brings_the_bars_before_its_range_that_analyses_look_at(env: dict[str, str]) -> None:
    made = answer(
        env, "backtest", "--symbols", "SPX", "--fetch", "synthetic", "--start", "2024-11-25", "--end", "2024-12-02"
    )
    (analysis, *_) = answer(env, "analyses", "list", "--limit", "100000")["analyses"][::-1]
    shown = json.loads(run_command(["analyses", "show", analysis["analysis_id"], "--json"], env).stdout)
    assert made["bars"] < 40
    assert shown["window_bars"] == 500
