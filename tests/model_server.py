"""A server on a loopback port that speaks OpenAI's chat completions; its answers are functions of the questions.

The same request gets the same bytes, whatever was asked before: its digest seeds a generator that fills the schema the
request asks for. `Fault`s, scripted or named in the model's name ("stub+429x2"), spoil an answer. It fetches nothing.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import gzip
import hashlib
import json
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from random import Random
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple, Self, cast

Json = dict[str, Any]
Opinion = Callable[[Json, Json], Json]
"""From a request's body and the answer as drawn to the answer as given: the same keys, other values."""

CREATED = 1_700_000_000
IMAGE_TOKENS = 765
POLL_S = 0.01
"""How long `close` may wait for the thread that accepts connections."""
BODY_BYTES_MAX = 64_000_000
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
class Exchange:
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
    fault: str = ""


class ModelServer:
    """Serves until closed; a context manager.

    delay: seconds before each answer; delays: the same by agent, instead of it. key: what "Authorization: Bearer" must
    hold, "" for anything. opinion: changes answers by what was asked. An error of the server itself is raised by
    `close`.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        delay: float = 0.0,
        delays: Mapping[str, float] | None = None,
        key: str = "",
        opinion: Opinion | None = None,
    ) -> None:
        self.delay, self.delays, self.key, self.opinion = delay, dict(delays or {}), key, opinion
        self.requests: list[Exchange] = []
        self.most_at_once = 0
        self.connections = 0
        self.errors: list[BaseException] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._busy: set[Exchange] = set()
        self._steps: list[_Step] = []
        self._met: Counter[tuple[str, str]] = Counter()
        self._listener = _Listener(self, port)
        self.port = int(self._listener.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(POLL_S,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections and threads. Closing twice is once."""
        if self.closing.is_set():
            return
        self.closing.set()
        self._listener.shutdown()
        self._listener.hang_up()
        self._thread.join()
        if self.errors:
            raise self.errors[0]

    def reset(self) -> None:
        """Forgets requests, counts and scripts; what is set at construction stays."""
        with self._lock:
            self.requests.clear()
            self._steps.clear()
            self._met.clear()
            self.most_at_once = len(self._busy)
            self.connections = 0

    def script(
        self,
        faults: Iterable[Fault],
        *,
        agent: str = "",
        when: Callable[[Exchange], bool] | None = None,
        lasting: bool | None = None,
    ) -> None:
        """The next answers, in order; each request takes the first one that is for it.

        `agent` and `when` limit them to some requests. A fault is met once, one that is lasting for ever; `lasting`
        overrules what the fault says of itself.
        """

        def wanted(exchange: Exchange) -> bool:
            return agent in ("", exchange.agent) and (when is None or when(exchange))

        with self._lock:
            for fault in faults:
                self._steps.append(_Step(fault, wanted, fault.lasting if lasting is None else lasting))

    def answer(self, exchange: Exchange, line: _Line) -> None:
        """Answers one chat completion, ill if a fault is due; counts and delays it. Raises `Refused`."""
        with self._lock:
            self._busy.add(exchange)
            self.most_at_once = max(self.most_at_once, len(self._busy))
        try:
            line.wait(self.delays.get(exchange.agent, self.delay))
            completion = complete(exchange, self.opinion)
            fault = self._fault(exchange, turn_of(completion))
            exchange.fault = fault.name
            response = fault.respond(envelope(exchange, fault.spoil(completion, exchange)))
            exchange.status = response.status
            fault.send(line, response)
        finally:
            self.leave(exchange)

    def leave(self, exchange: Exchange) -> None:
        """No longer counts a request as being worked on."""
        with self._lock:
            self._busy.discard(exchange)

    def _fault(self, exchange: Exchange, turn: str) -> Fault:
        with self._lock:
            for step in self._steps:
                if step.fault.turn in ("", turn) and step.wanted(exchange):
                    if not step.lasting:
                        self._steps.remove(step)
                    return step.fault
            for suffix in str(exchange.body["model"]).split("+")[1:]:
                fault, times = _named(suffix)
                if fault.turn in ("", turn) and (times is None or self._met[exchange.digest, suffix] < times):
                    self._met[exchange.digest, suffix] += 1
                    return fault
        return WELL


class _Step(NamedTuple):
    fault: Fault
    wanted: Callable[[Exchange], bool]
    lasting: bool


