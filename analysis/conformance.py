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

from analysis.analyst import LiveAnalyst, opinions
from analysis.purity import reached_by
from analysis.variants import Formed, StrategyFailed, Variant, find
from engine.core.errors import BadInput, QuantagentError
from engine.core.events import AnalysisMade
from engine.core.market import Bar, Symbol, Timeframe
from engine.core.money import div, exact, mul
from engine.data.memory import MemoryCatalogue
from engine.store.memory import MemoryStore

SAMPLES = 100
STORED = 60  # Bars at the end that are stored, and heard live.
WILD_BARS = 20
WILD = exact(100)
HASH_SEEDS = ("1", "2")
# The Gregorian calendar repeats itself after 400 years, days of the week included.
LATER = timedelta(days=146_097)

FAILS = "has an opinion"


class Finding(NamedTuple):
    """A check that a variant did not pass, first at the close of this bar: what it said, and what it says instead."""

    check: str
    symbol: Symbol
    at: datetime
    before: str
    after: str


class Said(NamedTuple):
    """An opinion in a few words, and all that is stored of it."""

    short: str
    whole: str


class Trial(NamedTuple):
    """One symbol's bars, the rows to be tried, and what the variant said on them when asked in order."""

    text: str
    bars: Sequence[Bar]
    ends: list[int]
    said: list[Said]

    def again(self) -> Variant:
        """The variant, loaded anew."""
        return find(self.text)


Other = tuple[int, Said, Said]
"""A row, what was said on it, and what was said on it otherwise asked."""


def check(
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
    found = find(variant)
    ends = sampled(found, bars, start, samples)
    try:
        trial = Trial(variant, bars, ends, _ask(found, bars, ends))
    except StrategyFailed as error:
        return [_failed(FAILS, error, bars[-1].closed_at)]
    findings: list[Finding] = []
    for done, (name, others) in enumerate(CHECKS.items(), 1):
        try:
            findings += [_finding(name, trial, other) for other in others(trial)][:1]
        except StrategyFailed as error:
            findings.append(_failed(name, error, bars[-1].closed_at))
        progress(done)
    return findings


def sampled(variant: Variant, bars: Sequence[Bar], start: datetime | None = None, samples: int = SAMPLES) -> list[int]:
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


def wild(bar: Bar, n: int, *, began: bool = False) -> Bar:
    """The bar with prices that no market has, 100 times as high or as low; the open of one that began stays."""
    change = mul if n % 2 else div
    open_, high, low, close = (change(price, WILD) for price in (bar.open, bar.high, bar.low, bar.close))
    open_ = bar.open if began else open_
    return msgspec.structs.replace(
        bar, open=open_, high=max(open_, high), low=min(open_, low), close=close, volume=exact(7)
    )


def _finding(name: str, trial: Trial, other: Other) -> Finding:
    end, before, after = other
    which = 0 if before.short != after.short else 1
    return Finding(name, trial.bars[end].symbol, trial.bars[end].closed_at, before[which], after[which])


def _failed(name: str, error: StrategyFailed, last: datetime) -> Finding:
    at = error.bar.closed_at
    return Finding(name, error.bar.symbol, at if at <= last else at - LATER, "an opinion", str(error))


# --- The checks ---------------------------------------------------------------------------------------------------


def _without_the_future(trial: Trial) -> Iterator[Other]:
    """Each bar is asked about alone, of a variant that has heard of no other."""
    return _others(trial, [_ask(trial.again(), trial.bars[: end + 1], [end])[0] for end in trial.ends])


def _with_a_wild_future(trial: Trial) -> Iterator[Other]:
    """The last wild bar is asked about first, so that who remembers anything has seen it."""
    variant, said = trial.again(), list[Said]()
    for end in trial.ends:
        future = trial.bars[end + 1 : end + 1 + WILD_BARS]
        bars = [*trial.bars[: end + 1], *(wild(bar, n) for n, bar in enumerate(future))]
        said.append(_ask(variant, bars, [len(bars) - 1, end])[1])
    return _others(trial, said)


def _in_another_century(trial: Trial) -> Iterator[Other]:
    """A tape of the future, looked up by time, has nothing on these bars, or something else."""
    moved = [
        msgspec.structs.replace(bar, opened_at=bar.opened_at + LATER, closed_at=bar.closed_at + LATER)
        for bar in trial.bars
    ]
    for other in _others(trial, _ask(trial.again(), moved, trial.ends)):
        # Reasons may name the day.
        if other[1].short != other[2].short:
            yield other


def _asked_twice(trial: Trial) -> Iterator[Other]:
    variant = trial.again()
    for end in trial.ends:
        before, after = _ask(variant, trial.bars, [end, end])
        if before != after:
            yield end, before, after


def _asked_backwards(trial: Trial) -> Iterator[Other]:
    return _others(trial, _ask(trial.again(), trial.bars, trial.ends[::-1])[::-1])


def _asking_for_more(trial: Trial) -> Iterator[Other]:
    variant = trial.again()
    # What is imported at the first call is read from files, and may be.
    _ask(variant, trial.bars, trial.ends[:1])
    for end, said in zip(trial.ends, trial.said, strict=True):
        calls = reached_by(partial(_ask, variant, trial.bars, [end]))
        if calls:
            yield end, said, Said(f"asks for {calls[0]}", "")


def _in_other_processes(trial: Trial) -> Iterator[Other]:
    """Another hash seed, and no memory of what was asked before."""
    question = msgspec.json.encode((trial.text, list(trial.bars), trial.ends))
    command = [sys.executable, "-m", "analysis.conformance"]
    for seed in HASH_SEEDS:
        surroundings = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        told = subprocess.run(command, input=question, env=surroundings, capture_output=True, check=False)
        if told.returncode:
            *_, last = told.stderr.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
            yield trial.ends[0], trial.said[0], Said(last, "")
        else:
            yield from _others(trial, msgspec.json.decode(told.stdout, type=list[Said]))


def answer_on_stdout() -> None:
    """The other process: a trial's question on stdin, what the variant says on stdout."""
    text, bars, ends = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[str, list[Bar], list[int]])
    with redirect_stdout(sys.stderr):
        said = _ask(find(text), bars, ends)
    sys.stdout.buffer.write(msgspec.json.encode(said))


