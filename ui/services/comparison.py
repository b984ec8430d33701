"""Stored analyses looked at: two variants over the same bars, one analysis run again, files of them out and in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
from pydantic import ValidationError

from analysis.analyst import analysis_id, latest_outcome, windows
from analysis.llm.call_log import body_digest
from analysis.reports import Analysis
from analysis.variants import StoredOutcome, Window
from engine import clock
from engine.core.errors import BadInput, NotFound, VersionConflict
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.market import Bar, Direction, Symbol, Timeframe
from engine.core.money import ZERO, add, total
from engine.core.upcasters import event_names
from engine.store import Batch, Cause, Store, read_from
from engine.store.codec import decode_event

if TYPE_CHECKING:
    from analysis.graph.rerun import Rerun
    from ui.app import App

FORMAT = "quantagent-analyses"
FORMAT_VERSION = 1

# --- One --------------------------------------------------------------------------------------------------------


def find_analysis(store: Store, analysis: str) -> StoredOutcome:
    """What is stored of an analysis: its opinion, else its last failure."""
    outcome = latest_outcome(store.read(analysis_stream(analysis)))
    if outcome is None:
        raise NotFound(f"there is no analysis {analysis!r}: `quantagent analyses list` shows their ids.")
    return outcome


def rerun_analysis(app: App, analysis: str) -> Rerun:
    """Runs the graph once more on an analysis's window, with every answer from its recording.

    Raises `BadInput` for what no graph has made, and `RecordingMissing` for a question that was not asked then: the
    prompts, pictures or tools have changed since.
    """
    from analysis.graph.rerun import rerun
    from analysis.graph.run_analysis import AnalysisAuthor, Job
    from analysis.llm.presets import ModelPreset
    from ui.services.analysts import open_resources

    event = find_analysis(app.store, analysis).event
    if isinstance(event, AnalysisFailed):
        raise BadInput(f"analysis {analysis} failed: there is no opinion to make again.")
    if event.work is None or not event.work.calls:
        raise BadInput(
            f"analysis {analysis} was made without a model: `quantagent check-lookahead` tries such variants."
        )
    window, bars = _window_of(app, event)
    calls, work = open_resources(app).calls, event.work
    named = ((work.preset, work.preset_digest), *work.fallbacks)
    try:
        presets = [(name, ModelPreset.model_validate_json(calls.body(digest))) for name, digest in named]
    except ValidationError:
        raise BadInput(
            f"the model preset of analysis {analysis} has another form than today's: run it again with the version of "
            "quantagent that made it."
        ) from None
    author = AnalysisAuthor(event.variant, event.agent_version, work.preset, work.preset_digest, work.fallbacks)
    job = Job(event.symbol, Timeframe.parse(event.timeframe), window, bars)
    return rerun(event, presets, author, job, calls, clock.now)


def _window_of(app: App, made: AnalysisMade) -> tuple[Window, Sequence[Bar]]:
    """The very bars that an analysis saw, of which some may have been corrected since."""
    timeframe = Timeframe.parse(made.timeframe)
    for known_at in _revision_times(app, made.symbol, timeframe):
        bars = app.catalogue.as_known_at(known_at).bars(made.symbol, timeframe, None, made.as_of)
        window = next((each for each in windows(bars, timeframe, made.window_bars) if each.at == made.as_of), None)
        if window is not None and window.digest == made.window_digest:
            return window, bars[window.row + 1 - window.bars : window.row + 1]
    raise BadInput(
        f"the bars of analysis {made.analysis_id} are not in the catalogue: import the same file again before "
        "running it again."
    )


def _revision_times(app: App, symbol: Symbol, timeframe: Timeframe) -> list[datetime]:
    """The instants at which something was learned of a symbol's bars, the latest first."""
    imports = (each for each in app.catalogue.imports() if (each.symbol, each.timeframe) == (symbol, timeframe))
    return sorted({each.learned_at for each in imports}, reverse=True)


# --- Two variants -------------------------------------------------------------------------------------------------


