"""The stub of a model server: equal questions have equal answers, every schema is met, and faults are what they say."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum
from functools import partial
from http.client import HTTPConnection, HTTPException
from random import Random
from typing import Annotated, Any, Literal, NamedTuple, cast
from uuid import UUID

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType]
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import OpenAIRateLimitError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, create_model

from analysis.reports import IndicatorReport, PatternReport, TradeDecision, TrendReport
from tests.support.model_answers import Image, lean_decision, read_png
from tests.support.model_faults import DEFECTS, NO_DEFECT, ClientConnection, answers_with
from tests.support.model_server import ModelServer
from tests.support.paths import ROOT
from tests.support.schema_values import Filler, Json
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until

CHAT = "/v1/chat/completions"
STRATEGIES: list[Any] = [ProviderStrategy, ToolStrategy]
SHAPES: list[type[BaseModel]] = [IndicatorReport, PatternReport, TrendReport, TradeDecision]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as made:
        yield made


class Told(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        return json.loads(self.body)

    @property
    def message(self) -> Json:
        return self.json["choices"][0]["message"]


def tell(server: ModelServer, body: Json | bytes, path: str = CHAT, **headers: str) -> Told:
    """Asks over a connection of its own."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = HTTPConnection("127.0.0.1", server.port, timeout=WAIT_TIMEOUT_S)
    try:
        connection.request("GET" if path == "/v1/models" else "POST", path, raw, headers)
        response = connection.getresponse()
        return Told(response.status, {name.lower(): value for name, value in response.headers.items()}, response.read())
    finally:
        connection.close()


def noted_in(waits: list[float]) -> Callable[[ClientConnection, float], None]:
    """A `Line.pause` that only notes the seconds it is given."""

    def pause(line: ClientConnection, seconds: float) -> None:
        waits.append(seconds)

    return pause


def question(text: str = "go", **more: Any) -> Json:
    return {"model": "stub", "messages": [{"role": "user", "content": text}], **more}


def wanting(shape: type[BaseModel] | Json, text: str = "go", **more: Any) -> Json:
    """A question that wants its answer in a shape."""
    schema = shape if isinstance(shape, dict) else shape.model_json_schema()
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    return question(text, response_format=form, **more)


def offering(*names: str, **more: Any) -> Json:
    """A question with tools, each of which takes a number of bars."""
    bars = {"type": "object", "properties": {"bars": {"type": "integer", "minimum": 2, "maximum": 50}}}
    made = [
        {"type": "function", "function": {"name": name, "parameters": {**bars, "required": ["bars"]}}} for name in names
    ]
    return question(tools=made, **more)


def called(told: Told) -> list[str]:
    return [call["function"]["name"] for call in told.message.get("tool_calls", ())]


def answered(body: Json, told: Told) -> Json:
    """The question again, with the results of the tools that were called."""
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "50.1"} for call in told.message.get("tool_calls", ())
    ]
    return {**body, "messages": [*body["messages"], told.message, *results]}


