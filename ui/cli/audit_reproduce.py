"""`quantagent audit reproduce`: the run of a bundle, executed in this log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.audit_output import event_facts
from ui.cli.output import AsJson, err, out, print_facts, print_json, report_errors, show_progress
from ui.cli.remedies import sentence

if TYPE_CHECKING:
    from engine.audit.capsule import Capsule
    from engine.audit.reproduce import ReproductionResult
    from engine.store import LogEntry


# A different environment differs in all of them.
PACKAGES_SHOWN = 8


def reproduce(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by `audit bundle`.")],
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key", metavar="KEY", help="The key that must vouch for the run, or its file, received separately."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reproduce a capsule's run and compare; exit code 3 if it differs or the given key does not vouch for it."""
    from engine.audit.anchors import read_public_key
    from engine.audit.capsule import open_capsule
    from engine.audit.reproduce import reproduce_run as make_again
    from engine.core.errors import AnalysisMissing, ReplayDiverged, VersionConflict
    from ui.app import open_app
    from ui.environment_lock import lock_digest

    with report_errors():
        key = None if public_key is None else read_public_key(public_key)
        capsule = open_capsule(file)
        if key is not None and capsule.vouching_anchor(key) is None:
            err.print(
                f"No anchor signed with {key} vouches for run {capsule.manifest.run_id[:8]} of {file}; nothing was "
                "imported. Get the origin's anchor.pub, or a capsule packed after `quantagent audit anchor`.",
                markup=False,
            )
            raise typer.Exit(3)
        if not as_json:
            _print_engine_versions(capsule)
        _warn_about_packages(capsule)
        with open_app() as opened, show_progress() as on_progress:
            try:
                reproduced = make_again(
                    opened.store,
                    opened.catalogue,
                    opened.dsn,
                    capsule,
                    actor=opened.settings.actor,
                    lock_digest=lock_digest(),
                    on_progress=on_progress,
                )
            except (AnalysisMissing, VersionConflict, ReplayDiverged) as error:
                err.print(f"run {capsule.manifest.run_id[:8]} cannot be reproduced: {sentence(error)}", markup=False)
                raise typer.Exit(3) from None
            opened.runner().catch_up(lambda done, total: on_progress("read models", done, total))
    if as_json:
        print_json(**_reproduced_facts(reproduced), origin=origin(capsule, key))
    else:
        out.print(_describe_origin(capsule, key), soft_wrap=True)
        _show_reproduced(reproduced)
    if not reproduced.equal:
        raise typer.Exit(3)


def origin(capsule: Capsule, key: str | None) -> dict[str, Any]:
    """Return the key that vouches for the run, and its time; `checked`: it is the given key."""
    anchor = capsule.vouching_anchor(key)
    return {
        "public_key": anchor.key if anchor else None,
        "anchored_at": anchor.at if anchor else None,
        "checked": key is not None,
    }


def _describe_origin(capsule: Capsule, key: str | None) -> str:
    anchor = capsule.vouching_anchor(key)
    if anchor is None:
        return "origin: not vouched for by any key: the capsule holds no anchor of the run's end"
    text = f"origin: vouched for by {anchor.key} at {anchor.at}"
    return text if key else f"{text}, a key from the capsule itself: compare it with --public-key"


def _print_engine_versions(capsule: Capsule) -> None:
    from engine.store import ENGINE_VERSION

    out.print(f"engine version  {capsule.manifest.engine} in the capsule, {ENGINE_VERSION} here")
    if capsule.manifest.engine != ENGINE_VERSION:
        out.print("The engine versions differ, a possible cause of the differences below.")


def _warn_about_packages(capsule: Capsule) -> None:
    """Warn about other package versions. It is no more than a warning, because equal digests prove as much."""
    from ui.environment_lock import lock_digest, lock_lines

    if capsule.manifest.lock_digest in ("", lock_digest()):
        return
    packed = capsule.lock_lines()
    differing = sorted(set(packed) ^ set(lock_lines())) if packed else []
    named = _shorten(differing) or "the capsule does not name them"
    err.print(f"warning: the installed versions differ from those of the run: {named}.", markup=False)


def _shorten(names: Sequence[str]) -> str:
    more = len(names) - PACKAGES_SHOWN
    return ", ".join(names[:PACKAGES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _reproduced_facts(reproduced: ReproductionResult) -> dict[str, Any]:
    from engine.store import ENGINE_VERSION
    from ui.environment_lock import lock_digest

    manifest, ours, theirs = reproduced.capsule.manifest, reproduced.ended, reproduced.capsule.lifecycle.ended
    counts = ("bars", "signals", "orders", "fills", "book_events")
    difference = reproduced.difference
    return {
        "run_id": manifest.run_id,
        "environment": manifest.environment.value,
        "engine_versions": {"capsule": manifest.engine, "here": ENGINE_VERSION},
        "lock_digests": {"capsule": manifest.lock_digest, "here": lock_digest()},
        "analyses_made": 0,
        "book_digest": {"capsule": theirs.book_digest, "here": ours.book_digest},
        "analyses_digest": {"capsule": theirs.analyses_digest, "here": ours.analyses_digest},
        "counts": {name: {"capsule": getattr(theirs, name), "here": getattr(ours, name)} for name in counts},
        "equal": reproduced.equal,
        "difference": difference
        and {
            "version": difference.version,
            "capsule": event_facts(difference.ours),
            "here": event_facts(difference.theirs),
        },
    }


def _show_reproduced(reproduced: ReproductionResult) -> None:
    facts = _reproduced_facts(reproduced)
    counts: dict[str, dict[str, int]] = facts["counts"]
    print_facts("Reproduced", {"run": facts["run_id"], "environment": facts["environment"]})
    for name in ("analyses_digest", "book_digest"):
        out.print(f"{name.replace('_', ' '):<15} capsule {facts[name]['capsule']}")
        out.print(f"{'':<15} here    {facts[name]['here']}")
    for name, pair in counts.items():
        if pair["capsule"] != pair["here"]:
            out.print(f"{name.replace('_', ' ')}: {pair['capsule']:,} in the capsule, {pair['here']:,} here")
    if reproduced.difference is not None:
        out.print(f"first difference at version {reproduced.difference.version:,} of the book")
        out.print(f"  capsule {_describe_event(reproduced.difference.ours)}", markup=False)
        out.print(f"  here    {_describe_event(reproduced.difference.theirs)}", markup=False)
    out.print("0 analyses made")
    out.print("equal" if reproduced.equal else "DIFFERENT")


def _describe_event(row: LogEntry | None) -> str:
    from engine.audit.narration import describe_event

    return "nothing" if row is None else f"{row.name}: {describe_event(row.event)}"
