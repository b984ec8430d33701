"""Stored names of events, their former shapes, and the upcasters from each shape to the next.

A name is `Event.vN`, never an import path. An event stored under a former name is read in its current shape; the stored
name and payload are unchanged. Upcasters are pure, so that an old event always reads the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from engine.core.config import RunConfig
from engine.core.events import (
    AT_MARKET,
    EVENT_TYPES,
    AnalysisFailed,
    AnalysisMade,
    BookOpened,
    Environment,
    Event,
    FeedResumed,
    GraphWork,
    OrderFilled,
    OrderPlaced,
    OrderTerms,
    PositionsMarked,
    ProfileSaved,
    Protection,
    Role,
    RunEnded,
    RunRequested,
    RunStarted,
    SignalRaised,
    TradingResumed,
)
from engine.core.market import Direction, Instrument, Side, Symbol
from engine.core.money import ZERO

# --- Former shapes ------------------------------------------------------------------------------------------------


class RunRequestedV1(Event, frozen=True):
    """Before order types and instrument ticks; missing settings have their values of that time."""

    run_id: str
    environment: Environment
    profile: str
    config: RunConfig
    config_digest: str
    dataset_digest: str
    variant: str
    start: datetime
    end: datetime
    label: str = ""
    of_run: str = ""


class RunRequestedV2(Event, frozen=True):
    """Before `known_at`."""

    run_id: str
    environment: Environment
    profile: str
    config: RunConfig
    config_digest: str
    dataset_digest: str
    variant: str
    start: datetime
    end: datetime
    label: str = ""
    of_run: str = ""


class RunRequestedV3(Event, frozen=True):
    """Before the trading sessions were frozen into a run."""

    run_id: str
    environment: Environment
    profile: str
    config: RunConfig
    config_digest: str
    dataset_digest: str
    variant: str
    start: datetime
    end: datetime
    label: str = ""
    of_run: str = ""
    known_at: datetime | None = None


class RunStartedV1(Event, frozen=True):
    """Before `lock_digest`."""

    run_id: str
    environment: Environment
    book_stream: str
    engine_version: str
    started_from: datetime


class RunEndedV1(Event, frozen=True):
    """Before a run could end early."""

    run_id: str
    bars: int
    signals: int
    orders: int
    fills: int
    book_events: int
    book_digest: str
    analyses_digest: str
    ended_at: datetime


class AnalysisMadeV1(Event, frozen=True):
    """Before an analysis could set prices."""

    analysis_id: str
    symbol: Symbol
    timeframe: str
    as_of: datetime
    variant: str
    decision: Direction
    confidence: Decimal
    horizon_bars: int | None
    risk_reward: Decimal | None
    reports: str
    window_digest: str
    window_bars: int
    agent_version: str
    graph_version: str = ""
    model_provider: str = ""
    model_name: str = ""
    temperature: Decimal | None = None
    thread_id: str = ""
    checkpoint_id: str = ""
    state_snapshot: str = ""


class AnalysisMadeV2(Event, frozen=True):
    """Before the model calls of a graph were recorded."""

    analysis_id: str
    symbol: Symbol
    timeframe: str
    as_of: datetime
    variant: str
    decision: Direction
    confidence: Decimal
    horizon_bars: int | None
    risk_reward: Decimal | None
    reports: str
    window_digest: str
    window_bars: int
    agent_version: str
    graph_version: str = ""
    model_provider: str = ""
    model_name: str = ""
    temperature: Decimal | None = None
    thread_id: str = ""
    checkpoint_id: str = ""
    state_snapshot: str = ""
    stop: Decimal | None = None
    target: Decimal | None = None
    entry: OrderTerms | None = None


class AnalysisFailedV1(Event, frozen=True):
    """Before a failure recorded its work."""

    analysis_id: str
    symbol: Symbol
    timeframe: str
    as_of: datetime
    variant: str
    reason: str


class BookOpenedV1(Event, frozen=True):
    """Before `margin_pct`, when the collateral of a short was always 100 percent."""

    at: datetime
    cash: Decimal
    currency: str
    instruments: tuple[Instrument, ...]
    config_digest: str


class SignalRaisedV1(Event, frozen=True):
    """Before a signal could set prices."""

    signal_id: str
    symbol: Symbol
    at: datetime
    direction: Direction
    confidence: Decimal
    reference_price: Decimal
    source: Literal["analysis", "holding_time"]
    analysis_id: str = ""
    analysis_version: int = 0
    horizon_bars: int | None = None


class OrderPlacedV1(Event, frozen=True):
    """Before order types, when every order was a market order."""

    order_id: str
    signal_id: str
    analysis_id: str
    symbol: Symbol
    at: datetime
    side: Side
    order_type: Literal["MARKET"]
    quantity: Decimal
    reference_price: Decimal
    reserved: Decimal
    holding_bars: int | None = None


class OrderPlacedV2(Event, frozen=True, omit_defaults=True):
    """Before `worst_price`."""

    order_id: str
    signal_id: str
    analysis_id: str
    symbol: Symbol
    at: datetime
    side: Side
    quantity: Decimal
    reference_price: Decimal
    reserved: Decimal
    closing: Decimal = ZERO
    holding_bars: int | None = None
    role: Role = "entry"
    terms: OrderTerms = AT_MARKET
    protection: Protection | None = None
    pair: str = ""
    replaces: str = ""


class OrderFilledV1(Event, frozen=True):
    """Before fills inside a bar and fills in other currencies."""

    order_id: str
    symbol: Symbol
    decided_at: datetime
    at: datetime
    side: Side
    quantity: Decimal
    price: Decimal
    reference_price: Decimal
    notional: Decimal
    slippage: Decimal
    commission: Decimal


class FeedResumedV1(Event, frozen=True):
    """Before further sessions were added on continuation."""

    run_id: str
    after: datetime
    known_at: datetime


class PositionsMarkedV1(Event, frozen=True):
    """Before currency conversion."""

    at: datetime
    occasion: Literal["roll", "halt", "end"]
    equity: Decimal
    cash: Decimal
    marks: tuple[tuple[Symbol, Decimal], ...]


class TradingResumedV1(Event, frozen=True):
    """Before several halts could be in force."""

    at: datetime
    scope: str
    reason: str
    actor: str


class ProfileSavedV1(Event, frozen=True):
    """Before profiles could cover a part of the configuration."""

    name: str
    document: str
    digest: str


# --- Upcasters ----------------------------------------------------------------------------------------------------


def _fields(old: Event) -> dict[str, Any]:
    return {name: getattr(old, name) for name in old.__struct_fields__}


def run_started_v2(old: RunStartedV1) -> RunStarted:
    return RunStarted(**_fields(old), lock_digest="")


def analysis_made_v3(old: AnalysisMadeV2) -> AnalysisMade:
    """Move the model fields into `work`; the model calls were not recorded."""
    fields = _fields(old)
    model_fields = {name: fields.pop(name) for name in _MODEL_FIELDS}
    if not any(value or value == 0 for value in model_fields.values()):
        return AnalysisMade(**fields)
    unknown = {"preset": "", "preset_digest": "", "prompt_digests": (), "calls": ()}
    work = GraphWork(**unknown, **model_fields, input_tokens=0, output_tokens=0, cost=Decimal(0), latency_ms=0)
    return AnalysisMade(**fields, work=work)


_MODEL_FIELDS = (
    "graph_version",
    "model_provider",
    "model_name",
    "temperature",
    "thread_id",
    "checkpoint_id",
    "state_snapshot",
)


def book_opened_v2(old: BookOpenedV1) -> BookOpened:
    return BookOpened(**_fields(old), margin_pct=Decimal(100))


def order_placed_v2(old: OrderPlacedV1) -> OrderPlacedV2:
    """Derive the role: only entries reserved cash. The closing part of a reversal was not recorded."""
    fields = _fields(old)
    del fields["order_type"]
    exits = old.reserved == 0 and old.holding_bars is None
    return OrderPlacedV2(**fields, closing=old.quantity if exits else ZERO, role="exit" if exits else "entry")


def order_filled_v2(old: OrderFilledV1) -> OrderFilled:
    return OrderFilled(**_fields(old), bar_opened_at=old.at)


def trading_resumed_v2(old: TradingResumedV1) -> TradingResumed:
    return TradingResumed(old.at, old.reason, old.actor)


FORMER_SHAPES: dict[type[Event], tuple[type[Event], ...]] = {
    RunRequested: (RunRequestedV1, RunRequestedV2, RunRequestedV3),
    FeedResumed: (FeedResumedV1,),
    RunStarted: (RunStartedV1,),
    RunEnded: (RunEndedV1,),
    AnalysisMade: (AnalysisMadeV1, AnalysisMadeV2),
    AnalysisFailed: (AnalysisFailedV1,),
    BookOpened: (BookOpenedV1,),
    SignalRaised: (SignalRaisedV1,),
    OrderPlaced: (OrderPlacedV1, OrderPlacedV2),
    OrderFilled: (OrderFilledV1,),
    PositionsMarked: (PositionsMarkedV1,),
    TradingResumed: (TradingResumedV1,),
    ProfileSaved: (ProfileSavedV1,),
}
"""Former shapes of each event, oldest first: version 1, 2, ..."""

UPCASTERS: dict[type[Event], Callable[[Any], Event]] = {
    RunRequestedV1: lambda old: RunRequestedV2(**_fields(old)),
    RunRequestedV2: lambda old: RunRequestedV3(**_fields(old)),
    RunRequestedV3: lambda old: RunRequested(**_fields(old)),
    FeedResumedV1: lambda old: FeedResumed(**_fields(old)),
    RunStartedV1: run_started_v2,
    RunEndedV1: lambda old: RunEnded(**_fields(old)),
    AnalysisMadeV1: lambda old: AnalysisMadeV2(**_fields(old)),
    AnalysisMadeV2: analysis_made_v3,
    AnalysisFailedV1: lambda old: AnalysisFailed(**_fields(old)),
    BookOpenedV1: book_opened_v2,
    SignalRaisedV1: lambda old: SignalRaised(**_fields(old)),
    OrderPlacedV1: order_placed_v2,
    OrderPlacedV2: lambda old: OrderPlaced(**_fields(old)),
    OrderFilledV1: order_filled_v2,
    PositionsMarkedV1: lambda old: PositionsMarked(**_fields(old)),
    TradingResumedV1: trading_resumed_v2,
    ProfileSavedV1: lambda old: ProfileSaved(**_fields(old)),
}
"""Upcaster of each former shape to the next. The defaults of added fields equal the earlier behavior."""


# --- Names --------------------------------------------------------------------------------------------------------


def event_names(event_types: Iterable[type[Event]]) -> tuple[str, ...]:
    """Return the stored names of event types, including former shapes; readers filter by these names."""
    return tuple(f"{kind.__name__}.v{n}" for kind in event_types for n, _ in enumerate(_shapes(kind), 1))


def _shapes(kind: type[Event]) -> tuple[type[Event], ...]:
    return (*FORMER_SHAPES.get(kind, ()), kind)


NAMES: dict[type[Event], str] = {kind: event_names([kind])[-1] for kind in EVENT_TYPES}
"""Name under which an event is appended: its latest."""

TYPES: dict[str, type[Event]] = {
    name: shape for kind in EVENT_TYPES for name, shape in zip(event_names([kind]), _shapes(kind), strict=True)
}
"""Every stored name and the shape of its payload."""


def upcast(event: Event) -> Event:
    """Return the event in its current shape."""
    while (upcaster := UPCASTERS.get(type(event))) is not None:
        event = upcaster(event)
    return event