def png(width: int = 3, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = (b"\0" + b"\x10\x20\x30" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def showing(picture: bytes, kind: str = "png") -> Json:
    url = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "stub", "messages": [{"role": "user", "content": parts}]}


# Answers.


def test_the_same_question_gets_the_same_bytes_whatever_was_asked_before(server: ModelServer) -> None:
    with ModelServer() as other:
        first = [tell(server, wanting(shape)) for shape in SHAPES]
        again = [tell(other, wanting(shape)) for shape in reversed(SHAPES)]
    assert first == again[::-1]
    assert len({told.json["id"] for told in first}) == len(SHAPES)


def test_what_does_not_shape_an_answer_does_not_change_it(server: ModelServer) -> None:
    assert tell(server, question()) == tell(server, question(user="me", metadata={"run": "1"}, stream=False))
    assert tell(server, question()).json["id"] != tell(server, question(temperature=0.5)).json["id"]


def test_a_stream_says_what_the_plain_answer_says_and_its_usage_only_on_request(server: ModelServer) -> None:
    for body in (wanting(TradeDecision), offering("rsi", "macd")):
        plain = tell(server, body)
        quiet = chunks(tell(server, {**body, "stream": True}))
        loud = chunks(tell(server, {**body, "stream": True, "stream_options": {"include_usage": True}}))
        assert quiet == loud[:-1]
        assert loud[-1] == {**quiet[0], "choices": [], "usage": plain.json["usage"]}
        assert joined(quiet) == {name: value for name, value in plain.message.items() if name != "refusal"}


def chunks(told: Told) -> list[Json]:
    assert told.headers["content-type"] == "text/event-stream"
    *events, end, empty = told.body.decode().split("\n\n")
    assert (end, empty) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def joined(told: list[Json]) -> Json:
    """The message that deltas make."""
    message: Json = {"role": "assistant", "content": None}
    for delta in (choice["delta"] for chunk in told for choice in chunk["choices"]):
        if delta.get("content"):
            message["content"] = (message["content"] or "") + delta["content"]
        for part in delta.get("tool_calls", ()):
            calls: list[Json] = message.setdefault("tool_calls", [])
            if part["index"] == len(calls):
                calls.append({name: value for name, value in part.items() if name != "index"})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return message


class Level(IntEnum):
    LOW = 1
    HIGH = 3


class Leaf(BaseModel):
    name: Literal["a", "b"] = "a"
    weight: Annotated[float, Field(gt=0, lt=1)]


class Tree(BaseModel):
    """Holds itself, and would without an end."""

    left: Tree | None
    right: Tree | None
    others: list[Tree] = []
    leaf: Leaf


TYPES: list[Any] = [
    bool,
    int,
    float,
    str,
    date,
    datetime,
    UUID,
    Decimal,
    Level,
    Leaf,
    Tree,
    Any,
    Literal["LONG", "SHORT", "HOLD"],
    Literal[1, "one", None],
    dict[str, int],
    tuple[int, str, Leaf],
    int | str | None,
    frozenset[Literal["x", "y", "z"]],
    Annotated[Leaf | Tree, Field(description="one of two")],
    Annotated[int, Field(multiple_of=7, gt=7, lt=22)],
    Annotated[float, Field(multiple_of=0.25, ge=0.5, le=1)],
    Annotated[Decimal, Field(decimal_places=2, ge=Decimal("0.5"), lt=1)],
    Annotated[str, Field(pattern=r"^[A-Z]{3,5}$")],
    Annotated[str, Field(pattern=r"^\d+$", max_length=4)],
    Annotated[dict[Annotated[str, Field(min_length=3)], float], Field(min_length=2, max_length=3)],
]
LIMITS = st.tuples(st.integers(-50, 50), st.integers(0, 20))


@st.composite
def bounded(draw: st.DrawFn) -> Any:
    """A type with bounds of some kind."""
    low, width = draw(LIMITS)
    kind = draw(st.sampled_from(["ge le", "gt lt", "length", "list", "set", "ge", "le"]))
    match kind:
        case "ge le":
            return Annotated[draw(st.sampled_from([int, float, Decimal])), Field(ge=low, le=low + width)]
        case "gt lt":
            return Annotated[draw(st.sampled_from([int, float])), Field(gt=low, lt=low + width + 2)]
        case "length":
            return Annotated[str, Field(min_length=width, max_length=width + abs(low))]
        case "list":
            return Annotated[list[draw(types())], Field(min_length=width % 3, max_length=width % 3 + 2)]
        case "set":
            return Annotated[set[int], Field(min_length=width % 5)]
        case "ge":
            return Annotated[float, Field(ge=low)]
        case _:
            return Annotated[int, Field(le=low)]


def types() -> st.SearchStrategy[Any]:
    return st.sampled_from(TYPES)


FIELDS = st.lists(st.tuples(types() | bounded(), st.booleans()), min_size=1, max_size=6)


@given(FIELDS, st.integers(0, 2**64))
def test_whatever_pydantic_can_ask_for_is_answered_so_that_it_validates(fields: list[Any], seed: int) -> None:
    made: Json = {f"f{n}": (kind | None if empty else kind, ...) for n, (kind, empty) in enumerate(fields)}
    model = create_model("Made", __config__=ConfigDict(extra="forbid"), **made)
    filled = Filler(model.model_json_schema(), Random(seed)).document()
    model.model_validate_json(json.dumps(filled))


@given(st.sampled_from(SHAPES), st.integers(0, 2**64))
def test_reports_agree_with_themselves_where_no_schema_can_say_so(shape: type[BaseModel], seed: int) -> None:
    report = shape.model_validate(Filler(shape.model_json_schema(), Random(seed)).document())
    if isinstance(report, TradeDecision) and report.decision == "HOLD":
        assert report.horizon_bars is None
        assert report.risk_reward is None


def test_a_schema_may_be_no_object_at_all() -> None:
    kinds: list[Any] = [list[int], tuple[int, ...], Literal["a", "b"], int | None, dict[str, list[bool]]]
    for kind in kinds:
        adapter = TypeAdapter[Any](kind)
        adapter.validate_python(Filler(adapter.json_schema(), Random(1)).document())


def test_an_opinion_is_made_of_the_words_it_is_given() -> None:
    with ModelServer(edit_answer=lean_decision) as server:
        for text, decision in (("up, bullish", "LONG"), ("down and bearish", "SHORT"), ("up or down", "HOLD")):
            told = TradeDecision.model_validate_json(tell(server, wanting(TradeDecision, text)).message["content"])
            assert told.decision == decision
        TrendReport.model_validate_json(tell(server, wanting(TrendReport)).message["content"])


# Tools.


def test_all_tools_are_called_in_one_turn_and_then_the_question_is_answered(server: ModelServer) -> None:
    body = {**wanting(IndicatorReport), "tools": offering("rsi", "macd")["tools"]}
    told = tell(server, body)
    assert called(told) == ["rsi", "macd"]
    assert told.json["choices"][0]["finish_reason"] == "tool_calls"
    assert all(2 <= json.loads(call["function"]["arguments"])["bars"] <= 50 for call in told.message["tool_calls"])
    IndicatorReport.model_validate_json(tell(server, answered(body, told)).message["content"])


def test_tool_choice_is_obeyed(server: ModelServer) -> None:
    named = {"type": "function", "function": {"name": "macd"}}
    assert called(tell(server, offering("rsi", "macd", tool_choice="none"))) == []
    assert called(tell(server, offering("rsi", "macd", tool_choice=named))) == ["macd"]
    assert called(tell(server, offering("rsi", "Report", tool_choice="required"))) == ["rsi"]
    assert called(tell(server, offering("Report", tool_choice="required"))) == ["Report"]
    assert called(tell(server, offering("rsi", "macd", parallel_tool_calls=False))) == ["rsi"]
    assert tell(server, offering("rsi", tool_choice=named)).status == 400
    body = offering("rsi", "Report", tool_choice="required")
    assert called(tell(server, answered(body, tell(server, body)))) == ["Report"]
    body = offering("rsi", tool_choice="required")
    assert called(tell(server, answered(body, tell(server, body)))) == ["rsi"]


def test_a_schema_quoted_in_the_prompt_is_met_too(server: ModelServer) -> None:
    schema = json.dumps(TradeDecision.model_json_schema(), indent=2)
    told = tell(server, question(f"Answer by this JSON schema:\n```json\n{schema}\n```\nNothing else."))
    TradeDecision.model_validate_json(told.message["content"])
    assert [exchange.agent for exchange in server.requests] == ["decision"]


@tool
def rsi(bars: Annotated[int, Field(ge=2, le=50)]) -> str:
    """The RSI over the last bars."""
    return f"RSI({bars}) is 50"


@tool
def macd(fast: Annotated[int, Field(ge=2, le=20)], slow: Annotated[int, Field(ge=21, le=50)]) -> str:
    """The MACD."""
    return f"MACD({fast}, {slow}) is 0"


def chat(server: ModelServer, **more: Any) -> ChatOpenAI:
    key = SecretStr("nobody's")
    return ChatOpenAI(model="stub", base_url=server.url, api_key=key, max_retries=0, temperature=0, **more)


def agent_on(model: ChatOpenAI, tools: list[Any], form: Any) -> Any:
    return cast(Any, create_agent)(model, tools, response_format=form)


@asynccontextmanager
async def model_of(server: ModelServer) -> AsyncGenerator[ChatOpenAI]:
    """A model with an HTTP client of its own: the shared one that it would take is never closed."""
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_TIMEOUT_S) as client:
        yield chat(server, http_async_client=client)


