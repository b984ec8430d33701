"""Every fact the log can hold. Complete, in the past tense, immutable.

These shapes are stored for ever: a changed shape is a new version beside the old one, never an edit; the last part of
this module says how. Nothing in a book carries a run id or reads a clock, so that the same decisions have the same
bytes in a backtest, a paper run and a replay. Amounts are exact Decimals in the account's currency, prices in the
symbol's quote currency, `*_at` and `at` are UTC instants of the market. Numbers of analyses are decimal strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from engine.config import RunConfig
from engine.market import Direction, Instrument, Side, Symbol
from engine.money import is_exact


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Base of all events: refuses instants without UTC and amounts that are not exact."""

    def __post_init__(self) -> None:
        kind = type(self)
        amounts, instants = _checked_fields(kind)
        for name in amounts:
            amount = getattr(self, name)
            if amount is not None and not is_exact(amount):
                raise ValueError(f"{kind.__name__}.{name} is not an exact amount: {amount}")
        for name in instants:
            at = getattr(self, name)
            # Decoded instants have this very UTC, which is quicker to see than an offset.
            if at is not None and at.tzinfo is not UTC and at.utcoffset() != _NO_OFFSET:
                raise ValueError(f"{kind.__name__}.{name} is not in UTC: {at}")


_NO_OFFSET = timedelta(0)


