"""Profiles in the log: their versions, the active ones, and the one that a run uses.

Stream `profile:<name>` holds every saved version and every activation. An activation names the exact version that
becomes the default: saving another one changes no run until that one is activated. A run keeps its resolved snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from engine.core.errors import BadInput, NotFound
from engine.core.events import Environment, ProfileActivated, ProfileKind, ProfileSaved, ProfileScope
from engine.store import Store
from ui.services.document_files import is_file
from ui.services.profile_fields import Document, FieldValues, Portfolio, Profile, Risk
from ui.services.profile_files import (
    BUILT_IN,
    DEFAULT,
    check_document,
    combine_profiles,
    document_digest,
    document_text,
    document_values,
    parse_document,
    parse_profile_json,
    read_profile_file,
)
from ui.services.versioned_documents import DocumentVersion, VersionedDocuments, describe_scope

Half = Literal["portfolio", "risk"]

HALVES: dict[ProfileKind, tuple[Half, ...]] = {
    "combined": ("portfolio", "risk"),
    "portfolio": ("portfolio",),
    "risk": ("risk",),
}


PROFILES = VersionedDocuments("profile", ProfileSaved, ProfileActivated, lambda activated: HALVES[activated.kind])
ProfileVersion = DocumentVersion[ProfileSaved]


class ActiveProfile(NamedTuple):
    """The default of a scope for one half of a run's profile; `digest` names the version."""

    scope: ProfileScope
    half: Half
    name: str
    digest: str
    at: datetime
    actor: str


class SelectedProfile(NamedTuple):
    """A selected profile: the document, its name in the log, and a description of its origin."""

    profile: Profile
    name: str
    description: str


class _LocatedProfile(NamedTuple):
    name: str
    document: Document
    origin: str


# --- Reading ---


def profile_versions(store: Store) -> dict[str, list[ProfileVersion]]:
    """Return the saved versions of every profile, oldest first."""
    return PROFILES.versions(store)


def document_of(version: ProfileVersion) -> Document:
    """Return the document that a version saved."""
    where = f"{version.saved.name}@{version.number}"
    return parse_document(parse_profile_json(version.saved.document, where), where)


def list_profiles(store: Store) -> dict[str, Document]:
    """Return every profile by name, at its latest version."""
    return {**BUILT_IN, **{name: document_of(saved[-1]) for name, saved in profile_versions(store).items()}}


def active_profiles(store: Store) -> dict[tuple[ProfileScope, Half], ActiveProfile]:
    """Return the present defaults by scope and half."""
    defaults = PROFILES.defaults(store)
    halves: tuple[Half, ...] = HALVES["combined"]
    return {
        (scope, half): ActiveProfile(scope, half, default.name, default.digest, default.at, default.actor)
        for (scope, part), default in defaults.items()
        for half in halves
        if half == part
    }


def find_profile(store: Store, given: str) -> Document:
    """Return a profile by `NAME` (latest version, else built in), `NAME@VERSION`, or .json or .toml file."""
    if is_file(given):
        return read_profile_file(Path(given))
    version = _version(store, given)
    return BUILT_IN[given] if version is None else document_of(version)


def _version(store: Store, given: str) -> ProfileVersion | None:
    """Return the saved version of a name; None for a built-in profile."""
    name = given.partition("@")[0]
    saved = profile_versions(store)
    named = saved.get(name, [])
    if not named and name not in BUILT_IN:
        known = ", ".join(sorted({*BUILT_IN, *saved}))
        raise NotFound(
            f"profile {name!r} does not exist: choose one of {known}, or give a file that ends in .json or .toml."
        )
    return PROFILES.pick_version(given, named, "no versions: it is built in")


class FieldChange(NamedTuple):
    """A field by its dotted name and its value in two documents; empty text for a missing field."""

    field: str
    one: object
    other: object


def changed_fields(one: Document, other: Document) -> list[FieldChange]:
    """Return the fields in which two documents differ, in the order of the fields."""
    ours, theirs = dict(_leaves(document_values(one))), dict(_leaves(document_values(other)))
    fields = dict.fromkeys([*ours, *theirs])
    changes = (FieldChange(field, ours.get(field, ""), theirs.get(field, "")) for field in fields)
    return [change for change in changes if change.one != change.other]


