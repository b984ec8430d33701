"""Placeholder model of compiled agents; the context of each analysis supplies the actual one."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult


class PlaceholderModel(BaseChatModel):
    """Model that is required to compile an agent and never called."""

    @property
    def _llm_type(self) -> str:
        return "unbound"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("an analysis needs a context with its models")


PLACEHOLDER_MODEL = PlaceholderModel()
