"""Export and import of stored analyses, and deletion of working data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from analysis.analyst import analysis_id, latest_outcome
from analysis.llm.call_log import body_digest
from analysis.reports import Analysis
from analysis.variants import Window
from engine.core.errors import BadInput, VersionConflict
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.market import Symbol, Timeframe
from engine.core.money import ZERO, total
from engine.store import Batch, Cause
from engine.store.codec import decode_event
from ui.services.comparison import all_outcomes

if TYPE_CHECKING:
    from ui.app import App

FORMAT = "quantagent-analyses"


FORMAT_VERSION = 1


class TransferReport(NamedTuple):
    """Counts of analyses and texts written to a file or read from one; `already_stored` counts those that stayed."""

    analyses: int
    texts: int
    already_stored: int = 0


def export_analyses(
    app: App,
    path: Path,
    symbol: Symbol | None = None,
    variant: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> TransferReport:
    """Write stored analyses and the texts of their model calls to a file of JSON lines, for a rerun elsewhere.

    The history of each analysis is complete, with failures. The file is written as a whole or not at all.
    """
    from ui.services.analysts import open_resources

    calls = open_resources(app).calls
    digests: dict[str, None] = {}
    lines = [json.dumps({"format": FORMAT, "version": FORMAT_VERSION})]
    streams = dict.fromkeys(
        analysis_stream(fact.analysis_id)
        for fact in all_outcomes(app.store, symbol, None, start, end)
        if variant in (None, fact.variant, fact.variant.partition("@")[0])
    )
    for stream in streams:
        for row in app.store.read(stream):
            lines.append(json.dumps({"name": row.name, "fact": row.payload.decode()}))
            digests |= dict.fromkeys(_referenced_digests(row.event))
    lines += [json.dumps({"sha256": digest, "text": calls.body(digest)}) for digest in digests]
    partial = path.with_name(f"{path.name}.part")
    partial.write_text("\n".join(lines) + "\n", encoding="ascii")
    partial.replace(path)
    return TransferReport(len(streams), len(digests))


def _referenced_digests(event: object) -> Iterator[str]:
    """Yield the digests of the texts behind an analysis: presets, requests and answers."""
    work = event.work if isinstance(event, AnalysisMade | AnalysisFailed) else None
    if work is None or not work.calls:
        return
    yield from (work.preset_digest, *(digest for _, digest in work.fallbacks))
    yield from (digest for call in work.calls for digest in (call.request, call.response) if digest)


def import_analyses(app: App, path: Path) -> TransferReport:
    """Store the analyses and texts of an exported file. Stored ones stay as they are.

    Every text must match its digest, and every analysis the id of its content. A file with any fault is refused as a
    whole: raise `BadInput` with the line.
    """
    from ui.services.analysts import open_resources

    facts, texts = _read_export(path)
    calls, already_stored = open_resources(app).calls, 0
    for text in texts.values():
        calls.store_body(text)
    for stream, history in facts.items():
        rows = list(app.store.read(stream))
        known = latest_outcome(rows)
        # Stored failures stay before an imported analysis, as after a retry.
        news = [fact for fact in history if not rows or isinstance(fact, AnalysisMade)]
        if not news or (known is not None and isinstance(known.event, AnalysisMade)):
            already_stored += 1
            continue
        try:
            app.store.append([Batch(stream, len(rows), news)], Cause(app.settings.actor))
        except VersionConflict:
            already_stored += 1
    return TransferReport(len(facts) - already_stored, len(texts), already_stored)


def _read_export(path: Path) -> tuple[dict[str, list[AnalysisMade | AnalysisFailed]], dict[str, str]]:
    """Return the events of a file by stream, and its texts by digest, all checked."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not a text file.", "ANALYSES_FILE_INVALID") from None
    facts: dict[str, list[AnalysisMade | AnalysisFailed]] = {}
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        fields = _parse_line(path, number, line)
        if number == 1:
            if (fields.get("format"), fields.get("version")) != (FORMAT, FORMAT_VERSION):
                raise BadInput(f"{path} is not a file of exported analyses.", "ANALYSES_FILE_INVALID")
        elif "text" in fields:
            text = str(fields["text"])
            if not text.isascii() or body_digest(text) != fields.get("sha256"):
                raise BadInput(f"{path}, line {number}: the text does not match its digest. Nothing was stored.")
            texts[body_digest(text)] = text
        else:
            fact = _parse_event(path, number, fields)
            facts.setdefault(analysis_stream(fact.analysis_id), []).append(fact)
    named = (digest for history in facts.values() for fact in history for digest in _referenced_digests(fact))
    missing = {digest for digest in named if digest not in texts}
    if missing:
        raise BadInput(
            f"{path} lacks the text {min(missing)[:16]} behind an analysis: export it again. Nothing was stored."
        )
    return facts, texts


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadInput(f"{path}, line {number}: not a JSON object. Nothing was stored.")
    return cast("dict[str, Any]", value)


def _parse_event(path: Path, number: int, fields: dict[str, Any]) -> AnalysisMade | AnalysisFailed:
    """Return the event of a line; it must be an analysis under the id of its content, spelled as it would be stored."""
    try:
        event = decode_event(str(fields.get("name")), str(fields.get("fact")).encode())
        if not isinstance(event, AnalysisMade | AnalysisFailed):
            raise ValueError("the event is not an analysis")
        window = Window(0, event.as_of, 1, event.window_digest)
        named = analysis_id(event.symbol, Timeframe.parse(event.timeframe), window, event.variant)
        if named != event.analysis_id:
            raise ValueError(f"the analysis is named {event.analysis_id}, and its content belongs to {named}")
        _check_consistency(event)
    except (ValueError, msgspec.MsgspecError, BadInput) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BadInput(f"{path}, line {number}: {reason}. Nothing was stored.") from None
    return event


def _check_consistency(event: AnalysisMade | AnalysisFailed) -> None:
    """Raise `ValueError` for an event that contradicts itself. `rerun_analysis` compares it with its recording."""
    if isinstance(event, AnalysisMade) and event.work is not None and event.work.calls:
        decision = Analysis.model_validate_json(event.reports).decision
        stored = (event.decision.value, event.confidence, event.horizon_bars, event.risk_reward)
        if stored != (decision.decision, decision.confidence, decision.horizon_bars, decision.risk_reward):
            raise ValueError(f"the decision is {event.decision.value} and the report has {decision.decision}")
    if event.work is not None:
        calls = event.work.calls
        sums = (sum(each.input_tokens for each in calls), sum(each.output_tokens for each in calls))
        if (
            sums != (event.work.input_tokens, event.work.output_tokens)
            or total([ZERO, *(each.cost for each in calls)]) != event.work.cost
        ):
            raise ValueError("the tokens or the cost are not the sum of the calls")


def delete_working_data(app: App, before: datetime) -> tuple[int, int]:
    """Delete checkpoints and charts last written before an instant; return the number of threads and bytes of charts.

    The log keeps the analyses and their requests and answers; a chart can be drawn again from its bars.
    """
    from analysis.charting.chart_store import Artefacts
    from analysis.graph.checkpoints import open_checkpoints
    from ui.services.analysts import open_resources

    resources = open_resources(app)

    async def threads() -> int:
        assert resources.checkpoints is not None, "a system has a database"
        async with open_checkpoints(resources.checkpoints) as kept:
            return await kept.delete_before(before)

    assert isinstance(resources.artefacts, Artefacts), "a system has a folder"
    return asyncio.run(threads()), resources.artefacts.delete_before(before)
