"""Every fact the log can hold. Complete, in the past tense, immutable.

These shapes are stored for ever: a changed shape is a new version beside the old one, never an edit; the former ones
are in `engine.core.upcasters`. Nothing in a book carries a run id or reads a clock, so that the same decisions have the
same bytes in a backtest, a paper run and a replay. Amounts are exact Decimals in the account's currency, prices in the
symbol's quote currency, `*_at` and `at` are UTC instants of the market. Numbers of analyses are decimal strings.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Literal, get_args, get_type_hints

import msgspec

from engine.core.config import RunConfig
from engine.core.market import Direction, Instrument, OrderType, SessionHours, Side, Symbol, TimeInForce
from engine.core.money import ONE, ZERO, is_exact


class Exact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Refuses instants without UTC and amounts that are not exact."""

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


class Event(Exact, frozen=True):
    """Base of all events."""


_NO_OFFSET = timedelta(0)


@cache
def _checked_fields(kind: type[Exact]) -> tuple[tuple[str, ...], tuple[str, ...]]:
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


class RunRequested(Event, frozen=True):
    """The question. `start` and `end` bound the bars by open and close; `of_run` is the run a replay regenerates.

    A run sees what the catalogue had learned of its bars by `known_at` and no later correction; all that is there where
    that is None. A paper run goes on to see more, as `FeedResumed` tells. `sessions`: of its markets that close, as
    they were known when it was asked.
    """

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
    sessions: tuple[SessionHours, ...] = ()


class RunStarted(Event, frozen=True):
    """`lock_digest` is the SHA-256 of what was installed when the run was made, empty where that is unknown."""

    run_id: str
    environment: Environment
    book_stream: str
    engine_version: str
    started_from: datetime
    lock_digest: str


class RunEnded(Event, frozen=True):
    """`book_digest` covers the book's payloads, `analyses_digest` the analyses consulted, both SHA-256.

    reason: why it ended before its bars did; empty when all of them were taken.
    """

    run_id: str
    bars: int
    signals: int
    orders: int
    fills: int
    book_events: int
    book_digest: str
    analyses_digest: str
    ended_at: datetime
    reason: str = ""


class RunFailed(Event, frozen=True):
    """The run was given up."""

    run_id: str
    reason: str


# --- Opinions: analysis:<key>, signals:<digest> -------------------------------------------------------------------


class OrderTerms(Exact, frozen=True, omit_defaults=True):
    """How an order is to be executed: prices in quote currency; `trail` is the distance of a trailing stop.

    expires_at: when a DAY or GTD order ends.
    """

    order_type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.GTC
    expires_at: datetime | None = None


AT_MARKET = OrderTerms()


class Protection(Exact, frozen=True, omit_defaults=True):
    """What an entry places beside the position it opens: a stop and a target, of which one cancels the other.

    stop, target: prices; stop_distance, target_distance, trail: distances from the market's price at the fill, for
    those whose price is not fixed before. Each may be None.
    """

    stop: Decimal | None = None
    target: Decimal | None = None
    stop_distance: Decimal | None = None
    target_distance: Decimal | None = None
    trail: Decimal | None = None


class ModelCall(Exact, frozen=True, omit_defaults=True):
    """One question to a model, and what came back: the texts are stored under their digests, beside the log.

    seq counts the questions of a node and attempt the tries of one question, both from 1. outcome: `answered`, or the
    kind of fault. response: empty where none came. cost: US dollars.
    """

    node: str
    seq: int
    attempt: int
    model: str
    outcome: str
    request: str
    response: str
    input_tokens: int
    output_tokens: int
    cost: Decimal
    latency_ms: int
    answered_by: str = ""
    system_fingerprint: str = ""


class GraphWork(Exact, frozen=True, omit_defaults=True):
    """How a graph of agents came to an opinion, or failed to. Tokens and cost are those of all its calls.

    latency_ms: from beginning to end, which is less than the sum of its nodes where these work at the same time.
    """

    preset: str
    preset_digest: str
    model_provider: str
    model_name: str
    graph_version: str
    prompt_digests: tuple[tuple[str, str], ...]
    calls: tuple[ModelCall, ...]
    input_tokens: int
    output_tokens: int
    cost: Decimal
    latency_ms: int
    fallbacks: tuple[tuple[str, str], ...] = ()
    node_latency_ms: tuple[tuple[str, int], ...] = ()
    temperature: Decimal | None = None
    seed: int | None = None
    sighted: bool = False
    artefacts: tuple[tuple[str, str], ...] = ()
    knowledge_cutoff: str = ""
    thread_id: str = ""
    checkpoint_id: str = ""
    state_snapshot: str = ""


class AnalysisMade(Event, frozen=True, omit_defaults=True):
    """One opinion on exactly the bars of one window. `reports` is the canonical JSON of the analysts' reports.

    stop, target: prices at which its position shall be given up; entry: how its order shall be executed; work: how a
    graph of agents came to it. What does not apply is left out of the stored payload.
    """

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
    stop: Decimal | None = None
    target: Decimal | None = None
    entry: OrderTerms | None = None
    work: GraphWork | None = None