def _stored_twice(trial: Trial) -> Iterator[Other]:
    store, last = MemoryStore(), trial.ends[-1]
    first = _store_last(trial, store)
    try:
        again = _store_last(trial, store)
    except QuantagentError as error:
        yield last, trial.said[-1], Said(str(error), "")
    else:
        if again:
            yield last, Said(f"{first} stored", ""), Said(f"{again} stored again", "")


def _heard_live(trial: Trial) -> Iterator[Other]:
    """A daemon that is started again half-way."""
    batch, live, catalogue = MemoryStore(), MemoryStore(), _catalogue(trial)
    _store_last(trial, batch)
    bars = trial.bars[-STORED:]
    symbols, frame = [bars[0].symbol], timeframe_of(bars)
    half = (len(bars) + 1) // 2
    for part in (bars[:half], bars[half:]):
        if part:
            analyst = LiveAnalyst(live, catalogue, symbols, frame, part[0].opened_at, "check", trial.again())
            for bar in part:
                analyst.wish(bar)
    for row, (before, after) in enumerate(zip(_stored(batch), _stored(live), strict=True), len(trial.bars) - len(bars)):
        if before != after:
            yield row, before, after


def _store_last(trial: Trial, store: MemoryStore) -> int:
    """Makes or finds the analyses of the last bars; how many were made."""
    bars = trial.bars[-STORED:]
    symbols, frame, start = [bars[0].symbol], timeframe_of(bars), bars[0].opened_at
    catalogue = _catalogue(trial)
    return opinions(store, catalogue, symbols, frame, start, None, actor="check", variant=trial.again()).made


def _catalogue(trial: Trial) -> MemoryCatalogue:
    """The last bars, with the history that their windows reach back to."""
    catalogue, bars = MemoryCatalogue(), trial.bars[-(STORED + trial.again().window_bars) :]
    catalogue.add(bars[0].symbol, timeframe_of(bars), bars, source="check", learned_at=bars[-1].closed_at)
    return catalogue


def _stored(store: MemoryStore) -> list[Said]:
    return [
        Said(f"{row.event.decision} {row.event.confidence:f}", row.payload.decode())
        for row in store.read_all()
        if isinstance(row.event, AnalysisMade)
    ]


def timeframe_of(bars: Sequence[Bar]) -> Timeframe:
    """The shortest that no bar outlasts: closes cut bars, and most sessions are shorter than a day."""
    lasts = max(bar.closed_at - bar.opened_at for bar in bars)
    return next(frame for frame in Timeframe if frame.duration >= lasts)


CHECKS: dict[str, Callable[[Trial], Iterator[Other]]] = {
    "future cut off": _without_the_future,
    "future poisoned": _with_a_wild_future,
    "other century": _in_another_century,
    "asked twice": _asked_twice,
    "asked backwards": _asked_backwards,
    "nothing but bars": _asking_for_more,
    "other processes": _in_other_processes,
    "stored once": _stored_twice,
    "live as in batch": _heard_live,
}


# --- Asking -------------------------------------------------------------------------------------------------------


def _ask(variant: Variant, bars: Sequence[Bar], ends: Sequence[int]) -> list[Said]:
    return [_said(formed) for formed in variant.analyse(bars, ends)]


def _others(trial: Trial, said: Sequence[Said]) -> Iterator[Other]:
    return (other for other in zip(trial.ends, trial.said, said, strict=True) if other[1] != other[2])


def _said(formed: Formed) -> Said:
    opinion = formed.opinion
    short = f"{opinion.direction} {opinion.confidence:f}"
    for name, value in (("stop", opinion.stop), ("target", opinion.target), ("risk reward", opinion.risk_reward)):
        short += "" if value is None else f", {name} {value:f}"
    short += "" if opinion.horizon_bars is None else f", for {opinion.horizon_bars} bars"
    if opinion.entry is not None:
        # Without the instant it expires: that one moves with the bars.
        entry = msgspec.structs.replace(opinion.entry, expires_at=None)
        short += f", {msgspec.json.encode(entry).decode()}"
    return Said(short, f"{short} {msgspec.json.encode(opinion.entry).decode()} {formed.reports}")


if __name__ == "__main__":
    answer_on_stdout()
