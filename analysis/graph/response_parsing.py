"""Strict parsing of untrusted responses of the chat-completions protocol.

An answer is accepted only if it is complete, unambiguous JSON, contains only text that can be stored, and calls only
offered tools. The reasons of `UnusableAnswer` are stored in failed analyses and sent to models as corrections, so
their wording is part of recordings.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple, cast

CONTENT_LENGTH_MAX = 20_000
ARGUMENTS_LENGTH_MAX = 2_000
TOOL_CALLS_MAX = 16
TOKENS_MAX = 10_000_000


class UnusableAnswer(ValueError):
    """An answer that cannot be used; `outcome` is the kind of the fault, the message its description."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class ParsedAnswer(NamedTuple):
    """Content of an answer: text, and tool calls as (name, arguments)."""

    content: str
    tool_calls: tuple[tuple[str, str], ...]


class Usage(NamedTuple):
    """Tokens of an answer and the model that gave it; None if the server reports no plausible number."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    answered_by: str = ""
    system_fingerprint: str = ""


def strict_json(text: str) -> Any:
    """Parse JSON without duplicate keys, NaN, infinity, lone surrogates or excessive nesting.

    Raise `UnusableAnswer` for anything else.
    """
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise UnusableAnswer("invalid", "its JSON is nested without end") from None
    except UnusableAnswer:
        raise
    except ValueError as error:
        raise UnusableAnswer("invalid", f"it is no JSON ({error})") from None
    if _has_surrogate(text) or _has_surrogate(json.dumps(value, ensure_ascii=False)):
        raise UnusableAnswer("invalid", "it holds half a character (a lone surrogate)")
    return value


def parse_answer(body: str, offered: Collection[str]) -> ParsedAnswer:
    """Return the answer in a response's body. offered: names of the allowed tools. Raise `UnusableAnswer`."""
    choices = _object(strict_json(body)).get("choices")
    choice = _object(choices[0] if isinstance(choices, list) and choices else None)
    message = _object(choice.get("message"))
    if not message:
        raise UnusableAnswer("invalid", "it has no message")
    _check_ending(choice.get("finish_reason"), message.get("refusal"))
    answer = ParsedAnswer(
        _text(message.get("content")), tuple(_call(each) for each in _calls(message.get("tool_calls")))
    )
    if not answer.content and not answer.tool_calls:
        raise UnusableAnswer("invalid", "it says nothing")
    unknown = [name for name, _ in answer.tool_calls if name not in offered]
    if unknown:
        raise UnusableAnswer("unknown_tool", f"it calls {unknown[0][:40]!r}, which it was not offered")
    return answer


def parse_usage(body: str) -> Usage:
    """Return the usage that a response reports, without implausible values."""
    try:
        envelope = _object(json.loads(body))
    except (ValueError, RecursionError):
        return Usage()
    tokens = _object(envelope.get("usage"))
    return Usage(
        _count(tokens.get("prompt_tokens")),
        _count(tokens.get("completion_tokens")),
        _name(envelope.get("model")),
        _name(envelope.get("system_fingerprint")),
    )


def _check_ending(reason: object, refusal: object) -> None:
    if reason == "length":
        raise UnusableAnswer("truncated", "it was cut off at the limit of its tokens")
    if reason == "content_filter":
        raise UnusableAnswer("refused", "a content filter stopped it")
    if refusal:
        raise UnusableAnswer("refused", f"the model refused: {str(refusal)[:80]!r}")


def _text(content: object) -> str:
    if content is not None and not isinstance(content, str):
        raise UnusableAnswer("invalid", "its content is no text")
    if content and len(content) > CONTENT_LENGTH_MAX:
        raise UnusableAnswer("invalid", f"its content has more than {CONTENT_LENGTH_MAX:,} characters")
    return content or ""


def _calls(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or len(cast("list[Any]", value)) > TOOL_CALLS_MAX:
        raise UnusableAnswer("invalid", f"it does not call at most {TOOL_CALLS_MAX} tools")
    calls = [_object(each) for each in cast("list[Any]", value)]
    ids = [each.get("id") for each in calls]
    if not all(isinstance(each, str) and 0 < len(each) <= 200 for each in ids) or len(set(ids)) < len(ids):
        raise UnusableAnswer("invalid", "its tool calls do not each have an id of their own")
    return calls


def _call(call: dict[str, Any]) -> tuple[str, str]:
    function = _object(call.get("function"))
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise UnusableAnswer("invalid", "it calls a tool without a name or without arguments")
    if len(arguments) > ARGUMENTS_LENGTH_MAX or not isinstance(strict_json(arguments or "{}"), dict):
        raise UnusableAnswer("invalid", f"its arguments for {name[:40]!r} are no JSON object of a usual length")
    return name, arguments


def _object(value: Any) -> dict[str, Any]:
    """Return a JSON object unchanged, and an empty one for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise UnusableAnswer("invalid", "it has the same key twice")
    return fields


def _no_constant(name: str) -> Any:
    raise UnusableAnswer("invalid", f"it says {name}, which is no number")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= each <= "\udfff" for each in text)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX else None


def _name(value: object) -> str:
    """Return an untrusted name reduced to printable characters."""
    return printable(value, 100) if isinstance(value, str) else ""


def printable(text: str, length: int) -> str:
    """Return the printable ASCII characters of untrusted text, cut to `length`."""
    return "".join(each for each in text if each.isascii() and each.isprintable())[:length]
