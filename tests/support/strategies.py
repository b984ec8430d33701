"""Histories for laws: any account, any bars of one to three symbols with holes, any wishes. And how to play one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import msgspec
from hypothesis import strategies as st

from engine.core.config import Costs, Entry, Exits, RiskLimits, RunConfig, Shorting, Sizing, digest_of
from engine.core.events import BookEvent, OrderTerms
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Instrument, OrderType, Timeframe, TimeInForce
from engine.core.money import exact
from engine.data.timeline import time_slices
from engine.runtime.session import Journal, Session
from engine.store import Cause, Store
from engine.store.memory import MemoryStore

HOUR = timedelta(hours=1)
# A Friday evening: a session roll and a weekend come soon.
FIRST = datetime(2024, 1, 5, 19, tzinfo=UTC)
SYMBOLS = ("AAA", "BBB", "CCC")
STREAM = "book:law"

Script = dict[tuple[str, datetime], Intent]


class Scripted:
    """Answers with what a test wrote down, and with nothing where it wrote nothing."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def intent(self, bar: Bar) -> Intent | None:
        return self._script.get((bar.symbol, bar.closed_at))


class History(NamedTuple):
    """Everything a book is a function of."""

    config: RunConfig
    bars: list[list[Bar]]
    script: Script


class HistoryRun(NamedTuple):
    """A history after its session: the book's events in order, and the session itself."""

    events: list[BookEvent]
    session: Session
    journal: Journal


def run_history(history: History, store: Store | None = None, stream: str = STREAM) -> HistoryRun:
    """Drives the real session over a history to its end."""
    store = MemoryStore() if store is None else store
    journal = Journal(store, stream, Cause("a law"))
    config = history.config
    session = Session(config, digest_of(config), Scripted(history.script), journal)
    for moment in time_slices(history.bars):
        session.advance(moment)
    session.end()
    return HistoryRun([row.event for row in store.read(stream) if isinstance(row.event, BookEvent)], session, journal)


def bar_at(symbol: str, opened_at: datetime, open_: str, close: str) -> Bar:
    """An hourly bar without wicks."""
    begin, end = exact(open_), exact(close)
    return Bar(symbol, opened_at, opened_at + HOUR, begin, max(begin, end), min(begin, end), end, Decimal(1))


def config_of(
    symbols: Sequence[str] = ("AAA",),
    *,
    cash: str = "100000",
    slippage_bps: str = "0",
    commission_bps: str = "0",
    quantity: str | None = None,
    base_pct: str = "5",
    position_pct: str | None = None,
    daily_loss_pct: str | None = None,
    reversal: bool = True,
    reduce: bool = True,
    holding_bars: int | None = None,
    pyramid: bool = False,
    step: str = "0.00000001",
    multiplier: str = "1",
) -> RunConfig:
    """An account without any limit that is not asked for."""
    return RunConfig(
        cash=exact(cash),
        currency="USD",
        timeframe=Timeframe.H1,
        instruments=tuple(Instrument(s, "USD", 5, exact(step), exact(multiplier)) for s in symbols),
        costs=Costs(exact(slippage_bps), exact(commission_bps)),
        sizing=Sizing(
            "fixed_quantity" if quantity else "confidence", exact(base_pct), exact(quantity) if quantity else None
        ),
        limits=RiskLimits(
            exact(position_pct) if position_pct else None,
            exact(daily_loss_pct) if daily_loss_pct else None,
            reversal,
            reduce=reduce,
        ),
        exits=Exits(holding_bars),
        periods_per_year=365,
        pyramid=pyramid,
    )


# --- Strategies ---------------------------------------------------------------------------------------------------

amounts = st.decimals(-(10**15), 10**15, allow_nan=False, allow_infinity=False, places=12).map(exact)
above_zero = st.integers(1, 10**18).map(lambda units: exact(Decimal(units).scaleb(-9)))
confidences = st.sampled_from(["1", "1", "0.9999", "0.5", "0.3", "0.0001", "0"]).map(exact)


def _one_of(*choices: str) -> st.SearchStrategy[Decimal]:
    return st.sampled_from([exact(choice) for choice in choices])


def _pct(*choices: str) -> st.SearchStrategy[Decimal | None]:
    return st.none() | _one_of(*choices)