def _leaves(values: FieldValues, before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves({**value}, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


# --- Selection ---


def select_profile(
    store: Store, profile: str | None = None, risk_profile: str | None = None, environment: Environment | None = None
) -> SelectedProfile:
    """Return the profile of a run: each half as given, else the environment's default, the global one, or the built-in.

    Without an environment there are no defaults: raise `BadInput` for a missing half.
    """
    given = None if profile is None else _LocatedProfile(_display_name(profile), find_profile(store, profile), "given")
    ours = given or _default(store, "portfolio", environment)
    if risk_profile is not None:
        theirs = _LocatedProfile(_display_name(risk_profile), find_profile(store, risk_profile), "given")
    elif given and isinstance(given.document, Profile):
        theirs = given
    else:
        theirs = _default(store, "risk", environment)
    if isinstance(ours.document, Risk):
        raise BadInput(f"{ours.name} is a risk profile and has no portfolio half.", "PORTFOLIO_HALF_MISSING")
    if isinstance(theirs.document, Portfolio):
        raise BadInput(f"{theirs.name} is a portfolio profile and has no risk half.", "RISK_HALF_MISSING")
    combined_profile = combine_profiles(ours.document, theirs.document)
    if (ours.name, ours.document) == (theirs.name, theirs.document):
        return SelectedProfile(combined_profile, ours.name, f"profile {ours.name} ({ours.origin})")
    description = f"profile {ours.name} ({ours.origin}) with the risk of {theirs.name} ({theirs.origin})"
    return SelectedProfile(combined_profile, f"{ours.name}+{theirs.name}", description)


def _display_name(given: str) -> str:
    """Return the name of a profile in a run: that of a file without its folders."""
    return Path(given).name if is_file(given) else given


def _default(store: Store, half: Half, environment: Environment | None) -> _LocatedProfile:
    if environment is None:
        raise BadInput(f"the {half} half of the profile is missing.", "PROFILE_HALF_MISSING")
    default = PROFILES.default_for(store, environment, half)
    if default is None:
        return _LocatedProfile(DEFAULT, BUILT_IN[DEFAULT], "built in")
    where = describe_scope(default.scope)
    version, note = PROFILES.active_version(store, default)
    if version is None:
        # A built-in profile belongs to the program, whatever its text was at activation.
        return _LocatedProfile(default.name, BUILT_IN[default.name], f"active {where}")
    return _LocatedProfile(default.name, document_of(version), f"active {where}{note}")


# --- Writing ---


def save_profile(store: Store, name: str, document: Document, actor: str) -> ProfileVersion:
    """Save a version and return it; a document equal to the latest version adds none."""
    PROFILES.check_name(name)
    if name in BUILT_IN:
        raise BadInput(f"profile {name} is built in and cannot be changed: save yours under another name.")
    check_document(document, name)
    text = document_text(document)
    latest = profile_versions(store).get(name, [None])[-1]
    if latest is not None and latest.saved.kind != document.kind:
        raise BadInput(
            f"profile {name} is a {latest.saved.kind} profile, this one is {document.kind}: save it under another name."
        )
    latest_text = None if latest is None else document_text(document_of(latest))
    event = ProfileSaved(name, text, document_digest(text), document.kind)
    return PROFILES.save(store, event, latest_text, actor)


def activate_profile(store: Store, given: str, scope: ProfileScope, actor: str) -> ProfileActivated:
    """Make a profile, or one version of it, the default of a scope; append nothing if it already is."""
    if is_file(given):
        raise BadInput(f"{given} is a file, and only saved profiles can be activated.", "PROFILE_NOT_SAVED", file=given)
    name = given.partition("@")[0]
    version = _version(store, given)
    if version is None:
        event = ProfileActivated(scope, "combined", name, document_digest(document_text(BUILT_IN[name])))
    else:
        event = ProfileActivated(scope, version.saved.kind, name, version.saved.digest)
    return PROFILES.activate(store, event, actor)


def deactivate_profile(store: Store, scope: ProfileScope, actor: str) -> list[str]:
    """End every default of a scope; return the names of their profiles. Raise `NotFound` without any."""
    halves: dict[str, list[Half]] = {}
    for default in active_profiles(store).values():
        if default.scope == scope:
            halves.setdefault(default.name, []).append(default.half)
    if not halves:
        raise NotFound(f"no profile is active {describe_scope(scope)}.")
    ends = {
        name: ProfileActivated(scope, "combined" if len(held) > 1 else held[0], "", "") for name, held in halves.items()
    }
    PROFILES.append(store, ends, actor)
    return list(ends)
