"""Writes docs/fills.md: the rules of orders, fills and costs, the accounts worked out by hand, and other engines."""

from __future__ import annotations

from collections.abc import Iterator

from engine.core.intents import Intent
from engine.core.market import Direction
from tests.peers import differences
from tests.support.worked import WORKED_EXAMPLES, WorkedExample

RULES = """# Orders and fills

What an order can be, when and at which price the paper broker fills it, and what that costs. The rules stand in
`engine/trading/fills.py`, the broker that goes by them in `engine/broker/paper.py`. Of a bar only its four prices are
known, not their order in time; **where that matters the worse one is taken**. This page is written by `make docs` from
accounts that the test suite checks.

## Orders

| type | buys | sells | slips |
| --- | --- | --- | --- |
| `MARKET` | at the next open | at the next open | yes |
| `LIMIT` | at its limit or lower | at its limit or higher | no |
| `STOP` | once a price is at its stop or above | once a price is at its stop or below | yes |
| `STOP_LIMIT` | like a stop, then like a limit | like a stop, then like a limit | no further than its limit |
| `TRAILING_STOP` | a stop that follows falling prices | a stop that follows rising prices | yes |

| time in force | ends |
| --- | --- |
| `GTC` | when it is filled or canceled |
| `DAY` | with the session in which it was placed |
| `GTD` | at the instant it names; a profile says after how many bar lengths |

A session ends when its market closes, half days and holidays included, and around the clock at midnight UTC, or at the
hour that a profile names. The sessions are those of the data and are frozen into the run when it begins
(`engine/core/session_ends.py`). A bar that an order does not outlast fills it at the open or not at all.

**An entry carries its protection.** A profile, or the wish itself, names a stop, a target and a trailing stop; with
each fill of the entry they are placed for exactly the units it opened, at distances from the market's price, before
slippage. Whichever is filled first cancels the others; a stop that was set off cancels its target at once, as it is a
market order from then on; either ends what is left of the entry. They only ever reduce: when the position has gone
another way they are canceled, and an order that was to close and to open opens no more than it was to.

**Several orders may work** for one symbol. An opposite wish cancels the entries that lead elsewhere. The same wish
again changes nothing, unless it names other terms: then the working order is *replaced*, which is a new order through
the same gate, for what is still missing. If the gate denies it, the old one stays.

## When and at which price

1. **The next tradable price.** A decision at the close of bar *t* meets the open of the symbol's next existing bar,
   over any weekend or hole. With `latency_bars` = *n*, *n* more bars of the symbol pass first; stops and targets that
   come with a fill do not wait.
2. **At an open** market orders come first, then stops of positions, entries and targets as inside a bar. A stop that
   the open has gone through is filled at the open; a limit is filled at the open if that is better.
3. **Inside a bar** first the stops of positions, then entries, then targets; of several the one nearest to the open
   (after an entry inside the bar, nearest to that). A stop is filled at its price, a limit at its limit, when the bar
   touches it. If a bar spans both a stop and its target, it was the stop.
4. **The bar inside which a position was opened** may only stop it out, not reach its target: nobody knows whether the
   better price came after the entry. A position opened at the open of a bar has the whole bar before it.
5. **A stop-limit** that a bar triggers is filled at its stop, if the limit allows that, else it waits from the next
   bar on as a limit. One whose open lies beyond both waits as a limit at once.
6. **A trailing stop** moves at the close of a bar, by that bar's best price, and never back. Its distance stays what
   it was.
7. **Volume.** With `volume_cap_pct` all orders of a symbol together take at most that share of a bar's volume, in
   whole lots; at an open of the volume of the bar before, as a bar's own is not known at its open. The rest works on:
   a market order, and a stop that was set off, at the next opens. Where bars tell no volume, a cap lets nothing
   through.
8. **Cash.** If the price has moved so far that an entry would overdraw free cash, the broker rejects it; what it was
   to close is closed all the same.
9. **The price collar** goes with the order: an entry whose fill, slippage included, would be further from the close it
   was decided at than `collar_pct` allows is canceled. What closes a position is filled at any price.

## What it costs

- **Slippage**, always against the order, is the sum of `slippage_bps` of the price; `slippage_volume_bps` times the
  square of the order's share in the volume (without volume the share counts as 1; the shape is zipline's); and, only
  if the profile says so and names its `seed`, up to `slippage_random_bps` by chance, drawn from the seed, the order's
  id and the number of the fill: the same in every run. The gate reckons with the worst that chance can do.
- **Commission** is `commission_bps` of the notional plus `commission_per_unit`, at least `commission_min` for the
  order as a whole, however many fills it takes.
- **Ticks and lots.** Quantities are multiples of the instrument's `quantity_step`. Prices of stops, targets and
  profile entries are rounded to its `tick`, against the position; fill prices too where the profile says
  `round_to_tick`. Else a fill's price is exact.
- **Money** is price x quantity x `multiplier` x the last close of the symbol that converts the currency.
- **Borrowing.** At each session roll a short pays `borrow_pct` / 365 of its value, for every day since the roll
  before or since it was opened, and for one day at least.
- **Margin.** A short ties up its proceeds and `margin_pct` of them. If equity at the worst prices of a bar is below
  `maintenance_pct` of what the shorts are worth there, all of them are bought back at the next open.
- **Bankruptcy.** If equity at the worst prices of a bar is 0 or less, the broker cancels all orders, closes all
  positions at those prices, and trading ends (`TradingEnded`, `BANKRUPT`); the run ends there and says so.

## Worked bars

Cash 10,000 and 10 units of AAA, without costs or limits, unless it says otherwise. A wish is made at the close of its
bar. *inside* is known at that bar's close; what ends or is paid, ends by the close of the bar given.
"""


def document() -> str:
    return "\n".join((RULES, *(line for worked in WORKED_EXAMPLES for line in _account(worked)), *_other_engines(), ""))


def _account(worked: WorkedExample) -> Iterator[str]:
    yield from (f"### {worked.name[0].upper()}{worked.name[1:]}", "", worked.why, "")
    yield from ("| bar | open | high | low | close | volume | wish |", "| --- | --- | --- | --- | --- | --- | --- |")
    for number, row in enumerate(worked.bars):
        yield f"| {number} | {' | '.join(row)} | {_describe_intent(worked.intents.get(number))} |"
    yield from ("", "| bar | what | side | quantity | price | paid | cash after |")
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for outcome in worked.outcome:
        yield f"| {' | '.join(map(str, outcome))} |"
    yield ""


def _describe_intent(intent: Direction | Intent | None) -> str:
    if isinstance(intent, Intent) and intent.entry is not None:
        return f"{intent.direction}, {intent.entry.order_type} {intent.entry.limit_price}"
    return "" if intent is None else str(intent)


def _other_engines() -> Iterator[str]:
    yield """## What other engines make of it

Market orders agree to the last digit that floats have (`make test-peers`). On stops, limits and caps engines differ;
below, small cases of `tests/peers/cases.json`, every one of them worked out by hand, and why another engine's fills are
not ours. A dash: it has no such order.
"""
    yield differences.markdown()
