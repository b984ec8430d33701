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

from analysis.analyst import analysis_id, settled, windows
from analysis.llm.call_log import digest_of
from analysis.reports import Analysis
from analysis.variants import Stored, Window
from engine import clock
from engine.core.errors import BadInput, BookMoved, NotFound
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.ids import analysis_stream
from engine.core.market import Bar, Direction, Symbol, Timeframe
from engine.core.money import ZERO, add, total
from engine.core.upcasters import names
from engine.store import Batch, Cause, Store, read_from
from engine.store.codec import fact_of

if TYPE_CHECKING:
    from analysis.graph.rerun import Rerun
    from ui.app import App

FORMAT = "quantagent-analyses"
FORMAT_VERSION = 1

# --- One --------------------------------------------------------------------------------------------------------


def find(store: Store, analysis: str) -> Stored:
    """What is stored of an analysis: its opinion, else its last failure."""
    found = settled(store.read(analysis_stream(analysis)))
    if found is None:
        raise NotFound(f"there is no analysis {analysis!r}: `quantagent analyses list` shows their ids.")
    return found


def run_again(app: App, analysis: str) -> Rerun:
    """Runs the graph once more on an analysis's window, with every answer from its recording.

    Raises `BadInput` for what no graph has made, and `RecordingMissing` for a question that was not asked then: the
    prompts, pictures or tools have changed since.
    """
    from analysis.graph.rerun import rerun
    from analysis.graph.run_analysis import Author, Job
    from analysis.llm.presets import ModelPreset
    from ui.services.analysts import resources_of

    made = find(app.store, analysis).fact
    if isinstance(made, AnalysisFailed):
        raise BadInput(f"analysis {analysis} failed: there is no opinion to make again.")
    if made.work is None or not made.work.calls:
        raise BadInput(
            f"analysis {analysis} was made without a model: `quantagent check-lookahead` tries such variants."
        )
    window, bars = _window_of(app, made)
    calls, work = resources_of(app).calls, made.work
    named = ((work.preset, work.preset_digest), *work.fallbacks)
    try:
        presets = [(name, ModelPreset.model_validate_json(calls.body(digest))) for name, digest in named]
    except ValidationError:
        raise BadInput(
            f"the model preset of analysis {analysis} has another form than today's: run it again with the version of "
            "quantagent that made it."
        ) from None
    author = Author(made.variant, made.agent_version, work.preset, work.preset_digest, work.fallbacks)
    job = Job(made.symbol, Timeframe.parse(made.timeframe), window, bars)
    return rerun(made, presets, author, job, calls, clock.now)


def _window_of(app: App, made: AnalysisMade) -> tuple[Window, Sequence[Bar]]:
    """The very bars that an analysis saw, of which some may have been corrected since."""
    timeframe = Timeframe.parse(made.timeframe)
    for known_at in _learned(app, made.symbol, timeframe):
        bars = app.catalogue.as_known_at(known_at).bars(made.symbol, timeframe, None, made.as_of)
        window = next((each for each in windows(bars, timeframe, made.window_bars) if each.at == made.as_of), None)
        if window is not None and window.digest == made.window_digest:
            return window, bars[window.row + 1 - window.bars : window.row + 1]
    raise BadInput(
        f"the bars of analysis {made.analysis_id} are not in the catalogue: import the same file again before "
        "running it again."
    )


def _learned(app: App, symbol: Symbol, timeframe: Timeframe) -> list[datetime]:
    """The instants at which something was learned of a symbol's bars, the latest first."""
    imports = (each for each in app.catalogue.imports() if (each.symbol, each.timeframe) == (symbol, timeframe))
    return sorted({each.learned_at for each in imports}, reverse=True)


# --- Two variants -------------------------------------------------------------------------------------------------


class Record(NamedTuple):
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


class Comparison(NamedTuple):
    """Two variants on the bars that both were asked about; agreed: on how many they said the same."""

    symbol: Symbol
    horizon: int
    both: int
    agreed: int
    records: tuple[Record, Record]


