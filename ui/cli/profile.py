"""`quantagent profile`: cash, costs, sizes, limits and exits of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ui.cli.output import AsJson, Wide, err, out, print_json, print_rows, report_errors

if TYPE_CHECKING:
    from engine.store import Store
    from ui.services import models
    from ui.services.profile_fields import Document
    from ui.services.profiles import ActiveProfile, ProfileScope, ProfileVersion

app = typer.Typer(name="profile", help="Profiles: cash, costs, sizes, limits and exits of a run.", no_args_is_help=True)

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", metavar="PROFILE", help="A combined or portfolio profile: its name, or a .json or .toml file."
    ),
]
RiskProfileOption = Annotated[
    str | None,
    typer.Option("--risk-profile", metavar="PROFILE", help="A risk or combined profile for the risk half."),
]
ProfileArgument = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's NAME, NAME@VERSION, or a file.")]
EnvironmentOption = Annotated[
    str | None, typer.Option("--environment", metavar="E", help="Only for `backtest` or `paper`; by default for all.")
]


@app.command("list")
def profile_list(wide: Wide = False, as_json: AsJson = False) -> None:
    """List built-in and saved profiles, and which are active."""
    from ui.app import open_app
    from ui.services import profile_files, profiles

    with report_errors(), open_app() as opened:
        known = profiles.list_profiles(opened.store)
        saved = profiles.profile_versions(opened.store)
        active = profiles.active_profiles(opened.store).values()
    if as_json:
        print_json(
            profiles={name: profile_files.document_values(document) for name, document in known.items()},
            versions={name: len(saved.get(name, ())) for name in known},
            active=[default._asdict() for default in active],
        )
        return
    rows = [
        {
            "name": name,
            "kind": document.kind,
            "version": len(saved[name]) if name in saved else "built in",
            "active": where_active(name, list(active), saved.get(name, [])),
            **_main_figures(document),
        }
        for name, document in known.items()
    ]
    print_rows("Profiles", rows, list(rows[0]), wide=wide)


def where_active(
    name: str,
    active: Sequence[ActiveProfile | models.ActiveModel],
    saved: Sequence[ProfileVersion | models.ModelVersion],
) -> str:
    """Return `backtest, global`; with the version number, if an older version is active."""
    places: dict[str, None] = {}
    for default in active:
        if default.name == name:
            number = next((each.number for each in reversed(saved) if each.saved.digest == default.digest), len(saved))
            places[default.scope if number == len(saved) else f"{default.scope} (version {number})"] = None
    return ", ".join(places)


def _main_figures(document: Document) -> dict[str, Any]:
    """Return the main fields of a profile for a list; None for fields that its kind does not have."""
    from ui.services.profile_fields import Portfolio, Risk

    portfolio = None if isinstance(document, Risk) else document
    risk = None if isinstance(document, Portfolio) else document
    return {
        "cash": portfolio and portfolio.cash,
        "base_pct": portfolio and portfolio.sizing.base_pct,
        "position_pct": risk and risk.limits.position_pct,
        "daily_loss_pct": risk and risk.limits.daily_loss_pct,
        "slippage_bps": risk and risk.costs.slippage_bps,
        "commission_bps": risk and risk.costs.commission_bps,
        "holding_bars": risk and risk.exits.holding_bars,
    }


@app.command("show")
def profile_show(
    name: ProfileArgument,
    version: Annotated[int | None, typer.Option("--version", metavar="N", help="An earlier version.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Show a profile as the JSON document that `save` accepts; with --json inside the usual envelope."""
    from ui.app import open_app
    from ui.services import profile_files, profiles

    with report_errors(), open_app() as opened:
        document = profiles.find_profile(opened.store, name if version is None else f"{name}@{version}")
    if as_json:
        print_json(name=name, version=version, profile=profile_files.document_values(document))
    else:
        out.print_json(profile_files.document_text(document))


@app.command("save")
def profile_save(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The document to save, .json or .toml.")],
    as_json: AsJson = False,
) -> None:
    """Save a document as a new version of a profile."""
    from ui.app import open_app
    from ui.services import profile_files

    with report_errors(), open_app() as opened:
        document = profile_files.read_profile_file(file)
        _save(opened.store, name, document, opened.settings.actor, as_json)


