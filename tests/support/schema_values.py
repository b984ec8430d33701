"""Values for JSON schemas, drawn from a generator; a decision and its patterns agree with themselves."""

from __future__ import annotations

import re
from random import Random
from typing import Any, cast

Json = dict[str, Any]

DEPTH_MAX = 5
"""Where a schema holds itself: from here on lists stay empty and options the simplest."""
ALPHABETS = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "0123456789abcdef")
FORMATS = {
    "date": "2024-01-{n:02}",
    "date-time": "2024-01-{n:02}T12:00:00Z",
    "time": "12:00:{n:02}Z",
    "duration": "PT{n}M",
    "uuid": "00000000-0000-4000-8000-0000000000{n:02}",
    "uri": "http://127.0.0.1/{n}",
    "email": "person{n}@example.org",
    "ipv4": "127.0.0.{n}",
    "ipv6": "::{n}",
}


class Filler:
    """Values for a JSON schema as pydantic writes them, drawn from a generator.

    A pattern is met by plain runs of digits or letters, or refused; what no schema can say is told in `document`.
    """

    def __init__(self, schema: Json, rng: Random) -> None:
        self.root, self._rng = schema, rng

    def document(self) -> Any:
        """A value for the whole schema; a decision and its patterns agree with themselves."""
        value = self.value(self.root)
        if not isinstance(value, dict):
            return value
        document, properties = cast(Json, value), self.resolved(self.root).get("properties", {})
        if document.get("decision") in ("LONG", "SHORT"):
            for name in ("horizon_bars", "risk_reward"):
                if name in properties and document.get(name) is None:
                    document[name] = self.value(self._non_null(self.options(properties[name])))
        elif document.get("decision") == "HOLD":
            for name in ("horizon_bars", "risk_reward"):
                if name in document and {"type": "null"} in self.options(properties[name]):
                    document[name] = None
        if "primary_pattern" in document:
            found = document.get("patterns_detected") or ()
            if document["primary_pattern"] not in found:
                document["primary_pattern"] = found[0] if found else None
        return document

    def resolved(self, schema: Json) -> Json:
        """A schema without references and `allOf`."""
        while "$ref" in schema or "allOf" in schema:
            rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
            parts: list[Json] = list(schema.get("allOf", ()))
            if "$ref" in schema:
                parts.append(self._at(schema["$ref"]))
            properties: Json = {}
            required: list[str] = []
            schema = {}
            for part in [*parts, rest]:
                properties |= part.get("properties", {})
                required += part.get("required", ())
                schema |= part
            if properties:
                schema |= {"properties": properties, "required": required}
        return schema

    def options(self, schema: Json) -> list[Json]:
        """The schemas of which one is to hold; one that is not several is its only option."""
        schema = self.resolved(schema)
        for several in ("anyOf", "oneOf"):
            if several in schema:
                rest = {name: value for name, value in schema.items() if name not in (several, "default", "title")}
                return [option for one in schema[several] for option in self.options({**rest, **one})]
        if isinstance(schema.get("type"), list):
            return [{**schema, "type": kind} for kind in schema["type"]]
        return [schema]

    def value(self, schema: Json | bool, depth: int = 0) -> Any:
        options = self.options({} if isinstance(schema, bool) else schema)
        if any(one.get("type") == "number" for one in options):
            # Beside a number, text is pydantic's other spelling of a Decimal, and knows nothing of its bounds.
            options = [one for one in options if one.get("type") != "string"]
        if depth > DEPTH_MAX:
            options = [min(options, key=_size)]
        if self._rng.random() < 0.75:
            options = [one for one in options if one.get("type") != "null"] or options
        one = self._rng.choice(options)
        if "const" in one:
            return one["const"]
        if "enum" in one:
            return self._rng.choice(one["enum"])
        match one.get("type") or ("object" if "properties" in one else "array" if "items" in one else "string"):
            case "object":
                return self._object(one, depth)
            case "array":
                return self._array(one, depth)
            case "integer":
                return self._integer(one)
            case "number":
                return self._number(one)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._text(one)

    def _at(self, pointer: str) -> Json:
        found: Any = self.root
        try:
            for name in pointer.lstrip("#").split("/")[1:]:
                found = found[name.replace("~1", "/").replace("~0", "~")]
        except (KeyError, TypeError):
            raise ValueError(f"Invalid schema: {pointer} leads nowhere.") from None
        return cast(Json, found)

    def _non_null(self, options: list[Json]) -> Json:
        return {"anyOf": [one for one in options if one.get("type") != "null"] or options}

    def _object(self, schema: Json, depth: int) -> Json:
        required = set(schema.get("required", ()))
        filled = {
            name: self.value(one, depth + 1)
            for name, one in schema.get("properties", {}).items()
            if name in required or (depth < DEPTH_MAX and self._rng.random() < 0.75)
        }
        others: Json | bool = schema.get("additionalProperties", False)
        least = schema.get("minProperties", 0)
        if least or (isinstance(others, dict) and depth < DEPTH_MAX):
            names: Json = {"type": "string", **schema.get("propertyNames", {})}
            for _ in range(50):
                if len(filled) >= max(least, min(2, schema.get("maxProperties", 2))):
                    break
                filled.setdefault(str(self.value(names)), self.value(others, depth + 1))
        return filled

    def _array(self, schema: Json, depth: int) -> list[Any]:
        first: list[Json] = schema.get("prefixItems", [])
        filled = [self.value(one, depth + 1) for one in first]
        items = schema.get("items", not first)
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", least + 3), least + 3) if items is not False else len(first)
        count = least if depth >= DEPTH_MAX else self._rng.randint(least, max(least, most))
        for _ in range(count * 50):
            if len(filled) >= count:
                break
            drawn = self.value(items, depth + 1)
            # Names are told once, also in lists that would allow more.
            if drawn not in filled or not (schema.get("uniqueItems") or isinstance(drawn, str)):
                filled.append(drawn)
        while len(filled) < least and not schema.get("uniqueItems"):
            filled.append(self.value(items, depth + 1))
        return filled

    def _integer(self, schema: Json) -> int:
        step = int(schema.get("multipleOf", 1))
        low, high = _bounds(schema, 100)
        least = int(-(-low // step)) + (schema.get("exclusiveMinimum") == -(-low // step) * step)
        most = int(high // step) - (schema.get("exclusiveMaximum") == high // step * step)
        return self._rng.randint(least, max(least, most)) * step

    def _number(self, schema: Json) -> float:
        if "multipleOf" in schema:
            return self._rng.randint(*_multiples(schema)) * schema["multipleOf"]
        low, high = _bounds(schema, 100)
        drawn = self._rng.uniform(low, high)
        # As few places as there is room for: a Decimal may be limited in them, which a schema of numbers does not say.
        for places in (2, 4, 8, 12):
            for near in (0, 1, -1):
                short = round(drawn + near * 10.0**-places, places)
                if _is_within(schema, short):
                    return short
        return (low + high) / 2

    def _text(self, schema: Json) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", 1_000)
        if "pattern" in schema:
            return self._matching(schema["pattern"], least, min(most, max(least, 64)))
        if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]].format(n=self._rng.randint(10, 28))
        return f"text {self._rng.randint(0, 999_999):06} ".ljust(least, "x")[:most].strip().ljust(least, "x")

    def _matching(self, pattern: str, least: int, most: int) -> str:
        for length in range(max(least, 1), most + 1):
            for letters in ALPHABETS:
                drawn = "".join(self._rng.choices(letters, k=length))
                if re.search(pattern, drawn):
                    return drawn
        raise ValueError(f"Invalid schema: this server knows no text for the pattern {pattern!r}.")


def _size(schema: Json) -> int:
    return {"null": 0, "array": 2, "object": 3}.get(schema.get("type", "object" if "properties" in schema else ""), 1)


def _bounds(schema: Json, width: float) -> tuple[float, float]:
    """The least and the greatest number; one that is missing is `width` from the other."""
    # pydantic leaves a bound that comes after a validator under its own name.
    lows = [schema[name] for name in ("minimum", "exclusiveMinimum", "ge", "gt") if name in schema]
    highs = [schema[name] for name in ("maximum", "exclusiveMaximum", "le", "lt") if name in schema]
    low = max(lows) if lows else min(0, min(highs, default=0) - width) if highs and min(highs) <= 0 else 0
    return low, min(highs) if highs else low + width


def _is_within(schema: Json, x: float) -> bool:
    low, high = _bounds(schema, 100)
    return low <= x <= high and all(
        schema.get(name) != x for name in ("exclusiveMinimum", "exclusiveMaximum", "gt", "lt")
    )


def _multiples(schema: Json) -> tuple[int, int]:
    step = schema["multipleOf"]
    low, high = _bounds(schema, 100 * step)
    least, most = int(-(-low // step)), int(high // step)
    least += "exclusiveMinimum" in schema and least * step <= schema["exclusiveMinimum"]
    most -= "exclusiveMaximum" in schema and most * step >= schema["exclusiveMaximum"]
    return least, max(least, most)
