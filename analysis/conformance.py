"""Conformance checks of a variant: its decisions must depend on the bars of the window alone.

This cannot be proved for arbitrary code, so the checks try the usual violations: they remove or falsify future bars,
repeat calls, reverse their order, run them in other processes and 400 years later, and detect calls to clock, random
numbers, files and network. docs/own-strategies.md lists the limits of this method.

Use `check_conformance` in the tests of a strategy: `assert check_conformance("breakout.py:Breakout", bars) == []`.
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
STORED_BARS = 60  # Bars at the end that are stored, and analyzed live.
POISONED_BARS = 20
POISON_FACTOR = exact(100)
HASH_SEEDS = ("1", "2")
# The Gregorian calendar repeats after 400 years, days of the week included.
CALENDAR_SHIFT = timedelta(days=146_097)

# Names of checks are JSON values of `check-lookahead`: their spelling is part of its interface.
RETURNS_DECISION = "has an opinion"


class Finding(NamedTuple):
    """A failed check: the first bar at which it failed, the expected decision (before) and the actual one (after)."""

    check: str
    symbol: Symbol
    at: datetime
    before: str
    after: str


class DecisionSummary(NamedTuple):
    """A decision as short text, and in full as it is stored."""

    short: str
    details: str


class StrategyTrial(NamedTuple):
    """Bars of one symbol, the rows to be checked, and the decisions on them when called in order."""

    text: str
    bars: Sequence[Bar]
    ends: list[int]
    decisions: list[DecisionSummary]

    def reload(self) -> Variant:
        """Load the variant again, without state of earlier calls."""
        return find_variant(self.text)


Discrepancy = tuple[int, DecisionSummary, DecisionSummary]
"""A row, the decision on it, and the different decision in a check."""


def check_conformance(
    variant: str,
    bars: Sequence[Bar],
    start: datetime | None = None,
    *,
    samples: int = SAMPLES,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Finding]:
    """Return the failed checks of a variant (name or `FILE.py:CLASS`) on bars of one symbol; the first bar of each.

    Checked are at most `samples` evenly spaced bars that open at or after `start`; earlier bars are history. progress:
    called with the number of `CHECKS` done. Raise `BadInput` if the variant does not exist, or no bar has a complete
    window.
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
    """Return the rows after the warm-up, at most `samples` of them, evenly spaced and including first and last."""
    rows = [row for row in range(variant.warm_up_bars - 1, len(bars)) if start is None or bars[row].opened_at >= start]
    if not rows:
        raise BadInput(
            f"variant {variant.name} needs windows of {variant.warm_up_bars:,} bars, and no bar of this range has "
            "enough history: import earlier bars, or choose a later range."
        )
    if len(rows) <= samples:
        return rows
    return [rows[n * (len(rows) - 1) // (samples - 1)] for n in range(samples)]


def poison_bar(bar: Bar, n: int, *, began: bool = False) -> Bar:
    """Return the bar with prices falsified by a factor of 100, up or down; `began` keeps its open."""
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
    return Finding(name, error.bar.symbol, at if at <= last else at - CALENDAR_SHIFT, "a decision", str(error))


# --- Checks -------------------------------------------------------------------------------------------------------


def _check_future_removed(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """Analyze each bar with a newly loaded variant and without any later bar."""
    return _discrepancies(trial, [_evaluate(trial.reload(), trial.bars[: end + 1], [end])[0] for end in trial.ends])


def _check_future_poisoned(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """Falsify the bars after each row and analyze the last of them first, to expose a variant with a memory."""
    variant, decisions = trial.reload(), list[DecisionSummary]()
    for end in trial.ends:
        future = trial.bars[end + 1 : end + 1 + POISONED_BARS]
        bars = [*trial.bars[: end + 1], *(poison_bar(bar, n) for n, bar in enumerate(future))]
        decisions.append(_evaluate(variant, bars, [len(bars) - 1, end])[1])
    return _discrepancies(trial, decisions)


def _check_other_century(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """Shift the bars by 400 years, to expose a variant that looks up known data by time."""
    moved = [
        msgspec.structs.replace(bar, opened_at=bar.opened_at + CALENDAR_SHIFT, closed_at=bar.closed_at + CALENDAR_SHIFT)
        for bar in trial.bars
    ]
    for other in _discrepancies(trial, _evaluate(trial.reload(), moved, trial.ends)):
        # Reasons may contain dates, so only the short texts are compared.
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
    # Imports during the first call read files, which is allowed.
    _evaluate(variant, trial.bars, trial.ends[:1])
    for end, decision in zip(trial.ends, trial.decisions, strict=True):
        calls = impure_calls(partial(_evaluate, variant, trial.bars, [end]))
        if calls:
            yield end, decision, DecisionSummary(f"uses {calls[0]}", "")


def _check_other_processes(trial: StrategyTrial) -> Iterator[Discrepancy]:
    """Run the trial in processes with other hash seeds and without state of earlier calls."""
    request = msgspec.json.encode((trial.text, list(trial.bars), trial.ends))
    command = [sys.executable, "-m", "analysis.conformance"]
    for seed in HASH_SEEDS:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        completed = subprocess.run(command, input=request, env=environment, capture_output=True, check=False)
        if completed.returncode:
            *_, last = completed.stderr.decode(errors="replace").strip().splitlines() or ["it ended without output"]
            yield trial.ends[0], trial.decisions[0], DecisionSummary(last, "")
        else:
            yield from _discrepancies(trial, msgspec.json.decode(completed.stdout, type=list[DecisionSummary]))


def serve_trial() -> None:
    """Run a trial from standard input and write its decisions to standard output; the child process of a check."""
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
    """Compare batch analyses with live ones, restarting the live analyst halfway."""
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
    """Create or find the analyses of the last bars; return the number of created ones."""
    bars = trial.bars[-STORED_BARS:]
    symbols, frame, start = [bars[0].symbol], timeframe_of(bars), bars[0].opened_at
    catalogue = _catalogue(trial)
    return ensure_analyses(store, catalogue, symbols, frame, start, None, actor="check", variant=trial.reload()).made


def _catalogue(trial: StrategyTrial) -> MemoryCatalogue:
    """Return a catalogue of the last bars and the history of their windows."""
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
    """Return the shortest timeframe no bar exceeds: session ends shorten bars, and most sessions are below a day."""
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


# --- Evaluation ---------------------------------------------------------------------------------------------------


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
        # Without the expiry, which shifts with the bars.
        entry = msgspec.structs.replace(decision.entry, expires_at=None)
        short += f", {msgspec.json.encode(entry).decode()}"
    return DecisionSummary(short, f"{short} {msgspec.json.encode(decision.entry).decode()} {analysis.reports}")


if __name__ == "__main__":
    serve_trial()
