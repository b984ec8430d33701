"""Profiles in the log: their versions, which are active, and which one a run takes.

Stream `profile:<name>` holds every saved version and every activation. An activation names the very version it makes
the default: saving another one changes no run until that one is activated. A run keeps its resolved snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from engine.core.errors import BadInput, NotFound
from engine.core.events import Environment, Fact, ProfileActivated, ProfileKind, ProfileSaved, Scope
from engine.core.upcasters import names
from engine.store import Store, read_from
from ui.services.document_files import is_file
from ui.services.profile_fields import Document, Portfolio, Profile, Risk, Said
from ui.services.profile_files import (
    BUILT_IN,
    DEFAULT,
    check_document,
    combined,
    digest_of,
    document_of,
    facts_of,
    from_json,
    read_file,
    text_of,
)
from ui.services.versioned_documents import append, check_name, in_words, numbered

Half = Literal["portfolio", "risk"]

HALVES: dict[ProfileKind, tuple[Half, ...]] = {
    "combined": ("portfolio", "risk"),
    "portfolio": ("portfolio",),
    "risk": ("risk",),
}


class Version(NamedTuple):
    """A saved version of a profile, counted from 1; who saved it when."""

    number: int
    saved: ProfileSaved
    at: datetime
    actor: str

    @property
    def document(self) -> Document:
        where = f"{self.saved.name}@{self.number}"
        return document_of(from_json(self.saved.document, where), where)


class Active(NamedTuple):
    """What is the default of a scope for one half of a run's profile. `digest` names the version."""

    scope: Scope
    half: Half
    name: str
    digest: str
    at: datetime
    actor: str


class Chosen(NamedTuple):
    """What a run is decided by: the profile, its name in the log, and in words where it comes from."""

    profile: Profile
    name: str
    told: str


class _Found(NamedTuple):
    name: str
    document: Document
    origin: str


# --- What the log says --------------------------------------------------------------------------------------------


def versions(store: Store) -> dict[str, list[Version]]:
    """The saved versions of every profile, oldest first."""
    found: dict[str, list[Version]] = {}
    for row in read_from(store, names([ProfileSaved])):
        if isinstance(row.event, ProfileSaved):
            of_name = found.setdefault(row.event.name, [])
            of_name.append(Version(len(of_name) + 1, row.event, row.meta.recorded_at, row.meta.actor))
    return found


def listing(store: Store) -> dict[str, Document]:
    """Every profile under its name, as last saved."""
    return {**BUILT_IN, **{name: saved[-1].document for name, saved in versions(store).items()}}


def active(store: Store) -> dict[tuple[Scope, Half], Active]:
    """The defaults that are set, by scope and half."""
    found: dict[tuple[Scope, Half], Active] = {}
    for row in read_from(store, names([ProfileActivated])):
        fact = row.event
        if isinstance(fact, ProfileActivated):
            for half in HALVES[fact.kind]:
                found.pop((fact.scope, half), None)
                if fact.name:
                    found[fact.scope, half] = Active(
                        fact.scope, half, fact.name, fact.digest, row.meta.recorded_at, row.meta.actor
                    )
    return found


def find(store: Store, given: str) -> Document:
    """A profile by `NAME` (as last saved, else built in) or `NAME@VERSION`, or in a file ending in .json or .toml."""
    if is_file(given):
        return read_file(Path(given))
    version = _version(store, given)
    return BUILT_IN[given] if version is None else version.document


def _version(store: Store, given: str) -> Version | None:
    """The saved version of that name, None where the profile is built in."""
    name = given.partition("@")[0]
    saved = versions(store)
    of_name = saved.get(name, [])
    if not of_name and name not in BUILT_IN:
        known = ", ".join(sorted({*BUILT_IN, *saved}))
        raise NotFound(
            f"there is no profile {name!r}: choose one of {known}, or give a file that ends in .json or .toml."
        )
    return numbered("profile", given, of_name, "no versions: it is built in")


class Change(NamedTuple):
    """A field by its dotted name and what it is in two documents; empty text where one has no such field."""

    field: str
    one: object
    other: object


def difference(one: Document, other: Document) -> list[Change]:
    """The fields in which two documents differ, in the order of the fields."""
    ours, theirs = dict(_leaves(facts_of(one))), dict(_leaves(facts_of(other)))
    fields = dict.fromkeys([*ours, *theirs])
    changes = (Change(field, ours.get(field, ""), theirs.get(field, "")) for field in fields)
    return [change for change in changes if change.one != change.other]


