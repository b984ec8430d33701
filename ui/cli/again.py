"""`audit regenerate` and `audit diff`: a run beside its second making, and two runs beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import AsJson, err, out, print_facts, print_json, print_rows, report_errors, show_progress
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.audit.compare import RunComparison
    from engine.audit.regenerate import RegenerationResult
    from engine.core.events import RunRequested
    from engine.runtime.replay import Divergence
    from engine.store import LogEntry
    from ui.app import App, ProgressCallback

# A list that lost its first element differs in all of them.
FIELDS_SHOWN = 12

AuditRunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run by the beginning of its id, or `latest`.")]


# --- regenerate ---------------------------------------------------------------------------------------------------


def regenerate(run: AuditRunArgument, as_json: AsJson = False) -> None:
    """Make a run again from its stored analyses and bars, in memory, and compare. Exit code 3 if it comes out other."""
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
            err.print(f"run {requested.run_id[:8]} cannot be made again: {error}", markup=False)
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
        out.print("The engine versions differ: what differs below may come from that.")


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
        "difference": _difference_facts(regenerated.difference, "stored", "regenerated"),
    }


def _show_regenerated(regenerated: RegenerationResult) -> None:
    scope = "the whole book" if regenerated.ended else "not ended: compared as far as its book goes"
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
        out.print(f"The book in the log is not the one that the run ended with, {regenerated.book_at_end}.")
    if regenerated.difference is not None:
        _show_difference(regenerated.difference, "stored", "regenerated")
    out.print("equal" if regenerated.equal else "DIFFERENT")


def _describe_bar_changes(regenerated: RegenerationResult) -> str:
    then, now = regenerated.bars_recorded, regenerated.bars
    if then is None or now == then:
        what = "other values in one bar or more"
    else:
        what = f"of {then:,} bars {then - now:,} missing" if now < then else f"{now:,} bars where there were {then:,}"
    return (
        f"The bars are not those that the run was made from: {what}. A stored bar is never overwritten: "
        "import the run's own files into an empty QUANTAGENT_HOME, or restore the table of bars from a backup."
    )


# --- diff ---------------------------------------------------------------------------------------------------------


def diff(run: AuditRunArgument, other: AuditRunArgument, as_json: AsJson = False) -> None:
    """Compare two runs: question, engine, counts, and where their books part. Exit code 3 if the books differ."""
    from engine.audit.compare import compare_runs
    from ui.app import open_audit

    with report_errors(), open_audit() as opened:
        comparison = compare_runs(opened.store, resolve_run(opened, run), resolve_run(opened, other))
    if as_json:
        print_json(**_comparison_facts(comparison))
    else:
        _show_comparison(comparison)
    if not comparison.equal:
        raise typer.Exit(3)


def _comparison_facts(comparison: RunComparison) -> dict[str, Any]:
    sides = (comparison.ours, comparison.theirs)
    return {
        "runs": [
            {
                "run_id": side.run.run_id,
                "environment": side.run.environment.value,
                "engine_version": side.engine,
                "ended": side.ended,
                **{name.replace(" ", "_"): count for name, count in side.counts.items()},
                "book_digest": side.book_digest,
            }
            for side in sides
        ],
        "asked_differently": [change._asdict() for change in comparison.request_changes],
        "equal": comparison.equal,
        "difference": _difference_facts(comparison.difference, "ours", "theirs"),
    }


def _show_comparison(comparison: RunComparison) -> None:
    sides = (comparison.ours, comparison.theirs)
    heads = [f"{n} {side.run.environment} {side.run.run_id[:8]}" for n, side in enumerate(sides, 1)]
    facts = [
        {"engine version": side.engine, "ended": side.ended, **side.counts, "book digest": side.book_digest[:16]}
        for side in sides
    ]
    print_rows("Two runs", [_row(name, heads, [f[name] for f in facts]) for name in facts[0]], ["", *heads])
    if comparison.request_changes:
        changes = [_row(change.field, heads, [change.ours, change.theirs]) for change in comparison.request_changes]
        print_rows("Asked differently", changes, ["", *heads])
    else:
        out.print("Both were asked the same.")
    if comparison.equal:
        out.print("The books are equal.")
    elif comparison.difference is None:
        out.print("The books differ in the configuration they name, and in nothing that was decided.")
    else:
        _show_difference(comparison.difference, "1", "2")


def _row(name: str, heads: list[str], values: list[Any]) -> dict[str, Any]:
    return {"": name, **dict(zip(heads, values, strict=True))}


# --- Differences --------------------------------------------------------------------------------------------------


def _difference_facts(difference: Divergence | None, ours: str, theirs: str) -> dict[str, Any] | None:
    from engine.audit.compare import event_changes

    if difference is None:
        return None
    return {
        "version": difference.version,
        ours: event_facts(difference.ours),
        theirs: event_facts(difference.theirs),
        "fields": [change._asdict() for change in event_changes(difference.ours, difference.theirs)],
    }


def _show_difference(difference: Divergence, ours: str, theirs: str) -> None:
    """The first difference: where, and the fields that differ."""
    from engine.audit.compare import event_changes

    sides = ((ours, difference.ours), (theirs, difference.theirs))
    out.print(f"first difference at version {difference.version:,} of the book")
    for name, row in sides:
        # What was made again just now lies in memory, and has no place in the log.
        out.print(f"  {name:<11} {_place(row, in_log=name != 'regenerated')}", markup=False)
    if difference.ours is not None and difference.theirs is not None:
        changes = event_changes(difference.ours, difference.theirs)
        rows = [{"field": change.field, ours: change.ours, theirs: change.theirs} for change in changes]
        print_rows("", rows[:FIELDS_SHOWN], ["field", ours, theirs])
        if len(rows) > FIELDS_SHOWN:
            out.print(f"and {len(rows) - FIELDS_SHOWN:,} fields more: --json tells them all")


def _place(row: LogEntry | None, in_log: bool) -> str:
    from engine.audit.narration import describe_event

    if row is None:
        return "nothing"
    where = f"position {row.position:,}" if in_log else f"version {row.version:,}"
    return f"{row.name} at {where}: {describe_event(row.event)}"


def event_facts(row: LogEntry | None) -> dict[str, Any] | None:
    """An event as JSON shows it; null for none."""
    import msgspec

    if row is None:
        return None
    return {
        "position": row.position,
        "stream": row.stream,
        "version": row.version,
        "name": row.name,
        "payload": msgspec.json.decode(row.payload),
    }
