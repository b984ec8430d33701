"""Profile documents: what they may say, in two spellings, and what a run makes of them."""

from __future__ import annotations

import json
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.config import Costs, Exits, Override, RunConfig
from engine.core.errors import BadInput
from engine.core.market import Instrument, Timeframe, instrument_for
from tests.support.documents import blocks
from tests.support.paths import ROOT
from ui.services.profile_fields import Document, OverridePart, Portfolio, Profile, Risk
from ui.services.profile_files import (
    BUILT_IN,
    DEFAULT,
    STRUCTS,
    combine_profiles,
    document_text,
    document_values,
    load_combined_profile,
    parse_document,
    parse_profile_json,
    rates_needed,
    read_profile_file,
    resolve_profile,
)

BTC, EUR = instrument_for("BTC-USD"), instrument_for("EUR-USD")


def parsed(text: str) -> Document:
    return parse_document(parse_profile_json(text, "x.json"), "x.json")


def config_of(text: str, *instruments: Instrument) -> RunConfig:
    document = parsed(text)
    assert isinstance(document, Profile)
    return resolve_profile(document, instruments or (BTC,), Timeframe.H1)


# --- Fields -------------------------------------------------------------------------------------------------------


def test_every_field_of_the_engines_parts_can_be_said_and_has_the_engines_default() -> None:
    for name, struct in STRUCTS.items():
        fields = Profile.model_fields[name].get_default().__class__.model_fields
        assert list(fields) == list(struct.__struct_fields__), name
        ours = {field: info.default for field, info in fields.items()}
        for field in msgspec.structs.fields(struct):
            if field.default is not msgspec.NODEFAULT:
                assert ours[field.name] == field.default, (name, field.name)


def test_every_field_of_a_runs_configuration_comes_from_a_profile_or_from_the_question() -> None:
    asked = {"timeframe", "instruments"}
    assert {*Profile.model_fields, *asked} - {"universe"} == set(RunConfig.__struct_fields__)
    assert {*OverridePart.model_fields, "symbol"} == set(Override.__struct_fields__)
    assert {*Portfolio.model_fields} | {*Risk.model_fields} == {*Profile.model_fields}
    assert not {*Portfolio.model_fields} & {*Risk.model_fields}


def test_each_field_of_a_document_reaches_the_configuration() -> None:
    said: dict[str, Any] = {
        "costs": {"slippage_bps": "1", "commission_bps": "2", "slippage_volume_bps": "3", "slippage_random_bps": "4",
                  "seed": 5, "commission_per_unit": "6", "commission_min": "7", "volume_cap_pct": "8",
                  "latency_bars": 9, "round_to_tick": True},
        "sizing": {"mode": "fixed_quantity", "base_pct": "1", "quantity": "2"},
        "entry": {"order_type": "STOP_LIMIT", "offset_bps": "1", "limit_offset_bps": "2", "time_in_force": "GTD",
                  "valid_bars": 3},
        "exits": {"holding_bars": None, "from_decision": True, "stop_pct": None, "stop_ranges": "1",
                  "risk_reward": "2", "trail_pct": "3", "session_end": True},
        "limits": {"position_pct": "1", "daily_loss_pct": None, "reversal": False, "shorts": False, "reduce": False,
                   "position_quantity_max": "2", "order_value_max": "3", "order_quantity_max": "4",
                   "gross_exposure_pct": "5", "net_exposure_pct": "6", "drawdown_pct": "7", "losses_max": 8,
                   "cool_down_bars": 9, "orders_per_step": 10, "orders_per_hour": 11, "collar_pct": "12",
                   "stale_bars": 13, "symbols": ["BTC-USD"], "trading_from": 14, "trading_to": 15},
        "shorting": {"borrow_pct": "1", "margin_pct": "2", "maintenance_pct": "3"},
    }  # fmt: skip
    config = config_of(json.dumps(said))
    for part, struct in STRUCTS.items():
        assert set(said[part]) == set(struct.__struct_fields__)
        assert json.loads(msgspec.json.encode(getattr(config, part))) == said[part]


