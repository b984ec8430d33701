"""A run executed over stored analyses, to be regenerated."""

from __future__ import annotations

from typing import Any

from engine.audit.regenerate import dataset_digest
from engine.core.events import Environment, RunRequested
from engine.core.market import Timeframe
from engine.data.signals import SignalFile
from engine.runtime import runs
from engine.runtime.session import Analyst
from engine.store.memory import MemoryStore
from tests.support.stored_runs import BARS, CONFIG, PulledPlug

DATASET = dataset_digest(BARS, Timeframe.H1)


def question(environment: Environment = Environment.BACKTEST, variant: str = "rules", **more: Any) -> RunRequested:
    dataset = "paper@20240101T000000Z" if environment is Environment.PAPER else DATASET
    return runs.request(
        environment, more.pop("config", CONFIG), profile="test", dataset_digest=dataset, variant=variant,
        start=BARS[0][0].opened_at, end=BARS[0][-1].closed_at, **more,
    )  # fmt: skip


def perform(store: MemoryStore, asked: RunRequested, analyst: Analyst, until: int | None = None) -> RunRequested:
    """A run of some bars, or of all."""

    def progress(bars: int) -> None:
        if until is not None and bars >= until:
            raise PulledPlug

    try:
        return runs.execute_run(store, asked, BARS, analyst, actor="test", on_progress=progress).request
    except PulledPlug:
        return asked


def no_file(variant: str) -> SignalFile:
    raise AssertionError(f"{variant} is no imported file")