# Further limits, a few at a time: every rule says what it sees, whatever the others say.
_EXTRA_LIMITS: list[dict[str, object]] = [
    {"shorts": False, "order_value_max": exact("500"), "collar_pct": exact("0.4")},
    {"order_quantity_max": exact("3"), "net_exposure_pct": exact("20"), "orders_per_step": 1},
    {"position_quantity_max": exact("3"), "drawdown_pct": exact("1"), "orders_per_hour": 1},
    {"gross_exposure_pct": exact("30"), "orders_per_step": 1, "losses_max": 1, "cool_down_bars": 3},
    {"drawdown_pct": exact("2"), "orders_per_hour": 1, "orders_per_step": 1},
    {"symbols": ("BBB",), "trading_from": 1320, "trading_to": 240},
]


@st.composite
def limits(draw: st.DrawFn, all_in: bool) -> RiskLimits:
    plain = RiskLimits(
        None if all_in else draw(_pct("10", "40", "100", "0")),
        draw(_pct("5", "1", "1", "0.5", "0.5", "30", "0")),
        draw(st.sampled_from([True, True, True, False])),
        reduce=draw(st.booleans()),
    )
    return msgspec.structs.replace(plain, **draw(st.sampled_from(_EXTRA_LIMITS))) if draw(st.booleans()) else plain


@st.composite
def costs(draw: st.DrawFn, all_in: bool) -> Costs:
    """Half of them plain: a slippage and a commission. Their orders are all filled at the next open."""
    slippage = draw(_one_of("0", "3.3") if all_in else _one_of("0", "5", "200", "3.3"))
    commission = draw(_one_of("0", "1.7") if all_in else _one_of("0", "10", "1.7"))
    if draw(st.booleans()):
        return Costs(slippage, commission)
    seed = draw(st.none() | st.just(7))
    return Costs(
        slippage,
        commission,
        slippage_volume_bps=draw(_one_of("0", "90")),
        slippage_random_bps=exact("0" if seed is None else "40"),
        seed=seed,
        commission_per_unit=draw(_one_of("0", "0.013")),
        commission_min=draw(_one_of("0", "1.5")),
        volume_cap_pct=draw(st.none() | _one_of("10", "33.3")),
        latency_bars=draw(st.sampled_from([0, 0, 1, 2])),
        round_to_tick=draw(st.booleans()),
    )


_PROTECTIONS = [
    Exits(None),
    Exits(None, stop_pct=exact("1"), risk_reward=exact("1.5")),
    Exits(None, stop_pct=exact("4")),
    Exits(None, stop_ranges=exact("1"), risk_reward=exact("1")),
    Exits(None, trail_pct=exact("1")),
    Exits(None, stop_pct=exact("3"), risk_reward=exact("0.5"), trail_pct=exact("2")),
]


# How many bars a position may be held, and whether it is given up with its session.
_ENDS = [(None, True), (None, False), (1, False), (2, False), (None, True), (4, False), (7, True), (7, False)]


@st.composite
def exits(draw: st.DrawFn) -> Exits:
    holding_bars, session_end = draw(st.sampled_from(_ENDS))
    return msgspec.structs.replace(
        draw(st.sampled_from(_PROTECTIONS)),
        holding_bars=holding_bars,
        from_decision=draw(st.booleans()),
        session_end=session_end,
    )


_entries = st.sampled_from(
    [
        *[Entry()] * 3,
        Entry(OrderType.LIMIT, exact("30"), time_in_force=TimeInForce.DAY),
        Entry(OrderType.STOP, exact("20"), time_in_force=TimeInForce.GTD, valid_bars=2),
        Entry(OrderType.STOP_LIMIT, exact("10"), exact("25")),
    ]
)
_shorting = st.sampled_from(
    [Shorting(), Shorting(exact("36.5"), exact("50"), exact("120")), Shorting(margin_pct=exact("0"))]
)


@st.composite
def configs(draw: st.DrawFn, symbols: Sequence[str]) -> RunConfig:
    """Any account, both ways of sizing, with and without costs and limits. Half of them put everything on one card."""
    all_in = draw(st.booleans())
    fixed = not all_in and draw(st.booleans())
    return RunConfig(
        cash=draw(_one_of("1000", "100000", "98765.4321")),
        currency="USD",
        timeframe=Timeframe.H1,
        instruments=tuple(
            Instrument(
                s,
                "USD",
                2,
                draw(_one_of("0.00000001", "0.01", "1")),
                draw(_one_of("1", "0.1", "50")),
                tick=draw(st.none() | _one_of("0.05")),
            )
            for s in symbols
        ),
        costs=draw(costs(all_in)),
        sizing=Sizing(
            "fixed_quantity" if fixed else "confidence",
            draw(_one_of("100", "95") if all_in else _one_of("5", "40")),
            draw(_one_of("1", "7", "333.25")) if fixed else None,
        ),
        limits=draw(limits(all_in)),
        exits=draw(exits()),
        periods_per_year=365,
        session_roll_hour=draw(st.sampled_from([0, 22])),
        pyramid=draw(st.booleans()),
        entry=draw(_entries),
        shorting=draw(_shorting),
    )