class Refused(Exception):
    """A request that OpenAI would refuse too, in its shape of an error."""

    def __init__(self, status: int, message: str, code: str | None = None, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.kind = status, message, code, kind

    def response(self) -> Response:
        told = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return Response(self.status, {"content-type": "application/json"}, (encoded({"error": told}),))


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


# The connection.


class _HungUp(OSError):
    """This connection is over, on purpose."""


class _Line:
    """A client's connection, as faults use it."""

    def __init__(self, connection: socket.socket, server: ModelServer, exchange: Exchange) -> None:
        self.socket, self._server, self._exchange = connection, server, exchange

    def send(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            # Before it is sent: whoever has the answer finds the request ended.
            self._server.leave(self._exchange)
            self._exchange.ended = time.monotonic()
            self.socket.sendall(piece)

    def wait(self, seconds: float) -> None:
        """Raises when the server is closed meanwhile."""
        if seconds > 0 and self._server.closing.wait(seconds):
            raise _HungUp

    def is_left(self) -> bool:
        """Whether the client has closed its end."""
        return bool(select.select([self.socket], [], [], 0)[0]) and not self.socket.recv(1, socket.MSG_PEEK)


class _Listener(ThreadingTCPServer):
    # The plain TCP server: the HTTP one would look up a name for its address.
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, server: ModelServer, port: int) -> None:
        self.server = server
        self._open: set[socket.socket] = set()
        self._threads_open: list[threading.Thread] = []
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.server.connections += 1
        self._open.add(request)
        # Daemons, so that a server left open does not keep a process alive; joined all the same when it is closed.
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._threads_open = [*(one for one in self._threads_open if one.is_alive()), thread]
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.server.errors.append(cast(BaseException, sys.exc_info()[1]))

    def hang_up(self) -> None:
        self.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads_open:
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def model_server(self) -> ModelServer:
        return cast(_Listener, self.server).server

    def handle(self) -> None:
        # Clients hang up when they like.
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.close_connection = True
        response = Refused(code, message or HTTPStatus(code).phrase).response()
        self.connection.sendall(response.head() + response.body)

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        exchange = Exchange(self.path, {}, time.monotonic())
        self.model_server.requests.append(exchange)
        line = _Line(self.connection, self.model_server, exchange)
        try:
            self._route(method, exchange, line)
        except Refused as refused:
            exchange.status = refused.status
            line.send(refused.response().wire())

    def _route(self, method: str, exchange: Exchange, line: _Line) -> None:
        exchange.headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self._read()
        server, path = self.model_server, self.path.partition("?")[0]
        if server.key and exchange.headers.get("authorization") != f"Bearer {server.key}":
            raise Refused(401, "Incorrect API key provided.", "invalid_api_key")
        if (method, path) == ("GET", "/v1/models"):
            exchange.status = 200
            model = {"id": "stub", "object": "model", "created": CREATED, "owned_by": "tests"}
            body = encoded({"object": "list", "data": [model]})
            line.send(Response(200, {"content-type": "application/json"}, (body,)).wire())
        elif (method, path) == ("POST", "/v1/chat/completions"):
            read_request(exchange, raw)
            server.answer(exchange, line)
        else:
            raise Refused(404, f"Unknown request URL: {method} {path}.", "unknown_url")

    def _read(self) -> bytes:
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            raise Refused(400, f"A body of {length} bytes is not read.")
        return self.rfile.read(int(length))


# The question.


def read_request(exchange: Exchange, raw: bytes) -> None:
    """Fills in what a request is. Raises `Refused` where OpenAI would refuse it."""
    try:
        body = json.loads(raw)
    except ValueError:
        raise Refused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise Refused(400, "The body of a request must be a JSON object.")
    exchange.body = body = cast(Json, body)
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise Refused(400, "you must provide a model parameter")
    for suffix in body["model"].split("+")[1:]:
        _named(suffix)
    check_messages(body.get("messages"))
    exchange.images = tuple(images_of(body))
    exchange.agent = agent_of(body)
    shaping = {name: value for name, value in body.items() if name not in NOT_SHAPING}
    exchange.digest = hashlib.sha256(encoded(shaping, canonical=True)).hexdigest()


def check_messages(messages: Any) -> None:
    """Raises `Refused` unless these are messages, and each call of a tool is followed by its result."""
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "'messages' must be a list of at least one message.")
    unanswered: set[str] = set()
    for n, message in enumerate(cast(list[Json], messages)):
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool"):
            raise Refused(400, f"Invalid value: {role!r} at messages[{n}].role.")
        if role == "tool":
            unanswered.discard(str(message.get("tool_call_id")))
        elif unanswered:
            raise Refused(400, f"These tool_call_ids have no response messages: {', '.join(sorted(unanswered))}.")
        unanswered.update(str(call.get("id")) for call in message.get("tool_calls") or ())
    if unanswered:
        raise Refused(400, f"These tool_call_ids have no response messages: {', '.join(sorted(unanswered))}.")


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
                raise Refused(400, f"Pictures come as data:image/png;base64, not as {url[:30]!r}.", "invalid_image_url")
            try:
                yield read_png(base64.b64decode(data, validate=True))
            except (ValueError, binascii.Error, struct.error, zlib.error) as error:
                raise Refused(400, f"A picture is no whole PNG: {error}.", "invalid_image_format") from None


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
        raise Refused(400, "The JSON schema in the prompt is no JSON.") from None


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


