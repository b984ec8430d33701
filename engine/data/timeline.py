"""Timeline of stored bars: the instants at which prices become known, in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from engine.core.market import Bar, Symbol

_CLOSE, _OPEN = 0, 1


class TimeSlice(NamedTuple):
    """An instant with the bars that close then, and (symbol, open price) of those that open; both in symbol order."""

    at: datetime
    closed: tuple[Bar, ...]
    opened: tuple[tuple[Symbol, Decimal], ...]


def time_slices(bars_by_symbol: Sequence[Iterable[Bar]]) -> Iterator[TimeSlice]:
    """Merge the bars of several symbols into time slices; the bars of each symbol are in order and do not overlap.

    A slice contains only the price of a bar that opens; the rest of the bar is in the slice of its close.
    """
    edges = heapq.merge(
        *(_bar_edges(order, bars) for order, bars in enumerate(bars_by_symbol)), key=itemgetter(0, 1, 2)
    )
    for at, group in groupby(edges, key=itemgetter(0)):
        closed: list[Bar] = []
        opened: list[tuple[Symbol, Decimal]] = []
        for _, kind, _, bar in group:
            if kind == _CLOSE:
                closed.append(bar)
            else:
                opened.append((bar.symbol, bar.open))
        yield TimeSlice(at, tuple(closed), tuple(opened))


def _bar_edges(order: int, bars: Iterable[Bar]) -> Iterator[tuple[datetime, int, int, Bar]]:
    for bar in bars:
        yield bar.opened_at, _OPEN, order, bar
        yield bar.closed_at, _CLOSE, order, bar
