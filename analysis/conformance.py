"""Whether a variant keeps its side: an opinion follows from the window's bars, and from nothing else.

Nobody can prove that of other people's code; what is tried here is what goes wrong. The future is cut off and made
wild, windows are asked about twice, backwards, by other processes and 400 years later, and calls that reach beyond the
window are noticed. What escapes all that is named in docs/own-strategies.md.

`check` is meant for a strategy's own tests: `assert check("breakout.py:Breakout", bars) == []`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import msgspec

from analysis.analyst import LiveAnalyst, ensure_analyses
from analysis.purity import impure_calls
from analysis.variants import FormedAnalysis, StrategyFailed, Variant, find_variant
from engine.core.errors import BadInput, QuantagentError
from engine.core.events import AnalysisMade
from engine.core.market import Bar, Symbol, Timeframe
from engine.core.money import div, exact, mul
from engine.data.memory import MemoryCatalogue
from engine.store.memory import MemoryStore

SAMPLES = 100
STORED_BARS = 60  # Bars at the end that are stored, and heard live.
POISONED_BARS = 20
POISON_FACTOR = exact(100)
HASH_SEEDS = ("1", "2")
# The Gregorian calendar repeats itself after 400 years, days of the week included.
CALENDAR_SHIFT = timedelta(days=146_097)

RETURNS_DECISION = "has an opinion"


class Finding(NamedTuple):
    """A check that a variant did not pass, first at the close of this bar: what it said, and what it says instead."""

    check: str
    symbol: Symbol
    at: datetime
    before: str
    after: str


class DecisionSummary(NamedTuple):
    """An opinion in a few words, and all that is stored of it."""

    short: str
    details: str


class StrategyTrial(NamedTuple):
    """One symbol's bars, the rows to be tried, and what the variant said on them when asked in order."""

    text: str
    bars: Sequence[Bar]
    ends: list[int]
    decisions: list[DecisionSummary]

    def reload(self) -> Variant:
        """The variant, loaded anew."""
        return find_variant(self.text)


Discrepancy = tuple[int, DecisionSummary, DecisionSummary]
"""A row, what was said on it, and what was said on it otherwise asked."""


def check_conformance(
    variant: str,
    bars: Sequence[Bar],
    start: datetime | None = None,
    *,
    samples: int = SAMPLES,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Finding]:
    """What a variant, named as on the command line, does not pass on bars of one symbol: the first bar of each check.

    Tried are the bars that open at or after `start`, at most `samples`, evenly spaced; those before are history.
    `progress` hears how many of the `CHECKS` are done. Raises `BadInput` when there is no such variant, or no bar with
    a whole window.
    """
    loaded = find_variant(variant)
    ends = sample_rows(loaded, bars, start, samples)
    try:
        trial = StrategyTrial(variant, bars, ends, _evaluate(loaded, bars, ends))
    except StrategyFailed as error:
        return [_failure_finding(RETURNS_DECISION, error, bars[-1].closed_at)]
    findings: list[Finding] = []
    for done, (name, others) in enumerate(CHECKS.items(), 1):
        try:
            findings += [_finding(name, trial, other) for other in others(trial)][:1]
        except StrategyFailed as error:
            findings.append(_failure_finding(name, error, bars[-1].closed_at))
        progress(done)
    return findings


