"""The pages tell the truth: what they tell a reader to type is typed here.

- In a ```console block, lines that begin with `$ ` are commands, run in the order of the page, against one fresh
  database and in one empty folder per page; the lines under a command are what it prints (`tests.support.transcripts`
  says how they are compared). `python -m tests.support.documents [PAGE ...]` rewrites those that differ.
- `$MODEL_SERVER` is the address of a stub of a model server.
- Commands that begin with one of `SHOWN_ONLY` are not run; the make targets and files they name must exist.
- A command with a placeholder (`PLACEHOLDERS`, a whole word) is not run; the command's `--help` is. Where an output is
  shown, its only placeholders are `RUN`, which stand for the page's runs, the newest first.
- A block after a line `<!-- file: NAME -->` is saved under that name first.
- A ```python block after a line `<!-- run -->` is executed; the blocks of a page share their names.
- Generated pages equal what their generator prints; relative links lead to files.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.core.config import RiskLimits
from engine.trading.risk import RULES
from tests.support import code_map
from tests.support.documents import GENERATED, REWRITE, Block, blocks, commands, links, pages, with_blocks
from tests.support.forks import run_command
from tests.support.model_answers import lean_decision
from tests.support.model_server import ModelServer
from tests.support.paths import ROOT
from tests.support.transcripts import WIDTH, CommandOutput, Entry, run_block
from ui.app import open_app
from ui.settings import Settings

SHOWN_ONLY = ("make", "docker", "git", "cd", "sudo", "apt", "apt-get", "brew", "export", "quantagent dashboard")
PLACEHOLDERS = {"DSN", "FILE", "ID", "NAME", "ORDER", "PROFILE", "RUN", "SIGNAL", "SYMBOL", "TRADE"}

# The server that the tests use does not flush to disk, and the doctor rightly says so; two runs compared may differ.
MAY_SAY_NO = ("quantagent doctor", "quantagent audit diff")


@pytest.fixture
def model_server() -> Iterator[str]:
    """The address of a model server, for the pages that ask one."""
    with ModelServer(edit_answer=lean_decision) as server:
        yield server.url


@pytest.fixture
def reader(dsn: str, model_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of somebody who reads a page: a home of their own, the project's commands on the path."""
    for name in [name for name in os.environ if name.startswith("QUANTAGENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("QUANTAGENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUANTAGENT_DSN", dsn)
    monkeypatch.setenv("MODEL_SERVER", model_server)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("QUANTAGENT_ACTOR", "anna")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_about(command: str, beginnings: tuple[str, ...]) -> bool:
    words = [word for word in command.split() if not re.match(r"[A-Z_]+=", word)]
    return any(words[: len(beginning.split())] == beginning.split() for beginning in beginnings)


@pytest.mark.slow(80)
@pytest.mark.parametrize("page", pages())
def test_what_a_page_tells_to_type_works_and_prints_what_it_shows(page: str, reader: Path) -> None:
    names: dict[str, Any] = {"__name__": page}
    text = (ROOT / page).read_text(encoding="utf-8")
    differences: list[str] = []
    changed: dict[Block, str] = {}
    for block in blocks(text):
        if saved := re.fullmatch(r"<!-- file: (\S+) -->", block.before):
            (reader / saved[1]).write_text(block.text)
        outputs = [*run_block(block, page, partial(printed, folder=reader))]
        if found := [each.difference for each in outputs if each.difference]:
            differences += found
            changed[block] = "".join(each.rewritten for each in outputs)
        if block.language == "python" and block.before == "<!-- run -->":
            # Blank lines in front, so that an error names the line of the page.
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
    assert not without_a_trade(os.environ["QUANTAGENT_DSN"]), page
    if REWRITE in os.environ:
        (ROOT / page).write_text(with_blocks(text, changed), encoding="utf-8")
    else:
        assert not differences, "\n".join(
            [*differences, f"`python -m tests.support.documents {page}` rewrites these outputs"]
        )


def without_a_trade(dsn: str) -> list[str]:
    """The runs that a page's examples made and that show nothing, because nothing was traded in them."""
    with open_app(Settings(None, dsn, "reader")) as app, app.queries() as queries:
        return [f"{run['run_id'][:8]} {run['variant']} {run['profile']}" for run in queries.runs() if not run["fills"]]


def printed(entry: Entry, where: str, folder: Path) -> CommandOutput | None:
    """What the command prints; None where it is not run."""
    # What `make demo` runs once everything is installed.
    command = "quantagent demo" if entry.command == "make demo" else entry.command
    if is_about(command, SHOWN_ONLY):
        return None
    if entry.shown:
        for run_id in newest_runs(command.split().count("RUN")):
            command = re.sub(r"\bRUN\b", run_id[:8], command, count=1)
    is_help = bool(PLACEHOLDERS & set(shlex.split(command)))
    done = typed(shlex.join([*verbs(command), "--help"]) if is_help else command, folder)
    accepted = (0, 3) if is_about(command, MAY_SAY_NO) else (0,)
    assert done.returncode in accepted, f"{where}: $ {command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    # The folder is the reader's home.
    return None if is_help else CommandOutput(*(text.replace(str(folder), "~") for text in (done.stdout, done.stderr)))


def newest_runs(count: int) -> list[str]:
    if not count:
        return []
    with open_app(Settings(None, os.environ["QUANTAGENT_DSN"], "reader")) as app, app.queries() as queries:
        return [run["run_id"] for run in queries.runs(limit=count)]


def typed(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Where a shell would do no more than part the words and look up variables, nothing is lost without one."""
    if command.startswith("quantagent ") and not set("|&;<>()`\\'*?[#~") & set(command):
        return run_command(shlex.split(os.path.expandvars(command))[1:], os.environ, folder)
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def verbs(command: str) -> list[str]:
    """`quantagent data import` of `quantagent data import FILE --symbol S`."""
    words = shlex.split(command)
    first_argument = next(i for i, word in enumerate(words) if word in PLACEHOLDERS or word.startswith("-"))
    return words[:first_argument]


@pytest.mark.parametrize("page", pages())
def test_what_a_page_only_shows_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / page).read_text()
    for command in (command for block in blocks(text) for command in commands(block)):
        words = shlex.split(command)
        if is_about(command, ("make",)):
            named = [word for word in words[words.index("make") + 1 :] if "=" not in word and word[0] != "-"]
            assert set(named) <= targets, f"{page}: {command}"
        if is_about(command, ("docker",)) and "-f" in words:
            assert (ROOT / words[words.index("-f") + 1]).is_file(), f"{page}: {command}"
    mentioned = set(re.findall(r"`make ([a-z-]+)`", text))
    assert mentioned <= targets


@pytest.mark.parametrize("page", [*pages(), "docker/README.md"])
def test_every_relative_link_leads_to_a_file(page: str) -> None:
    folder = (ROOT / page).parent
    assert [link for link in links((ROOT / page).read_text()) if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", list(GENERATED))
def test_a_generated_page_is_what_its_generator_prints(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == GENERATED[page](), "run `make docs`"


def test_blocks_commands_and_links_are_found_as_written() -> None:
    page = (
        "See [data](data.md#times), [site](https://example.org) and `[no](link)`.\n\n"
        "```console\n$ one --a \\\n    --b\noutput\n$ two\n```\n\n<!-- run -->\n```python\nx = 1\n```\n"
    )
    console, python = blocks(page)
    assert [" ".join(command.split()) for command in commands(console)] == ["one --a --b", "two"]
    assert (python.language, python.line, python.text, python.before) == ("python", 12, "x = 1\n", "<!-- run -->")
    assert list(commands(python)) == []
    assert list(links(page)) == ["data.md"]


def test_the_page_of_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    packages = {path.parent.relative_to(ROOT).as_posix() for path in code_map.modules() if path.name == "__init__.py"}
    assert {name for name in packages if f"`{name}/`" not in text} == set()


def test_the_page_names_every_rule_of_the_gate_and_no_other() -> None:
    text = (ROOT / "docs/trading.md").read_text().split("## Risk checks")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \|(.*)\|$", text, re.MULTILINE)
    assert [rule for rule, _ in rows] == list(RULES)
    fields = {field for _, limit in rows for field in re.findall(r"`(\w+)`", limit)}
    assert fields - {"trading_hours"} <= set(RiskLimits.__struct_fields__)