def whole_of(document: Document) -> Profile:
    assert isinstance(document, Profile)
    return document


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[]", "not a table"),
        ("{", "not JSON"),
        ('{"cash": 1, "cash": 2}', "cash"),
        ("[" * 100_000, "not JSON"),
        ('{"kind": "total"}', "kind"),
        ('{"kind": "risk", "cash": 1}', "cash: no such field in a risk profile"),
        ('{"kind": "portfolio", "limits": {}}', "limits: no such field in a portfolio profile"),
        ('{"costs": {"slipage_bps": 1}}', "costs.slipage_bps: no such field"),
        ('{"costs": 5}', "costs"),
        ('{"cash": NaN}', "cash"),
        ('{"cash": "nan"}', "cash"),
        ('{"cash": Infinity}', "cash"),
        ('{"cash": -Infinity}', "cash"),
        ('{"cash": 1e400}', "cash"),
        ('{"cash": -0.01}', "cash"),
        ('{"cash": true}', "cash"),
        ('{"cash": null}', "cash"),
        ('{"currency": "usd"}', "currency"),
        ('{"limits": {"position_pct": "inf"}}', "limits.position_pct"),
        ('{"limits": {"losses_max": 0}}', "limits.losses_max"),
        ('{"limits": {"losses_max": true}}', "limits.losses_max"),
        ('{"limits": {"losses_max": 1.5}}', "limits.losses_max"),
        ('{"limits": {"reversal": "yes"}}', "limits.reversal"),
        ('{"limits": {"symbols": ["BTC-USD", "btc"]}}', "limits.symbols.1"),
        ('{"limits": {"trading_from": 60}}', "limits: trading_from and trading_to belong together"),
        ('{"limits": {"trading_hours": "8-20"}}', "limits: trading_hours"),
        ('{"limits": {"trading_hours": "24:00-08:00"}}', "limits: trading_hours"),
        ('{"limits": {"trading_hours": "08:00-24:30"}}', "limits: trading_hours"),
        ('{"limits": {"trading_hours": 8}}', "limits: trading_hours"),
        ('{"limits": {"trading_hours": "08:00-20:00", "trading_to": 1}}', "limits: trading_hours and trading_to"),
        ('{"costs": {"slippage_fraction": 0.01, "slippage_bps": 1}}', "costs: slippage_fraction and slippage_bps"),
        ('{"costs": {"slippage_fraction": "much"}}', "much"),
        ('{"costs": {"slippage_fraction": NaN}}', "costs"),
        ('{"costs": {"slippage_fraction": true}}', "costs: slippage_fraction"),
        ('{"costs": {"slippage_fraction": 1}}', "costs.slippage_bps"),
        ('{"costs": {"slippage_random_bps": 1}}', "costs: slippage_random_bps and seed"),
        ('{"exits": {"stop_pct": 1, "stop_ranges": 1}}', "exits: stop_pct and stop_ranges"),
        ('{"entry": {"order_type": "TRAILING_STOP"}}', "entry: a trailing stop"),
        ('{"entry": {"order_type": "market"}}', "entry.order_type"),
        ('{"sizing": {"mode": "fixed_quantity"}}', "sizing: "),
        ('{"kind": "portfolio", "sizing": {"mode": "fixed_quantity"}}', "sizing: "),
        ('{"universe": ["BTC-USD", "BTC-USD"]}', "universe: a symbol is named twice"),
        ('{"universe": "BTC-USD"}', "universe"),
        ('{"universe": ["bad symbol"]}', "universe.0: symbol 'bad symbol'"),
        ('{"rates": ["EUR-CHF"]}', "rates: EUR-CHF"),
        ('{"session_roll_hour": 24}', "session_roll_hour"),
        ('{"overrides": {"btc": {}}}', "overrides.btc"),
        ('{"universe": ["BTC-USD"], "overrides": {"EUR-USD": {}}}', "overrides: EUR-USD is not in the universe"),
        ('{"overrides": {"BTC-USD": {"limits": {}}}}', "overrides.BTC-USD.limits: no such field"),
        ('{"overrides": {"BTC-USD": {"exits": {"stop_pct": 0}}}}', "overrides.BTC-USD.exits: stop_pct"),
        ('{"exits": {"stop_pct": 1}, "overrides": {"A": {"exits": {"stop_ranges": 1}}}}', "overrides.A.exits: stop"),
        ('{"cash": 0}', "cash is 0 and must be above 0"),
        ('{"kind": "portfolio", "cash": 0}', "cash is 0 and must be above 0"),
        ('{"exits": {"stop_pct": 150}}', "exits.stop_pct is 150 and must be at most 99"),
        ('{"exits": {"trail_pct": 100}}', "exits.trail_pct is 100 and must be at most 99"),
        ('{"limits": {"position_pct": 0}}', "limits.position_pct is 0 and must be above 0"),
        ('{"limits": {"gross_exposure_pct": 0}}', "limits.gross_exposure_pct is 0 and must be above 0"),
        ('{"kind": "risk", "limits": {"order_value_max": 0}}', "limits.order_value_max is 0 and must be above 0"),
        ('{"limits": {"drawdown_pct": 101}}', "limits.drawdown_pct is 101 and must be at most 100"),
        ('{"limits": {"daily_loss_pct": 0}}', "limits.daily_loss_pct is 0 and must be above 0"),
        ('{"sizing": {"base_pct": 900}}', "sizing.base_pct is 900 and must be at most 100"),
        ('{"kind": "portfolio", "sizing": {"base_pct": 0}}', "sizing.base_pct is 0 and must be above 0"),
        ('{"overrides": {"A": {"sizing": {"base_pct": 101}}}}', "overrides.A.sizing.base_pct is 101"),
        ('{"overrides": {"A": {"position_pct": 0}}}', "overrides.A.position_pct is 0 and must be above 0"),
        ('{"overrides": {"A": {"exits": {"stop_pct": 120}}}}', "overrides.A.exits.stop_pct is 120"),
        ('{"universe": ["A", "B"], "limits": {"symbols": ["A", "C"]}}', "limits.symbols: C is not in the universe"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_sentence_with_the_file_and_the_field(
    tmp_path: Path, text: str, field: str
) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(BadInput) as refused:
        read_profile_file(file)
    said = str(refused.value)
    assert said.startswith(f"profile {file}")
    assert field in said
    assert "\n" not in said
    assert len(said) < 400


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for name, said in (("missing.json", "No such file"), ("bytes.json", "no text|not a text"), (".toml", "No such")):
        with pytest.raises(BadInput, match=said):
            read_profile_file(tmp_path / name)


NAMES = [*Profile.model_fields, *(name for struct in STRUCTS.values() for name in struct.__struct_fields__)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.decimals() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*NAMES, "kind", "BTC-USD"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_whatever_a_document_says_it_loads_or_is_refused_in_one_sentence(said: object) -> None:
    refusal = ""
    try:
        document = parse_document(said, "x.json")
    except BadInput as refused:
        refusal = str(refused)
    else:
        assert parsed(document_text(document)) == document
    assert "\n" not in refusal


# --- Two ways to write ---------------------------------------------------------------------------------------------


def test_toml_says_the_same_as_json_and_none_is_null(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        'cash = 123456789012.123456789012\nuniverse = ["BTC-USD"]\npyramid = true\n'
        "[costs]\nslippage_bps = 0.1\n[limits]\nposition_pct = 'none'\nlosses_max = 3\n"
        "[overrides.BTC-USD.exits]\nholding_bars = 'none'\n"
    )
    (tmp_path / "p.json").write_text(
        '{"cash": 123456789012.123456789012, "universe": ["BTC-USD"], "pyramid": true, "costs": {"slippage_bps": 0.1}, '
        '"limits": {"position_pct": null, "losses_max": 3}, '
        '"overrides": {"BTC-USD": {"exits": {"holding_bars": null}}}}'
    )
    one, other = read_profile_file(tmp_path / "p.toml"), read_profile_file(tmp_path / "p.json")
    assert one == other
    assert document_text(one) == document_text(other)
    config = resolve_profile(whole_of(one), [BTC], Timeframe.H1)
    assert (config.cash, config.limits.position_pct) == (Decimal("123456789012.123456789012"), None)
    assert config.exits_of("BTC-USD").holding_bars is None


@given(st.decimals(0, 10**12, places=12))
def test_numbers_are_taken_exactly_as_number_and_as_text_in_both_ways(amount: Decimal) -> None:
    text = f"{amount:f}"
    as_number, as_text = parsed(f'{{"cash": {text}}}'), parsed(f'{{"cash": "{text}"}}')
    as_toml = parse_document(tomllib.loads(f"cash = {text}", parse_float=Decimal), "x.toml")
    assert document_values(as_number) == document_values(as_text) == document_values(as_toml)
    assert Decimal(document_values(as_number)["cash"]) == amount


@pytest.mark.parametrize("text", ["cash = nan", "cash = inf", "cash = -1", "cash =", "cash = 1979-05-27", "a = 1"])
def test_a_broken_toml_file_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(BadInput, match=r"profile .*p\.toml") as refused:
        read_profile_file(tmp_path / "p.toml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("fraction", ['"0.02"', "0.02", '"0.020"'])
def test_slippage_may_be_said_as_a_fraction(fraction: str) -> None:
    assert parsed(f'{{"costs": {{"slippage_fraction": {fraction}}}}}') == parsed('{"costs": {"slippage_bps": 200}}')


@pytest.mark.parametrize(
    ("hours", "first", "last"), [("08:00-20:30", 480, 1230), ("22:00-02:00", 1320, 120), ("08:00-24:00", 480, 0)]
)
def test_trading_hours_are_minutes_of_the_day(hours: str, first: int, last: int) -> None:
    limits = config_of(json.dumps({"limits": {"trading_hours": hours}})).limits
    assert (limits.trading_from, limits.trading_to) == (first, last)


# --- Overrides, universe, rates -----------------------------------------------------------------------------------


def test_an_override_changes_the_fields_it_names_and_no_other() -> None:
    text = json.dumps({
        "costs": {"slippage_bps": 7, "commission_bps": 3},
        "exits": {"holding_bars": 9, "stop_ranges": 2, "risk_reward": 3},
        "limits": {"position_pct": 8},
        "overrides": {
            "EUR-USD": {"position_pct": 20, "exits": {"stop_ranges": None, "stop_pct": 1}},
            "BTC-USD": {"costs": {"slippage_fraction": "0.01"}, "exits": {"holding_bars": None}},
            "ABSENT": {"position_pct": 1},
        },
    })  # fmt: skip
    config = config_of(text, BTC, EUR)
    assert config.costs_of("BTC-USD") == Costs(Decimal(100), Decimal(3))
    assert config.costs_of("EUR-USD") == config.costs
    assert config.exits_of("BTC-USD") == Exits(None, stop_ranges=Decimal(2), risk_reward=Decimal(3))
    assert config.exits_of("EUR-USD") == Exits(9, stop_pct=Decimal(1), risk_reward=Decimal(3))
    assert (config.position_pct_of("BTC-USD"), config.position_pct_of("EUR-USD")) == (Decimal(8), Decimal(20))
    assert [override.symbol for override in config.overrides] == ["BTC-USD", "EUR-USD"]
    assert config_of(document_text(parsed(text)), BTC, EUR) == config


def test_a_portfolios_override_is_merged_over_the_risk_profile_that_joins_it() -> None:
    ours = parsed('{"kind": "portfolio", "overrides": {"BTC-USD": {"costs": {"commission_bps": 1}}}}')
    theirs = parsed('{"kind": "risk", "costs": {"slippage_bps": 33, "commission_bps": 44}}')
    assert isinstance(ours, Portfolio)
    assert isinstance(theirs, Risk)
    config = resolve_profile(combine_profiles(ours, theirs), [BTC], Timeframe.H1)
    assert config.costs_of("BTC-USD") == Costs(Decimal(33), Decimal(1))


def test_halves_that_contradict_each_other_are_refused_when_they_meet() -> None:
    ours = parsed('{"kind": "portfolio", "overrides": {"BTC-USD": {"exits": {"stop_pct": 1}}}}')
    theirs = parsed('{"kind": "risk", "exits": {"stop_ranges": 1}}')
    assert isinstance(ours, Portfolio)
    assert isinstance(theirs, Risk)
    with pytest.raises(BadInput, match=r"the profile cannot be used: overrides\.BTC-USD\.exits: stop_pct and"):
        resolve_profile(combine_profiles(ours, theirs), [BTC], Timeframe.H1)


def test_only_the_rates_that_a_runs_symbols_need_are_taken() -> None:
    profile = whole_of(parsed('{"rates": ["EUR-USD", "CHF-USD"]}'))
    assert rates_needed(profile, [BTC]) == ()
    abroad = [BTC, instrument_for("BTC-EUR")]
    assert rates_needed(profile, abroad) == ("EUR-USD",)
    assert resolve_profile(profile, abroad, Timeframe.H1, [EUR]).rate_symbol("EUR") == "EUR-USD"
    with pytest.raises(BadInput, match="BTC-EUR is quoted in EUR"):
        resolve_profile(profile, abroad, Timeframe.H1)


def test_the_built_in_profiles_are_those_of_the_page() -> None:
    for name, profile in BUILT_IN.items():
        exits = profile.exits
        assert (exits.holding_bars, exits.from_decision) == (4, True), name
        assert (exits.stop_ranges, exits.risk_reward) == (Decimal(2), Decimal("1.5")), name
        assert profile.shorting.maintenance_pct == Decimal(30), name
        assert resolve_profile(profile, [BTC, EUR], Timeframe.H1).cash == Decimal(100_000)
    realistic, classic, cautious = (BUILT_IN[name] for name in ("realistic", "classic", "cautious"))
    assert (realistic.limits.collar_pct, realistic.limits.stale_bars) == (Decimal(10), 3)
    assert (classic.costs.slippage_bps, classic.costs.commission_bps) == (Decimal(200), Decimal(0))
    assert [each.shorting.borrow_pct for each in (realistic, classic, cautious)] == [1, 0, 1]
    limits = cautious.limits
    assert (limits.drawdown_pct, limits.losses_max, limits.orders_per_hour) == (Decimal(15), 4, 10)
    assert (limits.collar_pct, limits.gross_exposure_pct) == (Decimal(5), Decimal(50))
    assert (limits.position_pct, limits.daily_loss_pct, cautious.sizing.base_pct) == (
        Decimal(4),
        Decimal(2),
        Decimal(2),
    )
    assert DEFAULT == "realistic"


def test_an_account_by_hand_takes_a_whole_profile_only(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"kind": "risk"}')
    assert load_combined_profile("classic") is BUILT_IN["classic"]
    with pytest.raises(BadInput, match=r"half\.json is a risk profile"):
        load_combined_profile(str(tmp_path / "half.json"))


# --- The page -----------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs/profiles.md").read_text()


def documented() -> dict[str, str]:
    """The fields of the page's tables and their defaults."""
    return dict(re.findall(r"^\| `([a-z_.]+)` \|[^|]*\| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE))


def test_the_page_lists_every_field_with_its_default() -> None:
    expected: dict[str, str] = {}
    for field, value in document_values(Profile()).items():
        parts: dict[str, Any] = {**value} if isinstance(value, dict) and value else {"": value}
        for part, default in parts.items():
            text = default if isinstance(default, str) else json.dumps(default)
            expected[f"{field}.{part}" if part else field] = text
    del expected["kind"]
    assert documented() == expected


def test_the_pages_examples_are_profiles() -> None:
    examples = [block for block in blocks(PAGE) if block.language in ("toml", "json")]
    read = [
        parse_document(
            tomllib.loads(block.text, parse_float=Decimal)
            if block.language == "toml"
            else parse_profile_json(block.text, "json"),
            block.language,
        )
        for block in examples
    ]
    assert {document.kind for document in read} == {"portfolio", "risk"}