class VariantRecord(NamedTuple):
    """How a variant did on the bars that both have an opinion on.

    right of judged: LONG and SHORT whose close `horizon` bars later lay on the side they named (an unchanged one counts
    for neither); after_cutoff: the same of bars that closed after the model's knowledge ended, where that is known.
    """

    variant: str
    analyses: int
    failed: int
    long: int
    short: int
    hold: int
    right: int
    judged: int
    right_after_cutoff: int
    judged_after_cutoff: int
    cost: Decimal
    latency_ms: int

    @property
    def accuracy(self) -> float | None:
        return self.right / self.judged if self.judged else None

    @property
    def accuracy_after_cutoff(self) -> float | None:
        return self.right_after_cutoff / self.judged_after_cutoff if self.judged_after_cutoff else None


class VariantComparison(NamedTuple):
    """Two variants on the bars that both were asked about; agreed: on how many they said the same."""

    symbol: Symbol
    horizon: int
    both: int
    agreed: int
    records: tuple[VariantRecord, VariantRecord]


def compare_variants(
    app: App,
    variants: tuple[str, str],
    symbol: Symbol,
    timeframe: Timeframe,
    horizon: int,
    start: datetime | None = None,
    end: datetime | None = None,
) -> VariantComparison:
    """Two variants over the same stored bars; nothing is made. Raises `NotFound` where one has nothing in common."""
    facts = {name: dict(_outcomes_by_bar(app.store, name, symbol, timeframe, start, end)) for name in variants}
    for name in variants:
        if not facts[name]:
            raise NotFound(
                f"no {timeframe} analysis of {symbol} by {name} is stored in that range: `quantagent analyses list` "
                "names the variants, and `quantagent analyses make` makes them."
            )
    common = [at for at in facts[variants[0]] if at in facts[variants[1]]]
    if not common:
        raise NotFound(f"{variants[0]} and {variants[1]} have no bar of {symbol} in common: make both over one range.")
    bars = app.catalogue.bars(symbol, timeframe, None, None)
    closes = {bar.closed_at: row for row, bar in enumerate(bars)}
    moves = {at: _price_change(bars, closes[at], horizon) for at in common if at in closes}
    first, second = (_score_variant([facts[name][at] for at in common], moves) for name in variants)
    agreed = sum(
        _decision_text(facts[variants[0]][at][-1]) == _decision_text(facts[variants[1]][at][-1]) for at in common
    )
    return VariantComparison(symbol, horizon, len(common), agreed, (first, second))


def analysed_symbols(app: App, variants: Sequence[str], timeframe: Timeframe) -> list[Symbol]:
    """The symbols that all of these variants have analysed. Raises `NotFound` if there is none."""
    by: dict[str, set[Symbol]] = {name: set() for name in variants}
    for fact in _all_outcomes(app.store, None, timeframe, None, None):
        for name in variants:
            if name in (fact.variant, fact.variant.partition("@")[0]):
                by[name].add(fact.symbol)
    common = set[Symbol].intersection(*by.values())
    if not common:
        raise NotFound(
            f"{' and '.join(variants)} have analysed no symbol in common: `quantagent analyses make` makes analyses."
        )
    return sorted(common)


def _outcomes_by_bar(
    store: Store, variant: str, symbol: Symbol, timeframe: Timeframe, start: datetime | None, end: datetime | None
) -> Iterator[tuple[datetime, list[AnalysisMade | AnalysisFailed]]]:
    """What a variant, named with or without its digest, said of each bar: all its facts, the one that counts last.

    Of a bar that was corrected, the latest opinion counts. Raises `BadInput` for a name that several variants have.
    """
    found: dict[datetime, list[AnalysisMade | AnalysisFailed]] = {}
    for fact in _all_outcomes(store, symbol, timeframe, start, end):
        if variant in (fact.variant, fact.variant.partition("@")[0]):
            found.setdefault(fact.as_of, []).append(fact)
    several = {fact.variant for facts in found.values() for fact in facts}
    if len(several) > 1:
        raise BadInput(f"{variant} is the name of several variants: name one of {', '.join(sorted(several))}.")
    for at, facts in sorted(found.items()):
        yield at, sorted(facts, key=lambda fact: isinstance(fact, AnalysisMade))


