"""`quantagent projections`: the read models."""

from __future__ import annotations

import typer

from ui.cli.output import AsJson, err, errors_in_words, print_facts, print_json, print_rows, progress

app = typer.Typer(name="projections", help="Read models: how far they are, and making them anew.", no_args_is_help=True)


@app.command("status")
def status(as_json: AsJson = False) -> None:
    """How far the read models are behind the log."""
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened:
        found = opened.runner().status()
    facts = {**found._asdict(), "lag": found.lag}
    if as_json:
        print_json(**facts)
    else:
        print_facts("Read models", facts)


@app.command("rebuild")
def rebuild(as_json: AsJson = False) -> None:
    """Make the read models anew beside the present ones, compare them row for row, and switch."""
    from projections.rebuild import rebuild as run
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened, progress() as tell:
        done = run(opened.store, opened.catalogue, opened.dsn, lambda done, total: tell("events", done, total))
    if as_json:
        print_json(events=done.events, rows=done.rows, differing=done.differing, same=done.same)
    else:
        rows = [{"table": name, "rows": n, "differing": done.differing[name]} for name, n in done.rows.items()]
        print_rows("Rebuilt", rows, ["table", "rows", "differing"])
        err.print(
            "Row for row the same."
            if done.same
            else "The new tables differ from the old ones; the new ones are in place."
        )
    if not done.same:
        raise typer.Exit(3)