@app.command("copy")
def profile_copy(
    source: ProfileArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The profile that gets a new version.")],
    as_json: AsJson = False,
) -> None:
    """Save a profile, built in or not, as a new version of another one."""
    from ui.app import open_app
    from ui.services import profiles

    with report_errors(), open_app() as opened:
        document = profiles.find_profile(opened.store, source)
        _save(opened.store, name, document, opened.settings.actor, as_json)


def _save(store: Store, name: str, document: Document, actor: str, as_json: bool) -> None:
    from ui.services import profiles

    version = profiles.save_profile(store, name, document, actor)
    others = {
        d.scope for d in profiles.active_profiles(store).values() if d.name == name and d.digest != version.saved.digest
    }
    if as_json:
        print_json(name=name, kind=version.saved.kind, version=version.number, digest=version.saved.digest)
    else:
        err.print(f"Profile {name} is saved as version {version.number}, digest {version.saved.digest[:12]}.")
        if others:
            err.print(
                f"Another version stays active ({', '.join(sorted(others))}): "
                "`quantagent profile activate` changes that."
            )


@app.command("activate")
def profile_activate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A profile's NAME, or NAME@VERSION.")],
    environment: EnvironmentOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a profile the default of an environment, or of all without their own."""
    from ui.app import open_app
    from ui.services import profiles
    from ui.services.versioned_documents import describe_scope

    with report_errors():
        scope = scope_for(environment)
        with open_app() as opened:
            event = profiles.activate_profile(opened.store, name, scope, opened.settings.actor)
    if as_json:
        print_json(name=event.name, scope=event.scope, kind=event.kind, digest=event.digest)
    else:
        err.print(f"Profile {name} is active {describe_scope(scope)}, digest {event.digest[:12]}.")


@app.command("deactivate")
def profile_deactivate(environment: EnvironmentOption = None, as_json: AsJson = False) -> None:
    """End the default of an environment, or the global one."""
    from ui.app import open_app
    from ui.services import profiles
    from ui.services.versioned_documents import describe_scope

    with report_errors():
        scope = scope_for(environment)
        with open_app() as opened:
            ended = profiles.deactivate_profile(opened.store, scope, opened.settings.actor)
    if as_json:
        print_json(scope=scope, ended=ended)
    else:
        err.print(f"{' and '.join(ended)} is no longer active {describe_scope(scope)}; no profile is.")


def scope_for(environment: str | None) -> ProfileScope:
    from ui.settings import check_environment

    if environment is None:
        return "global"
    check_environment(environment)
    return "paper" if environment == "paper" else "backtest"


@app.command("diff")
def profile_diff(
    one: ProfileArgument,
    other: Annotated[str, typer.Argument(metavar="PROFILE")],
    as_json: AsJson = False,
) -> None:
    """Compare two profiles, or two versions of one, field by field."""
    from ui.app import open_app
    from ui.services import profiles

    with report_errors(), open_app() as opened:
        changes = profiles.changed_fields(
            profiles.find_profile(opened.store, one), profiles.find_profile(opened.store, other)
        )
    if as_json:
        print_json(differences=[change._asdict() for change in changes])
    elif changes:
        rows = [{"field": field, one: _json_text(a), other: _json_text(b)} for field, a, b in changes]
        print_rows("Differences", rows, ["field", one, other])
    else:
        err.print("The profiles are equal.")


def _json_text(value: object) -> str:
    """Return a value as `show` prints it; empty for a missing field."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@app.command("versions")
def profile_versions_list(name: Annotated[str, typer.Argument(metavar="NAME")], as_json: AsJson = False) -> None:
    """List the saved versions and the activations of a profile."""
    from engine.core.errors import NotFound
    from ui.app import open_app
    from ui.services.profile_files import BUILT_IN

    with report_errors(), open_app() as opened, opened.queries() as queries:
        saved, activations = queries.profile_versions(name), queries.profile_activations(name)
        if not saved and not activations and name not in BUILT_IN:
            raise NotFound(f"profile {name!r} does not exist: `quantagent profile list` names those that exist.")
    if as_json:
        print_json(versions=saved, activations=activations)
        return
    if saved:
        print_rows("Versions (UTC)", saved, ["version", "kind", "saved_at", "actor", "digest"])
    else:
        err.print(f"Profile {name} is built in: it has no versions.")
    if activations:
        print_rows("Activations (UTC)", activations, ["at", "scope", "kind", "active", "actor", "digest"])
