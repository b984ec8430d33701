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
from analysis.llm.presets import ModelPreset, digest_of, facts_of, holds_secret, looks_like_key, text_of
from engine.core.errors import BadInput, NotFound
from engine.core.events import Environment, ModelActivated, ModelSaved, Scope
from engine.core.upcasters import names
from engine.store import Store, read_from
from ui.services.document_files import Said, first_fault, from_json, is_file, read_values
from ui.services.versioned_documents import append, check_name, in_words, numbered


class Version(NamedTuple):
    """A saved version of a preset, counted from 1; who saved it when."""

    number: int
    saved: ModelSaved
    at: datetime
    actor: str

    @property
    def preset(self) -> ModelPreset:
        where = f"{self.saved.name}@{self.number}"
        return preset_of(from_json(self.saved.document, f"model {where}"), where)


class Active(NamedTuple):
    """What is the default of a scope. `digest` names the version."""

    scope: Scope
    name: str
    digest: str
    at: datetime
    actor: str


class Chosen(NamedTuple):
    """A preset that asks: its name in the log, in words where it comes from, and which version of it this is."""

    name: str
    preset: ModelPreset
    told: str
    number: int


# --- What the log says --------------------------------------------------------------------------------------------


def versions(store: Store) -> dict[str, list[Version]]:
    """The saved versions of every preset, oldest first."""
    found: dict[str, list[Version]] = {}
    for row in read_from(store, names([ModelSaved])):
        if isinstance(row.event, ModelSaved):
            of_name = found.setdefault(row.event.name, [])
            of_name.append(Version(len(of_name) + 1, row.event, row.meta.recorded_at, row.meta.actor))
    return found


def active(store: Store) -> dict[Scope, Active]:
    """The defaults that are set, by scope."""
    found: dict[Scope, Active] = {}
    for row in read_from(store, names([ModelActivated])):
        fact = row.event
        if isinstance(fact, ModelActivated):
            found.pop(fact.scope, None)
            if fact.name:
                found[fact.scope] = Active(fact.scope, fact.name, fact.digest, row.meta.recorded_at, row.meta.actor)
    return found


def find(store: Store, given: str) -> Version:
    """A preset by `NAME`, as last saved, or `NAME@VERSION`. Raises `NotFound` with those that there are."""
    if _is_secret(given):
        raise NotFound("there is no model of that name, which looks like a key: give a name, and keep keys out of it.")
    saved = versions(store)
    name = given.partition("@")[0]
    version = numbered("model", given, saved.get(name, ())) if name in saved else None
    if version is None:
        known = f"choose one of {', '.join(sorted(saved))}, or save" if saved else "save"
        raise NotFound(
            f"there is no model {given!r}: {known} one with `quantagent model save {name or 'NAME'} --set model=MODEL`."
        )
    return version


# --- Which one asks -----------------------------------------------------------------------------------------------


def choose(store: Store, given: str | None = None, environment: Environment | None = None) -> Chosen:
    """The preset as given, else the environment's default, else the global one.

    Raises `NotFound` where none is given and none is active.
    """
    if given is not None:
        version = find(store, given)
        return Chosen(version.saved.name, version.preset, f"model {given} (given)", version.number)
    defaults = active(store)
    scopes: tuple[Scope, ...] = ("global",)
    if environment is not None:
        scopes = ("paper" if environment is Environment.PAPER else "backtest", "global")
    default = next((defaults[scope] for scope in scopes if scope in defaults), None)
    if default is None:
        raise NotFound("no model is active: name one, or `quantagent model activate NAME` makes one the default.")
    saved = versions(store)[default.name]
    version = next(each for each in reversed(saved) if each.saved.digest == default.digest)
    older = "" if version is saved[-1] else f", version {version.number} of {len(saved)}"
    told = f"model {default.name} (active {in_words(default.scope)}{older})"
    return Chosen(default.name, version.preset, told, version.number)


