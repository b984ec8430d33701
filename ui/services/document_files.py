"""Documents that people write as JSON or TOML: their values, numbers exact, and what is wrong with them in words."""

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
    """Whether a document is given as a file: by its ending."""
    return Path(given).suffix in (".json", ".toml")


def read_values(path: Path, what: str) -> object:
    """The values in a JSON or TOML file. what: what it holds, for people. Raises `BadInput` naming file and reason."""
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
    """The values of a JSON text, its numbers exact."""
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
    """The values of a TOML text, its numbers exact. TOML has no null: `"none"` stands for it."""
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
    """The first thing wrong with a document, its field first. unknown: what to say of a field that there is not;
    model: what the document is, whose fields may have been meant."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"] if part != "[key]"]
    if first["type"] == "extra_forbidden":
        reason = unknown + did_you_mean(path[-1], _fields_at(model, path[:-1]))
    else:
        reason = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path)}: {reason}" if path else reason


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> tuple[str, ...]:
    """The fields that a document has at a place; on the way, what is no field is a key of a table."""
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