def complete(exchange: Exchange, opinion: Opinion | None = None) -> Json:
    """The completion that answers a request: calls of tools as long as there are no results, and then the answer."""
    body, digest = exchange.body, exchange.digest
    rng = Random(int(digest, 16))

    def fill(schema: Json, of_answer: bool) -> str:
        filled = Filler(schema, rng).document()
        if of_answer and opinion and isinstance(filled, dict):
            filled = opinion(body, cast(Json, filled))
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


def usage_of(exchange: Exchange, message: Json) -> Json:
    asked = len(text_of(exchange.body)) // 4 + 1 + IMAGE_TOKENS * len(exchange.images)
    said = len(message["content"] or encoded(message.get("tool_calls", ()))) // 4 + 1
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def tool_call(name_of_call: str, name: str, arguments: str) -> Json:
    return {"id": name_of_call, "type": "function", "function": {"name": name, "arguments": arguments}}


def tools_to_call(body: Json) -> list[Json]:
    """What is called now: every tool once, then the structured one if any; as `tool_choice` wants it. Raises `Refused`.

    A client that puts its schema last among tools of the same kind of name is understood too.
    """
    tools, choice = tools_of(body), body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        name = cast(Json, choice)["function"]["name"]
        named = [tool for tool in tools if tool["name"] == name]
        if not named:
            raise Refused(400, f"Tool choice {name!r} is not among the tools.")
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


def envelope(exchange: Exchange, completion: Json) -> Response:
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


def lean(body: Json, answer: Json) -> Json:
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


# Values for a schema.

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
                    document[name] = self.value(self._told(self.options(properties[name])))
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
            raise Refused(400, f"Invalid schema: {pointer} leads nowhere.") from None
        return cast(Json, found)

    def _told(self, options: list[Json]) -> Json:
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
        raise Refused(400, f"Invalid schema: this server knows no text for the pattern {pattern!r}.")


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


# What goes wrong.

Spoil = Callable[[Json, Exchange], Json]
Respond = Callable[[Response], Response]
Send = Callable[[_Line, Response], None]


def _as_said(completion: Json, exchange: Exchange) -> Json:
    return completion


def _as_written(response: Response) -> Response:
    return response


def _whole(line: _Line, response: Response) -> None:
    line.send(response.wire())


@dataclass(frozen=True)
class Fault:
    """What goes wrong with an answer: with what it says, with its HTTP response, or on its way.

    lasting: asking again meets it again; else it is met once. turn: "answer" spoils only answers and "tools" only
    calls of tools, "" whatever comes.
    """

    name: str
    spoil: Spoil = _as_said
    respond: Respond = _as_written
    send: Send = _whole
    lasting: bool = False
    turn: str = ""


WELL = Fault("")
"""No fault: a good answer among scripted ones."""


def error(
    name: str, status: int, message: str, code: str | None = None, retry_after: str | Callable[[], str] = ""
) -> Fault:
    """An error in OpenAI's shape."""
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"

    def respond(_: Response) -> Response:
        response = Refused(status, message, code, kind).response()
        wait = retry_after() if callable(retry_after) else retry_after
        return response._replace(headers={**response.headers, **({"retry-after": wait} if wait else {})})

    return Fault(name, respond=respond, lasting=400 <= status < 500 and status != 429)


def _in_a_second() -> str:
    return formatdate(time.time() + 1, usegmt=True)


def slow(seconds: float) -> Fault:
    """The first byte comes late."""

    def send(line: _Line, response: Response) -> None:
        line.wait(seconds)
        _whole(line, response)

    return Fault("slow", send=send)


def redirected(location: str, status: int = 302) -> Fault:
    """The answer is said to be elsewhere."""
    return Fault("redirect", respond=lambda _: Response(status, {"location": location}, (b"",)), lasting=True)


