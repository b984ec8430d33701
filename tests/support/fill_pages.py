"""Generator of docs/fills.md: rules of orders, fills and costs, worked examples, comparison with other engines."""

from __future__ import annotations

from collections.abc import Iterator

from engine.core.intents import Intent
from engine.core.market import Direction
from tests.peers import differences
from tests.support.worked import WORKED_EXAMPLES, WorkedExample

RULES = """# Orders and fills

Order types, the time and price of fills by the paper broker, and their costs. The rules are implemented in
`engine/trading/fills.py`, the broker in `engine/broker/paper.py`. Only the four prices of a bar are known, not their
order in time; **where the order matters, the worse case is assumed**. `make docs` generates this page from examples
that the test suite checks.

## Orders

| type | buys | sells | slips |
| --- | --- | --- | --- |
| `MARKET` | at the next open | at the next open | yes |
| `LIMIT` | at its limit or lower | at its limit or higher | no |
| `STOP` | when a price reaches its stop or higher | when a price reaches its stop or lower | yes |
| `STOP_LIMIT` | like a stop, then like a limit | like a stop, then like a limit | no further than its limit |
| `TRAILING_STOP` | a stop that follows falling prices | a stop that follows rising prices | yes |

| time in force | ends |
| --- | --- |
| `GTC` | when it is filled or canceled |
| `DAY` | at the end of the session in which it was placed |
| `GTD` | at the given instant; a profile gives it as a number of bar lengths |

A session ends when its market closes, including half days and holidays. A market that never closes ends its session at
midnight UTC, or at the hour set in the profile. The sessions are those of the data and are frozen into the run when it
starts (`engine/core/session_ends.py`). An order that expires during a bar can only be filled at the bar's open.

**An entry carries its protection.** The profile or the intent sets a stop, a target and a trailing stop. With each fill
of the entry they are placed for exactly the units that it opened, at distances from the market price before slippage.
The first to fill cancels the others. A triggered stop is a market order from then on and cancels its target at once.
Either cancels the rest of the entry. Protective orders only reduce a position: they are canceled when the position is
closed by other means. An order that was to close one position and open another opens no more than originally planned.

**Several orders may work** for one symbol. An opposite intent cancels the entries of the other direction. A repeated
intent changes nothing unless it has different terms. In that case the working order is *replaced* by a new order for
the remaining quantity, which passes the same risk check. If the risk check denies it, the old order stays.

## Time and price of fills

1. **The next tradable price.** A decision at the close of bar *t* is filled at the open of the symbol's next existing
   bar, across weekends and gaps. With `latency_bars` = *n*, *n* more bars of the symbol pass first; stops and targets
   placed with a fill do not wait.
2. **At an open,** market orders come first, then stops of positions, entries and targets, as inside a bar. If the open
   is beyond a stop, the stop is filled at the open; a limit is filled at the open if that is better.
3. **Inside a bar,** the stops of positions come first, then entries, then targets; within each group, the order nearest
   to the open comes first (after an entry inside the bar, nearest to the entry price). A stop is filled at its price, a
   limit at its limit, when the bar touches it. If a bar touches both a stop and its target, the stop is filled.
4. **A position opened inside a bar** can be stopped out in that bar but cannot reach its target, because it is unknown
   whether the better price came after the entry. A position opened at the open of a bar can reach both.
5. **A stop-limit** that a bar triggers is filled at its stop if the limit allows that; otherwise it works as a limit
   from the next bar on. If the open is beyond both prices, it works as a limit at once.
6. **A trailing stop** moves at the close of a bar, following the bar's best price, and never moves back. Its distance
   is constant.
7. **Volume.** With `volume_cap_pct`, all orders of a symbol together take at most that share of a bar's volume, in
   whole lots. At an open the volume of the previous bar counts, because the volume of the new bar is not known yet. The
   rest keeps working: market orders and triggered stops at the next opens. If bars have no volume, a cap allows no
   fills.
8. **Cash.** If the price has moved so far that an entry would overdraw free cash, the broker rejects it. Its closing
   part is still executed.
9. **The price collar** applies to the order: an entry is canceled if its fill, including slippage, would be further
   from the close at which it was decided than `collar_pct` allows. An exit is filled at any price.

## Costs

- **Slippage** is always adverse. It is the sum of `slippage_bps` of the price; `slippage_volume_bps` times the square
  of the order's share of the volume (1 if there is no volume; the formula is zipline's `VolumeShareSlippage`); and, if
  the profile sets it together with a `seed`, a random part of up to `slippage_random_bps`. The random part is computed
  from the seed, the order's id and the number of the fill, so that it is the same in every run. The risk check assumes
  the largest random part.
- **Commission** is `commission_bps` of the notional plus `commission_per_unit`, and at least `commission_min` per
  order, regardless of the number of fills.
- **Ticks and lots.** Quantities are multiples of the instrument's `quantity_step`. Prices of stops, targets and
  profile entries are rounded to its `tick`, against the position. Fill prices are rounded only with `round_to_tick`.
- **Notional** is price x quantity x `multiplier` x the last close of the symbol that converts the currency.
- **Borrowing.** At each session roll a short pays `borrow_pct` / 365 of its value for every day since the previous
  roll or since it was opened, and for at least one day.
- **Margin.** A short ties up its proceeds plus `margin_pct` of them. If equity at the worst prices of a bar is below
  `maintenance_pct` of the shorts' value at those prices, all shorts are bought back at the next open.
- **Bankruptcy.** If equity at the worst prices of a bar is 0 or less, the broker cancels all orders, closes all
  positions at those prices, and trading ends (`TradingEnded`, `BANKRUPT`). The run ends there and records the reason.

## Worked bars

Cash is 10,000 and the position 10 units of AAA, without costs or limits, unless stated otherwise. An intent is given at
the close of its bar. *inside* is known at the close of that bar; expiries and payments happen by the close of the given
bar.
"""


def document() -> str:
    return "\n".join((RULES, *(line for worked in WORKED_EXAMPLES for line in _account(worked)), *_other_engines(), ""))


def _account(worked: WorkedExample) -> Iterator[str]:
    yield from (f"### {worked.name[0].upper()}{worked.name[1:]}", "", worked.why, "")
    yield from ("| bar | open | high | low | close | volume | intent |", "| --- | --- | --- | --- | --- | --- | --- |")
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
    yield """## Comparison with other engines

Fills of market orders agree to float precision (`make test-peers`). Engines differ on stops, limits and volume caps.
The cases below, from `tests/peers/cases.json`, were computed by hand and explain each difference. A dash means that the
engine has no such order type.
"""
    yield differences.markdown()
