"""`quantagent audit regenerate`: a run regenerated in memory and compared with the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ui.cli.audit_output import AuditRunArgument, difference_facts, show_difference
from ui.cli.output import AsJson, err, out, print_facts, print_json, report_errors, show_progress
from ui.cli.remedies import sentence
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.audit.regenerate import RegenerationResult
    from engine.core.events import RunRequested
    from ui.app import App, ProgressCallback


def regenerate(run: AuditRunArgument, as_json: AsJson = False) -> None:
    """Regenerate a run in memory from its stored analyses and bars, and compare; exit code 3 if it differs."""
    from engine.core.errors import AnalysisMissing, BadInput, UnreadableEvent
    from engine.runtime.replay import engine_version_of
    from engine.store import ENGINE_VERSION
    from ui.app import open_audit

    with report_errors(), open_audit() as opened:
        requested = resolve_run(opened, run)
        if not as_json:
            _print_engine_versions(engine_version_of(opened.store, requested.run_id), ENGINE_VERSION)
        try:
            with show_progress() as on_progress:
                regenerated = _regenerate_run(opened, requested, on_progress)
        except (AnalysisMissing, BadInput, UnreadableEvent) as error:
            err.print(f"run {requested.run_id[:8]} cannot be regenerated: {sentence(error)}", markup=False)
            raise typer.Exit(3) from None
    if as_json:
        print_json(**_regenerated_facts(regenerated))
    else:
        _show_regenerated(regenerated)
    if not regenerated.equal:
        raise typer.Exit(3)


def _regenerate_run(opened: App, run: RunRequested, on_progress: ProgressCallback) -> RegenerationResult:
    from engine.audit.regenerate import regenerate_run as make_again
    from engine.audit.regenerate import run_bars, stored_analyst
    from engine.data.signals import load_signals

    bars = run_bars(opened.catalogue, opened.store, run)
    total = sum(map(len, bars))
    analyst = stored_analyst(
        opened.store,
        run,
        lambda variant: load_signals(opened.store, opened.dsn, variant),
        lambda done: on_progress("stored analyses", done, max(done, total)),
    )
    return make_again(opened.store, bars, analyst, run, lambda done: on_progress("bars", done, total))


def _print_engine_versions(recorded: str, ours: str) -> None:
    out.print(f"engine version  {recorded} recorded, {ours} now")
    if recorded != ours:
        out.print("The engine versions differ, a possible cause of the differences below.")


def _regenerated_facts(regenerated: RegenerationResult) -> dict[str, Any]:
    from engine.store import ENGINE_VERSION

    return {
        "run_id": regenerated.run.run_id,
        "environment": regenerated.run.environment.value,
        "engine_versions": {"recorded": regenerated.engine_recorded, "regenerated": ENGINE_VERSION},
        "ended": regenerated.ended,
        "bars": regenerated.bars,
        "events": regenerated.events,
        "dataset_digest": regenerated.dataset._asdict(),
        "analyses_digest": regenerated.analyses._asdict(),
        "book_digest": {**regenerated.book._asdict(), "at_end": regenerated.book_at_end},
        "equal": regenerated.equal,
        "difference": difference_facts(regenerated.difference, "stored", "regenerated"),
    }


def _show_regenerated(regenerated: RegenerationResult) -> None:
    scope = "the whole book" if regenerated.ended else "not ended: compared up to the end of its book"
    print_facts(
        "Regenerated",
        {"run": regenerated.run.run_id, "bars": regenerated.bars, "events": regenerated.events, "compared": scope},
    )
    for name, pair in (
        ("dataset", regenerated.dataset),
        ("analyses", regenerated.analyses),
        ("book", regenerated.book),
    ):
        out.print(f"{name:<9} stored      {pair.stored or '-'}")
        out.print(f"{'':<9} regenerated {pair.regenerated}")
    if not regenerated.dataset.equal:
        out.print(_describe_bar_changes(regenerated))
    if regenerated.book_at_end not in ("", regenerated.book.stored):
        out.print(f"The book in the log differs from the one at the end of the run, {regenerated.book_at_end}.")
    if regenerated.difference is not None:
        show_difference(regenerated.difference, "stored", "regenerated")
    out.print("equal" if regenerated.equal else "DIFFERENT")


def _describe_bar_changes(regenerated: RegenerationResult) -> str:
    then, now = regenerated.bars_recorded, regenerated.bars
    if then is None or now == then:
        what = "at least one bar has other values"
    else:
        what = f"{then - now:,} of {then:,} bars missing" if now < then else f"{now:,} bars instead of {then:,}"
    return (
        f"The bars differ from those of the run: {what}. A stored bar is never overwritten: "
        "import the run's own files into an empty QUANTAGENT_HOME, or restore the table of bars from a backup."
    )
