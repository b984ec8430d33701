"""What is built in: the symbols people ask for, the lengths of bars."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import get_args

import msgspec
import polars as pl
import pytest
from msgspec.structs import replace

from engine.core.errors import BadInput
from engine.core.market import BUILT_IN_INSTRUMENTS, Calendar, Timeframe, instrument_for
from engine.data.calendars import TABLE_FIRST, TABLE_LAST, Span, bar_of_day, grid

FUTURES = ("CL", "GC", "ES", "NQ")


@pytest.mark.parametrize("symbol", FUTURES)
def test_a_future_is_known_by_its_root_and_by_its_ticker(symbol: str) -> None:
    root = instrument_for(symbol)
    assert instrument_for(f"{symbol}=F") == replace(root, symbol=f"{symbol}=F")
    assert root.quantity_step == 1


def test_a_tick_of_a_future_is_worth_what_its_exchange_says() -> None:
    worth = {symbol: instrument_for(symbol).multiplier * (instrument_for(symbol).tick or 0) for symbol in FUTURES}
    assert worth == {"CL": Decimal(10), "GC": Decimal(10), "ES": Decimal("12.5"), "NQ": Decimal(5)}


def test_every_symbol_trades_by_the_calendar_of_its_market() -> None:
    assert {symbol: instrument.calendar for symbol, instrument in BUILT_IN_INSTRUMENTS.items()} == (
        {"BTC-USD": "24/7", "EUR-USD": "FX", "DXY": "FX"}
        | dict.fromkeys(("CL", "GC", "CL=F", "GC=F"), "NYMEX")
        | dict.fromkeys(("ES", "NQ", "ES=F", "NQ=F"), "CME")
        | dict.fromkeys(("SPX", "DJI", "VIX", "QQQ", "AAPL", "TSLA"), "XNYS")
    )


def test_a_tick_can_be_shown_in_the_decimals_of_its_instrument() -> None:
    for instrument in BUILT_IN_INSTRUMENTS.values():
        assert instrument.tick is not None
        assert instrument.tick == round(instrument.tick, instrument.price_decimals)


def test_timeframes_grow_from_a_minute_to_a_month_and_are_parsed_by_name() -> None:
    names = ["1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1mo"]
    assert list(map(Timeframe.parse, names)) == list(Timeframe)
    assert all(shorter.duration < longer.duration for shorter, longer in pairwise(Timeframe))
    assert [timeframe for timeframe in Timeframe if not timeframe.is_intraday] == ["1d", "1w", "1mo"]
    assert [Timeframe.W1.duration, Timeframe.MO1.duration] == [timedelta(days=7), timedelta(days=31, hours=1)]
    with pytest.raises(BadInput, match=f"use one of {', '.join(names)}"):
        Timeframe.parse("1M")


@pytest.mark.slow
@pytest.mark.parametrize("calendar", get_args(Calendar))
def test_no_bar_of_any_calendar_outlasts_its_timeframe(calendar: Calendar) -> None:
    # A month less at both ends: the bars around them are looked at too.
    years = Span(datetime(TABLE_FIRST.year, 3, 1, tzinfo=UTC), datetime(TABLE_LAST.year, 11, 1, tzinfo=UTC))
    for timeframe in (Timeframe.H4, Timeframe.D1, Timeframe.W1, Timeframe.MO1):
        bars = grid(calendar, timeframe, years)
        assert bars.filter(pl.col("closed_at") - pl.col("opened_at") > timeframe.duration).is_empty()


def test_a_month_in_which_clocks_are_set_back_is_the_longest_bar() -> None:
    october = bar_of_day("FX", Timeframe.MO1, date(2003, 10, 1))
    assert october is not None
    assert october.end - october.start == Timeframe.MO1.duration == timedelta(days=31, hours=1)


def test_a_made_up_symbol_has_the_instrument_of_the_market_it_imitates() -> None:
    for symbol in ("SYNTHETIC.ES", "SYNTHETIC.ES.7"):
        assert instrument_for(symbol) == msgspec.structs.replace(instrument_for("ES"), symbol=symbol)
