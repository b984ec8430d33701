"""What a model preset may say, in one spelling, and that no key is ever part of it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from analysis.llm.presets import (
    SHAPING,
    ModelPreset,
    api_key,
    holds_secret,
    looks_like_key,
    preset_digest,
    preset_text,
    preset_values,
)
from engine.core.money import exact, is_exact, mul


def preset(**said: Any) -> ModelPreset:
    return ModelPreset.model_validate({"model": "a-model", **said})


def fault(**said: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        preset(**said)
    return str(refused.value)


# --- Fields -------------------------------------------------------------------------------------------------------


def test_a_name_is_enough_and_everything_else_has_a_default() -> None:
    assert preset_values(preset()) == {
        "provider": "openai", "base_url": "https://api.openai.com/v1", "model": "a-model", "temperature": "0",
        "seed": None, "vision": False, "max_output_tokens": 1000, "structured_output": "json_schema",
        "knowledge_cutoff": None, "price_input": "0", "price_output": "0", "timeout_s": 20, "retries": 2,
        "patience_s": 30, "requests_per_minute": None, "concurrency": 4, "budget_usd": None,
        "key_env": "OPENAI_API_KEY", "keep_days": 365, "checkpoints": "latest", "charts": "path", "fallback": "",
    }  # fmt: skip
    assert set(ModelPreset.model_fields) >= SHAPING


@pytest.mark.parametrize(
    ("field", "value"),
    [("provider", "else"), ("model", ""), ("model", "x" * 201), ("model", "a\nb"), ("model", " a"), ("vision", 1),
     ("temperature", "2.1"), ("temperature", True), ("temperature", "-0.1"), ("seed", True), ("seed", 2**63),
     ("max_output_tokens", 15), ("max_output_tokens", 100_001), ("structured_output", "xml"), ("knowledge_cutoff", 5),
     ("knowledge_cutoff", "2024-13-01"), ("knowledge_cutoff", "20240101"), ("price_output", "NaN"), ("vision", "yes"),
     ("price_input", "-1"), ("price_input", "0.0000001"), ("timeout_s", 0), ("timeout_s", 601), ("retries", 6),
     ("retries", -1),
     ("patience_s", 3601), ("requests_per_minute", 0), ("concurrency", 65), ("budget_usd", "-0.01"),
     ("key_env", "lower_key"), ("key_env", "A_PASSWORD"), ("key_env", "OPENAI_API_KEY\n"), ("checkpoints", "some"),
     ("charts", "all"), ("fallback", "Not Usable"), ("api_key", "x")],
)  # fmt: skip
def test_a_value_out_of_bounds_is_refused_by_its_field(field: str, value: object) -> None:
    assert fault(**{field: value}).splitlines()[1] == field


def test_a_preset_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        preset().seed = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [("https://example.org/v1/", "https://example.org/v1"), ("http://localhost:8000/v1", "http://localhost:8000/v1"),
     ("http://127.9.9.9:1", "http://127.9.9.9:1"), ("http://[::1]:8000", "http://[::1]:8000"),
     ("https://gateway.example.com/v1/0123456789abcdef0123456789abcdef/mine/openai",
      "https://gateway.example.com/v1/0123456789abcdef0123456789abcdef/mine/openai")],
)  # fmt: skip
def test_an_address_is_https_or_on_this_machine(given_url: str, kept: str) -> None:
    assert preset(base_url=given_url).base_url == kept


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://example.org", "unencrypted"), ("http://127.0.0.1.example.org", "unencrypted"),
     ("http://localhost.example.org", "unencrypted"), ("http://0.0.0.0:8000", "unencrypted"),
     ("https://user:word@example.org", "no user"), ("https://word@example.org", "no user"),
     ("https://example.org/v1?x=1", "no query"), ("https://example.org/v1?", "no query"),
     ("https://example.org/v1#x", "no query"), ("ftp://example.org", "no address"), ("example.org", "no address"),
     ("https://", "no address"), ("https://exa mple.org", "no address"), ("https://example.org:port", "no address"),
     ("https://exämple.org", "no address"), ("file:///etc/passwd", "no address"), ("https://[::1", "no address")],
)  # fmt: skip
def test_any_other_address_is_refused(url: str, said: str) -> None:
    assert said in fault(base_url=url)


# --- One spelling -------------------------------------------------------------------------------------------------


def test_equal_presets_have_equal_text_and_digest() -> None:
    ours = preset(temperature="0.10", price_input="2.50", knowledge_cutoff="2023-10-01", base_url="https://a.org/")
    theirs = preset(
        base_url="https://a.org", knowledge_cutoff=date(2023, 10, 1), price_input=Decimal("2.5"), temperature="0.1"
    )
    assert preset_text(ours) == preset_text(theirs)
    assert (
        preset_digest(preset_text(ours)) == preset_digest(preset_text(theirs)) != preset_digest(preset_text(preset()))
    )


PRICES = st.decimals(0, 10**6, places=6)


@given(
    st.builds(
        preset,
        temperature=st.none() | st.decimals(0, 2, places=3),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        vision=st.booleans(),
        knowledge_cutoff=st.none() | st.dates(),
        price_input=PRICES,
        budget_usd=st.none() | PRICES,
        structured_output=st.sampled_from(["json_schema", "tool", "prompt"]),
        fallback=st.sampled_from(["", "other", "a_b-1"]),
    )
)
def test_a_preset_comes_back_from_its_text(saved: ModelPreset) -> None:
    text = preset_text(saved)
    assert ModelPreset.model_validate_json(text) == saved
    assert preset_text(ModelPreset.model_validate_json(text)) == text


@given(PRICES, st.integers(0, 10**9))
def test_no_part_of_a_cost_is_rounded_away(price: Decimal, tokens: int) -> None:
    """A price has six decimals at most, so that a single token's has no more than an exact amount."""
    per_token = exact(preset(price_input=price).price_input) / 10**6
    assert is_exact(exact(per_token))
    assert mul(exact(per_token), exact(tokens)) * 10**6 == price * tokens


