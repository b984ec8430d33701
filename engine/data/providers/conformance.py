"""Conformance checks of a provider: repeatable responses, rows within the span and before now, limits, valid rows.

`check_provider` is for the tests of a provider. It returns a list of findings, which must be empty. It needs a
recorded, valid response, because it makes about ten calls. It cannot check if the prices are correct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import polars as pl

from engine.core.errors import NotFound, ProviderUnavailable, QuantagentError
from engine.core.market import Instrument, Timeframe
from engine.data.bar_rules import format_instant
from engine.data.calendars import Span, grid
from engine.data.providers import Provider, Reach
from engine.data.providers.rows import invalid_shape
from engine.data.validation import validate_bars

UNKNOWN = "NO-SUCH-SYMBOL"


class ProviderFinding(NamedTuple):
    """Failed check, and the behavior of the provider that failed it."""

    check: str
    what: str


class ProviderTrial(NamedTuple):
    """Request to a provider, and the rows of its first response."""

    provider: Provider
    instrument: Instrument
    timeframe: Timeframe
    span: Span
    now: datetime
    rows: pl.DataFrame

    def fetch(self, span: Span | None = None, now: datetime | None = None) -> pl.DataFrame:
        return self.provider.fetch(self.instrument, self.timeframe, span or self.span, now or self.now)

    def expected_bars(self) -> pl.DataFrame:
        """Return the bars of the grid in the span."""
        return grid(self.instrument.calendar, self.timeframe, self.span)


def check_provider(
    provider: Provider, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime
) -> list[ProviderFinding]:
    """Return the failed checks of a provider, one finding each.

    span: a span within the provider's limits, for which it has at least two bars that closed by `now`.
    """
    if provider.reach(instrument, timeframe) is None:
        return [
            ProviderFinding("it offers the bars", f"it offers no {timeframe} bars of {instrument.symbol}: try others")
        ]
    try:
        rows = provider.fetch(instrument, timeframe, span, now)
    except Exception as error:
        return [ProviderFinding("it answers", _describe_exception(error))]
    shape_error = invalid_shape(rows)
    if shape_error:
        return [ProviderFinding("its rows have the columns and types of the protocol", shape_error)]
    if rows.height < 2:
        return [
            ProviderFinding(
                "it has rows", f"{rows.height} rows from {format_instant(span.start)} on: choose a span with more"
            )
        ]
    trial = ProviderTrial(provider, instrument, timeframe, span, now, rows.clone())
    return [
        ProviderFinding(name, what) for name, run_check in CHECKS.items() for what in _first_problem(run_check, trial)
    ]


def _first_problem(run_check: Callable[[ProviderTrial], Iterator[str]], trial: ProviderTrial) -> list[str]:
    """Return the first problem found by a check, if any; an unexpected exception is a problem."""
    try:
        return [problem for problem, _ in zip(run_check(trial), range(1), strict=False)]
    except Exception as error:
        return [_describe_exception(error)]


def _describe_exception(error: Exception) -> str:
    return f"it raised {type(error).__name__}: {' '.join(str(error).split())}"


# --- Checks: each yields its problems -----------------------------------------------------------------------------


def _check_span(trial: ProviderTrial) -> Iterator[str]:
    for opened_at in trial.rows["opened_at"]:
        if not trial.span.start <= opened_at < trial.span.end:
            yield f"a row opens at {format_instant(opened_at)}"


def _check_accepted(trial: ProviderTrial) -> Iterator[str]:
    for refused in validate_bars(trial.rows, trial.instrument, trial.timeframe, trial.now).refused:
        yield f"{refused.line} is refused: {refused.reason}"


def _check_repeatable(trial: ProviderTrial) -> Iterator[str]:
    yield from _difference(trial.rows, trial.fetch())


def _check_independent_frames(trial: ProviderTrial) -> Iterator[str]:
    """Check that changing a response does not change the next one."""
    first = trial.fetch()
    before = first.clone()
    first.drop_in_place("volume")
    first[0, "open"] = None
    second = trial.fetch()
    yield from [invalid_shape(second)] if invalid_shape(second) else _difference(before, second)


def _check_split_span(trial: ProviderTrial) -> Iterator[str]:
    opens = trial.expected_bars()["opened_at"]
    middle: datetime = opens[len(opens) // 2]
    parts = [trial.fetch(Span(trial.span.start, middle)), trial.fetch(Span(middle, trial.span.end))]
    yield from _difference(trial.rows, pl.concat(parts, how="vertical_relaxed"))


def _check_point_in_time(trial: ProviderTrial) -> Iterator[str]:
    """Check that the response at a time inside the span has only closed bars: at a close, and a second before."""
    bars = trial.expected_bars()
    middle: datetime = bars["closed_at"][bars.height // 2]
    for now in (middle, middle - timedelta(seconds=1)):
        rows = trial.fetch(now=now)
        opened = rows["opened_at"].max() if rows.height else None
        late = rows.join(bars.filter(pl.col("closed_at") > now), on="opened_at")
        if late.height:
            yield f"at {format_instant(now)} it returned the bar that opens at {format_instant(late['opened_at'][0])}"
        elif isinstance(opened, datetime) and opened >= now:
            yield f"at {format_instant(now)} it returned a row that opens at {format_instant(opened)}"


def _check_unknown_symbol(trial: ProviderTrial) -> Iterator[str]:
    unknown = msgspec.structs.replace(trial.instrument, symbol=UNKNOWN)
    trial.provider.reach(unknown, trial.timeframe)
    try:
        rows = trial.provider.fetch(unknown, trial.timeframe, trial.span, trial.now)
    except (NotFound, ProviderUnavailable):
        return
    yield f"it returned {rows.height} rows of {UNKNOWN}"


def _check_reach(trial: ProviderTrial) -> Iterator[str]:
    reach = trial.provider.reach(trial.instrument, trial.timeframe) or Reach()
    length = trial.span.end - trial.span.start
    if reach.call is not None and length > reach.call:
        yield f"its reach has calls of {reach.call}, and it answered for {length}"
    if reach.back is None:
        return
    if trial.rows["opened_at"][0] < trial.now - reach.back:
        first = format_instant(trial.rows["opened_at"][0])
        yield f"its reach goes back {reach.back}, and it has a row of {first}"
    # Two days of tolerance, because the provider's clock may differ.
    end = trial.now - reach.back - timedelta(days=2)
    try:
        rows = trial.fetch(Span(end - min(length, reach.call or length), end))
    except QuantagentError:
        return
    if rows.height:
        yield f"its reach goes back {reach.back}, and it has rows up to {format_instant(end)}"


CHECKS: dict[str, Callable[[ProviderTrial], Iterator[str]]] = {
    "nothing is outside of the span": _check_span,
    "the catalogue takes its rows": _check_accepted,
    "the same question has the same answer": _check_repeatable,
    "two halves of a span are the whole": _check_split_span,
    "no bar is returned before it has closed": _check_point_in_time,
    "an unknown symbol is NotFound or ProviderUnavailable": _check_unknown_symbol,
    "its reach is as declared": _check_reach,
    "an answer is the caller's own": _check_independent_frames,
}


def _difference(rows: pl.DataFrame, others: pl.DataFrame) -> Iterator[str]:
    """Yield the first difference of two responses."""
    problem = invalid_shape(others)
    if problem:
        yield problem
    elif rows.height != others.height:
        yield f"{rows.height} rows, and then {others.height}"
    else:
        for row, other in zip(rows.iter_rows(), others.iter_rows(), strict=True):
            # Compared as text, because NaN is not equal to itself.
            if str(row) != str(other):
                yield f"at {format_instant(row[0])} it returned {row[1:]}, and then {other[1:]}"
