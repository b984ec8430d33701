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
from engine.core.upcasters import event_names
from engine.store import Store, read_from
from ui.services.document_files import DocumentFields, first_error, is_file, parse_json, read_values
from ui.services.versioned_documents import append_events, check_name, describe_scope, pick_version


class ModelVersion(NamedTuple):
    """A saved version of a preset, counted from 1; who saved it when."""

    number: int
    saved: ModelSaved
    at: datetime
    actor: str

    @property
    def preset(self) -> ModelPreset:
        where = f"{self.saved.name}@{self.number}"
        return parse_preset(parse_json(self.saved.document, f"model {where}"), where)


class ActiveModel(NamedTuple):
    """What is the default of a scope. `digest` names the version."""

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
    """The saved versions of every preset, oldest first."""
    found: dict[str, list[ModelVersion]] = {}
    for row in read_from(store, event_names([ModelSaved])):
        if isinstance(row.event, ModelSaved):
            saved = found.setdefault(row.event.name, [])
            saved.append(ModelVersion(len(saved) + 1, row.event, row.meta.recorded_at, row.meta.actor))
    return found


def active_models(store: Store) -> dict[ProfileScope, ActiveModel]:
    """The defaults that are set, by scope."""
    found: dict[ProfileScope, ActiveModel] = {}
    for row in read_from(store, event_names([ModelActivated])):
        event = row.event
        if isinstance(event, ModelActivated):
            found.pop(event.scope, None)
            if event.name:
                found[event.scope] = ActiveModel(
                    event.scope, event.name, event.digest, row.meta.recorded_at, row.meta.actor
                )
    return found


def find_model(store: Store, given: str) -> ModelVersion:
    """A preset by `NAME`, as last saved, or `NAME@VERSION`. Raises `NotFound` with those that there are."""
    if _is_secret(given):
        raise NotFound("there is no model of that name, which looks like a key: give a name, and keep keys out of it.")
    saved = model_versions(store)
    name = given.partition("@")[0]
    version = pick_version("model", given, saved.get(name, ())) if name in saved else None
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
        return SelectedModel(version.saved.name, version.preset, f"model {given} (given)", version.number)
    defaults = active_models(store)
    scopes: tuple[ProfileScope, ...] = ("global",)
    if environment is not None:
        scopes = ("paper" if environment is Environment.PAPER else "backtest", "global")
    default = next((defaults[scope] for scope in scopes if scope in defaults), None)
    if default is None:
        raise NotFound("no model is active: name one, or `quantagent model activate NAME` makes one the default.")
    saved = model_versions(store)[default.name]
    version = next(each for each in reversed(saved) if each.saved.digest == default.digest)
    older = "" if version is saved[-1] else f", version {version.number} of {len(saved)}"
    description = f"model {default.name} (active {describe_scope(default.scope)}{older})"
    return SelectedModel(default.name, version.preset, description, version.number)


def with_fallbacks(store: Store, name: str, preset: ModelPreset) -> list[tuple[str, ModelPreset]]:
    """A preset and those that are asked when it fails, in order, each as last saved.

    Raises `BadInput` where the last of them would lead back to one before it.
    """
    chain = [(name, preset)]
    while following := chain[-1][1].fallback:
        if any(following == before for before, _ in chain):
            raise BadInput(f"the fallbacks of model {name} go in a circle, back to {following}: end them somewhere.")
        chain.append((following, find_model(store, following).preset))
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
    latest = model_versions(store).get(name, [None])[-1]
    if latest is None or preset_text(latest.preset) != text:
        append_events(store, {_stream(name): ModelSaved(name, text, preset_digest(text))}, actor)
        latest = model_versions(store)[name][-1]
    return latest


def _check_saveable(store: Store, name: str, preset: ModelPreset) -> None:
    if _is_secret(name):
        raise BadInput("the model's name looks like a key: a name is written into the log, choose another.")
    check_name("model", name)
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
    event = ModelActivated(scope, saved.name, saved.digest)
    current = active_models(store).get(scope)
    if current is None or (current.name, current.digest) != (event.name, event.digest):
        append_events(store, {_stream(saved.name): event}, actor)
    return event


def deactivate_model(store: Store, scope: ProfileScope, actor: str) -> str:
    """Ends the default of a scope; returns the name of the preset that was. Raises `NotFound` without one."""
    current = active_models(store).get(scope)
    if current is None:
        raise NotFound(f"no model is active {describe_scope(scope)}.")
    append_events(store, {_stream(current.name): ModelActivated(scope, "", "")}, actor)
    return current.name


def _stream(name: str) -> str:
    return f"model:{name}"