@cache
def _checked_fields(kind: type[Fact]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields of an event type that hold amounts, and those that hold instants, or may hold them.

    Worked out once: events are decoded by the million.
    """
    hints = get_type_hints(kind)
    held = {name: (hints[name], *get_args(hints[name])) for name in kind.__struct_fields__}
    amounts, instants = ([name for name, kinds in held.items() if each in kinds] for each in (Decimal, datetime))
    return tuple(amounts), tuple(instants)


# --- A run: run:<run_id> ------------------------------------------------------------------------------------------


class Environment(StrEnum):
    BACKTEST = "backtest"
    PAPER = "paper"
    REPLAY = "replay"


class RunRequested(Fact, frozen=True):
    """The question. `start` and `end` bound the bars by open and close; `of_run` is the run a replay regenerates."""

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


class RunStarted(Fact, frozen=True):
    """`lock_digest` is the SHA-256 of what was installed when the run was made, empty where that is unknown."""

    run_id: str
    environment: Environment
    book_stream: str
    engine_version: str
    started_from: datetime
    lock_digest: str


class RunEnded(Fact, frozen=True):
    """`book_digest` covers the book's payloads, `analyses_digest` the analyses consulted, both SHA-256."""

    run_id: str
    bars: int
    signals: int
    orders: int
    fills: int
    book_events: int
    book_digest: str
    analyses_digest: str
    ended_at: datetime


class RunFailed(Fact, frozen=True):
    """The run was given up."""

    run_id: str
    reason: str


# --- Opinions: analysis:<key>, signals:<digest> -------------------------------------------------------------------


class AnalysisMade(Fact, frozen=True):
    """One opinion on exactly the bars of one window. `reports` is the canonical JSON of the analysts' reports."""

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


class AnalysisFailed(Fact, frozen=True):
    """No opinion came of these bars; a later attempt may still make one."""

    analysis_id: str
    symbol: Symbol
    timeframe: str
    as_of: datetime
    variant: str
    reason: str


class SignalsImported(Fact, frozen=True):
    """A file of somebody else's signals; its rows lie in a table addressed by `digest`."""

    variant: str
    name: str
    digest: str
    rows: int
    symbols: tuple[Symbol, ...]
    first_at: datetime
    last_at: datetime


# --- The book: book:<run_id> --------------------------------------------------------------------------------------


class BookOpened(Fact, frozen=True):
    """The account as a run finds it."""

    at: datetime
    cash: Decimal
    currency: str
    instruments: tuple[Instrument, ...]
    config_digest: str


class AnalysesConsulted(Fact, frozen=True):
    """The (analysis id, version) pairs the session read since the previous roll, in the order it read them."""

    at: datetime
    analyses: tuple[tuple[str, int], ...]


class SignalRaised(Fact, frozen=True):
    """A wish that differs from what is held. `source` says whose: an analysis, or a rule of the book's own exits."""

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


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One rule's verdict: what it allows at most and what it saw, as text, with the unit in the rule's name."""

    rule: str
    passed: bool
    limit: str
    observed: str


class Verdict(StrEnum):
    APPROVED = "APPROVED"
    REDUCED = "REDUCED"
    DENIED = "DENIED"


class RiskDecided(Fact, frozen=True):
    """Our verdict on a signal, with every check. `quantity` is what may be ordered: 0 when denied."""

    signal_id: str
    symbol: Symbol
    at: datetime
    verdict: Verdict
    side: Side
    requested: Decimal
    quantity: Decimal
    reason: str
    checks: tuple[Check, ...]


class OrderPlaced(Fact, frozen=True):
    """`reserved` is the free cash set aside until the order is filled or ends."""

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


class OrderFilled(Fact, frozen=True):
    """`reference_price` is the market's, `price` what was paid; `slippage` and `commission` are money, `notional` is
    price x quantity x multiplier. Decided at `decided_at`, filled at `at`."""

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


class OrderRejected(Fact, frozen=True):
    """The broker's refusal: the fill would have cost more free cash than there was."""

    order_id: str
    symbol: Symbol
    at: datetime
    reason: str
    required: Decimal
    available: Decimal


class OrderCanceled(Fact, frozen=True):
    """The order ended unfilled because we asked."""

    order_id: str
    symbol: Symbol
    at: datetime
    reason: str


class PositionsMarked(Fact, frozen=True):
    """Equity at a session roll, at the end of a run, or when it decides a halt, with the prices used."""

    at: datetime
    occasion: Literal["roll", "halt", "end"]
    equity: Decimal
    cash: Decimal
    marks: tuple[tuple[Symbol, Decimal], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for symbol, price in self.marks:
            if not is_exact(price):
                raise ValueError(f"PositionsMarked: the mark of {symbol} is not an exact amount: {price}")


class TradingHalted(Fact, frozen=True):
    """Entries stop; exits stay allowed. `actor` is a rule's name or a person."""

    at: datetime
    scope: str
    reason: str
    actor: str


class TradingResumed(Fact, frozen=True):
    """Entries are allowed again."""

    at: datetime
    scope: str
    reason: str
    actor: str


# --- The scheduler: slot:<account>:<timeframe>:<due_at> -----------------------------------------------------------


class SlotClaimed(Fact, frozen=True):
    """`claimed_by` names the process, so that of two that claim one slot only the first succeeds."""

    account: str
    timeframe: str
    due_at: datetime
    symbols: tuple[Symbol, ...]
    run_id: str
    claimed_by: str


class SlotCompleted(Fact, frozen=True):
    """`outcomes` pairs each symbol with what came of it."""

    account: str
    due_at: datetime
    outcomes: tuple[tuple[Symbol, str], ...]


class SlotFailed(Fact, frozen=True):
    """The slot was given up; a later claim tries it again."""

    account: str
    due_at: datetime
    reason: str


# --- Configuration: profile:<name> --------------------------------------------------------------------------------


class ProfileSaved(Fact, frozen=True):
    """`document` is the profile's canonical JSON, `digest` its SHA-256."""

    name: str
    document: str
    digest: str


BookEvent = (
    BookOpened
    | AnalysesConsulted
    | SignalRaised
    | RiskDecided
    | OrderPlaced
    | OrderFilled
    | OrderRejected
    | OrderCanceled
    | PositionsMarked
    | TradingHalted
    | TradingResumed
)

EVENT_TYPES: tuple[type[Fact], ...] = (
    RunRequested,
    RunStarted,
    RunEnded,
    RunFailed,
    AnalysisMade,
    AnalysisFailed,
    SignalsImported,
    BookOpened,
    AnalysesConsulted,
    SignalRaised,
    RiskDecided,
    OrderPlaced,
    OrderFilled,
    OrderRejected,
    OrderCanceled,
    PositionsMarked,
    TradingHalted,
    TradingResumed,
    SlotClaimed,
    SlotCompleted,
    SlotFailed,
    ProfileSaved,
)


# --- Former shapes, and the way from each to the next -------------------------------------------------------------


class RunStartedV1(Fact, frozen=True):
    """Before a run said what was installed."""

    run_id: str
    environment: Environment
    book_stream: str
    engine_version: str
    started_from: datetime


def run_started_v2(old: RunStartedV1) -> RunStarted:
    return RunStarted(
        old.run_id, old.environment, old.book_stream, old.engine_version, old.started_from, lock_digest=""
    )


FORMER: dict[type[Fact], tuple[type[Fact], ...]] = {RunStarted: (RunStartedV1,)}
"""The shapes an event had before, oldest first: version 1, 2, ..."""

UPCASTERS: dict[type[Fact], Callable[[Any], Fact]] = {RunStartedV1: run_started_v2}
"""From each former shape to the next one. Pure: an old event reads the same for ever."""


# --- Names --------------------------------------------------------------------------------------------------------


def names(kinds: Iterable[type[Fact]]) -> tuple[str, ...]:
    """The stored names of event types, those of their former shapes included: what a reader by name must ask for."""
    return tuple(f"{kind.__name__}.v{n}" for kind in kinds for n, _ in enumerate(_shapes(kind), 1))


def _shapes(kind: type[Fact]) -> tuple[type[Fact], ...]:
    return (*FORMER.get(kind, ()), kind)


NAMES: dict[type[Fact], str] = {kind: names([kind])[-1] for kind in EVENT_TYPES}
"""Under which name an event is appended: always its newest."""

TYPES: dict[str, type[Fact]] = {
    name: shape for kind in EVENT_TYPES for name, shape in zip(names([kind]), _shapes(kind), strict=True)
}
"""Every stored name and the shape of its payload."""


def newest(fact: Fact) -> Fact:
    """The fact in today's shape of its event."""
    while (upcast := UPCASTERS.get(type(fact))) is not None:
        fact = upcast(fact)
    return fact
