"""Narration of the log: one line of text per event, with filters.

The log is read page by page and no page is kept, so memory does not grow with the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import NamedTuple

from engine.core.errors import BadInput
from engine.core.events import (
    EVENT_TYPES,
    AlertRaised,
    AnalysesConsulted,
    AnalysisFailed,
    AnalysisMade,
    AnchoringRestarted,
    BookOpened,
    CashAdjusted,
    Event,
    FeedResumed,
    GraphWork,
    LogAdopted,
    ModelActivated,
    ModelSaved,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    PositionsMarked,
    ProfileActivated,
    ProfileSaved,
    RiskDecided,
    RunEnded,
    RunFailed,
    RunRequested,
    RunStarted,
    SignalRaised,
    SignalsImported,
    SlotClaimed,
    SlotCompleted,
    SlotFailed,
    TradingEnded,
    TradingHalted,
    TradingResumed,
    Verdict,
)
from engine.core.market import Symbol
from engine.core.upcasters import event_names
from engine.data.signals import VARIANT_PREFIX
from engine.store import PAGE, LogEntry, Store

LEVELS = ("info", "notice", "warning")

_NOTICES = {RunRequested, RunStarted, RunEnded, OrderPlaced, OrderFilled, OrderCanceled, TradingResumed}
_WARNINGS = {
    *(OrderRejected, TradingHalted, TradingEnded, RunFailed, SlotFailed, AnalysisFailed),
    *(LogAdopted, AnchoringRestarted),
}


class EventGroup(NamedTuple):
    """A named group of events: their types and the lowest level that is shown."""

    kinds: tuple[type[Event], ...]
    level: str = "info"


# Most verdicts approve. At level `warning` the store returns only the denials, which saves reading the others.
_VERDICTS = event_names([RiskDecided])
_DENIED = b'"verdict":"DENIED"'

GROUPS = {
    "trades": EventGroup((OrderFilled,)),
    "orders": EventGroup((OrderPlaced, OrderFilled, OrderRejected, OrderCanceled)),
    "signals": EventGroup((SignalRaised,)),
    "denials": EventGroup((RiskDecided,), "warning"),
    "halts": EventGroup((TradingHalted, TradingResumed, TradingEnded)),
}


class NarrationLine(NamedTuple):
    """One event as a line for the user. at: its market time, or its recording time if it has none."""

    position: int
    at: datetime
    level: str
    name: str
    symbols: tuple[Symbol, ...]
    run_id: str
    description: str
    event: LogEntry


class LineFilter(NamedTuple):
    """Conditions that a line must meet. names: stored event names, empty for all; run_id: a complete id."""

    names: tuple[str, ...] = ()
    level: str = "info"
    symbol: Symbol | None = None
    run_id: str | None = None
    on: date | None = None

    def matches(self, line: NarrationLine) -> bool:
        return (
            (not self.names or line.name in self.names)
            and LEVELS.index(line.level) >= LEVELS.index(self.level)
            and (self.symbol is None or self.symbol in line.symbols)
            and (self.run_id is None or self.run_id == line.run_id)
            and (self.on is None or self.on == line.at.date())
        )

    def filter_rows(self, rows: Iterable[LogEntry]) -> Iterator[NarrationLine]:
        """Yield the lines of the events that match."""
        return filter(self.matches, map(narrate, rows))


def build_filter(
    name: str | None = None, level: str = "info", symbol: Symbol | None = None, on: date | None = None
) -> LineFilter:
    """Return the filter for an event (`OrderFilled`, `OrderFilled.v1`) or a group (`trades`).

    Raise `BadInput`, listing the valid values, for an unknown name or level.
    """
    if level not in LEVELS:
        raise BadInput(f"level {level!r} is unknown: use one of {', '.join(LEVELS)}.")
    if name is None:
        # Types that never reach the requested level need not be read.
        kinds = [kind for kind in EVENT_TYPES if LEVELS.index(_highest(kind)) >= LEVELS.index(level)]
        return LineFilter(() if level == LEVELS[0] else event_names(kinds), level, symbol, None, on)
    if name in GROUPS:
        group = GROUPS[name]
        return LineFilter(event_names(group.kinds), max(level, group.level, key=LEVELS.index), symbol, None, on)
    stored = tuple(known for known in event_names(EVENT_TYPES) if name in (known, known.partition(".")[0]))
    if not stored:
        events = ", ".join(kind.__name__ for kind in EVENT_TYPES)
        raise BadInput(f"event {name!r} is unknown: use one of {', '.join(GROUPS)}, or of {events}.")
    return LineFilter(stored, level, symbol, None, on)


def _highest(kind: type[Event]) -> str:
    """Return the highest level that an event of a type can have."""
    if kind in _WARNINGS or kind is RiskDecided:
        return "warning"
    return "notice" if kind in _NOTICES else "info"


# --- Reading lines ------------------------------------------------------------------------------------------------


def read_narration(store: Store, wanted: LineFilter, until: int) -> Iterator[NarrationLine]:
    """Yield the lines up to a position, oldest first."""
    after = 0
    while page := store.read_all(after, PAGE, wanted.names, until + 1):
        yield from wanted.filter_rows(page)
        after = page[-1].position


def read_latest_narration(store: Store, wanted: LineFilter, until: int, limit: int) -> list[NarrationLine]:
    """Return the last `limit` lines up to a position, oldest first. Reads backwards, no further than needed."""
    having = dict.fromkeys(_VERDICTS, _DENIED) if wanted.level == LEVELS[-1] else {}
    found: list[NarrationLine] = []
    size, before = min(limit, PAGE), until + 1
    while len(found) < limit and (page := store.read_newest(size, wanted.names, before, having)):
        found += wanted.filter_rows(page)
        before = page[-1].position
        # Matching lines may be rare, so read larger pages as the search goes on.
        size = min(4 * size, PAGE)
    return found[:limit][::-1]


# --- Describing one event -----------------------------------------------------------------------------------------


def narrate(row: LogEntry) -> NarrationLine:
    event = row.event
    at = market_time(event) or row.meta.recorded_at
    return NarrationLine(
        row.position,
        at,
        event_level(event),
        row.name,
        event_symbols(event),
        event_run_id(row),
        describe_event(event),
        row,
    )


def market_time(event: Event) -> datetime | None:
    """Return the market time of an event; None for events without one, such as saved profiles."""
    for name in ("at", "as_of", "due_at", "ended_at", "started_from"):
        at = getattr(event, name, None)
        if isinstance(at, datetime):
            return at
    return None


def event_level(event: Event) -> str:
    """Return the level of an event: `warning` for denials, halts and failures, `notice`, or `info`."""
    denied = isinstance(event, RiskDecided) and event.verdict is Verdict.DENIED
    if denied or type(event) in _WARNINGS:
        return "warning"
    return "notice" if type(event) in _NOTICES else "info"


def event_symbols(event: Event) -> tuple[Symbol, ...]:
    """Return the symbols that an event concerns."""
    match event:
        case RunRequested(config=config):
            return config.symbols
        case PositionsMarked(marks=marks):
            return tuple(symbol for symbol, _ in marks)
        case BookOpened(instruments=instruments):
            return tuple(instrument.symbol for instrument in instruments)
        case SlotCompleted(outcomes=outcomes):
            return tuple(symbol for symbol, _ in outcomes)
        case SignalsImported(symbols=symbols) | SlotClaimed(symbols=symbols):
            return symbols
        case _:
            symbol: Symbol | None = getattr(event, "symbol", None)
            return () if symbol is None else (symbol,)


def event_run_id(row: LogEntry) -> str:
    """Return the run of an event; empty for events shared by runs, such as analyses."""
    kind, _, run_id = row.stream.partition(":")
    return run_id if kind in ("run", "book") else row.meta.correlation


def describe_event(event: Event) -> str:
    """Return a one-line description of an event."""
    match event:
        case SignalRaised():
            return f"{event.direction} from {describe_source(event)}, close {event.reference_price}"
        case RiskDecided():
            return f"{event.verdict} {event.side} {event.quantity}: {event.reason}"
        case OrderPlaced():
            return f"{event.side} {event.quantity} {event.symbol}, {describe_terms(event)}"
        case OrderFilled():
            return (
                f"{event.side} {event.quantity} at {event.price} ({_reference_label(event)} {event.reference_price}), "
                f"commission {event.commission}"
            )
        case OrderRejected():
            return f"{event.reason}: {event.required} needed, {event.available} free"
        case OrderCanceled():
            return event.reason
        case OrderReplaced():
            return f"replaced by {event.replaced_by}"
        case OrderExpired():
            return "its time in force has ended"
        case CashAdjusted():
            return f"{event.amount} for {event.reason.replace('_', ' ')} {event.symbol}".rstrip()
        case BookOpened():
            return f"opened with {event.cash} {event.currency}"
        case AnalysesConsulted():
            return f"{len(event.analyses)} analyses consulted since the previous session roll"
        case PositionsMarked():
            return f"equity {event.equity}, cash {event.cash} ({event.occasion})"
        case TradingHalted():
            return f"{event.scope} halted by {event.actor}: {event.reason}"
        case TradingResumed():
            lifted = f" (halted by {', '.join(event.lifted)})" if event.lifted else ""
            return f"resumed by {event.actor}{lifted}: {event.reason}"
        case TradingEnded():
            return f"trading has ended: {event.reason}, equity {event.equity}"
        case AnalysisMade():
            return f"{event.variant}: {event.decision}, confidence {event.confidence}, from {event.window_bars} bars"
        case _:
            return _describe_run_event(event)


def describe_source(signal: SignalRaised) -> str:
    """Return the source of a signal; analyses that come from an imported file are named `imported signal`."""
    imported = signal.source == "analysis" and signal.analysis_id.startswith(VARIANT_PREFIX)
    return "imported signal" if imported else signal.source


def describe_failed_call(work: GraphWork) -> str:
    """Describe the model call that failed: agent, models, number of attempts and last outcome. Requires calls."""
    last = next((call for call in reversed(work.calls) if call.outcome != "answered"), work.calls[-1])
    tries = [call for call in work.calls if (call.node, call.seq) == (last.node, last.seq)]
    models = " and ".join(dict.fromkeys(call.model for call in tries))
    count = "once" if len(tries) == 1 else f"{len(tries)} times, last"
    return f"{last.node} called {models} {count}: {last.outcome.replace('_', ' ')}"


def describe_terms(order: OrderPlaced) -> str:
    """Return the role and terms of an order: `stop STOP 99.5 GTC`."""
    terms = order.terms
    prices = [str(price) for price in (terms.stop_price, terms.limit_price) if price is not None]
    ends = f"until {terms.expires_at:%Y-%m-%d %H:%M}" if terms.expires_at else ""
    return " ".join(filter(None, (order.role, terms.order_type.value, *prices, terms.time_in_force.value, ends)))


def _reference_label(fill: OrderFilled) -> str:
    """Return the kind of a fill's reference price: the open, or a price inside the bar."""
    return "open" if fill.at == fill.bar_opened_at else "inside the bar"


