"""`quantagent model`: presets for access to models, without their keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.output import AsJson, Wide, err, out, print_json, print_rows, report_errors
from ui.cli.profile import EnvironmentOption, scope_for, where_active

if TYPE_CHECKING:
    from analysis.llm.presets import ModelPreset
    from engine.store import Store
    from ui.services.models import ModelVersion

app = typer.Typer(name="model", help="Models: endpoints and parameters, never their keys.", no_args_is_help=True)

ModelNameArgument = Annotated[str, typer.Argument(metavar="NAME")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model's NAME, or NAME@VERSION.")]


@app.command("list")
def model_list(wide: Wide = False, as_json: AsJson = False) -> None:
    """List saved models, which are active, and which keys are set."""
    from analysis.llm.presets import preset_values
    from ui.app import open_app
    from ui.services import models

    with report_errors(), open_app() as opened:
        saved = models.model_versions(opened.store)
        active = list(models.active_models(opened.store).values())
        presets = {name: models.preset_of(versions_of_model[-1]) for name, versions_of_model in sorted(saved.items())}
    if as_json:
        print_json(
            models={name: preset_values(preset) for name, preset in presets.items()},
            versions={name: len(saved[name]) for name in presets},
            active=[default._asdict() for default in active],
            keys_set={name: _key_is_set(preset) for name, preset in presets.items()},
        )
    elif presets:
        rows = [
            {
                "name": name,
                "version": len(saved[name]),
                "active": where_active(name, active, saved[name]),
                **_main_figures(preset),
            }
            for name, preset in presets.items()
        ]
        print_rows("Models", rows, list(rows[0]), wide=wide)
    else:
        err.print("No model is saved: `quantagent model save NAME --set model=MODEL` saves one.")


def _main_figures(preset: ModelPreset) -> dict[str, Any]:
    """Return the main fields of a preset for a list, and the state of its key."""
    return {
        "model": preset.model,
        "base_url": preset.base_url,
        "vision": "yes" if preset.vision else "no",
        "budget_usd": preset.budget_usd,
        "fallback": preset.fallback,
        "key": f"{preset.key_env}, {'set' if _key_is_set(preset) else 'not set'}",
    }


def _key_is_set(preset: ModelPreset) -> bool:
    from analysis.llm.presets import api_key

    return api_key(preset) is not None


@app.command("show")
def model_show(
    name: ModelArgument,
    version: Annotated[int | None, typer.Option("--version", metavar="N", help="An earlier version.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model as the JSON document that `save` accepts; on stderr, if its key is set in the environment."""
    from analysis.llm.presets import preset_text, preset_values
    from ui.app import open_app
    from ui.services import models

    with report_errors(), open_app() as opened:
        version_found = models.find_model(opened.store, name if version is None else f"{name}@{version}")
        preset = models.preset_of(version_found)
    if as_json:
        print_json(
            name=version_found.saved.name,
            version=version_found.number,
            digest=version_found.saved.digest,
            key_set=_key_is_set(preset),
            model=preset_values(preset),
        )
    else:
        out.print_json(preset_text(preset))
        err.print(f"Its key, {preset.key_env}, is {'set' if _key_is_set(preset) else 'not set'} in the environment.")


@app.command("save")
def model_save(
    name: ModelNameArgument,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="A document, .json or .toml.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field, like `seed=7`; several times.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Save a version of a model: fields of a file, else of the latest version, changed by --set.

    The key is not a field: key_env names the environment variable that holds it.
    """
    from engine.core.errors import BadInput
    from ui.app import open_app

    with report_errors():
        if file is None and not settings:
            raise BadInput("there is nothing to save: give --file FILE, or fields like --set model=MODEL.")
        with open_app() as opened:
            version = _save_version(opened.store, name, file, settings or [], opened.settings.actor)
            others = _active_elsewhere(opened.store, version)
    if as_json:
        print_json(name=name, version=version.number, digest=version.saved.digest)
    else:
        err.print(f"Model {name} is saved as version {version.number}, digest {version.saved.digest[:12]}.")
        if others:
            err.print(f"Another version stays active ({', '.join(others)}): `quantagent model activate` changes that.")


def _save_version(store: Store, name: str, file: Path | None, settings: list[str], actor: str) -> ModelVersion:
    from analysis.llm.presets import preset_values
    from ui.services import models

    fields: dict[str, Any] = {}
    if file is not None:
        fields = models.read_model_file(file)
    elif before := models.model_versions(store).get(name):
        fields = preset_values(models.preset_of(before[-1]))
    where = str(file) if file is not None and not settings else "as it is given"
    preset = models.parse_preset({**fields, **models.parse_settings(settings)}, where)
    return models.save_model(store, name, preset, actor)


def _active_elsewhere(store: Store, version: ModelVersion) -> list[str]:
    """Return the scopes in which another version of the same model is active."""
    from ui.services import models

    saved = version.saved
    return [a.scope for a in models.active_models(store).values() if a.name == saved.name and a.digest != saved.digest]


@app.command("activate")
def model_activate(name: ModelArgument, environment: EnvironmentOption = None, as_json: AsJson = False) -> None:
    """Make a model the default of an environment, or of all without their own."""
    from ui.app import open_app
    from ui.services import models
    from ui.services.versioned_documents import describe_scope

    with report_errors():
        scope = scope_for(environment)
        with open_app() as opened:
            event = models.activate_model(opened.store, name, scope, opened.settings.actor)
    if as_json:
        print_json(name=event.name, scope=event.scope, digest=event.digest)
    else:
        err.print(f"Model {name} is active {describe_scope(scope)}, digest {event.digest[:12]}.")


@app.command("deactivate")
def model_deactivate(environment: EnvironmentOption = None, as_json: AsJson = False) -> None:
    """End the default of an environment, or the global one."""
    from ui.app import open_app
    from ui.services import models
    from ui.services.versioned_documents import describe_scope

    with report_errors():
        scope = scope_for(environment)
        with open_app() as opened:
            ended = models.deactivate_model(opened.store, scope, opened.settings.actor)
    if as_json:
        print_json(scope=scope, ended=ended)
    else:
        err.print(f"{ended} is no longer active {describe_scope(scope)}; no model is.")


@app.command("versions")
def model_versions_list(name: ModelNameArgument, as_json: AsJson = False) -> None:
    """List the saved versions and the activations of a model."""
    from ui.app import open_app
    from ui.services import models

    with report_errors(), open_app() as opened, opened.queries() as queries:
        known = models.find_model(opened.store, name).saved.name
        saved, activations = queries.model_versions(known), queries.model_activations(known)
    if as_json:
        print_json(versions=saved, activations=activations)
        return
    print_rows("Versions (UTC)", saved, ["version", "saved_at", "actor", "digest"])
    if activations:
        print_rows("Activations (UTC)", activations, ["at", "scope", "active", "actor", "digest"])