class AnalysisFailed(Event, frozen=True, omit_defaults=True):
    """No opinion came of these bars; a later attempt may still make one. Who consults the failure is told HOLD.

    work: how a graph of agents failed at it. What does not apply is left out of the stored payload.
    """

    analysis_id: str
    symbol: Symbol
    timeframe: str
    as_of: datetime
    variant: str
    reason: str
    window_digest: str = ""
    work: GraphWork | None = None


AnalysisOutcome = AnalysisMade | AnalysisFailed
"""What a run consults: an opinion, or that there is none."""


class SignalsImported(Event, frozen=True):
    """A file of somebody else's signals; its rows lie in a table addressed by `digest`."""

    variant: str
    name: str
    digest: str
    rows: int
    symbols: tuple[Symbol, ...]
    first_at: datetime
    last_at: datetime


# --- The book: book:<run_id> --------------------------------------------------------------------------------------


class BookOpened(Event, frozen=True):
    """The account as a run finds it. `margin_pct`: the collateral of a short, per cent of what it was sold for."""

    at: datetime
    cash: Decimal
    currency: str
    instruments: tuple[Instrument, ...]
    config_digest: str
    margin_pct: Decimal


class AnalysesConsulted(Event, frozen=True):
    """The (analysis id, version) pairs the session read since the previous roll, in the order it read them."""

    at: datetime
    analyses: tuple[tuple[str, int], ...]


Source = Literal["analysis", "holding_time", "session_end", "margin_call", "halt", "person"]


class SignalRaised(Event, frozen=True):
    """A wish that differs from what is held. `source` says whose: an analysis, or a rule of the book's own exits."""

    signal_id: str
    symbol: Symbol
    at: datetime
    direction: Direction
    confidence: Decimal
    reference_price: Decimal
    source: Source
    analysis_id: str = ""
    analysis_version: int = 0
    horizon_bars: int | None = None
    stop: Decimal | None = None
    target: Decimal | None = None


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


class RiskDecided(Event, frozen=True):
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


Role = Literal["entry", "exit", "stop", "target", "trailing_stop", "liquidation"]


class OrderPlaced(Event, frozen=True, omit_defaults=True):
    """An order in the broker's hands. What does not apply to it is left out of the stored payload.

    closing: the part of the quantity that reduces the position; it falls away when that has gone. reserved: free cash
    set aside until the order is filled or ends. terms: how it is executed. protection: what follows its fills.
    role: what it is there for. pair: shared by orders of which one cancels the others. replaces: the order it amends.
    worst_price: the price, in quote currency and after slippage, beyond which nothing is opened; None for any.
    """

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
    worst_price: Decimal | None = None

    @property
    def is_exit(self) -> bool:
        """Whether all of it reduces the position."""
        return self.closing == self.quantity


class OrderFilled(Event, frozen=True, omit_defaults=True):
    """`reference_price` is the market's, `price` what was paid; `slippage` and `commission` are money, `notional` is
    price x quantity x multiplier x rate, with `rate` the account's currency per unit of the quote's.

    Decided at `decided_at`, filled in the bar that opened at `bar_opened_at`: at its open when `at` is the same
    instant, else somewhere inside it, which is known at its close, `at`.
    """

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
    bar_opened_at: datetime
    rate: Decimal = ONE


class OrderReplaced(Event, frozen=True):
    """The order ended because another one, judged by the same gate, took its place."""

    order_id: str
    symbol: Symbol
    at: datetime
    replaced_by: str


class OrderExpired(Event, frozen=True):
    """The order ended unfilled, or filled in part, at the end of its time in force."""

    order_id: str
    symbol: Symbol
    at: datetime


class OrderRejected(Event, frozen=True):
    """The broker's refusal: the fill would have cost more free cash than there was."""

    order_id: str
    symbol: Symbol
    at: datetime
    reason: str
    required: Decimal
    available: Decimal


class OrderCanceled(Event, frozen=True):
    """The order ended because we asked, or because the position or the pair it belonged to has gone."""

    order_id: str
    symbol: Symbol
    at: datetime
    reason: str


class CashAdjusted(Event, frozen=True):
    """Cash that moved without a fill: negative when it was paid. `symbol` is what it was paid for, if anything."""

    at: datetime
    amount: Decimal
    reason: Literal["borrow_cost"]
    symbol: Symbol = ""


