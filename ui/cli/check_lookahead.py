"""`quantagent check-lookahead`: test of a variant and its sessions for knowledge of the future."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ui.cli.output import (
    AsJson,
    EndOption,
    StartOption,
    SymbolsOption,
    TimeframeOption,
    err,
    parse_instant,
    parse_symbols,
    print_json,
    print_rows,
    report_errors,
    show_progress,
)
from ui.cli.profile import ProfileOption, RiskProfileOption
from ui.cli.run_report import VariantOption

if TYPE_CHECKING:
    from ui.services.lookahead import LookaheadReport


def check_lookahead(
    variant: VariantOption = "",
    symbols: SymbolsOption = "",
    timeframe: TimeframeOption = "1h",
    start: StartOption = None,
    end: EndOption = None,
    profile: ProfileOption = None,
    risk_profile: RiskProfileOption = None,
    as_json: AsJson = False,
) -> None:
    """Test a variant with truncated and poisoned futures; exit code 3 if any decision changes."""
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.services.backtest import BacktestRequest
    from ui.services.lookahead import check_variant

    with report_errors():
        request = BacktestRequest(
            symbols=parse_symbols(symbols),
            timeframe=Timeframe.parse(timeframe),
            start=parse_instant(start),
            end=parse_instant(end),
            profile=profile,
            risk_profile=risk_profile,
            variant=variant,
        )
        with open_app() as opened, show_progress() as on_progress:
            report = check_variant(opened, request, on_progress)
        if as_json:
            print_json(**_facts(report))
        else:
            _show(report)
        if report.findings:
            raise typer.Exit(3)


def _facts(report: LookaheadReport) -> dict[str, Any]:
    return {
        "variant": report.variant,
        "bars": report.bars,
        "tried": report.tried,
        "checks": list(report.checks),
        "passed": not report.findings,
        "findings": [finding._asdict() for finding in report.findings],
    }


def _show(report: LookaheadReport) -> None:
    spread = "all" if report.tried == report.bars else "evenly spaced, after the warm-up"
    err.print(f"{report.tried:,} of {report.bars:,} bars were checked, {spread}.")
    failed = {finding.check for finding in report.findings}
    rows = [{"check": name, "passed": name not in failed} for name in report.checks]
    print_rows(report.variant, rows, ["check", "passed"])
    if report.findings:
        moved = [finding._asdict() for finding in report.findings]
        print_rows("The first decision that changed", moved, ["check", "symbol", "at", "before", "after"])
