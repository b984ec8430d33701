"""One module an engine, each with `prepare(task)`; see `tests.peers.tasks.Engine`. They run in `.venv-peers` only."""

from __future__ import annotations

import pandas as pd

from tests.peers.tasks import Task

# The engines want to know when; only the order of the bars matters to what is compared.
BEGIN = "2024-01-01"


def frames(task: Task) -> list[pd.DataFrame]:
    """The series as frames of floats, on hours one after the other."""
    index = pd.date_range(BEGIN, periods=len(task.series[0]), freq="h")
    columns = ["Open", "High", "Low", "Close", "Volume"]
    return [pd.DataFrame(rows, index=index, columns=columns, dtype=float) for rows in task.series]
