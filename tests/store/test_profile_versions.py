"""Profiles in the log: every version, which one is the default of what, and which one a run takes."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.config import Costs, Exits
from engine.core.errors import BadInput, NotFound, VersionConflict
from engine.core.events import Environment, ProfileActivated, ProfileKind, ProfileSaved
from engine.core.market import Timeframe, instrument_for
from engine.core.upcasters import NAMES, ProfileSavedV1, event_names
from engine.data.memory import MemoryCatalogue
from engine.store import Batch, Cause, Store, read_from
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from projections.queries import Queries
from projections.rebuild import rebuild_read_models
from projections.runner import Runner
from ui.services import profiles
from ui.services.profile_fields import Document, Profile
from ui.services.profile_files import (
    BUILT_IN,
    DEFAULT,
    document_digest,
    document_text,
    parse_document,
    parse_profile_json,
    resolve_profile,
)
from ui.services.profiles import HALVES, ProfileScope
from ui.settings import check_environment, from_environment


def parsed(text: str) -> Document:
    return parse_document(parse_profile_json(text, "x.json"), "x.json")


# --- Versions -----------------------------------------------------------------------------------------------------

MINE = parsed('{"kind": "portfolio", "cash": 50000, "universe": ["BTC-USD"]}')
STRICT = parsed('{"kind": "risk", "limits": {"daily_loss_pct": 1}}')
LOOSE = parsed('{"kind": "risk", "limits": {"daily_loss_pct": null}}')
OWN = parsed('{"cash": 777}')


def test_every_save_is_a_version_with_kind_digest_and_actor_and_an_equal_one_adds_none(store: Store) -> None:
    profiles.save_profile(store, "strict", STRICT, "ann")
    assert profiles.save_profile(store, "strict", STRICT, "bob").number == 1
    assert profiles.save_profile(store, "strict", LOOSE, "bob").number == 2
    assert profiles.save_profile(store, "strict", STRICT, "ann").number == 3
    saved = profiles.profile_versions(store)["strict"]
    assert [(each.number, each.actor) for each in saved] == [(1, "ann"), (2, "bob"), (3, "ann")]
    assert [profiles.document_of(each) for each in saved] == [STRICT, LOOSE, STRICT]
    for row in store.read("profile:strict"):
        assert isinstance(row.event, ProfileSaved)
        assert (row.event.kind, row.event.digest) == ("risk", document_digest(row.event.document))
    assert profiles.find_profile(store, "strict@2") == LOOSE
    assert profiles.find_profile(store, "strict") == STRICT


def test_what_cannot_be_saved_or_found_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    profiles.save_profile(store, "mine", MINE, "ann")
    for name, document, said in (
        ("realistic", OWN, "built in and cannot be changed"),
        ("Mine", OWN, "not usable"),
        ("a+b", OWN, "not usable"),
        ("a@1", OWN, "not usable"),
        ("x" * 41, OWN, "not usable"),
        ("mine", STRICT, "is a portfolio profile, this one is risk"),
    ):
        with pytest.raises(BadInput, match=said):
            profiles.save_profile(store, name, document, "ann")
    for name, said in (
        ("nobody", "choose one of cautious, classic, mine, realistic"),
        ("mine@2", "versions 1 to 1"),
        ("mine@", "versions 1 to 1"),
        ("realistic@1", "no versions: it is built in"),
    ):
        with pytest.raises(NotFound, match=said):
            profiles.find_profile(store, name)
    with pytest.raises(BadInput, match="cannot be read"):
        profiles.find_profile(store, str(tmp_path / "none.toml"))
    assert store.last_position() == 1


def test_two_that_save_at_once_make_two_versions_or_one_of_them_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    profiles.save_profile(store, "strict", STRICT, "ann")
    read_many = store.read_many

    def and_meanwhile(streams: list[str]) -> dict[str, Any]:
        found = read_many(streams)
        monkeypatch.undo()
        profiles.save_profile(store, "strict", LOOSE, "bob")
        return found

    monkeypatch.setattr(store, "read_many", and_meanwhile)
    other = parsed('{"kind": "risk", "limits": {"daily_loss_pct": 3}}')
    with pytest.raises(VersionConflict):
        profiles.save_profile(store, "strict", other, "ann")
    assert [each.actor for each in profiles.profile_versions(store)["strict"]] == ["ann", "bob"]


def test_a_difference_names_every_field_that_differs_and_both_values() -> None:
    one = parsed('{"kind": "risk", "limits": {"daily_loss_pct": 1}, "costs": {"slippage_bps": 5}}')
    other = parsed('{"kind": "risk", "limits": {"trading_hours": "08:00-20:00"}}')
    assert [tuple(change) for change in profiles.changed_fields(one, other)] == [
        ("limits.daily_loss_pct", "1", "5"), ("limits.trading_from", None, 480), ("limits.trading_to", None, 1200),
    ]  # fmt: skip
    assert profiles.changed_fields(one, one) == []
    kinds = {change.field: change for change in profiles.changed_fields(MINE, one)}
    assert tuple(kinds["kind"]) == ("kind", "portfolio", "risk")
    assert (kinds["cash"].one, kinds["cash"].other) == ("50000", "")
    assert (kinds["costs.slippage_bps"].one, kinds["costs.slippage_bps"].other) == ("", "5")


def test_a_document_of_the_first_version_means_what_it_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was stored before there were kinds: every field of then, none of those that came later."""
    document = (
        '{"cash":"100000","currency":"USD","costs":{"slippage_bps":"5","commission_bps":"10"},"sizing":{"mode":'
        '"confidence","base_pct":"5","quantity":null},"limits":{"position_pct":"10","daily_loss_pct":"5","reversal":'
        'true},"exits":{"holding_bars":4,"from_decision":false},"pyramid":false,"session_roll_hour":0,'
        '"periods_per_year":null}'
    )
    store = MemoryStore()
    with monkeypatch.context() as past:
        past.setitem(NAMES, ProfileSavedV1, "ProfileSaved.v1")
        store.append([Batch("profile:old", 0, [ProfileSavedV1("old", document, "0" * 64)])], Cause("tester"))
    assert [row.name for row in store.read("profile:old")] == ["ProfileSaved.v1"]
    found = profiles.find_profile(store, "old")
    # It said when a day begins; today nothing said means the close of the markets.
    assert found == Profile(session_roll_hour=0)
    assert isinstance(found, Profile)
    config = resolve_profile(found, [instrument_for("BTC-USD")], Timeframe.H1)
    assert (config.exits, config.costs) == (Exits(), Costs(Decimal(5), Decimal(10)))
    assert profiles.save_profile(store, "old", found, "tester").number == 1
    changed = found.model_copy(update={"cash": Decimal(1)})
    assert profiles.save_profile(store, "old", changed, "tester").number == 2
    assert [row.name for row in store.read("profile:old")] == ["ProfileSaved.v1", "ProfileSaved.v2"]


