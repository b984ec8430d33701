"""`quantagent audit verify`, `anchor` and `rotate-key`: was anything changed, and the signed heads that prove it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.core.errors import BadInput
from ui.cli.output import AsJson, err, print_facts, print_json, report_errors, show_progress

if TYPE_CHECKING:
    import psycopg

    from engine.audit.anchors import Anchor
    from engine.audit.chain import AuditFinding
    from engine.audit.signing import AnchoringState
    from ui.app import App

NewFileReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why; it becomes part of the log.")
]


def verify(
    anchor: Annotated[
        Path | None, typer.Option("--anchor", metavar="FILE", help="Anchors of this log; without it, those at home.")
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option("--public-key", metavar="KEY", help="The key every anchor must be signed with, or its file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every event, link and anchor, what guards them, and the rows that events name; exit 3 for what is wrong."""
    from itertools import chain

    import psycopg

    from engine.audit import content
    from engine.audit.anchors import read_anchors, read_public_key
    from engine.audit.signing import public_key_file
    from engine.audit.verify import verify_log as check
    from ui.app import open_audit

    with report_errors(), open_audit() as opened:
        # Read before the log is: an anchor made in between would vouch for what is not seen yet.
        home_anchors = opened.anchor_status()
        file, anchors = (anchor, read_anchors(anchor)) if anchor else (home_anchors.file, home_anchors.anchors)
        own_key = public_key_file(opened.home)
        key = read_public_key(public_key) if public_key else read_public_key(own_key) if own_key.exists() else None
        if (anchor or public_key) and not anchors:
            raise BadInput(f"{file} holds no anchor: give the file that does with --anchor, or leave out the key.")
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
        err.print("Keep this database as it is, `quantagent audit export DIR` it, and compare with a backup.")
    else:
        print_facts("The log is whole", {name: fact for name, fact in facts.items() if name != "notices"})
        if verdict.anchored_to < verdict.last_position:
            after = f"what came after position {verdict.anchored_to:,}" if anchors else "any of it"
            err.print(f"No anchor vouches for {after}: `quantagent audit anchor` signs the head now.")
    if not as_json:
        for notice in verdict.notices:
            err.print(f"Notice: {notice}.", markup=False)
    if finding is not None:
        raise typer.Exit(3)


def _surrounding_findings(
    opened: App, conn: psycopg.Connection[Any], home_anchors: AnchoringState, *, is_elsewhere: bool
) -> Iterator[AuditFinding]:
    """What is wrong around a log whose rows, links and anchors hold. `is_elsewhere`: the anchors are not those at
    home, whose file is no matter then."""
    from engine.audit.chain import AuditFinding
    from engine.audit.role_views import guard_findings, role_findings
    from engine.audit.signing import AnchoringDefect

    yield from guard_findings(conn)
    by_role = opened.by_role
    if by_role is not None and by_role.writer != by_role.auditor:
        yield from role_findings(conn, {"writer": by_role.writer, "reader": by_role.reader})
    if home_anchors.defect in (AnchoringDefect.COPY, AnchoringDefect.LOG) or (
        home_anchors.defect is AnchoringDefect.FILE and not is_elsewhere
    ):
        yield AuditFinding(0, home_anchors.refusal)


def anchor(
    copy: Annotated[
        Path | None, typer.Option("--copy", metavar="FOLDER", help="Copy the anchors and the public key there, too.")
    ] = None,
    start_new_file: Annotated[
        bool,
        typer.Option("--begin-anew", help="Begin a new file of anchors where the old one is lost; needs --reason."),
    ] = False,
    reason: NewFileReasonOption = None,
    as_json: AsJson = False,
) -> None:
    """Sign the head of the log and add it to the file of anchors."""
    import psycopg

    from engine import clock
    from engine.audit.identity import restart_anchoring as begin
    from engine.store import Cause
    from ui.app import open_app

    with report_errors():
        if start_new_file != (reason is not None):
            raise BadInput("--begin-anew and --reason TEXT belong together: give both, or neither.")
        with open_app() as opened:
            if reason is not None:
                with psycopg.connect(opened.dsn, autocommit=True) as conn:
                    cause = Cause(opened.settings.actor)
                    begin(opened.store, conn, opened.home, clock.now(), cause, _require_reason(reason))
            signed = opened.anchor()
            if signed is None:
                err.print("The log is empty: there is nothing to anchor yet.")
                return
            _show_anchor(opened, signed, copy, as_json)


def rotate_key(
    copy: Annotated[
        Path | None,
        typer.Option("--copy", metavar="FOLDER", help="Copy anchors and new public key there, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replace the key that signs anchors by a new one, in an anchor that both sign."""
    import psycopg

    from engine import clock
    from engine.audit.signing import rotate_signing_key as rotate
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        with psycopg.connect(opened.dsn, autocommit=True) as conn:
            signed = rotate(conn, opened.home, clock.now())
        _show_anchor(opened, signed, copy, as_json)
        err.print("The old key signs nothing more. Hand out the new public key; anchors of the old one stay valid.")


def _require_reason(reason: str) -> str:
    if not reason.strip():
        raise BadInput("--reason is empty: say in words why.")
    return reason.strip()


def _show_anchor(opened: App, signed: Anchor, copy: Path | None, as_json: bool) -> None:
    from engine.audit.anchors import anchors_file
    from engine.audit.signing import public_key_file

    file, public = anchors_file(opened.home, signed.log), public_key_file(opened.home)
    if copy is not None:
        _copy({file: copy / "anchors.jsonl", public: copy / "anchor.pub"}, is_new_key=bool(signed.successor))
    facts = {"log": signed.log, "seal": signed.seal, "position": signed.position, "hash": signed.hash, "at": signed.at}
    facts |= {"anchor_file": file, "public_key": public}
    if as_json:
        print_json(**facts)
    else:
        print_facts("Anchored", facts)
        err.print("Keep a copy of both files where the database's administrators cannot change them.")


def _copy(copies: Mapping[Path, Path], *, is_new_key: bool) -> None:
    """Refuses to replace a copy that says something else: it may be the only one left that does."""
    for source, target in copies.items():
        replaced = is_new_key and target.suffix == ".pub"
        if target.exists() and not replaced and not source.read_bytes().startswith(target.read_bytes()):
            raise BadInput(
                f"{target} holds what {source} does not, so that nothing was copied: keep it, and see what "
                f"`quantagent audit verify --anchor {target}` says."
            )
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
