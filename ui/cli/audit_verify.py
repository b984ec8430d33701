"""`quantagent audit verify`: checks of every event, seal and anchor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.core.errors import BadInput
from ui.cli.output import AsJson, err, print_facts, print_json, report_errors, show_progress

if TYPE_CHECKING:
    import psycopg

    from engine.audit.chain import AuditFinding
    from engine.audit.signing import AnchoringState
    from ui.app import App


def verify(
    anchor: Annotated[
        Path | None, typer.Option("--anchor", metavar="FILE", help="Anchors of this log; by default those at home.")
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option("--public-key", metavar="KEY", help="The key that must have signed every anchor, or its file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every event, link and anchor, their guards, and the rows that events name; exit code 3 for a finding."""
    from itertools import chain

    import psycopg

    from engine.audit import content
    from engine.audit.anchors import read_anchors, read_public_key
    from engine.audit.signing import public_key_file
    from engine.audit.verify import verify_log as check
    from ui.app import open_audit

    with report_errors(), open_audit() as opened:
        # Read before the log: a later anchor would cover events that are not read.
        home_anchors = opened.anchor_status()
        file, anchors = (anchor, read_anchors(anchor)) if anchor else (home_anchors.file, home_anchors.anchors)
        own_key = public_key_file(opened.home)
        key = read_public_key(public_key) if public_key else read_public_key(own_key) if own_key.exists() else None
        if (anchor or public_key) and not anchors:
            raise BadInput(f"{file} holds no anchor: name another file with --anchor, or omit the key.")
        with psycopg.connect(opened.access.auditor) as conn, show_progress() as on_progress:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            verdict = check(conn, anchors, key, lambda done, total: on_progress("events", done, total))
            around = _surrounding_findings(opened, conn, home_anchors, is_elsewhere=anchor is not None)
            outside = content.content_findings(conn, opened.store, opened.catalogue)
            finding = verdict.finding or next(chain(around, outside), None)
    facts = {**verdict._asdict(), "intact": finding is None, "anchor_file": str(file) if anchors else None}
    facts |= {"finding": finding and finding.what, "notices": list(verdict.notices)}
    if finding is not None:
        facts |= {"position": finding.position}
    if as_json:
        print_json(**facts)
    elif finding is not None:
        where = f"[red]position {finding.position}:[/red] " if finding.position else ""
        err.print(f"{where}{finding.what.rstrip('.')}.", markup=True)
        err.print("Keep this database unchanged, run `quantagent audit export DIR`, and compare with a backup.")
    else:
        print_facts("The log is whole", {name: fact for name, fact in facts.items() if name != "notices"})
        if verdict.anchored_to < verdict.last_position:
            after = f"the events after position {verdict.anchored_to:,}" if anchors else "any event"
            err.print(f"No anchor vouches for {after}: `quantagent audit anchor` signs the head now.")
    if not as_json:
        for notice in verdict.notices:
            err.print(f"Notice: {notice}.", markup=False)
    if finding is not None:
        raise typer.Exit(3)


def _surrounding_findings(
    opened: App, conn: psycopg.Connection[Any], home_anchors: AnchoringState, *, is_elsewhere: bool
) -> Iterator[AuditFinding]:
    """Yield findings outside of the rows, links and anchors. `is_elsewhere`: the anchors are not those at home, whose
    file is then ignored."""
    from engine.audit.chain import AuditFinding
    from engine.audit.role_views import guard_findings, role_findings
    from engine.audit.signing import AnchoringDefect
    from ui.cli.remedies import sentence

    yield from guard_findings(conn)
    by_role = opened.by_role
    if by_role is not None and by_role.writer != by_role.auditor:
        yield from role_findings(conn, {"writer": by_role.writer, "reader": by_role.reader})
    if home_anchors.defect in (AnchoringDefect.COPY, AnchoringDefect.LOG) or (
        home_anchors.defect is AnchoringDefect.FILE and not is_elsewhere
    ):
        yield AuditFinding(0, sentence(home_anchors.error()))
