"""OpenAI's chat completions as functions of the questions: the same request gets the same bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any, NamedTuple, cast

from tests.support.schema_values import Filler, Json

AnswerEditor = Callable[[Json, Json], Json]
"""From a request's body and the answer as drawn to the answer as given: the same keys, other values."""

CREATED = 1_700_000_000
IMAGE_TOKENS = 765
PIECE = 16
"""Characters in one delta of a stream."""
NOT_SHAPING = frozenset({"stream", "stream_options", "user", "metadata"})
AGENTS = {
    "decision": {"decision"},
    "pattern": {"patterns_detected", "primary_pattern", "patterns", "pattern"},
    "trend": {"support_level", "resistance_level", "support", "resistance", "trend_strength"},
    "indicator": {"macd", "rsi", "rsi_level", "stoch_k", "momentum"},
}
"""By which properties of a schema an agent is known; the first that has one of them."""
FENCED = re.compile(r"JSON schema.*?```json\n(.*?)```", re.DOTALL | re.IGNORECASE)


class Image(NamedTuple):
    """A picture of a request, checked to be a whole PNG."""

    png: bytes
    sha256: str
    width: int
    height: int


@dataclass(eq=False)
class ServedRequest:
    """A request and what became of it.

    began, ended: monotonic seconds, `ended` when the last bytes of the answer were about to leave, None before that.
    status: what the answer is to say, 0 before that is known. headers: names in lower case. agent, fault: "" for none.
    """

    path: str
    body: Json
    began: float
    ended: float | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    images: tuple[Image, ...] = ()
    agent: str = ""
    digest: str = ""
    defect: str = ""


class RequestRefused(Exception):
    """A request that OpenAI would refuse too, in its shape of an error."""

    def __init__(self, status: int, message: str, code: str | None = None, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.kind = status, message, code, kind

    def response(self) -> Response:
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return Response(self.status, {"content-type": "application/json"}, (encoded({"error": error}),))


class Response(NamedTuple):
    """An answer over HTTP. Several pieces make a stream, which is sent in chunks."""

    status: int
    headers: Mapping[str, str]
    pieces: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def head(self) -> bytes:
        # No date: the same request gets the same bytes.
        chunked = len(self.pieces) > 1
        length = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(self.body))}
        lines = [f"{name}: {value}" for name, value in {**length, **self.headers}.items()]
        return "\r\n".join([f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *lines, "", ""]).encode()

    def wire(self) -> Iterable[bytes]:
        """What is sent, piece by piece."""
        if len(self.pieces) == 1:
            return [self.head() + self.body]
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in self.pieces]
        return [self.head(), *chunks, b"0\r\n\r\n"]


# The question.


def read_request(exchange: ServedRequest, raw: bytes) -> None:
    """Fills in what a request is. Raises `Refused` where OpenAI would refuse it."""
    try:
        body = json.loads(raw)
    except ValueError:
        raise RequestRefused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise RequestRefused(400, "The body of a request must be a JSON object.")
    exchange.body = body = cast(Json, body)
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise RequestRefused(400, "you must provide a model parameter")
    check_messages(body.get("messages"))
    exchange.images = tuple(images_of(body))
    exchange.agent = agent_of(body)
    shaping = {name: value for name, value in body.items() if name not in NOT_SHAPING}
    exchange.digest = hashlib.sha256(encoded(shaping, canonical=True)).hexdigest()


def check_messages(messages: Any) -> None:
    """Raises `Refused` unless these are messages, and each call of a tool is followed by its result."""
    if not isinstance(messages, list) or not messages:
        raise RequestRefused(400, "'messages' must be a list of at least one message.")
    unanswered: set[str] = set()
    for n, message in enumerate(cast(list[Json], messages)):
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool"):
            raise RequestRefused(400, f"Invalid value: {role!r} at messages[{n}].role.")
        if role == "tool":
            unanswered.discard(str(message.get("tool_call_id")))
        elif unanswered:
            raise RequestRefused(
                400, f"These tool_call_ids have no response messages: {', '.join(sorted(unanswered))}."
            )
        unanswered.update(str(call.get("id")) for call in message.get("tool_calls") or ())
    if unanswered:
        raise RequestRefused(400, f"These tool_call_ids have no response messages: {', '.join(sorted(unanswered))}.")