def sample_rows(
    variant: Variant, bars: Sequence[Bar], start: datetime | None = None, samples: int = SAMPLES
) -> list[int]:
    """The rows after the warm-up, or as many of them as asked for, evenly spaced, first and last among them."""
    rows = [row for row in range(variant.warm_up_bars - 1, len(bars)) if start is None or bars[row].opened_at >= start]
    if not rows:
        raise BadInput(
            f"variant {variant.name} needs {variant.warm_up_bars:,} bars, and no bar of this range has as many up to "
            "it: import earlier ones, or choose a later range."
        )
    if len(rows) <= samples:
        return rows
    return [rows[n * (len(rows) - 1) // (samples - 1)] for n in range(samples)]


def poison_bar(bar: Bar, n: int, *, began: bool = False) -> Bar:
    """The bar with prices that no market has, 100 times as high or as low; the open of one that began stays."""
    change = mul if n % 2 else div
    open_, high, low, close = (change(price, POISON_FACTOR) for price in (bar.open, bar.high, bar.low, bar.close))
    open_ = bar.open if began else open_
    return msgspec.structs.replace(
        bar, open=open_, high=max(open_, high), low=min(open_, low), close=close, volume=exact(7)
    )


def _finding(name: str, trial: StrategyTrial, discrepancy: Discrepancy) -> Finding:
    end, before, after = discrepancy
    which = 0 if before.short != after.short else 1
    return Finding(name, trial.bars[end].symbol, trial.bars[end].closed_at, before[which], after[which])


def _failure_finding(name: str, error: StrategyFailed, last: datetime) -> Finding:
    at = error.bar.closed_at
    return Finding(name, error.bar.symbol, at if at <= last else at - CALENDAR_SHIFT, "an opinion", str(error))


# --- The checks ---------------------------------------------------------------------------------------------------


def _check_future_removed(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """Each bar is asked about alone, of a variant that has heard of no other."""
    return _discrepancies(trial, [_evaluate(trial.reload(), trial.bars[: end + 1], [end])[0] for end in trial.ends])


def _check_future_poisoned(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """The last wild bar is asked about first, so that who remembers anything has seen it."""
    variant, decisions = trial.reload(), list[DecisionSummary]()
    for end in trial.ends:
        future = trial.bars[end + 1 : end + 1 + POISONED_BARS]
        bars = [*trial.bars[: end + 1], *(poison_bar(bar, n) for n, bar in enumerate(future))]
        decisions.append(_evaluate(variant, bars, [len(bars) - 1, end])[1])
    return _discrepancies(trial, decisions)


def _check_other_century(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """A tape of the future, looked up by time, has nothing on these bars, or something else."""
    moved = [
        msgspec.structs.replace(bar, opened_at=bar.opened_at + CALENDAR_SHIFT, closed_at=bar.closed_at + CALENDAR_SHIFT)
        for bar in trial.bars
    ]
    for other in _discrepancies(trial, _evaluate(trial.reload(), moved, trial.ends)):
        # Reasons may name the day.
        if other[1].short != other[2].short:
            yield other


def _check_repeated_call(trial: StrategyTrial) -> Iterator[Discrepancy]:
    variant = trial.reload()
    for end in trial.ends:
        before, after = _evaluate(variant, trial.bars, [end, end])
        if before != after:
            yield end, before, after


def _check_reverse_order(trial: StrategyTrial) -> Iterator[Discrepancy]:
    return _discrepancies(trial, _evaluate(trial.reload(), trial.bars, trial.ends[::-1])[::-1])


def _check_purity(trial: StrategyTrial) -> Iterator[Discrepancy]:
    variant = trial.reload()
    # What is imported at the first call is read from files, and may be.
    _evaluate(variant, trial.bars, trial.ends[:1])
    for end, decision in zip(trial.ends, trial.decisions, strict=True):
        calls = impure_calls(partial(_evaluate, variant, trial.bars, [end]))
        if calls:
            yield end, decision, DecisionSummary(f"asks for {calls[0]}", "")


def _check_other_processes(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """Another hash seed, and no memory of what was asked before."""
    request = msgspec.json.encode((trial.text, list(trial.bars), trial.ends))
    command = [sys.executable, "-m", "analysis.conformance"]
    for seed in HASH_SEEDS:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        completed = subprocess.run(command, input=request, env=environment, capture_output=True, check=False)
        if completed.returncode:
            *_, last = completed.stderr.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
            yield trial.ends[0], trial.decisions[0], DecisionSummary(last, "")
        else:
            yield from _discrepancies(trial, msgspec.json.decode(completed.stdout, type=list[DecisionSummary]))


def serve_trial() -> None:
    """The other process: a trial's question on stdin, what the variant says on stdout."""
    text, bars, ends = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[str, list[Bar], list[int]])
    with redirect_stdout(sys.stderr):
        decisions = _evaluate(find_variant(text), bars, ends)
    sys.stdout.buffer.write(msgspec.json.encode(decisions))


def _check_stored_once(trial: StrategyTrial) -> Iterator[Discrepancy]:
    store, last = MemoryStore(), trial.ends[-1]
    first = _store_last(trial, store)
    try:
        second = _store_last(trial, store)
    except QuantagentError as error:
        yield last, trial.decisions[-1], DecisionSummary(str(error), "")
    else:
        if second:
            yield last, DecisionSummary(f"{first} stored", ""), DecisionSummary(f"{second} stored again", "")


def _check_live_equals_batch(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """A daemon that is started again half-way."""
    batch, live, catalogue = MemoryStore(), MemoryStore(), _catalogue(trial)
    _store_last(trial, batch)
    bars = trial.bars[-STORED_BARS:]
    symbols, frame = [bars[0].symbol], timeframe_of(bars)
    half = (len(bars) + 1) // 2
    for part in (bars[:half], bars[half:]):
        if part:
            analyst = LiveAnalyst(live, catalogue, symbols, frame, part[0].opened_at, "check", trial.reload())
            for bar in part:
                analyst.intent(bar)
    for row, (before, after) in enumerate(
        zip(_stored_decisions(batch), _stored_decisions(live), strict=True), len(trial.bars) - len(bars)
    ):
        if before != after:
            yield row, before, after


def _store_last(trial: StrategyTrial, store: MemoryStore) -> int:
    """Makes or finds the analyses of the last bars; how many were made."""
    bars = trial.bars[-STORED_BARS:]
    symbols, frame, start = [bars[0].symbol], timeframe_of(bars), bars[0].opened_at
    catalogue = _catalogue(trial)
    return ensure_analyses(store, catalogue, symbols, frame, start, None, actor="check", variant=trial.reload()).made


def _catalogue(trial: StrategyTrial) -> MemoryCatalogue:
    """The last bars, with the history that their windows reach back to."""
    catalogue, bars = MemoryCatalogue(), trial.bars[-(STORED_BARS + trial.reload().window_bars) :]
    catalogue.add(bars[0].symbol, timeframe_of(bars), bars, source="check", learned_at=bars[-1].closed_at)
    return catalogue


def _stored_decisions(store: MemoryStore) -> list[DecisionSummary]:
    return [
        DecisionSummary(f"{row.event.decision} {row.event.confidence:f}", row.payload.decode())
        for row in store.read_all()
        if isinstance(row.event, AnalysisMade)
    ]


def timeframe_of(bars: Sequence[Bar]) -> Timeframe:
    """The shortest that no bar outlasts: closes cut bars, and most sessions are shorter than a day."""
    lasts = max(bar.closed_at - bar.opened_at for bar in bars)
    return next(frame for frame in Timeframe if frame.duration >= lasts)


CHECKS: dict[str, Callable[[StrategyTrial], Iterator[Discrepancy]]] = {
    "future cut off": _check_future_removed,
    "future poisoned": _check_future_poisoned,
    "other century": _check_other_century,
    "asked twice": _check_repeated_call,
    "asked backwards": _check_reverse_order,
    "nothing but bars": _check_purity,
    "other processes": _check_other_processes,
    "stored once": _check_stored_once,
    "live as in batch": _check_live_equals_batch,
}


# --- Asking -------------------------------------------------------------------------------------------------------


def _evaluate(variant: Variant, bars: Sequence[Bar], ends: Sequence[int]) -> list[DecisionSummary]:
    return [_summarize(analysis) for analysis in variant.analyse(bars, ends)]


def _discrepancies(trial: StrategyTrial, decisions: Sequence[DecisionSummary]) -> Iterator[Discrepancy]:
    return (other for other in zip(trial.ends, trial.decisions, decisions, strict=True) if other[1] != other[2])


def _summarize(analysis: FormedAnalysis) -> DecisionSummary:
    decision = analysis.decision
    short = f"{decision.direction} {decision.confidence:f}"
    for name, value in (("stop", decision.stop), ("target", decision.target), ("risk reward", decision.risk_reward)):
        short += "" if value is None else f", {name} {value:f}"
    short += "" if decision.horizon_bars is None else f", for {decision.horizon_bars} bars"
    if decision.entry is not None:
        # Without the instant it expires: that one moves with the bars.
        entry = msgspec.structs.replace(decision.entry, expires_at=None)
        short += f", {msgspec.json.encode(entry).decode()}"
    return DecisionSummary(short, f"{short} {msgspec.json.encode(decision.entry).decode()} {analysis.reports}")


if __name__ == "__main__":
    serve_trial()