def says(answer: object, name: str = "says") -> Fault:
    """The answer is this one: text as it is, everything else as JSON, in the content or in the structured tool."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return _text(name, lambda _: text)


def _text(name: str, edit: Callable[[str], str], *, finish: str = "", lasting: bool = False) -> Fault:
    """Edits the text of the answer, or of the arguments by which a structured tool is given it."""

    def spoil(completion: Json, exchange: Exchange) -> Json:
        choice = completion["choices"][0]
        message = choice["message"]
        if message["content"] is not None:
            message["content"] = edit(message["content"])
        else:
            function = message["tool_calls"][-1]["function"]
            function["arguments"] = edit(function["arguments"])
        choice["finish_reason"] = finish or choice["finish_reason"]
        return completion

    return Fault(name, spoil, lasting=lasting, turn="answer")


def _document(name: str, edit: Callable[[Json, Filler], None]) -> Fault:
    """Edits the answer as an object; `Filler` knows its schema. What is no object stays as it is."""

    def spoil(completion: Json, exchange: Exchange) -> Json:
        def edited(text: str) -> str:
            try:
                document = json.loads(text)
            except ValueError:
                return text
            edit(document, Filler(schema_of(exchange.body) or {}, Random(0)))
            return json.dumps(document)

        return _text(name, edited).spoil(completion, exchange)

    return Fault(name, spoil, turn="answer")


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
    return '{"decision": "SHORT", "confidence": 0.5, ' * text.startswith("{") + text.removeprefix("{")


def _message(name: str, *, finish: str = "stop", lasting: bool = False, **message: object) -> Fault:
    """The message is this, whatever was asked."""

    def spoil(completion: Json, exchange: Exchange) -> Json:
        whole = {"role": "assistant", "content": None, "refusal": None, **message}
        choice = {"index": 0, "message": whole, "finish_reason": finish, "logprobs": None}
        return {**completion, "choices": [choice]}

    return Fault(name, spoil, lasting=lasting)


def _calls(name: str, edit: Callable[[list[Json]], list[Json]], *, lasting: bool = False) -> Fault:
    """Tools are called, whatever was asked; `edit` gets the proper call of the first one, or of one never offered."""

    def spoil(completion: Json, exchange: Exchange) -> Json:
        rng = Random(int(exchange.digest, 16))
        offered = [tool for tool in tools_of(exchange.body) if not is_structured(tool)]
        tool: Json = offered[0] if offered else {"name": "rsi"}
        text = json.dumps(Filler(parameters_of(tool), rng).document())
        calls = edit([tool_call(f"call_{exchange.digest[:16]}_0", tool["name"], text)])
        return _message(name, finish="tool_calls", tool_calls=calls).spoil(completion, exchange)

    return Fault(name, spoil, lasting=lasting)


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


def _completion(name: str, **changes: object) -> Fault:
    """Parts of the completion are these; `...` takes a part away."""

    def spoil(completion: Json, exchange: Exchange) -> Json:
        return {part: value for part, value in {**completion, **changes}.items() if value is not ...}

    return Fault(name, spoil)


def _body(name: str, edit: Callable[[bytes], bytes], *, lasting: bool = False, **headers: str) -> Fault:
    """Edits the body's bytes; its length is told as it is then."""

    def respond(response: Response) -> Response:
        told = {header.replace("_", "-"): value for header, value in headers.items()}
        return Response(response.status, {**response.headers, **told}, (edit(response.body),))

    return Fault(name, respond=respond, lasting=lasting)


def _cut(head: float, body: float) -> Send:
    """Sends only a share of the head, or the head and a share of the body."""

    def send(line: _Line, response: Response) -> None:
        start, rest = response.head(), b"".join(response.wire())[len(response.head()) :]
        line.send([start[: int(len(start) * head)], rest[: int(len(rest) * body)]])
        raise _HungUp

    return send


def _reset(line: _Line, response: Response) -> None:
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.socket.close()
    raise _HungUp


def _hang(line: _Line, response: Response) -> None:
    while not line.is_left():
        line.wait(0.05)
    raise _HungUp


def _trickle(line: _Line, response: Response) -> None:
    # White space before the JSON: no byte of it is wrong, and no read waits for long.
    line.send([response._replace(headers={**response.headers, "content-length": str(10**9)}, pieces=(b"",)).head()])
    while True:
        line.send([b" "])
        line.wait(0.05)


def _named(suffix: str) -> tuple[Fault, int | None]:
    """The fault of a suffix of a model's name, and how often it is met, None for ever. Raises `Refused`.

    "429" for ever, "429x2" twice for each request, "slow0.5" for half a second.
    """
    if suffix in FAULTS:
        return FAULTS[suffix], None
    if late := re.fullmatch(r"slow(\d+(?:\.\d+)?)", suffix):
        return slow(float(late[1])), None
    name, _, times = suffix.rpartition("x")
    if name in FAULTS and times.isdecimal():
        return FAULTS[name], int(times)
    raise Refused(404, f"The model with +{suffix} does not exist.", "model_not_found")


BUSY = "Rate limit reached for requests"
FAULTS: dict[str, Fault] = {
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
        slow(1.5),
        Fault("hang", send=_hang, lasting=True),
        Fault("trickle", send=_trickle, lasting=True),
        Fault("dropped", send=_cut(0.0, 0.0)),
        Fault("cut_head", send=_cut(0.5, 0.0)),
        Fault("cut_body", send=_cut(1.0, 0.5)),
        Fault("reset", send=_reset),
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves chat completions on 127.0.0.1 until it is stopped.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    asked = parser.parse_args()
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with ModelServer(asked.port, delay=asked.delay, opinion=lean) as server:
        print(server.url, flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
