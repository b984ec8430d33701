"""System prompts of the agents (`<agent>.md` in this folder). A changed prompt changes the variant's digest."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

CHART_MEDIUM = "as a picture of its candles"
TABLE_MEDIUM = "as a table of prices"


@cache
def prompt(agent: str) -> str:
    """Return the text of an agent's prompt file."""
    return Path(__file__).with_name(f"{agent}.md").read_text(encoding="utf-8")


def system_prompt(agent: str, has_vision: bool) -> str:
    """Return the prompt of an agent, for a model that receives images or one that receives tables."""
    return prompt(agent).replace("{medium}", CHART_MEDIUM if has_vision else TABLE_MEDIUM)


def digest(agent: str) -> str:
    """Return the SHA-256 of both versions of an agent's prompt."""
    return sha256("\0".join(system_prompt(agent, sighted) for sighted in (True, False)).encode()).hexdigest()
