"""Ten thousand wishes that no sane analyst would have, through real sessions under tight limits of every kind.

Nothing raises, and after every order and every fill the account is inside its limits: by arithmetic of its own here,
with fractions, which asks nothing of `engine.trading.risk` but the names of its rules.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from random import Random

import msgspec

from engine.core.config import Costs, Exits, Override, RiskLimits, RunConfig, Shorting, Sizing, digest_of
from engine.core.events import (
    OrderFilled,
    OrderTerms,
    RiskDecided,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, OrderType, Timeframe, TimeInForce
from engine.core.money import exact
from engine.data.timeline import time_slices
from engine.runtime.session import Journal, Session
from engine.store import Cause
from engine.store.memory import MemoryStore
from engine.trading.book import DRAWDOWN
from engine.trading.risk import RULES
from tests.support.hostile_intents import BAR, RATE, TRADED, Witness, bars_of, commands_of

WISHES = 10_000


# --- Accounts, markets and wishes, drawn from a seed --------------------------------------------------------------


def config_of(random: Random) -> RunConfig:
    """Every limit, most of them so tight that it is met; where exposure is loose, cash is what runs out."""
    cash, position, gross, net = random.choice(["100000 30 50 35", "20000 300 900 900"]).split()
    return RunConfig(
        cash=exact(cash),
        currency="USD",
        timeframe=Timeframe.M15,
        instruments=TRADED,
        costs=Costs(exact("3.3"), exact("1.7"), commission_min=exact("1"), volume_cap_pct=exact("50")),
        sizing=Sizing("confidence", exact(random.choice(["5", "60", "1000"]))),
        limits=RiskLimits(
            position_pct=exact(position),
            daily_loss_pct=exact("1"),
            reversal=random.random() < 0.7,
            shorts=random.random() < 0.7,
            reduce=random.random() < 0.7,
            position_quantity_max=exact("2000"),
            order_value_max=exact("25000"),
            order_quantity_max=exact("1500"),
            gross_exposure_pct=exact(gross),
            net_exposure_pct=exact(net),
            drawdown_pct=exact("2.5"),
            losses_max=4,
            cool_down_bars=3,
            orders_per_step=2,
            orders_per_hour=3,
            collar_pct=exact("4"),
            stale_bars=2,
            symbols=("AAA", "BBB", "CCC") if random.random() < 0.8 else ("AAA", "CCC"),
            trading_from=60,
            trading_to=23 * 60,
        ),
        exits=Exits(holding_bars=6, from_decision=True, stop_pct=exact("2"), risk_reward=exact("1.5")),
        periods_per_year=252,
        pyramid=random.random() < 0.7,
        shorting=Shorting(margin_pct=exact("50")),
        overrides=(Override("CCC", position_pct=exact("12")),),
        rates=(RATE,),
    )


HOSTILE = [
    "NaN",
    "sNaN",
    "Infinity",
    "-Infinity",
    "-1",
    "0",
    "-0",
    "1E-13",
    "1E+30",
    "9" * 30,
    "1.10",
    "0.000000000001",
]


class Hostile:
    """An analyst that answers every bar: mostly sane enough to come through, else with one thing that is absurd."""

    def __init__(self, random: Random) -> None:
        self._random, self.asked = random, 0

    def intent(self, bar: Bar) -> Intent | None:
        self.asked += 1
        random, last = self._random, bar.close
        wish = Intent(
            bar.symbol,
            random.choice([Direction.LONG, Direction.SHORT, *Direction]),
            exact(random.choice(["1", "1", "0.5", "0.0001", "0.123456789012"])),
            f"hostile-{self.asked}",
            horizon_bars=random.choice([None, 1, 5, 10**9]),
            entry=random.choice([None, None, self._entry(last, bar.closed_at)]),
        )
        return msgspec.structs.replace(wish, **self._absurd(last)) if random.random() < 0.4 else wish

    def _absurd(self, last: Decimal) -> dict[str, object]:
        random = self._random
        name = random.choice(["confidence", "stop", "target", "risk_reward", "horizon_bars"])
        if name == "horizon_bars":
            return {name: random.choice([0, -1, -(10**9)])}
        return {name: random.choice([*map(Decimal, HOSTILE), last, near(random, last, "0.2")])}

    def _entry(self, last: Decimal, at: datetime) -> OrderTerms | None:
        random = self._random
        prices: dict[str, Decimal] = {}
        for name in ("limit_price", "stop_price", "trail"):
            if random.random() < (0.6 if name != "trail" else 0.05):
                absurd = [exact("-5"), exact("0"), exact("0.000000000001"), exact("9" * 30)]
                prices[name] = random.choice([near(random, last, "0.02")] * 8 + absurd)
        expires_at = random.choice([None, None, at + random.randrange(-5, 9) * BAR])
        return OrderTerms(
            random.choice(list(OrderType)),
            time_in_force=random.choice(list(TimeInForce)),
            expires_at=expires_at,
            **prices,
        )


def near(random: Random, price: Decimal, reach: str) -> Decimal:
    """A price with all its decimals, at most so far off."""
    return exact(price * (1 + Decimal(reach) * Decimal(random.randrange(-(10**9), 10**9)) / 10**9))


# --- Limits, by other arithmetic ----------------------------------------------------------------------------------


def test_ten_thousand_hostile_wishes_break_no_limit() -> None:
    random = Random(20240105)
    asked = orders = fills = 0
    verdicts: set[Verdict] = set()
    denied: set[str] = set()
    while asked < WISHES:
        config = config_of(random)
        analyst, witness = Hostile(random), Witness(config)
        is_down, last_equity = False, Fraction(config.cash)
        session = Session(
            config, digest_of(config), analyst, Journal(MemoryStore(), "book:hostile", Cause("hostility"))
        )
        for moment in time_slices([bars_of(random, instrument) for instrument in (*TRADED, RATE)]):
            known = dict(witness.closes)
            for bar in moment.closed:
                known[bar.symbol] = Fraction(bar.close)
                witness.closed_at[bar.symbol] = bar.closed_at
            witness.closes = known
            at_close: Fraction | None = None
            for event in session.advance(moment, commands_of(random, moment.at)):
                if at_close is None and isinstance(event, OrderFilled) and event.bar_opened_at == moment.at:
                    at_close = witness.equity()
                witness.take(event)
                if isinstance(event, RiskDecided):
                    verdicts.add(event.verdict)
                    denied |= {check.rule for check in event.checks if not check.passed}
                if isinstance(event, TradingHalted) and event.actor == DRAWDOWN:
                    is_down = True
                if isinstance(event, TradingResumed) and event.actor == "operator" and is_down:
                    # Up to the close that the operator could have seen.
                    witness.peak, is_down = last_equity, False
            last_equity = witness.equity() if at_close is None else at_close
            witness.peak = max(witness.peak, last_equity)
        asked, orders, fills = asked + analyst.asked, orders + witness.orders, fills + witness.fills
    # The test is worth something only where much comes through, and every rule has said no.
    assert verdicts == set(Verdict)
    assert orders > 300
    assert fills > 300
    assert denied == set(RULES) - {"stale_price"}