# --- Which one a run takes ----------------------------------------------------------------------------------------


@pytest.fixture
def log() -> MemoryStore:
    store = MemoryStore()
    for name, document in (("mine", MINE), ("strict", STRICT), ("own", OWN)):
        profiles.save_profile(store, name, document, "ann")
    return store


BACKTEST, PAPER = Environment.BACKTEST, Environment.PAPER


def told(
    store: Store, environment: Environment, profile: str | None = None, risk_profile: str | None = None
) -> tuple[str, str]:
    chosen = profiles.select_profile(store, profile, risk_profile, environment)
    return chosen.name, chosen.description


def test_the_run_goes_before_the_environment_and_that_before_all(log: MemoryStore) -> None:
    assert told(log, BACKTEST) == ("realistic", "profile realistic (built in)")
    profiles.activate_profile(log, "own", "global", "ann")
    assert told(log, BACKTEST) == ("own", "profile own (active globally)")
    profiles.activate_profile(log, "cautious", "backtest", "ann")
    assert told(log, BACKTEST) == ("cautious", "profile cautious (active for backtest)")
    assert told(log, PAPER) == ("own", "profile own (active globally)")
    assert told(log, BACKTEST, "classic") == ("classic", "profile classic (given)")
    assert profiles.deactivate_profile(log, "backtest", "ann") == ["cautious"]
    assert profiles.deactivate_profile(log, "global", "ann") == ["own"]
    assert told(log, BACKTEST) == ("realistic", "profile realistic (built in)")
    with pytest.raises(NotFound, match="no profile is active globally"):
        profiles.deactivate_profile(log, "global", "ann")


