"""Model presets in the log: their versions, which are active, and which one asks.

Stream `model:<name>` holds every saved version and every activation. An activation names the very version it makes the
default. Nothing here sees a key: a preset names the variable that holds it, and whatever looks like one, or is in the
environment under a name of keys, is neither saved nor repeated in an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from analysis import variants
from analysis.llm.presets import ModelPreset, holds_secret, looks_like_key, preset_digest, preset_text, preset_values
from engine.core.errors import BadInput, NotFound
from engine.core.events import Environment, ModelActivated, ModelSaved, ProfileScope
from engine.store import Store
from ui.services.document_files import DocumentFields, first_error, is_file, parse_json, read_values
from ui.services.versioned_documents import DocumentVersion, VersionedDocuments, describe_scope

MODELS = VersionedDocuments("model", ModelSaved, ModelActivated)
ModelVersion = DocumentVersion[ModelSaved]


class ActiveModel(NamedTuple):
    """The default of a scope; `digest` names the version."""

    scope: ProfileScope
    name: str
    digest: str
    at: datetime
    actor: str


class SelectedModel(NamedTuple):
    """A preset that asks: its name in the log, in words where it comes from, and which version of it this is."""

    name: str
    preset: ModelPreset
    description: str
    number: int


# --- What the log says --------------------------------------------------------------------------------------------


def model_versions(store: Store) -> dict[str, list[ModelVersion]]:
    """Return the saved versions of every preset, oldest first."""
    return MODELS.versions(store)


def preset_of(version: ModelVersion) -> ModelPreset:
    """Return the preset that a version saved."""
    where = f"{version.saved.name}@{version.number}"
    return parse_preset(parse_json(version.saved.document, f"model {where}"), where)


def active_models(store: Store) -> dict[ProfileScope, ActiveModel]:
    """Return the present defaults by scope."""
    defaults = MODELS.defaults(store).values()
    return {each.scope: ActiveModel(each.scope, each.name, each.digest, each.at, each.actor) for each in defaults}


def find_model(store: Store, given: str) -> ModelVersion:
    """A preset by `NAME`, as last saved, or `NAME@VERSION`. Raises `NotFound` with those that there are."""
    if _is_secret(given):
        raise NotFound("there is no model of that name, which looks like a key: give a name, and keep keys out of it.")
    saved = model_versions(store)
    name = given.partition("@")[0]
    version = MODELS.pick_version(given, saved.get(name, ())) if name in saved else None
    if version is None:
        known = f"choose one of {', '.join(sorted(saved))}, or save" if saved else "save"
        raise NotFound(
            f"there is no model {given!r}: {known} one with `quantagent model save {name or 'NAME'} --set model=MODEL`."
        )
    return version


# --- Which one asks -----------------------------------------------------------------------------------------------


def select_model(store: Store, given: str | None = None, environment: Environment | None = None) -> SelectedModel:
    """The preset as given, else the environment's default, else the global one.

    Raises `NotFound` where none is given and none is active.
    """
    if given is not None:
        version = find_model(store, given)
        return SelectedModel(version.saved.name, preset_of(version), f"model {given} (given)", version.number)
    default = MODELS.default_for(store, environment)
    if default is None:
        raise NotFound("no model is active: name one, or `quantagent model activate NAME` makes one the default.")
    version, note = MODELS.active_version(store, default)
    assert version is not None, "a model is activated as one of its saved versions"
    description = f"model {default.name} (active {describe_scope(default.scope)}{note})"
    return SelectedModel(default.name, preset_of(version), description, version.number)


def with_fallbacks(store: Store, name: str, preset: ModelPreset) -> list[tuple[str, ModelPreset]]:
    """A preset and those that are asked when it fails, in order, each as last saved.

    Raises `BadInput` where the last of them would lead back to one before it.
    """
    chain = [(name, preset)]
    while following := chain[-1][1].fallback:
        if any(following == before for before, _ in chain):
            raise BadInput(f"the fallbacks of model {name} go in a circle, back to {following}: end them somewhere.")
        chain.append((following, preset_of(find_model(store, following))))
    return chain


# --- Documents ----------------------------------------------------------------------------------------------------


def read_model_file(path: Path) -> DocumentFields:
    """The fields in a JSON or TOML file, not judged yet."""
    return _fields(read_values(path, "model"), str(path))


def parse_settings(texts: Iterable[str]) -> DocumentFields:
    """The fields of texts like `seed=7`. `none`, `true` and `false` stand for themselves."""
    fields: DocumentFields = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals:
            raise BadInput("--set is written FIELD=VALUE, like --set model=MODEL.")
        fields[field.strip()] = {"none": None, "true": True, "false": False}.get(value.strip(), value.strip())
    return fields


def parse_preset(values: object, where: str) -> ModelPreset:
    """The preset of parsed values; `where` is its file or name. Raises `BadInput` for the first thing wrong in it."""
    fields = _fields(values, where)
    if any(map(_is_secret, fields)):
        raise BadInput(f"model {where}: the name of a field looks like a key: take it out.")
    try:
        return ModelPreset.model_validate(fields)
    except ValidationError as error:
        unknown = f"there is no such field, only {', '.join(ModelPreset.model_fields)}"
        reason = first_error(error, unknown, ModelPreset)
        raise BadInput(f"model {where}: {reason.rstrip('.')}.") from None


def _fields(values: object, where: str) -> DocumentFields:
    if not isinstance(values, dict):
        raise BadInput(f"model {where} is no table of fields: write them like model = 'MODEL'.")
    return {**values}


def _is_secret(text: str) -> bool:
    return looks_like_key(text) or holds_secret(text)


# --- What people change -------------------------------------------------------------------------------------------


def save_model(store: Store, name: str, preset: ModelPreset, actor: str) -> ModelVersion:
    """Saves a version and returns it; a preset equal to the latest version adds none."""
    _check_saveable(store, name, preset)
    text = preset_text(preset)
    saved = MODELS.versions(store).get(name)
    latest_text = preset_text(preset_of(saved[-1])) if saved else None
    return MODELS.save(store, ModelSaved(name, text, preset_digest(text)), latest_text, actor)


def _check_saveable(store: Store, name: str, preset: ModelPreset) -> None:
    if _is_secret(name):
        raise BadInput("the model's name looks like a key: a name is written into the log, choose another.")
    MODELS.check_name(name)
    if name in variants.variant_names():
        raise BadInput(f"{name} is the name of an analyst that is installed: save the model under another name.")
    for field, value in preset_values(preset).items():
        if isinstance(value, str) and holds_secret(value):
            raise BadInput(
                f"model {name}: {field} has a secret of the environment in it: put the name of its variable into "
                "key_env, and nothing else."
            )
    if preset.fallback == name:
        raise BadInput(f"model {name} cannot be its own fallback: name another one, or none.")
    with_fallbacks(store, name, preset)


def activate_model(store: Store, given: str, scope: ProfileScope, actor: str) -> ModelActivated:
    """Makes a preset, or one version of it, the default of a scope; what is the default already adds nothing."""
    if is_file(given):
        raise BadInput(f"{given} is a file: `quantagent model save NAME --file {given}` first, then activate NAME.")
    saved = find_model(store, given).saved
    return MODELS.activate(store, ModelActivated(scope, saved.name, saved.digest), actor)


def deactivate_model(store: Store, scope: ProfileScope, actor: str) -> str:
    """Ends the default of a scope; returns the name of the preset that was. Raises `NotFound` without one."""
    current = active_models(store).get(scope)
    if current is None:
        raise NotFound(f"no model is active {describe_scope(scope)}.")
    MODELS.append(store, {current.name: ModelActivated(scope, "", "")}, actor)
    return current.name