def _leaves(said: Said, before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in said.items():
        if isinstance(value, dict):
            yield from _leaves({**value}, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


# --- Which one a run takes ----------------------------------------------------------------------------------------


def choose(
    store: Store, profile: str | None = None, risk_profile: str | None = None, environment: Environment | None = None
) -> Chosen:
    """The profile of a run: each half as given, else the environment's default, else the global one, else built in.

    Without an environment there are no defaults, and `BadInput` asks for what is missing.
    """
    given = None if profile is None else _Found(_name_of(profile), find(store, profile), "given")
    ours = given or _default(store, "portfolio", environment)
    if risk_profile is not None:
        theirs = _Found(_name_of(risk_profile), find(store, risk_profile), "given")
    elif given and isinstance(given.document, Profile):
        theirs = given
    else:
        theirs = _default(store, "risk", environment)
    if isinstance(ours.document, Risk):
        raise BadInput(f"{ours.name} is a risk profile: give it with --risk-profile.")
    if isinstance(theirs.document, Portfolio):
        raise BadInput(f"{theirs.name} is a portfolio profile: give it with --profile.")
    whole = combined(ours.document, theirs.document)
    if (ours.name, ours.document) == (theirs.name, theirs.document):
        return Chosen(whole, ours.name, f"profile {ours.name} ({ours.origin})")
    told = f"profile {ours.name} ({ours.origin}) with the risk of {theirs.name} ({theirs.origin})"
    return Chosen(whole, f"{ours.name}+{theirs.name}", told)


def _name_of(given: str) -> str:
    """How a run calls its profile: a file without its folders."""
    return Path(given).name if is_file(given) else given


def _default(store: Store, half: Half, environment: Environment | None) -> _Found:
    if environment is None:
        raise BadInput(f"the {half} half is missing: give a combined profile, or --profile and --risk-profile.")
    defaults = active(store)
    scopes: tuple[Scope, ...] = ("paper", "global") if environment is Environment.PAPER else ("backtest", "global")
    found = next((defaults[scope, half] for scope in scopes if (scope, half) in defaults), None)
    if found is None:
        return _Found(DEFAULT, BUILT_IN[DEFAULT], "built in")
    where = in_words(found.scope)
    saved = versions(store).get(found.name, [])
    version = next((version for version in reversed(saved) if version.saved.digest == found.digest), None)
    if version is None:
        # A built-in profile is the program's, whatever it said when it was activated.
        return _Found(found.name, BUILT_IN[found.name], f"active {where}")
    older = "" if version is saved[-1] else f", version {version.number} of {len(saved)}"
    return _Found(found.name, version.document, f"active {where}{older}")


# --- What people change -------------------------------------------------------------------------------------------


def save(store: Store, name: str, document: Document, actor: str) -> Version:
    """Saves a version and returns it; a document equal to the latest version adds none."""
    check_name("profile", name)
    if name in BUILT_IN:
        raise BadInput(f"profile {name} is built in and stays as it is: save yours under another name.")
    check_document(document, name)
    text = text_of(document)
    latest = versions(store).get(name, [None])[-1]
    if latest is not None and latest.saved.kind != document.kind:
        raise BadInput(
            f"profile {name} is a {latest.saved.kind} profile, this one is {document.kind}: save it under another name."
        )
    if latest is None or text_of(latest.document) != text:
        _append(store, {name: ProfileSaved(name, text, digest_of(text), document.kind)}, actor)
        latest = versions(store)[name][-1]
    return latest


def activate(store: Store, given: str, scope: Scope, actor: str) -> ProfileActivated:
    """Makes a profile, or one version of it, the default of a scope; what is the default already adds nothing."""
    if is_file(given):
        raise BadInput(f"{given} is a file: `quantagent profile save NAME --file {given}` first, then activate NAME.")
    name = given.partition("@")[0]
    version = _version(store, given)
    if version is None:
        fact = ProfileActivated(scope, "combined", name, digest_of(text_of(BUILT_IN[name])))
    else:
        fact = ProfileActivated(scope, version.saved.kind, name, version.saved.digest)
    held = active(store)
    halves = [held.get((scope, half)) for half in HALVES[fact.kind]]
    if any(each is None or (each.name, each.digest) != (name, fact.digest) for each in halves):
        _append(store, {name: fact}, actor)
    return fact


def deactivate(store: Store, scope: Scope, actor: str) -> list[str]:
    """Ends every default of a scope; returns the names of the profiles that were. Raises `NotFound` without any."""
    halves: dict[str, list[Half]] = {}
    for default in active(store).values():
        if default.scope == scope:
            halves.setdefault(default.name, []).append(default.half)
    if not halves:
        raise NotFound(f"no profile is active {in_words(scope)}.")
    ends = {
        name: ProfileActivated(scope, "combined" if len(held) > 1 else held[0], "", "") for name, held in halves.items()
    }
    _append(store, ends, actor)
    return list(ends)


def _append(store: Store, facts: Mapping[str, Fact], actor: str) -> None:
    """One fact to the stream of each profile, all or none."""
    append(store, {f"profile:{name}": fact for name, fact in facts.items()}, actor)
