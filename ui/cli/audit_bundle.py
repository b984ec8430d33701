"""`quantagent audit bundle`: one run in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.audit_export import list_anchors, snapshot_connection
from ui.cli.audit_output import AuditRunArgument
from ui.cli.output import AsJson, err, print_facts, print_json, report_errors, show_progress
from ui.cli.run_selection import resolve_run

if TYPE_CHECKING:
    from engine.audit.capsule import Capsule


def bundle(
    run: AuditRunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A zip file that does not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Pack a finished run with its bars, analyses and seals into one file, for reproduction on another machine."""
    from engine.audit.bundle import pack_run as pack
    from engine.audit.regenerate import run_bars
    from engine.data.signals import VARIANT_PREFIX, load_signals
    from ui.app import open_audit
    from ui.environment_lock import lock_lines

    with report_errors(), open_audit() as opened:
        requested, anchors = resolve_run(opened, run), list_anchors(opened)
        bars = run_bars(opened.catalogue, opened.store, requested)
        imported = requested.variant.startswith(VARIANT_PREFIX)
        signals = load_signals(opened.store, opened.dsn, requested.variant) if imported else None
        with snapshot_connection(opened) as conn, show_progress() as on_progress:
            capsule = pack(
                opened.store,
                conn,
                requested,
                bars,
                signals,
                file,
                anchors=anchors,
                lock_lines=lock_lines(),
                progress=lambda done, total: on_progress("lines", done, total),
            )
    facts = capsule_facts(capsule)
    if as_json:
        print_json(file=file, bytes=file.stat().st_size, **facts)
    else:
        print_facts(f"Bundled in {file}", facts)
        err.print("On another machine, with an empty data folder: quantagent audit reproduce FILE")


def capsule_facts(capsule: Capsule) -> dict[str, Any]:
    manifest, anchor = capsule.manifest, capsule.vouching_anchor()
    return {
        "run_id": manifest.run_id,
        "environment": manifest.environment.value,
        "engine_version": manifest.engine,
        "python": manifest.python,
        "bars": manifest.bars,
        "book_events": manifest.book_events,
        "dataset_digest": manifest.dataset_digest,
        "config_digest": manifest.config_digest,
        "analyses_digest": manifest.analyses_digest,
        "book_digest": manifest.book_digest,
        "anchored_at": anchor.at if anchor else None,
        "public_key": anchor.key if anchor else None,
    }
