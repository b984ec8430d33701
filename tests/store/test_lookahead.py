"""Nothing that happens after an instant changes anything before it: neither in the book nor in the rules analyst."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.analyst import ensure_analyses
from engine.core.events import AnalysisMade, BookEvent, OrderFilled
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Timeframe
from engine.core.money import exact
from engine.data.memory import MemoryCatalogue
from engine.store import read_from
from engine.store.memory import MemoryStore
from tests.support.strategies import HOUR, History, config_of, histories, run_history
from tests.support.workloads import walk

LATER = datetime(2030, 1, 1, tzinfo=UTC)


def poisoned(bars: list[Bar], after: datetime, factor: str) -> list[Bar]:
    """The same bars, but everything unknown at an instant is wrong: all of a bar that closes after it, except the open
    of one that has begun."""
    wrong = exact(factor)
    return [
        bar if bar.closed_at <= after else _poisoned(bar, wrong, began=bar.opened_at <= after)
        for bar in bars
    ]  # fmt: skip


def _poisoned(bar: Bar, wrong: Decimal, *, began: bool) -> Bar:
    open_ = bar.open if began else exact(bar.open * wrong)
    close = exact(bar.close * wrong)
    high, low = exact(max(open_, close) * 2), exact(min(open_, close) / 2)
    return msgspec.structs.replace(bar, open=open_, high=high, low=low, close=close, volume=Decimal(7))


def until(events: list[BookEvent], at: datetime) -> list[BookEvent]:
    return [event for event in events if event.at <= at]


@given(histories(), st.data())
@settings(max_examples=100)
def test_no_event_knows_a_price_that_came_after_it(history: History, data: st.DataObject) -> None:
    instants = sorted({at for bars in history.bars for bar in bars for at in (bar.opened_at, bar.closed_at)})
    now = data.draw(st.sampled_from(instants[:-1]))
    factor = data.draw(st.sampled_from(["0.01", "100"]))
    other = history._replace(bars=[poisoned(bars, now, factor) for bars in history.bars])
    assert until(run_history(other).events, now) == until(run_history(history).events, now)


@given(histories(), st.data())
@settings(max_examples=50)
def test_no_event_knows_a_wish_that_came_after_it(history: History, data: st.DataObject) -> None:
    instants = sorted({bar.closed_at for bars in history.bars for bar in bars})
    now = data.draw(st.sampled_from(instants[:-1]))
    other = history._replace(script={key: wish for key, wish in history.script.items() if key[1] <= now})
    ours, theirs = until(run_history(history).events, now), until(run_history(other).events, now)
    assert ours == theirs


def test_the_poison_works() -> None:
    """Bars that change what is known do change the events: the laws above can fail."""
    bars = walk("AAA", 3, 60, 100.0, 0.01)
    script = {("AAA", bar.closed_at): wish(bar, n) for n, bar in enumerate(bars)}
    history = History(config_of(quantity="10"), [bars], script)
    now = bars[30].closed_at
    wrong = history._replace(bars=[poisoned(bars, now, "2")])
    assert until(run_history(wrong).events, now + 5 * HOUR) != until(run_history(history).events, now + 5 * HOUR)


def wish(bar: Bar, n: int) -> Intent:
    return Intent(bar.symbol, Direction.LONG if n % 4 < 2 else Direction.FLAT, Decimal(1), f"wish-{n}")


# --- Through the real analyst -------------------------------------------------------------------------------------

COUNT = 420


def ruled(bars_by_symbol: list[list[Bar]]) -> tuple[list[AnalysisMade], list[BookEvent]]:
    """Analyses and book of a backtest with the rules analyst."""
    catalogue, store = MemoryCatalogue(), MemoryStore()
    for bars in bars_by_symbol:
        catalogue.add(bars[0].symbol, Timeframe.H1, bars, source="test", learned_at=LATER)
    symbols = [bars[0].symbol for bars in bars_by_symbol]
    formed = ensure_analyses(store, catalogue, symbols, Timeframe.H1, None, None, actor="test")
    script = {(bar.symbol, bar.closed_at): formed.intent(bar) for bars in bars_by_symbol for bar in bars}
    config = config_of(symbols, slippage_bps="5", commission_bps="10", position_pct="10", holding_bars=4)
    events = run_history(History(config, bars_by_symbol, script), store).events
    return [row.event for row in read_from(store, ["AnalysisMade.v3"]) if isinstance(row.event, AnalysisMade)], events


@given(st.integers(260, COUNT - 2), st.sampled_from([(11, 7), (23, 5)]))
@settings(max_examples=4)
def test_the_rules_analyst_and_its_book_know_no_later_bar(last: int, seeds: tuple[int, int]) -> None:
    bars = [walk(symbol, seed, COUNT, 100.0, 0.01) for symbol, seed in zip(("AAA", "BBB"), seeds, strict=True)]
    now = bars[0][last].closed_at
    made, events = ruled(bars)
    made_other, events_other = ruled([poisoned(each, now, "3") for each in bars])
    assert [fact for fact in made_other if fact.as_of <= now] == [fact for fact in made if fact.as_of <= now]
    assert until(events_other, now) == until(events, now)
    assert made_other != made


def test_the_synthetic_bars_make_the_rules_analyst_trade() -> None:
    for seed in (11, 7, 23, 5):
        _, events = ruled([walk("AAA", seed, COUNT, 100.0, 0.01)])
        assert any(isinstance(event, OrderFilled) for event in events)
