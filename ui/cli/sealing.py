"""`quantagent audit verify`, `quantagent audit anchor`: was anything changed, and the signed heads that prove it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.output import AsJson, err, errors_in_words, print_facts, print_json, progress


def verify(
    anchor: Annotated[
        Path | None, typer.Option("--anchor", metavar="FILE", help="Anchors of this log; without it, those at home.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="The key every anchor must be signed with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every event, every link and every anchor; exit 3 with the first bad position when something is wrong."""
    import psycopg

    from engine.audit.anchors import anchors_file, log_id_of, public_key_file, read_anchors, read_public_key
    from engine.audit.verify import verify as check
    from ui.compose import open_audit

    with errors_in_words(), open_audit() as opened:
        with psycopg.connect(opened.access.auditor) as conn:
            file = anchor or anchors_file(opened.home, log_id_of(conn))
        # Read before the log is: an anchor made in between would vouch for what is not seen yet.
        anchors = read_anchors(file) if anchor or file.exists() else []
        key_file = public_key or public_key_file(opened.home)
        key = read_public_key(key_file) if public_key or (anchors and key_file.exists()) else None
        with psycopg.connect(opened.access.auditor) as conn, progress() as tell:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            verdict = check(conn, anchors, key, lambda done, total: tell("events", done, total))
    facts = {**verdict._asdict(), "intact": verdict.finding is None, "anchor_file": str(file) if anchors else None}
    if verdict.finding is not None:
        facts |= {"position": verdict.finding.position, "finding": verdict.finding.what}
    if as_json:
        print_json(**facts)
    elif verdict.finding is not None:
        err.print(f"[red]position {verdict.finding.position}:[/red] {verdict.finding.what}.", markup=True)
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
    import psycopg

    from engine.audit.anchors import anchors_file, log_id_of, public_key_file
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened:
        made = opened.anchor()
        with psycopg.connect(opened.dsn) as conn:
            file = anchors_file(opened.home, log_id_of(conn))
        if made is None:
            err.print("The log is empty: there is nothing to anchor yet.")
            return
        if copy is not None:
            copy.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy / "anchors.jsonl")
            shutil.copyfile(public_key_file(opened.home), copy / "anchor.pub")
    facts = {"log": made.log, "seal": made.seal, "position": made.position, "hash": made.hash, "at": made.at}
    facts |= {"anchor_file": file, "public_key": public_key_file(opened.home)}
    if as_json:
        print_json(**facts)
    else:
        print_facts("Anchored", facts)
        err.print("Keep a copy of both files where the database's administrators cannot change them.")
