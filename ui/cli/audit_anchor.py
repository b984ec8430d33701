"""`quantagent audit anchor` and `rotate-key`: signed heads of the log."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.core.errors import BadInput
from ui.cli.output import AsJson, err, print_facts, print_json, report_errors

if TYPE_CHECKING:
    from engine.audit.anchors import Anchor
    from ui.app import App


NewFileReasonOption = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Reason, stored in the log.")]


def anchor(
    copy: Annotated[
        Path | None, typer.Option("--copy", metavar="FOLDER", help="Also copy the anchors and the public key there.")
    ] = None,
    start_new_file: Annotated[
        bool,
        typer.Option("--begin-anew", help="Begin a new file of anchors after the loss of the old one; needs --reason."),
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
            raise BadInput("`--begin-anew` and `--reason TEXT` belong together: give both, or neither.")
        with open_app() as opened:
            if reason is not None:
                with psycopg.connect(opened.dsn, autocommit=True) as conn:
                    cause = Cause(opened.settings.actor)
                    begin(opened.store, conn, opened.home, clock.now(), cause, _require_reason(reason))
            signed = opened.anchor()
            if signed is None:
                err.print("The log is empty: there is nothing to anchor.")
                return
            _show_anchor(opened, signed, copy, as_json)


def rotate_key(
    copy: Annotated[
        Path | None,
        typer.Option("--copy", metavar="FOLDER", help="Also copy the anchors and the new public key there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replace the key that signs anchors, with an anchor signed by both keys."""
    import psycopg

    from engine import clock
    from engine.audit.signing import rotate_signing_key as rotate
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        with psycopg.connect(opened.dsn, autocommit=True) as conn:
            signed = rotate(conn, opened.home, clock.now())
        _show_anchor(opened, signed, copy, as_json)
        err.print("The old key signs no more anchors, and its anchors stay valid. Distribute the new public key.")


def _require_reason(reason: str) -> str:
    if not reason.strip():
        raise BadInput("--reason is empty: state the reason.")
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
    """Copy files, without replacing a copy that differs: it may be the last one with its content."""
    for source, target in copies.items():
        replaced = is_new_key and target.suffix == ".pub"
        if target.exists() and not replaced and not source.read_bytes().startswith(target.read_bytes()):
            raise BadInput(
                f"{target} has other content than {source}, so that nothing was copied: keep it, and check it with "
                f"`quantagent audit verify --anchor {target}`."
            )
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