def with_fallbacks(store: Store, name: str, preset: ModelPreset) -> list[tuple[str, ModelPreset]]:
    """A preset and those that are asked when it fails, in order, each as last saved.

    Raises `BadInput` where the last of them would lead back to one before it.
    """
    chain = [(name, preset)]
    while following := chain[-1][1].fallback:
        if any(following == before for before, _ in chain):
            raise BadInput(f"the fallbacks of model {name} go in a circle, back to {following}: end them somewhere.")
        chain.append((following, find(store, following).preset))
    return chain


# --- Documents ----------------------------------------------------------------------------------------------------


def read_file(path: Path) -> Said:
    """The fields in a JSON or TOML file, not judged yet."""
    return _fields(read_values(path, "model"), str(path))


def settings_of(texts: Iterable[str]) -> Said:
    """The fields of texts like `seed=7`. `none`, `true` and `false` stand for themselves."""
    said: Said = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals:
            raise BadInput("--set is written FIELD=VALUE, like --set model=MODEL.")
        said[field.strip()] = {"none": None, "true": True, "false": False}.get(value.strip(), value.strip())
    return said


def preset_of(said: object, where: str) -> ModelPreset:
    """The preset of parsed values; `where` is its file or name. Raises `BadInput` for the first thing wrong in it."""
    fields = _fields(said, where)
    if any(map(_is_secret, fields)):
        raise BadInput(f"model {where}: the name of a field looks like a key: take it out.")
    try:
        return ModelPreset.model_validate(fields)
    except ValidationError as error:
        unknown = f"there is no such field, only {', '.join(ModelPreset.model_fields)}"
        fault = first_fault(error, unknown, ModelPreset)
        raise BadInput(f"model {where}: {fault.rstrip('.')}.") from None


def _fields(said: object, where: str) -> Said:
    if not isinstance(said, dict):
        raise BadInput(f"model {where} is no table of fields: write them like model = 'MODEL'.")
    return {**said}


def _is_secret(text: str) -> bool:
    return looks_like_key(text) or holds_secret(text)


# --- What people change -------------------------------------------------------------------------------------------


def save(store: Store, name: str, preset: ModelPreset, actor: str) -> Version:
    """Saves a version and returns it; a preset equal to the latest version adds none."""
    _check_saveable(store, name, preset)
    text = text_of(preset)
    latest = versions(store).get(name, [None])[-1]
    if latest is None or text_of(latest.preset) != text:
        append(store, {_stream(name): ModelSaved(name, text, digest_of(text))}, actor)
        latest = versions(store)[name][-1]
    return latest


def _check_saveable(store: Store, name: str, preset: ModelPreset) -> None:
    if _is_secret(name):
        raise BadInput("the model's name looks like a key: a name is written into the log, choose another.")
    check_name("model", name)
    if name in variants.names():
        raise BadInput(f"{name} is the name of an analyst that is installed: save the model under another name.")
    for field, value in facts_of(preset).items():
        if isinstance(value, str) and holds_secret(value):
            raise BadInput(
                f"model {name}: {field} has a secret of the environment in it: put the name of its variable into "
                "key_env, and nothing else."
            )
    if preset.fallback == name:
        raise BadInput(f"model {name} cannot be its own fallback: name another one, or none.")
    with_fallbacks(store, name, preset)


def activate(store: Store, given: str, scope: Scope, actor: str) -> ModelActivated:
    """Makes a preset, or one version of it, the default of a scope; what is the default already adds nothing."""
    if is_file(given):
        raise BadInput(f"{given} is a file: `quantagent model save NAME --file {given}` first, then activate NAME.")
    saved = find(store, given).saved
    fact = ModelActivated(scope, saved.name, saved.digest)
    held = active(store).get(scope)
    if held is None or (held.name, held.digest) != (fact.name, fact.digest):
        append(store, {_stream(saved.name): fact}, actor)
    return fact


def deactivate(store: Store, scope: Scope, actor: str) -> str:
    """Ends the default of a scope; returns the name of the preset that was. Raises `NotFound` without one."""
    held = active(store).get(scope)
    if held is None:
        raise NotFound(f"no model is active {in_words(scope)}.")
    append(store, {_stream(held.name): ModelActivated(scope, "", "")}, actor)
    return held.name


def _stream(name: str) -> str:
    return f"model:{name}"
