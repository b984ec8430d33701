"""What OpenAI refuses of a request, and other servers do not mind: told apart here, as no such server is at hand."""

from __future__ import annotations

from typing import Any, cast

Json = dict[str, Any]

NOT_PERMITTED = ("default", "minLength", "maxLength", "uniqueItems", "oneOf", "not", "patternProperties")


def schema_errors(body: Json) -> list[str]:
    """Why a request would be answered with 400: an empty list of tools, or a strict schema that is not one."""
    tools: list[Json] = body.get("tools") or []
    answer: Json = body.get("response_format") or {}
    form: Json = answer.get("json_schema") or {}
    strict = [named for named in [*(tool["function"] for tool in tools), form] if named.get("strict")]
    errors = [error for named in strict for error in _schema_errors(named.get("parameters") or named.get("schema"), "")]
    return [*(["tools: an empty list"] if body.get("tools") == [] else []), *errors]


def _schema_errors(schema: Any, where: str) -> list[str]:
    """A strict schema is closed, asks for all its fields, and knows neither defaults nor lengths."""
    if isinstance(schema, list):
        return [error for each in cast("list[Any]", schema) for error in _schema_errors(each, where)]
    if not isinstance(schema, dict):
        return []
    schema_fields = cast("dict[str, Any]", schema)
    fields = schema_fields.get("properties")
    errors = [f"{where}: {word} is not permitted" for word in NOT_PERMITTED if word in schema_fields]
    if isinstance(fields, dict):
        if schema_fields.get("additionalProperties") is not False:
            errors.append(f"{where}: additionalProperties has to be false")
        if set(cast("dict[str, Any]", fields)) != set(schema_fields.get("required", ())):
            errors.append(f"{where}: required has to name every property")
    return errors + [
        fault for name, value in schema_fields.items() for fault in _schema_errors(value, f"{where}.{name}")
    ]