def test_each_half_of_a_run_finds_its_own_profile(log: MemoryStore) -> None:
    profiles.activate_profile(log, "strict", "paper", "ann")
    profiles.activate_profile(log, "mine", "global", "ann")
    said = "profile mine (active globally) with the risk of strict (active for paper)"
    assert told(log, PAPER) == ("mine+strict", said)
    chosen = profiles.select_profile(log, environment=PAPER)
    assert (chosen.profile.cash, chosen.profile.limits.daily_loss_pct) == (Decimal(50_000), Decimal(1))
    assert chosen.profile.universe == ("BTC-USD",)
    assert told(log, BACKTEST)[0] == "mine+realistic"
    assert told(log, PAPER, "own")[0] == "own"
    assert told(log, PAPER, "own", "cautious")[0] == "own+cautious"
    assert told(log, PAPER, None, "own")[0] == "mine+own"
    assert told(log, PAPER, "mine")[0] == "mine+strict"
    # A whole profile takes the place of both halves, and ends with both.
    profiles.activate_profile(log, "own", "paper", "ann")
    assert told(log, PAPER)[0] == "own"
    profiles.activate_profile(log, "strict", "paper", "ann")
    assert told(log, PAPER)[0] == "own+strict"
    assert sorted(profiles.deactivate_profile(log, "paper", "ann")) == ["own", "strict"]
    assert told(log, PAPER)[0] == "mine+realistic"


def test_a_half_in_the_place_of_the_other_is_refused(log: MemoryStore) -> None:
    with pytest.raises(BadInput, match="strict is a risk profile and has no portfolio half"):
        profiles.select_profile(log, "strict", None, BACKTEST)
    with pytest.raises(BadInput, match="mine is a portfolio profile and has no risk half"):
        profiles.select_profile(log, None, "mine", BACKTEST)


def test_a_replay_falls_back_on_no_default(log: MemoryStore) -> None:
    profiles.activate_profile(log, "own", "global", "ann")
    assert profiles.select_profile(log, "cautious").name == "cautious"
    assert profiles.select_profile(log, "mine", "strict").name == "mine+strict"
    with pytest.raises(BadInput, match="the risk half of the profile is missing"):
        profiles.select_profile(log, "mine")
    with pytest.raises(BadInput, match="the portfolio half of the profile is missing"):
        profiles.select_profile(log, None, "strict")


def test_what_is_active_is_the_version_that_was_activated(log: MemoryStore) -> None:
    profiles.activate_profile(log, "own", "global", "ann")
    richer = OWN.model_copy(update={"cash": Decimal(888)})
    profiles.save_profile(log, "own", richer, "ann")
    chosen = profiles.select_profile(log, environment=BACKTEST)
    assert (chosen.profile.cash, chosen.description) == (Decimal(777), "profile own (active globally, version 1 of 2)")
    assert profiles.select_profile(log, "own", environment=BACKTEST).profile.cash == Decimal(888)
    profiles.activate_profile(log, "own", "global", "ann")
    assert profiles.select_profile(log, environment=BACKTEST).profile.cash == Decimal(888)
    profiles.activate_profile(log, "own@1", "global", "ann")
    assert profiles.select_profile(log, environment=BACKTEST).profile.cash == Decimal(777)
    # Saved a third time as it was at first, the latest version is the active one.
    profiles.save_profile(log, "own", OWN, "ann")
    assert profiles.select_profile(log, environment=BACKTEST).description == "profile own (active globally)"


def test_an_activation_is_a_fact_of_its_profile_and_asking_twice_adds_none(log: MemoryStore) -> None:
    before = log.last_position()
    for _ in range(2):
        profiles.activate_profile(log, "strict", "paper", "bob")
        profiles.activate_profile(log, "cautious", "global", "bob")
    added = [(row.stream, row.version, row.event, row.meta.actor) for row in log.read_all(before)]
    assert added == [
        (
            "profile:strict",
            2,
            ProfileActivated("paper", "risk", "strict", document_digest(document_text(STRICT))),
            "bob",
        ),
        (
            "profile:cautious",
            1,
            ProfileActivated("global", "combined", "cautious", document_digest(document_text(BUILT_IN["cautious"]))),
            "bob",
        ),
    ]
    with pytest.raises(BadInput, match="is a file"):
        profiles.activate_profile(log, "mine.toml", "global", "bob")


