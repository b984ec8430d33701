"""What OpenAI refuses of a request, and other servers do not mind: told apart here, as no such server is at hand."""

from __future__ import annotations

from typing import Any, cast

Json = dict[str, Any]

NOT_PERMITTED = ("default", "minLength", "maxLength", "uniqueItems", "oneOf", "not", "patternProperties")


def faults_in(body: Json) -> list[str]:
    """Why a request would be answered with 400: an empty list of tools, or a strict schema that is not one."""
    tools: list[Json] = body.get("tools") or []
    answer: Json = body.get("response_format") or {}
    form: Json = answer.get("json_schema") or {}
    strict = [named for named in [*(tool["function"] for tool in tools), form] if named.get("strict")]
    faults = [fault for named in strict for fault in _faults(named.get("parameters") or named.get("schema"), "")]
    return [*(["tools: an empty list"] if body.get("tools") == [] else []), *faults]


def _faults(schema: Any, where: str) -> list[str]:
    """A strict schema is closed, asks for all its fields, and knows neither defaults nor lengths."""
    if isinstance(schema, list):
        return [fault for each in cast("list[Any]", schema) for fault in _faults(each, where)]
    if not isinstance(schema, dict):
        return []
    said = cast("dict[str, Any]", schema)
    fields = said.get("properties")
    faults = [f"{where}: {word} is not permitted" for word in NOT_PERMITTED if word in said]
    if isinstance(fields, dict):
        if said.get("additionalProperties") is not False:
            faults.append(f"{where}: additionalProperties has to be false")
        if set(cast("dict[str, Any]", fields)) != set(said.get("required", ())):
            faults.append(f"{where}: required has to name every property")
    return faults + [fault for name, value in said.items() for fault in _faults(value, f"{where}.{name}")]
