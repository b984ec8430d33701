"""`audit regenerate` and `audit diff`: a run beside its second making, and two runs beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import AsJson, err, errors_in_words, out, print_facts, print_json, print_rows, progress
from ui.cli.run_selection import find_run

if TYPE_CHECKING:
    from engine.audit.compare import Comparison
    from engine.audit.regenerate import Regenerated
    from engine.core.events import RunRequested
    from engine.runtime.replay import Difference
    from engine.store import Recorded
    from ui.app import App, Tell

# A list that lost its first element differs in all of them.
FIELDS_SHOWN = 12

OneRun = Annotated[str, typer.Argument(metavar="RUN", help="A run by the beginning of its id, or `latest`.")]


# --- regenerate ---------------------------------------------------------------------------------------------------


def regenerate(run: OneRun, as_json: AsJson = False) -> None:
    """Make a run again from its stored analyses and bars, in memory, and compare. Exit code 3 if it comes out other."""
    from engine.core.errors import AnalysisMissing, BadInput, UnreadableEvent
    from engine.runtime.replay import engine_version_of
    from engine.store import ENGINE_VERSION
    from ui.app import open_audit

    with errors_in_words(), open_audit() as opened:
        requested = find_run(opened, run)
        if not as_json:
            _name_engines(engine_version_of(opened.store, requested.run_id), ENGINE_VERSION)
        try:
            with progress() as tell:
                found = _again(opened, requested, tell)
        except (AnalysisMissing, BadInput, UnreadableEvent) as error:
            err.print(f"run {requested.run_id[:8]} cannot be made again: {error}", markup=False)
            raise typer.Exit(3) from None
    if as_json:
        print_json(**_regenerated(found))
    else:
        _show_regenerated(found)
    if not found.equal:
        raise typer.Exit(3)


def _again(opened: App, run: RunRequested, tell: Tell) -> Regenerated:
    from engine.audit.regenerate import bars_of, opinions_of
    from engine.audit.regenerate import regenerate as make_again
    from engine.data.signals import load_signals

    bars = bars_of(opened.catalogue, opened.store, run)
    total = sum(map(len, bars))
    analyst = opinions_of(
        opened.store,
        run,
        lambda variant: load_signals(opened.store, opened.dsn, variant),
        lambda done: tell("stored analyses", done, max(done, total)),
    )
    return make_again(opened.store, bars, analyst, run, lambda done: tell("bars", done, total))


def _name_engines(recorded: str, ours: str) -> None:
    out.print(f"engine version  {recorded} recorded, {ours} now")
    if recorded != ours:
        out.print("The engine versions differ: what differs below may come from that.")


def _regenerated(found: Regenerated) -> dict[str, Any]:
    from engine.store import ENGINE_VERSION

    return {
        "run_id": found.run.run_id,
        "environment": found.run.environment.value,
        "engine_versions": {"recorded": found.engine_recorded, "regenerated": ENGINE_VERSION},
        "ended": found.ended,
        "bars": found.bars,
        "events": found.events,
        "dataset_digest": found.dataset._asdict(),
        "analyses_digest": found.analyses._asdict(),
        "book_digest": {**found.book._asdict(), "at_end": found.book_at_end},
        "equal": found.equal,
        "difference": _difference(found.difference, "stored", "regenerated"),
    }


def _show_regenerated(found: Regenerated) -> None:
    whole = "the whole book" if found.ended else "not ended: compared as far as its book goes"
    print_facts("Regenerated", {"run": found.run.run_id, "bars": found.bars, "events": found.events, "compared": whole})
    for name, pair in (("dataset", found.dataset), ("analyses", found.analyses), ("book", found.book)):
        out.print(f"{name:<9} stored      {pair.stored or '-'}")
        out.print(f"{'':<9} regenerated {pair.regenerated}")
    if not found.dataset.equal:
        out.print(_other_bars(found))
    if found.book_at_end not in ("", found.book.stored):
        out.print(f"The book in the log is not the one that the run ended with, {found.book_at_end}.")
    if found.difference is not None:
        _show_difference(found.difference, "stored", "regenerated")
    out.print("equal" if found.equal else "DIFFERENT")


def _other_bars(found: Regenerated) -> str:
    then, now = found.bars_recorded, found.bars
    if then is None or now == then:
        what = "other values in one bar or more"
    else:
        what = f"of {then:,} bars {then - now:,} missing" if now < then else f"{now:,} bars where there were {then:,}"
    return (
        f"The bars are not those that the run was made from: {what}. A stored bar is never overwritten: "
        "import the run's own files into an empty QUANTAGENT_HOME, or restore the table of bars from a backup."
    )


# --- diff ---------------------------------------------------------------------------------------------------------


def diff(run: OneRun, other: OneRun, as_json: AsJson = False) -> None:
    """Compare two runs: question, engine, counts, and where their books part. Exit code 3 if the books differ."""
    from engine.audit.compare import compare
    from ui.app import open_audit

    with errors_in_words(), open_audit() as opened:
        found = compare(opened.store, find_run(opened, run), find_run(opened, other))
    if as_json:
        print_json(**_compared(found))
    else:
        _show_compared(found)
    if not found.equal:
        raise typer.Exit(3)


def _compared(found: Comparison) -> dict[str, Any]:
    sides = (found.ours, found.theirs)
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
        "asked_differently": [change._asdict() for change in found.asked],
        "equal": found.equal,
        "difference": _difference(found.difference, "ours", "theirs"),
    }


def _show_compared(found: Comparison) -> None:
    sides = (found.ours, found.theirs)
    heads = [f"{n} {side.run.environment} {side.run.run_id[:8]}" for n, side in enumerate(sides, 1)]
    facts = [
        {"engine version": side.engine, "ended": side.ended, **side.counts, "book digest": side.book_digest[:16]}
        for side in sides
    ]
    print_rows("Two runs", [_row(name, heads, [f[name] for f in facts]) for name in facts[0]], ["", *heads])
    if found.asked:
        asked = [_row(change.field, heads, [change.ours, change.theirs]) for change in found.asked]
        print_rows("Asked differently", asked, ["", *heads])
    else:
        out.print("Both were asked the same.")
    if found.equal:
        out.print("The books are equal.")
    elif found.difference is None:
        out.print("The books differ in the configuration they name, and in nothing that was decided.")
    else:
        _show_difference(found.difference, "1", "2")


def _row(name: str, heads: list[str], values: list[Any]) -> dict[str, Any]:
    return {"": name, **dict(zip(heads, values, strict=True))}


# --- Differences --------------------------------------------------------------------------------------------------


def _difference(found: Difference | None, ours: str, theirs: str) -> dict[str, Any] | None:
    from engine.audit.compare import event_changes

    if found is None:
        return None
    return {
        "version": found.version,
        ours: event_facts(found.ours),
        theirs: event_facts(found.theirs),
        "fields": [change._asdict() for change in event_changes(found.ours, found.theirs)],
    }


def _show_difference(found: Difference, ours: str, theirs: str) -> None:
    """The first difference: where, and the fields that differ."""
    from engine.audit.compare import event_changes

    sides = ((ours, found.ours), (theirs, found.theirs))
    out.print(f"first difference at version {found.version:,} of the book")
    for name, row in sides:
        # What was made again just now lies in memory, and has no place in the log.
        out.print(f"  {name:<11} {_place(row, in_log=name != 'regenerated')}", markup=False)
    if found.ours is not None and found.theirs is not None:
        changes = event_changes(found.ours, found.theirs)
        rows = [{"field": change.field, ours: change.ours, theirs: change.theirs} for change in changes]
        print_rows("", rows[:FIELDS_SHOWN], ["field", ours, theirs])
        if len(rows) > FIELDS_SHOWN:
            out.print(f"and {len(rows) - FIELDS_SHOWN:,} fields more: --json tells them all")


def _place(row: Recorded | None, in_log: bool) -> str:
    from engine.audit.narration import says

    if row is None:
        return "nothing"
    where = f"position {row.position:,}" if in_log else f"version {row.version:,}"
    return f"{row.name} at {where}: {says(row.event)}"


def event_facts(row: Recorded | None) -> dict[str, Any] | None:
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
