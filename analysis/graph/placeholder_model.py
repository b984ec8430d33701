"""The model of an agent that has been told of none: the context of each analysis names the one to ask."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult


class PlaceholderModel(BaseChatModel):
    """Stands where an agent wants a model when it is made, and is never asked."""

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
        raise NotImplementedError("an analysis is made in the context of an attempt that names its models")


PLACEHOLDER_MODEL = PlaceholderModel()
