"""HTTP transports to model servers: a live one that records requests and responses, and one that replays them.

The key of a request is the SHA-256 of its canonical form: the JSON sent, with images replaced by their digests. Equal
requests have equal keys in every process, so that a recorded one is answered without a server.
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
"""Minimum length of a key to be masked; shorter values are placeholders and may occur in any answer."""
_IMAGE_PREFIX = "data:image/png;base64,"


class RecordingMissing(QuantagentError):
    """A request without a recorded answer."""

    default_code = "RECORDING_MISSING"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the recording has no answer to request {key}: prompt, chart, tools or model differ from those of the "
            "analysis. No model was called."
        )
        self.key = key


class AnswerTooLarge(QuantagentError):
    """An answer of more than `ANSWER_BYTES_MAX` bytes."""


@dataclass
class Exchange:
    """One request and its response; `status` 0 means that no response arrived. Times are of the event loop's clock."""

    allow: Callable[[str], None] = lambda request: None
    """Called with the request before it is sent; raises an error to prevent it."""

    secret: str = ""
    """The API key, masked if a server returns it."""

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
        """The response as stored: ASCII JSON of status and body, empty if none arrived."""
        if not self.status:
            return ""
        return json.dumps({"status": self.status, "body": self.answer}, sort_keys=True, separators=(",", ":"))

    def receive(self, status: int, body: str) -> None:
        """Store the response with the API key masked."""
        has_secret = len(self.secret) >= SECRET_LENGTH_MIN
        self.status, self.answer = status, body.replace(self.secret, "***") if has_secret else body


CURRENT_EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")
"""The exchange of the running task's next request."""


class RecordedAnswers(Protocol):
    """Lookup of recorded answers by request key."""

    def __call__(self, key: str) -> str:
        """Return the recorded answer, empty if none arrived. Raise `RecordingMissing` for an unknown key."""
        ...


def canonical(body: bytes) -> str:
    """Return the canonical form of a request: sorted ASCII JSON with images replaced by their digests."""
    return json.dumps(_without_images(json.loads(body)), sort_keys=True, separators=(",", ":"))


def request_key(request: str) -> str:
    """Return the key of a canonical request."""
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
    """Transport that sends requests, records both sides, and limits the size of answers."""

    def __init__(self) -> None:
        # Ignores the environment: a proxy set there could read every prompt.
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
    """Return the trusted certificates; cached, as loading them dominates the cost of a client."""
    return httpx2.create_ssl_context(trust_env=False)


class RecordedTransport(httpx2.AsyncBaseTransport):
    """Transport that answers from a recording and opens no connection."""

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
    """Return the part of an answer that the client needs, the first message: it warns about odd values elsewhere."""
    try:
        first = json.loads(answer)["choices"][0]
        choice = {"index": 0, "message": first["message"], "finish_reason": first.get("finish_reason")}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return answer
    return json.dumps({"id": "answer", "object": "chat.completion", "created": 0, "model": "", "choices": [choice]})


async def _read_body(response: httpx2.Response) -> bytes:
    """Read the body of a response. Raise `AnswerTooLarge` as soon as it exceeds the limit."""
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
    """Open an HTTP client without proxies, redirects and compression."""
    plain = {"accept-encoding": "identity"}
    async with httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, headers=plain) as http:
        yield http
