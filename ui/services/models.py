"""Model presets in the log: their versions, the active ones, and the one that a command uses.

Stream `model:<name>` holds every saved version and every activation. An activation names the exact version that
becomes the default. No key is handled here: a preset names the variable that holds it, and text that looks like a key,
or is the value of a key variable in the environment, is neither saved nor repeated in an error.
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
    """A selected preset: its name in the log, a description of its origin, and its version number."""

    name: str
    preset: ModelPreset
    description: str
    number: int


# --- Reading ---


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
    """Return a preset by `NAME` (latest version) or `NAME@VERSION`. Raise `NotFound` with the names that exist."""
    if _is_secret(given):
        raise NotFound("no model has that name, which looks like a key: give a name, and keep keys out of it.")
    saved = model_versions(store)
    name = given.partition("@")[0]
    version = MODELS.pick_version(given, saved.get(name, ())) if name in saved else None
    if version is None:
        known = f"; saved models are {', '.join(sorted(saved))}" if saved else ", no model is saved"
        raise NotFound(f"model {given!r} does not exist{known}.", "MODEL_UNKNOWN", name=name or "NAME")
    return version


# --- Selection ---


def select_model(store: Store, given: str | None = None, environment: Environment | None = None) -> SelectedModel:
    """Return the given preset, else the environment's default, else the global one.

    Raise `NotFound` if none is given and none is active.
    """
    if given is not None:
        version = find_model(store, given)
        return SelectedModel(version.saved.name, preset_of(version), f"model {given} (given)", version.number)
    default = MODELS.default_for(store, environment)
    if default is None:
        raise NotFound("no model is given and none is active.", "MODEL_NOT_ACTIVE")
    version, note = MODELS.active_version(store, default)
    assert version is not None, "only saved versions of a model are activated"
    description = f"model {default.name} (active {describe_scope(default.scope)}{note})"
    return SelectedModel(default.name, preset_of(version), description, version.number)


def with_fallbacks(store: Store, name: str, preset: ModelPreset) -> list[tuple[str, ModelPreset]]:
    """Return a preset and its fallbacks in order, each at its latest version.

    Raise `BadInput` if the fallbacks form a cycle.
    """
    chain = [(name, preset)]
    while following := chain[-1][1].fallback:
        if any(following == before for before, _ in chain):
            raise BadInput(f"the fallbacks of model {name} form a cycle at {following}: remove one of them.")
        chain.append((following, preset_of(find_model(store, following))))
    return chain


# --- Documents ---


def read_model_file(path: Path) -> DocumentFields:
    """Return the fields of a JSON or TOML file, not validated."""
    return _fields(read_values(path, "model"), str(path))


def parse_settings(texts: Iterable[str]) -> DocumentFields:
    """Return the fields of texts like `seed=7`. `none`, `true` and `false` become those values."""
    fields: DocumentFields = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals:
            raise BadInput("a setting has the form FIELD=VALUE, like model=MODEL.")
        fields[field.strip()] = {"none": None, "true": True, "false": False}.get(value.strip(), value.strip())
    return fields


def parse_preset(values: object, where: str) -> ModelPreset:
    """Return the preset of parsed values; `where` is its file or name. Raise `BadInput` for the first fault."""
    fields = _fields(values, where)
    if any(map(_is_secret, fields)):
        raise BadInput(f"model {where}: the name of a field looks like a key: remove it.")
    try:
        return ModelPreset.model_validate(fields)
    except ValidationError as error:
        unknown = f"no such field; the fields are {', '.join(ModelPreset.model_fields)}"
        reason = first_error(error, unknown, ModelPreset)
        raise BadInput(f"model {where}: {reason.rstrip('.')}.") from None


def _fields(values: object, where: str) -> DocumentFields:
    if not isinstance(values, dict):
        raise BadInput(f"model {where} is not a table of fields: write them like model = 'MODEL'.")
    return {**values}


def _is_secret(text: str) -> bool:
    return looks_like_key(text) or holds_secret(text)


# --- Writing ---


def save_model(store: Store, name: str, preset: ModelPreset, actor: str) -> ModelVersion:
    """Save a version and return it; a preset equal to the latest version adds none."""
    _check_saveable(store, name, preset)
    text = preset_text(preset)
    saved = MODELS.versions(store).get(name)
    latest_text = preset_text(preset_of(saved[-1])) if saved else None
    return MODELS.save(store, ModelSaved(name, text, preset_digest(text)), latest_text, actor)


def _check_saveable(store: Store, name: str, preset: ModelPreset) -> None:
    if _is_secret(name):
        raise BadInput("the model's name looks like a key, and names are written into the log: choose another.")
    MODELS.check_name(name)
    if name in variants.variant_names():
        raise BadInput(f"{name} is the name of an installed analyst: save the model under another name.")
    for field, value in preset_values(preset).items():
        if isinstance(value, str) and holds_secret(value):
            raise BadInput(
                f"model {name}: {field} contains a secret of the environment: put only the name of its variable into "
                "key_env."
            )
    if preset.fallback == name:
        raise BadInput(f"model {name} cannot be its own fallback: name another model, or none.")
    with_fallbacks(store, name, preset)


def activate_model(store: Store, given: str, scope: ProfileScope, actor: str) -> ModelActivated:
    """Make a preset, or one version of it, the default of a scope; append nothing if it already is."""
    if is_file(given):
        raise BadInput(f"{given} is a file, and only saved models can be activated.", "MODEL_NOT_SAVED", file=given)
    saved = find_model(store, given).saved
    return MODELS.activate(store, ModelActivated(scope, saved.name, saved.digest), actor)


def deactivate_model(store: Store, scope: ProfileScope, actor: str) -> str:
    """End the default of a scope; return the name of its preset. Raise `NotFound` without one."""
    current = active_models(store).get(scope)
    if current is None:
        raise NotFound(f"no model is active {describe_scope(scope)}.")
    MODELS.append(store, {current.name: ModelActivated(scope, "", "")}, actor)
    return current.name
