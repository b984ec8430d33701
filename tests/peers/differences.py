"""Where the engines fill otherwise than we do, or not at all, each with its reason. `make test-peers` holds every line.

`python -m tests.peers.differences` prints the table for people.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.peers.cases import CASES, Case
from tests.peers.tasks import Fill

ENGINES = ("backtesting", "backtrader", "bt", "vectorbt")
# bt has none of what the cases are about.
WITH_ORDERS = ("backtesting", "backtrader", "vectorbt")


class Difference(NamedTuple):
    """The fills of the engine, None where it has no such order; and why."""

    fills: list[Fill] | None
    reason: str


BOUGHT = Fill(2, "BUY", 10, 100)
ENTRY_BAR = "Protective orders begin to work in the bar after the entry's."
LAPSES = "What exceeds the cap lapses."
WHOLE = "Orders are filled whole, whatever the volume."
WAITING = "No orders that wait for a price to enter at: signals are filled at one price of their bar."

DIFFERENCES: dict[tuple[str, str], Difference] = {
    ("backtesting", "stop_slips"): Difference(
        [Fill(2, "BUY", 10, 101), Fill(3, "SELL", 10, 95)],
        "Its only slippage is a spread, charged when a trade is opened and never when it is closed.",
    ),
    ("backtesting", "limit_better_at_open_does_not_slip"): Difference(
        [Fill(2, "BUY", 10, 97.97)], "The spread is charged on limit orders too."
    ),
    ("backtesting", "limit_entry_and_its_stop_in_one_bar"): Difference(
        [Fill(2, "BUY", 10, 98)],
        "It warns that the order of prices inside the bar is unknown and lets the stop wait for the next bar, "
        "which is the better outcome for the account; we assume the worse.",
    ),
    ("backtesting", "volume_cap"): Difference(None, WHOLE),
    ("backtesting", "volume_cap_at_an_open"): Difference(None, WHOLE),
    ("backtesting", "limit_entry_at_the_open_and_its_target_in_that_bar"): Difference(
        [Fill(2, "BUY", 10, 97)],
        "Protective orders of a limit entry wait for the next bar, even if it was filled at the open.",
    ),
    ("backtesting", "stop_entry_and_its_stop_in_one_bar"): Difference(
        [Fill(2, "BUY", 10, 102)], "The stop of a stop entry waits for the next bar."
    ),
    ("backtrader", "limit_entry_at_the_open_and_its_target_in_that_bar"): Difference(
        [Fill(2, "BUY", 10, 97)], ENTRY_BAR
    ),
    ("backtrader", "stop_entry_and_its_stop_in_one_bar"): Difference([Fill(2, "BUY", 10, 102)], ENTRY_BAR),
    ("backtrader", "market_entry_opens_beyond_its_stop"): Difference(
        [Fill(2, "BUY", 10, 94), Fill(3, "SELL", 10, 95)], ENTRY_BAR
    ),
    ("backtrader", "volume_cap_at_an_open"): Difference(
        [Fill(2, "BUY", 80, 100), Fill(3, "BUY", 20, 101)],
        "The cap is a share of the volume that the bar is going to have, at whose open it fills.",
    ),
    ("backtrader", "stop_in_the_bar_of_a_market_entry"): Difference([BOUGHT], ENTRY_BAR),
    ("backtrader", "target_in_the_bar_of_a_market_entry"): Difference([BOUGHT], ENTRY_BAR),
    ("backtrader", "limit_entry_and_its_stop_in_one_bar"): Difference([Fill(2, "BUY", 10, 98)], ENTRY_BAR),
    ("backtrader", "limit_better_at_open_does_not_slip"): Difference(
        [Fill(2, "BUY", 10, 97.97)],
        "What it fills at an open slips, limit orders too; what it fills at the limit does not.",
    ),
    ("backtrader", "trailing_stop"): Difference(
        [BOUGHT, Fill(4, "SELL", 10, 101)], "The level follows the close of a bar, ours its high."
    ),
    ("vectorbt", "stop_in_the_bar_of_a_market_entry"): Difference([BOUGHT], ENTRY_BAR),
    ("vectorbt", "target_in_the_bar_of_a_market_entry"): Difference([BOUGHT], ENTRY_BAR),
    ("vectorbt", "target_does_not_slip"): Difference(
        [Fill(2, "BUY", 10, 101), Fill(3, "SELL", 10, 103.95)],
        "One setting controls the slippage of stops and targets together.",
    ),
    ("vectorbt", "trailing_stop"): Difference(
        [BOUGHT, Fill(4, "SELL", 10, 101.76)],
        "The distance is a share of the highest price (4 % of 106), ours stays what it was at the entry.",
    ),
    ("vectorbt", "market_entry_opens_beyond_its_stop"): Difference(
        None, "Stops are shares of the price paid, so that none can lie above it."
    ),
    ("vectorbt", "volume_cap"): Difference([Fill(2, "BUY", 60, 100)], LAPSES),
    ("vectorbt", "volume_cap_at_an_open"): Difference([Fill(2, "BUY", 60, 100)], LAPSES),
    **{("vectorbt", case.name): Difference(None, WAITING) for case in CASES if case.orders[0].type != "MARKET"},
    **{
        ("bt", case.name): Difference(None, "No orders that wait, no slippage, no volume: one price a bar.")
        for case in CASES
    },
}


def words(fills: list[Fill]) -> str:
    return ", ".join(f"{fill.side} {fill.quantity:g} at {fill.price:g} in bar {fill.bar}" for fill in fills) or "none"


def title(name: str) -> str:
    return name.replace("_", " ")


def cell(engine: str, case: Case) -> str:
    known = DIFFERENCES.get((engine, case.name))
    if known is None:
        return "same"
    return "-" if known.fills is None else "differs"


def table() -> list[str]:
    lines = [f"| case | our fills | {' | '.join(WITH_ORDERS)} |", "| --- | --- |" + " --- |" * len(WITH_ORDERS)]
    for case in CASES:
        cells = " | ".join(cell(engine, case) for engine in WITH_ORDERS)
        lines.append(f"| {title(case.name)} | {words(case.by_hand)} | {cells} |")
    return lines


def reasons() -> list[str]:
    """A line for each reason of an engine, with what it fills in the cases it explains."""
    explained: dict[tuple[str, str], list[str]] = {}
    for (engine, name), known in DIFFERENCES.items():
        if engine in WITH_ORDERS and known.fills is not None:
            explained.setdefault((engine, known.reason), []).append(f"{title(name)}: {words(known.fills)}")
    return [f"- **{engine}**: {reason} ({'; '.join(cases)}.)" for (engine, reason), cases in explained.items()]


def markdown() -> str:
    """Every case and engine in a table, then why they differ. In the table `-` means that there is no such order."""
    return "\n".join([*table(), "", *reasons()])


if __name__ == "__main__":
    print(markdown())
