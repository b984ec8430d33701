"""`check-lookahead`: whole sessions under a poisoned future, and the command as a user types it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from analysis.strategy import Decision
from analysis.variants import FormedAnalysis, RulesVariant, find_variant
from engine.core.events import BookEvent
from engine.core.market import Bar
from tests.support.commands import answer, refusal, run
from tests.support.paths import TESTS
from tests.support.strategies import config_of
from tests.support.workloads import walk
from ui.services.lookahead import BOOK, INSTANTS, first_divergence, poison_future

BAD = TESTS / "support/bad_strategies.py"
BARS = [walk("AAA", 11, 160, 100.0, 0.01), walk("BBB", 7, 160, 50.0, 0.01)]
CONFIG = config_of(("AAA", "BBB"), slippage_bps="5", commission_bps="10", position_pct="10", holding_bars=4)


class Peeking(RulesVariant):
    """Trades on the close after the bar it is asked about."""

    name = "peeking"
    window_bars = warm_up_bars = 1

    def analyse(self, bars: Sequence[Bar], ends: Sequence[int]) -> Iterator[FormedAnalysis]:
        for end in ends:
            further = bars[min(end + 1, len(bars) - 1)]
            yield FormedAnalysis(Decision("LONG" if further.close > bars[end].close else "SHORT"), "{}")


def test_no_event_of_a_book_knows_a_later_bar() -> None:
    told: list[tuple[str, int, int]] = []

    def tell(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    start = BARS[0][30].opened_at
    assert first_divergence(CONFIG, find_variant("momentum"), BARS, start, tell) == []
    assert told == [("sessions", n, INSTANTS) for n in range(1, INSTANTS + 1)]


def test_the_first_event_that_knows_a_later_bar_is_named() -> None:
    (finding,) = first_divergence(CONFIG, Peeking(), BARS, BARS[0][30].opened_at)
    assert finding.check == BOOK
    assert BARS[0][30].closed_at < finding.at <= BARS[0][-1].closed_at
    assert finding.before != finding.after
    assert finding.after.endswith(f"(wild after {finding.at:%Y-%m-%d %H:%M}Z)")


def test_what_is_known_at_an_instant_stays_as_it_is() -> None:
    now = BARS[0][50].closed_at
    other = poison_future(BARS[0], now)
    assert other[:51] == BARS[0][:51]
    assert other[51].open == BARS[0][51].open
    assert all(a.close != b.close for a, b in zip(other[51:], BARS[0][51:], strict=True))


def test_the_sessions_trade() -> None:
    """Where nothing happens nothing can move."""
    from ui.services.lookahead import _book_events  # pyright: ignore[reportPrivateUsage]

    events: list[BookEvent] = _book_events(CONFIG, find_variant("momentum"), BARS, BARS[0][30].opened_at)
    assert sum(type(event).__name__ == "OrderFilled" for event in events) > 20


# --- As a command -------------------------------------------------------------------------------------------------


@pytest.fixture
def env(dsn: str, tmp_path: Path) -> dict[str, str]:
    given = {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "tester"}
    run(given, "data", "sample")
    return given


RANGE = ("--symbols", "BTC-USD", "--start", "2017-08-01", "--end", "2017-08-08")


@pytest.mark.slow(9)
def test_a_sound_strategy_passes_and_nothing_is_stored(env: dict[str, str]) -> None:
    before = run(env, "log", "--json").stdout
    said = answer(env, "check-lookahead", "--variant", f"{BAD}:Sound", *RANGE)
    assert (said["passed"], said["findings"], said["bars"], said["tried"]) == (True, [], 168, 100)
    assert BOOK in said["checks"]
    assert run(env, "log", "--json").stdout == before
    shown = run(env, "check-lookahead", "--variant", "momentum", *RANGE)
    assert "momentum@1" in shown.stdout
    assert "100 of 168 bars were checked, evenly spaced, after the warm-up." in shown.stderr


@pytest.mark.slow
def test_a_strategy_that_moves_ends_with_3_and_names_symbol_bar_before_and_after(env: dict[str, str]) -> None:
    shown = run(env, "check-lookahead", "--variant", f"{BAD}:Clock", *RANGE, code=3)
    assert "nothing but bars" in shown.stdout
    assert "uses the time (datetime.now)" in " ".join(shown.stdout.split())
    assert "BTC-USD" in shown.stdout
    assert "2017-08-01 01:00" in shown.stdout


@pytest.mark.slow
def test_own_strategies_are_run_found_again_explained_and_traded_on_paper(env: dict[str, str]) -> None:
    asked = ("backtest", "--variant", f"{BAD}:Sound", *RANGE)
    made = answer(env, *asked)
    assert made["variant"].startswith("sound@")
    assert (made["analyses_made"], made["analyses_read"]) == (168, 0)
    assert made["fills"] > 10
    again = answer(env, *asked)
    assert (again["analyses_made"], again["analyses_read"], again["book_digest"]) == (0, 168, made["book_digest"])
    replayed = answer(env, "replay", "latest")
    assert replayed["equal"] is True
    assert "against two bars before" in run(env, "why", "BTC-USD@2017-08-03T12:00Z").stdout
    paper = answer(env, "paper", "start", "--variant", f"{BAD}:Sound", *RANGE)
    assert paper["book_digest"] == made["book_digest"]


def test_a_warm_up_is_told_on_stderr(env: dict[str, str]) -> None:
    # The sample begins on 2 July.
    said = run(env, "backtest", "--variant", "crossover", "--symbols", "BTC-USD", "--end", "2017-07-05")
    assert "the first 19 bars of BTC-USD are warm-up: crossover@1 returns HOLD until it has 20 bars." in said.stderr


def test_what_is_wrong_with_a_variant_is_one_sentence(env: dict[str, str]) -> None:
    assert "variant 'absent' is unknown" in refusal(env, "backtest", "--variant", "absent", *RANGE)
    failed = refusal(env, "backtest", "--variant", f"{BAD}:Unsure", *RANGE, code=1)
    assert "failed on BTC-USD at 20170801T010000Z: ValueError: confidence: NaN" in failed
