"""`quantagent data check`, `gaps` and `revisions`: quality of the stored bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import (
    AsJson,
    EndOption,
    StartOption,
    TimeframeOption,
    Wide,
    err,
    out,
    parse_instant,
    print_json,
    print_rows,
    report_errors,
    show_progress,
)

if TYPE_CHECKING:
    from engine.data import Revision, StoredSeries
    from engine.data.report import DataQualityReport
    from ui.app import App, ProgressCallback

SHOWN = 20
GAP_COLUMNS = ["from", "to", "bars", "why"]
REVISION_COLUMNS = ["symbol", "opened_at", "revision", "open", "high", "low", "close", "volume", "learned_at", "source"]

SymbolArgument = Annotated[str | None, typer.Argument(metavar="[SYMBOL]", help="Only this symbol.")]
TimeframeFilter = Annotated[str | None, typer.Option("--timeframe", metavar="1h", help="Only this timeframe.")]


def data_check(
    symbol: SymbolArgument = None,
    timeframe: TimeframeFilter = None,
    start: StartOption = None,
    end: EndOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Check stored bars against their calendar: gaps with reasons, flagged bars, and a chart of the days."""
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        with show_progress() as on_progress:
            reports = list(_reports(opened, symbol, timeframe, start, end, on_progress))
        if as_json:
            print_json(reports=[_plain(each) for each in reports])
            return
        print_rows("Stored bars", [_summary(each) for each in reports], [
            "symbol", "timeframe", "first", "last", "bars", "expected", "holes", "flagged", "corrected", "refused",
        ], wide=wide)  # fmt: skip
        for each in reports:
            if symbol is not None or len(reports) == 1:
                _show(each)


def data_gaps(
    symbol: str,
    timeframe: TimeframeOption = "1h",
    start: StartOption = None,
    end: EndOption = None,
    as_json: AsJson = False,
) -> None:
    """List the gaps in a symbol's bars inside its trading hours, with reasons."""
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        with show_progress() as on_progress:
            (report,) = _reports(opened, symbol, timeframe, start, end, on_progress)
        if as_json:
            print_json(symbol=symbol, timeframe=timeframe, missing=_gap_rows(report))
        elif report.missing:
            print_rows(
                f"{symbol} {timeframe}: bars that are missing (UTC)", _gap_rows(report), ["from", "to", "bars", "why"]
            )
        else:
            err.print(f"{symbol} {timeframe}: all {report.bars:,} bars of its calendar are stored.")


