"""Transcripts in the pages: the commands of a console block with the output shown under each, compared and rewritten.

The lines under a command are the output shown; no line means that none is. They are compared with what the command
printed on stdout, or on stdout and then on stderr, without progress bars. A line `...` stands for any lines, also none.
What differs from run to run by its nature (`VOLATILE`) is replaced on both sides first; everything else is compared
exactly.

`python -m tests.support.documents [PAGE ...]` rewrites the outputs that differ. An output is cut where it was cut: as
many lines before the first `...` and after the last one as the page had, and those between two that are most like the
old ones; a long output without a cut gets one. To show an output for the first time, write a line of anything under its
command, or several and `...`, and rewrite the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher, unified_diff
from typing import NamedTuple

from tests.support.documents import Block

CUT = "..."
WIDTH = 120
"""Columns of the terminal that the outputs are made for."""
MOST_LINES = 24
HEAD_LINES = 12

_DIGITS = r"\d{1,3}(?:,\d{3})*(?:\.\d+)?"

# What differs from run to run; a group is kept. The data of the pages ends in 2024, so that later instants are those of
# the wall clock. Run ids, digests of data and books, positions, counts and amounts are the same in each run.
VOLATILE: dict[str, str] = {
    "instant": r"\b20(?:2[5-9]|[3-9]\d)-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)?)?",
    "compact instant": r"\b20(?:2[5-9]|[3-9]\d)\d{4}T\d{6}Z",
    "log id": r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b",
    "key": r"(^public key +|--public-key |vouched for by )[0-9a-f]{64}\b",
    # A seal holds the server's time, and so does its hash.
    "hash of a seal": r"(^(?:hash|head) +)[0-9a-f]{64}$",
    "model server": r"\b127\.0\.0\.1:\d+\b",
    "duration": rf"\b{_DIGITS} (?:ms|s|seconds?)\b",
    "size": rf"\b{_DIGITS} (?:KiB|MiB|GiB)\b",
    "python": r"(^python +(?:yes +|no +)?)\d+\.\d+\.\d+",
    "postgresql": r"(PostgreSQL )\d+(?:\.\d+)?",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in VOLATILE.items()}
_PROGRESS = re.compile("[━╸╺]")


class Entry(NamedTuple):
    """A command as written, with its `$ ` and its continued lines; the command itself; and the output shown."""

    written: str
    command: str
    shown: list[str]
    line: int


def entries(block: Block) -> Iterator[Entry]:
    """The commands of a console block in order; line: that of the page."""
    if block.language not in ("console", "sh"):
        return
    assert block.text.startswith("$ "), f"line {block.line}: an output of no command"
    for found in re.finditer(r"^(\$ (?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
        line = block.line + block.text.count("\n", 0, found.start())
        command = found[1].removeprefix("$ ").rstrip("\n").replace("\\\n", " ")
        yield Entry(found[1], command, found[2].splitlines(), line)


class CommandOutput(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str = ""


class EntryResult(NamedTuple):
    """How an output differs from the one shown, empty for not at all; and the text to have for command and output."""

    difference: str
    rewritten: str


def run_block(block: Block, page: str, run: Callable[[Entry, str], CommandOutput | None]) -> Iterator[EntryResult]:
    """Run the commands of a block and compare; run: takes a command and its place, returns None if it was not run."""
    for entry in entries(block):
        where = f"{page}:{entry.line}"
        out = run(entry, where)
        if out is None:
            assert not entry.shown, f"{where}: an output is shown, but `{entry.command}` is not run"
            yield EntryResult("", entry.written)
        else:
            shown = updated_output(entry.shown, out)
            diff = difference(entry.shown, shown)
            yield EntryResult(
                f"{where}: $ {entry.command}\n{diff}" if diff else "",
                entry.written + "".join(f"{line}\n" for line in shown),
            )


def normalised(line: str) -> str:
    """Return the line with a name in place of all that is volatile, and two blanks in place of more."""
    for name, pattern in _PATTERNS.items():
        line = pattern.sub(lambda found, name=name: "".join(found.groups("")) + f"<{name}>", line)
    return re.sub(r" {2,}", "  ", line).rstrip()


def lines(text: str) -> list[str]:
    """Return the lines of an output without blanks at their ends, progress bars, and blank lines around them."""
    return "\n".join(line.rstrip() for line in text.splitlines() if not _PROGRESS.search(line)).strip("\n").splitlines()


def matches(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Return whether the lines printed are those shown, in order and without others but at the cuts."""
    pattern = "".join(r"(?:.*\n)*" if line == CUT else re.escape(f"{normalised(line)}\n") for line in shown)
    return re.fullmatch(pattern, "".join(f"{normalised(line)}\n" for line in printed)) is not None


def updated_output(shown: Sequence[str], printed: CommandOutput) -> list[str]:
    """Return the output to show: the same where it holds, else that of the streams it is like, cut as it was cut."""
    outputs = [lines(printed.stdout), [*lines(printed.stdout), *lines(printed.stderr)]]
    if not shown or any(matches(shown, output) for output in outputs):
        return list(shown)
    closest = max(outputs, key=lambda output: (bool(output), _likeness(shown, output)))
    return _cut(shown, closest)


def difference(shown: Sequence[str], instead: Sequence[str]) -> str:
    """Return the lines that are not alike: `-` those shown, `+` those to be shown; empty where there are none."""
    if list(shown) == list(instead):
        return ""
    old, new = [[normalised(line) for line in each] for each in (shown, instead)]
    return "\n".join(list(unified_diff(old, new, n=0, lineterm=""))[2:])


def _cut(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    first, *parts = _parts(shown)
    if not parts:
        return list(printed) if len(printed) <= MOST_LINES else [*printed[:HEAD_LINES], CUT]
    last = parts.pop()
    if len(first) + len(last) >= len(printed):
        return list(printed)
    kept = list(printed[: len(first)])
    begin, end = len(first), len(printed) - len(last)
    for part in parts:
        if starts := range(begin, end - len(part) + 1):
            start = max(starts, key=lambda start: _likeness(part, printed[start : start + len(part)]))
            kept += [CUT, *printed[start : start + len(part)]]
            begin = start + len(part)
    return [*kept, CUT, *printed[end:]]


def _parts(shown: Sequence[str]) -> list[list[str]]:
    """The lines between the cuts, also where there are none: one list more than there are cuts."""
    parts: list[list[str]] = [[]]
    for line in shown:
        if line == CUT:
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


def _likeness(one: Sequence[str], other: Sequence[str]) -> float:
    return SequenceMatcher(None, "\n".join(one), "\n".join(other), autojunk=False).ratio()
