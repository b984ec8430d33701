"""Own strategies: what one may say, what it is given, how it is found, and that its opinions are stored once."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal, localcontext
from importlib import invalidate_caches
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import variants
from analysis.analyst import AnalysisSet, LiveAnalyst, ensure_analyses
from analysis.baselines import AlwaysLong, Crossover, Momentum
from analysis.conformance import check_conformance
from analysis.strategy import Decision, Strategy
from analysis.variants import BUILT_IN, GROUP, StrategyFailed, StrategyVariant, Variant
from engine.core.errors import BadInput
from engine.core.events import AnalysisMade, OrderTerms
from engine.core.market import Bar, Direction, OrderType, Timeframe
from engine.core.money import is_exact
from engine.core.upcasters import event_names
from engine.data.memory import MemoryCatalogue
from engine.store import read_from
from engine.store.memory import MemoryStore
from tests.support.documents import blocks
from tests.support.paths import ROOT
from tests.support.workloads import moving_average_state, walk

LATER = datetime(2030, 1, 1, tzinfo=UTC)
H1 = Timeframe.H1
BARS = walk("AAA", 7, 120, 100.0, 0.01)
PAGE = ROOT / "docs" / "own-strategies.md"


def catalogue_of(bars: Sequence[Bar] = BARS) -> MemoryCatalogue:
    catalogue = MemoryCatalogue()
    catalogue.add("AAA", H1, bars, source="test", learned_at=LATER)
    return catalogue


def asked(variant: Variant, store: MemoryStore, start: datetime | None = None) -> AnalysisSet:
    return ensure_analyses(store, catalogue_of(), ["AAA"], H1, start, None, actor="test", variant=variant)


def stored(store: MemoryStore) -> list[AnalysisMade]:
    return [row.event for row in read_from(store, event_names([AnalysisMade])) if isinstance(row.event, AnalysisMade)]


class Deciding:
    """A strategy around a function, which keeps the windows it was asked about."""

    variant, version = "deciding", "1"

    def __init__(self, bars: int, decide: Callable[[Sequence[Bar]], Any] = lambda bars: Decision("LONG")) -> None:
        self.bars, self._decide = bars, decide
        self.windows: list[Sequence[Bar]] = []

    def decide(self, bars: Sequence[Bar]) -> Decision:
        self.windows.append(bars)
        return self._decide(bars)


def own(strategy: Strategy) -> StrategyVariant:
    return StrategyVariant(strategy, f"{strategy.variant}@{strategy.version}")


# --- What it may say ----------------------------------------------------------------------------------------------


def test_what_is_left_out_has_its_usual_value() -> None:
    said = Decision("LONG")
    assert (said.direction, said.confidence, said.reason, said.stop) == (Direction.LONG, Decimal(1), "", None)
    assert Decision("HOLD").confidence == 0


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "direction": ({"direction": "UP"}, "direction 'UP' is none of LONG, SHORT, FLAT, HOLD"),
    "above one": ({"confidence": "1.0001"}, "confidence 1.0001 is outside 0 to 1"),
    "below zero": ({"confidence": "-0.1"}, "confidence -0.1 is outside 0 to 1"),
    "a float": ({"confidence": 0.5}, "confidence is a float: use a Decimal, a whole number or text"),
    "not a number": ({"confidence": Decimal("NaN")}, "confidence: NaN is not a finite number"),
    "no number": ({"stop": "cheap"}, "stop: 'cheap' is not a decimal number"),
    "infinite": ({"target": Decimal("Infinity")}, "target: Infinity is not a finite number"),
    "a price of nothing": ({"stop": 0}, "stop 0 is not above 0"),
    "a horizon of nothing": ({"horizon_bars": 0}, "horizon_bars 0 is outside 1 to 10000"),
    "two lines": ({"reason": "one\ntwo"}, "reason is not one line of at most 500 printable characters"),
    "a long reason": ({"reason": "x" * 501}, "reason is not one line of at most 500 printable characters"),
    "a long upside down": ({"stop": 5, "target": 5}, "stop 5 and target 5 are on the wrong sides for LONG"),
    "a short upside down": (
        {"direction": "SHORT", "stop": 4, "target": 5},
        "stop 4 and target 5 are on the wrong sides for SHORT",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_meant_is_refused_in_one_sentence(name: str) -> None:
    given_, sentence = UNUSABLE[name]
    arguments: dict[str, Any] = {"direction": "LONG", **given_}
    with pytest.raises(ValueError) as caught:
        Decision(**arguments)
    assert str(caught.value) == sentence


prices = st.none() | st.decimals("0.0001", 10**9, allow_nan=False, places=6)


@given(
    direction=st.sampled_from(list(Direction)),
    confidence=st.decimals(0, 1, allow_nan=False) | st.sampled_from([0, 1, "0.25", "1.000"]),
    stop=prices,
    reward=prices,
    horizon=st.none() | st.integers(1, 10_000),
    reason=st.text(max_size=60).filter(str.isprintable),
)
def test_whatever_is_accepted_is_exact_and_comes_back_from_the_log_as_it_was_said(
    direction: Direction, confidence: Any, stop: Any, reward: Any, horizon: int | None, reason: str
) -> None:
    said = Decision(direction, confidence, reason=reason, horizon_bars=horizon, stop=stop, risk_reward=reward)
    store = MemoryStore()
    bars = BARS[:1]
    variant = own(Deciding(1, lambda _: said))
    ensure_analyses(store, catalogue_of(bars), ["AAA"], H1, None, None, actor="test", variant=variant)
    (fact,) = stored(store)
    assert (fact.decision, fact.confidence, fact.stop, fact.risk_reward, fact.horizon_bars) == (
        said.direction, said.confidence, said.stop, said.risk_reward, said.horizon_bars,
    )  # fmt: skip
    assert all(is_exact(amount) for amount in (fact.confidence, fact.stop, fact.risk_reward) if amount is not None)
    assert json.loads(fact.reports) == {"decision": {"reasons": [reason] if reason else []}}


def test_the_terms_of_an_order_are_stored_with_the_opinion() -> None:
    terms = OrderTerms(OrderType.LIMIT, limit_price=Decimal("99.5"))
    store = MemoryStore()
    formed = asked(own(Deciding(1, lambda _: Decision("LONG", entry=terms, stop=90, target="120.5"))), store)
    assert stored(store)[0].entry == terms
    wish = formed.intent(BARS[0])
    assert (wish.entry, wish.stop, wish.target) == (terms, Decimal(90), Decimal("120.5"))


# --- What it is given ---------------------------------------------------------------------------------------------


def test_every_window_has_exactly_the_bars_asked_for_and_ends_with_the_bar_just_closed() -> None:
    strategy = Deciding(7)
    asked(own(strategy), MemoryStore())
    assert strategy.windows == [tuple(BARS[n - 6 : n + 1]) for n in range(6, len(BARS))]


def test_a_window_reaches_back_before_the_start_of_the_run() -> None:
    strategy = Deciding(50)
    formed = asked(own(strategy), MemoryStore(), BARS[60].opened_at)
    assert strategy.windows == [tuple(BARS[n - 49 : n + 1]) for n in range(60, len(BARS))]
    assert formed.notices == []


def test_a_strategy_with_too_few_bars_is_not_asked_says_hold_and_why_and_the_person_is_told() -> None:
    strategy, store = Deciding(100), MemoryStore()
    formed = asked(own(strategy), store)
    assert len(strategy.windows) == len(BARS) - 99
    assert [formed.intent(bar).direction for bar in BARS[:99]] == [Direction.HOLD] * 99
    assert json.loads(stored(store)[5].reports) == {"decision": {"reasons": ["warm-up: 6 of 100 bars"]}}
    assert formed.notices == ["the first 99 bars of AAA are warm-up: deciding@1 returns HOLD until it has 100 bars."]
    never = asked(own(Deciding(121)), MemoryStore())
    assert never.notices == [
        "all 120 bars of AAA are warm-up: deciding@1 returns HOLD until it has 121 bars. Import earlier bars, or "
        "choose a later range."
    ]


def test_a_daemon_says_how_many_bars_are_still_to_come() -> None:
    heard: list[str] = []
    variant = own(Deciding(100))
    LiveAnalyst(MemoryStore(), catalogue_of(), ["AAA"], H1, BARS[60].opened_at, "test", variant, heard.append)
    assert heard == ["the first 39 bars of AAA are warm-up: deciding@1 returns HOLD until it has 100 bars."]


def test_the_decimal_context_of_the_thread_changes_no_opinion() -> None:
    def third(bars: Sequence[Bar]) -> Decision:
        return Decision("LONG", (bars[0].close / bars[-1].close / 3).min(Decimal(1)))

    calm, hostile = MemoryStore(), MemoryStore()
    asked(own(Deciding(3, third)), calm)
    with localcontext() as context:
        context.prec, context.rounding = 3, ROUND_UP
        asked(own(Deciding(3, third)), hostile)
    assert stored(hostile) == stored(calm)


# --- Stored once --------------------------------------------------------------------------------------------------


def test_an_opinion_is_made_once_and_found_by_every_later_run() -> None:
    store = MemoryStore()
    first = asked(own(Deciding(5)), store)
    assert (first.made, first.already_stored) == (len(BARS), 0)
    strategy = Deciding(5)
    again = asked(own(strategy), store)
    assert (again.made, again.already_stored) == (0, len(BARS))
    # One of them was tried again, to see whether the strategy still says so.
    assert len(strategy.windows) == 1
    assert len(stored(store)) == len({fact.analysis_id for fact in stored(store)}) == len(BARS)
    fact = stored(store)[50]
    assert (fact.variant, fact.agent_version, fact.window_bars) == ("deciding@1", "1", 5)
    assert fact.analysis_id == f"AAA.1h@20240103T030000Z.deciding@1.{fact.window_digest[:16]}"


def test_a_live_analyst_finds_what_a_backtest_stored_and_the_other_way_round() -> None:
    store = MemoryStore()
    asked(own(Momentum()), store)
    live = LiveAnalyst(store, catalogue_of(), ["AAA"], H1, BARS[40].opened_at, "test", own(Momentum()))
    wishes = [live.intent(bar) for bar in BARS[40:]]
    assert live.made == 0
    assert [wish.analysis_id for wish in wishes] == [fact.analysis_id for fact in stored(store)[40:]]


def test_a_strategy_that_was_changed_and_kept_its_version_is_refused() -> None:
    store = MemoryStore()
    asked(own(Deciding(5)), store)
    with pytest.raises(
        BadInput, match=r"deciding@1 stored LONG 1 on AAA .* now returns SHORT 1, .* new version"
    ) as error:
        asked(own(Deciding(5, lambda _: Decision("SHORT"))), store)
    assert error.value.code == "STRATEGY_CHANGED"


def test_an_error_names_variant_symbol_bar_and_line_and_what_was_stored_is_kept() -> None:
    def fails(bars: Sequence[Bar]) -> Decision:
        if bars[-1] == BARS[100]:
            raise KeyError("no such level")
        return Decision("LONG")

    store = MemoryStore()
    asked(own(Deciding(5)), store, BARS[110].opened_at)
    with pytest.raises(StrategyFailed) as caught:
        asked(own(Deciding(5, fails)), store)
    assert "variant deciding@1 failed on AAA at 20240105T050000Z: KeyError: 'no such level' (test_strategies.py, " in (
        str(caught.value)
    )
    assert len(stored(store)) == 10
    with pytest.raises(StrategyFailed, match="it returned NoneType, not a Decision"):
        asked(own(Deciding(5, lambda _: None)), MemoryStore())


# --- From a file --------------------------------------------------------------------------------------------------

SOURCE = dedent(
    """
    from __future__ import annotations
    from dataclasses import dataclass
    from quantagent import Decision

    @dataclass(frozen=True)
    class Steady:
        direction: str = "LONG"
        variant = "steady"
        version = "1"
        bars = 2

        def decide(self, bars):
            return Decision(self.direction)

    short = Steady("SHORT")
    nothing = 5
    """
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_file_is_a_variant_named_by_what_it_holds(file: Path) -> None:
    name = variants.find_variant(f"{file}:Steady").name
    assert name == variants.find_variant(f"{file}:Steady").name
    assert name.startswith("steady@")
    assert len(name) == len("steady@") + 12
    # The same length, in the same second: bytecode beside the file could not tell.
    file.write_text(SOURCE.replace("LONG", "FLAT"))
    other = variants.find_variant(f"{file}:Steady")
    assert other.name != name
    assert asked(other, MemoryStore()).intent(BARS[9]).direction is Direction.FLAT
    assert not list(file.parent.glob("__pycache__"))


def test_instances_of_one_file_are_variants_of_their_own(file: Path) -> None:
    long, short = variants.find_variant(f"{file}:Steady"), variants.find_variant(f"{file}:short")
    assert long.name != short.name
    store = MemoryStore()
    assert asked(long, store).intent(BARS[9]).direction is Direction.LONG
    assert asked(short, store).intent(BARS[9]).direction is Direction.SHORT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{file}", "may hold several strategies: name one as .*mine.py:CLASS"),
        ("{file}:Absent", "mine.py has no 'Absent'"),
        ("{file}:nothing", r"nothing in .*mine.py is no strategy: `variant` must be a unique name .*, not None"),
        ("{folder}/yours.py:Steady", "file .*yours.py does not exist"),
        ("steadier", "variant 'steadier' is unknown; the known ones are always_long, .*, rules; .*FILE.py:CLASS"),
        ("momentum@7", "installed in version 1, not 7: use momentum"),
    ],
)
def test_what_is_not_there_is_named_with_its_remedy(text: str, says: str, file: Path) -> None:
    with pytest.raises(BadInput, match=says):
        variants.find_variant(text.format(file=file, folder=file.parent))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('variant = "steady"', 'variant = "Steady!"'), "`variant` must be a unique name"),
        (('variant = "steady"', 'variant = "rules"'), "`variant` must be a unique name"),
        (('version = "1"', "version = 1"), "`version` must be text like '1' or '1.2', not 1"),
        (("bars = 2", "bars = 0"), "`bars` must be the number of bars it needs, 1 to 5,000, not 0"),
        (("def decide", "def wish"), r"it has no method `decide\(bars\)`"),
        (('direction: str = "LONG"', "direction: str"), "cannot be created without arguments: TypeError"),
        (("bars = 2", "bars = 2 +"), r"mine.py cannot be loaded: SyntaxError: .* \(mine.py, line 11\)\. "),
        (("nothing = 5", "nothing = 5 / 0"), r"ZeroDivisionError: division by zero \(mine.py, line 17\)"),
        (("import Decision", "import Decison"), r"ImportError: cannot import name 'Decison'.*\(mine.py, line 4\)"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(change: tuple[str, str], says: str, file: Path) -> None:
    file.write_text(SOURCE.replace(*change))
    with pytest.raises(BadInput, match=says):
        variants.find_variant(f"{file}:Steady")


# --- From a package -----------------------------------------------------------------------------------------------


def install(folder: Path, package: str, entries: dict[str, str], source: str = SOURCE) -> None:
    """A package with a module of its own name, as an installer leaves it."""
    (folder / f"{package}.py").write_text(source)
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    invalidate_caches()
    return tmp_path


def test_an_installed_strategy_is_found_by_its_name(site: Path) -> None:
    install(site, "acme_one", {"steady": "acme_one:Steady"})
    assert "steady" in variants.variant_names()
    assert variants.find_variant("steady").name == variants.find_variant("steady@1").name == "steady@1"
    assert asked(variants.find_variant("steady"), MemoryStore()).intent(BARS[9]).direction is Direction.LONG


def test_a_broken_package_is_named_and_only_when_it_is_asked_for(site: Path) -> None:
    install(site, "acme_two", {"broken": "acme_two:Steady"}, "import a_package_that_nobody_has\n")
    assert "broken" in variants.variant_names()
    assert variants.find_variant("momentum").name == "momentum@1"
    assert "acme_two" not in sys.modules
    with pytest.raises(BadInput) as caught:
        variants.find_variant("broken")
    assert str(caught.value) == (
        "variant 'broken' of package acme_two (acme_two:Steady) cannot be loaded: ModuleNotFoundError: No module named "
        "'a_package_that_nobody_has' (acme_two.py, line 1). Repair or reinstall that package."
    )


def test_a_name_that_two_packages_offer_is_refused(site: Path) -> None:
    install(site, "acme_three", {"steady": "acme_three:Steady", "momentum": "acme_three:Steady"})
    install(site, "acme_four", {"steady": "acme_four:Steady"})
    with pytest.raises(BadInput, match=r"'steady' is offered by .*acme_.* and acme_.*: uninstall all but one"):
        variants.find_variant("steady")
    with pytest.raises(BadInput, match="'momentum' is offered by acme_three and quantagent"):
        variants.find_variant("momentum")


def test_an_entry_point_and_its_class_have_one_name(site: Path) -> None:
    install(site, "acme_five", {"stable": "acme_five:Steady"})
    with pytest.raises(BadInput, match="is named 'steady': entry point and class need the same name"):
        variants.find_variant("stable")


def test_the_built_in_ones_are_registered_as_anybodys_own(site: Path) -> None:
    # As it is found once this project is installed.
    install(site, "acme_six", {entry.name: entry.value for entry in BUILT_IN})
    assert [variants.find_variant(entry.name).name for entry in BUILT_IN] == [
        "always_long@1",
        "crossover@1",
        "momentum@1",
    ]
    with (ROOT / "pyproject.toml").open("rb") as project:
        registered = tomllib.load(project)["project"]["entry-points"][GROUP]
    assert registered == {entry.name: entry.value for entry in BUILT_IN}
    strategies: list[Strategy] = [AlwaysLong(), Crossover(), Momentum()]
    assert [strategy.variant for strategy in strategies] == list(registered)


# --- The built-in ones, and the page's ----------------------------------------------------------------------------


def test_crossover_is_the_moving_average_state_of_the_golden_workloads() -> None:
    formed = asked(variants.find_variant("crossover"), MemoryStore())
    state = moving_average_state(BARS)
    assert [formed.intent(bar).direction for bar, _ in state] == [direction for _, direction in state]
    assert {direction for _, direction in state} == {Direction.LONG, Direction.FLAT}


def test_momentum_compares_with_ten_bars_before_and_an_unchanged_close_counts_as_lower() -> None:
    formed = asked(variants.find_variant("momentum"), MemoryStore())
    for n in range(10, len(BARS)):
        rises = BARS[n].close > BARS[n - 10].close
        assert formed.intent(BARS[n]).direction is (Direction.LONG if rises else Direction.SHORT)
    assert Momentum().decide([BARS[0]] * 11).direction is Direction.SHORT


def test_rules_says_the_same_on_each_window_alone() -> None:
    bars = walk("AAA", 3, 620, 100.0, 0.01)
    ends = [610, 505, 300, 499, 500]
    together = list(variants.RULES.analyse(bars, ends))
    alone = [next(variants.RULES.analyse(w := bars[max(0, end - 499) : end + 1], [len(w) - 1])) for end in ends]
    assert together == alone
    assert len({formed.reports for formed in together}) == len(ends)
    assert list(variants.RULES.analyse(bars, [])) == []


def test_always_long_is_always_long() -> None:
    formed = asked(variants.find_variant("always_long"), MemoryStore())
    assert {formed.intent(bar).direction for bar in BARS} == {Direction.LONG}


def test_the_example_of_the_page_has_twenty_lines_and_keeps_the_contract(tmp_path: Path) -> None:
    (example,) = (block for block in blocks(PAGE.read_text()) if block.before == "<!-- file: breakout.py -->")
    assert len(example.text.splitlines()) <= 20
    file = tmp_path / "breakout.py"
    file.write_text(example.text)
    bars = walk("AAA", 3, 400, 100.0, 0.01)
    assert check_conformance(f"{file}:Breakout", bars) == []
    variant = variants.find_variant(f"{file}:Breakout")
    said = {formed.decision.direction for formed in variant.analyse(bars, range(20, 400))}
    assert said == {Direction.LONG, Direction.FLAT, Direction.HOLD}


def test_the_page_names_every_check_and_every_field() -> None:
    from analysis.conformance import CHECKS, RETURNS_DECISION
    from ui.services.lookahead import BOOK

    page = PAGE.read_text()
    assert [name for name in (RETURNS_DECISION, *CHECKS, BOOK) if f"| `{name}` |" not in page] == []
    assert [name for name in Decision.__dataclass_fields__ if f"`{name}`" not in page] == []
