"""Write docs/code-map.md: every module of the product with the first line of its docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("engine", "analysis", "projections", "ui")


def modules() -> Iterator[Path]:
    """Every module of the product, package by package; `__init__.py` is first in its package."""
    for package in PACKAGES:
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            yield from sorted(folder.glob("*.py"), key=lambda path: (path.name != "__init__.py", path.name))
    yield ROOT / "quantagent.py"


def document() -> str:
    """The page as Markdown, a table for each package."""
    lines = [
        "# Code map",
        "",
        "Every module with the first line of its docstring, written by `make docs`. [architecture.md](architecture.md) "
        "explains how they",
        "work together.",
    ]
    for path in modules():
        name = path.relative_to(ROOT).as_posix()
        summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        summary = " ".join(summary.split())
        if path.name == "__init__.py":
            lines += ["", f"## {path.parent.relative_to(ROOT).as_posix()}/", "", summary, ""]
            lines += ["| module | |", "| --- | --- |"]
        elif path.parent == ROOT:
            lines += ["", f"## {name}", "", summary]
        else:
            lines.append(f"| [{path.stem}](../{name}) | {summary} |")
    return "\n".join(lines) + "\n"
