"""`quantagent profile`: what a run may cost, risk and hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.output import AsJson, err, errors_in_words, out, print_json, print_rows

app = typer.Typer(name="profile", help="Profiles: costs, sizes, limits and exits of a run.", no_args_is_help=True)


@app.command("list")
def listing(as_json: AsJson = False) -> None:
    """Built-in and saved profiles."""
    from ui import profiles
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened:
        known = profiles.listing(opened.store)
    if as_json:
        print_json(profiles={name: profile.model_dump(mode="json") for name, profile in known.items()})
        return
    rows = [
        {
            "name": name,
            "cash": profile.cash,
            "sizing": profile.sizing.mode,
            "base_pct": profile.sizing.base_pct,
            "position_pct": profile.limits.position_pct,
            "daily_loss_pct": profile.limits.daily_loss_pct,
            "slippage_bps": profile.costs.slippage_bps,
            "commission_bps": profile.costs.commission_bps,
            "holding_bars": profile.exits.holding_bars,
        }
        for name, profile in known.items()
    ]
    print_rows("Profiles", rows, list(rows[0]))


@app.command("show")
def show(name: str, as_json: AsJson = False) -> None:
    """A profile as the JSON document that `save` takes; with --json inside the usual envelope."""
    from ui import profiles
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened:
        profile = profiles.find(opened.store, name)
    if as_json:
        print_json(name=name, profile=profile.model_dump(mode="json"))
    else:
        out.print_json(profile.model_dump_json())


@app.command("save")
def save(
    name: str,
    file: Annotated[Path, typer.Option("--file", metavar="FILE.json", help="The document to save.")],
    as_json: AsJson = False,
) -> None:
    """Save a document as the latest version of a profile."""
    from ui import profiles
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened:
        saved = profiles.save(opened.store, name, profiles.read_file(file), opened.settings.actor)
    if as_json:
        print_json(name=saved.name, digest=saved.digest)
    else:
        err.print(f"Profile {saved.name} is saved, digest {saved.digest[:12]}.")
