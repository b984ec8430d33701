"""Model clients of a preset and its fallbacks, each with its own restricted HTTP client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, cast

import httpx2
from langchain_core.messages import AIMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI

from analysis.graph.context import Model
from analysis.graph.recorded_transport import open_client
from analysis.llm.presets import ModelPreset, api_key

NO_KEY = "none"
"""Placeholder for servers without keys: the protocol cannot omit it."""


class ChatClient(ChatOpenAI):
    """LangChain's client with tools in the form of strict servers: no empty list of tools, no defaults in schemas."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        if not tools:
            return cast("Runnable[Any, AIMessage]", self.bind(response_format=kwargs["response_format"]))
        strict = kwargs.get("strict")
        converted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        bind = cast("Any", super()).bind_tools  # The library's types are too narrow here.
        return bind([_without_defaults(tool) for tool in converted] if strict else converted, **kwargs)


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        fields = cast("dict[str, Any]", schema)
        return {name: _without_defaults(value) for name, value in fields.items() if name != "default"}
    return [_without_defaults(each) for each in cast("list[Any]", schema)] if isinstance(schema, list) else schema


@asynccontextmanager
async def open_models(
    presets: Sequence[tuple[str, ModelPreset]], transport: Callable[[], httpx2.AsyncBaseTransport]
) -> AsyncGenerator[tuple[Model, ...]]:
    """Open the models of named presets for the duration of the context."""
    async with AsyncExitStack() as stack:
        models = [
            build_model(name, preset, await stack.enter_async_context(open_client(transport())))
            for name, preset in presets
        ]
        yield tuple(models)


def build_model(name: str, preset: ModelPreset, http: httpx2.AsyncClient) -> Model:
    """Return the model of a preset on an HTTP client, which the caller closes."""
    key = api_key(preset)
    secret = key.get_secret_value() if key else ""

    async def provide_key() -> str:
        return secret or NO_KEY

    chat = ChatClient(
        model=preset.model,
        base_url=preset.base_url,
        # A callable, so that no repr can show the key and only the asynchronous client is created.
        api_key=provide_key,
        temperature=None if preset.temperature is None else float(preset.temperature),
        seed=preset.seed,
        max_completion_tokens=preset.max_output_tokens,
        timeout=preset.timeout_s,
        # Retries happen in `model_middleware` only.
        max_retries=0,
        use_responses_api=False,
        disable_streaming=True,
        http_async_client=http,
        # No proxy settings from the environment.
        openai_proxy=None,
        http_socket_options=(),
    )
    return Model(name, preset, chat, secret, _pace(preset))


def _pace(preset: ModelPreset) -> InMemoryRateLimiter | None:
    if preset.requests_per_minute is None:
        return None
    return _rate_limiter(preset.base_url, preset.model, preset.requests_per_minute)


@cache
def _rate_limiter(base_url: str, model: str, requests_per_minute: int) -> InMemoryRateLimiter:
    """Return the one rate limiter of a model in this process; the first call does not wait."""
    pace = InMemoryRateLimiter(requests_per_second=requests_per_minute / 60, check_every_n_seconds=0.05)
    pace.available_tokens = 1.0
    del base_url, model
    return pace