def data_revisions(
    symbol: SymbolArgument = None,
    timeframe: TimeframeFilter = None,
    start: StartOption = None,
    end: EndOption = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """List revised bars; earlier runs keep the values that they knew."""
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        rows = [
            _revision(each)
            for series in _select_series(opened, symbol, timeframe)
            for each in opened.catalogue.revised_bars(
                series.symbol, series.timeframe, parse_instant(start), parse_instant(end)
            )
        ]
        if as_json:
            print_json(revisions=rows)
        elif rows:
            print_rows("Bars with more than one revision (UTC)", rows, REVISION_COLUMNS, wide=wide)
        else:
            err.print("No bar was ever corrected.")


def _reports(
    opened: App,
    symbol: str | None,
    timeframe: str | None,
    start: str | None,
    end: str | None,
    on_progress: ProgressCallback,
) -> Iterable[DataQualityReport]:
    from engine import clock
    from engine.data.report import data_quality_report

    selected, since, until = _select_series(opened, symbol, timeframe), parse_instant(start), parse_instant(end)
    if until is not None:
        # Bars of the future are not missing.
        until = min(until, clock.now())
    for done, each in enumerate(selected):
        on_progress("series", done, len(selected))
        # A range may have no bars of some of several series.
        if len(selected) == 1 or ((until is None or each.first < until) and (since is None or each.last > since)):
            yield data_quality_report(
                opened.catalogue, opened.catalogue.instrument(each.symbol), each.timeframe, since, until
            )
        on_progress("series", done + 1, len(selected))


def _select_series(opened: App, symbol: str | None, timeframe: str | None) -> list[StoredSeries]:
    """Return the stored series of a symbol and timeframe; None is any. Raise `NotFound` if there are none."""
    from engine.core.errors import NotFound
    from engine.core.market import Timeframe

    frame = None if timeframe is None else Timeframe.parse(timeframe)
    listing = opened.catalogue.list_series()
    selected = [each for each in listing if symbol in (None, each.symbol) and frame in (None, each.timeframe)]
    if not selected:
        known = ", ".join(f"{each.symbol} {each.timeframe}" for each in listing) or "no bars yet"
        wanted = " ".join(["there are no", *([frame] if frame else []), "bars", *([f"of {symbol}"] if symbol else [])])
        raise NotFound(f"{wanted}; the catalogue holds {known}.", "SERIES_MISSING")
    return selected


def _summary(report: DataQualityReport) -> dict[str, Any]:
    return {
        "symbol": report.instrument.symbol,
        "timeframe": report.timeframe,
        "calendar": report.instrument.calendar,
        "first": report.span.start,
        "last": report.span.end,
        "bars": report.bars,
        "expected": report.expected,
        "holes": len(report.missing),
        "flagged": len(report.flagged),
        "corrected": report.corrected,
        "refused": len(report.refused),
    }


def _gap_rows(report: DataQualityReport) -> list[dict[str, Any]]:
    return [
        {"from": each.gap.span.start, "to": each.gap.span.end, "bars": each.gap.bars, "why": each.reason}
        for each in report.missing
    ]


def _plain(report: DataQualityReport) -> dict[str, Any]:
    return _summary(report) | {
        "missing": _gap_rows(report),
        "flags": [each._asdict() for each in report.flagged],
        "refused_rows": [each._asdict() for each in report.refused],
        "days": {str(day): counts for day, counts in report.days.items()},
    }


def _show(report: DataQualityReport) -> None:
    """Print one series: days, gaps, flagged bars and refused rows."""
    name = f"{report.instrument.symbol} {report.timeframe}"
    out.print(f"\n{name}, one character per day: █ all bars, ▓ most, ░ some, × none, · closed")
    for line in day_chart(report.days):
        out.print(line)
    for title, rows, columns in (
        ("Missing", _gap_rows(report), GAP_COLUMNS),
        ("To look at", [each._asdict() for each in report.flagged], ["opened_at", "reason"]),
        ("Refused", [each._asdict() for each in report.refused], ["row", "line", "reason"]),
    ):
        if rows:
            more = f" (the first {SHOWN} of {len(rows):,}; all with --json)" if len(rows) > SHOWN else ""
            print_rows(f"\n{title}{more}", rows[:SHOWN], columns)


def day_chart(days: Mapping[date, tuple[int, int]]) -> list[str]:
    """Return a line for each month with a character for each day."""
    if not days:
        return []
    lines: list[str] = []
    month, last = min(days).replace(day=1), max(days)
    while month <= last:
        following = (month + timedelta(days=31)).replace(day=1)
        line = [_day(days.get(month + timedelta(days=n))) for n in range((following - month).days)]
        lines.append(f"{month:%Y-%m} {''.join(line)}")
        month = following
    return lines


def _day(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return "·"
    stored, expected = counts
    if stored == 0:
        return "×"
    return "█" if stored == expected else "▓" if 2 * stored >= expected else "░"


def _revision(revision: Revision) -> dict[str, Any]:
    bar = revision.bar
    numbers = {name: getattr(bar, name) for name in ("open", "high", "low", "close", "volume")}
    known = {"revision": revision.revision, "learned_at": revision.learned_at, "source": revision.source}
    return {"symbol": bar.symbol, "opened_at": bar.opened_at, "closed_at": bar.closed_at, **numbers, **known}
