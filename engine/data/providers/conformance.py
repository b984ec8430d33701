"""Whether a provider keeps its word: the same answer twice, nothing from outside the span or after now, its reach, and
rows that the catalogue would take.

`check` is meant for a provider's own tests, `assert check(provider, instrument, timeframe, span, now) == []`, with an
answer that is recorded and good: it asks some ten times. What it cannot try is whether the prices are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import polars as pl

from engine.core.errors import NotFound, ProviderUnavailable, QuantagentError
from engine.core.market import Instrument, Timeframe
from engine.data.bar_rules import time_text
from engine.data.calendars import Span, grid
from engine.data.providers import Provider, Reach
from engine.data.providers.rows import fault_in_shape
from engine.data.validation import judge

UNKNOWN = "NO-SUCH-SYMBOL"


class Finding(NamedTuple):
    """A check that a provider did not pass, and what it did."""

    check: str
    what: str


class Trial(NamedTuple):
    """A question, and the rows that came when it was asked first."""

    provider: Provider
    instrument: Instrument
    timeframe: Timeframe
    span: Span
    now: datetime
    rows: pl.DataFrame

    def ask(self, span: Span | None = None, now: datetime | None = None) -> pl.DataFrame:
        return self.provider.fetch(self.instrument, self.timeframe, span or self.span, now or self.now)

    def bars(self) -> pl.DataFrame:
        """The bars of the span that a fully traded market has."""
        return grid(self.instrument.calendar, self.timeframe, self.span)


def check(provider: Provider, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> list[Finding]:
    """What a provider does not pass, one finding for each check.

    `span` is one of which the provider has rows, inside its reach and closed by `now`, of two bars at the least.
    """
    if provider.reach(instrument, timeframe) is None:
        return [Finding("it offers the bars", f"it offers no {timeframe} bars of {instrument.symbol}: try others")]
    try:
        rows = provider.fetch(instrument, timeframe, span, now)
    except Exception as error:
        return [Finding("it answers", _words(error))]
    faults = fault_in_shape(rows)
    if faults:
        return [Finding("its rows have the columns and types of the protocol", faults)]
    if rows.height < 2:
        return [Finding("it has rows", f"{rows.height} rows from {time_text(span.start)} on: give a span with more")]
    trial = Trial(provider, instrument, timeframe, span, now, rows.clone())
    return [Finding(name, what) for name, tried in CHECKS.items() for what in _first(tried, trial)]


def _first(tried: Callable[[Trial], Iterator[str]], trial: Trial) -> list[str]:
    """The first fault that a check finds, if it finds one; an error that nobody expects is one."""
    try:
        return [fault for fault, _ in zip(tried(trial), range(1), strict=False)]
    except Exception as error:
        return [_words(error)]


def _words(error: Exception) -> str:
    return f"it raised {type(error).__name__}: {' '.join(str(error).split())}"


# --- The checks: each yields what it finds ------------------------------------------------------------------------


def _inside(trial: Trial) -> Iterator[str]:
    for opened_at in trial.rows["opened_at"]:
        if not trial.span.start <= opened_at < trial.span.end:
            yield f"a row opens at {time_text(opened_at)}"


def _accepted(trial: Trial) -> Iterator[str]:
    for refused in judge(trial.rows, trial.instrument, trial.timeframe, trial.now).refused:
        yield f"{refused.line} is refused: {refused.reason}"


def _twice(trial: Trial) -> Iterator[str]:
    yield from _difference(trial.rows, trial.ask())


def _apart(trial: Trial) -> Iterator[str]:
    """An answer is the caller's own: what is done to it shows in no other."""
    told = trial.ask()
    before = told.clone()
    told.drop_in_place("volume")
    told[0, "open"] = None
    again = trial.ask()
    yield from [fault_in_shape(again)] if fault_in_shape(again) else _difference(before, again)


def _halves(trial: Trial) -> Iterator[str]:
    opens = trial.bars()["opened_at"]
    middle: datetime = opens[len(opens) // 2]
    parts = [trial.ask(Span(trial.span.start, middle)), trial.ask(Span(middle, trial.span.end))]
    yield from _difference(trial.rows, pl.concat(parts, how="vertical_relaxed"))


def _past(trial: Trial) -> Iterator[str]:
    """Asked in the middle of the span it tells what had closed by then: on a bar's close, and a second before."""
    bars = trial.bars()
    middle: datetime = bars["closed_at"][bars.height // 2]
    for now in (middle, middle - timedelta(seconds=1)):
        told = trial.ask(now=now)
        opened = told["opened_at"].max() if told.height else None
        late = told.join(bars.filter(pl.col("closed_at") > now), on="opened_at")
        if late.height:
            yield f"at {time_text(now)} it told the bar that opens at {time_text(late['opened_at'][0])}"
        elif isinstance(opened, datetime) and opened >= now:
            yield f"at {time_text(now)} it told a row that opens at {time_text(opened)}"


def _unknown(trial: Trial) -> Iterator[str]:
    stranger = msgspec.structs.replace(trial.instrument, symbol=UNKNOWN)
    trial.provider.reach(stranger, trial.timeframe)
    try:
        told = trial.provider.fetch(stranger, trial.timeframe, trial.span, trial.now)
    except (NotFound, ProviderUnavailable):
        return
    yield f"it told {told.height} rows of {UNKNOWN}"


def _reach(trial: Trial) -> Iterator[str]:
    reach = trial.provider.reach(trial.instrument, trial.timeframe) or Reach()
    length = trial.span.end - trial.span.start
    if reach.call is not None and length > reach.call:
        yield f"it says that a call covers {reach.call}, and answered for {length}"
    if reach.back is None:
        return
    if trial.rows["opened_at"][0] < trial.now - reach.back:
        yield f"it says that it reaches back {reach.back}, and has a row of {time_text(trial.rows['opened_at'][0])}"
    # The very edge is the provider's to draw, where its clock is another.
    end = trial.now - reach.back - timedelta(days=2)
    try:
        told = trial.ask(Span(end - min(length, reach.call or length), end))
    except QuantagentError:
        return
    if told.height:
        yield f"it says that it reaches back {reach.back}, and has rows up to {time_text(end)}"


CHECKS: dict[str, Callable[[Trial], Iterator[str]]] = {
    "nothing is outside of the span": _inside,
    "the catalogue takes its rows": _accepted,
    "the same question has the same answer": _twice,
    "two halves of a span are the whole": _halves,
    "nothing is told before it has closed": _past,
    "an unknown symbol is NotFound or ProviderUnavailable": _unknown,
    "its reach is as it says": _reach,
    "an answer is the caller's own": _apart,
}


def _difference(rows: pl.DataFrame, others: pl.DataFrame) -> Iterator[str]:
    """Where two answers part."""
    fault = fault_in_shape(others)
    if fault:
        yield fault
    elif rows.height != others.height:
        yield f"{rows.height} rows, and then {others.height}"
    else:
        for row, other in zip(rows.iter_rows(), others.iter_rows(), strict=True):
            # As text: what is not a number is not even equal to itself.
            if str(row) != str(other):
                yield f"at {time_text(row[0])} it told {row[1:]}, and then {other[1:]}"
