"""The way to a model server: what went out and what came back, to the byte, bounded on the way in.

A question is known by the SHA-256 of its canonical request (`key`): the JSON that is sent, with pictures by their
digests. The same request is the same key in every process; a recorded one is answered without a server.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from ssl import SSLContext
from typing import Any, Protocol, cast

import httpx2

from engine.core.errors import QuantagentError

ANSWER_BYTES_MAX = 1_000_000
SECRET_LENGTH_MIN = 8
"""What is shorter is a word that stands for no key, and may be in any answer."""
_IMAGE_PREFIX = "data:image/png;base64,"


class RecordingMissing(QuantagentError):
    """A question that was not asked when the recording was made."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the recording has no answer to the question {key}: its prompt, picture, tools or model are not those of "
            "the analysis. Nothing was asked of a model; make a new analysis with `quantagent analyze`."
        )
        self.key = key


class AnswerTooLarge(QuantagentError):
    """An answer that nobody would want to read to its end."""


@dataclass
class Exchange:
    """One request and what came of it. `status` 0 and no answer: none came. Times are of the event loop's clock."""

    allow: Callable[[str], None] = lambda request: None
    """Called with the request before it is sent; raises what forbids it."""

    secret: str = ""
    """What must not be kept, should a server send it back."""

    request: str = ""
    answer: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    began: float = 0.0
    ended: float = 0.0

    @property
    def latency_ms(self) -> int:
        return max(0, round((self.ended - self.began) * 1000))

    @property
    def recorded(self) -> str:
        """The answer as it is kept: ASCII JSON of status and body, empty where none came."""
        if not self.status:
            return ""
        return json.dumps({"status": self.status, "body": self.answer}, sort_keys=True, separators=(",", ":"))

    def receive(self, status: int, body: str) -> None:
        """Takes an answer; nobody is told a secret that a server sends back."""
        secret = len(self.secret) >= SECRET_LENGTH_MIN
        self.status, self.answer = status, body.replace(self.secret, "***") if secret else body


CURRENT_EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")
"""The exchange that the running task is about to have."""


class RecordedAnswers(Protocol):
    """Where recorded answers are found."""

    def __call__(self, key: str) -> str:
        """The recorded answer to the question of this key, empty where none came. Raises `RecordingMissing`."""
        ...


def canonical(body: bytes) -> str:
    """A request as it is kept and known by: sorted ASCII JSON, each picture by its digest."""
    return json.dumps(_without_images(json.loads(body)), sort_keys=True, separators=(",", ":"))


def request_key(request: str) -> str:
    """The key of a canonical request."""
    return sha256(request.encode()).hexdigest()


def _without_images(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_images(each) for name, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_without_images(each) for each in cast("list[Any]", value)]
    if isinstance(value, str) and value.startswith(_IMAGE_PREFIX):
        return f"sha256:{sha256(b64decode(value.removeprefix(_IMAGE_PREFIX))).hexdigest()}"
    return value


class LiveTransport(httpx2.AsyncBaseTransport):
    """Asks the server, keeps what was said, and reads no more than one would want of an answer."""

    def __init__(self) -> None:
        # No environment: a proxy that somebody has set would read every prompt.
        self._server = httpx2.AsyncHTTPTransport(verify=_authorities(), trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange, clock = CURRENT_EXCHANGE.get(), asyncio.get_running_loop()
        exchange.request = canonical(await request.aread())
        exchange.allow(exchange.request)
        exchange.began = clock.time()
        try:
            response = await self._server.handle_async_request(request)
            body = await _read_body(response)
        finally:
            exchange.ended = clock.time()
        exchange.receive(response.status_code, body.decode(errors="surrogateescape"))
        exchange.headers = {name.lower(): value for name, value in response.headers.items()}
        return _response(request, exchange)

    async def aclose(self) -> None:
        await self._server.aclose()


@cache
def _authorities() -> SSLContext:
    """Whose certificates are trusted; read once, for that takes longer than all else that a client is made of."""
    return httpx2.create_ssl_context(trust_env=False)


class RecordedTransport(httpx2.AsyncBaseTransport):
    """Answers from a recording. Opens no connection, whatever it is asked."""

    def __init__(self, answers: RecordedAnswers) -> None:
        self._answers = answers

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = CURRENT_EXCHANGE.get()
        exchange.request = canonical(await request.aread())
        recorded = self._answers(request_key(exchange.request))
        if not recorded:
            raise httpx2.ConnectError("no answer came when this was recorded", request=request)
        kept = json.loads(recorded)
        exchange.receive(kept["status"], kept["body"])
        return _response(request, exchange)


def _response(request: httpx2.Request, exchange: Exchange) -> httpx2.Response:
    content = _client_view(exchange.answer).encode(errors="surrogateescape")
    return httpx2.Response(
        exchange.status, headers={"content-type": "application/json"}, content=content, request=request
    )


def _client_view(answer: str) -> str:
    """What the client needs of an answer: the first message. It complains aloud about odd values in all the rest."""
    try:
        first = json.loads(answer)["choices"][0]
        choice = {"index": 0, "message": first["message"], "finish_reason": first.get("finish_reason")}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return answer
    return json.dumps({"id": "answer", "object": "chat.completion", "created": 0, "model": "", "choices": [choice]})


async def _read_body(response: httpx2.Response) -> bytes:
    """The body, as it comes over the wire. Raises `AnswerTooLarge` as soon as that is known."""
    body = bytearray()
    try:
        async for part in _parts(response):
            body += part
            if len(body) > ANSWER_BYTES_MAX:
                raise AnswerTooLarge(f"the answer has more than {ANSWER_BYTES_MAX:,} bytes")
    finally:
        await response.aclose()
    return bytes(body)


def _parts(response: httpx2.Response) -> AsyncIterator[bytes]:
    stream = response.stream
    assert isinstance(stream, httpx2.AsyncByteStream), "an asynchronous transport answers with a stream"
    return aiter(stream)


@asynccontextmanager
async def open_client(transport: httpx2.AsyncBaseTransport) -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client that goes to the preset's address and nowhere else: no proxies, no redirects, no compression."""
    plain = {"accept-encoding": "identity"}
    async with httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, headers=plain) as http:
        yield http