class PositionsMarked(Event, frozen=True):
    """Equity at a session roll, at the end of a run, or when it decides a halt, with the prices used.

    `rates` are the prices used of the symbols that convert currencies.
    """

    at: datetime
    occasion: Literal["roll", "halt", "end"]
    equity: Decimal
    cash: Decimal
    marks: tuple[tuple[Symbol, Decimal], ...]
    rates: tuple[tuple[Symbol, Decimal], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for symbol, price in (*self.marks, *self.rates):
            if not is_exact(price):
                raise ValueError(f"PositionsMarked: the mark of {symbol} is not an exact amount: {price}")


HaltScope = Literal["entries", "everything"]


class TradingHalted(Event, frozen=True):
    """Entries stop, or everything does: stops and targets that work already stay. `actor`: a rule or a person.

    In a control stream `at` is the wall clock's instant, in a book the market's, from which it holds.
    """

    at: datetime
    scope: HaltScope
    reason: str
    actor: str


class TradingResumed(Event, frozen=True):
    """Trading goes on. `lifted` names the actors whose halts end; empty for all of them."""

    at: datetime
    reason: str
    actor: str
    lifted: tuple[str, ...] = ()


EndReason = Literal["BANKRUPT"]


class TradingEnded(Event, frozen=True):
    """The account trades no more: its orders are canceled and its positions closed, and the run ends.

    equity: what the account was worth, in its currency, at the prices that ended it; 0 or less for `BANKRUPT`.
    """

    at: datetime
    reason: EndReason
    equity: Decimal


class AlertRaised(Event, frozen=True):
    """Something a person should look at. `kind` says what, `detail` in one sentence."""

    at: datetime
    kind: str
    detail: str


# --- The scheduler: slot:<account>:<timeframe>:<due_at> -----------------------------------------------------------


class SlotClaimed(Event, frozen=True):
    """`claimed_by` names the process, so that of two that claim one slot only the first succeeds."""

    account: str
    timeframe: str
    due_at: datetime
    symbols: tuple[Symbol, ...]
    run_id: str
    claimed_by: str


class SlotCompleted(Event, frozen=True):
    """`outcomes` pairs each symbol with what came of it."""

    account: str
    due_at: datetime
    outcomes: tuple[tuple[Symbol, str], ...]


class SlotFailed(Event, frozen=True):
    """The slot was given up; a later claim tries it again."""

    account: str
    due_at: datetime
    reason: str


# --- The bars of a paper run: feed:<run_id> -----------------------------------------------------------------------


class FeedResumed(Event, frozen=True):
    """A paper run went on with what the catalogue had learned of its bars by `known_at`. Of those that opened up to
    `after` it keeps what it has seen. `sessions`: of its markets, for days that were not known before."""

    run_id: str
    after: datetime
    known_at: datetime
    sessions: tuple[SessionHours, ...] = ()


# --- Configuration: profile:<name>, model:<name> ------------------------------------------------------------------


ProfileScope = Literal["global", "backtest", "paper"]
ProfileKind = Literal["combined", "portfolio", "risk"]


class ProfileSaved(Event, frozen=True):
    """`document` is the profile's canonical JSON, `digest` its SHA-256."""

    name: str
    document: str
    digest: str
    kind: ProfileKind = "combined"


class ProfileActivated(Event, frozen=True):
    """From now on the default of an environment, or of all where it names none. An empty `name` ends that."""

    scope: ProfileScope
    kind: ProfileKind
    name: str
    digest: str


class ModelSaved(Event, frozen=True):
    """How a model is reached and asked: `document` is the preset's canonical JSON, `digest` its SHA-256. No key is
    part of it."""

    name: str
    document: str
    digest: str


class ModelActivated(Event, frozen=True):
    """From now on the preset of an environment, or of all where it names none. An empty `name` ends that."""

    scope: ProfileScope
    name: str
    digest: str


# --- The log itself: log:<log_id> ---------------------------------------------------------------------------------


class LogAdopted(Event, frozen=True):
    """A copy of a log became a log of its own: `log_id` is its new name, `parent` the one that the original keeps.

    `database` is where the copy is kept: the server's system identifier and the database's oid.
    """

    log_id: str
    parent: str
    database: str
    reason: str


class AnchoringRestarted(Event, frozen=True):
    """The file of anchors was begun again. The last anchor known by then was that of `seal`, up to `position`, with the
    chain's `hash`; 0 and empty where none was known."""

    log_id: str
    seal: int
    position: int
    hash: str
    reason: str


BookEvent = (
    BookOpened
    | AnalysesConsulted
    | SignalRaised
    | RiskDecided
    | OrderPlaced
    | OrderFilled
    | OrderRejected
    | OrderCanceled
    | OrderExpired
    | OrderReplaced
    | CashAdjusted
    | PositionsMarked
    | TradingHalted
    | TradingResumed
    | TradingEnded
)

EVENT_TYPES: tuple[type[Event], ...] = (
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
    OrderExpired,
    OrderReplaced,
    CashAdjusted,
    PositionsMarked,
    TradingHalted,
    TradingResumed,
    TradingEnded,
    AlertRaised,
    SlotClaimed,
    SlotCompleted,
    SlotFailed,
    FeedResumed,
    ProfileSaved,
    ProfileActivated,
    ModelSaved,
    ModelActivated,
    LogAdopted,
    AnchoringRestarted,
)