@contextmanager
def sync_model_of(server: ModelServer, **more: Any) -> Generator[ChatOpenAI]:
    with httpx2.Client(trust_env=False, timeout=WAIT_TIMEOUT_S) as client:
        yield chat(server, http_client=client, **more)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_agent_of_langchain_goes_from_model_to_tools_to_model(server: ModelServer, strategy: Any) -> None:
    async def ask() -> Any:
        async with model_of(server) as model:
            agent = agent_on(model, [rsi, macd], strategy(IndicatorReport))
            return await agent.ainvoke({"messages": [("user", "go")]})

    state = asyncio.run(ask())
    assert isinstance(state["structured_response"], IndicatorReport)
    assert [message.type for message in state["messages"]][:5] == ["human", "ai", "tool", "tool", "ai"]
    assert [exchange.agent for exchange in server.requests] == ["indicator", "indicator"]
    assert server.connections == 1
    with sync_model_of(server) as model:
        agent = agent_on(model, [rsi, macd], strategy(IndicatorReport))
        assert agent.invoke({"messages": [("user", "go")]})["structured_response"] == state["structured_response"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_an_agent_without_tools_gets_its_report(server: ModelServer, strategy: Any, shape: type[BaseModel]) -> None:
    with sync_model_of(server) as model:
        agent = agent_on(model, [], strategy(shape))
        assert isinstance(agent.invoke({"messages": [("user", "go")]})["structured_response"], shape)
    assert len(server.requests) == 1


def with_rsi(model: ChatOpenAI) -> Any:
    return cast(Any, model).bind_tools([rsi])


def test_the_real_client_hears_a_stream_with_usage(server: ModelServer) -> None:
    async def ask() -> Any:
        async with model_of(server) as model:
            heard: list[Any] = [chunk async for chunk in with_rsi(model).astream("go", stream_usage=True)]
            return sum(heard[1:], heard[0])

    whole = asyncio.run(ask())
    assert [call["name"] for call in whole.tool_calls] == ["rsi"]
    with sync_model_of(server) as model:
        plain = with_rsi(model).invoke("go")
    assert whole.tool_calls == plain.tool_calls
    assert whole.usage_metadata == plain.usage_metadata


# Requests.


def test_pictures_are_read_and_cost_tokens(server: ModelServer) -> None:
    told = tell(server, showing(png()))
    assert told.json["usage"]["prompt_tokens"] == 765 + len("look") // 4 + 1
    image = server.requests[0].images[0]
    assert (image.png, image.width, image.height) == (png(), 3, 2)
    assert isinstance(image, Image)


def test_what_is_no_png_is_refused(server: ModelServer) -> None:
    whole = png()
    # The last four bytes of the header chunk's data and the compression level are told by checksums too.
    for broken in (b"", whole[:-1], whole[:20], whole + b"x", whole.replace(b"IDAT", b"IDAX"), b"GIF89a" + whole):
        told = tell(server, showing(broken))
        assert told.status == 400
        assert told.json["error"]["code"] == "invalid_image_format"
    assert tell(server, showing(whole, kind="jpeg")).status == 400


@given(st.integers(8, len(png()) - 1), st.integers(1, 255))
def test_no_byte_of_a_picture_can_be_changed_unseen(at: int, change: int) -> None:
    broken = bytearray(png())
    broken[at] ^= change
    with pytest.raises((ValueError, struct.error, zlib.error)):
        read_png(bytes(broken))


def test_agents_are_known_by_what_they_ask_for(server: ModelServer) -> None:
    known = ["indicator", "pattern", "trend", "decision"]
    tell(server, offering("rsi"))
    tell(server, question())
    for shape in SHAPES:
        tell(server, wanting(shape))
    assert [exchange.agent for exchange in server.requests] == ["indicator", "", *known]
    assert all(exchange.ended and exchange.ended >= exchange.began for exchange in server.requests)


def test_what_openai_would_refuse_is_refused_in_its_shape(server: ModelServer) -> None:
    told = tell(server, offering("rsi"))
    unanswered = {**offering("rsi"), "messages": [told.message]}
    robot = {"model": "stub", "messages": [{"role": "robot"}]}
    refused: list[Json | bytes] = [
        b"{",
        b"[]",
        {},
        {"model": "stub"},
        {"model": "stub", "messages": []},
        robot,
        unanswered,
    ]
    for body in refused:
        told = tell(server, body)
        assert told.status == 400
        assert told.json["error"]["type"] == "invalid_request_error"
    assert tell(server, wanting({"$ref": "#/$defs/Nowhere"})).status == 400
    assert tell(server, question(), path="/v1/responses").status == 404


def test_models_are_listed_and_a_key_is_checked_where_one_is_set() -> None:
    with ModelServer(key="s3cret") as server:
        assert tell(server, b"", "/v1/models").json["error"]["code"] == "invalid_api_key"
        assert tell(server, question(), authorization="Bearer wrong").status == 401
        assert tell(server, question(), authorization="Bearer s3cret").status == 200
        listed = tell(server, b"", "/v1/models", authorization="Bearer s3cret")
        assert [model["id"] for model in listed.json["data"]] == ["stub"]


def test_one_connection_carries_many_questions(server: ModelServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=WAIT_TIMEOUT_S)
    for n in range(20):
        body = {**question(str(n)), "stream": n % 2 == 1}
        connection.request("POST", CHAT, json.dumps(body))
        assert connection.getresponse().read()
    connection.close()
    assert (server.connections, len(server.requests), server.most_at_once) == (1, 20, 1)
    server.reset()
    assert (server.connections, server.requests, server.most_at_once) == (0, [], 0)


def test_questions_are_answered_side_by_side_after_their_agents_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(ClientConnection, "pause", noted_in(waits))
    with ModelServer(delay=9.0, delays={"pattern": 0.3, "trend": 0.2}) as server, ThreadPoolExecutor() as pool:
        server.hold(3)
        told = pool.map(tell, [server] * 3, map(wanting, [PatternReport, TrendReport, TrendReport]))
        assert [each.status for each in told] == [200] * 3
        assert server.most_at_once == 3
        server.reset()
        assert tell(server, question()).status == 200
    assert sorted(waits) == [0.2, 0.2, 0.3, 9.0]


def test_held_questions_are_answered_in_the_same_number_only(server: ModelServer) -> None:
    with ThreadPoolExecutor() as pool:
        server.hold(2, "pattern")
        assert tell(server, wanting(TrendReport)).status == 200
        alone = pool.submit(tell, server, wanting(PatternReport))
        wait_until(lambda: any(exchange.agent == "pattern" for exchange in server.requests))
        assert not alone.done()
        assert tell(server, wanting(PatternReport)).status == 200
        assert alone.result(WAIT_TIMEOUT_S).status == 200
        lonely = pool.submit(tell, server, wanting(PatternReport))
        wait_until(lambda: len(server.requests) == 4 and server.requests[-1].agent == "pattern")
        server.close()
        with pytest.raises((HTTPException, OSError)):
            lonely.result(WAIT_TIMEOUT_S)


def test_closing_ends_what_hangs_and_forgets_no_thread() -> None:
    before = set(threading.enumerate())
    server = ModelServer()
    server.script([DEFECTS["hang"]])
    idle = socket.create_connection(("127.0.0.1", server.port))
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(tell, server, question())
        wait_until(lambda: server.requests and server.requests[0].defect)
        server.close()
        with pytest.raises((HTTPException, OSError)):
            hanging.result()
    assert set(threading.enumerate()) <= before
    idle.close()
    server.close()


def test_an_error_of_the_server_itself_is_raised_when_it_is_closed() -> None:
    def fails(body: Json, answer: Json) -> Json:
        raise LookupError("no opinion")

    server = ModelServer(edit_answer=fails)
    with pytest.raises((HTTPException, OSError)):
        tell(server, wanting(TradeDecision))
    with pytest.raises(LookupError, match="no opinion"):
        server.close()


def test_clients_that_hang_up_are_no_error(server: ModelServer) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 100\r\n\r\n"
    for said in (b"", b"POST", head, head + b"{"):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(said)
    server.delay = 0.05
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        body = json.dumps(question()).encode()
        client.sendall(head.replace(b"100", str(len(body)).encode()) + body)
    server.delay = 0
    assert tell(server, question()).status == 200
    assert server.errors == []


def test_it_serves_as_a_process_of_its_own_until_it_is_stopped() -> None:
    command = [sys.executable, "-m", "tests.support.model_server", "--delay", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx2.Client(trust_env=False) as client:
            assert client.get(f"{url}/models").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_TIMEOUT_S) == 0


# Faults.


def test_faults_are_met_in_the_order_of_the_script(server: ModelServer) -> None:
    server.script([DEFECTS["500"], NO_DEFECT, DEFECTS["429"]])
    assert [tell(server, question()).status for _ in range(5)] == [500, 200, 429, 200, 200]
    assert [exchange.defect for exchange in server.requests] == ["500", "", "429", "", ""]


def test_a_lasting_fault_is_met_until_the_server_is_reset(server: ModelServer) -> None:
    server.script([DEFECTS["401"]])
    server.script([DEFECTS["500"]])
    assert [tell(server, question()).status for _ in range(3)] == [401, 401, 401]
    server.reset()
    server.script([DEFECTS["401"]], lasting=False)
    assert [tell(server, question()).status for _ in range(2)] == [401, 200]


def test_a_script_can_be_for_one_agent_or_some_requests_only(server: ModelServer) -> None:
    server.script([DEFECTS["500"]], agent="trend")
    server.script([DEFECTS["503"]], when=lambda exchange: "please" in str(exchange.body))
    assert tell(server, wanting(PatternReport)).status == 200
    assert tell(server, wanting(TrendReport)).status == 500
    assert tell(server, wanting(TrendReport)).status == 200
    assert tell(server, question("please")).status == 503


def test_a_models_name_can_hold_faults(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def statuses(model: str, text: str = "go") -> list[int]:
        return [tell(server, {**question(text), "model": model}).status for _ in range(4)]

    assert statuses("stub+429x2") == [429, 429, 200, 200]
    assert statuses("stub+429x2", "another question") == [429, 429, 200, 200]
    assert statuses("stub+500") == [500] * 4
    assert statuses("stub+429x1+503x2") == [429, 503, 503, 200]
    assert statuses("stub+nonsense") == [404] * 4
    waits: list[float] = []
    monkeypatch.setattr(ClientConnection, "pause", noted_in(waits))
    assert tell(server, {**question(), "model": "stub+slow0.2"}).status == 200
    assert waits == [server.delay, 0.2]


def test_a_scripted_answer_is_what_the_agent_is_told(server: ModelServer) -> None:
    hold = {"decision": "HOLD", "confidence": 0.5}
    for strategy in STRATEGIES:
        server.script([answers_with(hold)], agent="decision")
        with sync_model_of(server) as model:
            agent = agent_on(model, [rsi], strategy(TradeDecision))
            told = agent.invoke({"messages": [("user", "go")]})["structured_response"]
        assert told == TradeDecision(decision="HOLD", confidence=Decimal("0.5"))


def test_the_real_client_raises_for_a_fault_and_asks_once(server: ModelServer) -> None:
    server.script([DEFECTS["429"]])
    with sync_model_of(server) as model, pytest.raises(OpenAIRateLimitError) as raised:
        model.invoke("go")
    assert raised.value.response.headers["retry-after"] == "0.05"
    assert len(server.requests) == 1


ON_THE_WAY = {
    "hang": rb"",
    "trickle": rb"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n.*\r\n\r\n +",
    "dropped": rb"",
    "cut_head": rb"HTTP/1.1 200 OK\r\n[-\w:/; \r\n]*",
    "cut_body": rb"HTTP/1.1 200 OK\r\n.*\r\n\r\n.+",
    "reset": rb"RESET",
}
"""Faults after which no whole response is heard, and what is."""


def hear(server: ModelServer, body: Json, enough: Callable[[bytes], bool] = lambda heard: False) -> bytes:
    """Asks, and hears for as long as there is something to hear, or until it is enough."""
    raw, heard = json.dumps(body).encode(), b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_TIMEOUT_S) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nconnection: close\r\ncontent-length: {len(raw)}\r\n\r\n"
        client.sendall(head.encode() + raw)
        try:
            while not enough(heard) and (piece := client.recv(65_536)):
                heard += piece
        except ConnectionResetError:
            return heard + b"RESET"
    return heard


def is_all_that_comes(server: ModelServer, name: str, heard: bytes) -> bool:
    """Of a fault that leaves the connection open: when it has begun, nothing comes or only white space."""
    if name == "hang":
        wait_until(lambda: server.requests[-1].defect == name)
    return name == "hang" or (name == "trickle" and heard.endswith(b" " * 3))


@pytest.mark.parametrize("name", ON_THE_WAY)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_fault_on_the_way_leaves_no_whole_response(server: ModelServer, name: str, stream: bool) -> None:
    body = question(stream=stream)
    well = hear(server, body)
    server.script([DEFECTS[name]], lasting=False)
    heard = hear(server, body, partial(is_all_that_comes, server, name))
    assert re.fullmatch(ON_THE_WAY[name], heard, re.DOTALL), heard
    assert heard != well
    assert name == "trickle" or well.startswith(heard.removesuffix(b"RESET"))
    assert server.requests[-1].defect == name
    assert tell(server, body).body == tell(server, body).body
    assert server.errors == []


@pytest.mark.parametrize("name", [name for name in DEFECTS if name not in {*ON_THE_WAY, "slow"}])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_question_that_met_a_fault_is_answered_well_when_it_is_asked_again(
    server: ModelServer, name: str, stream: bool
) -> None:
    body = wanting(TradeDecision, stream=stream, stream_options={"include_usage": stream})
    well = tell(server, body)
    server.script([DEFECTS[name]], lasting=False)
    assert tell(server, body) != well
    assert server.requests[-1].defect == name
    assert tell(server, body) == well


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("wrong_enum", "decision"),
        ("out_of_range", "confidence"),
        ("nan", "confidence"),
        ("infinity", "confidence"),
        ("missing_field", "decision"),
        ("extra_field", "price"),
        ("surrogate", "reasons"),
        ("cut_content", "EOF"),
        ("nested", "recursion limit"),
        ("prose", "expected ident"),
        ("twice", "trailing characters"),
        ("fenced", "expected value"),
    ],
)
def test_a_spoilt_answer_breaks_the_report_where_it_says(server: ModelServer, name: str, refusal: str) -> None:
    server.script([DEFECTS[name]])
    with pytest.raises(ValueError, match=refusal):
        TradeDecision.model_validate_json(tell(server, wanting(TradeDecision)).message["content"])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_key_that_is_told_twice_is_one_of_the_reports_own(server: ModelServer, shape: type[BaseModel]) -> None:
    server.script([DEFECTS["duplicate_keys"]])
    content = tell(server, wanting(shape)).message["content"]
    keys = [key for key, _ in json.loads(content, object_pairs_hook=list)]
    assert keys[0] in keys[1:]
    shape.model_validate_json(content)


def test_a_spoilt_answer_waits_for_the_answer(server: ModelServer) -> None:
    body = {**wanting(IndicatorReport), "tools": offering("rsi")["tools"]}
    server.script([DEFECTS["prose"]])
    told = tell(server, body)
    assert called(told) == ["rsi"]
    assert tell(server, answered(body, told)).message["content"].startswith("I would rather")


def test_faults_of_tools_call_what_they_say(server: ModelServer) -> None:
    def calls(name: str) -> list[Json]:
        server.script([DEFECTS[name]], lasting=False)
        return tell(server, offering("rsi", "macd")).message["tool_calls"]

    assert [call["function"]["name"] for call in calls("unknown_tool")] == ["place_order"]
    assert len({call["id"] for call in calls("tool_flood")}) == 200
    assert len({call["id"] for call in calls("tool_ids_equal")}) == 1
    assert "name" not in calls("tool_nameless")[0]["function"]
    assert {"bars", "prices", "close"} == set(json.loads(calls("tool_arguments_prices")[0]["function"]["arguments"]))
    server.script([DEFECTS["tools_for_ever"]])
    body = offering("rsi")
    for _ in range(3):
        told = tell(server, body)
        assert called(told) == ["rsi"]
        body = answered(body, told)