def compare(
    app: App,
    variants: tuple[str, str],
    symbol: Symbol,
    timeframe: Timeframe,
    horizon: int,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Comparison:
    """Two variants over the same stored bars; nothing is made. Raises `NotFound` where one has nothing in common."""
    facts = {name: dict(_facts(app.store, name, symbol, timeframe, start, end)) for name in variants}
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
    moves = {at: _move(bars, closes[at], horizon) for at in common if at in closes}
    first, second = (_record([facts[name][at] for at in common], moves) for name in variants)
    agreed = sum(_said(facts[variants[0]][at][-1]) == _said(facts[variants[1]][at][-1]) for at in common)
    return Comparison(symbol, horizon, len(common), agreed, (first, second))


def analysed_symbols(app: App, variants: Sequence[str], timeframe: Timeframe) -> list[Symbol]:
    """The symbols that all of these variants have analysed. Raises `NotFound` if there is none."""
    by: dict[str, set[Symbol]] = {name: set() for name in variants}
    for fact in _all(app.store, None, timeframe, None, None):
        for name in variants:
            if name in (fact.variant, fact.variant.partition("@")[0]):
                by[name].add(fact.symbol)
    common = set[Symbol].intersection(*by.values())
    if not common:
        raise NotFound(
            f"{' and '.join(variants)} have analysed no symbol in common: `quantagent analyses make` makes analyses."
        )
    return sorted(common)


def _facts(
    store: Store, variant: str, symbol: Symbol, timeframe: Timeframe, start: datetime | None, end: datetime | None
) -> Iterator[tuple[datetime, list[AnalysisMade | AnalysisFailed]]]:
    """What a variant, named with or without its digest, said of each bar: all its facts, the one that counts last.

    Of a bar that was corrected, the latest opinion counts. Raises `BadInput` for a name that several variants have.
    """
    found: dict[datetime, list[AnalysisMade | AnalysisFailed]] = {}
    for fact in _all(store, symbol, timeframe, start, end):
        if variant in (fact.variant, fact.variant.partition("@")[0]):
            found.setdefault(fact.as_of, []).append(fact)
    several = {fact.variant for facts in found.values() for fact in facts}
    if len(several) > 1:
        raise BadInput(f"{variant} is the name of several variants: name one of {', '.join(sorted(several))}.")
    for at, facts in sorted(found.items()):
        yield at, sorted(facts, key=lambda fact: isinstance(fact, AnalysisMade))


def _all(
    store: Store,
    symbol: Symbol | None,
    timeframe: Timeframe | None,
    start: datetime | None,
    end: datetime | None,
) -> Iterator[AnalysisMade | AnalysisFailed]:
    for row in read_from(store, names([AnalysisMade, AnalysisFailed])):
        fact = row.event
        if not isinstance(fact, AnalysisMade | AnalysisFailed):
            continue
        fits = symbol in (None, fact.symbol) and timeframe in (None, Timeframe.parse(fact.timeframe))
        if fits and (start is None or fact.as_of > start) and (end is None or fact.as_of <= end):
            yield fact


def _said(fact: AnalysisMade | AnalysisFailed) -> str:
    return fact.decision if isinstance(fact, AnalysisMade) else "failed"


def _move(bars: Sequence[Bar], row: int, horizon: int) -> Decimal | None:
    """By how much the close has changed so many bars later; None where there are not so many."""
    if row + horizon >= len(bars):
        return None
    return bars[row + horizon].close - bars[row].close


def _record(
    all_facts: Sequence[Sequence[AnalysisMade | AnalysisFailed]], moves: Mapping[datetime, Decimal | None]
) -> Record:
    facts = [each[-1] for each in all_facts]
    said = [_said(fact) for fact in facts]
    judged = [(fact, right) for fact in facts if (right := _right(fact, moves.get(fact.as_of))) is not None]
    later = [(fact, right) for fact, right in judged if _is_after_cutoff(fact)]
    cost, latency = ZERO, 0
    for fact in facts:
        latency += fact.work.latency_ms if fact.work is not None else 0
    for fact in (fact for each in all_facts for fact in each):
        # What was paid for failures was paid.
        cost = add(cost, fact.work.cost) if fact.work is not None else cost
    return Record(
        variant=facts[-1].variant,
        analyses=len(facts),
        failed=said.count("failed"),
        long=said.count(Direction.LONG),
        short=said.count(Direction.SHORT),
        hold=said.count(Direction.HOLD),
        right=sum(right for _, right in judged),
        judged=len(judged),
        right_after_cutoff=sum(right for _, right in later),
        judged_after_cutoff=len(later),
        cost=cost,
        latency_ms=latency // len(facts),
    )


def _right(fact: AnalysisMade | AnalysisFailed, move: Decimal | None) -> bool | None:
    if move is None or move == 0 or _said(fact) not in (Direction.LONG, Direction.SHORT):
        return None
    return (move > 0) is (_said(fact) == Direction.LONG)


def _is_after_cutoff(fact: AnalysisMade | AnalysisFailed) -> bool:
    cutoff = fact.work.knowledge_cutoff if fact.work is not None else ""
    return bool(cutoff) and fact.as_of.date() > date.fromisoformat(cutoff)


# --- Files --------------------------------------------------------------------------------------------------------


class Moved(NamedTuple):
    """How many analyses and texts went into a file, or came out of one; there: analyses that were stored already."""

    analyses: int
    texts: int
    there: int = 0


def export(
    app: App,
    path: Path,
    symbol: Symbol | None = None,
    variant: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Moved:
    """Writes stored analyses to a file of JSON lines, with the texts of their model calls, to run them again elsewhere.

    Of each analysis its whole history, failures and opinion. The file appears whole or not at all.
    """
    from ui.services.analysts import resources_of

    calls = resources_of(app).calls
    digests: dict[str, None] = {}
    lines = [json.dumps({"format": FORMAT, "version": FORMAT_VERSION})]
    streams = dict.fromkeys(
        analysis_stream(fact.analysis_id)
        for fact in _all(app.store, symbol, None, start, end)
        if variant in (None, fact.variant, fact.variant.partition("@")[0])
    )
    for stream in streams:
        for row in app.store.read(stream):
            lines.append(json.dumps({"name": row.name, "fact": row.payload.decode()}))
            digests |= dict.fromkeys(_texts_named(row.event))
    lines += [json.dumps({"sha256": digest, "text": calls.body(digest)}) for digest in digests]
    partial = path.with_name(f"{path.name}.part")
    partial.write_text("\n".join(lines) + "\n", encoding="ascii")
    partial.replace(path)
    return Moved(len(streams), len(digests))


def _texts_named(fact: object) -> Iterator[str]:
    """The digests of the texts behind an analysis: its presets, and what was asked and answered."""
    work = fact.work if isinstance(fact, AnalysisMade | AnalysisFailed) else None
    if work is None or not work.calls:
        return
    yield from (work.preset_digest, *(digest for _, digest in work.fallbacks))
    yield from (digest for call in work.calls for digest in (call.request, call.response) if digest)


def bring_in(app: App, path: Path) -> Moved:
    """Stores the analyses of such a file, and the texts of their calls. What is stored already stays as it is.

    Every text has to have its digest, and every analysis the name of what it says. Nothing is stored of a file with
    anything wrong in it. Raises `BadInput` with the line.
    """
    from ui.services.analysts import resources_of

    facts, texts = _read(path)
    calls, there = resources_of(app).calls, 0
    for text in texts.values():
        calls.keep(text)
    for stream, history in facts.items():
        rows = list(app.store.read(stream))
        known = settled(rows)
        # Failures of ours stay before an opinion of theirs, as after a second try.
        news = [fact for fact in history if not rows or isinstance(fact, AnalysisMade)]
        if not news or (known is not None and isinstance(known.fact, AnalysisMade)):
            there += 1
            continue
        try:
            app.store.append([Batch(stream, len(rows), news)], Cause(app.settings.actor))
        except BookMoved:
            there += 1
    return Moved(len(facts) - there, len(texts), there)


def _read(path: Path) -> tuple[dict[str, list[AnalysisMade | AnalysisFailed]], dict[str, str]]:
    """The facts of a file by their streams, and its texts by their digests; all of it judged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text: `quantagent analyses export FILE` writes one.") from None
    facts: dict[str, list[AnalysisMade | AnalysisFailed]] = {}
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        said = _object(path, number, line)
        if number == 1:
            if (said.get("format"), said.get("version")) != (FORMAT, FORMAT_VERSION):
                raise BadInput(f"{path} is no file of analyses: `quantagent analyses export FILE` writes one.")
        elif "text" in said:
            text = str(said["text"])
            if not text.isascii() or digest_of(text) != said.get("sha256"):
                raise BadInput(f"{path}, line {number}: the text is not the one of its digest. Nothing was stored.")
            texts[digest_of(text)] = text
        else:
            fact = _fact(path, number, said)
            facts.setdefault(analysis_stream(fact.analysis_id), []).append(fact)
    named = (digest for history in facts.values() for fact in history for digest in _texts_named(fact))
    missing = {digest for digest in named if digest not in texts}
    if missing:
        raise BadInput(
            f"{path} lacks the text {min(missing)[:16]} behind an analysis: export it again. Nothing was stored."
        )
    return facts, texts


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise BadInput(f"{path}, line {number}: it is no JSON object. Nothing was stored.")
    return cast("dict[str, Any]", said)


def _fact(path: Path, number: int, said: dict[str, Any]) -> AnalysisMade | AnalysisFailed:
    """The fact of a line, if it is one, spelled as it would be stored, under the name of what it says."""
    try:
        fact = fact_of(str(said.get("name")), str(said.get("fact")).encode())
        if not isinstance(fact, AnalysisMade | AnalysisFailed):
            raise ValueError("it is no analysis")
        window = Window(0, fact.as_of, 1, fact.window_digest)
        named = analysis_id(fact.symbol, Timeframe.parse(fact.timeframe), window, fact.variant)
        if named != fact.analysis_id:
            raise ValueError(f"it is called {fact.analysis_id}, and is {named}")
        _check_sums(fact)
    except (ValueError, msgspec.MsgspecError, BadInput) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BadInput(f"{path}, line {number}: {reason}. Nothing was stored.") from None
    return fact


def _check_sums(fact: AnalysisMade | AnalysisFailed) -> None:
    """Whether a fact agrees with itself. That it is what the model said, `run_again` proves."""
    if isinstance(fact, AnalysisMade) and fact.work is not None and fact.work.calls:
        said = Analysis.model_validate_json(fact.reports).decision
        told = (fact.decision.value, fact.confidence, fact.horizon_bars, fact.risk_reward)
        if told != (said.decision, said.confidence, said.horizon_bars, said.risk_reward):
            raise ValueError(f"it decides {fact.decision.value} and its report says {said.decision}")
    if fact.work is not None:
        calls = fact.work.calls
        sums = (sum(each.input_tokens for each in calls), sum(each.output_tokens for each in calls))
        if (
            sums != (fact.work.input_tokens, fact.work.output_tokens)
            or total([ZERO, *(each.cost for each in calls)]) != fact.work.cost
        ):
            raise ValueError("its tokens or its cost are not the sum of its calls")


def forget(app: App, before: datetime) -> tuple[int, int]:
    """Deletes checkpoints and charts that were last written before an instant; how many threads, and bytes of charts.

    The log keeps the opinions and what was asked; a chart is drawn again from its bars.
    """
    from analysis.charting.chart_store import Artefacts
    from analysis.graph.checkpoints import checkpoints
    from ui.services.analysts import resources_of

    resources = resources_of(app)

    async def threads() -> int:
        assert resources.checkpoints is not None, "a system has a database"
        async with checkpoints(resources.checkpoints) as kept:
            return await kept.forget(before)

    assert isinstance(resources.pictures, Artefacts), "a system has a folder"
    return asyncio.run(threads()), resources.pictures.forget(before)


def texts_of(app: App, digests: Iterable[str]) -> dict[str, str]:
    """Recorded requests and answers by their digests."""
    from ui.services.analysts import resources_of

    calls = resources_of(app).calls
    return {digest: calls.body(digest) for digest in digests if digest}
