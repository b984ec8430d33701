"""The project's pages as data: their commands, code and links; and the pages that are generated (`make docs`).

Of docs/audit.md, only what stands between two marks is generated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from projections import tables
from tests import event_pages, fill_pages, tamperings

ROOT = Path(__file__).parent.parent

GENERATED: dict[str, Callable[[], str]] = {
    "docs/audit.md": tamperings.document,
    "docs/events.md": event_pages.document,
    "docs/fills.md": fill_pages.document,
    "docs/read-models.md": tables.document,
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


def links(text: str) -> Iterator[str]:
    """The files that a page's relative links name, without their anchors."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(<?([^)>\s]+)>?\)", prose):
        path = target.split("#")[0]
        if path and not re.match(r"[a-z]+:", path):
            yield path


def main() -> None:
    """Writes the generated pages anew."""
    for page, document in GENERATED.items():
        (ROOT / page).write_text(document(), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
