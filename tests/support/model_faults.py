"""What can go wrong with an answer of a model server: with what it says, with its HTTP response, or on its way."""

from __future__ import annotations

import gzip
import json
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from email.utils import formatdate
from random import Random

from tests.support.model_answers import (
    RequestRefused,
    Response,
    ServedRequest,
    is_structured,
    parameters_of,
    schema_of,
    tool_call,
    tools_of,
)
from tests.support.schema_values import Filler, Json


class HungUp(OSError):
    """This connection is over, on purpose."""


class ClientConnection:
    """A client's connection, as faults use it."""

    def __init__(self, connection: socket.socket, closing: threading.Event, leave: Callable[[], None]) -> None:
        self.socket, self._closing, self._leave = connection, closing, leave

    def send(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            # Before it is sent: whoever has the answer finds the request ended.
            self._leave()
            self.socket.sendall(piece)

    def pause(self, seconds: float) -> None:
        """Raises when the server is closed meanwhile."""
        if seconds > 0 and self._closing.wait(seconds):
            raise HungUp

    def is_left(self) -> bool:
        """Whether the client has closed its end."""
        return bool(select.select([self.socket], [], [], 0)[0]) and not self.socket.recv(1, socket.MSG_PEEK)


Spoil = Callable[[Json, ServedRequest], Json]
Respond = Callable[[Response], Response]
Send = Callable[[ClientConnection, Response], None]


def _same_completion(completion: Json, exchange: ServedRequest) -> Json:
    return completion


def _same_response(response: Response) -> Response:
    return response


def send_all(line: ClientConnection, response: Response) -> None:
    line.send(response.wire())


@dataclass(frozen=True)
class Defect:
    """What goes wrong with an answer: with what it says, with its HTTP response, or on its way.

    lasting: asking again meets it again; else it is met once. turn: "answer" spoils only answers and "tools" only
    calls of tools, "" whatever comes.
    """

    name: str
    spoil: Spoil = _same_completion
    respond: Respond = _same_response
    send: Send = send_all
    lasting: bool = False
    turn: str = ""


NO_DEFECT = Defect("")
"""No fault: a good answer among scripted ones."""


def error(
    name: str, status: int, message: str, code: str | None = None, retry_after: str | Callable[[], str] = ""
) -> Defect:
    """An error in OpenAI's shape."""
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"

    def respond(_: Response) -> Response:
        response = RequestRefused(status, message, code, kind).response()
        wait = retry_after() if callable(retry_after) else retry_after
        return response._replace(headers={**response.headers, **({"retry-after": wait} if wait else {})})

    return Defect(name, respond=respond, lasting=400 <= status < 500 and status != 429)


def _in_a_second() -> str:
    return formatdate(time.time() + 1, usegmt=True)


def slow(seconds: float) -> Defect:
    """The first byte comes late."""

    def send(line: ClientConnection, response: Response) -> None:
        line.pause(seconds)
        send_all(line, response)

    return Defect("slow", send=send)


def redirected(location: str, status: int = 302) -> Defect:
    """The answer is said to be elsewhere."""
    return Defect("redirect", respond=lambda _: Response(status, {"location": location}, (b"",)), lasting=True)


def answers_with(answer: object, name: str = "says") -> Defect:
    """The answer is this one: text as it is, everything else as JSON, in the content or in the structured tool."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return _text(name, lambda _: text)


def _text(name: str, edit: Callable[[str], str], *, finish: str = "", lasting: bool = False) -> Defect:
    """Edits the text of the answer, or of the arguments by which a structured tool is given it."""

    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        choice = completion["choices"][0]
        message = choice["message"]
        if message["content"] is not None:
            message["content"] = edit(message["content"])
        else:
            function = message["tool_calls"][-1]["function"]
            function["arguments"] = edit(function["arguments"])
        choice["finish_reason"] = finish or choice["finish_reason"]
        return completion

    return Defect(name, spoil, lasting=lasting, turn="answer")


def _document(name: str, edit: Callable[[Json, Filler], None]) -> Defect:
    """Edits the answer as an object; `Filler` knows its schema. What is no object stays as it is."""

    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        def edited(text: str) -> str:
            try:
                document = json.loads(text)
            except ValueError:
                return text
            edit(document, Filler(schema_of(exchange.body) or {}, Random(0)))
            return json.dumps(document)

        return _text(name, edited).spoil(completion, exchange)

    return Defect(name, spoil, turn="answer")


def _field(document: Json, filler: Filler, *keywords: str) -> tuple[str, Json]:
    """The first field whose schema has a keyword (`type=number` for a keyword and value), else the first of all."""
    properties: Json = filler.resolved(filler.root).get("properties", {})
    for keyword in keywords:
        wanted, _, value = keyword.partition("=")
        for name, schema in properties.items():
            for option in filler.options(schema):
                if wanted in option and value in ("", option[wanted]):
                    return name, option
    return next(iter(properties or document), "field"), {}


def _wrong_enum(document: Json, filler: Filler) -> None:
    document[_field(document, filler, "enum", "const")[0]] = "MAYBE"


def _out_of_range(document: Json, filler: Filler) -> None:
    name, schema = _field(document, filler, "maximum", "exclusiveMaximum", "type=number", "type=integer")
    document[name] = 10 * max(1, schema.get("maximum", 0), schema.get("exclusiveMaximum", 10**30)) + 1


def _number(value: float) -> Callable[[Json, Filler], None]:
    def edit(document: Json, filler: Filler) -> None:
        document[_field(document, filler, "type=number", "type=integer")[0]] = value

    return edit


def _missing_field(document: Json, filler: Filler) -> None:
    required: list[str] = filler.resolved(filler.root).get("required", [])
    document.pop(next(iter(required or document), ""), None)


def _extra_field(document: Json, filler: Filler) -> None:
    document |= {"price": 1.5, "quantity": 1_000_000}


def _surrogate(document: Json, filler: Filler) -> None:
    name, schema = _field(document, filler, "maxItems", "maxLength", "type=string")
    document[name] = ["\ud800"] if schema.get("type") == "array" else "\ud800"


def _duplicate_keys(text: str) -> str:
    first = re.match(r'\{("[^"]*"): ', text)
    return f"{{{first[1]}: null, {text[1:]}" if first else text


def _message(name: str, *, finish: str = "stop", lasting: bool = False, **message: object) -> Defect:
    """The message is this, whatever was asked."""

    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        full_message = {"role": "assistant", "content": None, "refusal": None, **message}
        choice = {"index": 0, "message": full_message, "finish_reason": finish, "logprobs": None}
        return {**completion, "choices": [choice]}

    return Defect(name, spoil, lasting=lasting)


def _calls(name: str, edit: Callable[[list[Json]], list[Json]], *, lasting: bool = False) -> Defect:
    """Tools are called, whatever was asked; `edit` gets the proper call of the first one, or of one never offered."""

    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        rng = Random(int(exchange.digest, 16))
        offered = [tool for tool in tools_of(exchange.body) if not is_structured(tool)]
        tool: Json = offered[0] if offered else {"name": "rsi"}
        text = json.dumps(Filler(parameters_of(tool), rng).document())
        calls = edit([tool_call(f"call_{exchange.digest[:16]}_0", tool["name"], text)])
        return _message(name, finish="tool_calls", tool_calls=calls).spoil(completion, exchange)

    return Defect(name, spoil, lasting=lasting)


def _call(**function: str | None) -> Callable[[list[Json]], list[Json]]:
    """The call with other parts of its function; None takes a part away."""

    def edit(calls: list[Json]) -> list[Json]:
        given = {**calls[0]["function"], **function}
        return [{**calls[0], "function": {name: value for name, value in given.items() if value is not None}}]

    return edit


def _extra_prices(calls: list[Json]) -> list[Json]:
    arguments = json.loads(calls[0]["function"]["arguments"]) | {"prices": [1.0, 2.0], "close": [9.9e9]}
    return _call(arguments=json.dumps(arguments))(calls)


def _many(count: int) -> Callable[[list[Json]], list[Json]]:
    return lambda calls: [{**calls[0], "id": f"{calls[0]['id']}_{n}"} for n in range(count)]


def _completion(name: str, **changes: object) -> Defect:
    """Parts of the completion are these; `...` takes a part away."""

    def spoil(completion: Json, exchange: ServedRequest) -> Json:
        return {part: value for part, value in {**completion, **changes}.items() if value is not ...}

    return Defect(name, spoil)


def _body(name: str, edit: Callable[[bytes], bytes], *, lasting: bool = False, **headers: str) -> Defect:
    """Edits the body's bytes; its length is told as it is then."""

    def respond(response: Response) -> Response:
        changed_headers = {header.replace("_", "-"): value for header, value in headers.items()}
        return Response(response.status, {**response.headers, **changed_headers}, (edit(response.body),))

    return Defect(name, respond=respond, lasting=lasting)


def _cut(head: float, body: float) -> Send:
    """Sends only a share of the head, or the head and a share of the body."""

    def send(line: ClientConnection, response: Response) -> None:
        start, rest = response.head(), b"".join(response.wire())[len(response.head()) :]
        line.send([start[: int(len(start) * head)], rest[: int(len(rest) * body)]])
        raise HungUp

    return send


def _reset(line: ClientConnection, response: Response) -> None:
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.socket.close()
    raise HungUp


def _hang(line: ClientConnection, response: Response) -> None:
    while not line.is_left():
        line.pause(0.05)
    raise HungUp


def _trickle(line: ClientConnection, response: Response) -> None:
    # White space before the JSON: no byte of it is wrong, and no read waits for long.
    line.send([response._replace(headers={**response.headers, "content-length": str(10**9)}, pieces=(b"",)).head()])
    while True:
        line.send([b" "])
        line.pause(0.05)


def parse_defects(model: str) -> list[tuple[str, Defect, int | None]]:
    """The suffixes of a model's name, their faults, and how often each is met. Raises `Refused`."""
    return [(suffix, *parse_defect(suffix)) for suffix in model.split("+")[1:]]


def parse_defect(suffix: str) -> tuple[Defect, int | None]:
    """The fault of a suffix of a model's name, and how often it is met, None for ever. Raises `Refused`.

    "429" for ever, "429x2" twice for each request, "slow0.5" for half a second.
    """
    if suffix in DEFECTS:
        return DEFECTS[suffix], None
    if late := re.fullmatch(r"slow(\d+(?:\.\d+)?)", suffix):
        return slow(float(late[1])), None
    name, _, times = suffix.rpartition("x")
    if name in DEFECTS and times.isdecimal():
        return DEFECTS[name], int(times)
    raise RequestRefused(404, f"The model with +{suffix} does not exist.", "model_not_found")


BUSY = "Rate limit reached for requests"
DEFECTS: dict[str, Defect] = {
    fault.name: fault
    for fault in (
        error("429", 429, BUSY, "rate_limit_exceeded", retry_after="0.05"),
        error("429_bare", 429, BUSY, "rate_limit_exceeded"),
        error("429_date", 429, BUSY, "rate_limit_exceeded", retry_after=_in_a_second),
        error("429_absurd", 429, BUSY, "rate_limit_exceeded", retry_after="1e18"),
        error("429_negative", 429, BUSY, "rate_limit_exceeded", retry_after="-5"),
        error("429_garbage", 429, BUSY, "rate_limit_exceeded", retry_after="soon"),
        replace(error("429_quota", 429, "You exceeded your current quota.", "insufficient_quota"), lasting=True),
        error("500", 500, "The server had an error while processing your request."),
        error("502", 502, "Bad gateway."),
        error("503", 503, "The engine is currently overloaded.", retry_after="0.05"),
        error("504", 504, "Gateway timeout."),
        error("400", 400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        error("400_schema", 400, "Invalid schema for response_format 'X': In context=(), it is not supported."),
        error("401", 401, "Incorrect API key provided.", "invalid_api_key"),
        error("403", 403, "You are not allowed to sample from this model."),
        error("404", 404, "The model `stub` does not exist.", "model_not_found"),
        slow(60),
        Defect("hang", send=_hang, lasting=True),
        Defect("trickle", send=_trickle, lasting=True),
        Defect("dropped", send=_cut(0.0, 0.0)),
        Defect("cut_head", send=_cut(0.5, 0.0)),
        Defect("cut_body", send=_cut(1.0, 0.5)),
        Defect("reset", send=_reset),
        _body("empty", lambda _: b""),
        _body("html", lambda _: b"<html><body>Welcome to the proxy</body></html>", content_type="text/html"),
        _body("truncated", lambda body: body[: len(body) // 2]),
        _body("array", lambda body: b"[" + body + b"]"),
        _body("null", lambda _: b"null"),
        _body("nested_body", lambda _: b"[" * 100_000),
        _body("content_type", lambda body: body, content_type="application/octet-stream"),
        _body("gzip_garbage", lambda body: body, content_encoding="gzip"),
        _body("gzip_bomb", lambda _: gzip.compress(b" " * 64_000_000, 1, mtime=0), content_encoding="gzip"),
        redirected("/v1/elsewhere"),
        replace(redirected("/v1/elsewhere/chat/completions", 307), name="redirect_307"),
        _completion("choices_empty", choices=[]),
        _completion("choices_missing", choices=...),
        _completion("choices_null", choices=None),
        _completion("message_null", choices=[{"index": 0, "message": None, "finish_reason": "stop"}]),
        _completion("wrong_model", model="another-model"),
        _completion("usage_missing", usage=...),
        _completion("usage_negative", usage={"prompt_tokens": -7, "completion_tokens": -1, "total_tokens": -8}),
        _completion("usage_absurd", usage={"prompt_tokens": 10**15, "completion_tokens": 1, "total_tokens": 10**18}),
        _completion("usage_words", usage={"prompt_tokens": "many", "completion_tokens": None, "total_tokens": 1.5}),
        _completion("error_inside", error={"message": "upstream failed", "code": 502}, choices=None),
        _message("content_null"),
        _message("content_empty", content=""),
        _message("refusal", refusal="I cannot help with that.", lasting=True),
        _message("content_filter", content="", finish="content_filter", lasting=True),
        _text("length", lambda text: text[: len(text) // 2], finish="length"),
        _text("cut_content", lambda text: text[: len(text) // 2]),
        _text("prose", lambda _: "I would rather go LONG here, all things considered."),
        _text("fenced", lambda text: f"Here you are:\n```json\n{text}\n```\nGood luck!"),
        _text("twice", lambda text: text + text),
        _text("duplicate_keys", _duplicate_keys),
        _text("huge", lambda text: text + " " * 10_000_000),
        _text("nested", lambda _: "[" * 100_000),
        _text("raw_surrogate", lambda _: "LONG \ud800 LONG"),
        _document("surrogate", _surrogate),
        _document("wrong_enum", _wrong_enum),
        _document("out_of_range", _out_of_range),
        _document("nan", _number(float("nan"))),
        _document("infinity", _number(float("inf"))),
        _document("missing_field", _missing_field),
        _document("extra_field", _extra_field),
        _calls("unknown_tool", _call(name="place_order", arguments='{"symbol": "BTCUSDT", "quantity": 1000000}')),
        _calls("tool_arguments_prose", _call(arguments="the last 14 bars, please")),
        _calls("tool_arguments_list", _call(arguments="[14]")),
        _calls("tool_arguments_prices", _extra_prices),
        _calls("tool_arguments_nested", _call(arguments="[" * 100_000)),
        _calls("tool_nameless", _call(name=None)),
        _calls("tool_ids_equal", lambda calls: calls * 2),
        _calls("tool_id_missing", lambda calls: [{**calls[0], "id": None}]),
        _calls("tool_flood", _many(200)),
        _calls("tools_for_ever", _many(1), lasting=True),
    )
}
"""All that can go wrong, by name."""
