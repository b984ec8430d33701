"""`make bench-peers`: the same orders in other engines, in CPU seconds. Writes their table of docs/benchmarks.md.

Every engine is given what it likes to be given (frames, arrays, lists) before the clock runs; fills are listed before
it stops. Importing is not counted. A figure is only written if equity and the number of fills are ours.
"""

from __future__ import annotations

import os
import platform
import statistics
import textwrap
from datetime import UTC, datetime
from typing import NamedTuple

from tests.peers import workloads
from tests.peers.__main__ import timed
from tests.peers.differences import ENGINES
from tests.peers.tasks import Answer
from tests.peers.workloads import Workload
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
MARK = "<!-- peers -->"
ROUNDS = 3


class Measured(NamedTuple):
    """CPU seconds of the first run in a process, and the median of the next ones; None where it cannot be run."""

    first: float
    warm: float


def ours(workload: Workload) -> tuple[Answer, Measured]:
    run = workloads.prepare(workload)
    answer, first = timed(run)
    return answer, Measured(first, statistics.median(timed(run)[1] for _ in range(ROUNDS)))


def theirs(engine: str, asked: list[Workload], answers: list[Answer]) -> list[Measured | None]:
    found = workloads.ask(engine, [workloads.task(workload) for workload in asked], ROUNDS)
    measured: list[Measured | None] = []
    for theirs, ours in zip(found, answers, strict=True):
        if "unsupported" in theirs:
            measured.append(None)
            continue
        assert len(theirs["fills"]) == len(ours.fills), engine
        assert abs(theirs["equity"] / ours.equity - 1) < 1e-9, engine
        first, *rest = theirs["seconds"]
        measured.append(Measured(first, statistics.median(rest)))
    return measured


def table(own: list[Measured], others: dict[str, list[Measured | None]]) -> str:
    lines = ["| engine | 5,000 bars | 3 x 8,760 bars | 100,000 bars |", "| --- | ---: | ---: | ---: |"]
    lines.append(f"| quantagent | {' | '.join(f'{figure.warm:.3f} s' for figure in own)} |")
    for engine, figures in others.items():
        lines.append(f"| {engine} | {' | '.join(map(cell, figures, own))} |")
    cold = others["vectorbt"][0]
    assert cold is not None
    lines.append("")
    said = (
        f"CPU seconds, median of {ROUNDS} runs after one that is not counted; in brackets, how many times our time. "
        f"vectorbt's first run in its process took {cold.first:.1f} s: numba compiles what it does not find compiled "
        f"on the disk. Python {platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}."
    )
    lines += textwrap.wrap(said, 120)
    return "\n".join(lines)


def cell(figure: Measured | None, own: Measured) -> str:
    return "-" if figure is None else f"{figure.warm:.3f} s ({figure.warm / own.warm:.2g} x)"


def main() -> None:
    asked = [workloads.quiet_walk(5_000), workloads.three_symbols(), workloads.quiet_walk(100_000)]
    answers, own = zip(*map(ours, asked), strict=True)
    print("quantagent", *(f"{figure.warm:.3f} s" for figure in own), sep="  ", flush=True)
    others: dict[str, list[Measured | None]] = {}
    for engine in ENGINES:
        others[engine] = theirs(engine, asked, list(answers))
        print(engine, *map(cell, others[engine], own), sep="  ", flush=True)
    before, _, rest = PAGE.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n{table(list(own), others)}\n{MARK}{after}")
    print(f"The engines' table in {PAGE.name} is new.")


if __name__ == "__main__":
    main()