def parts_of(body: Json) -> Iterable[Json]:
    """All parts of all messages, text ones and others."""
    for message in body["messages"]:
        content = message.get("content") or ""
        yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def text_of(body: Json) -> str:
    return "\n".join(str(part["text"]) for part in parts_of(body) if part.get("type") == "text")


def images_of(body: Json) -> Iterable[Image]:
    for part in parts_of(body):
        if part.get("type") == "image_url":
            url = str(part["image_url"]["url"])
            kind, _, data = url.partition(";base64,")
            if kind != "data:image/png":
                raise RequestRefused(
                    400, f"Pictures come as data:image/png;base64, not as {url[:30]!r}.", "invalid_image_url"
                )
            try:
                yield read_png(base64.b64decode(data, validate=True))
            except (ValueError, binascii.Error, struct.error, zlib.error) as error:
                raise RequestRefused(400, f"A picture is no whole PNG: {error}.", "invalid_image_format") from None


def read_png(png: bytes) -> Image:
    """Reads a PNG's frame: signature, chunks with their checksums, and as many pixels as its header says.

    Raises `ValueError`, `struct.error` or `zlib.error` for everything else.
    """
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("it has no signature")
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + length]
        if struct.unpack_from(">I", png, at + 8 + length)[0] != zlib.crc32(kind + data):
            raise ValueError(f"the checksum of {kind!r} differs")
        chunks.append((kind, data))
        at += 12 + length
    if not chunks or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        raise ValueError("it does not run from IHDR to IEND")
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[0][1])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0)
    pixels = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    if not width * height or len(pixels) != height * (1 + (width * bits + 7) // 8):
        raise ValueError(f"{len(pixels)} bytes are not {width} x {height} pixels")
    return Image(png, hashlib.sha256(png).hexdigest(), width, height)


def tools_of(body: Json) -> list[Json]:
    return [tool["function"] for tool in body.get("tools") or ()]


def parameters_of(tool: Json) -> Json:
    return tool.get("parameters") or {"type": "object"}


def is_structured(tool: Json) -> bool:
    """Whether calling this tool is an answer: it bears the name of a class, where functions have lower case."""
    return str(tool["name"])[:1].isupper()


def schema_of(body: Json) -> Json | None:
    """The schema of the answer: the response format's, a structured tool's, or one that is quoted in the prompt."""
    form: Json = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return form["json_schema"].get("schema") or {}
    for tool in tools_of(body):
        if is_structured(tool):
            return parameters_of(tool)
    quoted = FENCED.search(text_of(body))
    if not quoted:
        return {"type": "object"} if form.get("type") == "json_object" else None
    try:
        return cast(Json, json.loads(quoted[1]))
    except ValueError:
        raise RequestRefused(400, "The JSON schema in the prompt is no JSON.") from None


def agent_of(body: Json) -> str:
    """Who asks, told by the answer's properties; with other tools than that, the indicator agent; else ""."""
    schema: Json = schema_of(body) or {}
    properties: set[str] = set(schema.get("properties") or ())
    for agent, names in AGENTS.items():
        if names & properties:
            return agent
    return "indicator" if any(not is_structured(tool) for tool in tools_of(body)) else ""


# The answer.


def encoded(value: Any, *, canonical: bool = False) -> bytes:
    return json.dumps(value, sort_keys=canonical, separators=(",", ":")).encode()


def complete(exchange: ServedRequest, edit_answer: AnswerEditor | None = None) -> Json:
    """The completion that answers a request: calls of tools as long as there are no results, and then the answer."""
    body, digest = exchange.body, exchange.digest
    rng = Random(int(digest, 16))

    def fill(schema: Json, is_answer: bool) -> str:
        try:
            filled = Filler(schema, rng).document()
        except ValueError as error:
            raise RequestRefused(400, str(error)) from None
        if is_answer and edit_answer and isinstance(filled, dict):
            filled = edit_answer(body, cast(Json, filled))
        return json.dumps(filled)

    message: Json = {"role": "assistant", "content": None, "refusal": None}
    tools = tools_to_call(body)
    if tools:
        message["tool_calls"] = [
            tool_call(f"call_{digest[:16]}_{n}", tool["name"], fill(parameters_of(tool), is_structured(tool)))
            for n, tool in enumerate(tools)
        ]
    else:
        schema = schema_of(body)
        message["content"] = f"Answer {digest[:8]}." if schema is None else fill(schema, True)
    finish = "tool_calls" if tools else "stop"
    return {
        "id": f"chatcmpl-{digest[:24]}",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "system_fingerprint": "fp_stub",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": usage_of(exchange, message),
    }


def usage_of(exchange: ServedRequest, message: Json) -> Json:
    prompt_tokens = len(text_of(exchange.body)) // 4 + 1 + IMAGE_TOKENS * len(exchange.images)
    completion_tokens = len(message["content"] or encoded(message.get("tool_calls", ()))) // 4 + 1
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def tool_call(call_id: str, name: str, arguments: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tools_to_call(body: Json) -> list[Json]:
    """What is called now: every tool once, then the structured one if any; as `tool_choice` wants it. Raises `Refused`.

    A client that puts its schema last among tools of the same kind of name is understood too.
    """
    tools, choice = tools_of(body), body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        name = cast(Json, choice)["function"]["name"]
        named = [tool for tool in tools if tool["name"] == name]
        if not named:
            raise RequestRefused(400, f"Tool choice {name!r} is not among the tools.")
        return named
    if choice == "none":
        return []
    answers = [tool for tool in tools if is_structured(tool)]
    plain = [tool for tool in tools if not is_structured(tool)]
    if any(message["role"] == "tool" for message in body["messages"]) or not plain:
        return answers[:1] or (plain[-1:] if choice in ("required", "any") else [])
    return plain[:1] if body.get("parallel_tool_calls") is False else plain


def turn_of(completion: Json) -> str:
    """ "tools" when something is to be looked up first, "answer" when this is the answer."""
    calls = completion["choices"][0]["message"].get("tool_calls", ())
    return "tools" if any(not is_structured(call["function"]) for call in calls) else "answer"


def envelope(exchange: ServedRequest, completion: Json) -> Response:
    """A completion over HTTP: in one piece, or as server-sent events."""
    if not exchange.body.get("stream"):
        return Response(200, {"content-type": "application/json"}, (encoded(completion),))
    options: Json = exchange.body.get("stream_options") or {}
    with_usage = bool(options.get("include_usage"))
    events = [b"data: %b\n\n" % encoded(chunk) for chunk in chunks_of(completion, with_usage)]
    return Response(200, {"content-type": "text/event-stream"}, (*events, b"data: [DONE]\n\n"))


def chunks_of(completion: Json, with_usage: bool) -> list[Json]:
    rest = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    base: Json = {**rest, "object": "chat.completion.chunk"}
    choices = completion.get("choices")
    if not choices or not choices[0].get("message"):
        return [{**base, **({"choices": choices} if "choices" in completion else {})}]
    finish: Json = {"index": 0, "delta": {}, "finish_reason": choices[0]["finish_reason"]}
    deltas = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas_of(choices[0]["message"])]
    chunks: list[Json] = [{**base, "choices": [choice]} for choice in [*deltas, finish]]
    if with_usage and "usage" in completion:
        chunks.append({**base, "choices": [], "usage": completion["usage"]})
    return chunks


def deltas_of(message: Json) -> Iterable[Json]:
    yield {"role": "assistant", "content": ""}
    for n, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        yield {"tool_calls": [{**call, "index": n, "function": {**function, "arguments": ""}}]}
        for piece in pieces_of(function["arguments"]):
            yield {"tool_calls": [{"index": n, "function": {"arguments": piece}}]}
    for kind in ("content", "refusal"):
        for piece in pieces_of(message.get(kind) or ""):
            yield {kind: piece}


def pieces_of(text: str) -> list[str]:
    size = max(PIECE, len(text) // 1_000)
    return [text[at : at + size] for at in range(0, len(text), size)]


def lean_decision(body: Json, answer: Json) -> Json:
    """An opinion: a decision by the words of the reports in the question. The same key set; a HOLD has no horizon."""
    if "decision" not in answer:
        return answer
    words = Counter(re.findall(r"[a-z]+", text_of({"messages": body["messages"][-1:]}).lower()))
    balance = sum(words[word] for word in ("up", "bullish", "oversold"))
    balance -= sum(words[word] for word in ("down", "bearish", "overbought"))
    decision = "LONG" if balance > 0 else "SHORT" if balance < 0 else "HOLD"
    entry = {"horizon_bars": 5, "risk_reward": 1.5}
    filled = {name: None if decision == "HOLD" else value for name, value in entry.items() if name in answer}
    return {**answer, **filled, "decision": decision}
