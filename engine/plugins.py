"""Plugins from entry point groups: found by name, and loaded only when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple

from engine.core.errors import BadInput, QuantagentError


class Loaded(NamedTuple):
    """A loaded entry point, and its origin as text for messages."""

    value: object
    where: str


def entry_point_names(group: str, built_in: Sequence[EntryPoint]) -> set[str]:
    """Return the names in a group, without importing anything.

    built_in: entry points of the project, which are known even if it is not installed.
    """
    return {entry.name for entry in (*built_in, *entry_points(group=group))}


def load_entry_point(kind: str, name: str, group: str, built_in: Sequence[EntryPoint], alternatives: str) -> Loaded:
    """Load the entry point with a name. kind and alternatives: words for messages about an unknown name.

    Raise `BadInput` for a name that is unknown or offered twice, and for code that cannot be loaded.
    """
    # Keyed by value: the project's own entry points appear twice when it is installed.
    matches = {entry.value: entry for entry in (*entry_points(group=group, name=name), *built_in) if entry.name == name}
    if not matches:
        raise BadInput(f"{kind} {name!r} is unknown; the known ones are {alternatives}.")
    if len(matches) > 1:
        packages = " and ".join(_package(entry) for entry in matches.values())
        raise BadInput(f"{kind} {name!r} is offered by {packages}: uninstall all but one, or rename it.")
    (entry,) = matches.values()
    where = f"{kind} {name!r} of package {_package(entry)} ({entry.value})"
    try:
        return Loaded(entry.load(), where)
    except QuantagentError:
        raise
    except Exception as error:
        raise load_error(where, error) from error


def load_error(where: str, error: Exception) -> BadInput:
    return BadInput(f"{where} cannot be loaded: {describe_error(error)}. Repair or reinstall that package.")


def describe_error(error: Exception) -> str:
    """Return the type of an error, its message in one line, and the place in the code that raised it."""
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    places = [place for place in extract_tb(error.__traceback__) if not place.filename.startswith("<frozen")]
    # The message of a syntax error names its place.
    if isinstance(error, SyntaxError) or not places:
        return message
    return f"{message} ({Path(places[-1].filename).name}, line {places[-1].lineno})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "quantagent"
