"""JSON and TOML documents of users: parsing with exact numbers, and messages for faults."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from engine.core.errors import BadInput
from ui.suggestions import did_you_mean

DocumentFields = dict[str, Any]


def is_file(given: str) -> bool:
    """Return True if a document is given as a file, by its suffix."""
    return Path(given).suffix in (".json", ".toml")


def read_values(path: Path, what: str) -> object:
    """Return the values of a JSON or TOML file. what: its kind, for messages. Raise `BadInput` with the reason."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"{what} {path} cannot be read ({error.strerror}): give the path of a JSON or TOML file."
        ) from None
    except UnicodeDecodeError:
        raise BadInput(f"{what} {path} is not a text file: a {what} is a JSON or TOML document.") from None
    return _from_toml(text, f"{what} {path}") if path.suffix == ".toml" else parse_json(text, f"{what} {path}")


def parse_json(text: str, where: str) -> object:
    """Return the values of a JSON text, with exact numbers."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=_reject_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON: {error}.") from None


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> DocumentFields:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is named twice: " + ", ".join(name for name, _ in pairs))
    return fields


def _from_toml(text: str, where: str) -> object:
    """Return the values of a TOML text, with exact numbers. TOML has no null: `\"none\"` is read as null."""
    try:
        return _with_none(tomllib.loads(text, parse_float=Decimal))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not TOML: {error}.") from None


def _with_none(value: object) -> object:
    if not isinstance(value, dict):
        return None if value == "none" else value
    fields: DocumentFields = {**value}
    return {name: _with_none(each) for name, each in fields.items()}


def first_error(error: ValidationError, unknown: str, model: type[BaseModel]) -> str:
    """Return the first fault of a document as FIELD: REASON. unknown: reason for an unknown field; model: type of the
    document, whose field names are suggested."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"] if part != "[key]"]
    if first["type"] == "extra_forbidden":
        reason = unknown + did_you_mean(path[-1], _fields_at(model, path[:-1]))
    else:
        reason = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path)}: {reason}" if path else reason


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> tuple[str, ...]:
    """Return the field names of a document at a path; a part that is not a field is a key of a table."""
    for part in path:
        if part not in model.model_fields:
            continue
        inner = next(_models_in(model.model_fields[part].annotation), None)
        if inner is None:
            return ()
        model = inner
    return tuple(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
