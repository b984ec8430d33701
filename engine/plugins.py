"""What packages offer in an entry point group: found by name, loaded only when it is asked for, refused in words."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple

from engine.core.errors import BadInput, QuantagentError


class Loaded(NamedTuple):
    """What an entry point leads to, and where that is, for messages."""

    value: object
    where: str


def entry_point_names(group: str, built_in: Sequence[EntryPoint]) -> set[str]:
    """The names in a group. `built_in`: ours, which are there before the package is installed. Imports nothing."""
    return {entry.name for entry in (*built_in, *entry_points(group=group))}


def load_entry_point(kind: str, name: str, group: str, built_in: Sequence[EntryPoint], alternatives: str) -> Loaded:
    """What a name leads to. kind: what a person calls it; otherwise: what there is instead of an unknown name.

    Raises `BadInput` for a name that is unknown or offered twice, and for code that cannot be loaded.
    """
    # By what they lead to: our own entry points are known twice, once the package is installed.
    matches = {entry.value: entry for entry in (*entry_points(group=group, name=name), *built_in) if entry.name == name}
    if not matches:
        raise BadInput(f"{kind} {name!r} is unknown: there is {alternatives}.")
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
    """An error's kind, what it says in one line, and where in the code it was raised."""
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    places = [place for place in extract_tb(error.__traceback__) if not place.filename.startswith("<frozen")]
    # A syntax error says itself where it is.
    if isinstance(error, SyntaxError) or not places:
        return message
    return f"{message} ({Path(places[-1].filename).name}, line {places[-1].lineno})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "quantagent"