def _all_outcomes(
    store: Store,
    symbol: Symbol | None,
    timeframe: Timeframe | None,
    start: datetime | None,
    end: datetime | None,
) -> Iterator[AnalysisMade | AnalysisFailed]:
    for row in read_from(store, event_names([AnalysisMade, AnalysisFailed])):
        event = row.event
        if not isinstance(event, AnalysisMade | AnalysisFailed):
            continue
        fits = symbol in (None, event.symbol) and timeframe in (None, Timeframe.parse(event.timeframe))
        if fits and (start is None or event.as_of > start) and (end is None or event.as_of <= end):
            yield event


def _decision_text(event: AnalysisMade | AnalysisFailed) -> str:
    return event.decision if isinstance(event, AnalysisMade) else "failed"


def _price_change(bars: Sequence[Bar], row: int, horizon: int) -> Decimal | None:
    """By how much the close has changed so many bars later; None where there are not so many."""
    if row + horizon >= len(bars):
        return None
    return bars[row + horizon].close - bars[row].close


def _score_variant(
    all_facts: Sequence[Sequence[AnalysisMade | AnalysisFailed]], moves: Mapping[datetime, Decimal | None]
) -> VariantRecord:
    facts = [each[-1] for each in all_facts]
    decisions = [_decision_text(fact) for fact in facts]
    scored = [(fact, right) for fact in facts if (right := _is_correct(fact, moves.get(fact.as_of))) is not None]
    later = [(fact, right) for fact, right in scored if _is_after_cutoff(fact)]
    cost, latency = ZERO, 0
    for fact in facts:
        latency += fact.work.latency_ms if fact.work is not None else 0
    for fact in (fact for each in all_facts for fact in each):
        # What was paid for failures was paid.
        cost = add(cost, fact.work.cost) if fact.work is not None else cost
    return VariantRecord(
        variant=facts[-1].variant,
        analyses=len(facts),
        failed=decisions.count("failed"),
        long=decisions.count(Direction.LONG),
        short=decisions.count(Direction.SHORT),
        hold=decisions.count(Direction.HOLD),
        right=sum(right for _, right in scored),
        judged=len(scored),
        right_after_cutoff=sum(right for _, right in later),
        judged_after_cutoff=len(later),
        cost=cost,
        latency_ms=latency // len(facts),
    )


def _is_correct(event: AnalysisMade | AnalysisFailed, move: Decimal | None) -> bool | None:
    if move is None or move == 0 or _decision_text(event) not in (Direction.LONG, Direction.SHORT):
        return None
    return (move > 0) is (_decision_text(event) == Direction.LONG)


def _is_after_cutoff(event: AnalysisMade | AnalysisFailed) -> bool:
    cutoff = event.work.knowledge_cutoff if event.work is not None else ""
    return bool(cutoff) and event.as_of.date() > date.fromisoformat(cutoff)


# --- Files --------------------------------------------------------------------------------------------------------


