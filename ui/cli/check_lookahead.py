"""`check-lookahead`: whether a variant's decisions, and the books they lead to, know nothing but the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ui.cli.output import (
    AsJson,
    End,
    Frame,
    Start,
    Symbols,
    err,
    errors_in_words,
    instant_of,
    print_json,
    print_rows,
    progress,
    symbols_of,
)
from ui.cli.profile import OfProfile, OfRisk
from ui.cli.trading import OfVariant

if TYPE_CHECKING:
    from ui.services.lookahead import Checked


def check_lookahead(
    variant: OfVariant = "",
    symbols: Symbols = "",
    timeframe: Frame = "1h",
    start: Start = None,
    end: End = None,
    profile: OfProfile = None,
    risk_profile: OfRisk = None,
    as_json: AsJson = False,
) -> None:
    """Cut off and poison the future, ask again in every other way, and name the first decision that moves.

    Nothing is stored. Ends with 3 if anything moved.
    """
    from engine.core.market import Timeframe
    from ui.app import Question, open_app
    from ui.services.lookahead import check_variant

    with errors_in_words():
        question = Question(
            symbols=symbols_of(symbols),
            timeframe=Timeframe.parse(timeframe),
            start=instant_of(start),
            end=instant_of(end),
            profile=profile,
            risk_profile=risk_profile,
            variant=variant,
        )
        with open_app() as opened, progress() as tell:
            checked = check_variant(opened, question, tell)
        if as_json:
            print_json(**_facts(checked))
        else:
            _show(checked)
        if checked.findings:
            raise typer.Exit(3)


def _facts(checked: Checked) -> dict[str, Any]:
    return {
        "variant": checked.variant,
        "bars": checked.bars,
        "tried": checked.tried,
        "checks": list(checked.checks),
        "passed": not checked.findings,
        "findings": [finding._asdict() for finding in checked.findings],
    }


def _show(checked: Checked) -> None:
    spread = "all" if checked.tried == checked.bars else "evenly spaced, after the warm-up"
    err.print(f"{checked.tried:,} of {checked.bars:,} bars were asked about, {spread}.")
    failed = {finding.check for finding in checked.findings}
    rows = [{"check": name, "passed": name not in failed} for name in checked.checks]
    print_rows(checked.variant, rows, ["check", "passed"])
    if checked.findings:
        moved = [finding._asdict() for finding in checked.findings]
        print_rows("The first decision that moved", moved, ["check", "symbol", "at", "before", "after"])