# --- Keys ---------------------------------------------------------------------------------------------------------

KEYS = [
    "sk-abcdefghijklmnop", "sk-proj-Ab12Cd34Ef56Gh78", "SK-ABCDEFGHIJKLMNOP", "gsk_0123456789abcdef",
    "hf_abcdefghijklmn", "AIzaSyA0123456789abcdef",
    "xai-0123456789abcdef", "Qm9vYmFyQm9vYmFyQm9vYmFyQm9vYmFy", "0123456789abcdef" * 4,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("field", ["model", "base_url", "key_env", "fallback"])
def test_what_looks_like_a_key_is_refused_in_any_field_and_not_repeated(key: str, field: str) -> None:
    said = fault(**{field: f"https://example.org/{key}" if field == "base_url" else key})
    assert key not in said


@pytest.mark.parametrize("url", ["https://{}@example.org", "https://a:{}@example.org", "https://example.org?key={}",
                                 "https://example.org:{}", "https://{}", "http://example.org/{}"])  # fmt: skip
def test_no_error_of_an_address_repeats_it(url: str) -> None:
    key = "sk-abcdefghijklmnop"
    assert key not in fault(base_url=url.format(key))


@pytest.mark.parametrize(
    "name",
    ["gpt-4o-mini-2024-07-18", "accounts/fireworks/models/llama-v3p1-405b-instruct", "o3", "claude-sonnet-4-5-20250929",
     "meta-llama/Llama-3.3-70B-Instruct-Turbo", "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "qwen2.5vl:7b"],
)  # fmt: skip
def test_names_of_models_are_no_keys(name: str) -> None:
    assert preset(model=name).model == name


def test_a_key_is_read_from_the_variable_that_the_preset_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = preset(key_env="MY_OWN_TOKEN")
    monkeypatch.delenv("MY_OWN_TOKEN", raising=False)
    assert api_key(asked) is None
    monkeypatch.setenv("MY_OWN_TOKEN", "  ")
    assert api_key(asked) is None
    monkeypatch.setenv("MY_OWN_TOKEN", " not-a-shape-of-keys \n")
    key = api_key(asked)
    assert isinstance(key, SecretStr)
    assert key.get_secret_value() == "not-a-shape-of-keys"
    assert "not-a" not in f"{key!r} {key} {asked!r} {preset_text(asked)}"


def test_a_secret_of_the_environment_is_found_whatever_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    word = "correct horse"
    assert not holds_secret(f"a {word} b")
    for name in ("X_KEY", "X_TOKEN", "X_SECRET", "DB_PASSWORD"):
        with monkeypatch.context() as patch:
            patch.setenv(name, word)
            assert holds_secret(f"a {word} b")
    monkeypatch.setenv("SHORT_KEY", "a")
    monkeypatch.setenv("KEYBOARD", word)
    assert not holds_secret(f"a {word} b")
    assert not looks_like_key(word)
