"""Model presets in the log: every version, which one is the default of what, and never a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.llm.presets import ModelPreset, preset_digest, preset_text
from engine.core.errors import BadInput, NotFound, VersionConflict
from engine.core.events import Environment, ModelActivated, ModelSaved
from engine.data.memory import MemoryCatalogue
from engine.store import Store, read_from
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from projections.queries import Queries
from projections.rebuild import rebuild_read_models
from projections.runner import Runner
from ui.services import models


def preset(**said: Any) -> ModelPreset:
    return models.parse_preset({"model": "a-model", **said}, "as given")


ONE, OTHER = preset(), preset(seed=7)


# --- Versions -----------------------------------------------------------------------------------------------------


def test_every_save_is_a_version_with_digest_and_actor_and_an_equal_one_adds_none(store: Store) -> None:
    models.save_model(store, "gpt", ONE, "ann")
    assert models.save_model(store, "gpt", preset(temperature="0.0"), "bob").number == 1
    assert models.save_model(store, "gpt", OTHER, "bob").number == 2
    assert models.save_model(store, "gpt", ONE, "ann").number == 3
    saved = models.model_versions(store)["gpt"]
    assert [(each.number, each.actor, models.preset_of(each)) for each in saved] == [
        (1, "ann", ONE), (2, "bob", OTHER), (3, "ann", ONE),
    ]  # fmt: skip
    for row in store.read("model:gpt"):
        assert isinstance(row.event, ModelSaved)
        assert row.event.digest == preset_digest(row.event.document)
    assert models.preset_of(models.find_model(store, "gpt@2")) == OTHER
    assert models.find_model(store, "gpt").number == 3


def test_what_cannot_be_saved_or_found_is_refused() -> None:
    store = MemoryStore()
    with pytest.raises(NotFound, match="model 'gpt' does not exist, no model is saved"):
        models.find_model(store, "gpt")
    models.save_model(store, "gpt", ONE, "ann")
    for name, said in (
        ("Mine", "model name 'Mine' is not usable"),
        ("a@1", "not usable"),
        ("x" * 41, "not usable|looks like a key"),
        ("rules", "is the name of an installed analyst"),
        ("momentum", "is the name of an installed analyst"),
    ):
        with pytest.raises(BadInput, match=said):
            models.save_model(store, name, ONE, "ann")
    for name, said in (
        ("nobody", "does not exist; saved models are gpt"),
        ("gpt@2", "gpt has versions 1 to 1"),
        ("gpt@", "gpt has versions 1 to 1"),
        ("", "model '' does not exist"),
    ):
        with pytest.raises(NotFound, match=said):
            models.find_model(store, name)
    assert store.last_position() == 1


def test_two_that_save_at_once_make_two_versions_or_one_of_them_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    models.save_model(store, "gpt", ONE, "ann")
    read_many = store.read_many

    def and_meanwhile(streams: list[str]) -> dict[str, Any]:
        found = read_many(streams)
        monkeypatch.undo()
        models.save_model(store, "gpt", OTHER, "bob")
        return found

    monkeypatch.setattr(store, "read_many", and_meanwhile)
    with pytest.raises(VersionConflict):
        models.save_model(store, "gpt", preset(seed=8), "ann")
    assert [each.actor for each in models.model_versions(store)["gpt"]] == ["ann", "bob"]


# --- Defaults -----------------------------------------------------------------------------------------------------


def test_what_is_given_comes_first_then_the_environments_default_then_the_global_one() -> None:
    store = MemoryStore()
    for name in ("one", "two", "three"):
        models.save_model(store, name, preset(seed=len(name)), "ann")
    with pytest.raises(NotFound, match="no model is given and none is active"):
        models.select_model(store, None, Environment.PAPER)
    models.activate_model(store, "one", "global", "ann")
    models.activate_model(store, "two", "paper", "ann")
    told = {
        each: models.select_model(store, *each)
        for each in [
            (None, None),
            (None, Environment.BACKTEST),
            (None, Environment.PAPER),
            ("three", Environment.PAPER),
        ]
    }
    assert [chosen.name for chosen in told.values()] == ["one", "one", "two", "three"]
    assert [chosen.description for chosen in told.values()] == [
        "model one (active globally)", "model one (active globally)", "model two (active for paper)",
        "model three (given)",
    ]  # fmt: skip
    assert models.deactivate_model(store, "paper", "ann") == "two"
    assert models.select_model(store, None, Environment.PAPER).name == "one"
    assert models.deactivate_model(store, "global", "ann") == "one"
    assert models.active_models(store) == {}
    with pytest.raises(NotFound, match="no model is active for paper"):
        models.deactivate_model(store, "paper", "ann")


def test_saving_another_version_changes_no_default() -> None:
    store = MemoryStore()
    models.save_model(store, "gpt", ONE, "ann")
    models.activate_model(store, "gpt", "backtest", "ann")
    models.save_model(store, "gpt", OTHER, "ann")
    chosen = models.select_model(store, None, Environment.BACKTEST)
    assert (chosen.preset, chosen.description) == (ONE, "model gpt (active for backtest, version 1 of 2)")
    assert (chosen.name, chosen.number) == ("gpt", 1)
    assert models.activate_model(store, "gpt@2", "backtest", "ann").digest == preset_digest(preset_text(OTHER))
    assert models.select_model(store, None, Environment.BACKTEST).preset == OTHER


def test_activating_what_is_active_adds_nothing() -> None:
    store = MemoryStore()
    models.save_model(store, "gpt", ONE, "ann")
    for _ in range(2):
        assert models.activate_model(store, "gpt", "paper", "ann") == ModelActivated(
            "paper", "gpt", preset_digest(preset_text(ONE))
        )
    assert store.last_position() == 2
    with pytest.raises(BadInput, match=r"gpt\.toml is a file"):
        models.activate_model(store, "gpt.toml", "paper", "ann")


# --- Fallbacks ----------------------------------------------------------------------------------------------------


def test_a_preset_is_followed_by_its_fallbacks_in_order() -> None:
    store = MemoryStore()
    models.save_model(store, "small", ONE, "ann")
    models.save_model(store, "middle", preset(fallback="small"), "ann")
    big = preset(fallback="middle", seed=1)
    models.save_model(store, "big", big, "ann")
    chain = models.with_fallbacks(store, "big", big)
    assert [name for name, _ in chain] == ["big", "middle", "small"]
    assert [each.fallback for _, each in chain] == ["middle", "small", ""]


def test_fallbacks_that_go_in_a_circle_or_nowhere_are_not_saved() -> None:
    store = MemoryStore()
    with pytest.raises(NotFound, match="model 'small' does not exist"):
        models.save_model(store, "big", preset(fallback="small"), "ann")
    with pytest.raises(BadInput, match="cannot be its own fallback"):
        models.save_model(store, "big", preset(fallback="big"), "ann")
    models.save_model(store, "small", ONE, "ann")
    models.save_model(store, "big", preset(fallback="small"), "ann")
    with pytest.raises(BadInput, match="the fallbacks of model small form a cycle at small"):
        models.save_model(store, "small", preset(fallback="big"), "ann")
    assert store.last_position() == 2


# --- Documents ----------------------------------------------------------------------------------------------------


def test_a_document_is_json_or_toml_and_its_numbers_are_exact(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"model": "m", "temperature": 0.1, "price_input": 0.15, "seed": null}')
    (tmp_path / "a.toml").write_text('model = "m"\ntemperature = 0.10\nprice_input = 0.15\nseed = "none"')
    ours, theirs = (models.parse_preset(models.read_model_file(tmp_path / f"a.{end}"), "x") for end in ("json", "toml"))
    assert ours == theirs
    assert str(ours.temperature) == "0.1"
    (tmp_path / "dated.toml").write_text('model = "m"\nknowledge_cutoff = 2024-04-30')
    dated = models.parse_preset(models.read_model_file(tmp_path / "dated.toml"), "x")
    assert str(dated.knowledge_cutoff) == "2024-04-30"


def test_settings_name_fields_and_their_values() -> None:
    said = models.parse_settings(["model=a=b", "seed=none", "vision=true", "temperature=0.25", " retries = 3"])
    assert said == {"model": "a=b", "seed": None, "vision": True, "temperature": "0.25", "retries": "3"}
    found = models.parse_preset(said, "x")
    assert (found.model, found.seed, found.vision, str(found.temperature), found.retries) == (
        "a=b",
        None,
        True,
        "0.25",
        3,
    )
    with pytest.raises(BadInput, match="FIELD=VALUE"):
        models.parse_settings(["seed"])


@pytest.mark.parametrize(
    ("said", "fault"),
    [([], "is not a table of fields"), ({}, "model: Field required"),
     ({"model": "m", "modle": 1}, "modle: no such field"),
     ({"model": "m", "retries": 9}, "retries: Input should be less than or equal to 5")],
)  # fmt: skip
def test_the_first_fault_of_a_document_is_told_in_a_sentence(said: object, fault: str) -> None:
    with pytest.raises(BadInput, match=fault) as told:
        models.parse_preset(said, "x.json")
    assert str(told.value).startswith("model x.json")
    assert "\n" not in str(told.value)


# --- Keys ---------------------------------------------------------------------------------------------------------

SECRET = "correct-horse-battery"


@pytest.mark.parametrize("key", [SECRET, "sk-abcdefghijklmnop"])
@pytest.mark.parametrize("place", ["model", "base_url", "key_env", "name", "field"])
def test_a_key_is_saved_nowhere_and_told_to_nobody(key: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    store, name, said = MemoryStore(), "gpt", dict[str, object]()
    if place == "name":
        name = key
    elif place == "field":
        said[key] = 1
    else:
        said[place] = f"https://example.org/{key}" if place == "base_url" else key
    with pytest.raises(BadInput) as told:
        models.save_model(store, name, preset(**said), "ann")
    assert key not in str(told.value)
    with pytest.raises(NotFound) as missing:
        models.find_model(store, key)
    assert key not in str(missing.value)
    assert store.last_position() == 0


def test_a_stored_preset_is_read_whatever_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    models.save_model(store, "gpt", preset(model="a-plain-name"), "ann")
    monkeypatch.setenv("STRANGE_KEY", "a-plain-name")
    assert models.preset_of(models.find_model(store, "gpt")).model == "a-plain-name"


# --- Read tables --------------------------------------------------------------------------------------------------


@pytest.fixture
def log(dsn: str) -> Iterator[tuple[str, PostgresStore]]:
    with PostgresStore(dsn) as opened:
        yield dsn, opened


def test_versions_and_activations_are_rows(log: tuple[str, PostgresStore]) -> None:
    dsn, store = log
    models.save_model(store, "gpt", ONE, "ann")
    models.activate_model(store, "gpt", "paper", "bob")
    Runner(store, MemoryCatalogue(), dsn).catch_up()
    models.save_model(store, "gpt", OTHER, "ann")
    models.deactivate_model(store, "paper", "bob")
    Runner(store, MemoryCatalogue(), dsn).catch_up()
    with Queries(dsn) as queries:
        versions, activations = queries.model_versions("gpt"), queries.model_activations("gpt")
        assert queries.model_versions("nobody") == queries.model_activations("nobody") == []
    assert [(row["version"], row["actor"], row["document"]) for row in versions] == [
        (1, "ann", preset_text(ONE)), (2, "ann", preset_text(OTHER)),
    ]  # fmt: skip
    assert [(row["scope"], row["name"], row["active"], row["actor"]) for row in activations] == [
        ("paper", "gpt", True, "bob"), ("paper", "gpt", False, "bob"),
    ]  # fmt: skip
    assert rebuild_read_models(store, MemoryCatalogue(), dsn).same
    assert len(list(read_from(store))) == 4
