"""View of the market at one instant, limited to the data known at that instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from engine.core.market import Bar, Symbol
from engine.core.session_ends import Schedule

DEFAULT_SCHEDULE = Schedule()


class MarketView(msgspec.Struct, frozen=True, gc=False):
    """Market data at one instant.

    closed: bars that close at `at`, in symbol order; latest: the last closed bar of each symbol; marks: their closes.
    bars_held: for each symbol with a position, the number of its bars closed since the open, entry bar included.
    ranges: true ranges of each symbol's latest bars, oldest first, for symbols whose stops depend on them.
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