def _describe_run_event(event: Event) -> str:
    """Describe an event outside the books: runs, slots, imports, profiles, models and anchors."""
    match event:
        case RunRequested():
            label = f" {event.label!r}" if event.label else ""
            return f"{event.environment}{label} of {event.variant} under {event.profile}"
        case RunStarted():
            return f"{event.environment} started by engine {event.engine_version}"
        case RunEnded():
            ended = f"{event.bars} bars, {event.orders} orders, {event.fills} fills, book {event.book_digest[:16]}"
            return f"{ended}, ended early: {event.reason}" if event.reason else ended
        case RunFailed() | SlotFailed():
            return f"failed: {event.reason}"
        case AnalysisFailed():
            failed_call = (
                f" ({describe_failed_call(event.work)})" if event.work is not None and event.work.calls else ""
            )
            return f"{event.variant} failed: {event.reason}{failed_call}"
        case SignalsImported():
            return f"{event.rows} signals as {event.variant}"
        case SlotClaimed():
            return f"{event.account} {event.timeframe} claimed by {event.claimed_by}"
        case SlotCompleted():
            return "; ".join(f"{symbol} {outcome}" for symbol, outcome in event.outcomes)
        case FeedResumed():
            return f"continues after {event.after:%Y-%m-%d %H:%M}Z, bars known by {event.known_at:%Y-%m-%d %H:%M}Z"
        case ProfileSaved():
            return f"{event.kind} profile {event.name} saved, digest {event.digest[:16]}"
        case ProfileActivated():
            return f"{event.kind} profile {event.name or 'of its own'} is the default, {event.scope}"
        case ModelSaved():
            return f"model {event.name} saved, digest {event.digest[:16]}"
        case ModelActivated():
            return f"model {event.name or 'of its own'} is the default, {event.scope}"
        case AlertRaised():
            return f"{event.kind}: {event.detail}"
        case LogAdopted():
            return f"a copy of log {event.parent} became log {event.log_id}: {event.reason}"
        case AnchoringRestarted():
            return f"anchoring of log {event.log_id} restarted after position {event.position}: {event.reason}"
        case _:
            return type(event).__name__
