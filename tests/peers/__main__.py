"""`python -m tests.peers ENGINE < tasks.json > answers.json`: a list of tasks, a list of answers, in order.

An answer is {"fills", "equity", "seconds"} or {"unsupported": sentence}. seconds: CPU time of the first run, then of
as many further ones as `rounds` says.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.peers.tasks import Answer, Engine, Task, Unsupported, task_of


def answer(engine: Engine, task: Task, rounds: int) -> dict[str, Any]:
    try:
        run = engine(task)
        found, first = timed(run)
        seconds = [first, *(timed(run)[1] for _ in range(rounds))]
    except Unsupported as error:
        return {"unsupported": str(error)}
    return {"fills": found.fills, "equity": found.equity, "seconds": seconds}


def timed(run: Callable[[], Answer]) -> tuple[Answer, float]:
    """What a run answers, and its CPU seconds."""
    gc.collect()
    began = time.process_time()
    found = run()
    return found, time.process_time() - began


def main() -> None:
    engine: Engine = import_module(f"tests.peers.engines.{sys.argv[1]}").prepare
    asked = json.load(sys.stdin)
    answers = [answer(engine, task_of(data), asked["rounds"]) for data in asked["tasks"]]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