class TransferReport(NamedTuple):
    """How many analyses and texts went into a file, or came out of one; there: analyses that were stored already."""

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
    """Writes stored analyses to a file of JSON lines, with the texts of their model calls, to run them again elsewhere.

    Of each analysis its whole history, failures and opinion. The file appears whole or not at all.
    """
    from ui.services.analysts import open_resources

    calls = open_resources(app).calls
    digests: dict[str, None] = {}
    lines = [json.dumps({"format": FORMAT, "version": FORMAT_VERSION})]
    streams = dict.fromkeys(
        analysis_stream(fact.analysis_id)
        for fact in _all_outcomes(app.store, symbol, None, start, end)
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
    """The digests of the texts behind an analysis: its presets, and what was asked and answered."""
    work = event.work if isinstance(event, AnalysisMade | AnalysisFailed) else None
    if work is None or not work.calls:
        return
    yield from (work.preset_digest, *(digest for _, digest in work.fallbacks))
    yield from (digest for call in work.calls for digest in (call.request, call.response) if digest)


def import_analyses(app: App, path: Path) -> TransferReport:
    """Stores the analyses of such a file, and the texts of their calls. What is stored already stays as it is.

    Every text has to have its digest, and every analysis the name of what it says. Nothing is stored of a file with
    anything wrong in it. Raises `BadInput` with the line.
    """
    from ui.services.analysts import open_resources

    facts, texts = _read_export(path)
    calls, already_stored = open_resources(app).calls, 0
    for text in texts.values():
        calls.store_body(text)
    for stream, history in facts.items():
        rows = list(app.store.read(stream))
        known = latest_outcome(rows)
        # Failures of ours stay before an opinion of theirs, as after a second try.
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
    """The facts of a file by their streams, and its texts by their digests; all of it judged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text: `quantagent analyses export FILE` writes one.") from None
    facts: dict[str, list[AnalysisMade | AnalysisFailed]] = {}
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        fields = _parse_line(path, number, line)
        if number == 1:
            if (fields.get("format"), fields.get("version")) != (FORMAT, FORMAT_VERSION):
                raise BadInput(f"{path} is no file of analyses: `quantagent analyses export FILE` writes one.")
        elif "text" in fields:
            text = str(fields["text"])
            if not text.isascii() or body_digest(text) != fields.get("sha256"):
                raise BadInput(f"{path}, line {number}: the text is not the one of its digest. Nothing was stored.")
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
        raise BadInput(f"{path}, line {number}: it is no JSON object. Nothing was stored.")
    return cast("dict[str, Any]", value)


def _parse_event(path: Path, number: int, fields: dict[str, Any]) -> AnalysisMade | AnalysisFailed:
    """The fact of a line, if it is one, spelled as it would be stored, under the name of what it says."""
    try:
        event = decode_event(str(fields.get("name")), str(fields.get("fact")).encode())
        if not isinstance(event, AnalysisMade | AnalysisFailed):
            raise ValueError("it is no analysis")
        window = Window(0, event.as_of, 1, event.window_digest)
        named = analysis_id(event.symbol, Timeframe.parse(event.timeframe), window, event.variant)
        if named != event.analysis_id:
            raise ValueError(f"it is called {event.analysis_id}, and is {named}")
        _check_consistency(event)
    except (ValueError, msgspec.MsgspecError, BadInput) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BadInput(f"{path}, line {number}: {reason}. Nothing was stored.") from None
    return event


def _check_consistency(event: AnalysisMade | AnalysisFailed) -> None:
    """Whether a fact agrees with itself. That it is what the model said, `run_again` proves."""
    if isinstance(event, AnalysisMade) and event.work is not None and event.work.calls:
        decision = Analysis.model_validate_json(event.reports).decision
        stored = (event.decision.value, event.confidence, event.horizon_bars, event.risk_reward)
        if stored != (decision.decision, decision.confidence, decision.horizon_bars, decision.risk_reward):
            raise ValueError(f"it decides {event.decision.value} and its report says {decision.decision}")
    if event.work is not None:
        calls = event.work.calls
        sums = (sum(each.input_tokens for each in calls), sum(each.output_tokens for each in calls))
        if (
            sums != (event.work.input_tokens, event.work.output_tokens)
            or total([ZERO, *(each.cost for each in calls)]) != event.work.cost
        ):
            raise ValueError("its tokens or its cost are not the sum of its calls")


def delete_working_data(app: App, before: datetime) -> tuple[int, int]:
    """Deletes checkpoints and charts that were last written before an instant; how many threads, and bytes of charts.

    The log keeps the opinions and what was asked; a chart is drawn again from its bars.
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


def recorded_texts(app: App, digests: Iterable[str]) -> dict[str, str]:
    """Recorded requests and answers by their digests."""
    from ui.services.analysts import open_resources

    calls = open_resources(app).calls
    return {digest: calls.body(digest) for digest in digests if digest}
