"""Rules of language for documents, docstrings, help and messages: `python -m tests.support.language [PATH ...]`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

DIALECT = re.compile(
    r"\b(ask|asks|asked|asking|told|tell|tells|telling|hear|hears|heard|say|says|said|saying|judge|judges|judged|judging"
    r"|settle|settles|settled|anew|picture|pictures|hole|holes|person|persons|people|per "
    r"cent|wish|wishes|wished|opinion"
    r"|opinions|beside|besides|nobody|somebody|whoever|everybody|anybody|reckon|reckoned|foretell|foretells|shall"
    r"|(give|gives|gave|given|giving) up|stands? in|stood in|lies? in|lay in|(comes|came|come) of|becomes? of|is there"
    r"|in words|once more|can be meant|hand(s|ed)? over|goes by|go by|no one|may be meant|be it)\b",
    re.IGNORECASE,
)
"""Words and phrases of a private dialect; each has a standard word."""

CLAUSE = re.compile(r"^(what|whether|how|where|who|whose|when|why|which)\b", re.IGNORECASE)
"""Beginnings of a docstring that neither name a thing nor give an instruction."""

COMMAND = re.compile(r"`quantagent [a-z]|(?<![\w-])--[a-z][a-z-]+")
"""A command or a flag of the command line."""

COMMAND_LINES = ("standalone.py", "export.py", "watchdog.py", "server.py", "upgrade.py", "user.py", "binaries.py")
"""Files that hold or start a command line of their own, of a verifier or of PostgreSQL."""

HASHED = ("analysis/graph/answer_schemas.py", "analysis/charting/tools.py")
"""Files whose texts are sent to models: their bytes are part of the names of stored analyses."""

STORED: dict[str, tuple[str, ...]] = {
    "analysis/conformance.py": ("has an opinion", "asked twice", "asked backwards"),
    "analysis/graph/context.py": (": raise the budget, or go on when it begins anew. What was made is kept.",),
    "analysis/graph/model_middleware.py": (
        "it is not in the form that was asked for",
        ". Answer again, in exactly the form that was asked for.",
        "the server asked for patience (429)",
        " agent got no usable answer, asked ",
        "there is no model to ask",
    ),
    "engine/trading/decide.py": ("the position is given up: ",),
    "engine/broker/paper.py": ("its position is given up",),
    "engine/trading/targeting.py": (" is wished instead",),
    "engine/trading/risk.py": ("prices and numbers that can be meant",),
    "analysis/graph/prompts/__init__.py": ("as a picture of its candles",),
    "analysis/graph/response_parsing.py": ("it says nothing", "it says "),
}
"""Texts that events, tables or `--json` hold: a new wording would be a new value."""

PRODUCT = ("engine", "analysis", "projections", "ui", "quantagent.py")


class Finding(NamedTuple):
    """A place and the words found there."""

    path: str
    line: int
    words: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.words}"


def sources(paths: Sequence[str] = PRODUCT) -> Iterator[Path]:
    """Every Python file of the paths, relative to the project."""
    for name in paths:
        path = ROOT / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring and message: string constants with a space, joined where they are adjacent."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def pages() -> list[Path]:
    """The pages of the project."""
    return [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def dialect_in_code(path: Path, source: str | None = None) -> Iterator[Finding]:
    """Dialect in docstrings, messages and comments of a Python file, or of a source in its place."""
    name = path.relative_to(ROOT).as_posix()
    if name in HASHED:
        return
    source = path.read_text(encoding="utf-8") if source is None else source
    for line, text in texts(ast.parse(source)):
        if text in STORED.get(name, ()):
            continue
        # Code, paths and stored names are quoted: they keep their spelling.
        for found in DIALECT.finditer(re.sub(r"`[^`]*`", "``", text)):
            yield Finding(name, line + text.count("\n", 0, found.start()), found[0])
    for number, line in enumerate(source.splitlines(), 1):
        comment = re.match(r"\s*#(?! pyright)(.*)", line)
        if comment is not None:
            for found in DIALECT.finditer(re.sub(r"`[^`]*`", "``", comment[1])):
                yield Finding(name, number, found[0])


def dialect_in_page(path: Path) -> Iterator[Finding]:
    """Dialect in the prose of a Markdown page; fenced blocks and quoted code are not prose."""
    text = re.sub(
        r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), path.read_text("utf-8"), flags=re.M | re.S
    )
    for number, line in enumerate(text.splitlines(), 1):
        for found in DIALECT.finditer(re.sub(r"`[^`]*`|--[a-z][a-z-]*", "``", line)):
            yield Finding(path.relative_to(ROOT).as_posix(), number, found[0])


def clauses(path: Path) -> Iterator[Finding]:
    """Public docstrings of a file that begin with what, whether, how, where or who."""
    if path.relative_to(ROOT).as_posix() in HASHED:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if CLAUSE.match(text) and not getattr(node, "name", "").startswith("_"):
                yield Finding(path.relative_to(ROOT).as_posix(), getattr(node, "lineno", 1), text.split("\n")[0])


def commands_below_ui(path: Path) -> Iterator[Finding]:
    """Commands and flags in messages of a module below `ui`; a remedy belongs to `ui.cli.remedies`."""
    if path.name in COMMAND_LINES:
        return
    for line, text in texts(ast.parse(path.read_text(encoding="utf-8"))):
        for found in COMMAND.finditer(text):
            yield Finding(path.relative_to(ROOT).as_posix(), line, found[0])


def main(paths: Sequence[str]) -> int:
    """Print every finding of the paths, all of the product by default; return 1 if there is any."""
    found = 0
    chosen = [] if paths else pages()
    for path in sources(paths or PRODUCT):
        if path.suffix == ".md":
            chosen.append(path)
            continue
        rows = [*dialect_in_code(path), *clauses(path)]
        if path.relative_to(ROOT).parts[0] in ("engine", "analysis", "projections"):
            rows += commands_below_ui(path)
        for row in rows:
            print(row)
        found += len(rows)
    for page in chosen:
        for row in dialect_in_page(page):
            print(row)
            found += 1
    print(f"{found} findings", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
