"""Histories for laws: any account, any bars of one to three symbols with holes, any wishes. And how to play one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from hypothesis import strategies as st

from engine.config import Costs, Exits, RiskLimits, RunConfig, Sizing, digest_of
from engine.events import BookEvent
from engine.feed.recorded import moments
from engine.market import Bar, Direction, Instrument, Timeframe
from engine.money import exact
from engine.orders import Wish
from engine.session import Journal, Session
from engine.store import Cause, Store
from engine.store.memory import MemoryStore

HOUR = timedelta(hours=1)
# A Friday evening: a session roll and a weekend come soon.
FIRST = datetime(2024, 1, 5, 19, tzinfo=UTC)
SYMBOLS = ("AAA", "BBB", "CCC")
STREAM = "book:law"

Script = dict[tuple[str, datetime], Wish]


class Scripted:
    """Answers with what a test wrote down, and with nothing where it wrote nothing."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def wish(self, bar: Bar) -> Wish | None:
        return self._script.get((bar.symbol, bar.closed_at))


class History(NamedTuple):
    """Everything a book is a function of."""

    config: RunConfig
    bars: list[list[Bar]]
    script: Script


class Played(NamedTuple):
    """A history after its session: the book's events in order, and the session itself."""

    events: list[BookEvent]
    session: Session
    journal: Journal


def play(history: History, store: Store | None = None, stream: str = STREAM) -> Played:
    """Drives the real session over a history to its end."""
    store = MemoryStore() if store is None else store
    journal = Journal(store, stream, Cause("a law"))
    config = history.config
    session = Session(config, digest_of(config), Scripted(history.script), journal)
    for moment in moments(history.bars):
        session.advance(moment)
    session.end()
    return Played([row.event for row in store.read(stream) if isinstance(row.event, BookEvent)], session, journal)


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
            Instrument(s, "USD", 2, draw(_one_of("0.00000001", "0.01", "1")), draw(_one_of("1", "0.1", "50")))
            for s in symbols
        ),
        costs=Costs(
            draw(_one_of("0", "3.3") if all_in else _one_of("0", "5", "200", "3.3")),
            draw(_one_of("0", "1.7") if all_in else _one_of("0", "10", "1.7")),
        ),
        sizing=Sizing(
            "fixed_quantity" if fixed else "confidence",
            draw(_one_of("100", "95") if all_in else _one_of("5", "40")),
            draw(_one_of("1", "7", "333.25")) if fixed else None,
        ),
        limits=RiskLimits(
            None if all_in else draw(_pct("10", "40", "100", "0")),
            draw(_pct("5", "1", "30", "0")),
            draw(st.sampled_from([True, True, True, False])),
        ),
        exits=Exits(draw(st.sampled_from([None, 1, 2, 4, 7])), draw(st.booleans())),
        periods_per_year=365,
        session_roll_hour=draw(st.sampled_from([0, 22])),
        pyramid=draw(st.booleans()),
    )


# Hours that pass before a bar opens: mostly none; an hour's hole; a weekend.
_holes = st.sampled_from([0] * 12 + [1, 49])
# Changes of the price in per mille: mostly quiet, sometimes a crash or a leap.
_moves = st.integers(-15, 15) | st.integers(-300, 400)


@st.composite
def series(draw: st.DrawFn, symbol: str) -> list[Bar]:
    """The bars of one symbol: gaps between close and open, holes in time, any start."""
    at = FIRST + draw(st.integers(0, 3)) * HOUR
    price = draw(st.integers(50, 2_000_000))
    bars: list[Bar] = []
    count = draw(st.sampled_from([2, 6, 12, 20]))
    for hole, gap, move in draw(st.lists(st.tuples(_holes, _moves, _moves), min_size=count, max_size=count)):
        at += hole * HOUR
        open_ = max(1, price + price * gap // 1000)
        price = max(1, open_ + open_ * move // 1000)
        bars.append(bar_at(symbol, at, str(Decimal(open_).scaleb(-2)), str(Decimal(price).scaleb(-2))))
        at += HOUR
    return bars


_wishes = st.tuples(
    st.sampled_from([Direction.LONG, Direction.SHORT, Direction.LONG, Direction.SHORT, *Direction, None]),
    confidences,
    st.sampled_from([None, 1, 3]),
)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any history: bars of one to three symbols, and a wish, HOLD or silence at every close."""
    symbols = SYMBOLS[: draw(st.integers(1, 3))]
    bars = [draw(series(symbol)) for symbol in symbols]
    closing = [bar for each in bars for bar in each]
    wishes = draw(st.lists(_wishes, min_size=len(closing), max_size=len(closing)))
    script = {
        (bar.symbol, bar.closed_at): Wish(bar.symbol, direction, confidence, f"law#{bar.symbol}#{n}", 1, horizon)
        for n, (bar, (direction, confidence, horizon)) in enumerate(zip(closing, wishes, strict=True))
        if direction is not None
    }
    return History(draw(configs(symbols)), bars, script)