# Hours that pass before a bar opens: mostly none; an hour's hole; a weekend.
_missing_hours = st.sampled_from([0] * 12 + [1, 49])
# Changes of the price in per mille: mostly quiet, sometimes a crash or a leap.
_moves = st.integers(-15, 15) | st.integers(-300, 400) | st.sampled_from([0, 0, 1500])
# How far a bar reaches beyond its open and close, in per mille, and what is traded in it.
_wicks = st.sampled_from([0, 0, 3, 10, 40])
_volumes = st.sampled_from([1000, 60, 7, 0])


@st.composite
def series(draw: st.DrawFn, symbol: str) -> list[Bar]:
    """The bars of one symbol: wicks, gaps between close and open, holes in time, any start."""
    at = FIRST + draw(st.integers(0, 3)) * HOUR
    price = draw(st.integers(50, 20_000) | st.integers(50, 2_000_000))
    bars: list[Bar] = []
    count = draw(st.sampled_from([2, 6, 12, 20]))
    shapes = st.lists(
        st.tuples(_missing_hours, _moves, _moves, _wicks, _wicks, _volumes), min_size=count, max_size=count
    )
    for missing_hours, gap, move, above, below, volume in draw(shapes):
        at += missing_hours * HOUR
        open_ = max(1, price + price * gap // 1000)
        price = max(1, open_ + open_ * move // 1000)
        high, low = max(open_, price), min(open_, price)
        high, low = high + high * above // 1000, max(1, low - low * below // 1000)
        prices = [exact(Decimal(cents).scaleb(-2)) for cents in (open_, high, low, price)]
        bars.append(Bar(symbol, at, at + HOUR, prices[0], prices[1], prices[2], prices[3], Decimal(volume)))
        at += HOUR
    return bars


# Distances from the close in per mille: of the entry's price, its stop and its target, the last two from the first.
_offsets = st.sampled_from([0, 1, -1, 5, -5, 20])
_intents = st.tuples(
    st.sampled_from([Direction.LONG, Direction.SHORT, Direction.LONG, Direction.SHORT, *Direction, None]),
    confidences,
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, None, None, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT]),
    st.sampled_from([(TimeInForce.GTC, 0), (TimeInForce.DAY, 0), (TimeInForce.GTD, 1), (TimeInForce.GTD, 3)]),
    st.tuples(_offsets, st.sampled_from([None, None, 4, 15]), st.sampled_from([None, None, 4, 15, 4, 15, -4])),
)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any history: bars of one to three symbols, and a wish, HOLD or silence at every close."""
    symbols = SYMBOLS[: draw(st.integers(1, 3))]
    bars = [draw(series(symbol)) for symbol in symbols]
    closing = [bar for each in bars for bar in each]
    script: Script = {}
    for n, bar in enumerate(closing):
        direction, confidence, horizon, kind, ends, offsets = draw(_intents)
        if direction is not None:
            plain = Intent(bar.symbol, direction, confidence, f"law#{bar.symbol}#{n}", 1, horizon)
            script[bar.symbol, bar.closed_at] = _with_prices(plain, bar, kind, ends, offsets)
    return History(draw(configs(symbols)), bars, script)


def _with_prices(
    intent: Intent,
    bar: Bar,
    kind: OrderType | None,
    ends: tuple[TimeInForce, int],
    offsets: tuple[int, int | None, int | None],
) -> Intent:
    """The wish with an entry of its own, a stop and a target; of a FLAT one they mean nothing."""
    away, below, above = offsets
    sign = -1 if intent.direction is Direction.SHORT else 1

    def at(per_mille: int) -> Decimal:
        return exact((bar.close * (1000 + per_mille) / 1000).quantize(Decimal("0.01")).max(Decimal("0.01")))

    near = 0 if kind is None else away
    entry = None
    if kind is not None:
        in_force, hours = ends
        entry = OrderTerms(
            kind,
            limit_price=at(away) if kind is not OrderType.STOP else None,
            stop_price=at(away) if kind is not OrderType.LIMIT else None,
            time_in_force=in_force,
            expires_at=bar.closed_at + hours * HOUR if in_force is TimeInForce.GTD else None,
        )
    return msgspec.structs.replace(
        intent,
        stop=None if below is None else at(near - sign * below),
        target=None if above is None else at(near + sign * above),
        entry=entry,
    )
