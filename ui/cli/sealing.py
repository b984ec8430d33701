"""`quantagent audit verify`, `quantagent audit anchor`: was anything changed, and the signed heads that prove it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import BadInput
from ui.cli.output import AsJson, err, errors_in_words, print_facts, print_json, progress


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
    """Check every event, every link and every anchor; exit 3 with the first bad position when something is wrong."""
    import psycopg

    from engine.audit.anchors import public_key_file, public_key_of, read_anchors
    from engine.audit.verify import verify as check
    from ui.compose import open_audit

    with errors_in_words(), open_audit() as opened:
        file = anchor or opened.anchors()
        # Read before the log is: an anchor made in between would vouch for what is not seen yet.
        anchors = read_anchors(file) if anchor or file.exists() else []
        own_key = public_key_file(opened.home)
        key = public_key_of(public_key) if public_key else public_key_of(own_key) if own_key.exists() else None
        if (anchor or public_key) and not anchors:
            raise BadInput(f"{file} holds no anchor: give the file that does with --anchor, or leave out the key.")
        with psycopg.connect(opened.access.auditor) as conn, progress() as tell:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            verdict = check(conn, anchors, key, lambda done, total: tell("events", done, total))
    facts = {**verdict._asdict(), "intact": verdict.finding is None, "anchor_file": str(file) if anchors else None}
    if verdict.finding is not None:
        facts |= {"position": verdict.finding.position, "finding": verdict.finding.what}
    if as_json:
        print_json(**facts)
    elif verdict.finding is not None:
        where = f"[red]position {verdict.finding.position}:[/red] " if verdict.finding.position else ""
        err.print(f"{where}{verdict.finding.what}.", markup=True)
        err.print("Keep this database as it is, `quantagent audit export DIR` it, and compare with a backup.")
    else:
        print_facts("The log is whole", facts)
        if verdict.anchored_to < verdict.last_position:
            after = f"what came after position {verdict.anchored_to:,}" if anchors else "any of it"
            err.print(f"No anchor vouches for {after}: `quantagent audit anchor` signs the head now.")
    if verdict.finding is not None:
        raise typer.Exit(3)


def anchor(
    copy: Annotated[
        Path | None, typer.Option("--copy", metavar="FOLDER", help="Copy the anchors and the public key there, too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign the head of the log and add it to the file of anchors."""
    from engine.audit.anchors import public_key_file
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened:
        made = opened.anchor()
        file = opened.anchors()
        if made is None:
            err.print("The log is empty: there is nothing to anchor yet.")
            return
        if copy is not None:
            _copy({file: copy / "anchors.jsonl", public_key_file(opened.home): copy / "anchor.pub"})
    facts = {"log": made.log, "seal": made.seal, "position": made.position, "hash": made.hash, "at": made.at}
    facts |= {"anchor_file": file, "public_key": public_key_file(opened.home)}
    if as_json:
        print_json(**facts)
    else:
        print_facts("Anchored", facts)
        err.print("Keep a copy of both files where the database's administrators cannot change them.")


def _copy(copies: Mapping[Path, Path]) -> None:
    """Refuses to replace a copy that says something else: it may be the only one left that does."""
    for source, target in copies.items():
        if target.exists() and not source.read_bytes().startswith(target.read_bytes()):
            raise BadInput(
                f"{target} holds what {source} does not, so that nothing was copied: keep it, and see what "
                f"`quantagent audit verify --anchor {target}` says."
            )
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
