"""All events of the log: immutable, complete, and named in the past tense.

The shapes are stored permanently. A changed shape is a new version; the former shapes are in `engine.core.upcasters`.
Book events carry no run id and no wall-clock time, so that the same decisions have the same bytes in a backtest, a
paper run and a replay. Amounts are exact Decimals in the account's currency, prices are in the symbol's quote currency,
`at` and `*_at` are UTC instants of market time. Numbers of analyses are decimal strings.
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
    """Base of structs that accept exact amounts and UTC instants only."""

    def __post_init__(self) -> None:
        kind = type(self)
        amounts, instants = _checked_fields(kind)
        for name in amounts:
            amount = getattr(self, name)
            if amount is not None and not is_exact(amount):
                raise ValueError(f"{kind.__name__}.{name} is not an exact amount: {amount}")
        for name in instants:
            at = getattr(self, name)
            # Decoded instants have this UTC object; the identity check is faster than computing the offset.
            if at is not None and at.tzinfo is not UTC and at.utcoffset() != _NO_OFFSET:
                raise ValueError(f"{kind.__name__}.{name} is not in UTC: {at}")


class Event(Exact, frozen=True):
    """Base of all events."""


_NO_OFFSET = timedelta(0)


@cache
def _checked_fields(kind: type[Exact]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of an event type's amount fields and instant fields, optional ones included.

    Cached, because millions of events are decoded.
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
    """The inputs of a run. `start` and `end` bound the bars by open and close; `of_run` is the run that a replay
    regenerates.

    The run uses the bars as the catalogue knew them at `known_at`, or the current bars if that is None. `FeedResumed`
    extends this for a paper run. `sessions`: the trading sessions of the markets that close, as known at the request.
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
    """Start of a run. `lock_digest` is the SHA-256 of the installed packages; empty if unknown."""

    run_id: str
    environment: Environment
    book_stream: str
    engine_version: str
    started_from: datetime
    lock_digest: str


class RunEnded(Event, frozen=True):
    """End of a run. `book_digest` covers the book's events, `analyses_digest` the consulted analyses; both SHA-256.

    reason: why the run ended before its last bar; empty if all bars were processed.
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
    """Failure of a run."""

    run_id: str
    reason: str


# --- Analyses: analysis:<key>, signals:<digest> -------------------------------------------------------------------


class OrderTerms(Exact, frozen=True, omit_defaults=True):
    """Execution terms of an order: prices in quote currency; `trail` is the distance of a trailing stop.

    expires_at: the expiry of a DAY or GTD order.
    """

    order_type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.GTC
    expires_at: datetime | None = None


AT_MARKET = OrderTerms()


class Protection(Exact, frozen=True, omit_defaults=True):
    """Protective orders placed with each fill of an entry: a stop and a target that cancel each other.

    stop, target: prices; stop_distance, target_distance, trail: distances from the market price at the fill, for
    orders without a fixed price. Each may be None.
    """

    stop: Decimal | None = None
    target: Decimal | None = None
    stop_distance: Decimal | None = None
    target_distance: Decimal | None = None
    trail: Decimal | None = None


class ModelCall(Exact, frozen=True, omit_defaults=True):
    """One model call and its response. The texts are stored under their digests, outside the log.

    seq counts the requests of a node and attempt the attempts at one request, both from 1. outcome: `answered`, or
    the kind of fault. response: empty if there was none. cost: US dollars.
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
    """Model calls and settings of a graph of agents, for a completed or failed analysis.

    Tokens and cost are totals over all calls. latency_ms: from start to end, which is less than the sum of the nodes
    where nodes run in parallel.
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
    """Analysis of the bars in one window. `reports` is the canonical JSON of the analysts' reports.

    stop, target: prices at which the position is to be closed; entry: execution terms of the order; work: the work of
    a graph of agents. Fields at their defaults are omitted from the stored payload.
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
    """Failed analysis; a later attempt may succeed. A run that consults the failure reads HOLD.

    work: the work of a graph of agents up to the failure. Fields at their defaults are omitted from the stored payload.
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
"""Outcome of an analysis, as a run consults it."""


class SignalsImported(Event, frozen=True):
    """Import of a file of external signals; its rows are in a table keyed by `digest`."""

    variant: str
    name: str
    digest: str
    rows: int
    symbols: tuple[Symbol, ...]
    first_at: datetime
    last_at: datetime


# --- The book: book:<run_id> --------------------------------------------------------------------------------------


class BookOpened(Event, frozen=True):
    """Opening of the account. `margin_pct`: the collateral of a short, as a percentage of its sale proceeds."""

    at: datetime
    cash: Decimal
    currency: str
    instruments: tuple[Instrument, ...]
    config_digest: str
    margin_pct: Decimal


class AnalysesConsulted(Event, frozen=True):
    """The (analysis id, version) pairs that the session read since the previous roll, in reading order."""

    at: datetime
    analyses: tuple[tuple[str, int], ...]


Source = Literal["analysis", "holding_time", "session_end", "margin_call", "halt", "person"]


class SignalRaised(Event, frozen=True):
    """Signal to change the position. `source`: an analysis, an exit rule of the book, or an operator."""

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
    """Result of one rule: its limit and the observed value, both as text."""

    rule: str
    passed: bool
    limit: str
    observed: str


class Verdict(StrEnum):
    APPROVED = "APPROVED"
    REDUCED = "REDUCED"
    DENIED = "DENIED"


class RiskDecided(Event, frozen=True):
    """Verdict of the risk check on a signal, with every check. `quantity` is the approved quantity, 0 when denied."""

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
    """Order submitted to the broker. Fields at their defaults are omitted from the stored payload.

    closing: the part of the quantity that reduces the position; it lapses when the position is gone. reserved: free
    cash reserved until the order is filled or ends. terms: execution terms. protection: protective orders placed with
    its fills. role: purpose of the order. pair: shared by orders that cancel each other. replaces: the order that it
    amends. worst_price: worst fill price, in quote currency and after slippage, at which it may open a position; None
    for any.
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
        """Return true if the whole quantity reduces the position."""
        return self.closing == self.quantity


