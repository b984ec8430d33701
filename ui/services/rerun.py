"""One stored analysis rerun from its recorded model answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from analysis.analyst import latest_outcome, windows
from analysis.variants import StoredOutcome, Window
from engine import clock
from engine.core.errors import BadInput, NotFound
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.market import Bar, Symbol, Timeframe
from engine.store import Store

if TYPE_CHECKING:
    from analysis.graph.rerun import Rerun
    from ui.app import App


def find_analysis(store: Store, analysis: str) -> StoredOutcome:
    """Return the stored outcome of an analysis, else its last failure. Raise `NotFound` without any."""
    outcome = latest_outcome(store.read(analysis_stream(analysis)))
    if outcome is None:
        raise NotFound(f"analysis {analysis!r} does not exist.", "ANALYSIS_UNKNOWN")
    return outcome


def rerun_analysis(app: App, analysis: str) -> Rerun:
    """Run the graph again on an analysis's window, with every answer from its recording.

    Raise `BadInput` for an analysis that no graph made, and `RecordingMissing` for an unrecorded request: the prompts,
    charts or tools have changed since.
    """
    from analysis.graph.rerun import rerun
    from analysis.graph.run_analysis import AnalysisAuthor, Job
    from analysis.llm.presets import ModelPreset
    from ui.services.analysts import open_resources

    event = find_analysis(app.store, analysis).event
    if isinstance(event, AnalysisFailed):
        raise BadInput(f"analysis {analysis} failed and has no decision to make again.")
    if event.work is None or not event.work.calls:
        raise BadInput(f"analysis {analysis} was made without a model.", "ANALYSIS_WITHOUT_MODEL")
    window, bars = _window_of(app, event)
    calls, work = open_resources(app).calls, event.work
    named = ((work.preset, work.preset_digest), *work.fallbacks)
    try:
        presets = [(name, ModelPreset.model_validate_json(calls.body(digest))) for name, digest in named]
    except ValidationError:
        raise BadInput(
            f"the model preset of analysis {analysis} has an older form: rerun it with the version of "
            "quantagent that made it."
        ) from None
    author = AnalysisAuthor(event.variant, event.agent_version, work.preset, work.preset_digest, work.fallbacks)
    job = Job(event.symbol, Timeframe.parse(event.timeframe), window, bars)
    return rerun(event, presets, author, job, calls, clock.now)


def _window_of(app: App, made: AnalysisMade) -> tuple[Window, Sequence[Bar]]:
    """Return the window and bars that an analysis saw; some may have been corrected since."""
    timeframe = Timeframe.parse(made.timeframe)
    for known_at in _revision_times(app, made.symbol, timeframe):
        bars = app.catalogue.as_known_at(known_at).bars(made.symbol, timeframe, None, made.as_of)
        window = next((each for each in windows(bars, timeframe, made.window_bars) if each.at == made.as_of), None)
        if window is not None and window.digest == made.window_digest:
            return window, bars[window.row + 1 - window.bars : window.row + 1]
    raise BadInput(
        f"the bars of analysis {made.analysis_id} are not in the catalogue: import the same file again before "
        "the rerun."
    )


def _revision_times(app: App, symbol: Symbol, timeframe: Timeframe) -> list[datetime]:
    """Return the times at which bars of a symbol were learned, latest first."""
    imports = (each for each in app.catalogue.imports() if (each.symbol, each.timeframe) == (symbol, timeframe))
    return sorted({each.learned_at for each in imports}, reverse=True)


def recorded_texts(app: App, digests: Iterable[str]) -> dict[str, str]:
    """Return recorded requests and answers by digest."""
    from ui.services.analysts import open_resources

    calls = open_resources(app).calls
    return {digest: calls.body(digest) for digest in digests if digest}
