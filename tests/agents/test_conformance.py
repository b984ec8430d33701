"""The suite that strategies are checked with: what is shipped passes it, and each check finds what it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from analysis import conformance, variants
from analysis.conformance import CHECKS, RETURNS_DECISION, check_conformance, poison_bar, sample_rows
from analysis.purity import impure_calls
from analysis.strategy import Decision
from analysis.variants import FormedAnalysis, RulesVariant
from engine.core.errors import BadInput
from engine.core.market import Bar, Timeframe
from engine.data.bar_rules import invalid_bar_reason
from tests.support.bad_strategies import NUMBER
from tests.support.paths import TESTS
from tests.support.workloads import walk

BARS = walk(*NUMBER)
FILE = TESTS / "support/bad_strategies.py"
SAMPLES = 12

# What each of them is found by, at the least.
CAUGHT = {
    "Counting": {"asked twice", "asked backwards", "future cut off", "live as in batch", "stored once"},
    "Remembering": {"future poisoned", "asked backwards"},
    "Tape": {"other century"},
    "Library": {"nothing but bars"},
    "Clock": {"nothing but bars"},
    "Chance": {"asked twice", "nothing but bars", "other processes", "stored once"},
    "Hashing": {"other processes"},
    "Sorting": {RETURNS_DECISION},
    "Silent": {RETURNS_DECISION},
    "Unsure": {RETURNS_DECISION},
}


def failed(name: str, samples: int = SAMPLES) -> set[str]:
    return {finding.check for finding in check_conformance(f"{FILE}:{name}", BARS, samples=samples)}


@pytest.mark.slow
@pytest.mark.parametrize("name", variants.variant_names())
def test_what_is_shipped_passes(name: str) -> None:
    assert check_conformance(name, walk("AAA", 3, 420, 100.0, 0.01), samples=SAMPLES) == []


@pytest.mark.parametrize("name", ["Sound", "Seeded"])
def test_a_function_of_its_window_passes(name: str) -> None:
    assert failed(name) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUGHT)
def test_a_strategy_that_breaks_a_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "Hashing":
        # One other process will do: it takes as long to start as all the rest.
        monkeypatch.setattr(conformance, "HASH_SEEDS", ("1",))
    # One that remembers finds the following bar only where the bars asked about are neighbours.
    assert failed(name, samples=len(BARS) if name == "Remembering" else SAMPLES) >= CAUGHT[name]


def test_every_check_finds_somebody() -> None:
    assert set().union(*CAUGHT.values()) == {RETURNS_DECISION, *CHECKS}


class Peeking(RulesVariant):
    """A variant that is given all bars at once and looks one further."""

    window_bars = warm_up_bars = 2

    def analyse(self, bars: Sequence[Bar], ends: Sequence[int]) -> Iterator[FormedAnalysis]:
        for end in ends:
            further = bars[min(end + 1, len(bars) - 1)]
            yield FormedAnalysis(Decision("LONG" if further.close > bars[end].close else "SHORT"), "{}")


def test_a_variant_that_is_given_all_bars_and_looks_ahead_is_found_at_its_first_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(text: str) -> Peeking:
        del text
        return Peeking()

    monkeypatch.setattr(conformance, "find_variant", find)
    found = {finding.check: finding for finding in check_conformance("peeking", BARS, samples=len(BARS))}
    first = next(n for n in range(1, len(BARS)) if BARS[n + 1].close > BARS[n].close)
    cut_off = found["future cut off"]
    assert (cut_off.at, cut_off.before, cut_off.after) == (BARS[first].closed_at, "LONG 1", "SHORT 1")
    assert {"future poisoned", "other processes"} <= set(found)


def test_a_failure_is_told_with_its_bar_and_its_line() -> None:
    (finding,) = check_conformance(f"{FILE}:Unsure", BARS)
    assert (finding.check, finding.symbol, finding.at) == (RETURNS_DECISION, "AAA", BARS[2].closed_at)
    assert "confidence: NaN is not a finite number (strategy.py, line" in finding.after


def test_few_bars_are_all_tried_and_many_are_evenly_sampled() -> None:
    variant = variants.find_variant("momentum")
    assert sample_rows(variant, BARS[:40], samples=100) == list(range(10, 40))
    many = sample_rows(variant, BARS, samples=30)
    assert (many[0], many[-1], len(many)) == (10, len(BARS) - 1, 30)
    assert {later - earlier for earlier, later in pairwise(many)} == {9, 10}
    assert sample_rows(variant, BARS, BARS[200].opened_at, samples=500) == list(range(200, len(BARS)))


def test_a_range_without_a_whole_window_is_refused() -> None:
    with pytest.raises(
        BadInput, match=r"crossover@1 needs windows of 20 bars, and no bar of this range has enough history"
    ):
        check_conformance("crossover", BARS[:19])
    assert check_conformance("crossover", BARS[:20]) == []


def test_wild_bars_are_possible_bars_far_from_the_usual() -> None:
    for n, bar in enumerate(BARS[:50]):
        for began in (False, True):
            other = poison_bar(bar, n, began=began)
            assert invalid_bar_reason(other, Timeframe.H1) is None
            assert (other.open == bar.open) is began
            assert not bar.close / 50 < other.close < bar.close * 50
            assert (other.opened_at, other.closed_at) == (bar.opened_at, bar.closed_at)


def test_progress_counts_the_checks() -> None:
    heard: list[int] = []
    check_conformance("always_long", BARS[:5], progress=heard.append)
    assert heard == list(range(1, len(CHECKS) + 1))


def test_four_hundred_years_later_the_calendar_is_the_same() -> None:
    day = BARS[0].opened_at
    moved = day + conformance.CALENDAR_SHIFT
    assert (moved.month, moved.day, moved.hour, moved.weekday()) == (day.month, day.day, day.hour, day.weekday())
    assert (moved + timedelta(days=59)).day == (day + timedelta(days=59)).day


def test_only_what_reaches_beyond_is_noticed(tmp_path: Path) -> None:
    import random
    import socket
    import time
    import uuid

    file = tmp_path / "tape.csv"
    file.write_text("1\n")
    opened, listening = file.open(), socket.socket()
    acts: dict[str, Callable[[], object]] = {
        "the time (time)": time.time,
        "the time (date.today)": type(BARS[0].opened_at.date()).today,
        "chance (Random.random)": random.random,
        "chance (urandom)": uuid.uuid4,
        "a file (open)": file.read_text,
        "a file (TextIOWrapper.readline)": opened.readline,
        "the network or a database (socket.bind)": lambda: listening.bind(("127.0.0.1", 0)),
    }
    for reached, act in acts.items():
        assert reached in impure_calls(act), act
    opened.close()
    listening.close()
    assert impure_calls(lambda: sum(bar.close for bar in BARS) and str(BARS[0].opened_at.timestamp())) == []


def test_what_others_leave_behind_is_not_held_against_a_strategy() -> None:
    """Finalisers of objects that are collected while a strategy computes are not its own doing."""
    import gc
    import time

    class Left:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            time.time()

    def computes() -> None:
        # Many times what brings about a collection.
        assert len([[n] for n in range(100_000)]) == 100_000

    gc.collect()
    for _ in range(50):
        Left()
    assert impure_calls(computes) == []
    assert gc.isenabled()