class OrderFilled(Event, frozen=True, omit_defaults=True):
    """Fill of an order. `reference_price` is the market price, `price` the fill price; `slippage` and `commission` are
    amounts of money; `notional` is price x quantity x multiplier x rate, with `rate` in account currency per unit of
    the quote currency.

    The order was decided at `decided_at` and filled in the bar that opened at `bar_opened_at`: at its open if `at` is
    the same instant, otherwise inside the bar, which is known at its close, `at`.
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
    """End of an order that was replaced by another, which passed the same risk check."""

    order_id: str
    symbol: Symbol
    at: datetime
    replaced_by: str


class OrderExpired(Event, frozen=True):
    """End of an unfilled or partly filled order at the end of its time in force."""

    order_id: str
    symbol: Symbol
    at: datetime


class OrderRejected(Event, frozen=True):
    """Rejection by the broker: the fill required more free cash than was available."""

    order_id: str
    symbol: Symbol
    at: datetime
    reason: str
    required: Decimal
    available: Decimal


class OrderCanceled(Event, frozen=True):
    """Cancellation of an order: on request, or because its position was closed or its pair was filled."""

    order_id: str
    symbol: Symbol
    at: datetime
    reason: str


class CashAdjusted(Event, frozen=True):
    """Cash movement without a fill; negative if paid. `symbol`: the symbol that caused it, if any."""

    at: datetime
    amount: Decimal
    reason: Literal["borrow_cost"]
    symbol: Symbol = ""


class PositionsMarked(Event, frozen=True):
    """Equity at a session roll, at a halt by a loss limit, or at the end of a run, with the prices used.

    `rates`: the prices of the symbols that convert currencies.
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
    """Halt of entries or of all orders; stops and targets that already work stay. `actor`: a rule or an operator.

    In a control stream `at` is wall-clock time; in a book it is the market time from which the halt applies.
    """

    at: datetime
    scope: HaltScope
    reason: str
    actor: str


class TradingResumed(Event, frozen=True):
    """End of halts. `lifted` names the actors whose halts end; empty for all of them."""

    at: datetime
    reason: str
    actor: str
    lifted: tuple[str, ...] = ()


EndReason = Literal["BANKRUPT"]


class TradingEnded(Event, frozen=True):
    """End of trading: orders are canceled, positions are closed, and the run ends.

    equity: equity of the account, in its currency, at the prices that ended trading; 0 or less for `BANKRUPT`.
    """

    at: datetime
    reason: EndReason
    equity: Decimal


class AlertRaised(Event, frozen=True):
    """Alert for the operator: its kind, and the finding in one sentence."""

    at: datetime
    kind: str
    detail: str


# --- The scheduler: slot:<account>:<timeframe>:<due_at> -----------------------------------------------------------


class SlotClaimed(Event, frozen=True):
    """Claim of a slot by a process, named by `claimed_by`. Of two concurrent claims only the first succeeds."""

    account: str
    timeframe: str
    due_at: datetime
    symbols: tuple[Symbol, ...]
    run_id: str
    claimed_by: str


class SlotCompleted(Event, frozen=True):
    """Completion of a slot. `outcomes` pairs each symbol with its outcome."""

    account: str
    due_at: datetime
    outcomes: tuple[tuple[Symbol, str], ...]


class SlotFailed(Event, frozen=True):
    """Failure of a slot; a later claim retries it."""

    account: str
    due_at: datetime
    reason: str


# --- The bars of a paper run: feed:<run_id> -----------------------------------------------------------------------


class FeedResumed(Event, frozen=True):
    """Continuation of a paper run with the bars as the catalogue knew them at `known_at`.

    Bars that opened up to `after` keep their earlier values. `sessions`: trading sessions of days that were unknown
    before.
    """

    run_id: str
    after: datetime
    known_at: datetime
    sessions: tuple[SessionHours, ...] = ()


# --- Configuration: profile:<name>, model:<name> ------------------------------------------------------------------


ProfileScope = Literal["global", "backtest", "paper"]
ProfileKind = Literal["combined", "portfolio", "risk"]


class ProfileSaved(Event, frozen=True):
    """New version of a profile. `document` is its canonical JSON, `digest` the SHA-256 of that."""

    name: str
    document: str
    digest: str
    kind: ProfileKind = "combined"


class ProfileActivated(Event, frozen=True):
    """Profile set as the default of an environment, or of all environments. An empty `name` removes the default."""

    scope: ProfileScope
    kind: ProfileKind
    name: str
    digest: str


class ModelSaved(Event, frozen=True):
    """New version of a model preset. `document` is its canonical JSON, `digest` the SHA-256 of that.

    A preset contains no API key.
    """

    name: str
    document: str
    digest: str


class ModelActivated(Event, frozen=True):
    """Preset set as the default of an environment, or of all environments. An empty `name` removes the default."""

    scope: ProfileScope
    name: str
    digest: str


# --- The log itself: log:<log_id> ---------------------------------------------------------------------------------


class LogAdopted(Event, frozen=True):
    """Adoption of a copied log as an independent log: `log_id` is its new id, `parent` the id of the original.

    `database` is the location of the copy: system identifier of the server and oid of the database.
    """

    log_id: str
    parent: str
    database: str
    reason: str


class AnchoringRestarted(Event, frozen=True):
    """New start of the anchor file. The last known anchor was that of `seal`, up to `position`, with the hash `hash`;
    0 and empty if none was known."""

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
