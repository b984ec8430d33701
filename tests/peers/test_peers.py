"""Other engines on our decisions: the same fills and the same equity, or a difference that is known and has a reason.

Run by `make test-peers`, which installs the engines in `.venv-peers`. What a row of the hand-made cases means is said
in `tests/peers/cases.py`, what differs and why in `tests/peers/differences.py`.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest

from tests.peers import own, workloads
from tests.peers.cases import CASES, Case
from tests.peers.differences import DIFFERENCES, ENGINES
from tests.peers.tasks import Answer, Fill, Task
from tests.peers.workloads import Workload

pytestmark = [
    pytest.mark.peers,
    # vectorbt compiles for a while when it is run for the first time.
    pytest.mark.skipif(not workloads.PYTHON.exists(), reason="`make test-peers` installs the engines in .venv-peers"),
]
WORKLOADS = {"one symbol": workloads.one_symbol, "three symbols": workloads.three_symbols, "EUR-USD": workloads.eurusd}
ONE_SYMBOL_AN_ACCOUNT = ("backtesting", "three symbols")
COMPARED = [pair for pair in product(ENGINES, WORKLOADS) if pair != ONE_SYMBOL_AN_ACCOUNT]
OWN_SLIPPAGE = ("backtrader", "vectorbt")
BPS = (0, 2)


def ours(case: Case) -> list[Fill]:
    """THE HOOK: our engine's own fills on a case."""
    return own.fills(case)


def available(name: str) -> bool:
    return name != "EUR-USD" or workloads.eurusd_file().is_file()


@cache
def workload(name: str) -> Workload:
    if not available(name):
        pytest.skip("QUANTAGENT_REFERENCE_DATA names no folder with golden/: EUR-USD is not compared")
    return WORKLOADS[name]()


@cache
def our_answer(name: str, bps: int) -> Answer:
    return workloads.prepare(workload(name), str(bps))()


@cache
def their_answers(engine: str) -> dict[tuple[str, int], Answer]:
    """All that can be compared of an engine: its start takes longer than its runs."""
    keys = [(name, bps) for of, name in COMPARED if of == engine and available(name) for bps in BPS]
    tasks = [asked_of(engine, workload(name), bps) for name, bps in keys]
    return dict(zip(keys, map(answer_of, workloads.ask(engine, tasks)), strict=True))


def asked_of(engine: str, shared: Workload, bps: int) -> Task:
    task = workloads.task(shared, bps / 10_000)
    return task if engine in OWN_SLIPPAGE else workloads.with_slipped_opens(task)


@cache
def their_cases(engine: str) -> dict[str, dict[str, Any]]:
    return dict(zip((case.name for case in CASES), workloads.ask(engine, [case.task for case in CASES]), strict=True))


def answer_of(found: dict[str, Any]) -> Answer:
    return Answer([Fill(*fill) for fill in found["fills"]], found["equity"])


def close_to(fills: list[Fill]) -> list[Any]:
    """The same bars, sides, quantities and symbols; prices to nine digits."""
    return [fill._replace(price=pytest.approx(fill.price, rel=1e-9)) for fill in fills]


def in_order(fills: list[Fill]) -> list[Fill]:
    return sorted(fills, key=lambda fill: (fill.bar, fill.symbol))


# --- Market orders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bps", BPS)
@pytest.mark.parametrize(("engine", "name"), COMPARED)
def test_market_orders_have_the_same_fills_and_equity(engine: str, name: str, bps: int) -> None:
    ours = our_answer(name, bps)
    theirs = their_answers(engine)[name, bps]
    assert in_order(theirs.fills) == close_to(in_order(ours.fills))
    assert theirs.equity == pytest.approx(ours.equity, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "bps", "equity", "fills"),
    [
        ("three symbols", 0, 988_735.94645, 1_419),
        ("EUR-USD", 0, 97_772.1925, 264),
        ("EUR-USD", 2, 97_157.05116958, 264),
    ],
)
def test_what_they_are_compared_with_is_the_golden_result(name: str, bps: int, equity: float, fills: int) -> None:
    found = our_answer(name, bps)
    assert (found.equity, len(found.fills)) == (equity, fills)


def test_a_position_left_open_is_part_of_what_is_compared() -> None:
    assert len(our_answer("three symbols", 0).fills) % 2 == 1


@pytest.mark.parametrize("name", ["one symbol", "EUR-USD"])
def test_the_spread_of_backtesting_is_charged_on_the_buys_of_longs_only(name: str) -> None:
    task = workloads.task(workload(name), 0.0002)
    found = answer_of(workloads.ask("backtesting", [task])[0])
    plain = our_answer(name, 0)
    bought = sum(fill.quantity * fill.price for fill in plain.fills if fill.side == "BUY")
    assert found.equity == pytest.approx(plain.equity - bought * 0.0002 * (1 + workloads.COMMISSION), rel=1e-9)
    if name == "EUR-USD":
        assert found.equity == pytest.approx(97_464.39905404, rel=1e-9)


# --- Stops, limits, brackets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_fills_as_we_do_or_as_is_known(engine: str, case: Case) -> None:
    found, known = their_cases(engine)[case.name], DIFFERENCES.get((engine, case.name))
    if known is None:
        assert found.get("fills") == [list(fill) for fill in close_to(ours(case))]
    elif known.fills is None:
        assert "unsupported" in found
    else:
        assert found.get("fills") == [list(fill) for fill in close_to(known.fills)]
        assert found["fills"] != [list(fill) for fill in close_to(ours(case))]


def test_every_known_difference_is_of_an_engine_and_a_case_that_exist() -> None:
    assert set(DIFFERENCES) <= {(engine, case.name) for engine in ENGINES for case in CASES}
