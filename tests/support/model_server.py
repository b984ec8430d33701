"""A server on a loopback port that speaks OpenAI's chat completions; its answers are functions of the questions.

The same request gets the same bytes, whatever was asked before: its digest seeds a generator that fills the schema the
request asks for. `Fault`s, scripted or named in the model's name ("stub+429x2"), spoil an answer. It fetches nothing.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple, Self, cast

from tests.support.model_answers import (
    CREATED,
    AnswerEditor,
    RequestRefused,
    Response,
    ServedRequest,
    complete,
    encoded,
    envelope,
    lean_decision,
    read_request,
    turn_of,
)
from tests.support.model_faults import NO_DEFECT, ClientConnection, Defect, HungUp, parse_defects
from tests.support.waiting import WAIT_TIMEOUT_S

BODY_BYTES_MAX = 64_000_000
POLL_S = 0.01
"""How long `close` may wait for the thread that accepts connections."""


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
        edit_answer: AnswerEditor | None = None,
    ) -> None:
        self.delay, self.delays, self.key, self.edit_answer = delay, dict(delays or {}), key, edit_answer
        self.requests: list[ServedRequest] = []
        self.most_at_once = 0
        self.connections = 0
        self.errors: list[BaseException] = []
        self.closing = threading.Event()
        self._gate: _Gate | None = None
        self._lock = threading.Lock()
        self._busy: set[ServedRequest] = set()
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
        if self._gate is not None:
            self._gate.barrier.abort()
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
            self._gate = None
            self.most_at_once = len(self._busy)
            self.connections = 0

    def script(
        self,
        defects: Iterable[Defect],
        *,
        agent: str = "",
        when: Callable[[ServedRequest], bool] | None = None,
        lasting: bool | None = None,
    ) -> None:
        """The next answers, in order; each request takes the first one that is for it.

        `agent` and `when` limit them to some requests. A fault is met once, one that is lasting for ever; `lasting`
        overrules what the fault says of itself.
        """

        def wanted(exchange: ServedRequest) -> bool:
            return agent in ("", exchange.agent) and (when is None or when(exchange))

        with self._lock:
            for defect in defects:
                self._steps.append(_Step(defect, wanted, defect.lasting if lasting is None else lasting))

    def hold(self, count: int, *agents: str) -> None:
        """Hold the requests of these agents (of all, without names) until `count` of them are under way together.

        Each `count` requests are answered together, so a client that never has as many at once gets no answer: its
        connections are closed after `GIVE_UP_S`, or with the server. `reset` ends it for the requests that follow.
        """
        self._gate = _Gate(threading.Barrier(count, timeout=WAIT_TIMEOUT_S), frozenset(agents))

    def answer(self, exchange: ServedRequest, line: ClientConnection) -> None:
        """Answers one chat completion, ill if a fault is due; counts, holds and delays it. Raises `Refused`."""
        with self._lock:
            self._busy.add(exchange)
            self.most_at_once = max(self.most_at_once, len(self._busy))
        try:
            self._wait_for_others(exchange)
            line.pause(self.delays.get(exchange.agent, self.delay))
            completion = complete(exchange, self.edit_answer)
            defect = self._next_defect(exchange, turn_of(completion))
            exchange.defect = defect.name
            response = defect.respond(envelope(exchange, defect.spoil(completion, exchange)))
            exchange.status = response.status
            defect.send(line, response)
        finally:
            self.leave(exchange)

    def leave(self, exchange: ServedRequest) -> None:
        """No longer counts a request as being worked on."""
        with self._lock:
            self._busy.discard(exchange)

    def _wait_for_others(self, exchange: ServedRequest) -> None:
        gate = self._gate
        if gate is None or (gate.agents and exchange.agent not in gate.agents):
            return
        try:
            gate.barrier.wait()
        except threading.BrokenBarrierError:
            raise HungUp from None

    def _next_defect(self, exchange: ServedRequest, turn: str) -> Defect:
        with self._lock:
            for step in self._steps:
                if step.defect.turn in ("", turn) and step.wanted(exchange):
                    if not step.lasting:
                        self._steps.remove(step)
                    return step.defect
            for suffix, defect, times in parse_defects(exchange.body["model"]):
                if defect.turn in ("", turn) and (times is None or self._met[exchange.digest, suffix] < times):
                    self._met[exchange.digest, suffix] += 1
                    return defect
        return NO_DEFECT


class _Gate(NamedTuple):
    barrier: threading.Barrier
    agents: frozenset[str]


class _Step(NamedTuple):
    defect: Defect
    wanted: Callable[[ServedRequest], bool]
    lasting: bool


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
        response = RequestRefused(code, message or HTTPStatus(code).phrase).response()
        self.connection.sendall(response.head() + response.body)

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        exchange = ServedRequest(self.path, {}, time.monotonic())
        self.model_server.requests.append(exchange)

        def leave() -> None:
            self.model_server.leave(exchange)
            exchange.ended = time.monotonic()

        line = ClientConnection(self.connection, self.model_server.closing, leave)
        try:
            self._route(method, exchange, line)
        except RequestRefused as refused:
            exchange.status = refused.status
            line.send(refused.response().wire())

    def _route(self, method: str, exchange: ServedRequest, line: ClientConnection) -> None:
        exchange.headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self._read()
        server, path = self.model_server, self.path.partition("?")[0]
        if server.key and exchange.headers.get("authorization") != f"Bearer {server.key}":
            raise RequestRefused(401, "Incorrect API key provided.", "invalid_api_key")
        if (method, path) == ("GET", "/v1/models"):
            exchange.status = 200
            model = {"id": "stub", "object": "model", "created": CREATED, "owned_by": "tests"}
            body = encoded({"object": "list", "data": [model]})
            line.send(Response(200, {"content-type": "application/json"}, (body,)).wire())
        elif (method, path) == ("POST", "/v1/chat/completions"):
            read_request(exchange, raw)
            parse_defects(exchange.body["model"])
            server.answer(exchange, line)
        else:
            raise RequestRefused(404, f"Unknown request URL: {method} {path}.", "unknown_url")

    def _read(self) -> bytes:
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            raise RequestRefused(400, f"A body of {length} bytes is not read.")
        return self.rfile.read(int(length))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves chat completions on 127.0.0.1 until it is stopped.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with ModelServer(options.port, delay=options.delay, edit_answer=lean_decision) as server:
        print(server.url, flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
