"""Mutation testing of the modules that money depends on: `make mutants` changes them in every small way that mutmut
knows, and runs the unit tests against each change.

Fails where less than 95 % of a module's mutants are killed, and where one survives that `tests/support/mutants.md`
does not list with its reason, or is listed and does not survive. Works on a temporary copy: the checkout stays as it
is.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

PAGE = ROOT / "tests/support/mutants.md"
MODULES = ("trading/proposal", "trading/risk", "trading/sizing", "trading/fills", "trading/exits", "core/money")
SCORE_PCT_MIN = 95
WORKERS = 2
DECORATED = ("property", "cached_property")
KILLED = {1, 3, 24, 36, 152, 255, -24, -9, -11}
"""How the tests of a killed mutant end: a failure, an internal error of pytest, or no end in time."""


class Survivor(NamedTuple):
    """A change that no test sees: the function, the line as it is, and as the mutant has it."""

    where: str
    line: str
    mutant: str


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy = Path(folder)
        for name in ("engine", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for module in MODULES:
            undecorate(copy / f"engine/{module}.py")
        subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", str(WORKERS)], cwd=copy, check=True)
        counts, survivors = results(copy)
    return judge(counts, survivors)


def undecorate(path: Path) -> None:
    """Makes `@property def p` into `def p` and `p = property(p)`, as mutmut leaves decorated functions alone."""
    lines = path.read_text().splitlines()
    for kind in ast.walk(ast.parse(path.read_text())):
        for function in reversed(kind.body) if isinstance(kind, ast.ClassDef) else ():
            if isinstance(function, ast.FunctionDef) and len(function.decorator_list) == 1:
                decorator = ast.unparse(function.decorator_list[0])
                if decorator in DECORATED and function.end_lineno is not None:
                    indent = " " * function.col_offset
                    lines.insert(function.end_lineno, f"{indent}{function.name} = {decorator}({function.name})")
                    del lines[function.decorator_list[0].lineno - 1]
    path.write_text("\n".join(lines) + "\n")


def results(copy: Path) -> tuple[Counter[tuple[str, bool]], list[Survivor]]:
    """How many mutants of each module were killed and how many were not, and what the latter are."""
    counts: Counter[tuple[str, bool]] = Counter()
    survivors: list[Survivor] = []
    for module in MODULES:
        ended: dict[str, int] = json.loads((copy / f"mutants/engine/{module}.py.meta").read_text())["exit_code_by_key"]
        for name, code in ended.items():
            counts[module, code in KILLED] += 1
            if code not in KILLED:
                survivors.append(survivor_of(copy, name))
    return counts, survivors


def survivor_of(copy: Path, name: str) -> Survivor:
    """What a mutant changed, from the difference that mutmut shows."""
    shown = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name], cwd=copy, check=True, capture_output=True, text=True
    ).stdout
    before = " ".join(line[1:].strip() for line in shown.splitlines() if re.match(r"-(?!--)", line))
    after = " ".join(line[1:].strip() for line in shown.splitlines() if re.match(r"\+(?!\+\+)", line))
    where = re.sub(r"__mutmut_\d+$", "", name).replace(".x_", ".").replace("xǁ", "").replace("ǁ", ".")
    return Survivor(where, before, after)


def listed() -> Iterator[Survivor]:
    """The survivors on the page: a heading names the function; a line, its mutant and the reason are a row below."""
    where = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("### "):
            where = line.removeprefix("### ").strip("`")
        row = re.fullmatch(r"\| `` (.*) `` \| `` (.*) `` \| (.+) \|", line)
        if row is not None:
            yield Survivor(where, row[1], row[2])


def judge(counts: Counter[tuple[str, bool]], survivors: list[Survivor]) -> int:
    """Prints the scores and what differs from the page; 0 when all is as it should be."""
    failed = False
    print("module    mutants  killed  score")
    for module in MODULES:
        killed, alive = counts[module, True], counts[module, False]
        score = 100 * killed / (killed + alive)
        failed |= score < SCORE_PCT_MIN
        print(f"{module:8} {killed + alive:8} {killed:7}  {score:5.1f} %")
    known, found = Counter(listed()), Counter(survivors)
    for survivor in sorted((found - known).elements()):
        print(f"survives, and is not in {PAGE.name}: {survivor.where}\n  - {survivor.line}\n  + {survivor.mutant}")
    for survivor in sorted((known - found).elements()):
        print(f"is in {PAGE.name}, and does not survive: {survivor.where}\n  - {survivor.line}\n  + {survivor.mutant}")
    return 1 if failed or known != found else 0


if __name__ == "__main__":
    sys.exit(main())
