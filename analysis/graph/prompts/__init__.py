"""What each agent is told: `<agent>.md` beside this file. A changed prompt is another variant, by its digest."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

CHART_MEDIUM = "as a picture of its candles"
TABLE_MEDIUM = "as a table of prices"


@cache
def prompt(agent: str) -> str:
    """The text of an agent's prompt, as it lies in the file."""
    return Path(__file__).with_name(f"{agent}.md").read_text(encoding="utf-8")


def system_prompt(agent: str, has_vision: bool) -> str:
    """The prompt of an agent, for a model that sees pictures or for one that reads tables."""
    return prompt(agent).replace("{medium}", CHART_MEDIUM if has_vision else TABLE_MEDIUM)


def digest(agent: str) -> str:
    """SHA-256 of all that an agent may be told: its prompt with either word for what it sees."""
    return sha256("\0".join(system_prompt(agent, sighted) for sighted in (True, False)).encode()).hexdigest()