Act = tuple[ProfileScope, str | None]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(get_args(ProfileScope)), st.none() | st.sampled_from(["mine", "strict", "own", "cautious"])
        ),
        max_size=12,
    )
)
def test_in_force_is_what_a_plain_list_of_what_was_done_says(acts: list[Act]) -> None:
    store = MemoryStore()
    kinds: dict[str, ProfileKind] = {"cautious": "combined"}
    for name, document in (("mine", MINE), ("strict", STRICT), ("own", OWN)):
        kinds[name] = profiles.save_profile(store, name, document, "ann").saved.kind
    plain: dict[tuple[str, str], str] = {}
    for scope, name in acts:
        if name is not None:
            profiles.activate_profile(store, name, scope, "ann")
            plain |= {(scope, half): name for half in HALVES[kinds[name]]}
        elif any(key[0] == scope for key in plain):
            profiles.deactivate_profile(store, scope, "ann")
            plain = {key: name for key, name in plain.items() if key[0] != scope}
    assert {key: default.name for key, default in profiles.active_profiles(store).items()} == plain
    for environment in (BACKTEST, PAPER):
        ours, theirs = (
            plain.get((environment.value, half)) or plain.get(("global", half)) or DEFAULT
            for half in ("portfolio", "risk")
        )
        assert profiles.select_profile(store, environment=environment).name == (
            ours if ours == theirs else f"{ours}+{theirs}"
        )


# --- Environments -------------------------------------------------------------------------------------------------


def test_nothing_starts_in_prod(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("backtest", "paper"):
        monkeypatch.setenv("QUANTAGENT_ENVIRONMENT", name)
        from_environment()
    for name, said in (("prod", "no real broker"), ("live", "'live' is unknown")):
        monkeypatch.setenv("QUANTAGENT_ENVIRONMENT", name)
        with pytest.raises(BadInput, match=said):
            from_environment()
        with pytest.raises(BadInput, match=said):
            check_environment(name)


# --- The read tables ----------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(dsn: str) -> Iterator[PostgresStore]:
    with PostgresStore(dsn) as opened:
        yield opened


def test_the_tables_tell_every_version_and_activation(postgres: PostgresStore, dsn: str) -> None:
    profiles.save_profile(postgres, "strict", STRICT, "ann")
    profiles.activate_profile(postgres, "strict", "paper", "bob")
    Runner(postgres, MemoryCatalogue(), dsn).catch_up()
    # Between two catch-ups nothing is remembered, and an activation is no version.
    profiles.save_profile(postgres, "strict", LOOSE, "cat")
    profiles.activate_profile(postgres, "cautious", "global", "bob")
    profiles.deactivate_profile(postgres, "paper", "dan")
    Runner(postgres, MemoryCatalogue(), dsn).catch_up()
    with Queries(dsn) as queries:
        saved = queries.profile_versions("strict")
        defaults = queries.profile_activations("strict")
        assert queries.profile_versions("cautious") == []
        assert [row["scope"] for row in queries.profile_activations("cautious")] == ["global"]
    assert [(row["version"], row["kind"], row["actor"], row["document"]) for row in saved] == [
        (1, "risk", "ann", document_text(STRICT)), (2, "risk", "cat", document_text(LOOSE)),
    ]  # fmt: skip
    assert [row["digest"] for row in saved] == [document_digest(document_text(each)) for each in (STRICT, LOOSE)]
    assert [(row["scope"], row["kind"], row["active"], row["actor"]) for row in defaults] == [
        ("paper", "risk", True, "bob"), ("paper", "risk", False, "dan"),
    ]  # fmt: skip
    recorded = [row.meta.recorded_at for row in read_from(postgres, event_names([ProfileSaved]))]
    assert [row["saved_at"] for row in saved] == recorded
    assert rebuild_read_models(postgres, MemoryCatalogue(), dsn).same
