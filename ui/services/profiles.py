"""Profiles in the log: their versions, which are active, and which one a run takes.

Stream `profile:<name>` holds every saved version and every activation. An activation names the very version it makes
the default: saving another one changes no run until that one is activated. A run keeps its resolved snapshot.
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
    """What is the default of a scope for one half of a run's profile. `digest` names the version."""

    scope: ProfileScope
    half: Half
    name: str
    digest: str
    at: datetime
    actor: str


class SelectedProfile(NamedTuple):
    """What a run is decided by: the profile, its name in the log, and in words where it comes from."""

    profile: Profile
    name: str
    description: str


class _LocatedProfile(NamedTuple):
    name: str
    document: Document
    origin: str


# --- What the log says --------------------------------------------------------------------------------------------


def profile_versions(store: Store) -> dict[str, list[ProfileVersion]]:
    """Return the saved versions of every profile, oldest first."""
    return PROFILES.versions(store)


def document_of(version: ProfileVersion) -> Document:
    """Return the document that a version saved."""
    where = f"{version.saved.name}@{version.number}"
    return parse_document(parse_profile_json(version.saved.document, where), where)


def list_profiles(store: Store) -> dict[str, Document]:
    """Every profile under its name, as last saved."""
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
    """A profile by `NAME` (as last saved, else built in) or `NAME@VERSION`, or in a file ending in .json or .toml."""
    if is_file(given):
        return read_profile_file(Path(given))
    version = _version(store, given)
    return BUILT_IN[given] if version is None else document_of(version)


def _version(store: Store, given: str) -> ProfileVersion | None:
    """The saved version of that name, None where the profile is built in."""
    name = given.partition("@")[0]
    saved = profile_versions(store)
    named = saved.get(name, [])
    if not named and name not in BUILT_IN:
        known = ", ".join(sorted({*BUILT_IN, *saved}))
        raise NotFound(
            f"there is no profile {name!r}: choose one of {known}, or give a file that ends in .json or .toml."
        )
    return PROFILES.pick_version(given, named, "no versions: it is built in")


class FieldChange(NamedTuple):
    """A field by its dotted name and what it is in two documents; empty text where one has no such field."""

    field: str
    one: object
    other: object


def changed_fields(one: Document, other: Document) -> list[FieldChange]:
    """The fields in which two documents differ, in the order of the fields."""
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


# --- Which one a run takes ----------------------------------------------------------------------------------------


def select_profile(
    store: Store, profile: str | None = None, risk_profile: str | None = None, environment: Environment | None = None
) -> SelectedProfile:
    """The profile of a run: each half as given, else the environment's default, else the global one, else built in.

    Without an environment there are no defaults, and `BadInput` asks for what is missing.
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
        raise BadInput(f"{ours.name} is a risk profile: give it with --risk-profile.")
    if isinstance(theirs.document, Portfolio):
        raise BadInput(f"{theirs.name} is a portfolio profile: give it with --profile.")
    combined_profile = combine_profiles(ours.document, theirs.document)
    if (ours.name, ours.document) == (theirs.name, theirs.document):
        return SelectedProfile(combined_profile, ours.name, f"profile {ours.name} ({ours.origin})")
    description = f"profile {ours.name} ({ours.origin}) with the risk of {theirs.name} ({theirs.origin})"
    return SelectedProfile(combined_profile, f"{ours.name}+{theirs.name}", description)


def _display_name(given: str) -> str:
    """How a run calls its profile: a file without its folders."""
    return Path(given).name if is_file(given) else given


def _default(store: Store, half: Half, environment: Environment | None) -> _LocatedProfile:
    if environment is None:
        raise BadInput(f"the {half} half is missing: give a combined profile, or --profile and --risk-profile.")
    default = PROFILES.default_for(store, environment, half)
    if default is None:
        return _LocatedProfile(DEFAULT, BUILT_IN[DEFAULT], "built in")
    where = describe_scope(default.scope)
    version, note = PROFILES.active_version(store, default)
    if version is None:
        # A built-in profile belongs to the program, whatever its text was when it was activated.
        return _LocatedProfile(default.name, BUILT_IN[default.name], f"active {where}")
    return _LocatedProfile(default.name, document_of(version), f"active {where}{note}")


# --- What people change -------------------------------------------------------------------------------------------


def save_profile(store: Store, name: str, document: Document, actor: str) -> ProfileVersion:
    """Saves a version and returns it; a document equal to the latest version adds none."""
    PROFILES.check_name(name)
    if name in BUILT_IN:
        raise BadInput(f"profile {name} is built in and stays as it is: save yours under another name.")
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
    """Makes a profile, or one version of it, the default of a scope; what is the default already adds nothing."""
    if is_file(given):
        raise BadInput(f"{given} is a file: `quantagent profile save NAME --file {given}` first, then activate NAME.")
    name = given.partition("@")[0]
    version = _version(store, given)
    if version is None:
        event = ProfileActivated(scope, "combined", name, document_digest(document_text(BUILT_IN[name])))
    else:
        event = ProfileActivated(scope, version.saved.kind, name, version.saved.digest)
    return PROFILES.activate(store, event, actor)


def deactivate_profile(store: Store, scope: ProfileScope, actor: str) -> list[str]:
    """Ends every default of a scope; returns the names of the profiles that were. Raises `NotFound` without any."""
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
