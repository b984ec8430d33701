"""The project's pages as data: their commands, code and links; and what is made by program in them (`make docs`).

`python -m tests.support.documents [PAGE ...]` writes the generated pages (of docs/audit.md, only what stands between
two marks is generated), then runs the commands of the pages, all unless some are named, and rewrites the outputs shown
under them that differ from what was printed (`tests.support.transcripts`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from projections import tables
from tests.support import code_map, event_pages, fill_pages, tamperings
from tests.support.paths import ROOT

REWRITE = "REWRITE_PAGES"
"""The environment variable that makes the test of a page's commands rewrite the outputs that differ."""
_TEST = "tests/cli/test_documents.py::test_what_a_page_tells_to_type_works_and_prints_what_it_shows"

GENERATED: dict[str, Callable[[], str]] = {
    "docs/audit.md": tamperings.document,
    "docs/code-map.md": code_map.document,
    "docs/events.md": event_pages.document,
    "docs/fills.md": fill_pages.document,
    "docs/read-models.md": tables.read_models_page,
}


def pages() -> list[str]:
    """README.md and everything in docs/."""
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md")))]


class Block(NamedTuple):
    """A fenced block: its language, the line its text begins at, the text; and the page's line before the fence."""

    language: str
    line: int
    text: str
    before: str


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        above = text[: found.start()].rstrip().splitlines()
        yield Block(found[1], text.count("\n", 0, found.start()) + 2, found[2], above[-1] if above else "")


def commands(block: Block) -> Iterator[str]:
    """What follows `$ ` in a console block; a line that ends with a backslash goes on in the next one."""
    if block.language not in ("console", "sh"):
        return
    for found in re.finditer(r"^\$ ((?:.*\\\n)*.*)$", block.text, re.MULTILINE):
        yield found[1].replace("\\\n", " ")


def with_blocks(text: str, changed: Mapping[Block, str]) -> str:
    """The page with other texts in some of its blocks."""
    lines = text.splitlines(keepends=True)
    for block in sorted(changed, key=lambda block: -block.line):
        begin = block.line - 1
        lines[begin : begin + len(block.text.splitlines())] = [changed[block]]
    return "".join(lines)


def links(text: str) -> Iterator[str]:
    """The files that a page's relative links name, without their anchors."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(<?([^)>\s]+)>?\)", prose):
        path = target.split("#")[0]
        if path and not re.match(r"[a-z]+:", path):
            yield path


def main(chosen: Sequence[str]) -> int:
    """Write the generated pages and the outputs of the chosen pages, all by default; return an exit code."""
    if unknown := set(chosen) - set(pages()):
        print(f"{', '.join(sorted(unknown))}: no such page; name them like docs/audit.md.", file=sys.stderr)
        return 2
    for page in chosen or GENERATED:
        if page in GENERATED:
            (ROOT / page).write_text(GENERATED[page](), encoding="utf-8")
            print(page)
    # The test has the server, the database and the folder that the commands need: it writes where it would compare.
    tests = [f"{_TEST}[{page}]" for page in chosen or pages()]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *tests],
        cwd=ROOT,
        env=os.environ | {REWRITE: "1"},
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
