"""Worked examples of small accounts: bars, intents and expected outcomes; see docs/fills.md.

Bars are hourly: open, high, low, close, volume. An intent is given at the close of its bar. An outcome is (bar, what,
side, quantity, price, commission, cash after): a fill at the open of that bar or inside it, or an order that ends or a
cash movement by its close. All figures were computed by hand from the rules on that page, not by the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from engine.core.config import Costs, Entry, Exits, RiskLimits, RunConfig, Shorting, Sizing
from engine.core.events import (
    BookEvent,
    CashAdjusted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderTerms,
)
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Instrument, OrderType, Timeframe, TimeInForce
from engine.core.money import exact
from engine.trading.book import Book, evolve
from tests.support.strategies import History, HistoryRun, run_history

HOUR = timedelta(hours=1)
MONDAY = datetime(2024, 1, 8, tzinfo=UTC)
LONG, SHORT, FLAT = Direction.LONG, Direction.SHORT, Direction.FLAT

Row = tuple[str, str, str, str, str]
Outcome = tuple[int, str, str, str, str, str, str]


class WorkedExample(NamedTuple):
    """One account. `changes` are to a plain one: no costs, no limits, no exits, and always `quantity` units."""

    name: str
    why: str
    bars: list[Row]
    intents: Mapping[int, Direction | Intent]
    outcome: list[Outcome]
    cash: str = "10000"
    quantity: str = "10"
    changes: Mapping[str, object] = {}
    instrument: Instrument = Instrument("AAA", "USD", 2, exact("1"))
    start: datetime = MONDAY
    rates: Sequence[Row] = ()

    @property
    def config(self) -> RunConfig:
        plain = RunConfig(
            cash=exact(self.cash),
            currency="USD",
            timeframe=Timeframe.H1,
            instruments=(self.instrument,),
            costs=Costs(exact("0"), exact("0")),
            sizing=Sizing("fixed_quantity", quantity=exact(self.quantity)),
            limits=RiskLimits(None, None, reduce=False),
            exits=Exits(None),
            periods_per_year=365,
            rates=(Instrument("EUR-USD", "USD", 5, calendar="FX"),) if self.rates else (),
        )
        return msgspec.structs.replace(plain, **self.changes)

    @property
    def series(self) -> list[list[Bar]]:
        rows = {self.instrument.symbol: self.bars, "EUR-USD": self.rates}
        return [[self._bar(symbol, n, row) for n, row in enumerate(bars)] for symbol, bars in rows.items() if bars]

    def _bar(self, symbol: str, number: int, row: Row) -> Bar:
        opened_at = self.start + number * HOUR
        return Bar(symbol, opened_at, opened_at + HOUR, *(exact(value) for value in row))

    def run(self) -> HistoryRun:
        symbol, own = self.instrument.symbol, self.series[0]
        script = {
            (symbol, own[n].closed_at): given
            if isinstance(given, Intent)
            else Intent(symbol, given, exact("1"), f"bar {n}")
            for n, given in self.intents.items()
        }
        return run_history(History(self.config, self.series, script))

    def computed_outcome(self) -> list[Outcome]:
        """What the program makes of it."""
        book, outcomes = Book(), list[Outcome]()
        for event in self.run().events:
            book = evolve(book, event)
            line = self._outcome_of(event, book)
            if line is not None:
                outcomes.append(line)
        return outcomes

    def _outcome_of(self, event: BookEvent, book: Book) -> Outcome | None:
        after = str(book.cash)
        match event:
            case OrderFilled():
                where = "open" if event.at == event.bar_opened_at else "inside"
                number = (event.bar_opened_at - self.start) // HOUR
                return number, where, event.side, f"{event.quantity}", f"{event.price}", f"{event.commission}", after
            case OrderExpired() | OrderCanceled() | OrderRejected():
                ended = {OrderExpired: "expired", OrderCanceled: "canceled", OrderRejected: "rejected"}[type(event)]
                return (event.at - self.start) // HOUR - 1, ended, "", "", "", "", after
            case CashAdjusted():
                return (event.at - self.start) // HOUR - 1, "borrow cost", "", "", "", str(-event.amount), after
            case _:
                return None


BRACKET = {"costs": Costs(exact("0"), exact("10")), "exits": Exits(None, stop_pct=exact("5"), risk_reward=exact("2"))}
TEN_BPS = {"costs": Costs(exact("0"), exact("10"))}
STILL: Row = ("100", "100", "100", "100", "1000")

WORKED_EXAMPLES = [
    WorkedExample(
        "a bracket that wins",
        "Bought 10 at 100, commission 0.1 % = 1. Stop 5 % below, at 95; target twice as far above, at 110. Bar 2 "
        "reaches it: sold at 110, commission 1.1; the stop is canceled.",
        [STILL, ("100", "104", "98", "103", "1000"), ("103", "111", "102", "109", "1000")],
        {0: LONG},
        [
            (1, "open", "BUY", "10", "100", "1", "8999"),
            (2, "inside", "SELL", "10", "110", "1.1", "10097.9"),
            (2, "canceled", "", "", "", "", "10097.9"),
        ],
        changes=BRACKET,
    ),
    WorkedExample(
        "a bracket that meets both",
        "Bar 2 spans 94 to 112 and touches both stop and target: the worse price is assumed, 95.",
        [STILL, ("100", "104", "98", "103", "1000"), ("103", "112", "94", "100", "1000")],
        {0: LONG},
        [
            (1, "open", "BUY", "10", "100", "1", "8999"),
            (2, "canceled", "", "", "", "", "8999"),
            (2, "inside", "SELL", "10", "95", "0.95", "9948.05"),
        ],
        changes=BRACKET,
    ),
    WorkedExample(
        "a short whose stop is gapped through",
        "Sold 10 at 100: cash rises by 1000 less 1. The stop is at 105 and bar 2 opens at 108: bought at the open for "
        "1080, commission 1.08; the target is canceled.",
        [STILL, ("100", "102", "97", "101", "1000"), ("108", "109", "104", "105", "1000")],
        {0: SHORT},
        [
            (1, "open", "SELL", "10", "100", "1", "10999"),
            (1, "canceled", "", "", "", "", "10999"),
            (2, "open", "BUY", "10", "108", "1.08", "9917.92"),
        ],
        changes=BRACKET,
    ),
    WorkedExample(
        "a reversal and its protection",
        "Long 10 from 100 with a stop at 95 and a target at 110, then short: at bar 2's open, 105, 20 are sold for "
        "2100, commission 2.1. Half of them close the long: profit 50. Its protective orders are canceled. The other "
        "half gets a stop and a target at distances of 5 and 10, as decided at 100: a stop at 110 and a target at 95, "
        "which bar 3 reaches.",
        [STILL, STILL, ("105", "106", "104", "105", "1000"), ("105", "105", "94", "95", "1000")],
        {0: LONG, 1: SHORT},
        [
            (1, "open", "BUY", "10", "100", "1", "8999"),
            (2, "open", "SELL", "20", "105", "2.1", "11096.9"),
            (1, "canceled", "", "", "", "", "11096.9"),
            (1, "canceled", "", "", "", "", "11096.9"),
            (3, "inside", "BUY", "10", "95", "0.95", "10145.95"),
            (3, "canceled", "", "", "", "", "10145.95"),
        ],
        changes=BRACKET,
    ),
    WorkedExample(
        "an order larger than the market",
        "At most 10 % of a bar's volume, at an open that of the previous bar: 60, then 30, then the remaining 10. "
        "Commission 0.01 per unit, at least 2 per order: 2 with the first fill, nothing with the others.",
        [
            ("50", "50", "50", "50", "600"),
            ("50", "51", "50", "51", "300"),
            ("51", "52", "51", "52", "2000"),
            ("52", "52", "52", "52", "2000"),
        ],
        {0: LONG},
        [
            (1, "open", "BUY", "60", "50", "2", "6998"),
            (2, "open", "BUY", "30", "51", "0", "5468"),
            (3, "open", "BUY", "10", "52", "0", "4948"),
        ],
        quantity="100",
        changes={
            "costs": Costs(
                exact("0"),
                exact("0"),
                commission_per_unit=exact("0.01"),
                commission_min=exact("2"),
                volume_cap_pct=exact("10"),
            )
        },
    ),
    WorkedExample(
        "slippage that grows with the order",
        "50 of the previous bar's 500 units are a share of 0.1; its square times 200 bp is 2 bp, in addition to the "
        "fixed 3 bp: 100 x 1.0005.",
        [("100", "100", "100", "100", "500"), STILL],
        {0: LONG},
        [(1, "open", "BUY", "50", "100.05", "0", "4997.5")],
        quantity="50",
        changes={"costs": Costs(exact("3"), exact("0"), slippage_volume_bps=exact("200"))},
    ),
    WorkedExample(
        "a future in its ticks",
        "Crude oil: 1000 barrels a contract, tick 0.01. With 3 bp a buy at 70 would pay 70.021, on the tick 70.03; "
        "a sale at 71 would bring 70.9787, on the tick 70.97. Paid 70,030, received 70,970.",
        [("70", "70", "70", "70", "9"), ("70", "71", "70", "71", "9"), ("71", "71", "71", "71", "9")],
        {0: LONG, 1: FLAT},
        [
            (1, "open", "BUY", "1", "70.03", "0", "29970"),
            (2, "open", "SELL", "1", "70.97", "0", "100940"),
        ],
        cash="100000",
        quantity="1",
        changes={"costs": Costs(exact("3"), exact("0"), round_to_tick=True)},
        instrument=Instrument("CL=F", "USD", 2, exact("1"), exact("1000"), "CME", exact("0.01")),
    ),
    WorkedExample(
        "an order that waits a bar",
        "With a latency of one bar, an intent from bar 0's close skips bar 1's open and is filled at bar 2's.",
        [STILL, ("101", "101", "101", "101", "1000"), ("102", "102", "102", "102", "1000")],
        {0: LONG},
        [(2, "open", "BUY", "10", "102", "0", "8980")],
        changes={"costs": Costs(exact("0"), exact("0"), latency_bars=1)},
    ),
    WorkedExample(
        "a limit for the day",
        "2 % below the close of 100: a limit of 98, good for the day, which ends at midnight. The price falls to 98 "
        "only in a bar that opens after midnight.",
        [STILL, ("100", "101", "98.01", "100", "1000"), ("97", "97", "97", "97", "1000")],
        {0: LONG},
        [(1, "expired", "", "", "", "", "10000")],
        changes={"entry": Entry(OrderType.LIMIT, exact("200"), time_in_force=TimeInForce.DAY)},
        start=MONDAY + 22 * HOUR,
    ),
    WorkedExample(
        "an order amended",
        "A limit of 95 is working. At bar 1's close the repeated intent sets 99: the order is replaced, and the new "
        "one is filled in bar 2, which opens at 100 and falls to 98.",
        [STILL, ("100", "101", "96", "100", "1000"), ("100", "100", "98", "99", "1000")],
        {
            0: Intent("AAA", LONG, exact("1"), "one", entry=OrderTerms(OrderType.LIMIT, limit_price=exact("95"))),
            1: Intent("AAA", LONG, exact("1"), "two", entry=OrderTerms(OrderType.LIMIT, limit_price=exact("99"))),
        },
        [(2, "inside", "BUY", "10", "99", "0", "9010")],
    ),
    WorkedExample(
        "a trailing stop",
        "Bought at 100 with a trailing stop at a distance of 4 %: 96. Bar 1 rises to 110, so from its close on the "
        "stop is at 106; bar 2 falls through it.",
        [STILL, ("100", "110", "99", "109", "1000"), ("109", "109", "105", "105", "1000")],
        {0: LONG},
        [
            (1, "open", "BUY", "10", "100", "0", "9000"),
            (2, "inside", "SELL", "10", "106", "0", "10060"),
        ],
        changes={"exits": Exits(None, trail_pct=exact("4"))},
    ),
    WorkedExample(
        "a short over midnight",
        "Short 10 from 100. At midnight, the close of bar 1, they are worth 1200; borrowing at 36.5 % a year costs "
        "1200 x 0.365 / 365 = 1.2 for the day.",
        [STILL, ("100", "120", "100", "120", "1000"), ("120", "120", "110", "110", "1000"), STILL],
        {0: SHORT, 2: FLAT},
        [
            (1, "open", "SELL", "10", "100", "0", "11000"),
            (1, "borrow cost", "", "", "", "1.2", "10998.8"),
            (3, "open", "BUY", "10", "100", "0", "9998.8"),
        ],
        changes={"shorting": Shorting(borrow_pct=exact("36.5"))},
        start=MONDAY + 22 * HOUR,
    ),
    WorkedExample(
        "a margin call",
        "1000 cash, short 10 from 100 against 50 % collateral. At 155 equity is 1000 + 1000 - 1550 = 450, less "
        "than 30 % of 1550, 465: bought back at the next open, 156.",
        [STILL, ("100", "155", "100", "155", "1000"), ("156", "160", "156", "160", "1000")],
        {0: SHORT},
        [
            (1, "open", "SELL", "10", "100", "0", "2000"),
            (2, "open", "BUY", "10", "156", "0", "440"),
        ],
        cash="1000",
        changes={"shorting": Shorting(margin_pct=exact("50"), maintenance_pct=exact("30"))},
    ),
    WorkedExample(
        "two stops in one bar",
        "The stop is 9 % below the entry, the trailing stop 2 %: the price passes 98 on its way to 91.",
        [STILL, ("100", "100", "90", "92", "1000")],
        {0: LONG},
        [
            (1, "open", "BUY", "10", "100", "0", "9000"),
            (1, "canceled", "", "", "", "", "9000"),
            (1, "inside", "SELL", "10", "98", "0", "9980"),
        ],
        changes={"exits": Exits(None, stop_pct=exact("9"), trail_pct=exact("2"))},
    ),
    WorkedExample(
        "an open beyond the collar",
        "With a close of 100 and a collar of 5 %, nothing is bought above 105. Bar 1 opens when bar 0 closes.",
        [STILL, ("106", "106", "106", "106", "1000")],
        {0: LONG},
        [(0, "canceled", "", "", "", "", "10000")],
        changes={"limits": RiskLimits(None, None, collar_pct=exact("5"))},
    ),
    WorkedExample(
        "a squeeze beyond all equity",
        "Short 10 at 100 with initial cash of 1,000: at 235 equity is 2000 - 2350. The broker liquidates at once.",
        [STILL, ("100", "235", "100", "120", "1000")],
        {0: SHORT},
        [
            (1, "open", "SELL", "10", "100", "0", "2000"),
            (1, "inside", "BUY", "10", "235", "0", "-350"),
        ],
        cash="1000",
        changes={"shorting": Shorting(margin_pct=exact("0"))},
    ),
    WorkedExample(
        "the last bar of a session",
        "The FX session ends at 17:00 in New York, 22:00 UTC in winter. At 21:00 one bar is left: the position is "
        "closed at its open.",
        [STILL, STILL, ("101", "101", "101", "101", "1000"), ("102", "102", "102", "102", "1000")],
        {0: LONG},
        [
            (1, "open", "BUY", "10", "100", "0", "9000"),
            (3, "open", "SELL", "10", "102", "0", "10020"),
        ],
        changes={"exits": Exits(None, session_end=True)},
        instrument=Instrument("AAA", "USD", 2, exact("1"), calendar="FX"),
        start=MONDAY + 18 * HOUR,
    ),
    WorkedExample(
        "a price in another currency",
        "Quoted in EUR, held in USD. 10 at 100 with a euro at 1.1 cost 1100; sold at 110 with a euro at 1.2 they "
        "bring 1320.",
        [STILL, ("100", "110", "100", "110", "1000"), ("110", "110", "110", "110", "1000")],
        {0: LONG, 1: FLAT},
        [
            (1, "open", "BUY", "10", "100", "0", "8900"),
            (2, "open", "SELL", "10", "110", "0", "10220"),
        ],
        instrument=Instrument("AAA", "EUR", 2, exact("1")),
        rates=[("1.1", "1.1", "1.1", "1.1", "0"), ("1.1", "1.2", "1.1", "1.2", "0"), ("1.2", "1.2", "1.2", "1.2", "0")],
    ),
]
