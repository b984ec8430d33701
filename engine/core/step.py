"""What the market shows at one instant, as far as it can be known then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from engine.core.market import Bar, Symbol
from engine.core.session_ends import Schedule

DEFAULT_SCHEDULE = Schedule()


class MarketView(msgspec.Struct, frozen=True, gc=False):
    """One instant of market time.

    closed: bars that end at `at`, in symbol order; latest: the last closed bar of each symbol; marks: their closes.
    bars_held: for each symbol with a position, how many of its bars have closed since it was opened, its entry bar
    included. ranges: the true ranges of each symbol's latest bars, oldest first, where exits are measured in them.
    schedule: the sessions of the markets.
    """

    at: datetime
    previous_at: datetime | None
    closed: tuple[Bar, ...]
    latest: Mapping[Symbol, Bar]
    marks: Mapping[Symbol, Decimal]
    bars_held: Mapping[Symbol, int] = {}
    ranges: Mapping[Symbol, Sequence[Decimal]] = {}
    schedule: Schedule = DEFAULT_SCHEDULE
