"""A small world for agents: bars, a model server on the loopback, and analyses made through the whole client."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from analysis.analyst import AnalysisSet, ensure_analyses, windows
from analysis.charting.chart_store import Artefacts
from analysis.graph.batch import GenerationProgress, Resources
from analysis.graph.run_analysis import Job
from analysis.graph.variant import Agents, NamedPreset
from analysis.llm.call_log import CallLog, MemoryCallLog, PostgresCallLog
from analysis.llm.presets import ModelPreset
from analysis.variants import VariantChain
from engine import clock
from engine.core.events import AnalysisFailed, AnalysisMade, GraphWork
from engine.core.market import Bar, Timeframe
from engine.core.money import exact
from engine.data.memory import MemoryCatalogue
from engine.store import LogEntry, Store
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from tests.support.model_server import ModelServer
from tests.support.workloads import walk

SYMBOL = "AAA"
FRAME = Timeframe.H1
BARS = walk(SYMBOL, 3, 300, 100.0, 0.01)


def preset(server: ModelServer, **fields: Any) -> ModelPreset:
    """A preset that asks this server: sighted, two dollars a million tokens, and patient with a busy machine."""
    defaults: dict[str, Any] = {
        "base_url": server.url,
        "model": "stub",
        "vision": True,
        "price_input": exact(1),
        "price_output": exact(2),
        "retries": 1,
        "timeout_s": 600,
        "patience_s": 1_200,
        "checkpoints": "none",
    }
    return ModelPreset(**{**defaults, **fields})


def _nothing(done: int) -> None:
    del done


class AgentsWorld:
    """One symbol's bars, a log in memory, and what was recorded of all calls."""

    def __init__(
        self,
        server: ModelServer,
        bars: Sequence[Bar] = BARS,
        *,
        store: Store | None = None,
        calls: CallLog | None = None,
        artefacts: Artefacts | None = None,
        checkpoints: str | None = None,
    ) -> None:
        self.server, self.bars = server, list(bars)
        self.store = store or MemoryStore()
        self.calls = calls or MemoryCallLog()
        self.resources = Resources(self.store, "tester", self.calls, clock.now, artefacts, checkpoints)
        self.catalogue = MemoryCatalogue()
        self.catalogue.add(SYMBOL, FRAME, self.bars, source="test", learned_at=self.bars[-1].closed_at)
        self.progress: list[GenerationProgress] = []

    def agents(self, *presets: ModelPreset, name: str = "stub", budget: str | None = None) -> Agents:
        """The agents of a preset, and of those to fall back on."""
        named = [NamedPreset(name if n == 0 else f"{name}-{n}", each) for n, each in enumerate(presets)]
        limit = None if budget is None else exact(budget)
        return Agents(named, self.resources, budget=limit, progress=self.progress.append)

    def analyse(
        self,
        agents: Agents | VariantChain,
        last: int = 1,
        *,
        retry: bool = False,
        on_progress: Callable[[int], None] = _nothing,
    ) -> AnalysisSet:
        """The opinions on the last bars."""
        start = self.bars[-last].opened_at
        return ensure_analyses(
            self.store,
            self.catalogue,
            [SYMBOL],
            FRAME,
            start,
            None,
            actor="tester",
            variant=agents,
            retry=retry,
            progress=on_progress,
        )

    def job(self, row: int = -1) -> Job:
        """The window that ends at a bar."""
        seen = list(windows(self.bars, FRAME, Agents.window_bars))
        window = seen[row]
        return Job(SYMBOL, FRAME, window, self.bars[window.row + 1 - window.bars : window.row + 1])

    def rows(self) -> list[LogEntry]:
        return self.store.read_all(limit=100_000)

    def outcomes(self) -> list[AnalysisMade | AnalysisFailed]:
        return [row.event for row in self.rows() if isinstance(row.event, AnalysisMade | AnalysisFailed)]

    def only_analysis(self) -> AnalysisMade:
        """The only opinion there is."""
        (event,) = self.outcomes()
        assert isinstance(event, AnalysisMade), event.reason
        return event

    def only_failure(self) -> AnalysisFailed:
        """The only failure there is."""
        (event,) = self.outcomes()
        assert isinstance(event, AnalysisFailed), event.decision
        return event


def work_of(event: AnalysisMade | AnalysisFailed) -> GraphWork:
    assert event.work is not None
    return event.work


@contextmanager
def world_in(dsn: str, models: ModelServer, pictures: Artefacts | None = None) -> Generator[AgentsWorld]:
    """A world whose log, calls and checkpoints lie in a database."""
    with PostgresStore(dsn) as store, PostgresCallLog(dsn) as calls:
        yield AgentsWorld(models, store=store, calls=calls, checkpoints=dsn, artefacts=pictures)


def blind(models: ModelServer, **fields: Any) -> ModelPreset:
    return preset(models, **{"vision": False, **fields})
