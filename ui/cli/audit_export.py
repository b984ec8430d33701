"""`quantagent audit export`: the whole log in open formats, with a verifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import AsJson, err, out, print_facts, print_json, report_errors, show_progress

if TYPE_CHECKING:
    import psycopg

    from engine.audit.anchors import Anchor
    from ui.app import App


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Write the whole log to a folder as JSONL and Parquet, with seals, anchors and a verifier in plain Python."""
    from engine.audit.export import export_log as write
    from ui.app import open_audit

    with report_errors(), open_audit() as opened:
        anchors = list_anchors(opened)
        with snapshot_connection(opened) as conn, show_progress() as on_progress:
            exported = write(conn, folder, anchors, lambda done, total: on_progress("events", done, total))
    facts = {
        "folder": exported.folder,
        "log": exported.manifest.log,
        "events": exported.manifest.events,
        "seals": exported.manifest.seals,
        "head": exported.manifest.head,
        "last_position": exported.last_position,
        "anchors": len(anchors),
        "anchored_to": exported.anchored_to,
    }
    if as_json:
        print_json(**facts, public_key=exported.manifest.public_key, files=exported.manifest.files)
        return
    print_facts("Exported", facts)
    key = f" --public-key {exported.manifest.public_key}" if exported.manifest.public_key else ""
    out.print(f"python3 {exported.folder / 'verify.py'}{key}", soft_wrap=True)
    err.print("That command checks it with any Python. Distribute the key separately from the folder.")


def list_anchors(opened: App) -> list[Anchor]:
    """Return the anchors at home. Read them before the log: a later anchor would cover events that are not read."""
    from engine.audit.anchors import read_anchors

    file = opened.anchor_status().file
    return read_anchors(file) if file.exists() else []


def snapshot_connection(opened: App) -> psycopg.Connection[Any]:
    """Return a connection whose transaction sees the log as of its first query."""
    import psycopg

    conn = psycopg.connect(opened.access.auditor)
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return conn
