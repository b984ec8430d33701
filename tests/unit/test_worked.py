"""What the program makes of the accounts that were worked out by hand."""

from __future__ import annotations

import pytest

from tests.support.worked import WORKED_EXAMPLES, WorkedExample


@pytest.mark.parametrize("worked", WORKED_EXAMPLES, ids=lambda worked: worked.name)
def test_an_account_ends_as_worked_out_by_hand(worked: WorkedExample) -> None:
    assert worked.computed_outcome() == worked.outcome
