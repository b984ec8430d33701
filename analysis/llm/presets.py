"""Model presets: connection and request settings of a model, with bounds and defaults.

Presets are stored permanently and visible to every reader of the log, so they hold no key: `key_env` names the
environment variable of the key, and text that looks like a key is refused in every field.
"""

from __future__ import annotations

import json
import os
import re
from datetime import date, datetime
from decimal import Decimal
from hashlib import sha256
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, Strict, model_validator

from engine.core.money import ZERO, exact

KEY_ENV = r"[A-Z][A-Z0-9_]{0,60}(_KEY|_TOKEN)"
NAME = r"[a-z0-9][a-z0-9_-]{0,39}"

# Known prefixes of keys, and runs of letters and digits too long for a word or an account.
_KEY_SHAPES = re.compile(
    r"(?i:\b(?:sk|pk|rk|xai|pplx)-|\b(?:gsk|hf|ghp|r8)_|\bAIza)[A-Za-z0-9_-]{12,}"
    r"|(?=[A-Za-z0-9]{32})[0-9A-Fa-f]*[G-Zg-z]|[A-Za-z0-9]{41,}"
)
_SECRET_NAMES = re.compile(r".*(_KEY|_TOKEN|_SECRET|PASSWORD)")
_SECRET_LENGTH_MIN = 8


def looks_like_key(text: str) -> bool:
    """Return True if a text contains something in the form of an API key."""
    return _KEY_SHAPES.search(text) is not None


def holds_secret(text: str) -> bool:
    """Return True if a text contains the value of an environment variable whose name marks a secret."""
    secrets = (value for name, value in os.environ.items() if _SECRET_NAMES.fullmatch(name))
    return any(len(value) >= _SECRET_LENGTH_MIN and value in text for value in secrets)


def _reject_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("it must be a number, not true or false")
    return value


def _exact_at_6(amount: Decimal) -> Decimal:
    if exact(amount).as_tuple().exponent < -6:  # type: ignore[operator]
        raise ValueError("it has more than 6 decimals")
    return exact(amount)


def _model(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("it must be the server's name of the model, without surrounding spaces")
    return name


def _day(value: object) -> object:
    if isinstance(value, datetime) or not isinstance(value, str | date | None):
        raise ValueError("a date is written 2024-04-30")
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("a date is written 2024-04-30")
    return value


def _address(url: str) -> str:
    """Return a checked address; it can hold no key, and error messages do not repeat it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("it is no address: write one like https://api.openai.com/v1") from None
    if not url.isascii() or not url.isprintable() or " " in url or not host or parts.scheme not in ("https", "http"):
        raise ValueError("it is no address: write one like https://api.openai.com/v1")
    if "@" in parts.netloc:
        raise ValueError("an address has no user or password: key_env names the variable that holds the key")
    if "?" in url or "#" in url:
        raise ValueError("an address ends with its path: no query, no fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("http would send the key unencrypted: use https, or a server on this machine")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


PresetFlag = Annotated[bool, Strict()]
PresetInteger = Annotated[int, BeforeValidator(_reject_bool)]
PresetAmount = Annotated[Decimal, BeforeValidator(_reject_bool), Field(ge=0, le=10**6), AfterValidator(_exact_at_6)]
Seconds = Annotated[PresetInteger, Field(ge=1, le=600)]


class ModelPreset(BaseModel):
    """Connection and request settings of a model. Prices are US dollars per million tokens; unknown fields are errors.

    temperature, seed: None uses the server's default. vision: send charts as images, else the same data as text.
    structured_output: method that enforces the schema of answers. knowledge_cutoff: last day of the training data.
    timeout_s: limit of one attempt; retries: attempts after the first; patience_s: limit of all attempts of one call.
    budget_usd: limit of the cost in one UTC day. checkpoints, charts: parts kept for keep_days once the analysis is
    stored. fallback: preset used if this one fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="model preset", hide_input_in_errors=True)

    provider: Literal["openai"] = "openai"
    base_url: Annotated[str, Field(max_length=300), AfterValidator(_address)] = "https://api.openai.com/v1"
    model: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_model)]
    temperature: Annotated[PresetAmount, Field(le=2)] | None = ZERO
    seed: Annotated[PresetInteger, Field(ge=-(2**63), lt=2**63)] | None = None
    vision: PresetFlag = False
    max_output_tokens: Annotated[PresetInteger, Field(ge=16, le=100_000)] = 1_000
    structured_output: Literal["json_schema", "tool", "prompt"] = "json_schema"
    knowledge_cutoff: Annotated[date | None, BeforeValidator(_day)] = None
    price_input: PresetAmount = ZERO
    price_output: PresetAmount = ZERO
    timeout_s: Seconds = 20
    retries: Annotated[PresetInteger, Field(ge=0, le=5)] = 2
    patience_s: Annotated[PresetInteger, Field(ge=1, le=3_600)] = 30
    requests_per_minute: Annotated[PresetInteger, Field(ge=1, le=10**6)] | None = None
    concurrency: Annotated[PresetInteger, Field(ge=1, le=64)] = 4
    budget_usd: PresetAmount | None = None
    key_env: Annotated[str, Field(pattern=f"^{KEY_ENV}$")] = "OPENAI_API_KEY"
    keep_days: Annotated[PresetInteger, Field(ge=1, le=36_500)] | None = 365
    checkpoints: Literal["all", "latest", "none"] = "latest"
    charts: Literal["none", "path", "thumbnail"] = "path"
    fallback: Annotated[str, Field(pattern=f"^({NAME})?$")] = ""

    @model_validator(mode="after")
    def _without_a_key(self) -> Self:
        for name, value in self:
            if isinstance(value, str) and looks_like_key(value):
                raise ValueError(f"{name} looks like a key: put the key into the variable that key_env names")
        return self


SHAPING = frozenset(
    {
        "provider",
        "model",
        "temperature",
        "seed",
        "vision",
        "max_output_tokens",
        "structured_output",
    }
)
"""Fields that influence answers: presets that differ only in other fields are one variant."""


def preset_values(preset: ModelPreset) -> dict[str, Any]:
    """Return all fields of a preset as JSON values, in order; amounts are text."""
    return preset.model_dump(mode="json")


def preset_text(preset: ModelPreset) -> str:
    """Return the canonical JSON in ASCII: equal presets have equal text."""
    return json.dumps(preset_values(preset), separators=(",", ":"))


def preset_digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def api_key(preset: ModelPreset) -> SecretStr | None:
    """Return the key of a preset from the environment; None if the variable is unset or empty."""
    key = os.environ.get(preset.key_env, "").strip()
    return SecretStr(key) if key else None
