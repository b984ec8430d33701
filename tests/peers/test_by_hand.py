"""The hand-made cases on our own broker. What other engines make of them is compared in `tests/peers/test_peers.py`."""

from __future__ import annotations

import pytest

from tests.peers import own
from tests.peers.cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_broker_fills_as_worked_out_by_hand(case: Case) -> None:
    assert own.fills(case) == case.by_hand
